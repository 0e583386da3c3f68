"""`python -m nag.page.samples [PRESET ...]`: what the page shows before anything was run.

To be drawn anew when the weights or settings of a pocket preset change.
"""

import argparse
import json

from .. import presets
from ..engine.engine import Engine
from . import cells

SAMPLED = "pocket-portrait", "pocket-joint", "pocket-joint-teacher", "pocket-video"


def draw(preset: str) -> None:
    """A run at the preset's own settings, by the weights that ship -> assets/results/<preset>."""
    *_, (run, _, _) = Engine().run(*presets.resolve({"preset": preset, "fresh": True}))
    for column in run.columns:
        column.seconds = 0  # a sample says what it costs, not how busy a machine was
    folder = cells.ASSETS / "results" / preset
    folder.mkdir(parents=True, exist_ok=True)
    for column in run.columns:
        column.image.save(folder / f"{column.key}.png", optimize=True)
        if column.video:
            (folder / f"{column.key}.mp4").write_bytes(column.video)
    shown = cells.value(run, {}, {})
    for name in (*cells.about(run.preset), "run", "link", "device"):
        shown.pop(name)  # what the page knows of a preset, or of a run
    text = json.dumps(shown, indent=1, ensure_ascii=False) + "\n"
    (folder / "bench.json").write_text(text, encoding="utf-8")
    print(shown["hint"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m nag.page.samples", description=__doc__)
    parser.add_argument("preset", nargs="*", default=SAMPLED)
    for name in parser.parse_args().preset:
        draw(name)
