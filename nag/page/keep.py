"""A run as files that can be sent: a strip, everything in a ZIP, one page that works offline.

All are made of what the bench was told and of the finished files, so that they can be made later.
"""

import base64
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from ..engine.reuse import LeastRecentlyUsed
from ..errors import Refused
from . import cells
from .files import FOLDER, KEEP, file_data
from .painting import Shown
from .strip import sheet

GONE = "This run is no longer kept: compare again, and its files can be made."
KINDS = {"strip": "png", "zip": "zip", "html": "html"}


class Keeper:
    """The last runs of all visitors, by their numbers, which only their own pages know."""

    def __init__(self) -> None:
        self.runs = LeastRecentlyUsed(256, 256 * 2**20, KEEP)

    def put(self, shown: Shown) -> None:
        if shown.bench["over"]:
            size = len(json.dumps(shown.bench, default=str))
            self.runs.put(shown.bench["run"], shown, size)

    def answer(self, event: gr.EventData) -> dict:
        """The event carries {"run", "kind"} -> {"file": FileData, "name", "at"} for the browser.

        Raises `Refused` where the run, or one of its files, is no longer there.
        """
        run, kind = (str((event._data or {}).get(name)) for name in ("run", "kind"))
        shown = self.runs.get(run)
        if shown is None or kind not in KINDS:
            raise Refused(GONE)
        write = {"strip": save_strip, "zip": save_zip, "html": save_report}[kind]
        path = FOLDER.write(f"{run}-{kind}.{KINDS[kind]}", written(write, shown))
        first = finished(shown)[0][0]["file"].rpartition("_")[0]
        return {
            "file": file_data(path, "application/octet-stream"),
            "name": f"{first}.{KINDS[kind]}",
            "at": time.time(),
        }


def written(write: Callable, shown: Shown) -> Callable[[Path], None]:
    """`write(shown, file)` for a path; files that are gone become a sentence."""

    def content(path: Path) -> None:
        try:
            write(shown, path)
        except FileNotFoundError:
            raise Refused(GONE) from None

    return content


def finished(shown: Shown) -> list[tuple[dict, Path]]:
    """(cell, its PNG) of every finished column. Raises `Refused` where there is none."""
    cells_ = shown.bench["cells"]
    done = [(one, Path(one["image"]["path"])) for one in cells_ if one["image"]]
    if not done:
        raise Refused("No column of this run was finished, so there is nothing to keep.")
    return done


def save_strip(shown: Shown, path: Path) -> None:
    from PIL import Image

    done = finished(shown)
    request, title = shown.bench["request"], shown.bench["title"]
    words = f"“{request['prompt']}” not “{request['negative_prompt']}”"
    pictures = [Image.open(picture) for _, picture in done]
    drawn = sheet([one for one, _ in done], pictures, f"{title}, seed {request['seed']}: {words}")
    drawn.save(path, "PNG")


def save_zip(shown: Shown, path: Path) -> None:
    """Pictures, videos, the strip and run.json."""
    buffer = io.BytesIO()
    save_strip(shown, buffer)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell, picture in finished(shown):
            archive.write(picture, f"{cell['file']}.png")
            if cell["video"]:
                archive.write(cell["video"]["path"], f"{cell['file']}.mp4")
        archive.writestr("strip.png", buffer.getvalue())
        archive.writestr("run.json", json.dumps(shown.run, indent=1, ensure_ascii=False))


def save_report(shown: Shown, path: Path) -> None:
    path.write_text(report(shown), encoding="utf-8")


def report(shown: Shown) -> str:
    """One HTML page with the bench in it, that asks nothing of any server."""
    told = json.loads(json.dumps(shown.bench, default=str))
    for cell in told["cells"]:
        for kind, mime in (("image", "image/png"), ("video", "video/mp4")):
            if cell[kind]:
                data = base64.b64encode(Path(cell[kind]["path"]).read_bytes()).decode()
                cell[kind] = {"url": f"data:{mime};base64,{data}"}
    told |= {"chips": [], "card": None, "offline": True}
    assets = cells.ASSETS
    page = (assets / "bench" / "report.html").read_text("utf-8")
    parts = {
        "TOKENS": (assets / "page" / "tokens.css").read_text("utf-8"),
        "BENCH_CSS": (assets / "bench" / "bench.css").read_text("utf-8"),
        "BENCH_HTML": cells.bench_html(),
        "BENCH_JS": cells.bench_script(),
        # no text of a visitor can end the script element that carries it
        "VALUE": json.dumps(told).replace("<", "\\u003c"),
    }
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text, 1)
    return page
