"""What can be said of a preset without its weights: whether this machine's libraries can run it."""

import inspect
import re

from .. import private
from ..presets import Preset, resolve
from .call import call_arguments
from .single_file import pipeline_class


def missing(preset: Preset) -> str:
    """The packages without which diffusers has only a placeholder for this pipeline, or ""."""
    absent = private.absent_packages(pipeline_class(preset))
    return ", ".join(name for name in absent if not _installed(name))


def faults(preset: Preset) -> list[str]:
    """What in a preset does not fit the installed diffusers, in sentences; nothing is loaded."""
    cls = pipeline_class(preset)
    if cls is None:
        return [f"diffusers has no {preset.pipeline}."]
    return [*_denoiser(cls), *_columns(preset, cls), *_scheduler(preset), *_lora(preset, cls)]


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _denoiser(cls: type) -> list[str]:
    """Whether NAG knows one of the denoisers that the pipeline is made for."""
    from ..families import FAMILIES

    parts = inspect.signature(cls.__init__).parameters
    hints = " ".join(str(parts[n].annotation) for n in ("unet", "transformer") if n in parts)
    known = set(re.findall(r"\w+", hints)) & set(FAMILIES)
    return [] if known else [f"NAG knows no denoiser of {cls.__name__} ({hints})."]


def _columns(preset: Preset, cls: type) -> list[str]:
    """Whether the pipeline's call takes what each column gives it."""
    pipe, found = object.__new__(cls), []
    every = ("none", "nag", "cfg", "cfg+nag") if preset.cfg else ("none", "nag")
    _, request = resolve({"preset": preset.name}, {preset.name: preset})
    start = "a picture" if preset.image else None
    for key in every:
        arguments = call_arguments(pipe, preset, request, key, start)
        try:
            inspect.signature(pipe.__call__).bind(**arguments)
        except TypeError as error:
            found.append(f"{cls.__name__} cannot be called for {key}: {error}.")
    return found


def _scheduler(preset: Preset) -> list[str]:
    """Whether the scheduler takes its settings, and makes as many steps as the preset allows."""
    import diffusers

    if not preset.scheduler:
        return []
    settings = dict(preset.scheduler)
    name = settings.pop("class")
    if not hasattr(diffusers, name):
        return [f"diffusers has no {name}."]
    cls = getattr(diffusers, name)
    known = inspect.signature(cls.__init__).parameters
    if unknown := sorted(set(settings) - set(known)):
        return [f"{name} has no {', '.join(unknown)}."]
    shift = {"mu": 1.0} if settings.get("use_dynamic_shifting") else {}
    try:
        for steps in preset.range("num_inference_steps"):
            cls(**settings).set_timesteps(int(steps), **shift)
    except ValueError as error:
        return [f"{name} cannot make {steps:g} steps: {error}"]
    return []


def _lora(preset: Preset, cls: type) -> list[str]:
    if not preset.lora or hasattr(cls, "load_lora_weights"):
        return []
    return [f"{cls.__name__} loads no LoRA."]
