"""What this machine can run, said before anything is loaded: torch is not asked."""

import functools
import platform
import shutil
from pathlib import Path

from ..engine.memory import check_memory
from ..engine.zero_gpu import on_zero_gpu
from ..errors import Refused
from ..presets import Preset


@functools.cache
def has_gpu() -> bool:
    """Whether there are signs of a GPU: a driver, Apple's chips, a ZeroGPU Space."""
    return bool(
        shutil.which("nvidia-smi")
        or Path("/dev/kfd").exists()
        or (platform.system() == "Darwin" and platform.machine() == "arm64")
        or on_zero_gpu()
    )


def needs_gpu(preset: Preset) -> bool:
    """Whether a preset's weights fit neither a GPU of this machine nor its main memory."""
    if preset.local or has_gpu():
        return False
    try:
        check_memory(preset, "cpu")
    except Refused:
        return True
    return False


def where(preset: Preset) -> str:
    """Whether a preset runs here, in a few words for the list of models."""
    if preset.local or has_gpu():
        return "runs here"
    return "needs a GPU" if needs_gpu(preset) else "slow here"


def grouped(presets: dict[str, Preset]) -> list[tuple[str, Preset]]:
    """Presets in the order of the list: what ships with this project, pictures, videos, edits; in
    each those first that run here."""

    def rank(preset):
        return 0 if preset.local else 3 if preset.image else 2 if preset.fps else 1

    return sorted(presets.items(), key=lambda item: (rank(item[1]), needs_gpu(item[1])))
