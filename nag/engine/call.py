"""One pipeline call, for one column or several."""

import contextlib
import inspect
from dataclasses import asdict

from ..errors import Refused
from ..media import video
from ..methods import METHODS
from . import noise
from .clock import StepClock
from .loading import Loaded
from .run import Run


def call_arguments(pipe, run: Run, key: str) -> dict:
    """What a column asks of its pipeline, as arguments of its call."""
    import torch

    request, preset = run.request, run.preset
    known = inspect.signature(pipe.__call__).parameters
    arguments = {
        "prompt": request.prompt,
        "num_inference_steps": request.num_inference_steps,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
        **preset.arguments,
    }
    for name, of_request in (
        ("width", "width"),
        ("height", "height"),
        ("num_frames", "num_frames"),
        ("video_length", "num_frames"),
    ):
        if name in known:
            arguments[name] = getattr(request, of_request)
    if preset.cfg:
        # Flux and its kin have an embedded guidance_scale, which stays as the preset sets it; their CFG has a name of its own.
        name = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
        arguments[name] = (request.guidance_scale if METHODS[key].cfg else 1.0) + preset.cfg_offset
    if METHODS[key].cfg:
        arguments["negative_prompt"] = request.negative_prompt
    if run.start is not None:
        arguments["image"] = run.start
    return arguments


def call_pipeline(loaded: Loaded, run: Run, keys: tuple[str, ...], on_step):
    """Runs the pipeline once, for one column or several, each from a fresh CPU generator of the seed.

    -> (for each column its PIL images: one, or a video's frames; what was watched)
    """
    import torch

    from .. import (
        families,
    )  # here and not above: these load diffusers, and a page answers before it is there
    from ..guidance import guide
    from ..patch import Wrapped, set_attribute, wrap_method

    pipe, request = loaded.pipe, run.request
    arguments, negative = call_arguments(pipe, run, keys[0]), request.negative_prompt
    settings = next(
        filter(None, map(request.attention, keys)), None
    )  # the same for all that have any
    if len(keys) > 1:
        arguments |= {
            name: [arguments[name]] * len(keys)
            for name in ("prompt", "negative_prompt")
            if name in arguments
        }
        arguments["generator"] = [torch.Generator("cpu").manual_seed(request.seed) for _ in keys]
        negative = [negative if request.attention(key) else None for key in keys]
    watch = StepClock(pipe, loaded.device, on_step, len(keys))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(noise.in_float32())
        texts = [request.prompt, request.negative_prompt]
        stack.enter_context(loaded.cut.listening(pipe, texts))
        if hasattr(
            pipe, "encode_prompt"
        ):  # before `guide` wraps it, which then asks here for the negative prompt too
            stack.enter_context(wrap_method(pipe, "encode_prompt", loaded.words.recall))
        for denoiser in families.denoisers_of(pipe):
            stack.callback(
                families.unwrapped(denoiser).register_forward_pre_hook(watch.begin).remove
            )
        guidance = None
        if settings is not None:
            guidance = stack.enter_context(
                guide(pipe, negative, **asdict(settings), record=run.record)
            )
        stack.enter_context(
            set_attribute(pipe.scheduler, "step", Wrapped(pipe.scheduler.step, watch.stepped))
        )
        result = pipe(**arguments)
    if not torch.isfinite(watch.latents).all():
        raise ArithmeticError("not a number")
    if any(getattr(result, "nsfw_content_detected", None) or ()):
        raise Refused(
            "The model's own safety checker blacked this picture out; another seed or other words may pass."
        )
    if guidance is not None:
        watch.guided = guidance.guided_steps
    return [
        [result.images[i]] if hasattr(result, "images") else video.frames_of(result, i)
        for i in range(len(keys))
    ], watch
