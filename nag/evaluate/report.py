"""What was measured, as JSON, a Markdown table, plots and a contact sheet."""

import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..methods import METHODS
from . import draw
from .plan import Column, Picture
from .plots import plots
from .step_plots import by_steps
from .table import table

SHEET_ROWS, SHEET_PICTURES, SHEET_SIDE, SHEET_ALL = 40, 8, 128, 32
IN_ORDER = "none", "cfg", "nag"
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
    in_order(columns, paths, pictures).save(folder / "in_order.png", optimize=True)
    try:
        plots(folder / "plots", columns, results["columns"], results.get("chance", {}))
        by_steps(folder / "plots", columns, results["columns"])
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


def shown_in_order(columns: list[Column]) -> list[Column]:
    """No guidance, CFG and NAG, each as near to its preset's own strength as there is a column."""
    chosen = []
    for kind in IN_ORDER:
        found = [column for column in columns if column.guidance == kind and not column.ablation]
        chosen += sorted(found, key=lambda column: column.strangeness)[:1]
    return chosen or columns[:3]


def in_order(
    columns: list[Column], paths: dict[str, list[Path]], pictures: list[Picture]
) -> Image.Image:
    """The first 32 pictures, whatever they show, in three columns: eight beside one another, and
    below each what the other columns made of it."""
    shown, side = shown_in_order(columns), SHEET_SIDE
    count = min(SHEET_ALL, len(pictures))
    bands, margin, head = -(-count // SHEET_PICTURES), 80, 34
    height = head + len(shown) * side + 10
    image = Image.new("RGB", (margin + SHEET_PICTURES * side, bands * height), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(13), ImageFont.load_default(11)
    for number, picture in enumerate(pictures[:count]):
        x, y = margin + number % SHEET_PICTURES * side, number // SHEET_PICTURES * height
        words = textwrap.shorten(
            picture.prompt.removeprefix("portrait of "), 20, placeholder=" ..."
        )
        negative = textwrap.shorten(picture.negative, 16, placeholder=" ...")
        pen.multiline_text((x + 4, y + 3), f"{words}\nnot: {negative}", "#1e293b", small, spacing=2)
        for row, column in enumerate(shown):
            frames, _ = draw.read(paths[column.key][number])
            thumb = frames[len(frames) // 2]
            thumb.thumbnail((side, side))
            image.paste(thumb, (x, y + head + row * side))
            if not number % SHEET_PICTURES:
                name = METHODS[column.guidance].name.replace(" ", "\n")
                scale = "" if column.scale is None else f"\n{column.scale:g}"
                pen.multiline_text((6, y + head + row * side + 8), name + scale, "#1e293b", font)
    return image
