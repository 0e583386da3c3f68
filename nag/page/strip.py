"""A run as one picture: its columns, each with its name, its cost and what the meter read."""

from PIL import Image, ImageDraw, ImageFont

from ..engine.run import Run
from .cells import cell, label

MARGIN, INK, PAPER, PALE = 16, "#1e293b", "#ffffff", "#64748b"


def strip(run: Run, side: int = 384) -> Image.Image:
    """Finished columns; those narrower than `side` px are enlarged by a whole factor."""
    done = [c for c in run.columns if c.state == "done"]
    factor = max(1, side // max(done[0].image.width, 1))
    width, height = done[0].image.width * factor, done[0].image.height * factor
    lines = [
        [
            (label(run, column.key), 20, INK),
            (" ".join((cost["text"], cost["unit"])) if (cost := text["cost"]) else " ", 15, PALE),
            *((f"{m['name']} {m['text']}", 15, PALE) for m in text["meters"]),
        ]
        for column, text in ((c, cell(run, c)) for c in done)
    ]
    foot = 10 + max(sum(size + 8 for _, size, _ in column) for column in lines)
    head = 34
    sheet = Image.new(
        "RGB", (MARGIN + len(done) * (width + MARGIN), head + height + foot + MARGIN), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    request = run.request
    words = f"“{request.prompt}” not “{request.negative_prompt}”"
    title = f"{run.preset.title}, seed {request.seed}: {words}"
    draw.text((MARGIN, 10), fit(plain(title), sheet.width - 2 * MARGIN, 14), INK, font(14))
    for i, (column, texts) in enumerate(zip(done, lines, strict=True)):
        x, y = MARGIN + i * (width + MARGIN), head
        sheet.paste(
            column.image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (x, y)
        )
        y += height + 8
        for text, size, colour in texts:
            draw.text((x, y), fit(plain(text), width, size), colour, font(size))
            y += size + 8
    return sheet


def font(size: int):
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Without the signs that Pillow's own font lacks."""
    return text.replace("×", "x").replace("→", "->").replace("−", "-")


def fit(text: str, width: int, size: int) -> str:
    """`text`, cut to `width` px."""
    while font(size).getlength(text) > width and len(text) > 4:
        text = text[:-2].rstrip() + "…"
    return text
