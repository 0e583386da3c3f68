"""Results of `encode_prompt` that hold the prompt's rows and CFG's in one tensor, in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..families import Family, Packed
from .encoding import EncodeCall, inputs_of
from .recognition import untold
from .rows import count_rows, for_each_layer, same_values

if TYPE_CHECKING:
    import torch


def blocks_in(call: EncodeCall, count: int) -> int:
    """How many blocks a result of `count` rows has, each as long as the prompt's."""
    mixed = call.prompts or call.asks_for_cfg
    return count // call.rows if mixed and count % call.rows == 0 else 1


def order_of(
    call: EncodeCall,
    family: Family,
    p: Packed,
    whole: torch.Tensor,
    other: torch.Tensor,
    blocks: int,
) -> tuple[bool, ...]:
    """For each block whether it is the prompt's, asked of the encoder itself: such a block changes
    with the prompt's words, and does not with CFG's.

    whole: what it returned for the text `p`. other: the same for other words.
    """
    if call.prompts:  # one prompt, behind its negatives
        return (*[False] * (blocks - 1), True)
    changed = changed_blocks(whole, other, blocks)
    if len(set(changed)) == 2:
        return changed
    # the words' length may change every block, or they are the prompt's own
    for words in ("a", "b"):
        inputs = inputs_of(family, call.with_cfg_words(words), p.call)
        changed = changed_blocks(whole, inputs[p.argument], blocks)
        if len(set(changed)) == 2:
            return tuple(not change for change in changed)
    if blocks == len(family.cfg_order):
        return family.cfg_order
    raise untold(f"which of {blocks} rows of a picture are which")


def changed_blocks(whole: torch.Tensor, other: torch.Tensor, blocks: int) -> tuple[bool, ...]:
    """For each block of (B, T, D) whether it differs; of `other`, rows may stand for several."""
    times = len(whole) // len(other)
    pairs = zip(whole.chunk(blocks), other.repeat_interleave(times, 0).chunk(blocks), strict=True)
    return tuple(not same_values(*pair) for pair in pairs)


def own_block(family: Family, inputs: dict, order: tuple[bool, ...]) -> dict:
    """The prompt's block of every input that has rows."""

    def block(value, p: Packed):
        if value is None or (p.kind == "ids" and value.ndim < 3):  # the same for all rows
            return value
        size = count_rows(value, p.batch) // len(order)
        start = order.index(True) * size
        if isinstance(value, list):
            return value[start : start + size]
        return value.narrow(p.batch, start, size)

    return {
        p.argument: for_each_layer(p, inputs[p.argument], block, p)
        for p in family.inputs
        if p.argument in inputs
    }
