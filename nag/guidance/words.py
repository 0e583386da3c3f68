"""Encoding both prompts: what `encode_prompt` is asked, and what it returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..errors import NAGRuntimeError, NAGValueError
from ..families import Family
from .encoding import EncodeCall, Encoded, inputs_of
from .mixed import blocks_in, order_of, own_block
from .rows import count_rows, expand_rows, for_each_layer, token_count
from .state import CallState
from .steps import StepCounter
from .texts import Texts, with_others

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase


P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Negative:
    """What is steered away from, as `guide` got it.

    words: for all prompts, or one for each. embeds: in their place, by the denoiser's arguments.
    cut: with `trim`, (words, the negative's inputs) -> these inputs without padding.
    """

    words: str | list | tuple | None
    embeds: dict | None = None
    cut: Callable | None = None

    def of(self, count: int) -> list[str | None]:
        """The words of each of `count` prompts; of embeddings "", which nobody reads."""
        if self.words is None:
            return [""] * count
        words = [self.words] if isinstance(self.words, str) else list(self.words)
        if len(words) not in (1, count):
            raise NAGValueError(
                f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each."
            )
        return words * count if len(words) == 1 else words


def encode_both_prompts(
    state: CallState,
    steps: StepCounter,
    family: Family,
    negative: Negative,
    encode_prompt: Callable[P, Encoded],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Encoded:
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words
    in place of the prompt: the same tokenizer, length limits and clip skip. The second time it is
    CFG's own negative prompt, in mid-run it is a callback's: none of our business."""
    state.check_thread()
    result = encode_prompt(*args, **kwargs)
    if state.running and steps.denoised:
        return result
    if state.texts is None or steps.denoised:
        steps.restart()
        state.forget()
        texts = Texts({}, {})
    else:
        texts = replace(state.texts, encoder_call=state.texts.encoder_call + 1)
    if not texts.encoder_call or inputs_of(family, result, texts.encoder_call):
        call = EncodeCall(encode_prompt, args, kwargs)
        texts = both_texts(texts, call, family, negative, result)
    elif texts.empty and not state.running and EncodeCall(encode_prompt, args, kwargs).has_words:
        raise NAGRuntimeError(
            "The empty text was encoded before this one, and NAG takes the first for the prompt: "
            "in a loop of your own encode the prompt first, all prompts in one call, and then "
            "CFG's words."
        )
    state.texts = with_others(texts, family, result)
    return result


def rewritten_texts(
    state: CallState,
    function: Callable,
    original: Callable[P, R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Runs `original`, after which the texts are what `function` makes of them: see `Adapted`."""
    state.hear_embeddings()
    result = original(*args, **kwargs)
    if state.texts is not None:
        state.texts = function(state.texts, result, original, *args, **kwargs)
    return result


def both_texts(
    texts: Texts, call: EncodeCall, family: Family, negative: Negative, result: Encoded
) -> Texts:
    """`texts` with what one call of `encode_prompt` makes of the prompt and of the negative."""
    inputs = inputs_of(family, result, texts.encoder_call)
    first = next(p for p in family.inputs if p.argument in inputs)
    whole = inputs[first.argument]
    blocks = blocks_in(call, count_rows(whole, first.batch))
    count = count_rows(whole, first.batch) // blocks
    words = negative.of(count // call.pictures_each)
    other, minus = None, {}
    if negative.embeds is None or (blocks > 1 and not call.prompts):
        new, other = call.again(without_gaps(words), family.phrase, blocks > 1)
        minus = inputs_of(family, other, texts.encoder_call)
    if blocks > 1:
        order = order_of(call, family, first, whole, minus.get(first.argument), blocks)
        inputs = own_block(family, inputs, order)
        minus = minus if call.prompts else own_block(family, minus, order)
        if first is family.inputs[0]:
            texts = replace(texts, whole=whole, order=order)
    if negative.embeds is not None:
        other, minus = None, {} if texts.encoder_call else negative.embeds
    elif negative.cut:
        minus = negative.cut(new, minus)
    return replace(
        texts,
        positive=texts.positive | inputs,
        negative=expanded(texts.negative | minus, family, count),
        without_negative=tuple(w is None for w in words for _ in range(call.pictures_each)),
        results=(result, other),
        empty=texts.empty if texts.encoder_call else not call.has_words,
        cfg=blocks > 1 if call.prompts else call.cfg,
    )


def without_gaps(words: list[str | None]) -> list[str]:
    """Words for every prompt. What stands in for None is never used, and must not make the batch's
    padding longer, so it is a copy of another one."""
    filled = next(word for word in words if word is not None)
    return [filled if word is None else word for word in words]


def expanded(negative: dict, family: Family, count: int) -> dict:
    """The negative's inputs with `count` rows."""

    def expand(p):
        value = negative[p.argument]
        if p.kind == "ids" and value.ndim < 3:  # the same for all rows
            return value
        return for_each_layer(p, value, expand_rows, count, p.argument, p.batch)

    return negative | {p.argument: expand(p) for p in family.inputs if p.argument in negative}


def without_padding(
    pipe: DiffusionPipeline,
    family: Family,
    words: list[str],
    negative: dict,
    bare: bool = False,
) -> dict:
    """The negative's inputs cut behind the last token of its words (of the longest of several).

    bare: without the tokens that begin and end every text either, but for the last of an empty one.
    Text of another tokenizer in front stays whole.
    """
    tokenizer, text = getattr(pipe, family.tokenizer, None), family.inputs[0]
    if tokenizer is None:
        raise NAGValueError(
            f"trim needs the pipeline's {family.tokenizer}, and this {type(pipe).__name__} has "
            "none."
        )
    before = int(getattr(pipe, family.tokens_before)) if family.tokens_before else 0
    most = token_count(negative[text.argument], text) - before
    ids = tokenizer(words, truncation=True, max_length=most).input_ids
    first, last = words_within(tokenizer, ids) if bare else (0, max(map(len, ids)))
    first, own = 0 if before else first, before + last

    def cut(p):
        value = negative[p.argument]
        if p.of or value is None:
            return value
        dim = value.ndim + p.dim if p.dim < 0 else p.dim
        return value.narrow(dim, first, min(own, value.shape[dim]) - first)

    return {p.argument: cut(p) for p in family.inputs if p.argument in negative}


def words_within(tokenizer: PreTrainedTokenizerBase, ids: list[list[int]]) -> tuple[int, int]:
    """Where the words begin and end that a tokenizer put between tokens of its own, of the longest
    of several texts; of empty ones the last token."""
    names = "bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"
    own = {getattr(tokenizer, name, None) for name in names}
    places = [place for row in ids for place, token in enumerate(row) if token not in own]
    longest = max(map(len, ids))
    return (min(places), max(places) + 1) if places else (longest - 1, longest)
