"""`guide(pipe, "blurry")`: NAG around any unmodified diffusers pipeline, given back on exit."""

import contextlib
import functools
import inspect

import torch

from .. import families, kernels
from ..errors import NAGRuntimeError, NAGValueError
from ..patch import set_attribute, wrap_call, wrap_method
from ..settings import NAGSettings
from ..twins import install
from .call import forget_caches, guided_forward
from .state import Guidance
from .steps import CountingMethod, count_step, start_schedule
from .words import encode_both_prompts, without_padding

DEFAULTS = NAGSettings()


@contextlib.contextmanager
def guide(
    pipe,
    negative_prompt=None,
    *,
    negative_prompt_embeds=None,
    negative_prompt_attention_mask=None,
    scale: float = DEFAULTS.scale,
    tau: float = DEFAULTS.tau,
    alpha: float = DEFAULTS.alpha,
    end: float = DEFAULTS.end,
    exact: bool = False,
    method: str = "nag",
    trim: bool = False,
):
    """Within this context `pipe(...)` is guided away from the negative prompt. The pipeline is called as always.

        with nag.guide(pipe, "blurry, low quality", scale=5.0):
            image = pipe("a cat", guidance_scale=0.0, num_inference_steps=4).images[0]

    Args:
        pipe: a diffusers pipeline whose denoiser is in `nag.families`.
        negative_prompt: words, or a list with one entry per prompt. "" steers away from the empty prompt; it is not "off". In a list,
            None leaves its prompt un-guided; guided prompts must be neighbours, unless the family runs its rows one by one.
        negative_prompt_embeds: instead of words, (rows, T, D) in the form in which the pipeline takes `prompt_embeds`; rows is 1,
            the number of prompts, or of pictures. A dictionary by the denoiser's argument for models with several texts.
        negative_prompt_attention_mask: (rows, T), where the pipeline has one.
        scale, tau, alpha, end: see `NAGSettings`. At scale 1, alpha 0 or end 0 nothing is touched.
        trim: leave out the padding behind the negative's words, which T5-like encoders fill up to 512 tokens that are attended like any
            other. Cheaper, and weaker on the one trained model that it was measured on (pocket-joint). Models that mask padding need it not.
        method: "nag"; for research "nasa" or "vsf", see `NAGSettings`.
        exact: attend the positive and the negative branch in two passes, as by hand. Otherwise joint attention attends the image's keys
            once for both and merges (`nag/kernels.py`), where a kernel can: the same up to rounding, for much less time.

    With CFG, only the conditional rows are guided. Pooled text embeddings are the positive's for both texts.
    Raises ValueError for bad arguments and unknown models, RuntimeError when a layer could not be reached.
    """
    settings = NAGSettings(scale, tau, alpha, end, method)
    _check_words(negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask)
    family = families.find(pipe)
    able, why = families.supports(pipe)
    if not able:
        raise NAGValueError(why)
    if not families.encoders_of(pipe):
        raise NAGValueError(
            f"nag.guide takes a whole pipeline, which encodes the words too; got a {type(pipe).__name__}."
        )
    if trim and (negative_prompt is None or not family.tokenizer):
        raise NAGValueError(
            "trim needs the negative prompt as words."
            if negative_prompt is None
            else f"trim is not possible here: {type(pipe).__name__} masks its padding, or nag/families/table.py does not say where it is."
        )
    guidance = Guidance(settings, exact=bool(exact))
    if settings.off:
        yield guidance
        return
    embeds = given_embeds(family, negative_prompt_embeds, negative_prompt_attention_mask)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            wrap_call(pipe, functools.partial(one_pipeline_call, pipe, pipe.scheduler, guidance))
        )
        for name in families.encoders_of(pipe):
            trimmed = functools.partial(without_padding, pipe, family) if trim else None
            stack.enter_context(
                wrap_method(
                    pipe,
                    name,
                    functools.partial(
                        encode_both_prompts, guidance, family, negative_prompt, embeds, trimmed
                    ),
                )
            )
        for name, report in (("step", count_step), ("set_timesteps", start_schedule)):
            stack.enter_context(
                set_attribute(
                    pipe.scheduler,
                    name,
                    CountingMethod(
                        getattr(pipe.scheduler, name), functools.partial(report, guidance)
                    ),
                )
            )
        for outer in families.denoisers_of(pipe):
            denoiser = families.unwrapped(outer)
            kernels.prepare(getattr(pipe, "_execution_device", denoiser.device))
            layers, give_back = install(denoiser, family, settings, guidance)
            stack.callback(give_back)
            inner = (
                stack.enter_context(family.adapter(pipe, denoiser, guidance))
                if family.adapter
                else None
            )
            # outside of everything else that wraps a call: torch.compile, offloading and caches see packed text only
            names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
            around = functools.partial(
                guided_forward, pipe, denoiser, guidance, family, layers, names, inner
            )
            stack.enter_context(
                wrap_call(
                    outer, torch.compiler.disable(around, recursive=False, reason=COMPILED_INSIDE)
                )
            )
            stack.callback(forget_caches, denoiser)
        stack.callback(guidance.plans.clear)
        yield guidance
        if guidance.stepped and not guidance.guided_calls:
            raise nothing_guided(pipe, guidance)


