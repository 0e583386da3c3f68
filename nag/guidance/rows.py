"""Rows of a batch: which are conditional, and how those of every argument are cut, joined and expanded."""

import torch

from ..errors import NAGValueError


def count_rows(value, dim: int = 0) -> int:
    """How many rows a text has."""
    return len(value) if isinstance(value, list) else value.shape[dim]


def for_each_layer(p, value, function, *args):
    """`function` of an input, or of each of its layers."""
    return (
        [function(layer, *args) for layer in value]
        if p.kind == "layers" and value is not None
        else function(value, *args)
    )


def expand_rows(value, count: int, name: str, dim: int = 0):
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


def select_rows(given: dict, names, rows: slice, total: int) -> dict:
    """Some rows of every argument that has rows; "name[]" is a list of tensors that have."""
    listed = [name[:-2] for name in names if name.endswith("[]") and given.get(name[:-2])]
    return {name: select_row(given[name], rows, total) for name in names if name in given} | {
        name: [select_row(value, rows, total) for value in given[name]] for name in listed
    }


def select_row(value, rows: slice, total: int):
    """The rows of an argument that has one entry per row; a scalar serves all."""
    return (
        value[rows]
        if isinstance(value, list)
        or (isinstance(value, torch.Tensor) and value.ndim and len(value) == total)
        else value
    )


def join_outputs(outputs):
    """The outputs of calls with some rows each, as one: tensors, lists of rows, tuples and diffusers' output classes of these."""
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


def conditional_rows(text, wanted, cfg: bool = True) -> list | None:
    """Which of the `wanted` texts every row of `text` carries: its index, or None; None for all where there are none."""
    count, total = len(wanted), len(text)
    if isinstance(text, torch.Tensor):
        wanted = wanted.to(text)
        if (
            text.ndim == wanted.ndim == 3
        ):  # behind the text may stand padding to the length of CFG's other text, or tokens of something else
            text = text[:, : wanted.shape[1]]
        if text.ndim != wanted.ndim or text.shape[1:] != wanted.shape[1:]:
            return None
    elif any(not isinstance(row, torch.Tensor) for row in text):
        return None
    else:  # the pipeline's own tensors in another list: no doubt who is who
        found = [next((i for i, one in enumerate(wanted) if one is row), None) for row in text]
        if any(i is not None for i in found):
            return found
    if total % count:
        return None

    def same(start, indices):
        if isinstance(text, torch.Tensor):
            return torch.equal(text[start : start + len(indices)], wanted[indices])
        return all(
            a.shape == wanted[i].shape and torch.equal(a, wanted[i].to(a))
            for a, i in zip(text[start:], indices, strict=False)
        )

    for times in range(
        1, total // count + 1
    ):  # above 1: several pictures of each, made of the texts after `encode_prompt`
        if total % (count * times):
            continue
        indices = [i for i in range(count) for _ in range(times)]
        starts = [
            start
            for start in range(0, total - len(indices) + 1, len(indices))
            if same(start, indices)
        ]
        if starts:
            break
    else:
        return None
    if cfg and len(starts) * len(indices) == total and total == 2 * count:
        # CFG whose negative prompt is the prompt: every row looks conditional. diffusers puts the conditional rows last.
        starts = starts[-1:]
    found = [None] * total
    for start in starts:
        found[start : start + len(indices)] = indices
    return found


def negative_for_rows(value, found, count: int, dim: int = 0):
    """The negative's row for every row of the batch; unconditional rows get one too, which nobody reads."""
    if (
        value is None
        or not isinstance(value, (torch.Tensor, list))
        or count_rows(value, dim) != count
    ):
        return value
    indices = [index or 0 for index in found]
    return (
        [value[i] for i in indices]
        if isinstance(value, list)
        else value.index_select(dim, torch.tensor(indices, device=value.device))
    )


def token_count(value, packed) -> int:
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]
