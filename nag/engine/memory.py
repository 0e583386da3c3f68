"""Where a model's weights stay, and whether there is room for them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused
from ..presets import Preset, needed
from .zero_gpu import on_zero_gpu

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ON_A_PROCESSOR = 2.4  # half-precision weights run in float32 there, and with what is beside them


def placement(total_gb: float, largest_gb: float, free_gb: float) -> str:
    """Where weights stay that need `total_gb`, `largest_gb` of it in one part, on a GPU with
    `free_gb`: "" (all on the GPU), "model offload" (one part at a time), or "sequential offload"
    (one layer at a time: many times slower)."""
    if needed(total_gb) <= free_gb:
        return ""
    return "model offload" if needed(largest_gb) <= free_gb else "sequential offload"


def place(pipe: DiffusionPipeline, device: str) -> str:
    """Brings a pipeline to a device, as much of it as fits. -> its `placement`."""
    import torch

    if device != "cuda" or on_zero_gpu():  # whose GPU cannot be asked before a call begins
        pipe.to(device)
        return ""
    sizes = [
        sum(p.numel() * p.element_size() for p in part.parameters()) / 1e9
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    where = placement(sum(sizes), max(sizes), torch.cuda.mem_get_info()[0] / 1e9)
    {
        "": lambda: pipe.to(device),
        "model offload": pipe.enable_model_cpu_offload,
        "sequential offload": pipe.enable_sequential_cpu_offload,
    }[where]()
    return where


def runs_here(preset: Preset) -> str:
    """What this machine can do with a preset, in a few words; nothing is loaded."""
    import torch

    if preset.shipped:
        return "runs here: its weights are in assets/"
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0] / 1e9
        where = placement(preset.size_gb, preset.largest_gb or preset.size_gb, free)
        return f"runs here{', with ' + where if where else ''} ({free:.0f} GB free on the GPU)"
    try:
        check_memory(preset, "cpu")
    except Refused:
        return "needs a GPU"
    return "runs here on the processor, slowly"


def check_memory(preset: Preset, device: str) -> None:
    """Before a download of tens of gigabytes, not after it. Raises `Refused`."""
    free = free_gb()
    if preset.local or not preset.size_gb or device != "cpu" or free is None:
        return
    need = preset.size_gb * ON_A_PROCESSOR
    if need > free:
        raise Refused(
            f"{preset.title} needs a GPU, or about {need:.0f} GB of free memory on a processor; "
            f"here are {free:.0f} GB and no GPU. The pocket presets run everywhere."
        )


def free_gb() -> float | None:
    """The processor's free memory, or None where the system does not say (Linux does)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) / 1e6
    except (OSError, StopIteration):
        return None


@contextlib.contextmanager
def peak_of(device: str) -> Iterator[Callable[[], int]]:
    """-> a function that returns the most bytes that tensors held on the GPU at once since then,
    the model's weights among them. 0 on a processor: what a process holds there is mostly its
    libraries, and what it has given back is not given back to the system."""
    import torch

    measured = device.startswith("cuda")
    if measured:
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() if measured else 0


def free_memory() -> None:
    """Gives back what is no longer used, a GPU's too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
