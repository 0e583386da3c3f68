"""A preset becomes a loaded pipeline: device, dtype, scheduler, LoRA, offload."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import private
from ..errors import NAGError, Refused
from ..home import HOME
from ..presets import Preset
from . import failures, zero_gpu
from .memory import check_memory, free_memory, place
from .repairs import repair
from .reuse import EmbeddingCache
from .single_file import from_file, pipeline_class
from .words import CutWords

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from ..media.meter import Meter
    from .single_file import Dtypes

_importing = threading.Lock()


@dataclass
class Loaded:
    """A pipeline that is ready to be called, and what was found out about it on the way.

    device: "cuda", "mps" or "cpu". dtype: of the denoiser, e.g. "bfloat16". meter: the classifier
    that reads its pictures, or None. placement: where the weights stay, see `memory.placement`.
    """

    preset: Preset
    pipe: DiffusionPipeline
    device: str
    dtype: str
    vae_dtype: torch.dtype | None
    meter: Meter | None = None
    placement: str = ""
    warm: set = field(default_factory=set)  # ((width, height, frames), columns) that ran once
    # (width, height, frames, count) -> seconds that so many previews take
    previews: dict = field(default_factory=dict)
    # (channels + 1, 3): latents to red, green, blue, see `previews`
    colours: torch.Tensor | None = None
    operations: dict = field(default_factory=dict)  # (size, column) -> of one step, see `work`
    words: EmbeddingCache = field(default_factory=EmbeddingCache)  # encoded already
    cut: CutWords = field(default_factory=CutWords)  # of them, how many words


def accelerator() -> str:
    """Where models go on this machine: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(preset: Preset) -> Loaded:
    """Loads a preset's pipeline, from a folder or the hub. Raises `Refused`."""
    import torch
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for log in (logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()
    device = zero_gpu.device(preset) or accelerator()
    check_memory(preset, device)
    dtype = dtype_of(preset, device)
    try:
        pipe = _from_pretrained(preset, getattr(torch, dtype))
        _prepare(preset, pipe)
        placement = place(pipe, device)
        pipe.set_progress_bar_config(disable=True)
        meter = _meter(preset)
    except NAGError:
        raise
    except Exception as error:
        raise Refused(failures.of_loading(error, preset)) from error
    vae_dtype = getattr(getattr(pipe, "vae", None), "dtype", None)
    return Loaded(preset, pipe, device, dtype, vae_dtype, meter, placement)


def import_libraries() -> None:
    """Imports torch and diffusers, which takes seconds, in one thread at a time: of two that import
    diffusers at once, one finds a module half made (`ImportError: partially initialized module`),
    for its modules import one another."""
    with _importing:
        importlib.import_module("nag.guidance")


def _from_pretrained(preset: Preset, dtype: Dtypes) -> DiffusionPipeline:
    import diffusers
    import torch

    source = str(HOME / preset.model) if preset.local else preset.model
    cls = pipeline_class(preset) if preset.weights else getattr(diffusers, preset.pipeline)
    if preset.vae_dtype:
        dtype = {"default": dtype, "vae": getattr(torch, preset.vae_dtype)}
    # never code that came with a model, never pickles
    options = {
        "revision": preset.revision,
        "variant": preset.variant,
        "use_safetensors": True,
        "local_files_only": preset.local,
        "trust_remote_code": False,
    }
    if preset.weights:
        return from_file(cls, preset, source, dtype, options)
    return cls.from_pretrained(source, dtype=dtype, **options)


def _prepare(preset: Preset, pipe: DiffusionPipeline) -> None:
    """The preset's scheduler and LoRA, and what the pipeline still needs."""
    import diffusers

    if preset.scheduler:
        configuration = dict(preset.scheduler)
        cls = getattr(diffusers, configuration.pop("class"))
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **configuration)
    if preset.lora:
        try:
            import peft  # noqa: F401
        except ImportError:
            raise Refused(
                f"{preset.title} is a LoRA, and loading one needs one more package: "
                "pip install peft."
            ) from None
        lora = dict(preset.lora)
        pipe.load_lora_weights(lora.pop("model"), **lora)
        pipe.fuse_lora()
    repair(pipe, video=bool(preset.fps))


def _meter(preset: Preset) -> Meter | None:
    """The classifier that reads a preset's pictures, or None."""
    if not preset.meter:
        return None
    from ..media.meter import Meter

    return Meter.load(HOME / preset.meter)


def dtype_of(preset: Preset, device: str) -> str:
    """What is computed in; the same on every start. Models that ship are small: in float32 they
    draw one picture on every machine. Of the others a processor takes what is fastest: bfloat16
    where it has matrix units for it, else float32."""
    if preset.shipped:
        return "float32"
    if device == "cpu":
        return "bfloat16" if private.has_matrix_units() else "float32"
    return "bfloat16" if preset.dtype == "auto" else preset.dtype


class PipelineCache:
    """Keeps the last loaded pipeline, and the pocket models beside it. Not thread-safe: the
    engine's lock guards it."""

    def __init__(self, loader: Callable[[Preset], Loaded] = load) -> None:
        self.loader, self.loaded = loader, {}

    def get(self, preset: Preset) -> Loaded:
        if preset.name not in self.loaded:
            if not preset.shipped:
                for name in [n for n, other in self.loaded.items() if not other.preset.shipped]:
                    if name not in zero_gpu.chosen():
                        del self.loaded[name]
                free_memory()
            self.loaded[preset.name] = self.loader(preset)
        return self.loaded[preset.name]
