"""Renders of the pocket models' data, to measure distances to, and how the classifier sees them.

All went through the model's VAE, so that its own loss is not counted as damage.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..engine.provenance import contents
from ..errors import Refused
from ..home import HOME
from ..media import meter
from ..pocket import clips, data, lids, people
from . import draw
from .cases import CASES

if TYPE_CHECKING:
    from diffusers import ModelMixin

COMPONENTS = 32
# renders of each case, others of it for the floor, and held-out ones on which the classifier is
# tried and the components are found; clips take 20 times as long
REFERENCES, FLOOR, KNOWN = 256, 256, 600
CLIP_REFERENCES, CLIP_FLOOR, KNOWN_CLIPS = 64, 16, 160


def check(frechet: bool, motions: bool = False) -> None:
    """Raises `Refused` where what these need cannot be rendered."""
    try:
        import dicebear  # noqa: F401
        import dicebear_styles  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError:
        if frechet or motions:
            what = "The Frechet distance needs" if frechet else "Reading motions needs"
            raise Refused(
                f"{what} rendered references: pip install '.[evaluate]' "
                "(dicebear-core, dicebear-styles, resvg-py), or leave it out by "
                "--metrics attribute keep."
            ) from None


class References:
    """The classifier, and renders without the attribute of each case, kept in `folder`."""

    def __init__(
        self, painter: draw.Painter, folder: Path, cases: list[str], tuning: bool, size: int
    ) -> None:
        self.painter, self.folder, self.size = painter, folder, size
        self.cases, self.tuning = cases, tuning
        self.reader = meter.Meter.load(HOME / painter.preset.meter)
        self.names = list(self.reader.attributes)
        self.of_video = bool(painter.preset.fps)
        self.count = CLIP_REFERENCES if self.of_video else REFERENCES
        self.spare = CLIP_FLOOR if self.of_video else FLOOR
        self.known = KNOWN_CLIPS if self.of_video else KNOWN

    @functools.cached_property
    def found(self) -> dict[str, torch.Tensor]:
        """Rendered once in this folder, then read; what was rendered before a run was stopped too.

        mean (256,) and basis (256, 32) of the features; accuracy (attributes,) of the classifier;
        of each case its references (n, 32), and as "CASE floor" others of them (m, 32).
        """
        from safetensors.torch import load_file

        path = self.folder / f"references-{self._key()}.safetensors"
        if path.exists():
            return load_file(path)
        part = path.with_suffix(".part")
        found = load_file(part) if part.exists() else self._known()
        source = clips if self.of_video else data
        for case in self.cases:
            for name, count, seed in ((case, self.count, 7), (f"{case} floor", self.spare, 8)):
                if name not in found:
                    renders = self._renders(self._without(source, case, count, seed))
                    found[name] = (look(self.reader, renders)[1] - found["mean"]) @ found["basis"]
                    _write(found, part)
        part.replace(path)
        return found

    def _known(self) -> dict[str, torch.Tensor]:
        """What held-out renders say: accuracy, mean, basis."""
        source, rng = (clips if self.of_video else data), random.Random(99)
        sample = source.sample_clip if self.of_video else source.sample_person
        known = [sample(rng) for _ in range(self.known)]
        labels, features = look(self.reader, self._renders(known))
        whom = [one.person if self.of_video else one for one in known]
        truth = torch.tensor([data.encode_labels(person) for person in whom])
        found = {"accuracy": (labels == truth).float().mean(0), "mean": features.mean(0)}
        centred = features - found["mean"]
        found["basis"] = torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS].mT
        return found

    def _key(self) -> str:
        """All that the renders depend on."""
        modules = (data, people, clips, lids) if self.of_video else (data, people)
        parts = [
            contents(HOME / self.painter.preset.meter),
            self.painter.identity["weights"],
            self.painter.preset.model_name,
            self.cases,
            self.tuning,
            self.size,
            (self.count, self.spare, self.known, COMPONENTS),
            CASES,
            *(Path(module.__file__).read_text(encoding="utf-8") for module in modules),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _without(self, source, case: str, count: int, seed: int) -> list:
        attribute, value, *roles = CASES[case]
        roles = roles[not self.tuning]
        return [
            one
            for role in roles
            for one in source.references(role, (attribute, value), count // len(roles), seed)
        ]

    def _renders(self, drawn: list) -> list:
        render, together = (clips if self.of_video else data).render, 4 if self.of_video else 32
        return renders(self.painter.loaded.pipe.vae, drawn, render, self.size, together)

    def components(self, features: torch.Tensor) -> torch.Tensor:
        """Features (n, 256) -> (n, 32)"""
        return (features - self.found["mean"]) @ self.found["basis"]

    @property
    def accuracy(self) -> dict[str, float]:
        shares = self.found["accuracy"].tolist()
        return {name: round(share, 4) for name, share in zip(self.names, shares, strict=True)}


def _write(found: dict[str, torch.Tensor], path: Path) -> None:
    """All or nothing: a run may be stopped while it writes."""
    from safetensors.torch import save_file

    unfinished = path.with_suffix(".unfinished")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, unfinished)
    unfinished.replace(path)


def renders(
    vae: ModelMixin,
    drawn: list,
    render: Callable = data.render,
    size: int = data.SIZE,
    together: int = 32,
) -> list[list]:
    """Renders of people, or of clips, as the VAE gives them back: a list of frames for each."""
    one, pictures = next(vae.parameters()), []
    with torch.inference_mode():
        for start in range(0, len(drawn), together):
            some = drawn[start : start + together]
            exact = np.stack([np.asarray(render(each, size)) for each in some])
            # in many clips most of the frames are the same
            different, places = clips.distinct(exact.reshape(-1, *exact.shape[-3:]))
            pixels = (torch.from_numpy(different).float() / 127.5 - 1).to(one).movedim(-1, -3)
            decoded = vae.decode(vae.encode(pixels).latents).sample.float().cpu().clamp(-1, 1)
            decoded = ((decoded + 1) * 127.5).round().byte().movedim(-3, -1).numpy()[places]
            decoded = decoded.reshape(len(exact), -1, *exact.shape[-3:])
            pictures += [[Image.fromarray(frame) for frame in frames] for frames in decoded]
    return pictures


def look(reader: meter.Meter, pictures: list[list]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of frames -> labels (n, attributes), features (n, 256).

    Of a video, both are of the mean over its frames.
    """
    labels, features = [], []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            part = pictures[start : start + 64]
            counts = [len(frames) for frames in part]
            frames = torch.stack([reader.tensor(frame) for frames in part for frame in frames])
            near = reader.model.features(frames)
            chances = [head(near).softmax(-1) for head in reader.model.heads]
            means = [[rows.mean(0) for rows in head.split(counts)] for head in chances]
            labels.append(torch.stack([torch.stack(rows).argmax(-1) for rows in means], 1))
            features.append(torch.stack([rows.mean(0) for rows in near.split(counts)]))
    return torch.cat(labels), torch.cat(features)
