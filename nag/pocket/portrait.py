"""pocket-portrait: a UNet with cross-attention, and what a denoiser learns from.

Shapes: B rows, latents (B, 12, 16, 16), noise levels s (B, 1, 1, 1) from 0 (picture) to 1 (noise).
"""

from __future__ import annotations

import random
from collections.abc import Callable
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

    A text is a tuple of tensors with one row per caption; `predict` gives the velocity n - x for
    it. A subclass is another denoiser.
    """

    name, lr, muon, size = "unet", 8e-4, None, 32  # muon: as of `fit`; size: rows of a batch

    def __init__(self, run: Path) -> None:
        self.latents = np.load(run / "latents.npy")
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

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        return (self.text_encoder(tokenize(self.tok, captions)).last_hidden_state.float(),)

    @staticmethod
    def build() -> nn.Module:
        return build_unet().to(memory_format=torch.channels_last)

    def level(self, share: torch.Tensor) -> torch.Tensor:
        """The noise level that stands `share` of the way from the picture (0) to the noise (1)."""
        return share

    def predict(
        self, model: nn.Module, x: torch.Tensor, s: torch.Tensor, text: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """x (B, 12, 16, 16), s (B, 1, 1, 1) -> velocity, like x"""
        return model(x, 1000 * s.flatten(), *text, return_dict=False)[0]

    def target(self, x: torch.Tensor, s: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """What `predict` is to say at `x` and `s`: velocity, n - x of the picture it came from."""
        return velocity

    def batch(self, step: int, size: int, seed: int) -> tuple:
        """latents (B, 12, 16, 16), text, which rows have an empty caption (B, 1, 1, 1)"""
        return self.rows(self.latents, self.people, data.caption, step, size, seed)

    def rows(
        self, latents: np.ndarray, people: list, caption: Callable, step: int, size: int, seed: int
    ) -> tuple:
        rng, rows = random.Random(step * 31 + seed), batch_at(step, len(people), size, seed)
        captions = [caption(people[i], rng) for i in rows]
        latents = torch.from_numpy(latents[rows]).to(device()).float()
        if latents.ndim == 4:
            latents = latents.contiguous(memory_format=torch.channels_last)
        empty = torch.tensor([c == "" for c in captions], device=device()).view(-1, 1, 1, 1)
        return latents, self.encode(captions), empty
