"""The negative text packed behind the positive: every input that grows with the text.

B rows, T+ and T- positive and negative text tokens, D features; "rest" are tokens of something else
that stand behind the text in the same input.
"""

import torch

from ..errors import NAGValueError
from ..families import Family, Packed
from ..segments import Layout
from .rows import Text, token_count


def pack(
    family: Family, inputs: dict, others: dict, rows: slice, total: int, length: int | None = None
) -> tuple[Layout, dict]:
    """(layout, {argument: packed input}) of one denoiser call. Only the first `length` tokens of
    the first text are its own: the negative's stand between them and what follows."""
    lengths, packed = [], {}
    for p in family.texts:
        plus, minus = inputs[p.argument], others[p.argument]
        if plus is None:  # a text that this pipeline does without
            lengths.append((0, 0))
            continue
        check_form(plus, minus, p)
        positive = token_count(plus, p) if length is None or p is not family.inputs[0] else length
        lengths.append((positive, token_count(minus, p)))
        packed[p.argument] = packed_text(p, plus, minus, positive)
    for p in family.inputs:
        text = packed.get(family.texts[p.of].argument)
        if p.kind == "text" or text is None:
            continue
        pair = inputs[p.argument], others[p.argument]
        if p.kind != "mask":
            packed[p.argument] = COMPANIONS[p.kind](p, *pair, *lengths[p.of])
        elif (mask := packed_mask(*pair, *lengths[p.of], len(text))) is not None:
            packed[p.argument] = mask
    return Layout(tuple(lengths), rows, total), packed


def packed_text(p: Packed, plus: Text, minus: Text, positive: int) -> Text:
    """(B, T+ + rest, D) and (B, T-, D) -> (B, T+ + T- + rest, D); of lists each (T, D)"""
    if isinstance(plus, list):
        return [torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)]
    rest = plus.narrow(p.dim, positive, plus.shape[p.dim] - positive)
    return torch.cat([plus.narrow(p.dim, 0, positive), minus.to(plus), rest], p.dim)


def packed_mask(
    plus: torch.Tensor | None, minus: torch.Tensor | None, positive: int, negative: int, rows: int
) -> torch.Tensor | None:
    """(B, T+ + rest) and (B, T-) -> (B, T+ + T- + rest); None where nothing is padded."""
    if plus is None and (minus is None or minus.all()):
        return None
    plus = minus.new_ones(rows, positive) if plus is None else plus
    minus = plus.new_ones(len(plus), negative) if minus is None else minus.to(plus)
    return torch.cat([plus[:, :positive], minus, plus[:, positive:]], 1)


def packed_count(
    p: Packed, plus: torch.Tensor, minus: torch.Tensor, positive: int, negative: int
) -> torch.Tensor:
    """(B,): how many tokens are not padding."""
    return plus + negative


def packed_layers(
    p: Packed, plus: list[torch.Tensor], minus: list[torch.Tensor], positive: int, negative: int
) -> list:
    """A text in every layer of its encoder. The pipeline chooses: the last layers, or the last
    one again."""
    minus = minus[-len(plus) :]
    minus = minus + minus[-1:] * (len(plus) - len(minus))
    return [torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)]


def packed_ids(
    p: Packed, plus: torch.Tensor, minus: torch.Tensor | None, positive: int, negative: int
) -> torch.Tensor:
    """([B,] T+ + rest, axes) and (T-, axes) -> ([B,] T+ + T- + rest, axes)"""
    dim = plus.ndim + p.dim if p.dim < 0 else p.dim
    if minus is None:
        minus = counted_ids(plus, dim, positive, negative)
    elif minus.ndim > plus.ndim:  # pipelines that take one row's ids for all
        minus = minus[0]
    minus = minus.to(plus).expand(*plus.shape[:dim], negative, *plus.shape[dim + 1 :])
    text, image = plus.split([positive, plus.shape[dim] - positive], dim)
    return torch.cat([text, minus, image], dim)


def counted_ids(plus: torch.Tensor, dim: int, positive: int, negative: int) -> torch.Tensor:
    """Ids for embeddings given by hand, which come without: all alike, or counting on, as the
    positive's first two do."""
    first, second = plus.narrow(dim, 0, 1), plus.narrow(dim, min(1, positive - 1), 1)
    steps = torch.arange(negative, device=plus.device).to(plus)
    return first + (second - first) * steps.reshape(negative, *[1] * (plus.ndim - dim - 1))


COMPANIONS = {"count": packed_count, "layers": packed_layers, "ids": packed_ids}


def check_form(plus: Text, minus: Text | None, p: Packed) -> None:
    """Raises NAGValueError unless the negative's input is the prompt's but for its length."""
    if minus is None:
        raise NAGValueError(
            f"NAG has no negative for {p.argument}: negative_prompt_embeds must be a dictionary "
            "with all of this model's texts."
        )
    if not same_form(plus, minus, p):
        raise NAGValueError(
            f"The negative's {p.argument} ({form(minus)}) must have the form of the prompt's "
            f"({form(plus)}), but for its length."
        )


def same_form(plus: Text, minus: Text, p: Packed) -> bool:
    """Whether two texts differ in their length alone."""
    if isinstance(plus, list) or isinstance(minus, list):
        lists = isinstance(plus, list) and isinstance(minus, list)
        return lists and all(same_form(*pair, p) for pair in zip(plus, minus, strict=True))
    return plus.ndim == minus.ndim and all(
        a == b
        for dim, (a, b) in enumerate(zip(plus.shape, minus.shape, strict=True))
        if dim != p.dim
    )


def form(value: Text) -> str:
    return f"list of {form(value[0])}" if isinstance(value, list) else str(tuple(value.shape))
