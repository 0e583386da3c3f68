"""A preset becomes a loaded pipeline: device, dtype, scheduler, LoRA, offload; what goes wrong becomes a sentence."""

import functools
import importlib
import threading
from dataclasses import dataclass, field
from typing import Any

from .. import private
from ..errors import Refused
from ..presets import FOLDER, Preset
from . import zero_gpu
from .memory import check_memory, free_memory, place
from .repairs import repair
from .reuse import EmbeddingCache
from .single_file import from_file, pipeline_class
from .words import CutWords

PROJECT = FOLDER.parent
_importing = threading.Lock()


@dataclass
class Loaded:
    """A pipeline that is ready to be called, and what was found out about it on the way."""

    preset: Preset
    pipe: Any
    device: str
    dtype: str
    vae_dtype: Any
    meter: Any = None
    placement: str = ""  # where the weights stay: "", "model offload", "sequential offload"
    warm: set = field(default_factory=set)  # (width, height, frames, columns) that ran once
    previews: dict = field(
        default_factory=dict
    )  # (width, height, frames, count) -> seconds that so many previews take
    colours: Any = None  # (channels + 1, 3): latents to red, green, blue, see `previews`
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
    folder = PROJECT / preset.model
    source, local = str(folder) if folder.is_dir() else preset.model, folder.is_dir()
    device = zero_gpu.device(preset) or accelerator()
    check_memory(preset, device, local)
    dtype = _dtype(preset, device)
    try:
        pipe = _from_pretrained(preset, source, preset.revision, getattr(torch, dtype), local)
        _prepare(preset, pipe)
        placement = place(pipe, device)
        pipe.set_progress_bar_config(disable=True)
        meter = None
        if preset.meter:
            from ..media.meter import Meter

            meter = Meter.load(PROJECT / preset.meter)
    except Refused:
        raise
    except Exception as error:
        raise Refused(explain(error, preset)) from error
    return Loaded(
        preset,
        pipe,
        device,
        dtype,
        getattr(getattr(pipe, "vae", None), "dtype", None),
        meter,
        placement,
    )


def import_libraries() -> None:
    """Imports torch and diffusers, which takes seconds, in one thread at a time: of two that import diffusers at once, one finds a module half
    made (`ImportError: partially initialized module`), for its modules import one another."""
    with _importing:
        importlib.import_module("nag.guidance")


def _from_pretrained(preset: Preset, source: str, revision: str | None, dtype, local: bool):
    import diffusers
    import torch

    cls = pipeline_class(preset) if preset.weights else getattr(diffusers, preset.pipeline)
    if preset.vae_dtype:
        dtype = {"default": dtype, "vae": getattr(torch, preset.vae_dtype)}
    # never code that came with a model, never pickles
    options = {
        "revision": revision,
        "variant": preset.variant,
        "use_safetensors": True,
        "local_files_only": local,
        "trust_remote_code": False,
    }
    if preset.weights:
        return from_file(cls, preset, source, dtype, options)
    return cls.from_pretrained(source, dtype=dtype, **options)


def _prepare(preset: Preset, pipe) -> None:
    import diffusers

    if preset.scheduler:
        configuration = dict(preset.scheduler)
        pipe.scheduler = getattr(diffusers, configuration.pop("class")).from_config(
            pipe.scheduler.config, **configuration
        )
    if preset.lora:
        try:
            import peft  # noqa: F401
        except ImportError:
            raise Refused(
                f"{preset.title} is a LoRA, and loading one needs one more package: pip install peft."
            ) from None
        lora = dict(preset.lora)
        pipe.load_lora_weights(lora.pop("model"), **lora)
        pipe.fuse_lora()
    repair(pipe, video=bool(preset.fps))


def _dtype(preset: Preset, device: str) -> str:
    """What is computed in; the same on every start. A processor takes what is fastest: bfloat16
    where it has matrix units for it, else float32. Models that ship are small: a GPU draws them in
    float32, and so draws a processor's picture."""
    if device == "cpu":
        return "bfloat16" if private.has_matrix_units() else "float32"
    if preset.shipped:
        return "float32"
    return "bfloat16" if preset.dtype == "auto" else preset.dtype


def explain(error: Exception, preset: Preset) -> str:
    """What to do when a model does not load."""
    import errno

    from huggingface_hub import errors

    seen, chain = error, []
    while seen is not None and len(chain) < 8:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    kinds = tuple(type(e).__name__ for e in chain)
    page, source = f"https://huggingface.co/{preset.model}", preset.model_name
    for package in ("sentencepiece", "protobuf", "tiktoken", "bitsandbytes"):
        if any(
            isinstance(e, (ImportError, ValueError)) and package in str(e).lower() for e in chain
        ):
            needed = " ".join(dict.fromkeys(("sentencepiece", "protobuf", package)))
            return f"{preset.title} needs one more package on this machine: pip install {needed}."
    if (
        any(isinstance(e, errors.GatedRepoError) for e in chain)
        or "401" in str(error)
        or "403" in str(error)
    ):
        return f"{preset.title} asks for a licence: accept it at {page}, then set the environment variable HF_TOKEN to your token and start again."
    if any(isinstance(e, errors.RevisionNotFoundError) for e in chain):
        return f"{preset.title}: revision {preset.revision} is no longer on the hub; take another one into presets/{preset.name}.json."
    if any(isinstance(e, errors.RepositoryNotFoundError) for e in chain):
        return f"{source} is neither a folder here nor a repository on the hub."
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain):
        return f"The disk is full: {preset.title} needs about {preset.fetched_gb:.0f} GB. Free some, or set HF_HOME to a larger disk."
    if "OutOfMemoryError" in kinds or "MemoryError" in kinds:
        return f"Not enough memory for {preset.title} (about {preset.size_gb:.0f} GB)."
    offline = (
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "ConnectTimeout",
        "ProxyError",
        "NetworkError",
    )
    if (
        any(name in offline for name in kinds)
        or "couldn't connect" in str(error)
        or "Cannot load model" in str(error)
        or "offline" in str(error)
    ):
        return (
            f"{preset.title} is not on this machine and the hub cannot be reached. Connect once (about {preset.fetched_gb:.0f} GB are fetched), "
            "or choose a pocket preset: those are here."
        )
    if "model_index.json" in str(error) or isinstance(error, (EnvironmentError, ValueError)):
        return f"{source} does not load as a diffusers pipeline: {str(error).splitlines()[0][:200]}"
    return f"{preset.title} failed to load ({type(error).__name__}); the log has the details."


class PipelineCache:
    """Keeps the last loaded pipeline, and the pocket models beside it. Not thread-safe: the engine's lock guards it."""

    def __init__(self, loader=load):
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


@functools.cache
def versions() -> dict[str, str]:
    """Of the packages that decide what a picture looks like."""
    from importlib import metadata

    return {
        name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "gradio")
    }
