"""Rows of a batch: which carry the prompt, and how every argument's are cut, joined and expanded.

A text is a tensor (B, T, D) or a list of B tensors (T, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from ..errors import NAGValueError

if TYPE_CHECKING:
    from ..families.schema import Packed


Text = torch.Tensor | list[torch.Tensor]
V = TypeVar("V")


def count_rows(value: Text, dim: int = 0) -> int:
    """How many rows a text has."""
    return len(value) if isinstance(value, list) else value.shape[dim]


def token_count(value: Text, p: Packed) -> int:
    """How many tokens a text has. p: its `Packed`."""
    return value[0].shape[p.dim] if isinstance(value, list) else value.shape[p.dim]


def for_each_layer(
    p: Packed, value: Text | None, function: Callable[..., Text | None], *args: object
) -> Text | None:
    """`function` of an input, or of each of its layers. p: its `Packed`."""
    if p.kind == "layers" and value is not None:
        return [function(layer, *args) for layer in value]
    return function(value, *args)


def expand_rows(value: Text | None, count: int, name: str, dim: int = 0) -> Text | None:
    """Expanded to `count` rows: one row for all, or one per prompt for several pictures each."""
    if value is None:
        return None
    rows = count_rows(value, dim)
    if count % rows:
        raise NAGValueError(
            f"Got {rows} rows of negative {name} for {count} pictures; give 1, or one per prompt."
        )
    if isinstance(value, list):
        return [row for row in value for _ in range(count // rows)]
    return value.repeat_interleave(count // rows, dim=dim)


def select_rows(given: dict, names: Iterable[str], rows: slice, total: int) -> dict:
    """Some rows of every argument that has rows; "name[]" is a list of tensors that have."""
    listed = [name[:-2] for name in names if name.endswith("[]") and given.get(name[:-2])]
    return {name: select_row(given[name], rows, total) for name in names if name in given} | {
        name: [select_row(value, rows, total) for value in given[name]] for name in listed
    }


def select_row(value: V, rows: slice, total: int) -> V:
    """The rows of an argument that has one entry per row; a scalar serves all."""
    batched = isinstance(value, torch.Tensor) and value.ndim and len(value) == total
    return value[rows] if isinstance(value, list) or batched else value


def join_outputs(outputs: Sequence[V]) -> V:
    """The outputs of calls with some rows each, as one: tensors, lists of rows, tuples and
    diffusers' output classes of these."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(outputs)
    if isinstance(first, list):
        return [row for output in outputs for row in output]
    if isinstance(first, tuple):
        return tuple(join_outputs(values) for values in zip(*outputs, strict=True))
    if isinstance(first, dict):
        return type(first)(
            **{name: join_outputs([output[name] for output in outputs]) for name in first}
        )
    return first


def match_dimensions(value: V, like: Text | None) -> V:
    """(B, T, D) -> (B, 1, T, D) where `like` has it: some pipelines add it after encoding."""
    tensors = isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
    if tensors and like.ndim == value.ndim + 1 and like.shape[1] == 1:
        return value.unsqueeze(1)
    return value


def same_values(a: Text | None, b: Text | None) -> bool:
    """Whether two texts have the same shape and values."""
    if isinstance(a, list) or isinstance(b, list):
        lists = isinstance(a, list) and isinstance(b, list) and len(a) == len(b)
        return lists and all(map(same_values, a, b))
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return a is b or (tensors and a.shape == b.shape and torch.equal(a, b.to(a)))


def negative_for_rows(
    value: Text | None, found: list[int | None], count: int, dim: int = 0
) -> Text | None:
    """The negative's row for every row of the batch; unconditional rows get one too, which nobody
    reads. Anything but `count` rows is as it is."""
    rows = isinstance(value, (torch.Tensor, list)) and count_rows(value, dim)
    if rows != count:
        return value
    indices = [index or 0 for index in found]
    if isinstance(value, list):
        return [value[i] for i in indices]
    return value.index_select(dim, torch.tensor(indices, device=value.device))
