"""What `guide` is given, and the sentences for what it cannot use."""

import inspect
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline

from .. import families
from ..errors import NAGRuntimeError, NAGValueError
from ..families import Family, Packed
from .rows import Text
from .state import CallState

Embeds = Text | dict[str, Text | None]  # by the denoiser's arguments


def guidable_family(pipe: DiffusionPipeline) -> Family:
    """The row of a pipeline's denoiser. Raises NAGValueError where NAG cannot guide it."""
    alone = families.denoisers_of(pipe)[0] is pipe and not hasattr(pipe, "components")
    if alone and families.row_of(type(pipe)) is None:
        raise NAGValueError(f"nag.guide takes a diffusers pipeline, got {families.a(pipe)}.")
    family = families.find(pipe)
    able, why = families.supports(pipe)
    if not able:
        raise NAGValueError(why)
    if not families.encoders_of(pipe):
        raise NAGValueError(
            "nag.guide takes a whole pipeline, which encodes the words too; got "
            f"{families.a(pipe)}."
        )
    return family


def check_switches(exact: bool, trim: bool | None) -> None:
    """Raises NAGValueError for words like "yes", all of which Python takes as true."""
    if not isinstance(exact, bool):
        raise NAGValueError(f"exact must be True or False, got {exact!r}.")
    if not (trim is None or isinstance(trim, bool)):
        raise NAGValueError(f"trim must be True, False or None, got {trim!r}.")


def check_negative(
    words: str | Sequence[str | None] | None, embeds: Embeds | None, mask: torch.Tensor | None
) -> None:
    """Raises NAGValueError unless there is one negative, as words or as embeddings."""
    if words is None and embeds is None:
        raise NAGValueError(
            "NAG needs a negative prompt: give words (negative_prompt) or negative_prompt_embeds."
        )
    if words is not None and embeds is not None:
        raise NAGValueError(
            "Got both negative_prompt and negative_prompt_embeds; give one of them."
        )
    if words is not None:
        check_words([words] if isinstance(words, str) else words)
    if mask is not None and embeds is None:
        raise NAGValueError(
            "Got a negative_prompt_attention_mask without the negative_prompt_embeds that it "
            "belongs to."
        )


def check_words(words: Sequence[str | None]) -> None:
    """Raises NAGValueError unless these are words (or None) for each prompt."""
    listed = isinstance(words, (list, tuple))
    if not listed or not all(word is None or isinstance(word, str) for word in words):
        raise NAGValueError(
            "negative_prompt must be words, or a list with words (or None) for each prompt, got "
            f"{words!r}."
        )
    if all(word is None for word in words):
        raise NAGValueError(
            f"negative_prompt must have words for one prompt at least, got {words!r}."
        )


def check_trim(
    pipe: DiffusionPipeline, family: Family, words: str | Sequence[str | None] | None
) -> None:
    """Raises NAGValueError where the negative's padding cannot be told from its words."""
    if words is None:
        raise NAGValueError("trim needs the negative prompt as words.")
    if not family.tokenizer:
        raise NAGValueError(
            f"trim is not possible here: {type(pipe).__name__} masks its padding, or "
            "nag/families/table.py does not say where it is."
        )


def can_trim(
    pipe: DiffusionPipeline, family: Family, words: str | Sequence[str | None] | None
) -> bool:
    """Whether the negative's padding can be told from its words."""
    if words is None or not family.tokenizer:
        return False
    return getattr(pipe, family.tokenizer, None) is not None


def embeds_by_argument(
    family: Family, embeds: Embeds | None, mask: torch.Tensor | None
) -> dict | None:
    """Embeddings given by hand, by the denoiser's arguments. Raises NAGValueError for another form
    than the pipeline's own."""
    if embeds is None:
        return None
    needed = [p.argument for p in family.inputs if p.kind in ("text", "layers")]
    if not isinstance(embeds, dict) and len(needed) == 1:
        embeds = {needed[0]: embeds}
    if not isinstance(embeds, dict) or not set(embeds) & set(needed):
        raise NAGValueError(
            f"This model has {len(needed)} texts: give negative_prompt_embeds as a dictionary of "
            f"{', '.join(needed)}."
        )
    known = {p.argument: p for p in family.inputs}
    if unknown := set(embeds) - set(known):
        raise NAGValueError(
            f"negative_prompt_embeds has {', '.join(map(repr, unknown))}, which no argument of "
            f"this model is called; it takes {', '.join(known)}."
        )
    for name, value in embeds.items():
        check_embeds(known[name], value)
    return embeds if mask is None else {**embeds, **mask_by_argument(family, embeds, mask)}


