"""How NAG reaches the attention of any diffusers model without a line of model code.

Two facts make it possible. (1) A model's text enters as one sequence, so the negative text can be *packed* behind the
positive one: everything that works token by token (projections, norms, MLPs, modulation) runs once and knows nothing.
(2) Only the attention op itself has to know that there are two texts, and in diffusers every processor ends in one of two
functions: `F.scaled_dot_product_attention(q, k, v)` or `dispatch_attention_fn(q, k, v)`.

So each text attention keeps its own processor, with one change: a twin of the processor whose `__call__` runs the *same code*
in a copy of its module's namespace in which those two names are ours (`twin_class`). LoRA, IP-Adapter,
fused projections, RoPE and chosen kernels stay what they are. (A wrapper around the processor would not do: diffusers
drops keyword arguments that are missing from the processor's own signature. Patching `F` globally is not thread-safe.)

Letters: B rows, I image tokens, T+ and T- positive and negative text tokens, H heads, D features per head.
"""

import torch

from . import kernels
from .rivals import blend
from .segments import (
    IMAGE,
    NEGATIVE,
    POSITIVE,
    attended,
    joined,
    mask_of,
    mask_rows,
    ordered,
    portions,
    rows_of,
    take,
    zeros,
)
from .settings import NAGSettings


