"""pocket-video: pocket-portrait in motion, as a plain AnimateDiffPipeline: 16 frames of 128 px,
text by cross-attention.

It begins as the pocket-portrait that ships: the same VAE, frame by frame, its UNet, and its text
encoder, which first learns words for motions. New are the motion modules between the UNet's layers
(attention of one place over the frames, arXiv 2307.04725), which begin as the identity: so lines
and words are there from the first step, and training is about time.

Shapes: B clips of F frames, latents (B, 12, F, 16, 16). For the stages that are shared with the
image models time and height stand in one dimension, (B, 12, F * 16, 16).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import NAGRuntimeError
from . import clips, data, joint, text
from .loop import autocast, device
from .portrait import Portrait, build_scheduler, shipped_unet
from .text import tokenize
from .train import load_denoiser
from .vae import LATENT_CHANNELS, load_vae, to_tensor

if TYPE_CHECKING:
    from diffusers import AnimateDiffPipeline

HEADS, SIDE = 2, 16
MOST = 65_535 // SIDE**2  # clips of a batch: CUDA's attention over time takes so many rows
BUDGET = 32  # frames of a batch
HELD = 5.0  # how much an old answer counts beside a new word


@torch.no_grad()
def encode_clips(run: Path, count: int) -> None:
    """The frames of `count` clips as latents, fp16, on disk: (count, 12, 16, 16, 16).

    Frames that are the same are encoded once.
    """
    from tqdm import tqdm

    path, vae = run / "video-latents.npy", load_vae(run)
    if path.exists():
        return
    source = np.load(run / "clips" / "clips.npy", mmap_mode="r")[:count]
    out = np.empty((len(source), LATENT_CHANNELS, clips.FRAMES, SIDE, SIDE), np.float16)
    for i, frames in enumerate(tqdm(source, desc="video-encode", mininterval=20)):
        different, places = clips.distinct(frames)
        pixels = to_tensor(different)
        with autocast():
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        out[i] = latents.float().cpu().numpy()[places].transpose(1, 0, 2, 3)
    np.save(path, out)


def train_text(run: Path, steps: int, size: int = 256) -> text.AttributeReader:
    """pocket-portrait's text encoder learns what moves.

    What it says of other captions it is held to: the UNet reads that already.
    """
    (tok, encoder), (_, before) = text.load_text(run), text.load_text(run)

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


def load_text(run: Path) -> tuple:
    tok, encoder = text.load_text(run)
    reader = text.AttributeReader(encoder.requires_grad_(True), clips.ATTRIBUTES)
    return tok, text.trained_encoder(reader, run / "video-text.pt")


def build_unet() -> torch.nn.Module:
    """pocket-portrait's UNet as it ships, with motion modules that change nothing yet."""
    from diffusers import MotionAdapter, UNetMotionModel

    unet = shipped_unet()
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


class Teacher:
    """pocket-joint before its distillation, as it ships."""

    def __init__(self) -> None:
        from diffusers import FluxPipeline

        pipe = FluxPipeline.from_pretrained(joint.SHIPPED, variant="teacher", dtype=torch.float32)
        pipe = pipe.to(device())
        self.model = pipe.transformer.requires_grad_(False)
        self.source = object.__new__(joint.Joint)  # its text parts are the pipeline's
        self.source.tok, self.source.text_encoder = pipe.tokenizer, pipe.text_encoder
        self.source.tok_2, self.source.text_encoder_2 = pipe.tokenizer_2, pipe.text_encoder_2
        self.source.place()

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, s: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return self.source.predict(self.model, x, s, self.source.encode(captions)).float()


