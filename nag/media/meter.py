"""Reads what a picture of the pocket models shows: "hat 93 %". The classifier's own accuracy stands
in its model card."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from PIL import Image


COLOURED = ("shirt", "background")  # attributes whose values are colours


class Meter:
    """`attributes`: {name: (value, ...)}; pictures are read at `size` px."""

    def __init__(self, model: torch.nn.Module, attributes: dict, size: int) -> None:
        self.model, self.attributes, self.size = model, attributes, size

    @classmethod
    def load(cls, folder: Path) -> Meter:
        from safetensors.torch import load_file

        from .classifier import Classifier

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = Classifier([len(values) for values in config["attributes"].values()])
        model.load_state_dict(
            {
                name: tensor.float()
                for name, tensor in load_file(folder / "model.safetensors").items()
            }
        )
        return cls(
            model.eval(),
            {name: tuple(values) for name, values in config["attributes"].items()},
            config["size"],
        )

    def named_in(self, text: str) -> list[tuple[str, str]]:
        """(attribute, value) pairs that a prompt names: "no glasses, red shirt" -> [("eyewear",
        "glasses"), ("shirt", "red")]"""
        text, found = f" {' '.join(re.findall(r'[a-z]+', text.lower()))} ", []
        for name, values in self.attributes.items():
            for value in values:
                if value != "none" and f" {self.phrase((name, value))} " in text:
                    found.append((name, value))
        return found

    def phrase(self, pair: tuple[str, str]) -> str:
        """How a caption says it: colours with what they colour."""
        return f"{pair[1]} {pair[0]}" if pair[0] in COLOURED else pair[1]

    def examples(self) -> list[str]:
        """What a negative prompt may name, one of each kind."""
        first = {n: next(v for v in values if v != "none") for n, values in self.attributes.items()}
        return [self.phrase(pair) for pair in first.items()]

    @torch.inference_mode()
    def read(self, pictures: Sequence[Image.Image | list[Image.Image]]) -> list[dict]:
        """PIL images, or lists of a video's frames -> {attribute: {value: probability}} for each;
        of a video, the mean over its frames."""
        pictures = [picture if isinstance(picture, list) else [picture] for picture in pictures]
        logits = self.model(
            torch.stack([self.tensor(frame) for frames in pictures for frame in frames])
        )
        shares = {
            name: [
                one.mean(0).tolist()
                for one in part.softmax(-1).split([len(frames) for frames in pictures])
            ]
            for name, part in zip(self.attributes, logits, strict=True)
        }
        return [
            {
                name: dict(zip(values, shares[name][row], strict=True))
                for name, values in self.attributes.items()
            }
            for row in range(len(pictures))
        ]

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """A picture as the classifier takes it: (3, size, size), -1 to 1."""
        import numpy as np
        from PIL import Image

        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
        return pixels.permute(2, 0, 1).float() / 127.5 - 1
