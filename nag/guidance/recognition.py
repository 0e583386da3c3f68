"""Which rows of the denoiser's text carry the prompt, and which are CFG's.

By value, as a rule: rows that equal what `encode_prompt` returned for the prompt. Where CFG's
negative prompt is the prompt, value cannot tell, and these do: the pipeline's own order of rows,
the tensors' identity, the order of the denoiser's calls. Where the text was changed on the way (by
a callback that swaps or weights the prompt), its place tells: the rows where the prompt stood in
the same call of an earlier step. What none of them tells is refused with a sentence.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ..errors import NAGRuntimeError
from ..families import Family
from .rows import Text, match_dimensions, same_values
from .texts import Texts


class Found(NamedTuple):
    """rows: for every row of a text, which of the prompt's rows it carries, or None.
    rest: how many tokens stand behind the prompt's own that are neither its words nor padding, an
    image's for example."""

    rows: list[int | None]
    rest: int = 0


class Blocks(NamedTuple):
    """A text in blocks of `indices`, the prompt's rows, each once or several times.

    count: how many blocks there are. equal: the numbers of those that are the prompt by value.
    """

    indices: list[int]
    count: int
    equal: list[int]

    def part(self, text: Text, block: int) -> Text:
        """The rows of one block."""
        size = len(self.indices)
        return text[block * size : (block + 1) * size]

    def rows(self, chosen: list[int]) -> list[int | None]:
        """`Found.rows`, where these blocks are the prompt's."""
        nothing = [None] * len(self.indices)
        return [
            row
            for block in range(self.count)
            for row in (self.indices if block in chosen else nothing)
        ]


