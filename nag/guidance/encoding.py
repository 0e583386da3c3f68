"""One call of `encode_prompt`: what it is asked, with other words again, and what it returns."""

import inspect
from collections.abc import Callable

from .. import private
from ..errors import NAGValueError
from ..families import Family
from .rows import Text

Encoded = Text | tuple  # what `encode_prompt` returns


class EncodeCall:
    """One call of `encode_prompt`, with its arguments by name.

    prompt: the name of the words. prompts: whether these are one prompt, behind its negatives.
    pictures, pictures_each: the name of how many pictures of each are drawn, and that number.
    cfg: whether CFG may be on. asks_for_cfg: whether the result shall hold CFG's rows too.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict) -> None:
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
        self.prompts = self.prompt == "prompts"
        self.cfg = bool(given.get(private.CFG, True))
        self.asks_for_cfg = private.CFG in given and self.cfg

    @property
    def has_words(self) -> bool:
        """Whether a prompt is more than the empty text; of embeddings nobody knows."""
        words = self.given[self.prompt]
        if words is None:
            return True
        return any([words] if isinstance(words, str) else words)

    @property
    def rows(self) -> int:
        """Rows of the prompt alone."""
        words = self.given[self.prompt]
        if words is None:
            words = self.given.get("prompt_embeds")
        alone = isinstance(words, str) or self.prompts
        return self.pictures_each * (1 if alone else len(words))

    def again(
        self, words: list[str], phrase: Callable | None, cfg: bool = False
    ) -> tuple[list[str], Encoded]:
        """The same call with other words, one for each prompt -> the words in their final form, and
        what it returns, with one row for each prompt. cfg: CFG's rows stay in the result."""
        given, single = self._with_defaults(cfg), isinstance(self.given[self.prompt], str)
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
            given[private.CFG] = cfg
        return words, self._run(given)

    def _with_defaults(self, cfg: bool) -> dict:
        """The arguments without those that belong to the prompt's words, or with `cfg` to CFG's."""
        given = dict(self.given)
        for name in filter(private.OTHER_WORDS.fullmatch, self.given):
            if not (cfg and name.startswith("negative_")):
                default = self.signature.parameters[name].default
                # not None, for some encode CFG's negative prompt whether it is needed or not
                given[name] = None if default is inspect.Parameter.empty else default
        return given

    def with_cfg_words(self, words: str) -> Encoded:
        """What the same call returns with `words` as CFG's negative prompt."""
        given = dict(self.given)
        for name in given:
            if name.startswith("negative_"):
                given[name] = None
        if (name := "negative_prompt") in given:
            given[name] = words
        return self._run(given)

    def _run(self, given: dict) -> Encoded:
        bound = inspect.BoundArguments(self.signature, given)
        return self.function(*bound.args, **bound.kwargs)


def inputs_of(family: Family, result: Encoded, encoder_call: int = 0) -> dict:
    """What a call of `encode_prompt` returned, by the denoiser's arguments; some pipelines have
    fewer texts than their denoiser takes."""
    result = result if isinstance(result, tuple) else (result,)
    return {
        p.argument: result[p.encoded]
        for p in family.inputs
        if p.call == encoder_call and p.encoded is not None and p.encoded < len(result)
    }
