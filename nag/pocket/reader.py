"""The classifier that reads pictures of the pocket models: the meter of the page."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nag.media.classifier import Classifier

from . import SHIPPED, data
from .loop import batch_at, device, fit, load_average
from .vae import load_vae, pictures, to_tensor


def train_classifier(run: Path, steps: int, size: int = 64) -> Classifier:
    """On pictures as they come, a few of them as the VAE gives them back, slightly noisy: it will
    judge generated ones."""
    model, source, vae = Classifier(data.COUNTS), pictures(run), load_vae(run)
    labels = torch.tensor([data.encode_labels(p) for p in data.load_people(run / "data")])

    @torch.no_grad()
    def worn(images, step):
        if step % 2 == 0:
            latents = vae.encode(images[:12]).latents
            images[:12] = vae.decode(latents).sample.clamp(-1, 1).float()
        strength = torch.rand(size, 1, 1, 1, device=images.device)
        return images + 0.1 * strength * torch.randn_like(images)

    def loss(step):
        rows = np.sort(batch_at(step, len(source), size, seed=3))
        images = worn(to_tensor(source[rows]), step)
        target = labels[rows].to(images.device)
        out = model(images)
        value = sum(F.cross_entropy(logits.float(), target[:, k]) for k, logits in enumerate(out))
        right = [logits.argmax(-1) == target[:, k] for k, logits in enumerate(out)]
        return value, {"hit": torch.stack(right).float().mean()}

    return fit("classifier", run, model, loss, steps, lr=1e-3)


def load_classifier(run: Path) -> torch.nn.Module:
    """This run's, or the one that ships."""
    if not (run / "classifier.pt").exists():
        from nag.media.meter import Meter

        return Meter.load(SHIPPED / "classifier").model.to(device())
    model = Classifier(data.COUNTS)
    load_average(model, run / "classifier.pt")
    return model.to(device()).eval()
