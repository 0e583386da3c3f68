"""Encoding both prompts: what `encode_prompt` is asked, and what it returned."""

import inspect
import re

from ..errors import NAGValueError
from .rows import count_rows, expand_rows, for_each_layer, token_count

# arguments that belong to the positive's words
OTHER_WORDS = re.compile(
    r"negative_.*|prompt_\d+|.*prompt_embeds.*|(prompt|text)_.*mask.*|text_images"
)
PICTURES = re.compile(r"num_\w+_per_prompt")


class EncodeCall:
    """One call of `encode_prompt` with its arguments by name; prompt, pictures: the names of the words, and of how many pictures of each."""

    def __init__(self, function, args, kwargs):
        self.function, self.signature = function, inspect.signature(function)
        self.bound = self.signature.bind(*args, **kwargs)
        self.bound.apply_defaults()
        self.given = given = self.bound.arguments
        self.prompt = next((name for name in ("prompt", "prompts") if name in given), None)
        if self.prompt is None:
            raise NAGValueError(
                f"NAG cannot tell which argument of this encode_prompt is the prompt: {', '.join(given)}."
            )
        self.pictures = next((name for name in given if PICTURES.fullmatch(name)), None)
        self.each = int(given.get(self.pictures) or 1)
        self.cfg = bool(given.get("do_classifier_free_guidance", True))

    @property
    def rows(self) -> int:
        """Of the prompt alone, where the result may hold CFG's rows too. "prompts" are one, behind its negatives."""
        prompts = (
            self.given.get("prompt_embeds")
            if self.given[self.prompt] is None
            else self.given[self.prompt]
        )
        return self.each * (
            1 if isinstance(prompts, str) or self.prompt == "prompts" else len(prompts)
        )

    def again(self, words: list[str], phrase):
        """The same call with other words, one for each prompt -> the words in their final form, and what it returns."""
        given, single = self.given, isinstance(self.given[self.prompt], str)
        for name in given:
            if OTHER_WORDS.fullmatch(name):
                default = self.signature.parameters[
                    name
                ].default  # "" where CFG's negative prompt is encoded whether needed or not
                given[name] = None if default is inspect.Parameter.empty else default
        if phrase:
            words = [
                phrase(*pair)
                for pair in zip(
                    [given[self.prompt]] if single else given[self.prompt], words, strict=True
                )
            ]
        given[self.prompt] = (
            words[0] if single else words
        )  # some pipelines take one prompt only, and no list
        if self.pictures:  # `_rows` expands: some pipelines bring the masks of several pictures of several prompts into a wrong order
            given[self.pictures] = 1
        if "do_classifier_free_guidance" in given:
            given["do_classifier_free_guidance"] = False
        return words, self.function(*self.bound.args, **self.bound.kwargs)


def encode_both_prompts(
    guidance, family, words, embeds, trimmed, encode_prompt, /, *args, **kwargs
):
    """Runs `encode_prompt`, and the first time in a pipeline call once more with the negative words in place of the prompt:
    the same tokenizer, length limits and clip skip. The second time it is CFG's own negative prompt, and none of our business."""
    result = encode_prompt(*args, **kwargs)
    again = guidance.encoded is not None and guidance.step == 0
    guidance.calls = guidance.calls + 1 if again else 0
    positive, other = inputs_of(family, result, guidance.calls), None
    if again and not positive:
        return result
    if not again:
        guidance.step = guidance.schedule_start = 0
        guidance.called = guidance.fresh = False
        guidance.plans.clear()
    call = EncodeCall(encode_prompt, args, kwargs)
    count, guidance.cfg = (
        count_rows(
            *next((positive[p.argument], p.batch) for p in family.inputs if p.argument in positive)
        ),
        call.cfg,
    )
    if family.together:
        guidance.cfg, count = count > call.rows, call.rows
        positive = {name: value[-count:] for name, value in positive.items()}
    if embeds is not None:
        negative = {} if again else dict(embeds)
    else:
        each = one_per_prompt(words, count // call.each)
        guidance.without_negative = [word is None for word in each for _ in range(call.each)]
        filled = next(
            word for word in each if word is not None
        )  # what stands in for None is read by nobody, and is no longer than the others
        new, other = call.again([filled if word is None else word for word in each], family.phrase)
        negative = inputs_of(family, other, guidance.calls)
        negative = trimmed(new, negative) if trimmed else negative
    for p in family.inputs:
        if p.argument in negative and not (
            p.kind == "ids" and negative[p.argument].ndim < 3
        ):  # ids may be the same for all rows
            negative[p.argument] = for_each_layer(
                p, negative[p.argument], expand_rows, count, p.argument, p.batch
            )
    before = guidance.encoded if again else ({}, {})
    guidance.encoded = before[0] | positive, before[1] | negative
    guidance.results = result, other
    return result


def inputs_of(family, result, call: int = 0) -> dict:
    """What a call of `encode_prompt` returned, by the denoiser's arguments; some pipelines have fewer texts than their denoiser takes."""
    result = result if isinstance(result, tuple) else (result,)
    return {
        p.argument: result[p.encoded]
        for p in family.inputs
        if p.call == call and p.encoded is not None and p.encoded < len(result)
    }


def without_padding(pipe, family, words: list[str], negative: dict) -> dict:
    """The negative's inputs cut behind the last token of its words (of the longest of several)."""
    tokenizer, text = getattr(pipe, family.tokenizer, None), family.inputs[0]
    if tokenizer is None:
        raise NAGValueError(
            f"trim needs the pipeline's {family.tokenizer}, and this {type(pipe).__name__} has none."
        )
    before, most = (
        int(getattr(pipe, family.behind)) if family.behind else 0,
        token_count(negative[text.argument], text),
    )
    own = before + max(
        len(ids) for ids in tokenizer(words, truncation=True, max_length=most - before).input_ids
    )

    def cut(p, value):
        dim = value.ndim + p.dim if p.dim < 0 else p.dim
        return value.narrow(dim, 0, min(own, value.shape[dim]))

    return {
        p.argument: cut(p, negative[p.argument])
        if p.of == 0 and negative[p.argument] is not None
        else negative[p.argument]
        for p in family.inputs
        if p.argument in negative
    }


def one_per_prompt(words, count: int) -> list[str | None]:
    words = [words] if isinstance(words, str) else list(words)
    if len(words) not in (1, count):
        raise NAGValueError(
            f"Got {len(words)} negative prompts for {count} prompts; give one, or one for each."
        )
    return words * count if len(words) == 1 else words
