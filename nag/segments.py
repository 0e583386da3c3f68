"""Where texts and image stand in a packed sequence, and how it is cut: tokens, rows, masks."""

from dataclasses import dataclass

import torch

from .errors import NAGRuntimeError


@dataclass
class Layout:
    """What the packed sequence of the running denoiser call holds: T+ and T- tokens of every text input; `rows` of `total` are conditional.
    cached_reference_tokens: keys without a query in joint attention (reference images in a cache). carried_only: the negative is carried along and changes nothing."""

    texts: tuple[tuple[int, int], ...]
    rows: slice
    total: int
    cached_reference_tokens: int = 0
    carried_only: bool = False

    @property
    def whole(self) -> bool:
        """Every row is conditional."""
        return self.rows == slice(0, self.total)


def rows_of(layout: Layout, query) -> slice:
    """The conditional rows in attention, where every row of the batch may have become several (one a video frame) or goes alone."""
    if layout.whole:
        return slice(0, len(query))
    times = len(query) // layout.total  # not `divmod`, which torch.compile cannot do with symbols
    if times < 1 or times * layout.total != len(query):
        raise NAGRuntimeError(
            f"Attention saw {len(query)} rows in a call of {layout.total}, so NAG cannot tell which are conditional. Caches that skip the "
            "unconditional rows (FasterCache) work with NAG only without CFG."
        )
    return slice(layout.rows.start * times, layout.rows.stop * times)


POSITIVE, NEGATIVE, IMAGE = "+", "-", "i"


def ordered(positive, negative, count: int) -> list[tuple[int, int, str]]:
    """A whole sequence of `count` tokens as (start, length, what): the texts, and the image in all that they leave.

    Not with `sorted`, nor are pieces ever keys of a dictionary: torch.compile can do neither once lengths are symbols.
    """
    texts, pieces, at = [], [], 0
    for what, side in ((POSITIVE, positive), (NEGATIVE, negative)):
        for start, length in side:
            if not length:
                continue
            place = len(texts)
            while place and texts[place - 1][0] > start:
                place -= 1
            texts.insert(place, (start, length, what))
    for start, length, what in [*texts, (count, 0, IMAGE)]:
        if start > at:
            pieces.append((at, start - at, IMAGE))
        if what != IMAGE:
            pieces.append((start, length, what))
        at = start + length
    return pieces


def attended(op, pieces, which: str, query, key, value, mask, tokens: int, keys=None) -> dict:
    """The pieces of some kinds attend one another, or the `keys` of these kinds -> {place: its tokens, each (B, H, N, D)}"""
    places = [place for place, piece in enumerate(pieces) if piece[2] in which]
    chosen = [pieces[place][:2] for place in places]
    seen = chosen if keys is None else [piece[:2] for piece in keys if piece[2] in which]
    out = op(
        take(query, tokens, chosen),
        take(key, tokens, seen),
        take(value, tokens, seen),
        mask_of(mask, seen, chosen),
    )
    return dict(zip(places, out.split([length for _, length in chosen], tokens), strict=True))


PORTION = 1024  # tokens


def portions(start: int, length: int, like) -> list[tuple[int, int]]:
    """Tokens as (start, count), cut on a processor: what is computed of so many stays in its cache, and takes no memory of its own.
    A GPU is faster with all at once, and so is what torch.compile makes of it."""
    if like.device.type != "cpu" or torch.compiler.is_compiling():
        return [(start, length)]
    return [(at, min(PORTION, start + length - at)) for at in range(start, start + length, PORTION)]


def joined(parts: dict, tokens: int):
    return torch.cat([parts[place] for place in sorted(parts)], tokens)


def zeros(parts: dict, length: int, tokens: int):
    """Like the parts, of another length."""
    like = next(iter(parts.values()))
    return like.new_zeros([length if d == tokens else n for d, n in enumerate(like.shape)])


def take(tensor, dim: int, pieces):
    """The pieces (start, length) of a tensor, behind one another; no copy where they are one."""
    whole = []
    for start, length in pieces:
        if whole and sum(whole[-1]) == start:
            whole[-1] = (whole[-1][0], whole[-1][1] + length)
        else:
            whole.append((start, length))
    parts = [tensor.narrow(dim, *piece) for piece in whole]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def mask_of(mask, keys, queries=None):
    """A mask's keys, and its queries too where it has them and they are wanted."""
    if mask is None:
        return None
    mask = take(mask, mask.ndim - 1, keys)
    return (
        take(mask, mask.ndim - 2, queries)
        if queries and mask.ndim > 1 and mask.shape[-2] > 1
        else mask
    )


def mask_rows(mask, rows: slice, count: int):
    """The rows of a mask that may be broadcast over the batch."""
    return mask[rows] if mask is not None and mask.ndim > 2 and mask.shape[0] == count else mask
