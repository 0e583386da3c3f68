"""A run as one moving picture: its videos side by side, or its pictures in turn."""

from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image

from ..media import video
from .strip import sheet

TURN = 1.0  # seconds that each of several pictures is shown
WIDEST = 1600  # px
TEXT = ExifTags.Base.UserComment  # where A1111 and others look for settings
OF_TEXT = b"UNICODE\0"


Done = list[tuple[dict, Path]]  # a cell of the bench, and its PNG; of a video the middle frame


def frames(done: Done, title: str) -> Iterator[Image.Image]:
    """All frames, of one size with even sides."""
    cells = [cell for cell, _ in done]
    if all_films(done):
        shots = zip(*(video.decode(Path(cell["video"]["path"])) for cell in cells), strict=False)
        sheets = (sheet(cells, list(shot), title) for shot in shots)
    else:
        drawn = [sheet([cell], [Image.open(picture)], title) for cell, picture in done]
        tallest = max(one.height for one in drawn)
        sheets = (on_paper(one, one.width, tallest) for one in drawn)
    for one in sheets:
        one.thumbnail((WIDEST, WIDEST))
        yield on_paper(one, one.width + one.width % 2, one.height + one.height % 2)


def all_films(done: Done) -> bool:
    return all(cell["video"] for cell, _ in done)


def on_paper(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    paper = Image.new("RGB", (width, height), "white")
    paper.paste(image, (0, 0))
    return paper


def save_webp(done: Done, title: str, fps: int, text: str, path: Path) -> None:
    """An animated WebP, for ever in a loop. text: the settings, which EXIF carries."""
    first, *others = frames(done, title)
    exif = Image.Exif()
    if text:
        exif.get_ifd(ExifTags.IFD.Exif)[TEXT] = OF_TEXT + text.encode("utf-16-be")
    first.save(
        path,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / fps if all_films(done) else 1000 * TURN),
        loop=0,
        quality=90,
        method=2,
        exif=exif,
    )


def save_mp4(done: Done, title: str, fps: int, tags: dict[str, str], path: Path) -> None:
    """The same as H.264; a picture stays for as many frames as it is shown."""
    each = 1 if all_films(done) else round(TURN * fps)
    shown = [one for one in frames(done, title) for _ in range(each)]
    path.write_bytes(video.encode(shown, fps, tags))
