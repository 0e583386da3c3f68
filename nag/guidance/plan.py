"""What to do with a denoiser call: which of its rows are guided, and in which pieces it runs."""

from typing import NamedTuple

import torch

from ..errors import NAGRuntimeError
from ..families import Family, Packed
from ..segments import Layout
from .packing import pack
from .recognition import PromptRows
from .rows import Text, for_each_layer, join_outputs, match_dimensions, negative_for_rows
from .texts import Texts

# rows or None for all, layout or None where they are not guided, {argument: packed input}
Piece = tuple[slice | None, Layout | None, dict]


class Plan(NamedTuple):
    """How to run a denoiser call: as it is, or in pieces with guided rows.

    pieces: None where it runs as it is.
    known: whether the prompt was found, so that without pieces there is nothing to guide: its
        prompt has no negative one.
    """

    pieces: list[Piece] | None
    known: bool


def plan_call(
    texts: Texts, family: Family, prompt_rows: PromptRows, given: dict, place: int
) -> Plan:
    """What to do with a denoiser call with these arguments. place: see `PromptRows.find`."""
    text = given[family.inputs[0].argument]
    times = len(text) // len(given[family.each]) if family.each else 1  # rows of one picture
    found = prompt_rows.find(texts, text[::times] if times > 1 else text, place)
    if found is None:
        return Plan(None, False)
    spared = {i for i, without in enumerate(texts.without_negative) if without}
    guided = [None if row in spared else row for row in found.rows for _ in range(times)]
    if all(row is None for row in guided):
        return Plan(None, any(row is not None for row in found.rows))
    return Plan(pieces_of(texts, family, given, guided, found.rest), True)


def pieces_of(
    texts: Texts, family: Family, given: dict, found: list[int | None], rest: int
) -> list[Piece]:
    """`Plan.pieces` of a call whose rows are these of the prompt; `rest` as in `Found`."""
    first = family.inputs[0].argument
    text, count = given[first], len(texts.positive[first])
    inputs = {p.argument: given.get(p.argument) for p in family.inputs}
    others = negatives_for_rows(texts, family, inputs, found, count)
    if family.rows:
        return group_rows(
            [pack_row(family, inputs, others, row, index) for row, index in enumerate(found)]
        )
    rows = neighbours([row for row, index in enumerate(found) if index is not None], len(text))
    length = text.shape[1] - rest if rest else None
    layout, packed = pack(family, inputs, others, rows, len(text), length)
    return [(None, layout, packed)]


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


def pack_row(family: Family, inputs: dict, others: dict, row: int, index: int | None) -> Piece:
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


def group_rows(pieces: list[Piece]) -> list[Piece]:
    """Neighbours with texts of the same lengths go together."""
    groups = []
    for piece in pieces:
        if groups and lengths_of(groups[-1]) == lengths_of(piece):
            groups[-1] = joined_pieces(groups[-1], piece)
        else:
            groups.append(piece)
    return groups


def lengths_of(piece: Piece) -> tuple | None:
    layout = piece[1]
    return layout and layout.texts


def joined_pieces(first: Piece, second: Piece) -> Piece:
    """Two neighbouring pieces as one."""
    rows = slice(first[0].start, second[0].stop)
    count = rows.stop - rows.start
    layout = first[1] and Layout(first[1].texts, slice(0, count), count)
    packed = {
        name: None if value is None else join_outputs([first[2][name], value])
        for name, value in second[2].items()
    }
    return rows, layout, packed


def without_masked_tokens(p: Packed, family: Family, side: dict, rows: slice) -> Text | None:
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
