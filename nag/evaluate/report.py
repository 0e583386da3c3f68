"""What was measured, as JSON, a Markdown table, plots and a contact sheet."""

import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from . import draw
from .plan import Column, Picture
from .plots import plots
from .table import table

SHEET_ROWS, SHEET_PICTURES, SHEET_SIDE = 40, 8, 128
MATPLOTLIB = (
    "The plots need matplotlib: pip install '.[evaluate]' and run this again; nothing is drawn "
    "anew."
)


def write(
    folder: Path,
    columns: list[Column],
    results: dict,
    paths: dict[str, list[Path]],
    pictures: list[Picture],
) -> list[str]:
    """Everything but the pictures themselves. Returns sentences about what could not be written."""
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "table.md").write_text(table(results), encoding="utf-8")
    sheet(columns, results["columns"], paths, pictures).save(folder / "sheet.png", optimize=True)
    try:
        plots(folder / "plots", columns, results["columns"], results.get("chance", {}))
    except ImportError:
        return [MATPLOTLIB]
    return []


Plain = dict | list | tuple | str | float | bool | None


def rounded(value: Plain) -> Plain:
    """Numbers with five digits, in whatever holds them."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def sheet(
    columns: list[Column],
    numbers: dict[str, dict],
    paths: dict[str, list[Path]],
    pictures: list[Picture],
) -> Image.Image:
    """A line for every column, the first eight pictures in it; of a video its middle frame."""
    side, margin, head = SHEET_SIDE, 170, 40
    shown = columns[:SHEET_ROWS]
    image = Image.new("RGB", (margin + SHEET_PICTURES * side, head + len(shown) * side), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(13), ImageFont.load_default(11)
    for x, picture in enumerate(pictures[:SHEET_PICTURES]):
        words = textwrap.shorten(
            picture.prompt.removeprefix("portrait of "), 22, placeholder=" ..."
        )
        negative = textwrap.shorten(picture.negative, 20, placeholder=" ...")
        pen.multiline_text(
            (margin + x * side + 4, 6), f"{words}\nnot: {negative}", "#1e293b", small, spacing=3
        )
    for y, column in enumerate(shown):
        lines = textwrap.wrap(column.key, 22)
        if "attribute_rate" in numbers[column.key]:
            lines.append(f"{numbers[column.key]['attribute_rate']:.0%} left")
        pen.multiline_text((8, head + y * side + 8), "\n".join(lines), "#1e293b", font, spacing=5)
        for x, path in enumerate(paths[column.key][:SHEET_PICTURES]):
            frames, _ = draw.read(path)
            thumb = frames[len(frames) // 2]
            thumb.thumbnail((side, side))
            image.paste(thumb, (margin + x * side, head + y * side))
    return image
