"""The VAE of all pocket models, and pictures as latents (B, 12, 16, 16).

A picture is (B, 3, 128, 128) in [-1, 1].
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import SHIPPED, data
from .loop import autocast, batch_at, device, fit, load_average

LATENT_CHANNELS = 12
CROP = 64  # px

# luminance, blue against yellow, green against magenta: hue is lost first, so it is asked for by
# name
OPPONENT = torch.tensor([[0.299, 0.587, 0.114], [-0.5, -0.5, 1.0], [-0.5, 1.0, -0.5]])


def build_vae() -> nn.Module:
    """AutoencoderTiny, 8x downsampling.

    One decoder block works at 64 px: without it all above 32 px is linear, hence soft.
    """
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(64,) * 4,
        decoder_block_out_channels=(64,) * 4,
        num_encoder_blocks=(0, 0, 2, 2),
        num_decoder_blocks=(2, 4, 1, 0),
    )
    # The default initialisation shrinks the signal block by block until nothing is left.
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in vae.named_modules():
        if name.endswith("conv.4"):  # the last convolution of a residual block
            module.weight.data.mul_(0.2)
    vae.decoder.layers[-1].weight.data.mul_(0.1)
    nn.init.constant_(vae.decoder.layers[-1].bias, 0.6)  # the mean of the pictures
    return vae


def pictures(run: Path) -> np.ndarray:
    """uint8 (N, 128, 128, 3), on disk."""
    return np.load(run / "data" / "pictures.npy", mmap_mode="r")


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(array)).to(device())
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + gradients (the ink lines) + 8x8 means in opponent colours (the hue)."""
    error = output - target
    lines = (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
    colour = torch.einsum("oc,bchw->bohw", OPPONENT.to(error), F.avg_pool2d(error, 8))
    return error.abs().mean() + error.square().mean() + lines + 2 * colour.abs().mean()


def crops(source: np.ndarray, step: int, size: int) -> torch.Tensor:
    """(size, 3, 64, 64), one of each picture of a batch."""
    rows = batch_at(step, len(source), size, seed=1)
    corner = np.random.default_rng(step).integers(0, data.SIZE - CROP + 1, (size, 2))
    cut = [source[i, y : y + CROP, x : x + CROP] for i, (y, x) in zip(rows, corner, strict=True)]
    return to_tensor(np.stack(cut)).contiguous(memory_format=torch.channels_last)


def train_vae(run: Path, steps: int, size: int = 32) -> nn.Module:
    """On 64 px crops. Noise on the latents teaches the decoder to forgive the denoiser; latents are
    pulled to mean 0, variance 1."""
    vae, source = build_vae().to(memory_format=torch.channels_last), pictures(run)

    def loss(step):
        target = crops(source, step, size)
        latents = vae.encode(target).latents.float()
        mean, var = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        spread = mean.square().mean() + var.clamp_min(1e-4).log().square().mean()
        output = vae.decode(latents + 0.1 * torch.randn_like(latents)).sample.float()
        mse = (output.detach().clamp(-1, 1) - target).square().mean()
        return picture_loss(output, target) + 0.05 * spread, {"psnr": 10 * torch.log10(4 / mse)}

    return fit("vae", run, vae, loss, steps, lr=1.5e-3)


def load_vae(run: Path) -> nn.Module:
    """This run's, or the one that ships."""
    if (run / "vae.pt").exists():
        vae = build_vae()
        load_average(vae, run / "vae.pt")
    else:
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny.from_pretrained(SHIPPED / "vae", dtype=torch.float32)
    return vae.to(memory_format=torch.channels_last).to(device()).eval().requires_grad_(False)


@torch.no_grad()
def encode_pictures(run: Path, count: int = 0, size: int = 100) -> None:
    """The first `count` pictures, or all, as latents, fp16, on disk.

    Prints their mean and standard deviation: flow matching wants about 0 and 1.
    """
    from tqdm import tqdm

    path, source, vae = run / "latents.npy", pictures(run), load_vae(run)
    source = source[: count or None]
    if path.exists():
        return
    out = np.empty((len(source), LATENT_CHANNELS, 16, 16), np.float16)
    for start in tqdm(range(0, len(source), size), desc="encode", mininterval=20):
        with autocast():
            latents = vae.encode(to_tensor(source[start : start + size])).latents
        out[start : start + size] = latents.float().cpu().numpy()
    some = out[:4000].astype(np.float32)
    print("latents: mean", some.mean((0, 2, 3)).round(2), "std", some.std((0, 2, 3)).round(2))
    np.save(path, out)