def _check_words(words, embeds, mask) -> None:
    if words is None and embeds is None:
        raise NAGValueError(
            "NAG needs a negative prompt: give words (negative_prompt) or negative_prompt_embeds."
        )
    if words is not None and embeds is not None:
        raise NAGValueError(
            "Got both negative_prompt and negative_prompt_embeds; give one of them."
        )
    each = [words] if isinstance(words, str) else words
    if each is not None and not (
        isinstance(each, (list, tuple))
        and all(word is None or isinstance(word, str) for word in each)
    ):
        raise NAGValueError(
            f"negative_prompt must be words, or a list with words (or None) for each prompt, got {words!r}."
        )
    if each is not None and all(word is None for word in each):
        raise NAGValueError(
            f"negative_prompt must have words for one prompt at least, got {words!r}."
        )
    if mask is not None and embeds is None:
        raise NAGValueError(
            "Got a negative_prompt_attention_mask without the negative_prompt_embeds that it belongs to."
        )


COMPILED_INSIDE = "torch.compile(..., fullgraph=True) was called inside nag.guide; compile first, then enter nag.guide"


def one_pipeline_call(pipe, scheduler, guidance, call, /, *args, **kwargs):
    """One call of the pipeline. Whatever the call before left behind (it may have been stopped before its first step) is forgotten."""
    if (
        pipe.scheduler is not scheduler
    ):  # its steps would not be counted, and `end` would never come
        raise NAGRuntimeError(
            "The scheduler was replaced inside nag.guide: choose it before you enter it."
        )
    guidance.encoded, guidance.step, guidance.schedule_start, before = (
        None,
        0,
        0,
        guidance.guided_calls,
    )
    guidance.stepped = guidance.called = guidance.fresh = False
    result = call(*args, **kwargs)
    if guidance.stepped and guidance.guided_calls == before:
        raise nothing_guided(pipe, guidance)
    return result


def nothing_guided(pipe, guidance) -> NAGRuntimeError:
    if guidance.encoded is None:
        why = f"{type(pipe).__name__} encoded no prompt. Some pipelines do not when they are given embeddings: give words."
    else:
        why = (
            "none of the texts that reached the denoiser was the one that encode_prompt returned. "
            f"{type(pipe).__name__} changes its embeddings on the way, and needs a row of its own in nag/families/table.py."
        )
    return NAGRuntimeError(f"NAG guided nothing: {why}")


def given_embeds(family, embeds, mask) -> dict | None:
    """Embeddings given by hand, by the denoiser's arguments."""
    if embeds is None:
        return None
    needed = [p.argument for p in family.inputs if p.kind in ("text", "layers")]
    if not isinstance(embeds, dict) and len(needed) == 1:
        embeds = {needed[0]: embeds}
    if not isinstance(embeds, dict) or not set(embeds) & set(needed):
        raise NAGValueError(
            f"This model has {len(needed)} texts: give negative_prompt_embeds as a dictionary of {', '.join(needed)}."
        )
    if mask is not None:
        if family.companion("mask") is None:
            raise NAGValueError(
                "This model has no attention mask for its text, but a negative_prompt_attention_mask was given."
            )
        text, dim = embeds.get(family.inputs[0].argument), family.inputs[0].dim
        if isinstance(text, torch.Tensor) and tuple(mask.shape) != (
            len(text),
            text.shape[min(dim, text.ndim - 2)],
        ):
            raise NAGValueError(
                f"negative_prompt_attention_mask is {tuple(mask.shape)}, and does not fit embeddings of {tuple(text.shape)}."
            )
        embeds = {**embeds, family.companion("mask").argument: mask}
    return embeds
