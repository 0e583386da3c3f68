"""Small pictures of unfinished latents.

A linear map from a latent's channels to red, green and blue gives one at every step for nearly
nothing. It is fitted to what the model's own decoder made of the first latents that were seen, and
again to every finished picture.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import private
from ..request import Request
from .clock import split_rows
from .loading import Loaded

if TYPE_CHECKING:
    import torch

log = logging.getLogger("nag")
PREVIEW_EVERY = 1 / 8  # seconds
PREVIEW_SHARE = 0.03  # of a column's time, at most


class Previews:
    """Small pictures of the unfinished latents of a call's columns. Made between two steps, while
    the clock stands still: beside the sampling they would take its time, and more from short
    columns than from long ones.

    Decoded ones take at most PREVIEW_SHARE of the time since the column began; in between, and in
    columns too short for that, the linear map draws them.
    """

    # decoding is done at most this large: a preview costs a fraction of a step on any model
    LATENT_SIDE = 24

    def __init__(self, loaded: Loaded, request: Request, count: int = 1) -> None:
        self.loaded, self.request, self.count, self.next = loaded, request, count, 0.0
        self.size = request.width, request.height, request.num_frames, count

    def wait(self) -> None:
        """From now on until the next previews: as long as makes up for them."""
        self.next = time.monotonic() + max(
            PREVIEW_EVERY, self.loaded.previews.get(self.size, 0) / PREVIEW_SHARE
        )

    def make(self, latents: torch.Tensor) -> list:
        """A preview for each column of the call; None for each where there is no map yet."""
        if time.monotonic() < self.next:
            return self._each(latents, self._linear)
        previews = self.draw(latents)
        self.wait()
        return previews

    def draw(self, latents: torch.Tensor) -> list:
        """Previews at once, whose time is noted."""
        begun = time.monotonic()
        try:
            return self._each(latents, self._decode)
        finally:
            self.loaded.previews[self.size] = time.monotonic() - begun

    def learn(self, latents: torch.Tensor, images: list) -> None:
        """Fits the linear map to the last latents of a call and the picture of its first column."""
        with self._trying():
            first = split_rows(latents, self.count)[0][:1]
            self._fit(self._plane(first), images[0])

    def _each(self, latents: torch.Tensor, function: Callable) -> list:
        """`function` of each column's latents; None of each where one of them cannot be shown."""
        with self._trying():
            return [function(one[:1]) for one in split_rows(latents, self.count)]
        return [None] * self.count

    @staticmethod
    @contextlib.contextmanager
    def _trying() -> Iterator[None]:
        """A model whose latents we cannot show is still a model."""
        try:
            yield
        except Exception:
            log.debug("no preview", exc_info=True)

    def _plane(self, latents):
        return _middle(self.loaded.pipe, latents, self.request)  # (1, C, H, W)

    def _linear(self, latents):
        latents, weights = self._plane(latents), self.loaded.colours
        if weights is None or weights.shape[0] != latents.shape[1] + 1:
            return None
        return _image(_with_ones(latents) @ weights, latents.shape[-2:])

    def _fit(self, latents, image) -> None:
        """Least squares: channels, and a constant, to the colours of the picture made small."""
        import numpy as np
        import torch

        height, width = latents.shape[-2:]
        small = np.asarray(image.convert("RGB").resize((width, height)), np.float32) / 127.5 - 1
        colours = torch.from_numpy(small).reshape(-1, 3)  # (H W, 3)
        known = _with_ones(latents)  # (H W, C + 1)
        ridge = 1e-3 * len(known) * torch.eye(known.shape[1])
        self.loaded.colours = torch.linalg.solve(known.T @ known + ridge, known.T @ colours)

    def _decode(self, latents):
        import torch
        from PIL import Image

        with torch.inference_mode():
            vae, latents = self.loaded.pipe.vae, self._plane(latents)
            overflows = getattr(vae.config, "force_upcast", False) and vae.dtype == torch.float16
            if overflows or private.offload_hook(vae) is not None:
                # Decoding would overflow, or push an offloaded denoiser off the GPU between two
                # steps.
                return _colours(latents)
            side = max(latents.shape[-2:])
            if side > self.LATENT_SIDE:
                latents = torch.nn.functional.interpolate(
                    latents.float(), scale_factor=self.LATENT_SIDE / side, mode="area"
                )
            try:
                pixels = _pixels(vae, latents)  # (3, H, W)
            except Exception:  # a decoder that wants more than latents
                return _colours(latents)
            pixels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
            image = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
            if self.loaded.colours is None:
                self._fit(latents, image)
        return image


def _with_ones(latents):
    """(1, C, H, W) -> (H W, C + 1) on the processor, the last column ones."""
    import torch

    flat = latents[0].float().cpu().flatten(1).T
    return torch.cat([flat, torch.ones(len(flat), 1)], 1)


def _image(colours, size):
    """(H W, 3), -1 to 1 -> PIL image."""
    from PIL import Image

    pixels = ((colours.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.reshape(*size, 3).numpy())


def _middle(pipe, latents, request: Request):
    """A picture's latents, or those of a video's middle frame, (1, C, H, W), whatever form the
    pipeline keeps them in."""
    channels = getattr(pipe.vae.config, "latent_channels", None) or getattr(
        pipe.vae.config, "z_dim", None
    )
    if latents.ndim == 3 and request.num_frames > 1:  # tokens of all frames, (1, F H W, C)
        height, width = (
            side // pipe.vae_spatial_compression_ratio for side in (request.height, request.width)
        )
        latents = latents.unflatten(1, (-1, height, width)).permute(0, 4, 1, 2, 3)
    elif latents.ndim == 3:
        latents = private.unpack_latents(pipe, latents, request.height, request.width)
    if latents.ndim == 5:
        frames = (
            1 if latents.shape[2] == channels and latents.shape[1] != channels else 2
        )  # CogVideoX has the frames first
        latents = latents.select(frames, latents.shape[frames] // 2)
    return latents


def _pixels(vae, latents):
    """One frame's latents (1, C, H, W), as the denoiser has them, through the decoder -> (3, H, W),
    -1 to 1."""
    import torch

    one = next(vae.parameters())
    latents = latents.to(one)
    buffers = dict(vae.named_buffers(recurse=False))
    mean, std = (
        buffers.get(name, getattr(vae.config, name, None))
        for name in ("latents_mean", "latents_std")
    )
    scale = getattr(vae.config, "scaling_factor", None) or 1
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(x).to(one).reshape(1, -1, 1, 1) for x in (mean, std))
        latents = latents * std / scale + mean
    else:
        latents = latents / scale + (getattr(vae.config, "shift_factor", None) or 0)
    of_video = any(isinstance(m, torch.nn.Conv3d) for m in vae.modules())
    pixels = vae.decode(latents.unsqueeze(2) if of_video else latents, return_dict=False)[0][0]
    return pixels[:, 0] if of_video else pixels


def _colours(latents):
    """Three latent channels as colours: no decoder needed."""
    from PIL import Image

    pixels = latents[0, :3].float().cpu()
    pixels = (pixels / pixels.std().clamp_min(1e-6) / 6 + 0.5).clamp(0, 1)
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())
