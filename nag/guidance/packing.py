"""The negative text packed behind the positive: every input that grows with the text."""

import torch

from ..errors import NAGRuntimeError, NAGValueError
from ..segments import Layout
from .rows import conditional_rows, for_each_layer, join_outputs, negative_for_rows


def plan_call(guidance, family, given, text) -> list | None:
    """How to run a denoiser call with this text: [(rows or None for all, layout or None, {argument: packed input})], or None: as it is."""
    positive, negative = guidance.encoded
    wanted, total = match_dimensions(positive[family.inputs[0].argument], text), len(text)
    times = total // len(given[family.each]) if family.each else 1
    found = conditional_rows(
        text[::times] if times > 1 else text, wanted, guidance.cfg and not family.repeats
    )
    if found is None:
        return None
    found = [
        None
        if index is None or (guidance.without_negative and guidance.without_negative[index])
        else index
        for index in found
        for _ in range(times)
    ]
    if not any(index is not None for index in found):  # a pipeline that goes prompt by prompt
        return None
    inputs = {p.argument: given.get(p.argument) for p in family.inputs}
    others = {
        p.argument: for_each_layer(
            p,
            match_dimensions(negative.get(p.argument), inputs[p.argument]),
            negative_for_rows,
            found,
            len(wanted),
            p.batch,
        )
        for p in family.inputs
    }
    if not family.rows:
        rows = [row for row, index in enumerate(found) if index is not None]
        if rows != list(range(rows[0], rows[-1] + 1)):
            raise NAGRuntimeError(
                f"The rows {rows} of {total} are to be guided and are not neighbours; NAG cannot guide this batch. "
                "Prompts without a negative one stand before or behind all others."
            )
        layout, packed = pack(
            family,
            inputs,
            others,
            slice(rows[0], rows[-1] + 1),
            total,
            own_length(text[rows[0] : rows[-1] + 1], wanted),
        )
        return [(None, layout, packed)]
    parts = []
    for row in range(total):  # neighbours with the same lengths go together
        here = slice(row, row + 1)
        if found[row] is None:
            parts.append((here, None, {}))
            continue
        cut = [
            {p.argument: without_masked_tokens(p, family, side, here) for p in family.inputs}
            for side in (inputs, others)
        ]
        layout, packed = pack(family, *cut, slice(0, 1), 1)
        parts.append((here, layout, packed))
    return group_rows(parts)


def own_length(text, wanted) -> int | None:
    """How many of a tensor's tokens are the text, where tokens of something else (and not padding) follow."""
    longer = isinstance(text, torch.Tensor) and text.ndim == 3 and text.shape[1] > wanted.shape[1]
    return wanted.shape[1] if longer and text[:, wanted.shape[1] :].any() else None


def group_rows(parts) -> list:
    groups = []
    for rows, layout, packed in parts:
        if groups and (groups[-1][1] and groups[-1][1].texts) == (layout and layout.texts):
            before, _, others = groups[-1]
            both = slice(before.start, rows.stop)
            size = both.stop - both.start
            groups[-1] = (
                both,
                layout and Layout(layout.texts, slice(0, size), size),
                {
                    name: join_outputs([others[name], value]) if value is not None else None
                    for name, value in packed.items()
                },
            )
        else:
            groups.append((rows, layout, packed))
    return groups


def match_dimensions(value, like):
    """Some pipelines give the text a dimension of one behind the rows after it was encoded."""
    tensors = isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
    return (
        value.unsqueeze(1)
        if tensors and like.ndim == value.ndim + 1 and like.shape[1] == 1
        else value
    )


def without_masked_tokens(packed, family, side: dict, rows: slice):
    """One row of a text or its companions without the tokens that its mask leaves out."""
    value, mask = (
        side.get(packed.argument),
        family.companion("mask", packed.of) or family.companion("count", packed.of),
    )
    if value is None:
        return None
    value, kind, mask = value[rows], mask and mask.kind, side.get(mask.argument) if mask else None
    if mask is None or packed.kind == "count":
        return value
    if kind == "count":
        return value[:, : int(mask[rows])]
    keep = mask[rows][0].to(value[0].device).bool()
    if not (keep.any() or packed.of or family.empty):
        keep = torch.ones_like(
            keep[:1]
        )  # an empty text keeps one token: a model wants something to attend to
    if isinstance(value, list):
        return [one[: len(keep)][keep[: len(one)]] for one in value]
    return value.index_select(packed.dim, keep.nonzero()[:, 0])


