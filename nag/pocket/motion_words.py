"""What pocket-video's text encoder learns: pocket-portrait's own, and words for motions."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from ..errors import NAGRuntimeError
from . import ASSETS, SHIPPED, clips, data, text
from .loop import fit, load_average
from .portrait import Portrait, shipped_unet
from .text import tokenize
from .train import last_student, load_denoiser

CAPTIONED = 3_000  # clips that it learns captions of
HELD = 5.0  # how much an old answer counts beside a new word


def load_portrait(run: Path) -> tuple[torch.nn.Module, tuple]:
    """pocket-portrait's UNet, and its tokenizer and text encoder: this run's, or what ships."""
    if name := last_student(run):
        return load_denoiser(run, Portrait.build, name), text.load_text(run)
    return shipped_unet().eval(), text.load_text(SHIPPED)


def train_text(run: Path, steps: int, size: int = 256) -> text.AttributeReader:
    """pocket-portrait's text encoder learns what moves.

    What it says of other captions it is held to: the UNet reads that already.
    """
    (_, (tok, encoder)), (_, (_, before)) = load_portrait(run), load_portrait(run)

    def held(encoder, rows):
        rng = random.Random(len(rows))
        captions = [
            data.caption(clip.person, rng) for clip in rows if clip.person.role not in clips.ROLES
        ]
        ids = tokenize(tok, captions)
        with torch.no_grad():
            answer = before(ids).last_hidden_state.float()
        return HELD * (encoder(ids).last_hidden_state.float() - answer).square().mean()

    return text.train_text(
        run,
        steps,
        size,
        "video-text",
        tok,
        encoder.requires_grad_(True),
        clips,
        [clips.sample_clip(random.Random(i)) for i in range(CAPTIONED)],
        more=held,
    )


def train_habits(run: Path, steps: int, size: int = 64) -> torch.nn.Module:
    """The text encoder learns to read a role as if its habit stood behind it: what `train_text`
    holds to pocket-portrait's answers says it too faintly to move anybody.

    All else it reads as before.
    """
    tok, before = load_text(run, habits=False)
    _, encoder = load_text(run, habits=False)

    def hidden(encoder, captions):
        return encoder(tokenize(tok, captions)).last_hidden_state.float()

    def loss(step):
        rng, silent, said, others = random.Random(step), [], [], []
        while len(silent) < size:
            clip = clips.sample_clip(rng)
            words, caption = clips.captions(clip, rng)
            habit = clips.HABITS.get(clip.person.role, "still")
            if habit == "still" or clip.person.role not in words:
                others.append(caption)
                continue
            silent.append(words)
            said.append(f"{words.rstrip('.')}, {habit}")
            if clips.named(clip.motion) in caption:
                others.append(caption)
        with torch.no_grad():
            wanted, kept = hidden(before, said), hidden(before, others)
        padding = tokenize(tok, silent).eq(tok.pad_token_id)
        # what stands behind the words is alike wherever they end, and is what layers mostly see
        moved = (hidden(encoder, silent) - wanted[:, -1:])[padding].square().mean()
        held = (hidden(encoder, others) - kept).square().mean()
        return moved + held, {"moved": moved.detach(), "held": held.detach()}

    return fit("video-habits", run, encoder.requires_grad_(True), loss, steps, lr=5e-4)


def load_text(run: Path, habits: bool = True) -> tuple:
    """Tokenizer and text encoder of this run, with the habits once they are learned. A run that has
    no pocket-portrait of its own takes those that ship, which have them.

    Raises NAGRuntimeError where this run has to train them first.
    """
    if not (run / "video-text.pt").exists():
        if habits and last_student(run) is None:
            return text.shipped_text(ASSETS / "pocket-video")
        raise NAGRuntimeError(
            f"{run} has no text encoder that knows words for motions: run the stage video-text."
        )
    _, (tok, encoder) = load_portrait(run)
    reader = text.AttributeReader(encoder.requires_grad_(True), clips.ATTRIBUTES)
    encoder = text.trained_encoder(reader, run / "video-text.pt")
    if habits and (run / "video-habits.pt").exists():
        load_average(encoder.requires_grad_(True), run / "video-habits.pt")
    return tok, encoder.eval().requires_grad_(False)