def check_embeds(p: Packed, value: Text | None) -> None:
    """Raises NAGValueError unless the pipeline's `encode_prompt` could have returned this."""
    if p.kind not in ("text", "layers") or value is None:
        return
    what = f"The negative's {p.argument}"
    tensors = value if isinstance(value, list) else [value]
    if not tensors or not all(isinstance(one, torch.Tensor) for one in tensors):
        found = type(value).__name__
        if isinstance(value, list):
            found += f" of {type(value[0]).__name__}" if value else " of nothing"
        raise NAGValueError(
            f"{what} must be a tensor, or a list of tensors where the pipeline's encode_prompt "
            f"returns one; got: {found}. Of a tuple take the part that is the text; numpy arrays "
            "become tensors by torch.from_numpy."
        )
    for one in tensors:
        least = 2 if isinstance(value, list) else 3
        if one.ndim < least or not one.is_floating_point() or not one.numel():
            raise NAGValueError(
                f"{what} is {one.dtype} {tuple(one.shape)}, and must be floating-point numbers in "
                f"at least {least} dimensions, of which the last are tokens and their features, "
                "none of them empty."
            )


def mask_by_argument(family: Family, embeds: dict, mask: torch.Tensor) -> dict:
    """The mask of embeddings given by hand, by the denoiser's argument."""
    if family.companion("mask") is None:
        raise NAGValueError(
            "This model has no attention mask for its text, but a negative_prompt_attention_mask "
            "was given."
        )
    if not isinstance(mask, torch.Tensor):
        raise NAGValueError(
            f"negative_prompt_attention_mask must be a tensor (rows, tokens), got a "
            f"{type(mask).__name__}."
        )
    text, dim = embeds.get(family.inputs[0].argument), family.inputs[0].dim
    if isinstance(text, torch.Tensor):
        shape = len(text), text.shape[min(dim, text.ndim - 2)]
        if tuple(mask.shape) != shape:
            raise NAGValueError(
                f"negative_prompt_attention_mask is {tuple(mask.shape)}, and does not fit "
                f"embeddings of {tuple(text.shape)}."
            )
    if not family.empty and not (mask != 0).any(-1).all():
        raise NAGValueError(
            "negative_prompt_attention_mask leaves nothing of a row, and this model wants a token "
            'to attend. The empty text, "", has some.'
        )
    return {family.companion("mask").argument: mask}


def other_pipeline(pipe: DiffusionPipeline) -> DiffusionPipeline | None:
    """The pipeline whose call is running, if it is another than this one; None in a loop of one's
    own too."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            caller = frame.f_locals.get("self")
            if caller is pipe:
                return None
            if isinstance(caller, DiffusionPipeline):
                return caller
        frame = frame.f_back
    return None


def check_caller(pipe: DiffusionPipeline) -> None:
    """Raises NAGRuntimeError where another pipeline runs the denoiser of the guided one: its words
    are not heard, and its picture would be guided only if they happened to be the same."""
    if (caller := other_pipeline(pipe)) is not None:
        raise NAGRuntimeError(
            f"This {type(caller).__name__} runs the denoiser of a {type(pipe).__name__} that is "
            "guided, and is not guided itself: leave nag.guide before you call it, or enter "
            "nag.guide with it."
        )


def nothing_guided(pipe: DiffusionPipeline, state: CallState, step: int) -> NAGRuntimeError:
    """What to raise where no denoiser call of a step, counted from 1, showed the prompt."""
    name = type(pipe).__name__
    if state.texts is None:
        return NAGRuntimeError(
            f"NAG guided nothing: {name} encoded no prompt inside nag.guide. Some pipelines do not "
            "when they are given embeddings: give words. In a loop of your own, call the "
            "pipeline's encode_prompt inside nag.guide."
        )
    if not state.running:
        why = (
            "none of the texts that reached the denoiser was the prompt, which is what the first "
            "encode_prompt inside nag.guide returned. In a loop of your own hand it over as it "
            "came, encode all prompts in one call and before CFG's words, or enter nag.guide anew "
            "for each."
        )
    elif step == 1:
        why = (
            "none of the texts that reached the denoiser was the one that encode_prompt returned. "
            f"{name} changes its embeddings on the way, and needs a row of its own in "
            "nag/families/."
        )
    else:
        why = (
            "the text that reached the denoiser is not the prompt's, and has another number of "
            "rows than the prompt's had. What changes embeddings in mid-run (a callback) must keep "
            "the number of rows."
        )
    return NAGRuntimeError(f"NAG guided nothing in step {step}: {why}")
