"""One pipeline call: its arguments, guidance around it, and what came of it, row by row."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import NAGRuntimeError
from ..media import video
from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from ..settings import NAGSettings
from . import noise
from .clock import OnStep, StepClock
from .loading import Loaded

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

    from ..xray import XRay

# argument of pipelines -> setting of a request
SIZES = {
    "width": "width",
    "height": "height",
    "num_frames": "num_frames",
    "video_length": "num_frames",
}


class NotFinite(NAGRuntimeError):
    """The latents became infinite, or not numbers."""


@dataclass(frozen=True)
class Row:
    """One picture or video of a call. Rows of one call are alike in CFG and in all settings."""

    key: str  # of nag/methods.py
    prompt: str
    negative_prompt: str
    seed: int


@dataclass(frozen=True)
class Drawn:
    """What a call made, by rows.

    pixels: arrays (F, H, W, 3), 0 to 1; F is 1 for a picture. blacked_out: by the model's own
    safety checker. seconds: from the first denoiser call until all was decoded. sounds: of videos,
    where the model makes them.
    """

    pixels: list[np.ndarray]
    blacked_out: list[bool]
    clock: StepClock
    seconds: float
    sounds: list[video.Sound | None]


def call_arguments(
    pipe: DiffusionPipeline,
    preset: Preset,
    request: Request,
    key: str,
    start: Image.Image | None = None,
) -> dict[str, Any]:
    """What one column asks of its pipeline. start: the PIL image that it begins with."""
    known = inspect.signature(pipe.__call__).parameters
    arguments = {
        "prompt": request.prompt,
        "num_inference_steps": request.num_inference_steps,
        "generator": generator(request.seed),
        **preset.arguments,
        **{name: getattr(request, size) for name, size in SIZES.items() if name in known},
    }
    if preset.cfg:
        # Flux and its kin have an embedded guidance_scale too, which stays as the preset sets it
        name = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
        arguments[name] = (request.guidance_scale if METHODS[key].cfg else 1.0) + preset.cfg_offset
    if METHODS[key].cfg:
        arguments["negative_prompt"] = request.negative_prompt
    if start is not None:
        arguments["image"] = start
    return arguments


def generator(seed: int) -> torch.Generator:
    """A torch generator on the processor, so that a seed's noise is the same on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def call_pipeline(
    loaded: Loaded,
    request: Request,
    rows: list[Row],
    on_step: OnStep | None = None,
    start: Image.Image | None = None,
    record: XRay | None = None,
) -> Drawn:
    """Runs the pipeline once, each row from a fresh generator of its seed.

    record: the nag.XRay in which guidance is recorded.
    Raises `NotFinite`, and what the pipeline, `guide` and `on_step` raise.
    """
    import numpy as np
    import torch

    pipe = loaded.pipe
    arguments = call_arguments(pipe, loaded.preset, request, rows[0].key, start)
    arguments |= _arguments_of_rows(rows, cfg="negative_prompt" in arguments)
    arguments["output_type"] = "np"
    clock = StepClock(pipe, loaded.device, on_step, len(rows))
    guided = _guided(pipe, request, rows, record)
    with _surroundings(loaded, rows), guided as progress, _watched(pipe, clock):
        result = pipe(**arguments)
        seconds = clock.since_start()
    pixels = [video.pixels_of(result, i) for i in range(len(rows))]
    if not torch.isfinite(clock.latents).all() or not all(np.isfinite(p).all() for p in pixels):
        raise NotFinite(
            f"The numbers left the range of {loaded.dtype}. A lower CFG or NAG scale helps, or a "
            "wider dtype in the preset."
        )
    if progress is not None:
        clock.guided = progress.guided_steps
    black = getattr(result, "nsfw_content_detected", None) or [False] * len(rows)
    sounds = [video.sound_of(pipe, result, i) for i in range(len(rows))]
    return Drawn(pixels, [bool(one) for one in black], clock, seconds, sounds)


def _arguments_of_rows(rows: list[Row], cfg: bool) -> dict[str, Any]:
    """What differs between rows, as lists; of one row as it is, for some pipelines take no list."""
    each = {
        "prompt": [row.prompt for row in rows],
        "generator": [generator(row.seed) for row in rows],
    }
    if cfg:
        each["negative_prompt"] = [row.negative_prompt for row in rows]
    return each if len(rows) > 1 else {name: values[0] for name, values in each.items()}


@contextlib.contextmanager
def _surroundings(loaded: Loaded, rows: list[Row]) -> Iterator[None]:
    """What surrounds every pipeline call: inference mode, noise in float32, embeddings that are
    kept, and a listener that counts the words that tokenizers cut. Entered before `guide`, so that
    the negative prompt goes the same way."""
    import torch

    from ..patch import wrap_method

    pipe, texts = loaded.pipe, {text for row in rows for text in (row.prompt, row.negative_prompt)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(noise.in_float32())
        if loaded.dtype == "float32":
            stack.enter_context(noise.without_tf32())
        stack.enter_context(loaded.cut.listening(pipe, list(texts)))
        if hasattr(pipe, "encode_prompt"):
            stack.enter_context(wrap_method(pipe, "encode_prompt", loaded.words.recall))
        yield


def _guided(
    pipe: DiffusionPipeline, request: Request, rows: list[Row], record: XRay | None
) -> contextlib.AbstractContextManager:
    """`guide` for the rows that are guided, which all have the same settings, or nothing; or what
    changes CFG."""
    from ..guidance import guide
    from ..guidance.projected import projected_cfg

    if METHODS[rows[0].key].projected and request.guidance_scale > 1:  # at 1 CFG is off
        return _untold(projected_cfg(pipe, len(rows)))
    settings: list[NAGSettings | None] = [request.attention(row.key) for row in rows]
    used = next((one for one in settings if one is not None), None)
    if used is None:
        return contextlib.nullcontext()
    negative = [
        None if one is None else row.negative_prompt
        for row, one in zip(rows, settings, strict=True)
    ]
    words = negative if len(rows) > 1 else negative[0]
    return guide(pipe, words, **asdict(used), record=record)


@contextlib.contextmanager
def _untold(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """A context that counts no guided steps."""
    with context:
        yield


@contextlib.contextmanager
def _watched(pipe: DiffusionPipeline, clock: StepClock) -> Iterator[None]:
    from .. import families
    from ..patch import Wrapped, set_attribute

    with contextlib.ExitStack() as stack:
        for denoiser in map(families.unwrapped, families.denoisers_of(pipe)):
            stack.callback(denoiser.register_forward_pre_hook(clock.begin).remove)
        step = Wrapped(pipe.scheduler.step, clock.stepped)
        stack.enter_context(set_attribute(pipe.scheduler, "step", step))
        yield
