"""What to do with a denoiser call: which of its rows are guided, and in which pieces it runs."""

import torch

from ..errors import NAGRuntimeError
from ..families import Family, Packed
from ..segments import Layout
from .packing import pack
from .rows import conditional_rows, for_each_layer, join_outputs, negative_for_rows
from .state import Texts


def plan_call(texts: Texts, family: Family, given: dict) -> list | None:
    """How to run a denoiser call with these arguments: None, as it is, or its pieces, each
    (rows or None for all, layout or None where they are not guided, {argument: packed input})."""
    first = family.inputs[0].argument
    text = given[first]
    wanted, total = match_dimensions(texts.positive[first], text), len(text)
    found = guided_rows(texts, family, given, wanted)
    if not any(index is not None for index in found):  # of another prompt, or CFG's alone
        return None
    inputs = {p.argument: given.get(p.argument) for p in family.inputs}
    others = negatives_for_rows(texts, family, inputs, found, len(wanted))
    if family.rows:
        return group_rows(
            [pack_row(family, inputs, others, row, index) for row, index in enumerate(found)]
        )
    rows = neighbours([row for row, index in enumerate(found) if index is not None], total)
    length = own_length(text[rows], wanted)
    layout, packed = pack(family, inputs, others, rows, total, length)
    return [(None, layout, packed)]


def guided_rows(texts: Texts, family: Family, given: dict, wanted) -> list[int | None]:
    """For every row of the text, which of the `wanted` it is; None where it is not guided."""
    text = given[family.inputs[0].argument]
    times = len(text) // len(given[family.each]) if family.each else 1  # rows of one picture
    found = conditional_rows(
        text[::times] if times > 1 else text, wanted, texts.cfg and not family.repeats
    )
    if found is None:
        return []
    spared = {i for i, without in enumerate(texts.without_negative) if without}
    return [None if index in spared else index for index in found for _ in range(times)]


def negatives_for_rows(texts: Texts, family: Family, inputs: dict, found: list, count: int) -> dict:
    """{argument: the negative's input, with a row for every row of the call}"""
    return {
        p.argument: for_each_layer(
            p,
            match_dimensions(texts.negative.get(p.argument), inputs[p.argument]),
            negative_for_rows,
            found,
            count,
            p.batch,
        )
        for p in family.inputs
    }


def neighbours(rows: list[int], total: int) -> slice:
    """Row numbers as a slice."""
    if rows != list(range(rows[0], rows[-1] + 1)):
        raise NAGRuntimeError(
            f"The rows {rows} of {total} are to be guided and are not neighbours; NAG cannot guide "
            "this batch. Prompts without a negative one stand before or behind all others."
        )
    return slice(rows[0], rows[-1] + 1)


def pack_row(family: Family, inputs: dict, others: dict, row: int, index: int | None) -> tuple:
    """One row as a piece of its own, without the tokens that its mask leaves out."""
    here = slice(row, row + 1)
    if index is None:
        return here, None, {}
    plus, minus = (
        {p.argument: without_masked_tokens(p, family, side, here) for p in family.inputs}
        for side in (inputs, others)
    )
    layout, packed = pack(family, plus, minus, slice(0, 1), 1)
    return here, layout, packed


def own_length(text, wanted) -> int | None:
    """How many of a tensor's tokens are the text, where tokens of something else (and not padding)
    follow."""
    longer = isinstance(text, torch.Tensor) and text.ndim == 3 and text.shape[1] > wanted.shape[1]
    return wanted.shape[1] if longer and text[:, wanted.shape[1] :].any() else None


def group_rows(pieces: list) -> list:
    """Neighbours with texts of the same lengths go together."""
    groups = []
    for piece in pieces:
        if groups and lengths_of(groups[-1]) == lengths_of(piece):
            groups[-1] = joined_pieces(groups[-1], piece)
        else:
            groups.append(piece)
    return groups


def lengths_of(piece) -> tuple | None:
    layout = piece[1]
    return layout and layout.texts


def joined_pieces(first, second) -> tuple:
    """Two neighbouring pieces as one."""
    rows = slice(first[0].start, second[0].stop)
    count = rows.stop - rows.start
    layout = first[1] and Layout(first[1].texts, slice(0, count), count)
    packed = {
        name: None if value is None else join_outputs([first[2][name], value])
        for name, value in second[2].items()
    }
    return rows, layout, packed


def match_dimensions(value, like):
    """(B, T, D) -> (B, 1, T, D) where `like` has it: some pipelines add it after encoding."""
    tensors = isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
    if tensors and like.ndim == value.ndim + 1 and like.shape[1] == 1:
        return value.unsqueeze(1)
    return value


def without_masked_tokens(p: Packed, family: Family, side: dict, rows: slice):
    """One row of a text or its companions without the tokens that its mask leaves out."""
    value = side.get(p.argument)
    if value is None:
        return None
    value, mask = value[rows], family.companion("mask", p.of) or family.companion("count", p.of)
    counts = side.get(mask.argument) if mask else None
    if counts is None or p.kind == "count":
        return value
    if mask.kind == "count":
        return value[:, : int(counts[rows])]
    keep = counts[rows][0].to(value[0].device).bool()
    if not (keep.any() or p.of or family.empty):
        keep = torch.ones_like(keep[:1])  # a model wants something to attend to
    if isinstance(value, list):
        return [one[: len(keep)][keep[: len(one)]] for one in value]
    return value.index_select(p.dim, keep.nonzero()[:, 0])
