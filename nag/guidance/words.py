"""Encoding both prompts: what `encode_prompt` is asked, and what it returned."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import private
from ..errors import NAGValueError
from ..families import Family
from .rows import count_rows, expand_rows, for_each_layer, token_count
from .state import CallState, Texts
from .steps import StepCounter


class EncodeCall:
    """One call of `encode_prompt`, with its arguments by name.

    prompt, pictures: the names of the words, and of how many pictures of each are drawn.
    pictures_each: that number. cfg: whether the result may hold CFG's rows too.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict):
        self.function, self.signature = function, inspect.signature(function)
        self.bound = self.signature.bind(*args, **kwargs)
        self.bound.apply_defaults()
        self.given = given = self.bound.arguments
        self.prompt = next((name for name in private.PROMPTS if name in given), None)
        if self.prompt is None:
            raise NAGValueError(
                "NAG cannot tell which argument of this encode_prompt is the prompt: "
                f"{', '.join(given)}."
            )
        self.pictures = next((name for name in given if private.PICTURES.fullmatch(name)), None)
        self.pictures_each = int(given.get(self.pictures) or 1)
        self.cfg = bool(given.get(private.CFG, True))

    @property
    def rows(self) -> int:
        """Rows of the prompt alone. "prompts" are one, behind its negatives."""
        words = self.given[self.prompt]
        if words is None:
            words = self.given.get("prompt_embeds")
        alone = isinstance(words, str) or self.prompt == "prompts"
        return self.pictures_each * (1 if alone else len(words))

    def again(self, words: list[str], phrase: Callable | None) -> tuple[list[str], object]:
        """The same call with other words, one for each prompt -> the words in their final form, and
        what it returns, with one row for each prompt."""
        given, single = self.given, isinstance(self.given[self.prompt], str)
        for name in filter(private.OTHER_WORDS.fullmatch, list(given)):
            default = self.signature.parameters[name].default
            # not None, for some encode CFG's negative prompt whether it is needed or not
            given[name] = None if default is inspect.Parameter.empty else default
        if phrase:
            prompts = [given[self.prompt]] if single else given[self.prompt]
            words = [phrase(*pair) for pair in zip(prompts, words, strict=True)]
        # some pipelines take one prompt only, and no list
        given[self.prompt] = words[0] if single else words
        if self.pictures:
            # `expand_rows` repeats them: some pipelines bring the masks of several pictures of
            # several prompts into a wrong order
            given[self.pictures] = 1
        if private.CFG in given:
            given[private.CFG] = False
        return words, self.function(*self.bound.args, **self.bound.kwargs)