@dataclass
class PromptRows:
    """Finds the prompt's rows in the denoiser calls of one picture.

    seen: {(place, number of rows): what was found}, by which a changed text is known.
    decided: {id: (the tensor, whether it is the prompt's)}, where the order of calls had to tell.
    mixed: whether a call held the prompt's and CFG's rows, told by their order.
    """

    family: Family
    seen: dict[tuple[int, int], Found] = field(default_factory=dict)
    decided: dict[int, tuple] = field(default_factory=dict)
    mixed: bool = False

    def forget(self) -> None:
        """Another picture begins."""
        self.seen.clear()
        self.decided.clear()
        self.mixed = False

    def find(self, texts: Texts, text: Text, place: int) -> Found | None:
        """What a denoiser call shows; None where nobody can know.

        text: (B, T, D), or a list of B tensors (T, D).
        place: which call of the denoiser since the last scheduler step it is, counted from 0.
        """
        prompt = match_dimensions(texts.positive[self.family.inputs[0].argument], text)
        rows = self._rows(texts, text, prompt, place)
        if rows is None:
            return self.seen.get((place, len(text)))
        found = self.seen[place, len(text)] = Found(rows, tokens_behind(text, rows, prompt))
        return found

    def _rows(self, texts: Texts, text: Text, prompt: Text, place: int) -> list[int | None] | None:
        if texts.whole is not None and same_values(text, texts.whole):
            blocks = Blocks(list(range(len(prompt))), len(texts.order), [])
            return blocks.rows([block for block, own in enumerate(texts.order) if own])
        others = [match_dimensions(other, text) for other in texts.others]
        if not texts.same:
            if (rows := rows_by_identity(text, prompt)) is not None:
                return rows
            if any(same_values(text, other) for other in others):
                return [None] * len(text)
        blocks = blocks_of(text, prompt)
        if blocks is None:
            return None
        check_one_order(texts, text, prompt, blocks)
        two_alike = blocks.count == len(blocks.equal) == 2 and not self.family.repeats
        if texts.cfg and (texts.same or (two_alike and not others)):
            return blocks.rows(self._told_by_order(texts, text, blocks, place))
        return blocks.rows(
            [
                block
                for block in blocks.equal
                if not any(same_values(blocks.part(text, block), other) for other in others)
            ]
        )

    def _told_by_order(self, texts: Texts, text: Text, blocks: Blocks, place: int) -> list[int]:
        """Which of the equal blocks are the prompt's, where CFG's are equal too."""
        if blocks.count == 1 or self.family.repeats:
            return blocks.equal if self._is_the_prompts(texts, text, place) else []
        order = texts.order or self.family.cfg_order
        if blocks.count % len(order):
            raise untold(f"which of {blocks.count} rows of a picture are which")
        self.mixed = True
        return [block for block in blocks.equal if order[block * len(order) // blocks.count]]

    def _is_the_prompts(self, texts: Texts, text: Text, place: int) -> bool:
        """Of a text without CFG's rows, where CFG's text has the same value."""
        own = is_same(text, texts.positive[self.family.inputs[0].argument])
        others = any(is_same(text, other) for other in texts.others)
        if own and others:
            raise untold("which of its calls are which, for both texts are one tensor")
        if own or others:
            return own
        if id(text) not in self.decided:
            # diffusers' pipelines run the prompt first
            if place > 1 or (place == 1 and self.mixed):
                raise untold("which of its calls are which")
            self.decided[id(text)] = text, place == 0
        return self.decided[id(text)][1]


def untold(what: str) -> NAGRuntimeError:
    """What to raise where the prompt's rows cannot be told from CFG's."""
    return NAGRuntimeError(
        f"CFG's negative prompt is the prompt itself, and NAG cannot tell of this pipeline {what}: "
        "give CFG another negative prompt, or switch CFG off."
    )


def is_same(text: Text, other: Text) -> bool:
    """Whether two texts are the same object, or lists of the same."""
    if isinstance(text, list) and isinstance(other, list):
        return len(text) == len(other) and all(a is b for a, b in zip(text, other, strict=True))
    return text is other


def rows_by_identity(text: Text, prompt: Text) -> list[int | None] | None:
    """The pipeline's own tensors in another list: no doubt which is which."""
    if not (isinstance(text, list) and isinstance(prompt, list)):
        return None
    rows = [next((i for i, one in enumerate(prompt) if one is row), None) for row in text]
    return rows if any(row is not None for row in rows) else None


def check_one_order(texts: Texts, text: Text, prompt: Text, blocks: Blocks) -> None:
    """Raises NAGRuntimeError where equal prompts have different negatives, and their rows could be
    in two orders: AABB, as pipelines repeat their texts for several pictures, and ABAB."""
    times = len(blocks.indices) // len(prompt)
    if len(prompt) < 2 or len(text) // len(prompt) <= times:
        return
    other = blocks_of(text, prompt, times + 1)
    if other is None or other.rows(other.equal) == blocks.rows(blocks.equal):
        return
    negatives = [value for value in texts.negative.values() if rows_differ(value, len(prompt))]
    if negatives or len(set(texts.without_negative)) > 1:
        raise NAGRuntimeError(
            "Prompts that are equal have different negative prompts, and of several pictures of "
            "each NAG cannot tell which is whose: draw one picture of each at a time, or one "
            "prompt at a time."
        )


def rows_differ(value: Text | None, count: int) -> bool:
    """Whether a negative's input has `count` rows that are not all the same."""
    if isinstance(value, torch.Tensor):
        return value.ndim > 1 and len(value) == count and not bool((value == value[:1]).all())
    if not isinstance(value, list) or len(value) != count:
        return False
    return not all(same_values(one, value[0]) for one in value)


def blocks_of(text: Text, prompt: Text, least: int = 1) -> Blocks | None:
    """A text in blocks of the prompt's rows, each `least` times or more often; None where none of
    them is the prompt by value.

    A row may come several times: of some pipelines, several pictures are made of the texts after
    `encode_prompt`. Behind the text may stand padding, or tokens of something else.
    """
    if isinstance(text, list) != isinstance(prompt, list):
        return None
    if isinstance(text, torch.Tensor):
        prompt = prompt.to(text)
        if text.ndim == prompt.ndim == 3:
            text = text[:, : prompt.shape[1]]
        if text.ndim != prompt.ndim or text.shape[1:] != prompt.shape[1:]:
            return None
    total = len(text)
    for times in range(least, total // len(prompt) + 1):
        indices = [row for row in range(len(prompt)) for _ in range(times)]
        if total % len(indices):
            continue
        wanted = [prompt[row] for row in indices]
        if isinstance(text, torch.Tensor):
            wanted = prompt[indices]
        starts = range(0, total, len(indices))
        equal = [
            block
            for block, start in enumerate(starts)
            if same_values(text[start : start + len(indices)], wanted)
        ]
        if equal:
            return Blocks(indices, len(starts), equal)
    return None


def tokens_behind(text: Text, rows: list[int | None], prompt: Text) -> int:
    """How many tokens of something else, and not padding, stand behind the prompt's own."""
    own = [place for place, row in enumerate(rows) if row is not None]
    if not own or isinstance(text, list) or text.ndim != 3 or text.shape[1] <= prompt.shape[1]:
        return 0
    behind = text[own[0] : own[-1] + 1, prompt.shape[1] :]
    return behind.shape[1] if behind.any() else 0
