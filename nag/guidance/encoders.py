"""Text encoders that a pipeline was freed of, and embeddings in place of words."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

from .. import families, private
from ..errors import NAGError, NAGValueError
from ..families import Family
from .encoding import Encoded
from .rows import Text
from .state import CallState

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

P = ParamSpec("P")
PART = re.compile(r"(text_encoder|tokenizer)(_\d+)?")


class Encoders:
    """Wraps `encode_prompt`, for two cases: pipelines whose text encoders were freed (None), and
    pipelines that skip `encode_prompt` when they are given embeddings.

    encode: (encode_prompt, ...) -> its result; the negative's words are encoded with it.
    in_words: whether the negative is words.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        state: CallState,
        encode: Callable,
        in_words: bool,
    ) -> None:
        self.pipe, self.family, self.state = pipe, family, state
        self.encode, self.in_words = encode, in_words
        self.original = getattr(pipe, families.encoders_of(pipe)[0])

    def __call__(
        self, encode_prompt: Callable[P, Encoded], /, *args: P.args, **kwargs: P.kwargs
    ) -> Encoded:
        """`encode(encode_prompt, ...)`. Raises NAGValueError where an encoder that is None would
        have to encode words."""
        given = inspect.signature(encode_prompt).bind_partial(*args, **kwargs).arguments
        by_hand = given.get("prompt_embeds") is not None
        if not by_hand:  # in a call with embeddings, these are words of CFG's negative prompt
            self.state.hear_embeddings()
        freed = [name for name, there in parts_of(self.pipe).items() if not there]
        if by_hand and self.in_words and half_freed(self.pipe):
            raise self._absent(freed)
        try:
            return self.encode(encode_prompt, *args, **kwargs)
        except NAGError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            if not freed:
                raise
            raise self._absent(freed) from error

    def embeddings(self, call: Callable, args: tuple, kwargs: dict) -> Callable | None:
        """What leads the embeddings that a call of the pipeline has in place of its prompt through
        `encode_prompt`, as most pipelines do themselves; None for a call with words."""
        bound = inspect.signature(call).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        texts = [value for name, value in given.items() if name.startswith("prompt_embeds")]
        text = next((value for value in texts if value is not None), None)
        if text is None or given.get("prompt") is not None:
            return None
        return functools.partial(self._lead, text, given)

    def _lead(self, text: Text, given: dict) -> None:
        signature = inspect.signature(self.original)
        parameters = signature.parameters
        prompt = next(name for name in private.PROMPTS if name in parameters)

        @functools.wraps(self.original)
        def encode_prompt(*args, **kwargs):
            words = signature.bind_partial(*args, **kwargs).arguments[prompt]
            return (text,) if words is None else self.original(*args, **kwargs)

        pictures = next(filter(private.PICTURES.fullmatch, parameters), None)
        arguments = {
            name: given[name]
            for name in parameters
            if name in given and name != pictures and not private.OTHER_WORDS.fullmatch(name)
        }
        if pictures and isinstance(text, list):  # Ernie-Image's, which it repeats itself
            arguments[pictures] = given.get(pictures, 1)
            text = [row for row in text for _ in range(arguments[pictures])]
        if "device" in parameters:
            arguments["device"] = private.execution_device(self.pipe, None)
        if private.CFG in parameters:
            arguments[private.CFG] = bool(getattr(self.pipe, private.CFG, True))
        self(encode_prompt, **{**arguments, prompt: None})

    def _absent(self, freed: list[str]) -> NAGValueError:
        """What to raise where words meet encoders that are None."""
        texts = [p.argument for p in self.family.inputs if p.kind in ("text", "layers")]
        form = f" (a dictionary of {', '.join(texts)})" if len(texts) > 1 else ""
        return NAGValueError(
            "Words cannot be encoded: of the text encoders and tokenizers of this "
            f"{type(self.pipe).__name__}, {', '.join(freed)} {'is' if len(freed) == 1 else 'are'} "
            "None. Before you free them, encode the negative prompt with the pipeline's "
            f"{self.original.__name__}, and give its text to nag.guide as negative_prompt_embeds"
            f"{form}."
        )


def parts_of(pipe: DiffusionPipeline) -> dict[str, bool]:
    """The names of a pipeline's text encoders and tokenizers, and whether they are there."""
    names = filter(PART.fullmatch, inspect.signature(type(pipe).__init__).parameters)
    # not by `getattr`: of a part that was deleted, diffusers gives the entry in its configuration
    return {name: vars(pipe).get(name) is not None for name in names}


def half_freed(pipe: DiffusionPipeline) -> bool:
    """Whether an encoder was freed and its tokenizer was not, or the reverse. A pipeline that does
    without both of a pair (SD3 without T5) encodes as it always did."""
    parts = parts_of(pipe)
    pairs = [(name, name.replace("text_encoder", "tokenizer")) for name in parts]
    return any(parts[name] != parts.get(other, parts[name]) for name, other in pairs)
