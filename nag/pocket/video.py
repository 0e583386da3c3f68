"""pocket-video: pocket-portrait in motion, as a plain AnimateDiffPipeline: 16 frames of 128 px,
text by cross-attention.

It begins as the pocket-portrait that ships: the same VAE, frame by frame, its UNet, and its text
encoder, which first learns words for motions. New are the motion modules between the UNet's layers
(attention of one place over the frames, arXiv 2307.04725), which begin as the identity.

There is no teacher of many steps. A clip in which nothing moves is a picture looked at F times
through noise of its own: what is learned from it is what pocket-portrait answers to the mean of the
frames, which is one look through less noise. So pocket-video needs the same few steps from the
first. A clip in which something moves has beside it what the drawing's frames differ by from the
drawing that is not moved.

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
from . import SHIPPED, clips, data, text
from .loop import autocast, batch_at, device, fit, load_average
from .portrait import Portrait, build_scheduler, shipped_unet
from .text import tokenize
from .train import STUDENT_STEPS, batch_size, last_student, load_denoiser, segments
from .vae import LATENT_CHANNELS, load_vae, to_tensor

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

HEADS, SIDE = 2, 16
MOST = 65_535 // SIDE**2  # clips of a batch: CUDA's attention over time takes so many rows
SHIFT = clips.FRAMES**0.5  # of the levels towards the noise, as for larger pictures (2403.03206)
HELD = 5.0  # how much an old answer counts beside a new word


@torch.no_grad()
def encode_clips(run: Path, count: int) -> None:
    """The frames of `count` clips as latents, fp16, on disk: (count, 12, 16, 16, 16); and their
    drawings as they are before they move, (count, 12, 16, 16).

    Frames that are the same are encoded once.
    """
    from tqdm import tqdm

    path, vae = run / "video-latents.npy", load_vae(run)
    if path.exists():
        return
    source = np.load(run / "clips" / "clips.npy", mmap_mode="r")[:count]
    who = clips.load(run / "clips")
    out = np.empty((len(source), LATENT_CHANNELS, clips.FRAMES, SIDE, SIDE), np.float16)
    still = np.empty((len(source), LATENT_CHANNELS, SIDE, SIDE), np.float16)
    for i, frames in enumerate(tqdm(source, desc="video-encode", mininterval=20)):
        first = np.asarray(data.render(who[i].person), np.uint8)
        different, places = clips.distinct(np.concatenate([frames, first[None]]))
        pixels = to_tensor(different)
        with autocast():
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        *moved, still[i] = latents.float().cpu().numpy()[places]
        out[i] = np.stack(moved, axis=1)
    np.save(run / "video-still.npy", still)
    np.save(path, out)


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
        clips.load(run / "clips"),
        more=held,
    )


def train_habits(run: Path, steps: int, size: int = 64) -> torch.nn.Module:
    """The text encoder learns to read a role as if its habit stood behind it: what `train_text`
    holds to pocket-portrait's answers says it too faintly to move anybody.

    All else it reads as before.
    """
    tok, before = load_text(run)
    _, encoder = load_text(run)

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


def load_text(run: Path) -> tuple:
    _, (tok, encoder) = load_portrait(run)
    reader = text.AttributeReader(encoder.requires_grad_(True), clips.ATTRIBUTES)
    encoder = text.trained_encoder(reader, run / "video-text.pt")
    if (run / "video-habits.pt").exists():
        load_average(encoder.requires_grad_(True), run / "video-habits.pt")
    return tok, encoder.eval().requires_grad_(False)


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

    def __init__(self, run: Path) -> None:
        self.load_text(run)
        self.moving = np.load(run / "video-latents.npy", mmap_mode="r")
        self.still = np.load(run / "video-still.npy", mmap_mode="r")
        self.clips = clips.load(run / "clips")[: len(self.moving)]
        self.portrait, words = load_portrait(run)
        self.portrait.requires_grad_(False)
        self.reader = object.__new__(Portrait)
        self.reader.tok, self.reader.text_encoder = words

    def load_text(self, run: Path) -> None:
        self.tok, self.text_encoder = load_text(run)

    @staticmethod
    def build() -> torch.nn.Module:
        return build_unet()

    def lesson(self, step: int, size: int, seed: int = 6) -> Lesson:
        """What `size` frames teach, of each clip a few.

        Raises NAGRuntimeError where a GPU takes fewer.
        """
        count = self.TURNS[step % len(self.TURNS)]
        if size // count > MOST and device().type == "cuda":
            raise NAGRuntimeError(
                f"A batch of {size} frames has up to {size // count} clips, and this GPU's "
                f"attention over time takes {MOST}: train with a batch of {MOST * count} or less."
            )
        rng = random.Random(step * 31 + seed)
        rows = batch_at(step, len(self.clips), size // count, seed)
        frames = np.sort(np.random.default_rng([seed, step]).permutation(clips.FRAMES)[:count])
        chosen = [self.clips[i] for i in rows]
        of_picture, of_clip = zip(*(clips.captions(clip, rng) for clip in chosen), strict=True)
        still = torch.from_numpy(self.still[rows]).to(device()).float()
        moved = torch.from_numpy(self.moving[rows][:, :, frames]).to(device()).float()
        noise = torch.randn(moved.shape, device=device())
        at = self.steps(len(rows))
        s = noise_level(at)[:, None]
        looks = self.reader.encode(list(of_picture))
        standing = torch.tensor([clip.motion == "still" for clip in chosen], device=device())
        picture, shown = self.answer(noise, at, looks, still, standing)
        moves = moved - still[:, :, None]
        x = (1 - s) * (shown[:, :, None] + moves) + s * noise
        target = (x - picture[:, :, None] - moves) / s
        return Lesson(x, s, self.encode(list(of_clip)), target, frames)

    def steps(self, rows: int) -> torch.Tensor:
        """Where the rows stand, (B, 1, 1, 1) from 0, all noise, to less than STUDENT_STEPS."""
        at = segments(torch.empty(rows, 1, device=device()))[0].float()
        anywhere = torch.rand_like(at) * (STUDENT_STEPS - 0.2)
        return torch.where(torch.rand_like(at) < self.LEVELS, at, anywhere)

    @torch.no_grad()
    def answer(
        self,
        noise: torch.Tensor,
        at: torch.Tensor,
        looks: tuple[torch.Tensor, ...],
        still: torch.Tensor,
        standing: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture that pocket-portrait sees, and the one that is under the noise, (B, 12, 16,
        16) each.

        noise: of the frames, (B, 12, F, 16, 16). Their mean is that of one look: (1 - s) x + s n /
        sqrt(F) stands at the level t with t / (1 - t) = s / (1 - s) / sqrt(F).
        still: the drawings under it; of rows that are `standing` it is what pocket-portrait itself
        has drawn so far, as it will be when it is used.
        """
        count = noise.shape[2]
        one = noise.mean(2) * count**0.5
        level = shifted(noise_level(at), count**-0.5)
        shown, rows = still.clone(), standing.nonzero().flatten()
        x = one[rows]
        for k in range(STUDENT_STEPS if len(rows) else 0):
            t, after = (
                shifted(noise_level(at[rows].clamp_max(end)), count**-0.5) for end in (k, k + 1)
            )
            words = tuple(part[rows] for part in looks)
            x = x + (after - t) * self.predict(self.portrait, x, t, words).float()
        ends = level[rows]
        drawn = (x - ends * one[rows]) / (1 - ends).clamp_min(1e-6)
        shown[rows] = torch.where(ends < 1, drawn, still[rows])
        x = (1 - level) * shown + level * one
        x = x.contiguous(memory_format=torch.channels_last)
        return x - level * self.predict(self.portrait, x, level, looks).float(), shown


@dataclass
class Lesson:
    """x, target: (B, 12, F, 16, 16). s: (B, 1, 1, 1, 1). frames: which of a clip they are."""

    x: torch.Tensor
    s: torch.Tensor
    text: tuple[torch.Tensor, ...]
    target: torch.Tensor
    frames: np.ndarray


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
) -> torch.nn.Module:
    """seconds: as of `fit`. size: frames of a batch."""
    source = Video(run)
    size = size or batch_size(source)
    model = build_unet(source.portrait).to(device())
    forward = torch.compile(model) if compile else model

    def loss(step):
        lesson = source.lesson(step, size)
        error = (velocity(forward, lesson).float() - lesson.target).square().mean()
        return error, {}

    options = {"lr": source.lr, "muon": source.muon, "seconds": seconds}
    return fit(source.name, run, model, loss, steps, decay=0.995, **options)


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