def pack(
    family, inputs: dict, others: dict, rows: slice, total: int, length: int | None = None
) -> tuple[Layout, dict]:
    """(layout, {argument: packed input}) of one denoiser call. Only the first `length` tokens of the first text are its own: the
    negative's stand between them and what follows."""
    lengths, packed = [], {}
    for p in family.texts:
        plus, minus = inputs[p.argument], others[p.argument]
        if plus is None:  # a text that this pipeline does without
            lengths.append((0, 0))
            continue
        if minus is None:
            raise NAGValueError(
                f"NAG has no negative for {p.argument}: negative_prompt_embeds must be a dictionary with all of this model's texts."
            )
        if not same_form(plus, minus, p):
            raise NAGValueError(
                f"The negative's {p.argument} ({form(minus)}) must have the form of the prompt's ({form(plus)}), but for its length."
            )
        positive = token_count(plus, p) if length is None or p is not family.inputs[0] else length
        lengths.append((positive, token_count(minus, p)))
        packed[p.argument] = (
            [torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)]
            if isinstance(plus, list)
            else torch.cat(
                [
                    plus.narrow(p.dim, 0, positive),
                    minus.to(plus),
                    plus.narrow(p.dim, positive, plus.shape[p.dim] - positive),
                ],
                p.dim,
            )
        )
    for p in family.inputs:
        plus, minus, (positive, negative) = inputs[p.argument], others[p.argument], lengths[p.of]
        text = packed.get(family.texts[p.of].argument)
        if p.kind == "text" or text is None:
            continue
        if p.kind == "count":
            packed[p.argument] = plus + negative
            continue
        if p.kind == "mask":
            if plus is None and (minus is None or minus.all()):
                continue
            plus = minus.new_ones(len(text), positive) if plus is None else plus
            minus = plus.new_ones(len(plus), negative) if minus is None else minus.to(plus)
            packed[p.argument] = torch.cat([plus[:, :positive], minus, plus[:, positive:]], 1)
        elif p.kind == "layers":
            minus = minus[
                -len(plus) :
            ]  # the pipeline's own choice: the last layers, or the last one again
            minus = minus + minus[-1:] * (len(plus) - len(minus))
            packed[p.argument] = [
                torch.cat([a, b.to(a)], p.dim) for a, b in zip(plus, minus, strict=True)
            ]
        else:
            dim = plus.ndim + p.dim if p.dim < 0 else p.dim  # (T, axes), or with a row dimension
            if (
                minus is None
            ):  # embeddings given by hand come without ids: these are all alike, or count on
                first, second = plus.narrow(dim, 0, 1), plus.narrow(dim, min(1, positive - 1), 1)
                steps = (
                    torch.arange(negative, device=plus.device)
                    .to(plus)
                    .reshape(negative, *[1] * (plus.ndim - dim - 1))
                )
                minus = first + (second - first) * steps
            elif minus.ndim > plus.ndim:  # pipelines that take one row's ids for all
                minus = minus[0]
            minus = minus.to(plus).expand(*plus.shape[:dim], negative, *plus.shape[dim + 1 :])
            text_ids, image_ids = plus.split([positive, plus.shape[dim] - positive], dim)
            packed[p.argument] = torch.cat([text_ids, minus, image_ids], dim)
    return Layout(tuple(lengths), rows, total), packed


def same_form(plus, minus, packed) -> bool:
    """Whether two texts differ in their length alone."""
    if isinstance(plus, list) or isinstance(minus, list):
        return (
            isinstance(plus, list)
            and isinstance(minus, list)
            and all(same_form(*pair, packed) for pair in zip(plus, minus, strict=True))
        )
    return plus.ndim == minus.ndim and all(
        a == b
        for dim, (a, b) in enumerate(zip(plus.shape, minus.shape, strict=True))
        if dim != packed.dim
    )


def form(value) -> str:
    return f"list of {form(value[0])}" if isinstance(value, list) else str(tuple(value.shape))


def token_count(value, packed) -> int:
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]
