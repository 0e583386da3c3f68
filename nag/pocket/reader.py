"""The classifiers that read pictures of the pocket models, and frames: the meters of the page."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..media.classifier import Classifier
from . import SHIPPED, clips, data
from .loop import batch_at, device, fit, load_average
from .vae import load_vae, pictures, to_tensor
from .warp import warped


def train_classifier(run: Path, steps: int, size: int = 64) -> Classifier:
    """On pictures as they come, a few of them as the VAE gives them back, slightly noisy: it will
    judge generated ones."""
    return _trained("classifier", run, Classifier(data.COUNTS), steps, size, 1e-3, lambda x, _: x)


def train_moved(run: Path, steps: int, size: int = 32) -> Classifier:
    """The video's: the portrait's, further trained on pictures of which most are moved as in clips.

    The portrait's own reads no glasses on a face that has gone two pixels.
    """
    return _trained("video-classifier", run, load_classifier(run), steps, size, 5e-4, moved)


def moved(pictures: torch.Tensor, step: int) -> torch.Tensor:
    """Of (B, 3, H, W) a sixth each as in some frame of every motion; the rest as they are."""
    rng, images = random.Random(step), pictures.clone()
    share = max(1, len(images) // 6)
    for i, motion in enumerate(clips.MOVED, start=1):
        rows = slice(i * share, (i + 1) * share)
        if len(images[rows]):
            images[rows] = warped(images[rows], motion, [rng.randrange(clips.FRAMES)])[:, 0]
    return images


def _trained(
    name: str,
    run: Path,
    model: Classifier,
    steps: int,
    size: int,
    lr: float,
    posed: Callable[[torch.Tensor, int], torch.Tensor],
) -> Classifier:
    source, vae = pictures(run), load_vae(run)
    labels = torch.tensor([data.encode_labels(p) for p in data.load_people(run / "data")])

    @torch.no_grad()
    def worn(images, step):
        if step % 2 == 0:
            which = torch.randperm(size)[:12]
            latents = vae.encode(images[which]).latents
            images[which] = vae.decode(latents).sample.clamp(-1, 1).float()
        strength = torch.rand(size, 1, 1, 1, device=images.device)
        return images + 0.1 * strength * torch.randn_like(images)

    def loss(step):
        rows = np.sort(batch_at(step, len(source), size, seed=3))
        images = worn(posed(to_tensor(source[rows]), step), step)
        target = labels[rows].to(images.device)
        out = model(images)
        value = sum(F.cross_entropy(logits.float(), target[:, k]) for k, logits in enumerate(out))
        right = [logits.argmax(-1) == target[:, k] for k, logits in enumerate(out)]
        return value, {"hit": torch.stack(right).float().mean()}

    return fit(name, run, model.requires_grad_(True), loss, steps, lr=lr)


def load_classifier(run: Path, name: str = "classifier") -> Classifier:
    """This run's, or the portrait's that ships. name: of its stage."""
    if not (run / f"{name}.pt").exists():
        from ..media.meter import Meter

        return Meter.load(SHIPPED / "classifier").model.to(device())
    model = Classifier(data.COUNTS)
    load_average(model, run / f"{name}.pt")
    return model.to(device()).eval()
