"""Text on pictures, in the font that comes with Pillow."""

import bisect
import functools

from PIL import Image, ImageDraw, ImageFont

INK, PALE, PAPER = "#1c1d1f", "#5b5e64", "#ffffff"
# signs that the font lacks
LACKING = str.maketrans({"×": "x", "→": "->", "↓": "(down),", "−": "-", "φ": "phi"})


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """`size` in px."""
    return ImageFont.load_default(size)


@functools.lru_cache(256)  # a film's every frame has the same
def fit(text: str, width: int, size: int) -> str:
    """`text` without the signs that the font lacks, cut to `width` px."""
    text, measure = text.translate(LACKING), font(size).getlength
    if measure(text) <= width:
        return text

    def cut(length: int) -> str:
        return text[:length].rstrip() + "…"

    # halved again and again: a text of thousands of letters is measured a dozen times
    fitting = bisect.bisect_right(range(1, len(text)), width, key=lambda n: measure(cut(n)))
    return cut(max(1, fitting))


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