@dataclass(frozen=True)
class Negative:
    """What is steered away from, as `guide` got it.

    words: for all prompts, or one for each. embeds: in their place, by the denoiser's arguments.
    cut: with `trim`, (words, the negative's inputs) -> these inputs without padding.
    """

    words: str | list | tuple | None
    embeds: dict | None = None
    cut: Callable | None = None

    def encoded(self, call: EncodeCall, family: Family, texts: Texts, count: int) -> Texts:
        """`texts` with the negative's inputs of this call, for `count` rows of the prompt."""
        if self.embeds is not None:
            return texts if texts.encoder_call else replace(texts, negative=dict(self.embeds))
        words = one_per_prompt(self.words, count // call.pictures_each)
        # what stands in for None is read by nobody, and is no longer than the others
        filled = next(word for word in words if word is not None)
        new, result = call.again([filled if w is None else w for w in words], family.phrase)
        negative = inputs_of(family, result, texts.encoder_call)
        negative = self.cut(new, negative) if self.cut else negative
        return replace(
            texts,
            negative=texts.negative | negative,
            without_negative=tuple(w is None for w in words for _ in range(call.pictures_each)),
            results=(texts.results[0], result),
        )


def encode_both_prompts(
    state: CallState,
    steps: StepCounter,
    family: Family,
    negative: Negative,
    encode_prompt: Callable,
    /,
    *args,
    **kwargs,
):
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words
    in place of the prompt: the same tokenizer, length limits and clip skip. The second time it is
    CFG's own negative prompt, and none of our business."""
    state.check_thread()
    result = encode_prompt(*args, **kwargs)
    again = state.texts is not None and steps.progress.step == 0
    if again:
        texts = replace(state.texts, encoder_call=state.texts.encoder_call + 1)
    else:
        texts = Texts({}, {})
        steps.restart()
        state.plans.clear()
    if not again or inputs_of(family, result, texts.encoder_call):
        call = EncodeCall(encode_prompt, args, kwargs)
        texts = both_texts(texts, call, family, negative, result)
    state.texts = texts
    return result


def rewritten_texts(state: CallState, function: Callable, original: Callable, /, *args, **kwargs):
    """Runs `original`, after which the texts are what `function` makes of them: see `Adapted`."""
    state.hear_embeddings()
    result = original(*args, **kwargs)
    if state.texts is not None:
        state.texts = function(state.texts, result, original, *args, **kwargs)
    return result


def both_texts(texts: Texts, call: EncodeCall, family: Family, negative: Negative, result) -> Texts:
    """`texts` with what one call of `encode_prompt` makes of the prompt and of the negative."""
    positive, cfg = inputs_of(family, result, texts.encoder_call), call.cfg
    first = next(p for p in family.inputs if p.argument in positive)
    count = count_rows(positive[first.argument], first.batch)
    if family.unconditional_first:
        cfg, count = count > call.rows, call.rows
        positive = {name: value[-count:] for name, value in positive.items()}
    texts = replace(texts, positive=texts.positive | positive, cfg=cfg, results=(result, None))
    texts = negative.encoded(call, family, texts, count)
    return replace(texts, negative=expanded(texts.negative, family, count))


def expanded(negative: dict, family: Family, count: int) -> dict:
    """The negative's inputs with `count` rows."""

    def expand(p):
        value = negative[p.argument]
        if p.kind == "ids" and value.ndim < 3:  # the same for all rows
            return value
        return for_each_layer(p, value, expand_rows, count, p.argument, p.batch)

    return negative | {p.argument: expand(p) for p in family.inputs if p.argument in negative}


def inputs_of(family: Family, result, encoder_call: int = 0) -> dict:
    """What a call of `encode_prompt` returned, by the denoiser's arguments; some pipelines have
    fewer texts than their denoiser takes."""
    result = result if isinstance(result, tuple) else (result,)
    return {
        p.argument: result[p.encoded]
        for p in family.inputs
        if p.call == encoder_call and p.encoded is not None and p.encoded < len(result)
    }


def without_padding(pipe, family: Family, words: list[str], negative: dict) -> dict:
    """The negative's inputs cut behind the last token of its words (of the longest of several)."""
    tokenizer, text = getattr(pipe, family.tokenizer, None), family.inputs[0]
    if tokenizer is None:
        raise NAGValueError(
            f"trim needs the pipeline's {family.tokenizer}, and this {type(pipe).__name__} has "
            "none."
        )
    before = int(getattr(pipe, family.tokens_before)) if family.tokens_before else 0
    most = token_count(negative[text.argument], text) - before
    ids = tokenizer(words, truncation=True, max_length=most).input_ids
    own = before + max(map(len, ids))

    def cut(p):
        value = negative[p.argument]
        if p.of or value is None:
            return value
        dim = value.ndim + p.dim if p.dim < 0 else p.dim
        return value.narrow(dim, 0, min(own, value.shape[dim]))

    return {p.argument: cut(p) for p in family.inputs if p.argument in negative}


def one_per_prompt(words: str | list | tuple, count: int) -> list[str | None]:
    """The negative words of each of `count` prompts."""
    words = [words] if isinstance(words, str) else list(words)
    if len(words) not in (1, count):
        raise NAGValueError(
            f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each."
        )
    return words * count if len(words) == 1 else words
