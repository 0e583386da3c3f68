"""The colours of skin and hair, which the classifier does not name: read from the pixels."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..pocket import data

if TYPE_CHECKING:
    from PIL import Image

NEAR = 60  # of 765: pixels that are farther from every colour of the drawings are of none
VISIBLE = 0.04  # share of a picture; below it light hair cannot be told from the ink's soft edges


@functools.cache
def palette() -> np.ndarray:
    """All colours of the drawings (n, 3): skin first, then hair, then the others."""
    others = {"#000000", "#ffffff"}
    for name in ("shirt", "background"):
        others |= {colour for variants in data.VARIANTS[name].values() for colour in variants}
    colours = [*data.SKIN, *data.HAIR, *sorted(others)]
    return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], np.float32)


def shares(frame: Image.Image) -> np.ndarray:
    """A PIL image -> the share of its pixels that are nearest to each colour of `palette()`."""
    pixels = np.asarray(frame.convert("RGB"), np.float32)[::2, ::2].reshape(-1, 1, 3)
    distances = np.abs(pixels - palette()).sum(-1)
    nearest = distances.argmin(-1)[distances.min(-1) < NEAR]
    return np.bincount(nearest, minlength=len(palette())) / len(pixels)


def skin_and_hair(frames: list) -> tuple[int, int]:
    """Indices into `data.SKIN` and `data.HAIR` for a picture, or the frames of a video.

    Hair of the first colour is as dark as the ink, so 0 also stands for hair that is not seen.
    """
    mean = np.mean([shares(frame) for frame in frames], axis=0)
    skin, hair = mean[: len(data.SKIN)], mean[len(data.SKIN) :][: len(data.HAIR)]
    light = hair[1:]
    return int(skin.argmax()), int(light.argmax()) + 1 if light.max() > VISIBLE else 0
