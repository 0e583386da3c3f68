"""A run as one picture: its columns, each with its name, its cost and what the meter read."""

from PIL import Image, ImageDraw

from ..engine.run import Run
from ..media.lettering import fit, font
from .cells import cell

MARGIN, INK, PAPER, PALE = 16, "#1e293b", "#ffffff", "#64748b"
SIDE = 384  # px


def strip(run: Run) -> Image.Image:
    """The finished columns of a run."""
    done, request = [c for c in run.columns if c.state == "done"], run.request
    title = headline(request.model_dump(), run.preset.title)
    return sheet([cell(run, c) for c in done], [c.image for c in done], title)


def headline(request: dict, model: str) -> str:
    """What a picture says over itself. Words first: what is too long is cut at its end."""
    words = f"“{request['prompt']}” not “{request['negative_prompt']}”"
    return f"{words}, seed {request['seed']}, {model}"


def caption(shown: dict) -> list[tuple[str, int, str]]:
    """A cell's lines: text, size, colour."""
    name = " ".join([shown["name"], *(" ".join(part[1:]).strip() for part in shown["set"])])
    cost = shown["cost"] or {"text": "", "unit": ""}
    meters = ((f"{m['name']} {m['text']}", 15, PALE) for m in shown["meters"])
    return [(name, 20, INK), (f"{cost['text']} {cost['unit']}", 15, PALE), *meters]


def sheet(shown: list[dict], pictures: list, title: str) -> Image.Image:
    """Cells and their pictures; those narrower than `SIDE` are enlarged by a whole factor."""
    factor = max(1, SIDE // max(pictures[0].width, 1))
    width, height = pictures[0].width * factor, pictures[0].height * factor
    lines = [caption(one) for one in shown]
    foot = 10 + max(sum(size + 8 for _, size, _ in column) for column in lines)
    head = 34
    size = MARGIN + len(shown) * (width + MARGIN), head + height + foot + MARGIN
    drawn = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(drawn)
    draw.text((MARGIN, 10), fit(title, drawn.width - 2 * MARGIN, 14), INK, font(14))
    for i, (picture, texts) in enumerate(zip(pictures, lines, strict=True)):
        x, y = MARGIN + i * (width + MARGIN), head
        large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        drawn.paste(large, (x, y))
        y += height + 8
        for text, size, colour in texts:
            draw.text((x, y), fit(text, width, size), colour, font(size))
            y += size + 8
    return drawn
