"""The moving picture of the README: alpha dragged from 0 to 1 and back, one seed a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont

import nag

from .. import presets
from ..home import HOME

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PRESET = "pocket-portrait"
PAIRS = 3  # the first prompts of the preset, each with its negative prompt
STEPS = 20  # of alpha, from 0 to 1
SIDE, MARGIN, HEAD, FOOT = 224, 16, 30, 54  # px
INK, PALE, PAPER = "#1e293b", "#94a3b8", "#ffffff"


def portraits(alpha: float, pipe: DiffusionPipeline, preset: presets.Preset) -> list[Image.Image]:
    """The preset's first prompts at its settings and their own seeds, under NAG with this alpha."""
    settings, drawn = preset.settings, []
    for pair in preset.prompts[:PAIRS]:
        seed = settings["seed"] if pair.seed is None else pair.seed
        guided = nag.guide(
            pipe,
            pair.negative_prompt,
            scale=settings["nag_scale"],
            tau=settings["nag_tau"],
            alpha=alpha,
            end=settings["nag_end"],
        )
        with guided:
            drawn += pipe(
                pair.prompt,
                guidance_scale=1.0,
                num_inference_steps=settings["num_inference_steps"],
                width=settings["width"],
                height=settings["height"],
                generator=torch.Generator().manual_seed(seed),
            ).images
    return drawn


def frame(pictures: list[Image.Image], words: list[str], alpha: float) -> Image.Image:
    """The pictures in a row, what was asked for above them, and the slider below."""
    width = MARGIN + len(pictures) * (SIDE + MARGIN)
    sheet = Image.new("RGB", (width, HEAD + SIDE + FOOT), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, words, strict=True)):
        x = MARGIN + i * (SIDE + MARGIN)
        draw.text((x, 9), text, INK, ImageFont.load_default(14))
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, HEAD))
    left, right, y = MARGIN + 110, width - MARGIN - 12, HEAD + SIDE + FOOT // 2
    knob = left + alpha * (right - left)
    draw.text((MARGIN, y - 10), f"alpha {alpha:.2f}", INK, ImageFont.load_default(18))
    draw.line((left, y, right, y), PALE, 4)
    draw.line((left, y, knob, y), INK, 4)
    draw.ellipse((knob - 9, y - 9, knob + 9, y + 9), INK)
    return sheet


def frames() -> Iterator[Image.Image]:
    from diffusers import DiffusionPipeline

    preset = presets.load_all()[PRESET]
    pipe = DiffusionPipeline.from_pretrained(HOME / preset.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    words = [
        f"{pair.prompt.removeprefix('portrait of ')}, not: {pair.negative_prompt}"
        for pair in preset.prompts[:PAIRS]
    ]
    for alpha in (step / STEPS for step in range(STEPS + 1)):
        yield frame(portraits(alpha, pipe, preset), words, alpha)


def film(path: Path) -> None:
    """An animated WebP that plays for ever: there and back, with a rest at either end."""
    there = list(frames())
    back = there[-2:0:-1]
    rest = [900, *[120] * (len(there) - 2), 900, *[120] * len(back)]  # milliseconds
    there[0].save(
        path, save_all=True, append_images=there[1:] + back, duration=rest, loop=0, quality=80
    )
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(rest)} frames")
