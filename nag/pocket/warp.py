"""Portraits that a model has drawn, moved as `clips` moves its drawings.

A drawing's head is a part of it and turns alone; a picture has no parts, so here its neck bends.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from . import clips

THROAT = 490, 590  # in a drawing's units: all above is moved, all below stands, the neck bends


def warped(pictures: torch.Tensor, motion: str, frames: Sequence[int] | np.ndarray) -> torch.Tensor:
    """What `clips.FRAMES` of the motion look like, those of these numbers.

    pictures: (B, C, H, W) of any range. Returns (B, F, C, H, W).
    motion: one of `clips.MOVED`.
    """
    count, _, *size = pictures.shape
    grid = torch.stack([_sources(motion, frame, size) for frame in frames]).to(pictures)
    many = pictures[:, None].expand(-1, len(frames), -1, -1, -1).flatten(0, 1)
    how = {"mode": "bicubic", "padding_mode": "border", "align_corners": False}
    return F.grid_sample(many, grid.repeat(count, 1, 1, 1), **how).unflatten(0, (count, -1))


def _sources(motion: str, frame: int, size: Sequence[int]) -> torch.Tensor:
    """Where every pixel of a frame comes from, (H, W, 2), as `grid_sample` counts: -1 to 1."""
    (across, down, degrees), (left, top, side) = clips.pose(motion, frame / clips.FRAMES)
    ys, xs = (side * (torch.arange(n) + 0.5) / n for n in size)
    y, x = torch.meshgrid(ys + top, xs + left, indexing="ij")
    begin, end = THROAT
    share = ((end - y) / (end - begin)).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = x - across - clips.NECK[0], y - down - clips.NECK[1]
    head = cos * dx + sin * dy + clips.NECK[0], cos * dy - sin * dx + clips.NECK[1]
    came = (share * there + (1 - share) * here for there, here in zip(head, (x, y), strict=True))
    return 2 * torch.stack(list(came), dim=-1) / clips.SIDE - 1