class GuidedAttention:
    """The attention op of one layer. While `call.layout` is None it is the op that it stands for, and nothing else.

    kind: see `nag.families.KINDS`. call: what is running, with its `layout`. pictures: behind the text, an IP-Adapter's images are
    attended too. hit: was reached. seen: was reached since the processor was called.
    """

    def __init__(
        self, name: str, kind: str, family, settings: NAGSettings, call, pictures: bool = False
    ):
        self.name, self.kind, self.family, self.settings, self.call, self.pictures = (
            name,
            kind,
            family,
            settings,
            call,
            pictures,
        )
        self.hit = self.seen = False

    def attend(
        self,
        op,
        query,
        key,
        value,
        mask,
        tokens: int,
        plain: bool = False,
        scale: float | None = None,
    ):
        """`op(query, key, value, mask)` with guided image rows. `tokens` is the token dimension: 2 in (B, H, N, D), 1 in (B, N, H, D).
        plain: the op is PyTorch's own attention with this `scale` and no other option."""
        layout = self.call.layout
        if layout is None:
            return op(query, key, value, mask)
        count, queries = key.shape[tokens], query.shape[tokens]
        positive, negative = self.family.pieces(self.kind, layout.texts, count)
        if not self._is_text(positive, negative, count, queries, layout):
            return op(query, key, value, mask)
        self.hit = self.seen = True
        if (
            mask is not None and mask.ndim == 2 and tokens == 1
        ):  # dispatch_attention_fn also takes (B, keys)
            mask = mask[:, None, None, :]
        if self.kind == "text":
            return self._text(op, query, key, value, mask, tokens, positive, negative)
        if (
            self.kind == "joint" and queries < count - layout.cached_reference_tokens
        ):  # queries of the image alone
            image = [piece[:2] for piece in ordered(positive, negative, count) if piece[2] in IMAGE]
            return self._cross(
                op, query, key, value, mask, tokens, positive + image, negative + image, layout
            )
        if self.kind.startswith("cross"):
            return self._cross(op, query, key, value, mask, tokens, positive, negative, layout)
        # queries stand where keys do, and both texts are wanted apart
        alone = (
            self.kind == "joint"
            and not layout.cached_reference_tokens
            and not layout.carried_only
            and self.settings.method != "vsf"
        )
        if alone and plain and not self.call.exact:
            heads = [x if tokens == 2 else x.transpose(1, 2) for x in (query, key, value)]
            if kernels.able(*heads, mask):
                out = self._joint_once(
                    *heads, mask, ordered(positive, negative, count), layout, scale
                )
                return out if tokens == 2 else out.transpose(1, 2)
        return self._joint(op, query, key, value, mask, tokens, positive, negative, layout)

    def _is_text(self, positive, negative, count: int, queries: int, layout) -> bool:
        """Whether this is the attention that sees the text, and not an IP-Adapter's, whose image tokens come second and may be as many."""
        if self.pictures and self.seen:
            return False
        if self.kind == "cross_added":  # both texts' pieces end in the tokens that go with either
            return count >= sum(map(sum, layout.texts))
        texts = sum(length for _, length in positive + negative)
        if self.kind == "joint":
            # not `in`: torch.compile finds no number among lengths that are symbols
            return count >= texts and (
                queries == count - layout.cached_reference_tokens or queries == count - texts
            )
        return count == texts and (self.kind != "text" or queries == count)

    def _cross(self, op, query, key, value, mask, tokens, positive, negative, layout):
        rows = rows_of(layout, query)
        z_positive = op(
            query,
            take(key, tokens, positive),
            take(value, tokens, positive),
            mask_of(mask, positive),
        )  # (B, H, I, D)
        if layout.carried_only:
            return z_positive
        conditional = query[rows], key[rows], value[rows], mask_rows(mask, rows, len(query))
        if self.settings.method == "vsf":
            z_negative = self._flipped(op, *conditional, tokens, positive, negative)
        else:
            z_negative = op(
                conditional[0],
                take(conditional[1], tokens, negative),
                take(conditional[2], tokens, negative),
                mask_of(conditional[3], negative),
            )
        out = torch.empty_like(z_positive)
        for at, count in portions(0, z_positive.shape[tokens], z_positive):
            part = self._blend(
                z_positive.narrow(tokens, at, count),
                z_negative.narrow(tokens, at, count),
                rows,
                tokens,
                layout,
            )
            out.narrow(tokens, at, count).copy_(part)
        return out

    def _flipped(self, op, query, key, value, mask, tokens, positive, negative, queries=None):
        """Value sign flip (arXiv 2508.10931): one softmax over both texts, the negative's values times -scale."""
        sides = [*positive, *negative]
        values = torch.cat(
            [take(value, tokens, positive), take(value, tokens, negative) * -self.settings.scale],
            tokens,
        )
        return op(query, take(key, tokens, sides), values, mask_of(mask, sides, queries))

    def _flipped_image(self, op, query, key, value, mask, tokens, pieces, keys):
        """The same for the picture's queries in joint attention, which attend the picture too -> {place: tokens}"""
        places = {place: piece[:2] for place, piece in enumerate(pieces) if piece[2] in IMAGE}
        sides = [
            [piece[:2] for piece in keys if piece[2] in which]
            for which in (POSITIVE + IMAGE, NEGATIVE)
        ]
        chosen = list(places.values())
        out = self._flipped(
            op, take(query, tokens, chosen), key, value, mask, tokens, *sides, chosen
        )
        return dict(zip(places, out.split([length for _, length in chosen], tokens), strict=True))

    def _text(self, op, query, key, value, mask, tokens, positive, negative):
        """Each text attends itself alone."""
        pieces = ordered(positive, negative, query.shape[tokens])
        return joined(
            {
                **attended(op, pieces, POSITIVE, query, key, value, mask, tokens),
                **attended(op, pieces, NEGATIVE, query, key, value, mask, tokens),
            },
            tokens,
        )

    def _joint(self, op, query, key, value, mask, tokens, positive, negative, layout):
        """text+ attends [text+, image], text- attends [text-, image], the image both; where text is "injected", each its text only.
        Two passes, which attend the image keys twice: the way where `_joint_once` is not possible."""
        rows, pieces, keys = (
            rows_of(layout, query),
            ordered(positive, negative, key.shape[tokens]),
            None,
        )
        if (
            self.kind == "injected" or layout.cached_reference_tokens
        ):  # queries have other places than keys
            keys, pieces = (
                pieces,
                ordered(
                    *self.family.pieces("joint", layout.texts, query.shape[tokens]),
                    query.shape[tokens],
                ),
            )
        parts = attended(op, pieces, POSITIVE + IMAGE, query, key, value, mask, tokens, keys)
        if layout.carried_only:  # what becomes of the negative is read by nobody
            other = {
                place: zeros(parts, length, tokens)
                for place, (_, length, of) in enumerate(pieces)
                if of in NEGATIVE
            }
            return joined({**parts, **other}, tokens)
        conditional = query[rows], key[rows], value[rows], mask_rows(mask, rows, len(query))
        other = attended(op, pieces, NEGATIVE + IMAGE, *conditional, tokens, keys)
        if self.settings.method == "vsf":
            other |= self._flipped_image(
                op, *conditional, tokens, pieces, pieces if keys is None else keys
            )
        for place, (_, length, of) in enumerate(pieces):
            if of in IMAGE:
                parts[place] = self._blend(parts[place], other[place], rows, tokens, layout)
            elif of in NEGATIVE and layout.whole:
                parts[place] = other[place]
            elif (
                of in NEGATIVE
            ):  # unconditional rows carry a negative text too, and nobody reads it
                parts[place] = zeros(parts, length, tokens)
                parts[place][rows] = other[place]
        return joined(parts, tokens)

    def _joint_once(self, query, key, value, mask, pieces, layout, scale):
        """`_joint` with every key attended once: the image's by all queries, each text's by its own and the image's, then merged.
        All (B, H, N, D)."""
        rows, out, keys = rows_of(layout, query), torch.empty_like(query), {}
        for which in (IMAGE, POSITIVE, NEGATIVE):
            chosen = [piece[:2] for piece in pieces if piece[2] == which]
            if chosen:  # else a text of which its mask left nothing
                keys[which] = take(key, 2, chosen), take(value, 2, chosen), mask_of(mask, chosen)
        conditional = {
            which: (k[rows], v[rows], mask_rows(m, rows, len(key)))
            for which, (k, v, m) in keys.items()
        }

        def attend(q, which, keys):
            return kernels.attend(q, *keys[which], scale) if which in keys else None

        texts = [piece for piece in pieces if piece[2] != IMAGE]
        if (
            layout.whole and texts
        ):  # the image is attended by both texts in one call: kernels are slower with few queries
            images = attend(take(query, 2, [piece[:2] for piece in texts]), IMAGE, keys)
            images = zip(
                *(part.split([length for _, length, _ in texts], 2) for part in images), strict=True
            )
            for (start, length, of), image in zip(texts, images, strict=True):
                out.narrow(2, start, length).copy_(
                    kernels.merge(image, attend(query.narrow(2, start, length), of, keys))
                )
            pieces = [piece for piece in pieces if piece[2] == IMAGE]
        for start, length, of in pieces:
            for at, count in portions(start, length, query):
                q, place = query.narrow(2, at, count), out.narrow(2, at, count)
                if (
                    of in NEGATIVE
                ):  # unconditional rows carry a negative text too, and nobody reads it
                    place.zero_()
                    place[rows] = kernels.merge(
                        attend(q[rows], IMAGE, conditional), attend(q[rows], NEGATIVE, conditional)
                    ).to(query.dtype)
                    continue
                image = attend(q, IMAGE, keys)
                z = kernels.merge(image, attend(q, POSITIVE, keys))
                if of in IMAGE:
                    z = self._blend(
                        z,
                        kernels.merge(
                            [part[rows] for part in image], attend(q[rows], NEGATIVE, conditional)
                        ),
                        rows,
                        2,
                        layout,
                    )
                place.copy_(z)
        return out

    def _blend(self, z_positive, z_negative, rows, tokens, layout):
        features = (
            (-3, -1) if tokens == 2 else (-2, -1)
        )  # the paper's norm is over all heads together
        guided = blend(self.settings, z_positive[rows], z_negative, features)
        if layout.whole:
            return guided
        out = z_positive.clone()
        out[rows] = guided
        return out
