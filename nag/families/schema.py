"""What NAG must be told of a denoiser class."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..segments import Pieces
from .spans import Lengths, one_after_another

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch.nn import Module

    from ..guidance.state import CallState

    Layers = dict[str, tuple[str, Module]]  # name of an attention -> (one of `KINDS`, the module)
    Adapter = Callable[
        [DiffusionPipeline, ModelMixin, CallState], AbstractContextManager["Adapted | None"]
    ]

KINDS = {
    "cross": "keys are the text, queries the image",
    "cross_second": "keys are the second text, queries the image",
    "cross_added": "keys are the text and what goes with either text (the image itself, a picture, "
    "a duration) behind it, queries the image",
    "joint": "keys are text and image in one sequence; queries are too, or are the image alone",
    "text": "keys and queries are the text alone",
    "injected": "keys are the text, queries are text and image in one sequence",
}


@dataclass(frozen=True)
class Packed:
    """One input of the denoiser that carries something per text token, and grows by the negative's
    when they are packed.

    argument: its name in the denoiser's `forward`.
    encoded: its place in what `encode_prompt` returns; None where it is made elsewhere.
    dim: the dimension that counts tokens.
    kind: "text", "layers", "mask", "count" or "ids".
    of: which text (0 the first) they belong to.
    batch: the dimension that counts rows.
    call: which call of `encode_prompt` returns it, where a pipeline has one per text encoder.
    """

    argument: str
    encoded: int | None
    dim: int = 1
    kind: str = "text"
    of: int = 0
    batch: int = 0
    call: int = 0


def text(
    encoded: int | None = 0,
    argument: str = "encoder_hidden_states",
    dim: int = 1,
    of: int = 0,
    batch: int = 0,
    call: int = 0,
) -> Packed:
    """A text: (B, T, D), or a list of B tensors (T, D) with `dim=0`; with `batch=1`
    (layers, B, T, D)."""
    return Packed(argument, encoded, dim, "text", of, batch, call)


def mask(
    encoded: int | None, argument: str = "encoder_attention_mask", of: int = 0, call: int = 0
) -> Packed:
    """A text's mask, (B, T); image tokens may follow the text's."""
    return Packed(argument, encoded, 1, "mask", of, 0, call)


def valid(encoded: int | None, argument: str, of: int = 0) -> Packed:
    """How many of a text's tokens are not padding, (B,): a mask in short, for families with
    `rows`."""
    return Packed(argument, encoded, 0, "count", of)


def ids(encoded: int | None, argument: str = "txt_ids", dim: int = -2, of: int = 0) -> Packed:
    """Position ids of a text's tokens, (T, axes) or (B, T, axes); image tokens may follow. The
    negative brings its own, or counts as the positive does."""
    return Packed(argument, encoded, dim, "ids", of)


def text_layers(encoded: int, argument: str = "text_encoder_layers", of: int = 0) -> Packed:
    """A text's hidden states in every layer of its encoder: a list of (B, T, D). The denoiser may
    get the last of them only."""
    return Packed(argument, encoded, 1, "layers", of)


class Adapted(NamedTuple):
    """What an adapter changes, beside modules of the denoiser that it wraps itself.

    around: (call, *args, **kwargs) -> output; stands around every call of the whole denoiser.
    layout: (layout, arguments of the call by name) -> the layout as the model's attention sees it.
    rewrites: (owner, name, function): after every call of the method, or with "" of the owner, the
        texts are `function(texts, result, original, *args, **kwargs)`. For pipelines that rewrite
        their text between `encode_prompt` and the denoiser.
    """

    around: Callable | None = None
    layout: Callable | None = None
    rewrites: tuple[tuple[object, str, Callable], ...] = ()


@dataclass(frozen=True)
class Family:
    """What NAG must be told of a denoiser class.

    layers: denoiser -> {name: (kind, attention module)} of all that see the text; see `KINDS`.
    inputs: what is packed. The first is the text by whose values the conditional rows are
        recognised.
    order: of a joint attention's sequence, "text, image" or "image, text".
    spans: where that is not enough, a function (kind, lengths, count) -> (pieces of the positive,
        pieces of the negative), each a list of (start, length).
    grow: tokens that a text of so many tokens has inside the model (registers, padding to a
        multiple).
    adapter: (pipe, denoiser, state) -> context manager that gives an `Adapted` or None, for models
        that count their text tokens or change their text on the way; see `nag/families/adapters/`.
    rows: names of the arguments with one entry per row ("name[]": a list of tensors with rows). Set
        where texts of different length cannot share a call: padding is then cut off by the mask,
        and rows of different length (or un-guided ones) run one by one.
    repeats: the pipeline repeats its texts for `num_images_per_prompt` itself, after
        `encode_prompt`.
    empty: with `rows`: a text whose mask leaves nothing of it may have no tokens at all; otherwise
        it keeps one.
    silent: a pattern of layers that a call may leave out (sound beside a video).
    encoders: the pipeline's methods that turn words into text, as far as it has them.
    phrase: (prompt as the pipeline hands it to an encoder, negative words) -> these words in the
        same form, where that is not the words alone.
    cfg_order: of the blocks of rows in a call with CFG, which are the prompt's. diffusers' order
        is CFG's rows first.
    each: an argument with one entry per row, where the pipeline repeats its text for every frame of
        a row.
    tokenizer: where the text is one token of the denoiser's for each of a tokenizer's, and padding
        is attended: the pipeline's name for it. With this, `trim` can cut padding.
    tokens_before: the pipeline's name for how many tokens of something else stand before that text.
    alpha: NAG's alpha that is published for it, or a function of the denoiser; None where nothing
        is. `nag.guide` takes it where the caller gives none.
    remark: what a user should know, for the table of families.
    """

    layers: Callable[[ModelMixin], Layers]
    inputs: tuple[Packed, ...] = field(default_factory=lambda: (text(),))
    order: str = "image, text"
    spans: Callable[[str, Lengths, int], tuple[Pieces, Pieces]] | None = None
    grow: Callable[[int], int] | None = None
    adapter: Adapter | None = None
    rows: tuple[str, ...] = ()
    repeats: bool = False
    empty: bool = False
    silent: str = ""
    encoders: tuple[str, ...] = ("encode_prompt",)
    phrase: Callable[[str, str], str] | None = None
    cfg_order: tuple[bool, ...] = (False, True)
    each: str | None = None
    tokenizer: str = ""
    tokens_before: str = ""
    alpha: float | Callable[[ModelMixin], float] | None = None
    remark: str = ""

    @property
    def texts(self) -> list[Packed]:
        return [p for p in self.inputs if p.kind == "text"]

    def companion(self, kind: str, of: int = 0) -> Packed | None:
        """The mask, the ids or the count of a text."""
        return next((p for p in self.inputs if p.kind == kind and p.of == of), None)

    def pieces(self, kind: str, lengths: Lengths, count: int) -> tuple[Pieces, Pieces]:
        """Where the positive and the negative texts stand in an attention's keys: two lists of
        (start, length). Texts follow one another, each positive before its negative.

        lengths: (T+, T-) of every text input. count: number of keys.
        """
        if self.grow:
            lengths = [
                (self.grow(positive), self.grow(negative) if negative else 0)
                for positive, negative in lengths
            ]
        if self.spans:
            return self.spans(kind, lengths, count)
        texts = sum(map(sum, lengths))
        start = count - texts if kind == "joint" and self.order == "image, text" else 0
        positives, negatives = one_after_another(lengths, start)
        behind = start + texts
        shared = [(behind, count - behind)] if kind == "cross_added" and count > behind else []
        return positives + shared, negatives + shared
