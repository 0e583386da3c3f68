"""pocket-portrait: a UNet with cross-attention, and what a denoiser learns from.

Shapes: B rows, latents (B, 12, 16, 16), noise levels s (B, 1, 1, 1) from 0 (picture) to 1 (noise).
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from . import SHIPPED, data
from .loop import batch_at, device
from .text import WIDTH, load_text, tokenize
from .vae import LATENT_CHANNELS

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

CAPTIONS = 4  # of each picture; a batch draws one of them


def build_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, WIDTH),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=[2, 3],  # heads: the argument's old meaning
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def shipped_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(SHIPPED / "unet", dtype=torch.float32)
    return unet.to(memory_format=torch.channels_last).to(device())


def build_scheduler(shift: float = 1.0) -> DPMSolverMultistepScheduler:
    """Plain Euler steps on the straight flow; the one such scheduler that StableDiffusionPipeline
    accepts."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        solver_order=1,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        algorithm_type="dpmsolver++",
        steps_offset=1,  # unused with flow sigmas; StableDiffusionPipeline warns at any other value
    )


class Portrait:
    """Latents and encoded captions, drawn anew every step, and how the UNet is built and called.

    Latents and the captions' ids lie on the device, so that a batch costs no time of a processor.
    A text is a tuple of tensors with one row per caption; `predict` gives the velocity n - x for
    it. A subclass is another denoiser.
    """

    # muon: as of `fit`; size, large: rows of a batch, on a processor and on a GPU
    name, lr, muon, size, large = "unet", 8e-4, None, 32, 1024

    def __init__(self, run: Path) -> None:
        self.latents = torch.from_numpy(np.load(run / "latents.npy")).to(device())
        self.people = data.load_people(run / "data")[: len(self.latents)]
        self.load_text(run)
        self.empty = self.encode([""])

    @classmethod
    def without_data(cls, run: Path) -> Portrait:
        """Its text parts, to encode and to predict with, and nothing to learn from."""
        source = object.__new__(cls)
        source.load_text(run)
        return source

    def load_text(self, run: Path) -> None:
        self.tok, self.text_encoder = load_text(run)

    def tokenized(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        """ids (B, T), of every tokenizer."""
        return (tokenize(self.tok, captions),)

    @torch.no_grad()
    def read(self, ids: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The text of what `tokenized` gave."""
        return (self.text_encoder(ids[0]).last_hidden_state.float(),)

    def encode(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        return self.read(self.tokenized(captions))

    @functools.cached_property
    def words(self) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """ids (N, CAPTIONS, T) of every tokenizer, and which captions are empty, (N, CAPTIONS)."""
        rng = random.Random(11)
        captions = [data.caption(p, rng) for p in self.people for _ in range(CAPTIONS)]
        empty = torch.tensor([c == "" for c in captions], device=device())
        shape = (len(self.people), CAPTIONS)
        return tuple(i.unflatten(0, shape) for i in self.tokenized(captions)), empty.view(shape)

    @staticmethod
    def build() -> nn.Module:
        return build_unet().to(memory_format=torch.channels_last)

    def predict(
        self, model: nn.Module, x: torch.Tensor, s: torch.Tensor, text: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """x (B, 12, 16, 16), s (B, 1, 1, 1) -> velocity, like x"""
        return model(x, 1000 * s.flatten(), *text, return_dict=False)[0]

    def batch(self, step: int, size: int, seed: int) -> tuple:
        """latents (B, 12, 16, 16), text, which rows have an empty caption (B, 1, 1, 1)"""
        rows = torch.from_numpy(batch_at(step, len(self.people), size, seed)).to(device())
        which = torch.randint(0, CAPTIONS, (size,), device=device())
        ids, empty = self.words
        latents = self.latents[rows].float().contiguous(memory_format=torch.channels_last)
        text = self.read(tuple(one[rows, which] for one in ids))
        return latents, text, empty[rows, which].view(-1, 1, 1, 1)
