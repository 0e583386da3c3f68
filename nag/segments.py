"""Where texts and image stand in a packed sequence, and how it is cut: tokens, rows, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from .errors import NAGRuntimeError

if TYPE_CHECKING:
    from .families.schema import Family


@dataclass
class Layout:
    """What the packed sequence of the running denoiser call holds.

    texts: (T+, T-) of every text input. rows: which of `total` rows are conditional.
    cached_reference_tokens: keys without a query in joint attention (reference images in a cache).
    carried_only: the negative is carried along and changes nothing (a cache wants its shape).
    whole: every row is conditional.
    """

    texts: tuple[tuple[int, int], ...]
    rows: slice
    total: int
    cached_reference_tokens: int = 0
    carried_only: bool = False
    whole: bool = field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.rows == slice(0, self.total)  # asked in every guided layer


def rows_of(layout: Layout, query: torch.Tensor) -> slice:
    """The conditional rows in attention, where every row of the batch may have become several (one
    for each frame of a video) or runs alone.

    Raises NAGRuntimeError where the rows of `query` are no multiple of the call's.
    """
    rows = query.shape[0]  # not `len`, which takes ten times as long
    if layout.whole:
        return slice(0, rows)
    times = rows // layout.total  # not `divmod`, which torch.compile cannot do with symbols
    if times < 1 or times * layout.total != rows:
        raise NAGRuntimeError(
            f"Attention saw {rows} rows in a call of {layout.total}, so NAG cannot tell "
            "which are conditional. Caches that skip the unconditional rows (FasterCache) work "
            "with NAG only without CFG."
        )
    return slice(layout.rows.start * times, layout.rows.stop * times)


Pieces = list[tuple[int, int]]  # (start, length), in the order of the sequence

POSITIVE, NEGATIVE, IMAGE = "positive", "negative", "image"


class Segments:
    """A sequence cut into labelled pieces (start, length, label), in order and without gaps.

    "image" is whatever the two texts leave, for both of them go with it: in joint attention the
    image, in some cross-attention tokens of a picture or a duration.

    positive, negative, image: the pieces (start, length) with this label. with_positive,
    with_negative: what a branch sees, its text and the image. asking_positive, asking_negative:
    (start, length) from the first of these tokens to the last. halved: the positive text and behind
    it a negative of the same length, and nothing else. labels: where they were asked for, (N,) on a
    device, see `nag.fused.labels_of`.
    """

    def __init__(self, labelled: list[tuple[int, int, str]]) -> None:
        self.labelled = labelled
        self.positive, self.negative = self.only(POSITIVE), self.only(NEGATIVE)
        self.image = self.only(IMAGE)
        self.with_positive = self.only(POSITIVE, IMAGE)
        self.with_negative = self.only(NEGATIVE, IMAGE)
        self.asking_positive = span(self.with_positive)
        self.asking_negative = span(self.with_negative)
        self.halved = self._halved()
        self.labels: dict[torch.device, torch.Tensor] = {}

    def _halved(self) -> bool:
        if len(self.labelled) != 2 or not self.positive or not self.negative:
            return False
        (start, length), (_, other) = self.positive[0], self.negative[0]
        return start == 0 and length == other

    @classmethod
    def of(cls, positive: Pieces, negative: Pieces, count: int) -> Segments:
        """A sequence of `count` tokens. Pieces that stand in both texts belong to neither.

        Sorted by hand, and pieces are neither looked up nor hashed: torch.compile can do none of
        this once lengths are symbols.
        """
        texts, labelled, at = [], [], 0
        for label, side, other in (
            (POSITIVE, positive, negative),
            (NEGATIVE, negative, positive),
        ):
            for start, length in side:
                if not length or any(start == begin and n for begin, n in other):
                    continue
                place = len(texts)
                while place and texts[place - 1][0] > start:
                    place -= 1
                texts.insert(place, (start, length, label))
        for start, length, label in texts:
            if start > at:
                labelled.append((at, start - at, IMAGE))
            labelled.append((start, length, label))
            at = start + length
        if count > at:
            labelled.append((at, count - at, IMAGE))
        return cls(labelled)

    def only(self, *labels: str) -> Pieces:
        """The pieces with one of these labels."""
        return [(start, length) for start, length, label in self.labelled if label in labels]

    def texts_first(self) -> Segments:
        """The same pieces in another order, the image behind the texts."""
        texts = [piece for piece in self.labelled if piece[2] != IMAGE]
        return Segments(texts + [piece for piece in self.labelled if piece[2] == IMAGE])

    def apart(self, tokens: torch.Tensor, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, T + I, D) of one text and the image, in order -> the text's T, the image's I."""
        at, found = 0, {text: [], IMAGE: []}
        for _, length, label in self.labelled:
            if label in (text, IMAGE):
                found[label].append((at, length))
                at = at + length
        return take(tokens, found[text]), take(tokens, found[IMAGE])


def span(pieces: Pieces) -> tuple[int, int]:
    """One piece from the first to the last of these."""
    if not pieces:
        return 0, 0
    (first, _), (last, length) = pieces[0], pieces[-1]
    return first, last + length - first