class Video(Portrait):
    """The UNet on parts of clips and whole ones.

    In turn with these come pictures as clips in which nothing moves: there are more of them, and
    pocket-joint's teacher, which draws the same pictures from the same words, knows the answer to
    one. That keeps the words, and teaches to keep a face in time.
    """

    name, lr, muon = "video", 4e-4, ("motion_modules", 1.5e-3)
    size = BUDGET
    large = 512
    share = 0.75  # of the teacher's answer, which is free of noise, in what is learned of a picture
    TURNS = (
        (4, False),
        (4, True),
        (8, False),
        (8, True),
        (4, True),
        (clips.FRAMES, False),
        (4, True),
        (clips.FRAMES, True),
    )  # frames, moving

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.moving = np.load(run / "video-latents.npy", mmap_mode="r")
        self.clips = clips.load(run / "clips")[: len(self.moving)]

    def load_text(self, run: Path) -> None:
        self.tok, self.text_encoder = load_text(run)

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        self.captions = captions
        return super().encode(captions)

    @staticmethod
    def build() -> torch.nn.Module:
        return build_unet()

    def batch(self, step: int, size: int, seed: int) -> tuple:
        """`size` frames, of each clip a few. Raises NAGRuntimeError where a GPU takes fewer."""
        count, self.moves = self.TURNS[step % len(self.TURNS)]
        if size // count > MOST and device().type == "cuda":
            raise NAGRuntimeError(
                f"A batch of {size} frames has up to {size // count} clips, and this GPU's "
                f"attention over time takes {MOST}: train with a batch of {MOST * count} or less."
            )
        self.frames = np.sort(np.random.default_rng([seed, step]).permutation(clips.FRAMES)[:count])
        if self.moves:
            latents, *others = self.rows(
                self.moving, self.clips, clips.caption, step, size // count, seed
            )
            return latents[:, :, torch.from_numpy(self.frames)].flatten(2, 3), *others
        latents, *others = self.rows(
            self.latents, self.people, data.caption, step, size // count, seed
        )
        return latents.repeat(1, 1, count, 1), *others

    def level(self, share: torch.Tensor) -> torch.Tensor:
        """F frames of nearly one picture are F looks at it: what is half hidden in one of them is
        seen in all. So levels are moved towards the noise by sqrt(F), as for larger pictures (arXiv
        2403.03206, eq. 23); the scheduler's flow_shift does the same.
        """
        return shifted(share, len(self.frames) ** 0.5)

    def predict(
        self,
        model: torch.nn.Module,
        x: torch.Tensor,
        s: torch.Tensor,
        text: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        rows, channels, height, width = x.shape
        count = height // SIDE
        with numbered(model, self.frames):
            out = model(
                x.reshape(rows, channels, count, SIDE, width),
                1000 * s.flatten(),
                text[0].repeat_interleave(count, 0),
                return_dict=False,
            )[0]
        return out.reshape(x.shape)

    def teach(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "teacher"):
            self.teacher = Teacher()
        return self.teacher(x, s, self.captions)

    def target(self, x: torch.Tensor, s: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """Frames of one picture are looks at it through noise of their own.

        Their mean is as one look through less, which is for the teacher of pictures: (1 - s) x + s
        n / sqrt(F) stands at the level t with t / (1 - t) = s / (1 - s) / sqrt(F).
        """
        if self.moves:
            return velocity
        count = len(self.frames)
        level = shifted(s, count**-0.5)
        mean = x.unflatten(2, (count, SIDE)).mean(2) * (1 - level) / (1 - s)
        picture = (mean - level * self.teach(mean, level)).repeat(1, 1, count, 1)
        return self.share * (x - picture) / s + (1 - self.share) * velocity


class FewSteps(Video):
    """What the student learns from: the same at the levels of its schedule, whose flow_shift is
    that of whole clips. Parts of clips are more people in a batch, and guidance is about them.
    """

    TURNS = ((4, False), (clips.FRAMES, True), (4, True), (clips.FRAMES, True))

    def level(self, share: torch.Tensor) -> torch.Tensor:
        return shifted(share, clips.FRAMES**0.5)


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
        scheduler=build_scheduler(shift=clips.FRAMES**0.5),
        vae=load_vae(run),
        text_encoder=source.text_encoder,
        tokenizer=source.tok,
        unet=load_denoiser(run, Video.build, denoiser),
        motion_adapter=None,
    )
