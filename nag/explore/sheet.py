"""A grid as one picture that can be read without the page: title, heads, what was read, legend."""

from PIL import Image

from ..media.lettering import INK, PALE, PAPER, fit, font, wrap, write
from ..media.outcome import Outcome
from .grid import Grid, Picture
from .reading import Readings

SIDE = 192  # px; smaller pictures are enlarged by a whole factor
WORDS = {"gone": "gone", "replaced": "{instead} instead", "left": "left", "absent": "never there"}
COLOURS = {"gone": "#0b6b45", "replaced": "#7a5200", "left": "#b3261e", "absent": PALE}


def sheet(grid: Grid, readings: Readings, corner: str = "") -> Image.Image:
    """corner: what the heads are, such as "scale down, alpha across". Missing cells stay empty.

    Letters grow with the pictures, so that a sheet of large pictures can be read when it is shrunk.
    """
    width, height = size_of_cell(grid)
    letter = max(13, round(min(width, height) / 13))
    gap, line = letter // 2, round(letter * 1.5)
    side = max(
        [font(letter).getlength(row.name) for row in grid.down] + [font(letter).getlength(corner)]
    )
    left, right = 2 * gap + min(int(side), 2 * width) + gap, 2 * gap
    total = left + len(grid.across) * (width + gap) + right
    heading = wrap(described(grid), total - 4 * gap, letter)
    top = 2 * gap + len(heading) * line + gap
    foot = line if any(readings.outcome(p) for p in grid.pictures if not p.reference) else 0
    tall = top + line + len(grid.down) * (height + foot + gap) + gap
    page = Image.new("RGB", (total, tall), PAPER)
    for i, text in enumerate(heading):
        write(page, (2 * gap, 2 * gap + i * line), text, letter)
    write(page, (2 * gap, top), fit(corner, left - 3 * gap, letter), letter, PALE)
    for x, column in enumerate(grid.across):
        at = left + x * (width + gap)
        write(page, (at + width / 2, top), fit(column.name, width, letter), letter, INK, "ma")
    for y, row in enumerate(grid.down):
        at = top + line + y * (height + foot + gap)
        middle = (2 * gap, at + height / 2)
        write(page, middle, fit(row.name, left - 3 * gap, letter), letter, INK, "lm")
        for x, picture in enumerate(grid.cells[y]):
            corner_of = left + x * (width + gap), at
            paste(page, picture, corner_of, (width, height))
            if foot and (found := readings.outcome(picture)):
                below = corner_of[0], at + height + gap // 3
                write(page, below, fit(told(found), width, letter), letter, COLOURS[found.kind])
    return page


def size_of_cell(grid: Grid) -> tuple[int, int]:
    """(width, height) of a picture on the sheet."""
    request = grid.request
    factor = max(1, -(-SIDE // max(request.width, request.height)))
    return request.width * factor, request.height * factor


def paste(page: Image.Image, picture: Picture, at: tuple[int, int], size: tuple[int, int]) -> None:
    if picture.done:
        image = picture.column.image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        page.paste(image, at)
    else:
        page.paste("#eeeeec", (*at, at[0] + size[0], at[1] + size[1]))


def told(found: Outcome) -> str:
    """An outcome in a word or two: "gone, +2 changed"."""
    more = f", +{len(found.changed)} changed" if found.changed and found.kind != "absent" else ""
    return WORDS[found.kind].format(instead=found.instead) + more


def described(grid: Grid) -> str:
    """What all cells share."""
    request = grid.request
    varied = {name for line in (*grid.across, *grid.down) for name in line.changes}
    shared = {
        "seed": f"seed {request.seed}",
        "num_inference_steps": f"{request.num_inference_steps} steps",
        "nag_scale": f"NAG scale {request.nag_scale:g}",
        "nag_tau": f"tau {request.nag_tau:g}",
        "nag_alpha": f"alpha {request.nag_alpha:g}",
        "nag_end": f"until {request.nag_end:g}" if request.nag_end < 1 else "",
    }
    settings = ", ".join(text for name, text in shared.items() if text and name not in varied)
    negative = "" if "negative_prompt" in varied else f" not “{request.negative_prompt}”"
    return f"{grid.preset.title}: “{request.prompt}”{negative}, {settings}"
