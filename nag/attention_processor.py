"""How NAG reaches the attention of any diffusers model without a line of model code.

Two facts make it possible. (1) A model's text enters as one sequence, so the negative text can be
*packed* behind the positive one: everything that works token by token (projections, norms, MLPs,
modulation) runs once and knows nothing of it. (2) Only the attention op itself has to know that
there are two texts, and in diffusers every processor ends in one of two functions:
`F.scaled_dot_product_attention(q, k, v)` or `dispatch_attention_fn(q, k, v)`.

So each attention that sees the text keeps its own processor and gets another op, this one
(`nag/twins.py` says how). It is one of three cases:

    cross   the image asks, a text answers    the image asks each text; the formula
    joint   text and image ask each other     each text attends itself and the image, the image
                                              attends both; the formula on the image
    text    a text asks itself                each text attends itself alone

Letters: B rows, H heads, N tokens of a sequence (I of them image, T+ and T- of the two texts),
D features of a head. Every tensor in here is (B, H, N, D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import fused, kernels, merged
from .errors import IN_PARTS, NAGRuntimeError
from .rivals import IN_ONE_SOFTMAX, blend, in_one_softmax
from .segments import (
    NEGATIVE,
    POSITIVE,
    Inputs,
    Op,
    Segments,
    places,
    portions,
    put,
    rows_of,
    take,
    tokens_first,
)
from .settings import NAGSettings

if TYPE_CHECKING:
    from torch.nn import Module

    from .families.schema import Family
    from .guidance.state import CallState
    from .twins import Processor, Twin


class GuidedAttention:
    """The attention op of one layer. While `call.layout` is None it is the op that it stands for.

    kind: see `nag.families.KINDS`. call: what is running, with its `layout`. decided: what was
    found out about a layout, for all layers. pictures: behind the text, an IP-Adapter's pictures
    are attended too. hit: guided once. seen: guided since the processor was called.
    The rest is set by `nag.twins.install`: whose processor `original` is, and what stands there.
    """

    module: Module
    original: Processor
    twin: Twin
    installed: bool

    def __init__(
        self, name: str, kind: str, family: Family, settings: NAGSettings, call: CallState,
        decided: dict | None = None, pictures: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.kind, self.family, self.settings = name, kind, family, settings
        self.call, self.pictures = call, pictures
        self.decided = {} if decided is None else decided
        self.hit = self.seen = False

    def attend(
        self, op: Op, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        token_dim: int = 2, plain: bool = False, scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """`op(query, key, value, mask)` with guided image rows.

        token_dim: where these tensors count their tokens, 2 in (B, H, N, D), 1 in (B, N, H, D).
        plain: the op is PyTorch's own attention with this `scale` and no other option.
        Raises NAGRuntimeError where the rows of a batch cannot be told apart.
        """
        layout = self.call.layout
        if layout is None or (self.pictures and self.seen):  # an IP-Adapter's pictures come second
            return op(query, key, value, mask)
        found = self._places(query.shape[token_dim], key.shape[token_dim])
        if found is None:
            return op(query, key, value, mask)
        self.hit = self.seen = True
        if token_dim == 2:
            return self._guided(op, Inputs(query, key, value, mask), *found, plain, scale)

        def heads_first(*inputs):
            *tensors, mask = inputs
            return op(*map(tokens_first, tensors), mask).transpose(1, 2)

        if mask is not None and mask.ndim == 2:  # `dispatch_attention_fn` also takes (B, keys)
            mask = mask[:, None, None, :]
        inputs = Inputs(*(x.transpose(1, 2) for x in (query, key, value)), mask)
        return self._guided(heads_first, inputs, *found, plain, scale).transpose(1, 2)

    def check_whole(self) -> None:
        """Raises NAGRuntimeError where a sequence with both texts is cut into parts."""
        if self.call.layout is not None and not self.kind.startswith("cross"):
            raise NAGRuntimeError(f"NAG cannot guide the attention of {self.name}: {IN_PARTS}")

    def _guided(
        self, op: Op, inputs: Inputs, queries: Segments, keys: Segments, plain: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        """Chooses the case. `queries` and `keys` say where the texts and the image stand."""
        if self.kind == "text":
            return self.text(op, inputs, keys)
        if self.call.layout.carried_only:  # what becomes of the negative is read by nobody
            out, pieces = inputs.output(), queries.with_positive
            put(out, pieces, op(*inputs.seen(keys.with_positive, pieces)))
            return out
        rows = rows_of(self.call.layout, inputs.query)
        if self.settings.method in IN_ONE_SOFTMAX and queries.image:
            return self.one_softmax(op, inputs, queries, keys, rows)
        if not (queries.positive or queries.negative):
            return self.cross(op, inputs, keys, rows, plain)
        # `places` gives one object twice where the sequence asks itself: every query has its key
        if queries is not keys or not keys.image or not self._mergeable(inputs, plain):
            return self.joint(op, inputs, queries, keys, rows)
        if self._fusable(inputs.query):
            return merged.in_three_calls(inputs, keys, rows, scale, self.settings)
        return merged.in_portions(inputs, keys, rows, scale, self._steer)

    def cross(
        self, op: Op, inputs: Inputs, keys: Segments, rows: slice, plain: bool = False
    ) -> Tensor:
        """The image's queries against the positive text, of conditional rows against the negative
        too, and the formula."""
        if plain and keys.halved and inputs.query.shape[0] == 1 and fused.at_hand(inputs.query):
            return self.steered(*op(*inputs.twice()).chunk(2), rows)
        z_positive = op(*inputs.seen(keys.with_positive))
        z_negative = op(*inputs.of_rows(rows).seen(keys.with_negative))
        return self.steered(z_positive, z_negative, rows)

    def joint(
        self, op: Op, inputs: Inputs, queries: Segments, keys: Segments, rows: slice
    ) -> Tensor:
        """Each text attends itself and the image. The image attends both; the formula makes one of
        its two answers. Keys may be fewer (a text is injected) or more (cached references)."""
        out = inputs.output()  # zeros for the negative of unconditional rows, which nobody reads
        positive = op(*inputs.seen(keys.with_positive, queries.with_positive))
        negative = inputs.of_rows(rows).seen(keys.with_negative, queries.with_negative)
        text, z_positive = queries.apart(positive, POSITIVE)
        other, z_negative = queries.apart(op(*negative), NEGATIVE)
        put(out, queries.positive, text)
        put(out[rows], queries.negative, other)
        put(out, queries.image, self.steered(z_positive, z_negative, rows))
        return out

    def one_softmax(
        self, op: Op, inputs: Inputs, queries: Segments, keys: Segments, rows: slice
    ) -> Tensor:
        """The rivals that answer conditional rows, or the image in them, by one softmax. The rest
        is asked as in `joint`: texts that are left to themselves, and unconditional rows."""
        out, total = inputs.output(), inputs.query.shape[0]
        asking, answer = in_one_softmax(op, inputs.of_rows(rows), queries, keys, self.settings)
        put(out[rows], asking, answer)
        rest = [
            (slice(0, rows.start), queries.with_positive, keys.with_positive),
            (slice(rows.stop, total), queries.with_positive, keys.with_positive),
        ]
        if asking == queries.image:
            rest.append((rows, queries.positive, keys.with_positive))
            rest.append((rows, queries.negative, keys.with_negative))
        for some, pieces, seen in rest:
            if pieces and some.start < some.stop:
                put(out[some], pieces, op(*inputs.of_rows(some).seen(seen, pieces)))
        return out

    def text(self, op: Op, inputs: Inputs, at: Segments) -> Tensor:
        """Each text attends itself alone."""
        out = inputs.output()
        for pieces in (at.positive, at.negative):
            if pieces:  # else its mask left nothing of it
                put(out, pieces, op(*inputs.seen(pieces, pieces)))
        return out

    def steered(self, z_positive: Tensor, z_negative: Tensor, rows: slice) -> Tensor:
        """The image's answer, (B, H, I, D): conditional rows guided, the others as they are."""
        if self._fusable(z_positive):
            return fused.steer(z_positive, z_negative, rows, self.settings)
        out = torch.empty_like(z_positive)
        for piece in portions([(0, out.shape[2])], out.device):
            positive, negative = take(z_positive, [piece]), take(z_negative, [piece])
            put(out, [piece], self._steer(positive, negative, rows))
        return out

    def _steer(self, z_positive: Tensor, z_negative: Tensor, rows: slice) -> Tensor:
        """The same in one piece. The paper's norm is over all heads together."""
        if self.call.record:
            self.call.record(self.name, z_positive[rows], z_negative)
        guided = blend(self.settings, z_positive[rows], z_negative, (-3, -1))
        if guided.shape == z_positive.shape:
            return guided
        out = z_positive.clone()
        out[rows] = guided
        return out

    def _places(self, queries: int, keys: int) -> tuple[Segments, Segments] | None:
        """`places`, found out once for a layout; torch.compile does so while it traces."""
        layout = self.call.layout
        if torch.compiler.is_compiling():
            return places(self.family, self.kind, layout, queries, keys)
        key = self.kind, layout.texts, layout.cached_reference_tokens, queries, keys
        try:
            return self.decided[key]
        except KeyError:
            found = self.decided[key] = places(self.family, self.kind, layout, queries, keys)
            return found

    def _mergeable(self, inputs: Inputs, plain: bool) -> bool:
        """Whether log-sum-exps are to be had: the op is nothing but attention, and a kernel can."""
        return plain and not self.call.exact and kernels.able(inputs)

    def _fusable(self, z: Tensor) -> bool:
        """Whether the formula may go into a kernel, out of which nothing in between is read."""
        alone = self.settings.method == "nag" and not self.call.exact and not self.call.record
        return alone and fused.able(z)
