"""Which words of a prompt do not reach the picture: beyond what the text encoders read, or never
taught to the model."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..home import HOME
from ..presets import Preset
from .reuse import LeastRecentlyUsed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

    from .run import Run

P = ParamSpec("P")
R = TypeVar("R")
WORD = re.compile(r"\w+(?:['’]\w+)*")
MOST_NAMED, LONGEST = 8, 40  # unknown words, and characters of one


class CutWords:
    """How many words of the texts that a pipeline encoded were cut.

    Remembered by text, longer than `EmbeddingCache` remembers what the encoders made of it: a text
    that comes out of there meets no tokenizer.
    """

    def __init__(self) -> None:
        self._cut = LeastRecentlyUsed(256, math.inf, math.inf)

    def of(self, text: str) -> int:
        """Words at the end of a text that none of the pipeline's text encoders read."""
        return self._cut.get(text) or 0

    @contextlib.contextmanager
    def listening(self, pipe: DiffusionPipeline, texts: list[str]) -> Iterator[None]:
        """Hears what the pipeline's tokenizers make of `texts` in the meantime."""
        from ..patch import wrap_call, wrap_method

        heard = Heard(texts)
        with contextlib.ExitStack() as stack:
            stack.callback(self._remember, heard)
            for tokenizer in tokenizers_of(pipe):
                note = functools.partial(heard.tokenized, tokenizer)
                stack.enter_context(wrap_call(tokenizer, note))
            if isinstance(getattr(pipe, "prompt_template_encode_start_idx", None), int):
                shortened = functools.partial(heard.shortened, pipe)
                stack.enter_context(wrap_method(pipe, "encode_prompt", shortened))
            yield

    def _remember(self, heard: Heard) -> None:
        for text, cuts in heard.cuts.items():
            if least := min(cuts.values()):
                self._cut.put(text, least, 0)


class Heard:
    """What tokenizers made of some texts. cuts: {text: {a tokenizer's id: words cut}}"""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.cuts, self.latest = texts, {}, []

    def tokenized(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokenize: Callable[P, R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """One call of a tokenizer."""
        result = tokenize(*args, **kwargs)
        given = args[0] if args else kwargs.get("text")
        names = "truncation", "max_length", "add_special_tokens"
        options = {name: kwargs[name] for name in names if name in kwargs}
        wholes = [given] if isinstance(given, str) else given or []
        pairs = [(whole, _contained(whole, self.texts)) for whole in wholes]
        self.latest = [(tokenizer, tokenize, *pair) for pair in pairs if pair[1]]
        if options.get("truncation"):
            self._note(options)
        return result

    def shortened(
        self,
        pipe: DiffusionPipeline,
        encode_prompt: Callable[P, R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """One call of Qwen-Image's `encode_prompt`, which cuts what its encoder has read: its
        template at the beginning, and tokens beyond the longest text at the end."""
        result = encode_prompt(*args, **kwargs)
        read = pipe.prompt_template_encode_start_idx + result[0].shape[1]
        self._note({"truncation": True, "max_length": read})
        return result

    def _note(self, options: dict) -> None:
        for tokenizer, tokenize, whole, text in self.latest:
            cuts = self.cuts.setdefault(text, {})
            cut = _words_cut(tokenizer, tokenize, whole, text, options)
            cuts[id(tokenizer)] = max(cut, cuts.get(id(tokenizer), 0))


def tokenizers_of(pipe: DiffusionPipeline) -> list:
    """A pipeline's tokenizers, those inside of processors too."""
    from transformers import PreTrainedTokenizerBase

    parts = [part for part in pipe.components.values() if part is not None]
    found = [*parts, *(getattr(part, "tokenizer", None) for part in parts)]
    return list({id(t): t for t in found if isinstance(t, PreTrainedTokenizerBase)}.values())


@functools.cache
def _taught(model: Path) -> frozenset[str]:
    listed = model / "words.txt"
    return (
        frozenset(listed.read_text(encoding="utf-8").split()) if listed.is_file() else frozenset()
    )


def _folded(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def _contained(whole, texts: list[str]) -> str | None:
    """The longest of some texts that stands in what a tokenizer got: pipelines put templates around
    their prompts, and clean them."""
    if not isinstance(whole, str):
        return None
    found = [text for text in texts if _folded(text) and _folded(text) in _folded(whole)]
    return max(found, key=len, default=None)


def _words_cut(tokenizer, tokenize, whole: str, text: str, options: dict) -> int:
    """How many words of `text`, which stands in `whole`, a tokenizer leaves out, also in part."""
    if not tokenizer.is_fast:  # written in Python: it does not say where a token stands
        ids = tokenize(whole, add_special_tokens=False)["input_ids"]
        kept = len(tokenize(whole, **options)["input_ids"])
        if options.get("add_special_tokens", True):
            kept -= tokenizer.num_special_tokens_to_add()
        return len(WORD.findall(tokenizer.decode(ids[kept:])))
    spans = tokenize(whole, return_offsets_mapping=True, **options)["offset_mapping"]
    spans = [span for span in spans if span[0] < span[1]]  # not those of special tokens
    first, last = min((s for s, _ in spans), default=0), max((e for _, e in spans), default=0)
    start = max(whole.find(text), 0)
    end = start + len(text) if whole.startswith(text, start) else len(whole)
    words = [word.span() for word in WORD.finditer(whole, start, end)]
    return sum(begin < first or last < stop for begin, stop in words)


def unknown_words(preset: Preset, text: str) -> list[str]:
    """Words that the model was not taught, in the order of the text, each once.

    A model that says what it was taught has a file `words.txt` in its folder: all words of the
    captions that it was trained on. Of other models nobody can say, and there is nothing unknown.
    """
    known = frozenset() if preset.weights else _taught(HOME / preset.model)
    words = dict.fromkeys(WORD.findall(text.lower()))
    return [word for word in words if known and word not in known]


def shortened(word: str) -> str:
    """A word as it may stand in a sentence."""
    return word if len(word) <= LONGEST else word[: LONGEST - 1] + "…"


def words_of(run: Run) -> dict[str, dict]:
    """{"prompt": {"count": 40, "cut": 12, "unknown": ["banana"]}} for each text of a run that a
    finished column used, and of which not every word counts."""
    done, found = [column for column in run.columns if column.state == "done"], {}
    for name in ("prompt", "negative_prompt"):
        text = getattr(run.request, name)
        used = [column for column in done if name == "prompt" or column.key != "none"]
        cut = max((column.cut.get(name, 0) for column in used), default=0)
        unknown = unknown_words(run.preset, text) if used else []
        if cut or unknown:
            found[name] = {"count": len(WORD.findall(text)), "cut": cut, "unknown": unknown}
    return found


def remark(run: Run) -> str:
    """What `words_of` found, in a sentence for each text, or ""."""
    sentences = []
    for name, words in words_of(run).items():
        parts, count, cut = [], words["count"], words["cut"]
        if cut:
            last = "the last one is cut" if cut == 1 else f"the last {cut} are cut"
            read = f"{count - cut} of its {count} words, {last}"
            parts.append("its only word is cut" if count == 1 else f"the model reads {read}")
        if words["unknown"]:
            named = ", ".join(map(shortened, words["unknown"][:MOST_NAMED]))
            more = len(words["unknown"]) - MOST_NAMED
            named += f" and {more} more" if more > 0 else ""
            parts.append(f"the model does not know: {named}")
        sentences.append(f"{name.replace('_', ' ').capitalize()}: {'; '.join(parts)}.")
    return " ".join(sentences)
