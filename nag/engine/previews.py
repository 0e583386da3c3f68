"""Small pictures of unfinished latents."""

import logging
import time

from .. import private
from ..request import Request
from .clock import split_rows
from .loading import Loaded

log = logging.getLogger("nag")
PREVIEW_EVERY = 1 / 8  # seconds
PREVIEW_SHARE = 0.03  # of a column's time, at most


class Previews:
    """Small pictures of the unfinished latents of a call's columns. Made between two steps, while the clock stands still:
    beside the sampling they would take its time, and more from short columns than from long ones. They are never more than PREVIEW_SHARE
    of the time since the column began: one that is done before that is enough for a preview has none."""

    LATENT_SIDE = (
        24  # decoding is done at most this large: a preview costs a fraction of a step on any model
    )

    def __init__(self, loaded: Loaded, request: Request, count: int = 1):
        self.loaded, self.request, self.count, self.next = loaded, request, count, 0.0
        self.size = request.width, request.height, request.num_frames, count

    def wait(self) -> None:
        """From now on until the next previews: as long as makes up for them."""
        self.next = time.monotonic() + max(
            PREVIEW_EVERY, self.loaded.previews.get(self.size, 0) / PREVIEW_SHARE
        )

    def make(self, latents) -> list:
        """A preview for each column of the call, or None for each where it is too early."""
        if time.monotonic() < self.next:
            return [None] * self.count
        previews = self.draw(latents)
        self.wait()
        return previews

    def draw(self, latents) -> list:
        """Previews at once, whose time is noted."""
        begun = time.monotonic()
        try:
            return [
                self._decode(self.loaded.pipe, one[:1], self.request)
                for one in split_rows(latents, self.count)
            ]
        except Exception:
            log.debug(
                "no preview", exc_info=True
            )  # a model whose latents we cannot show is still a model
            return [None] * self.count
        finally:
            self.loaded.previews[self.size] = time.monotonic() - begun

    def _decode(self, pipe, latents, request: Request):
        import torch
        from PIL import Image

        with torch.inference_mode():
            vae, latents = pipe.vae, _middle(pipe, latents, request)  # (1, C, H, W)
            overflows = getattr(vae.config, "force_upcast", False) and vae.dtype == torch.float16
            if overflows or private.offload_hook(vae) is not None:
                # Decoding would overflow, or push an offloaded denoiser off the GPU between two steps.
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
            pixels = (
                ((pixels.float().clamp(-1, 1) + 1) * 127.5)
                .round()
                .byte()
                .permute(1, 2, 0)
                .cpu()
                .numpy()
            )
        return Image.fromarray(pixels)


def _middle(pipe, latents, request: Request):
    """A picture's latents, or those of a video's middle frame, (1, C, H, W), whatever form the pipeline keeps them in."""
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
    """One frame's latents (1, C, H, W), as the denoiser has them, through the decoder -> (3, H, W), -1 to 1."""
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
