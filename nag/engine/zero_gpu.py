"""ZeroGPU, a Space of Hugging Face where a GPU is there during a call only.

Models are loaded at the start, for "cuda", which the platform moves to the GPU when a call begins;
what is loaded inside a call would be loaded anew in each, in the time that a visitor has.
"""

import os

from ..presets import Preset


def on_zero_gpu() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def chosen() -> tuple[str, ...]:
    """The presets that the Space's owner names, in NAG_PRESETS: "flux-schnell, sdxl"."""
    names = os.environ.get("NAG_PRESETS", "").replace(",", " ").split()
    return tuple(dict.fromkeys(names))


def device(preset: Preset) -> str | None:
    """Where a preset's model goes here; None where this is no ZeroGPU. Models that ship are small:
    they stay on the processor, and ask nobody for a GPU."""
    if not on_zero_gpu():
        return None
    return "cpu" if preset.shipped else "cuda"
