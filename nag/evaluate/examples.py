"""Finds a seed for each example of a preset that shows what NAG does, by the preset's own meter.

python -m nag.evaluate.examples pocket-portrait
"""

import sys

from .. import presets
from ..engine.engine import Engine
from ..media.outcome import outcome
from ..presets import Preset, PromptPair

SURE = 0.9  # how sure the meter must be that the thing is there without guidance
CHANGED = 1  # attributes that may change beyond what was asked


def shows_the_point(engine: Engine, preset: Preset, pair: PromptPair, seed: int) -> tuple:
    """-> (points, what was seen): 0 where the example fails, more where CFG leaves the thing and
    less else is changed."""
    asked = {
        "preset": preset.name,
        "prompt": pair.prompt,
        "negative_prompt": pair.negative_prompt,
        "seed": seed,
    }
    *_, (run, _, _) = engine.run(*presets.resolve(asked))
    meter, done = engine.shelf.get(preset).meter, {c.key: c for c in run.columns}
    named = meter.named_in(pair.negative_prompt)
    read = dict(zip(done, meter.read([c.frames or c.image for c in done.values()]), strict=True))
    there = all(read["none"][name][value] >= SURE for name, value in named)
    nag, cfg = (outcome(read["none"], read[key], named) for key in ("nag", "cfg"))
    if not there or nag.kind != "gone" or nag.share > 1 - SURE or len(nag.changed) > CHANGED:
        return 0, nag
    return 1 + 2 * (cfg.kind == "left") + (not nag.changed), nag


def best_seed(engine: Engine, preset: Preset, pair: PromptPair, tries: int = 12) -> int | None:
    """The first seed of the highest points, or None where none of them shows the point."""
    found = {}
    for seed in range(tries):
        points, _ = shows_the_point(engine, preset, pair, seed)
        found.setdefault(points, seed)
        if points == 4:
            break
    best = max(found)
    return found[best] if best else None


def main(names: list[str]) -> None:
    engine = Engine(previews=False)
    for name in names or ["pocket-portrait"]:
        preset = presets.load_all()[name]
        for pair in preset.prompts:
            seed = best_seed(engine, preset, pair)
            print(f"{name}: {pair.prompt!r} without {pair.negative_prompt!r}: {seed}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
