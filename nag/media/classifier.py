"""The classifier that reads the pocket models' pictures."""

import torch
from torch import nn


class Classifier(nn.Module):
    """Says what a portrait shows: one softmax per attribute, over as many values as `counts` says.

    `features` (B, 256) are what the Frechet distance is measured in. Pictures in [-1, 1], (B, 3,
    128, 128).
    """

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        layers, width = [], 3
        for out in (32, 64, 96, 128, 256):
            layers += [
                nn.Conv2d(width, out, 3, stride=2, padding=1),
                nn.GroupNorm(8, out),
                nn.SiLU(),
            ]
            width = out
        self.trunk = nn.Sequential(*layers)  # (B, 256, 4, 4)
        self.project = nn.Linear(256 * 16, 256)
        self.heads = nn.ModuleList(nn.Linear(256, count) for count in counts)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.project(self.trunk(pictures).flatten(1)))

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        features = self.features(pictures)
        return [head(features) for head in self.heads]
