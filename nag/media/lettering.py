"""Text on pictures, in the font that comes with Pillow."""

import functools

from PIL import Image, ImageDraw, ImageFont

INK, PALE, PAPER = "#1c1d1f", "#5b5e64", "#ffffff"
# signs that the font lacks
LACKING = str.maketrans({"×": "x", "→": "->", "↓": "(down),", "−": "-", "φ": "phi"})


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """`size` in px."""
    return ImageFont.load_default(size)


def fit(text: str, width: int, size: int) -> str:
    """`text` without the signs that the font lacks, cut to `width` px."""
    text = text.translate(LACKING)
    while font(size).getlength(text) > width and len(text) > 2:
        text = text[:-2].rstrip() + "…"
    return text


def wrap(text: str, width: int, size: int) -> list[str]:
    """`text` in lines of at most `width` px; a single longer word is cut."""
    lines: list[str] = []
    for word in text.translate(LACKING).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(fit(word, width, size))
    return lines


def write(
    sheet: Image.Image,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: str = INK,
    anchor: str = "la",
) -> None:
    """Text at a point of a picture; anchor as in Pillow."""
    ImageDraw.Draw(sheet).text(at, text.translate(LACKING), colour, font(size), anchor)
