"""A run as files that can be sent: a strip, everything in a ZIP, one page that works offline, an
animation; and its settings as a preset.

All are made of what the bench was told and of the finished files, so that they can be made later.
"""

import base64
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import preset_text, private
from ..engine.reuse import LeastRecentlyUsed
from ..engine.run import Run
from ..errors import Refused
from ..media import metadata, video
from ..presets import resolve
from . import cells, moving
from .controls import INPUTS, PRESETS
from .files import FOLDER, KEEP, file_data
from .painting import Painting, Shown
from .report import filled
from .strip import headline, sheet

GONE = "This run is no longer kept: compare again, and its files can be made."


class Keeper:
    """The last runs of all visitors, by their numbers, which only their own pages know."""

    def __init__(self) -> None:
        self.runs = LeastRecentlyUsed(256, 256 * 2**20, KEEP)

    def put(self, shown: Shown) -> None:
        if shown.bench["over"]:
            size = len(json.dumps(shown.bench, default=str))
            self.runs.put(shown.bench["run"], shown, size)

    def answer(self, event: gr.EventData) -> dict:
        """The event carries {"run", "kind"}, for a preset {"set": settings}, and {"bare": true}
        where pictures are to carry no settings -> {"file": FileData, "name", "at"} for the browser.

        Raises `Refused` where the run, or one of its files, is no longer there.
        """
        data = private.event_data(event)
        run, kind = (str(data.get(name)) for name in ("run", "kind"))
        if kind == "preset":
            path, name = self.preset(data.get("set") or {}, run)
        else:
            path, name = self.make(run, kind, bool(data.get("bare")))
        kept = file_data(path, "application/octet-stream")
        return {"file": kept, "name": name, "at": time.time()}

    def make(self, run: str, kind: str, bare: bool = False) -> tuple[Path, str]:
        """A file of a run, and the name for it. kind: out of `WRITERS`. bare: its pictures and
        videos carry no settings. Raises `Refused`."""
        if kind not in WRITERS:
            raise Refused(f"A run can be kept as {', '.join(WRITERS)}, not as {kind[:20]!r}.")
        shown = self.runs.get(run)
        if shown is None:
            raise Refused(GONE)
        ending, write = WRITERS[kind]
        name = f"{run}-{kind}{'-bare' * bare}.{ending}"
        path = FOLDER.write(name, written(write, shown, bare))
        return path, f"{finished(shown)[0][0]['file'].rpartition('_')[0]}.{ending}"

    def preset(self, settings: dict, run: str = "") -> tuple[Path, str]:
        """A preset file with these settings. What a run with them showed is what to look for."""
        kept = {name: value for name, value in settings.items() if name in INPUTS}
        preset, request = resolve(kept, PRESETS)
        shown, seen = self.runs.get(run), ""
        asked = request.model_dump(mode="json", exclude={"fresh", "batched"})
        if shown and shown.bench["request"] == asked and shown.bench["verdict"]:
            seen = shown.bench["verdict"]["head"]
        name = f"{preset_text.name_of(preset, request)}.json"
        text = preset_text.text_of(preset, request, seen)
        file = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-preset.json"
        return FOLDER.write(file, lambda path: path.write_text(text, encoding="utf-8")), name


def send(run: Run, kinds: Iterable[str], folder: Path) -> list[Path]:
    """Writes a finished run as compare.zip, compare.html and so on. -> the files."""
    painting = Painting(run.preset, run.request, run.id)
    painting.update(run, None)
    shown, made = painting.shown(None), []
    for kind in kinds:
        ending, write = WRITERS[kind]
        made.append(folder / f"compare.{ending}")
        write(shown, made[-1])
    return made


def written(write: Callable, shown: Shown, bare: bool = False) -> Callable[[Path], None]:
    """`write(shown, file, bare)` for a path; files that are gone become a sentence."""

    def content(path: Path) -> None:
        try:
            write(shown, path, bare)
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


def titled(shown: Shown) -> str:
    return headline(shown.bench["request"], shown.bench["title"])


def labelled(shown: Shown) -> tuple:
    """What a picture of all columns is labelled with: the settings of the last column."""
    preset, request = resolve(shown.bench["request"], PRESETS)
    known = preset.model_copy(update={"model": shown.run["model"]})
    return known, request, finished(shown)[-1][0]["key"]


def save_strip(shown: Shown, path: Path | io.BytesIO, bare: bool = False) -> None:
    done = finished(shown)
    pictures = [Image.open(picture) for _, picture in done]
    drawn = sheet([one for one, _ in done], pictures, titled(shown))
    drawn.save(path, "PNG", pnginfo=None if bare else metadata.png_info(*labelled(shown)))


def save_webp(shown: Shown, path: Path, bare: bool = False) -> None:
    text = "" if bare else metadata.texts(*labelled(shown))["parameters"]
    moving.save_webp(finished(shown), titled(shown), shown.bench["fps"], text, path)


def save_mp4(shown: Shown, path: Path, bare: bool = False) -> None:
    tags = {} if bare else metadata.video_tags(*labelled(shown))
    moving.save_mp4(finished(shown), titled(shown), shown.bench["fps"], tags, path)


def save_zip(shown: Shown, path: Path, bare: bool = False) -> None:
    """Pictures, videos, the strip and run.json."""
    buffer = io.BytesIO()
    save_strip(shown, buffer, bare)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell, picture in finished(shown):
            bytes_ = picture.read_bytes()
            archive.writestr(f"{cell['file']}.png", _without_texts(bytes_) if bare else bytes_)
            if cell["video"]:
                film = Path(cell["video"]["path"]).read_bytes()
                archive.writestr(f"{cell['file']}.mp4", video.without_tags(film) if bare else film)
        archive.writestr("strip.png", buffer.getvalue())
        archive.writestr("run.json", json.dumps(shown.run, indent=1, ensure_ascii=False))


def _without_texts(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "PNG", compress_level=1, pnginfo=PngInfo())
    return buffer.getvalue()


def save_report(shown: Shown, path: Path, bare: bool = False) -> None:
    """The page of `report`; it shows its settings, so that `bare` changes nothing."""
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
    sheet = (cells.ASSETS / "bench" / "bench.css").read_text("utf-8")
    return filled("bench", told, CSS=sheet, HTML=cells.bench_html(), JS=cells.bench_script())


# kind -> how its file ends, and what writes it
WRITERS = {
    "strip": ("png", save_strip),
    "zip": ("zip", save_zip),
    "html": ("html", save_report),
    "webp": ("webp", save_webp),
    "mp4": ("mp4", save_mp4),
}
