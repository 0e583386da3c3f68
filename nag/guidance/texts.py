"""What `encode_prompt` returned, sorted: the prompt's text, the negative's, and others."""

from dataclasses import dataclass, replace

import torch

from ..families import Family
from .encoding import Encoded
from .rows import Text, same_values


@dataclass(frozen=True)
class Texts:
    """What `encode_prompt` made of the prompt and of the negative, by the denoiser's arguments.

    positive, negative: {argument: tensor}.
    without_negative: for each row of the positive, whether its prompt has no negative one.
    results: what `encode_prompt` returned for the prompt and, unless it was given as embeddings,
        for the negative.
    encoder_call: which call of `encode_prompt` was the latest, counted from 0.
    cfg: whether there may be unconditional rows.
    others: what else `encode_prompt` returned that may be a text: CFG's, where it has one.
    same: whether one of them is the prompt by value.
    empty: whether the prompt has no words.
    whole, order: where `encode_prompt` returned the prompt's rows and CFG's in one tensor, that
        tensor, and for each of its blocks whether it is the prompt's.
    """

    positive: dict
    negative: dict
    without_negative: tuple[bool, ...] = ()
    results: tuple = (None, None)
    encoder_call: int = 0
    cfg: bool = True
    others: tuple = ()
    same: bool = False
    empty: bool = False
    whole: torch.Tensor | None = None
    order: tuple[bool, ...] | None = None


def with_others(texts: Texts, family: Family, result: Encoded) -> Texts:
    """`texts` with what else a call of `encode_prompt` returned that may be a text."""
    prompt = texts.positive.get(family.inputs[0].argument)
    if prompt is None:
        return texts
    values = result if isinstance(result, tuple) else (result,)
    own = {p.encoded for p in family.inputs if p.call == texts.encoder_call}
    found = [v for place, v in enumerate(values) if place not in own and alike(v, prompt)]
    if texts.order and not texts.encoder_call:
        parts = texts.whole.chunk(len(texts.order))
        found += [part for part, is_own in zip(parts, texts.order, strict=True) if not is_own]
    same = texts.same or any(same_values(prompt, other) for other in found)
    return replace(texts, others=(*texts.others, *found), same=same)


def alike(value: Text | None, text: Text) -> bool:
    """Whether a value may be a text as this one is: (B, T, D), or a list of (T, D)."""
    if isinstance(text, list):
        return isinstance(value, list) and bool(value) and alike(value[0], text[0])
    tensors = isinstance(value, torch.Tensor) and isinstance(text, torch.Tensor)
    return tensors and (value.ndim, value.shape[-1]) == (text.ndim, text.shape[-1])
