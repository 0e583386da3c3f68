"""`guide(pipe, "blurry")`: NAG around any unmodified diffusers pipeline, removed again on exit."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from .. import families, fused, kernels, private
from ..errors import NAGRuntimeError
from ..families import Adapted, Family
from ..patch import set_attribute, wrap_call, wrap_method
from ..rivals import IN_ONE_SOFTMAX
from ..settings import NAGSettings
from ..twins import install
from ..xray import Recorder, XRay
from .caches import forget_caches
from .call import GuidedDenoiser
from .checks import (
    Embeds,
    can_trim,
    check_negative,
    check_switches,
    check_trim,
    embeds_by_argument,
    guidable_family,
    nothing_guided,
    other_pipeline,
)
from .encoders import Encoders
from .recognition import PromptRows
from .state import CallState, Progress
from .steps import CountingMethod, StepCounter
from .words import Negative, encode_both_prompts, rewritten_texts, without_padding

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

P = ParamSpec("P")
R = TypeVar("R")
DEFAULTS = NAGSettings()
COMPILED_INSIDE = (
    "torch.compile(..., fullgraph=True) was called inside nag.guide; compile first, then enter "
    "nag.guide"
)


@contextlib.contextmanager
def guide(
    pipe: DiffusionPipeline,
    negative_prompt: str | list[str | None] | None = None,
    *,
    negative_prompt_embeds: Embeds | None = None,
    negative_prompt_attention_mask: torch.Tensor | None = None,
    scale: float = DEFAULTS.scale,
    tau: float = DEFAULTS.tau,
    alpha: float | None = None,
    end: float = DEFAULTS.end,
    exact: bool = False,
    method: str = "nag",
    bias: float = DEFAULTS.bias,
    trim: bool | None = None,
    record: XRay | None = None,
) -> Iterator[Progress]:
    """Within this context `pipe(...)` is guided away from the negative prompt. The pipeline is
    called as always, in the thread that entered the context.

        with nag.guide(pipe, "blurry, low quality", scale=5.0):
            image = pipe("a cat", guidance_scale=0.0, num_inference_steps=4).images[0]

    Args:
        pipe: a diffusers pipeline whose denoiser is in `nag.families`.
        negative_prompt: words, or a list with one entry per prompt. "" steers away from the empty
            prompt; it is not "off". In a list, None leaves its prompt un-guided; guided prompts
            must be neighbours, unless the family runs its rows one by one.
        negative_prompt_embeds: instead of words, (rows, T, D) in the form in which the pipeline
            takes `prompt_embeds`; rows is 1, the number of prompts, or of pictures. A dictionary by
            the denoiser's argument for models with several texts.
        negative_prompt_attention_mask: (rows, T), where the pipeline has one.
        scale, tau, alpha, end, bias: see `NAGSettings`. At scale 1, alpha 0 or end 0 nothing is
            touched; with another method at scale 0 or end 0, and tau and alpha are not read.
            Without alpha, the value published for the pipeline's family (`nag/families/`), or else
            `NAGSettings`' own.
        trim: leave out the padding behind the negative's words, which T5-like encoders fill up to
            512 tokens that are attended like any other. Cheaper, and weaker on the one trained
            model that it was measured on (pocket-joint). Models that mask padding need it not.
            None: as the method is published, "vsf" and "negpip" without padding where it can be
            told from words, the others with it.
        method: "nag"; for research "nasa", "ong", "vsf" or "negpip", see `NAGSettings`.
        exact: attend the positive and the negative branch in two passes, as by hand. Otherwise
            joint attention attends the image's keys once for both and merges (`nag/kernels.py`),
            where a kernel can: the same up to rounding, for much less time.
        record: a `nag.XRay` that keeps how far each image token was pushed, of one picture; nothing
            with "vsf" and "negpip". It costs several passes over every guided output, and a model
            compiled with fullgraph=True cannot be recorded.

    A loop of your own may call the denoiser in the pipeline's place, with a text that it encoded by
    the pipeline's encode_prompt inside the context: all prompts in one call of it, before any other
    (CFG's words, say), for the first is the one that is guided. `end` counts the steps of
    `pipe.scheduler`.

    With CFG, only the conditional rows are guided. Pooled text embeddings are the positive's for
    both texts. Gives a `Progress`, which counts the guided steps. Raises NAGValueError for bad
    arguments and unknown models, NAGRuntimeError when a layer could not be reached.
    """
    alpha_or_default = DEFAULTS.alpha if alpha is None else alpha
    settings = NAGSettings(scale, tau, alpha_or_default, end, method, bias)
    check_switches(exact, trim)
    check_negative(negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask)
    family = guidable_family(pipe)
    if alpha is None and (published := families.published_alpha(pipe)) is not None:
        settings = replace(settings, alpha=published)
    if trim:
        check_trim(pipe, family, negative_prompt)
    elif trim is None:
        trim = method in IN_ONE_SOFTMAX and can_trim(pipe, family, negative_prompt)
    progress = Progress(settings)
    if settings.off:
        yield progress
        return
    embeds = embeds_by_argument(family, negative_prompt_embeds, negative_prompt_attention_mask)
    bare = method == "negpip"
    cut = functools.partial(without_padding, pipe, family, bare=bare) if trim else None
    state = CallState(PromptRows(family), exact=exact)
    steps = StepCounter(progress, lambda: nothing_guided(pipe, state, progress.step + 1))
    if record is not None:
        state.record = Recorder(record, progress)
    with contextlib.ExitStack() as stack:
        negative = Negative(negative_prompt, embeds, cut)
        encode = functools.partial(encode_both_prompts, state, steps, family, negative)
        encoders = Encoders(pipe, family, state, encode, negative_prompt is not None)
        scheduler = pipe.scheduler
        one_call = functools.partial(
            one_pipeline_call, pipe, parts_of(pipe), state, steps, encoders
        )
        stack.enter_context(wrap_call(pipe, one_call))
        for name in families.encoders_of(pipe):
            stack.enter_context(wrap_method(pipe, name, encoders))
        count_steps(pipe, scheduler, steps, stack)
        for denoiser in families.denoisers_of(pipe):
            guide_denoiser(pipe, denoiser, family, state, steps, stack)
        stack.callback(state.forget)
        stack.callback(setattr, steps, "closed", True)
        yield progress
        steps.check_something_guided()


def count_steps(
    pipe: DiffusionPipeline,
    scheduler: SchedulerMixin,
    steps: StepCounter,
    stack: contextlib.ExitStack,
) -> None:
    """Lets `steps` hear of a scheduler's steps and schedules, but not of those that another
    pipeline with the same scheduler makes."""

    def unless_others(report):
        return lambda: report() if other_pipeline(pipe) is None else None

    for name, report in (
        ("step", steps.scheduler_stepped),
        ("set_timesteps", steps.schedule_set),
    ):
        method = CountingMethod(getattr(scheduler, name), unless_others(report))
        stack.enter_context(set_attribute(scheduler, name, method))


def guide_denoiser(
    pipe: DiffusionPipeline,
    outer: ModelMixin,
    family: Family,
    state: CallState,
    steps: StepCounter,
    stack: contextlib.ExitStack,
) -> None:
    """Guides one denoiser until `stack` closes. outer: as it stands in the pipeline, perhaps
    compiled."""
    denoiser = families.unwrapped(outer)
    device = private.execution_device(pipe, denoiser.device)
    kernels.prepare(device)
    fused.prepare(device)
    layers, give_back = install(denoiser, family, steps.progress.settings, state)
    stack.callback(give_back)
    adapted = Adapted()
    if family.adapter:
        adapted = stack.enter_context(family.adapter(pipe, denoiser, state)) or adapted
    for owner, name, function in adapted.rewrites:
        rewriting = functools.partial(rewritten_texts, state, function)
        stack.enter_context(
            wrap_method(owner, name, rewriting) if name else wrap_call(owner, rewriting)
        )
    # outside of everything else that wraps a call: torch.compile, offloading and caches see packed
    # text only
    guided = GuidedDenoiser(pipe, denoiser, family, layers, adapted, state, steps)
    guided = torch.compiler.disable(guided, recursive=False, reason=COMPILED_INSIDE)
    stack.enter_context(wrap_call(outer, guided))
    stack.callback(forget_caches, denoiser)


def parts_of(pipe: DiffusionPipeline) -> list:
    """The parts of a pipeline that `guide` stands around."""
    return [pipe.scheduler, *map(families.unwrapped, families.denoisers_of(pipe))]


def one_pipeline_call(
    pipe: DiffusionPipeline,
    parts: list,
    state: CallState,
    steps: StepCounter,
    encoders: Encoders,
    call: Callable[P, R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """One call of the pipeline. Whatever the call before left behind (it may have been stopped
    before its first step) is forgotten. parts: those of the pipeline when `guide` was entered."""
    state.check_thread()
    now = parts_of(pipe)
    if now[0] is not parts[0]:  # nobody would count its steps, and `end` would not come
        raise NAGRuntimeError(
            "The scheduler was replaced inside nag.guide: choose it before you enter it."
        )
    if len(now) != len(parts) or any(a is not b for a, b in zip(now, parts, strict=True)):
        raise NAGRuntimeError(
            f"A denoiser of this {type(pipe).__name__} was replaced inside nag.guide, and would "
            "not be guided: choose it before you enter it."
        )
    if why := families.obstacle(pipe):  # switched on inside
        raise NAGRuntimeError(why)
    before = steps.progress.guided_calls
    state.forget()
    state.unencoded = encoders.embeddings(call, args, kwargs)
    steps.restart()
    steps.stepped = False
    if state.record:
        state.record.begin()
    state.running = True
    state.watched = any("callback" in name and callable(kwargs[name]) for name in kwargs)
    try:
        result = call(*args, **kwargs)
        if steps.stepped and steps.progress.guided_calls == before:
            raise steps.nothing_guided()
    finally:
        state.running, state.unencoded = False, None
        state.forget()
    return result