def places(
    family: Family, kind: str, layout: Layout, queries: int, keys: int
) -> tuple[Segments, Segments] | None:
    """What stands where in an attention of a `kind` (see `nag.families.KINDS`) with so many queries
    and keys -> (Segments of the queries, Segments of the keys); None: this one sees no text.

    An attention is recognised by its lengths. Compared by hand, not with `in`: torch.compile finds
    no number among lengths that are symbols.
    """
    positive, negative = family.pieces(kind, layout.texts, keys)
    texts = sum(length for _, length in positive + negative)
    of_keys = Segments.of(positive, negative, keys)
    of_image = Segments([(0, queries, IMAGE)])  # queries that are the image alone
    if kind == "cross_added":  # behind the texts may stand tokens that go with either
        return (of_image, of_keys) if keys >= sum(map(sum, layout.texts)) else None
    if kind == "joint":
        if keys < texts:
            return None
        if queries == keys - layout.cached_reference_tokens:
            if not layout.cached_reference_tokens:
                return of_keys, of_keys
            of_queries = Segments.of(*family.pieces(kind, layout.texts, queries), queries)
            return of_queries, of_keys
        return (of_image, of_keys.texts_first()) if queries == keys - texts else None
    if keys != texts:
        return None
    if kind == "text":
        return (of_keys, of_keys) if queries == keys else None
    if kind == "injected":
        return Segments.of(*family.pieces("joint", layout.texts, queries), queries), of_keys
    return of_image, of_keys


# an attention op: (query, key, value, mask) as in `Inputs` -> (B, H, queries, D)
Op = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Inputs(NamedTuple):
    """What an attention op takes: (B, H, queries, D), twice (B, H or fewer, keys, D), and a mask
    that broadcasts to (B, H, queries, keys), or None."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None

    def seen(self, keys: Pieces, queries: Pieces | None = None) -> Inputs:
        """These keys alone, and of the queries these or all."""
        query = self.query if queries is None else take(self.query, queries)
        mask = mask_of(self.mask, keys, queries)
        return Inputs(query, take(self.key, keys), take(self.value, keys), mask)

    def of_rows(self, rows: slice) -> Inputs:
        """These rows of the batch alone; a mask may be the same for all."""
        if rows.stop - rows.start == self.query.shape[0]:
            return self
        mask = self.mask
        if mask is not None and mask.ndim > 2 and mask.shape[0] == self.query.shape[0]:
            mask = mask[rows]
        return Inputs(self.query[rows], self.key[rows], self.value[rows], mask)

    def twice(self) -> Inputs:
        """One row's inputs as those of two rows: one with the first half of the keys, one with the
        second. That is one call for two texts of the same length."""
        mask = self.mask
        if mask is not None:
            mask = mask if mask.ndim == 4 else mask[(None,) * (4 - mask.ndim)]
            mask = torch.cat(mask.chunk(2, -1))
        query = self.query.expand(2, -1, -1, -1)
        return Inputs(query, halves(self.key), halves(self.value), mask)

    def output(self) -> torch.Tensor:
        """Zeros (B, H, queries, D) in (B, queries, H, D) memory: heads side by side are what every
        processor makes of them next, and then need no copy."""
        batch, heads, queries, _ = self.query.shape
        zeros = self.query.new_zeros(batch, queries, heads, self.value.shape[-1])
        return zeros.transpose(1, 2)


def take(tensor: torch.Tensor, pieces: Pieces, dim: int = 2) -> torch.Tensor:
    """The pieces of a tensor, one behind the other; a view where they are neighbours."""
    if len(pieces) == 1:
        return tensor.narrow(dim, *pieces[0])
    whole = []
    for start, length in pieces:
        if whole and sum(whole[-1]) == start:
            whole[-1] = (whole[-1][0], whole[-1][1] + length)
        else:
            whole.append((start, length))
    if not whole:
        return tensor.narrow(dim, 0, 0)
    parts = [tensor.narrow(dim, *piece) for piece in whole]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def halves(tensor: torch.Tensor) -> torch.Tensor:
    """One row becomes two, without a copy: (1, H, 2 T, D) -> (2, H, T, D)."""
    _, heads, tokens, features = tensor.shape
    return tensor.view(heads, 2, tokens // 2, features).transpose(0, 1)


def tokens_first(tensor: torch.Tensor) -> torch.Tensor:
    """(B, H, N, D) -> (B, N, H, D), in this memory too where pieces were joined in the other."""
    joined = tensor.is_contiguous()
    return tensor.transpose(1, 2).contiguous() if joined else tensor.transpose(1, 2)


def put(out: torch.Tensor, pieces: Pieces, tokens: torch.Tensor) -> None:
    """The reverse of `take`: writes tokens (B, H, N, D) to their pieces of `out`."""
    parts = tokens.split([length for _, length in pieces], 2)
    for piece, part in zip(pieces, parts, strict=True):
        out.narrow(2, *piece).copy_(part)


def mask_of(
    mask: torch.Tensor | None, keys: Pieces, queries: Pieces | None = None
) -> torch.Tensor | None:
    """A mask's keys, and its queries where it has them and they are wanted, in memory of its own:
    kernels of a GPU read masks in words of 16 bytes, and die of one that begins in between."""
    if mask is None:
        return None
    cut = take(mask, keys, mask.ndim - 1)
    if queries is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        cut = take(cut, queries, mask.ndim - 2)
    return cut.clone(memory_format=torch.contiguous_format)


PORTION = 1024  # tokens


def portions(pieces: Pieces, device: torch.device) -> Pieces:
    """Pieces cut smaller on a CPU: what is computed of so many tokens stays in its cache and takes
    no memory of its own. A GPU, and what torch.compile makes of it, is faster with all at
    once."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return pieces
    return [
        (at, min(PORTION, start + length - at))
        for start, length in pieces
        for at in range(start, start + length, PORTION)
    ]
