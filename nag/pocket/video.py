"""pocket-video: pocket-portrait in motion, as a plain AnimateDiffPipeline: 16 frames of 128 px,
text by cross-attention.

It begins as pocket-portrait, this run's or the one that ships: the same VAE, frame by frame, its
UNet, and its text encoder, which first learns words for motions. New are the motion modules between
the UNet's layers (attention of one place over the frames, arXiv 2307.04725), which begin as the
identity.

There is no teacher of many steps, and no drawing. A clip in which nothing moves is a picture
looked at F times through noise of its own: what is learned from it is what pocket-portrait answers
to the mean of the frames, which is one look through less noise. So pocket-video needs the same few
steps from the first. A clip in which something moves is that answer, moved (`warp`); eyes that
close are painted into it (`lids`); a face that begins to smile is the answer to other words, where
the face is.

Shapes: B clips of F frames, latents (B, 12, F, 16, 16), noise levels s (B, 1, 1, 1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import NAGRuntimeError
from . import ASSETS, clips, data, lids
from .loop import autocast, device, fit
from .motion_words import load_portrait, load_text
from .portrait import Portrait, build_scheduler, shipped_unet
from .train import STUDENT_STEPS, batch_size, load_denoiser, segments
from .vae import LATENT_CHANNELS, load_vae
from .warp import warped

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

HEADS, SIDE = 2, 16
MOST = 65_535 // SIDE**2  # clips of a batch: CUDA's attention over time takes so many rows
SHIFT = clips.FRAMES**0.5  # of the levels towards the noise, as for larger pictures (2403.03206)
FACE = torch.zeros(SIDE, SIDE, dtype=torch.bool)  # where eyes and mouths are before they move
FACE[5:13, 7:14] = True
FACE_COUNTS = 4.0  # times as much as the rest: a smile is in few places, and looked at
MOVES = 0.1  # a place moves where its latents differ so much from their mean over the frames


def build_unet(unet: torch.nn.Module | None = None) -> torch.nn.Module:
    """pocket-portrait's UNet, this one or as it ships, with motion modules that change nothing
    yet."""
    from diffusers import MotionAdapter, UNetMotionModel

    unet = shipped_unet() if unet is None else unet
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=1,
        motion_num_attention_heads=HEADS,
        motion_max_seq_length=clips.FRAMES,
    )
    model = UNetMotionModel.from_unet2d(unet, adapter)
    for name, module in model.named_modules():
        if "motion_modules" in name and name.endswith("proj_out"):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model.requires_grad_(True)


class Video(Portrait):
    """Clips, whole and in part, and what pocket-portrait says of them."""

    name, lr, muon = "video-student", 3e-4, ("motion_modules", 1.5e-3)
    size, large = 32, 512  # frames of a batch
    TURNS = 4, clips.FRAMES, 4, 8  # frames of a clip
    LEVELS = 0.75  # of the rows stand where the student's steps do, the others anywhere
    BLINKS = 0.25  # of the rows more than chance and habits make: the least to see, learned last

    def __init__(self, run: Path) -> None:
        self.load_text(run)
        self.portrait, words = load_portrait(run)
        self.portrait.requires_grad_(False)
        self.vae = load_vae(run)
        self.reader = object.__new__(Portrait)
        self.reader.tok, self.reader.text_encoder = words

    def load_text(self, run: Path) -> None:
        self.tok, self.text_encoder = load_text(run)

    @staticmethod
    def build() -> torch.nn.Module:
        return build_unet()

    def lesson(self, step: int, size: int, seed: int = 6) -> Lesson:
        """What `size` frames teach, of each clip a few.

        Raises NAGRuntimeError where they are less than a clip, or where a GPU takes fewer.
        """
        if size < max(self.TURNS):
            raise NAGRuntimeError(
                f"A batch of {size} frames is less than a clip: train with {max(self.TURNS)} or "
                "more."
            )
        count = self.TURNS[step % len(self.TURNS)]
        if size // count > MOST and device().type == "cuda":
            raise NAGRuntimeError(
                f"A batch of {size} frames has up to {size // count} clips, and this GPU's "
                f"attention over time takes {MOST}: train with a batch of {MOST * count} or less."
            )
        rng = random.Random(step * 31 + seed)
        frames = np.sort(np.random.default_rng([seed, step]).permutation(clips.FRAMES)[:count])
        rows = [self.row(rng) for _ in range(size // count)]
        noise = torch.randn(len(rows), LATENT_CHANNELS, count, SIDE, SIDE, device=device())
        at = self.steps(len(rows))
        s = noise_level(at)[:, None]
        seen, shown = self.answer(noise, at, rows, frames)
        x = (1 - s) * shown + s * noise
        of_clip = [row.of_clip for row in rows]
        return Lesson(x, s, self.encode(of_clip), (x - seen) / s, frames, moving(seen))

    def row(self, rng: random.Random) -> Row:
        """A clip and its captions. Whatever face they name, who begins to smile looks serious
        before it, as in `clips`."""
        clip = clips.sample_clip(rng)
        if rng.random() < self.BLINKS:
            clip = clips.Clip(clip.person, "blinking")
        return Row(clip, *clips.captions(clip, rng))

    def steps(self, rows: int) -> torch.Tensor:
        """Where the rows stand, (B, 1, 1, 1) from 0, all noise, to less than STUDENT_STEPS."""
        at = segments(torch.empty(rows, 1, device=device()))[0].float()
        anywhere = torch.rand_like(at) * (STUDENT_STEPS - 0.2)
        return torch.where(torch.rand_like(at) < self.LEVELS, at, anywhere)

    @torch.no_grad()
    def answer(
        self, noise: torch.Tensor, at: torch.Tensor, rows: list[Row], frames: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames that are to be seen, and those under the noise, like `noise` each.

        noise: of the frames, (B, 12, F, 16, 16). Their mean is that of one look: (1 - s) x + s n /
        sqrt(F) stands at the level t with t / (1 - t) = s / (1 - s) / sqrt(F).
        """
        smiling = [i for i, row in enumerate(rows) if row.clip.motion == "starting to smile"]
        of = [*range(len(rows)), *smiling]  # a smile is a second picture of the same noise
        told = [
            expressed(row.of_picture, row.clip.person, "serious" if i in smiling else None)
            for i, row in enumerate(rows)
        ] + [expressed(rows[i].of_picture, rows[i].clip.person, "grinning") for i in smiling]
        one = noise.mean(2) * noise.shape[2] ** 0.5
        looks = self.reader.encode(told)
        pictures = self.pictures(one[of], at[of], looks, smiling, noise.shape[2] ** -0.5)
        both = torch.stack(pictures, dim=1)  # (rows and smiles, 2, 12, 16, 16)
        film = both[: len(rows), :, :, None].repeat(1, 1, 1, len(frames), 1, 1)
        later = torch.from_numpy(frames / clips.FRAMES >= clips.SMILES).to(film.device)
        for place, i in enumerate(smiling, start=len(rows)):
            film[i][:, :, later] = both[place][:, :, None]
        for motion in ("blinking", *clips.MOVED):
            places = [i for i, row in enumerate(rows) if row.clip.motion == motion]
            if places:
                still = both[places].flatten(0, 1)
                film[places] = self.moved(still, motion, frames).unflatten(0, (-1, 2))
        return film[:, 0], film[:, 1]

    def pictures(
        self,
        one: torch.Tensor,
        at: torch.Tensor,
        looks: tuple[torch.Tensor, ...],
        smiling: list[int],
        shift: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What pocket-portrait sees, and what it looks at: itself as it has drawn so far, as it
        will be when it is used.

        one, at, looks: of every row, and then of those that are `smiling` once more, whose second
        pictures differ in the face alone. So are both that are returned, (B, 12, 16, 16).
        shift: 1 / sqrt(F), from a frame's level to that of the mean.
        """
        level, face = shifted(noise_level(at), shift), FACE.to(one.device)

        def joined(x):
            for second, first in enumerate(smiling, start=len(x) - len(smiling)):
                x[second] = torch.where(face, x[second], x[first])
            return x

        x = one.clone()
        for k in range(STUDENT_STEPS):
            t, after = (shifted(noise_level(at.clamp_max(end)), shift) for end in (k, k + 1))
            going = (after < t).flatten().nonzero().flatten()
            if not len(going):
                break
            words = tuple(part[going] for part in looks)
            ways = self.predict(self.portrait, x[going], t[going], words).float()
            x[going] += (after - t)[going] * ways
            x = joined(x)
        shown = (x - level * one) / (1 - level).clamp_min(1e-6)
        shown = torch.where(level < 1, shown, torch.zeros_like(shown))
        x = (1 - level) * shown + level * one
        x = x.contiguous(memory_format=torch.channels_last)
        return joined(x - level * self.predict(self.portrait, x, level, looks).float()), shown

    def moved(self, still: torch.Tensor, motion: str, frames: np.ndarray) -> torch.Tensor:
        """(B, 12, 16, 16) -> (B, 12, F, 16, 16). Where nothing has moved it is what it was.

        motion: "blinking" or one of `clips.MOVED`.
        """

        def encoded(pixels):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            return self.vae.encode(pixels).latents.float()

        with autocast():
            seen = self.vae.decode(still.contiguous(memory_format=torch.channels_last)).sample
            if motion == "blinking":
                shut = torch.tensor([clips.eyes_closed(frame / clips.FRAMES) for frame in frames])
                film = encoded(lids.closed(seen.float()))[:, None]
                differ = (film - encoded(seen)[:, None]) * shut.to(film)[:, None, None, None]
            else:
                film = warped(seen.float(), motion, frames)
                film = encoded(film.flatten(0, 1)).unflatten(0, film.shape[:2])
                differ = film - encoded(seen)[:, None]
        return still[:, :, None] + differ.transpose(1, 2)


@dataclass
class Row:
    """A clip that teaches, and captions of its picture and of itself."""

    clip: clips.Clip
    of_picture: str
    of_clip: str


def expressed(caption: str, person: data.Person, expression: str | None) -> str:
    """The caption, with another expression. None leaves it."""
    if expression is None:
        return caption
    own, words = f"{person.labels['expression']} face", f"{expression} face"
    if own in caption:
        return caption.replace(own, words)
    return f"{caption.rstrip('.')}, {words}" if caption else words


@dataclass
class Lesson:
    """x, target: (B, 12, F, 16, 16). s: (B, 1, 1, 1, 1). frames: which of a clip they are. moves:
    see `moving`."""

    x: torch.Tensor
    s: torch.Tensor
    text: tuple[torch.Tensor, ...]
    target: torch.Tensor
    frames: np.ndarray
    moves: torch.Tensor


def moving(latents: torch.Tensor) -> torch.Tensor:
    """(B, 12, F, 16, 16) -> where something moves, bool (B, 1, F, 16, 16)."""
    away = latents - latents.mean(2, keepdim=True)
    return away.abs().mean(1, keepdim=True) > MOVES


def loss_of(model: torch.nn.Module, lesson: Lesson) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model is off a lesson -> (its loss, the plain mean square), scalars.

    The loss is the mean square with the face counted more often, and beside it the mean square of
    the places that move, of every clip by itself and then of the clips that do. A blink is in a
    hundredth of the places, and in the first mean nothing.
    """
    error = (velocity(model, lesson).float() - lesson.target).square()
    extra = (FACE_COUNTS - 1) * FACE.to(error.device) * error
    counts = lesson.moves.expand_as(error).float()
    places = counts.flatten(1).sum(1)
    of_clips = (error * counts).flatten(1).sum(1) / places.clamp_min(1)
    moved = of_clips.sum() / (places > 0).sum().clamp_min(1)
    return (error + extra).mean() + moved, error.mean().detach()


def velocity(model: torch.nn.Module, lesson: Lesson) -> torch.Tensor:
    """What the model answers, like `lesson.x`."""
    count = lesson.x.shape[2]
    words = lesson.text[0].repeat_interleave(count, 0)
    with numbered(model, lesson.frames):
        return model(lesson.x, 1000 * lesson.s.flatten(), words, return_dict=False)[0]


def train_video(
    run: Path,
    steps: int,
    compile: bool = False,
    seconds: float | None = None,
    size: int | None = None,
    further: bool = False,
) -> torch.nn.Module:
    """seconds: as of `fit`. size: frames of a batch. further: begins with the model that ships,
    which knows most of it, at half the learning rates."""
    source = Video(run)
    size = size or batch_size(source)
    model = (shipped_video() if further else build_unet(source.portrait)).to(device())
    forward = torch.compile(model) if compile else model

    def loss(step):
        value, plain = loss_of(forward, source.lesson(step, size))
        return value, {"plain": plain}

    word, muon = source.muon
    share = 0.5 if further else 1.0
    options = {"lr": share * source.lr, "muon": (word, share * muon), "seconds": seconds}
    return fit(source.name, run, model, loss, steps, decay=0.995, **options)


def shipped_video() -> torch.nn.Module:
    """The UNet that ships, to be trained further."""
    from diffusers import UNetMotionModel

    unet = UNetMotionModel.from_pretrained(ASSETS / "pocket-video" / "unet", dtype=torch.float32)
    return unet.requires_grad_(True)


def noise_level(at: torch.Tensor) -> torch.Tensor:
    """The scheduler's level s after `at` of STUDENT_STEPS steps."""
    return shifted(1 - at / STUDENT_STEPS, SHIFT)


def shifted(s: torch.Tensor, shift: float) -> torch.Tensor:
    """The level t with t / (1 - t) = shift * s / (1 - s)."""
    return shift * s / (1 + (shift - 1) * s)


class numbered:
    """Inside, the model takes what it is given for the frames of these numbers."""

    def __init__(self, model: torch.nn.Module, frames: Sequence[int] | np.ndarray) -> None:
        self.places = [
            module for name, module in model.named_modules() if name.endswith("pos_embed")
        ]
        self.frames = torch.as_tensor(np.asarray(frames))

    def __enter__(self) -> None:
        self.kept = [place.pe for place in self.places]
        for place in self.places:
            place.pe = place.pe[:, self.frames]

    def __exit__(self, *_: object) -> None:
        for place, pe in zip(self.places, self.kept, strict=True):
            place.pe = pe


def assemble(run: Path, denoiser: str = "video-student") -> AnimateDiffPipeline:
    """The pipeline of a training run, float32."""
    from diffusers import AnimateDiffPipeline

    source = Video.without_data(run)
    return AnimateDiffPipeline(
        scheduler=build_scheduler(shift=SHIFT),
        vae=load_vae(run),
        text_encoder=source.text_encoder,
        tokenizer=source.tok,
        unet=load_denoiser(run, Video.build, denoiser),
        motion_adapter=None,
    )
