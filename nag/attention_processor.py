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

import contextlib
import copy
import functools
import itertools
import sys
import types
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import lse
from .formula import blend
from .settings import NAGSettings

_serial = itertools.count()


@dataclass
class Layout:
    """What the packed sequence of the running denoiser call holds: T+ and T- tokens of every text input; `rows` of `total` are conditional.
    kept: keys without a query in joint attention (reference images in a cache). mute: the negative is carried along and changes nothing."""

    texts: tuple[tuple[int, int], ...]
    rows: slice
    total: int
    kept: int = 0
    mute: bool = False

    @property
    def whole(self) -> bool:
        """Every row is conditional."""
        return self.rows == slice(0, self.total)


class GuidedAttention:
    """The attention op of one layer. While `call.layout` is None it is the op that it stands for, and nothing else.

    kind: see `nag.families.KINDS`. call: what is running, with its `layout`. pictures: behind the text, an IP-Adapter's images are
    attended too. hit: was reached. seen: was reached since the processor was called.
    """

    def __init__(self, name: str, kind: str, family, settings: NAGSettings, call, pictures: bool = False):
        self.name, self.kind, self.family, self.settings, self.call, self.pictures = name, kind, family, settings, call, pictures
        self.hit = self.seen = False

    def attend(self, op, query, key, value, mask, tokens: int, plain: bool = False, scale: float | None = None):
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
        if mask is not None and mask.ndim == 2 and tokens == 1:  # dispatch_attention_fn also takes (B, keys)
            mask = mask[:, None, None, :]
        if self.kind == "text":
            return self._text(op, query, key, value, mask, tokens, positive, negative)
        if self.kind == "joint" and queries < count - layout.kept:  # queries of the image alone
            image = [piece[:2] for piece in ordered(positive, negative, count) if piece[2] in IMAGE]
            return self._cross(op, query, key, value, mask, tokens, positive + image, negative + image, layout)
        if self.kind.startswith("cross"):
            return self._cross(op, query, key, value, mask, tokens, positive, negative, layout)
        # queries stand where keys do, and both texts are wanted apart
        alone = self.kind == "joint" and not layout.kept and not layout.mute and self.settings.method != "vsf"
        if alone and plain and not self.call.exact:
            heads = [x if tokens == 2 else x.transpose(1, 2) for x in (query, key, value)]
            if lse.able(*heads, mask):
                out = self._joint_once(*heads, mask, ordered(positive, negative, count), layout, scale)
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
            return count >= texts and (queries == count - layout.kept or queries == count - texts)
        return count == texts and (self.kind != "text" or queries == count)

    def _cross(self, op, query, key, value, mask, tokens, positive, negative, layout):
        rows = rows_of(layout, query)
        z_positive = op(query, take(key, tokens, positive), take(value, tokens, positive), mask_of(mask, positive))  # (B, H, I, D)
        if layout.mute:
            return z_positive
        few = query[rows], key[rows], value[rows], mask_rows(mask, rows, len(query))
        if self.settings.method == "vsf":
            z_negative = self._flipped(op, *few, tokens, positive, negative)
        else:
            z_negative = op(few[0], take(few[1], tokens, negative), take(few[2], tokens, negative), mask_of(few[3], negative))
        out = torch.empty_like(z_positive)
        for at, count in portions(0, z_positive.shape[tokens], z_positive):
            part = self._blend(z_positive.narrow(tokens, at, count), z_negative.narrow(tokens, at, count), rows, tokens, layout)
            out.narrow(tokens, at, count).copy_(part)
        return out

    def _flipped(self, op, query, key, value, mask, tokens, positive, negative, queries=None):
        """Value sign flip (arXiv 2508.10931): one softmax over both texts, the negative's values times -scale."""
        sides = [*positive, *negative]
        values = torch.cat([take(value, tokens, positive), take(value, tokens, negative) * -self.settings.scale], tokens)
        return op(query, take(key, tokens, sides), values, mask_of(mask, sides, queries))

    def _flipped_image(self, op, query, key, value, mask, tokens, pieces, keys):
        """The same for the picture's queries in joint attention, which attend the picture too -> {place: tokens}"""
        places = {place: piece[:2] for place, piece in enumerate(pieces) if piece[2] in IMAGE}
        sides = [[piece[:2] for piece in keys if piece[2] in which] for which in (POSITIVE + IMAGE, NEGATIVE)]
        chosen = list(places.values())
        out = self._flipped(op, take(query, tokens, chosen), key, value, mask, tokens, *sides, chosen)
        return dict(zip(places, out.split([length for _, length in chosen], tokens), strict=True))

    def _text(self, op, query, key, value, mask, tokens, positive, negative):
        """Each text attends itself alone."""
        pieces = ordered(positive, negative, query.shape[tokens])
        return joined({**attended(op, pieces, POSITIVE, query, key, value, mask, tokens),
                       **attended(op, pieces, NEGATIVE, query, key, value, mask, tokens)}, tokens)

    def _joint(self, op, query, key, value, mask, tokens, positive, negative, layout):
        """text+ attends [text+, image], text- attends [text-, image], the image both; where text is "injected", each its text only.
        Two passes, which attend the image keys twice: the way where `_joint_once` is not possible."""
        rows, pieces, keys = rows_of(layout, query), ordered(positive, negative, key.shape[tokens]), None
        if self.kind == "injected" or layout.kept:  # queries have other places than keys
            keys, pieces = pieces, ordered(*self.family.pieces("joint", layout.texts, query.shape[tokens]), query.shape[tokens])
        parts = attended(op, pieces, POSITIVE + IMAGE, query, key, value, mask, tokens, keys)
        if layout.mute:  # what becomes of the negative is read by nobody
            other = {place: zeros(parts, length, tokens) for place, (_, length, of) in enumerate(pieces) if of in NEGATIVE}
            return joined({**parts, **other}, tokens)
        few = query[rows], key[rows], value[rows], mask_rows(mask, rows, len(query))
        other = attended(op, pieces, NEGATIVE + IMAGE, *few, tokens, keys)
        if self.settings.method == "vsf":
            other |= self._flipped_image(op, *few, tokens, pieces, pieces if keys is None else keys)
        for place, (_, length, of) in enumerate(pieces):
            if of in IMAGE:
                parts[place] = self._blend(parts[place], other[place], rows, tokens, layout)
            elif of in NEGATIVE and layout.whole:
                parts[place] = other[place]
            elif of in NEGATIVE:  # unconditional rows carry a negative text too, and nobody reads it
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
        few = {which: (k[rows], v[rows], mask_rows(m, rows, len(key))) for which, (k, v, m) in keys.items()}

        def attend(q, which, keys):
            return lse.attend(q, *keys[which], scale) if which in keys else None

        texts = [piece for piece in pieces if piece[2] != IMAGE]
        if layout.whole and texts:  # the image is attended by both texts in one call: kernels are slower with few queries
            images = attend(take(query, 2, [piece[:2] for piece in texts]), IMAGE, keys)
            images = zip(*(part.split([length for _, length, _ in texts], 2) for part in images), strict=True)
            for (start, length, of), image in zip(texts, images, strict=True):
                out.narrow(2, start, length).copy_(lse.merge(image, attend(query.narrow(2, start, length), of, keys)))
            pieces = [piece for piece in pieces if piece[2] == IMAGE]
        for start, length, of in pieces:
            for at, count in portions(start, length, query):
                q, place = query.narrow(2, at, count), out.narrow(2, at, count)
                if of in NEGATIVE:  # unconditional rows carry a negative text too, and nobody reads it
                    place.zero_()
                    place[rows] = lse.merge(attend(q[rows], IMAGE, few), attend(q[rows], NEGATIVE, few)).to(query.dtype)
                    continue
                image = attend(q, IMAGE, keys)
                z = lse.merge(image, attend(q, POSITIVE, keys))
                if of in IMAGE:
                    z = self._blend(z, lse.merge([part[rows] for part in image], attend(q[rows], NEGATIVE, few)), rows, 2, layout)
                place.copy_(z)
        return out

    def _blend(self, z_positive, z_negative, rows, tokens, layout):
        features = (-3, -1) if tokens == 2 else (-2, -1)  # the paper's norm is over all heads together
        guided = blend(self.settings, z_positive[rows], z_negative, features)
        if layout.whole:
            return guided
        out = z_positive.clone()
        out[rows] = guided
        return out


def rows_of(layout: Layout, query) -> slice:
    """The conditional rows in attention, where every row of the batch may have become several (one a video frame) or goes alone."""
    if layout.whole:
        return slice(0, len(query))
    times = len(query) // layout.total  # not `divmod`, which torch.compile cannot do with symbols
    if times < 1 or times * layout.total != len(query):
        raise RuntimeError(
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
    out = op(take(query, tokens, chosen), take(key, tokens, seen), take(value, tokens, seen), mask_of(mask, seen, chosen))
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
    return take(mask, mask.ndim - 2, queries) if queries and mask.ndim > 1 and mask.shape[-2] > 1 else mask


def mask_rows(mask, rows: slice, count: int):
    """The rows of a mask that may be broadcast over the batch."""
    return mask[rows] if mask is not None and mask.ndim > 2 and mask.shape[0] == count else mask


ATTENTION = {"scaled_dot_product_attention", "dispatch_attention_fn"}


def copied(code: types.CodeType) -> types.CodeType:
    """The same code, with that of its inner functions, as another object: torch.compile remembers what it compiled by code object, and
    leaves it in the namespace where it first ran."""
    return code.replace(co_consts=tuple(copied(const) if isinstance(const, types.CodeType) else const for const in code.co_consts))


def at_home(function, namespace):
    """The same code, run in another namespace."""
    call = types.FunctionType(copied(function.__code__), namespace.__dict__, function.__name__, function.__defaults__, function.__closure__)
    call.__kwdefaults__ = function.__kwdefaults__
    return call


class Running:
    """Whose attention op runs: set by a twin when it is called, read by its op. One for each twin class."""

    layer: GuidedAttention | None = None


def renamed(namespace: dict, name: str) -> types.ModuleType:
    """A module's namespace as a module of its own; with its name too, for under that it goes into sys.modules."""
    module = types.ModuleType(name)
    module.__dict__.update(namespace | {"__name__": name})
    return module


def plain(args, options: dict, backend: str) -> bool:
    """Whether an attention op is asked for nothing but attention, of PyTorch's own kind. backend: diffusers' where the op names none."""
    asked = any(bool(value) for name, value in options.items() if name not in ("scale", "backend", "enable_gqa"))
    return not asked and not any(args) and (options.get("backend") or backend) == "native"


def twin_class(cls, running: Running):
    """A processor class again, with its attention op led through `running.layer`. The original is not touched."""
    function = cls.__call__
    if not isinstance(function, types.FunctionType):
        raise ValueError(f"NAG cannot look into an attention processor that is a {cls.__name__}: its __call__ is not written in Python.")
    namespace = renamed(function.__globals__, f"nag._attention_{next(_serial)}")

    def scaled_dot_product_attention(query, key, value, attn_mask=None, *args, **options):
        def op(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask, *args, **options)
        return running.layer.attend(op, query, key, value, attn_mask, 2, plain(args, options, "native"), options.get("scale"))

    functional = renamed(F.__dict__, namespace.__name__ + "_functional")
    functional.scaled_dot_product_attention = scaled_dot_product_attention
    if namespace.__dict__.get("F") is F:
        namespace.F = functional
    dispatch = namespace.__dict__.get("dispatch_attention_fn")
    if dispatch is not None:
        def dispatch_attention_fn(query, key, value, attn_mask=None, *args, **options):
            def op(q, k, v, mask):
                return dispatch(q, k, v, mask, *args, **options)
            ours = plain(args, options, running.layer.call.backend)
            return running.layer.attend(op, query, key, value, attn_mask, 1, ours, options.get("scale"))
        namespace.dispatch_attention_fn = dispatch_attention_fn

    for name, helper in list(vars(namespace).items()):  # functions of the same module that attend for the processor
        own = isinstance(helper, types.FunctionType) and helper.__globals__ is function.__globals__
        if own and ATTENTION & set(helper.__code__.co_names):
            setattr(namespace, name, at_home(helper, namespace))
    same_code = at_home(function, namespace)

    @functools.wraps(function)  # diffusers reads the signature
    def call(self, *args, **kwargs):
        running.layer = self.nag_layer
        running.layer.seen = False
        return same_code(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": call, "nag_running": running, "nag_namespaces": (namespace, functional)})


# denoiser -> {processor class: its twin}. One class for all layers and all contexts: to torch.compile another class is another
# program, and it would compile anew for every layer of a repeated block and every time that `guide` is entered.
_twins = weakref.WeakKeyDictionary()


def twin(denoiser, processor, layer: GuidedAttention):
    """`processor` again, with its attention op led through `layer`."""
    classes = _twins.setdefault(denoiser, {})
    cls = type(processor)
    if cls not in classes:
        classes[cls] = twin_class(cls, Running())
    other = copy.copy(processor)
    other.__class__ = classes[cls]
    other.nag_layer = layer
    return other


def install(denoiser, family, settings: NAGSettings, call):
    """Gives every layer of `family` a guided twin of its processor. Returns the guided layers and a function that gives all back."""
    layers, changed, found = [], [], family.layers(denoiser)
    if any(hasattr(module.processor, "nag_layer") for _, module in found.values()):
        raise RuntimeError(f"This {type(denoiser).__name__} is guided already; leave one nag.guide before you enter the next.")
    namespaces = {}

    def give_back():
        for name in namespaces:
            sys.modules.pop(name, None)
        for module, original, other in changed:
            type(other).nag_running.layer = None
            if module.processor is other:  # else somebody has set another one, which stays
                module.processor = original
            # what was set meanwhile (an attention backend, the scale of an IP-Adapter) was meant for the original
            vars(original).update({name: value for name, value in vars(other).items() if name != "nag_layer"})

    with contextlib.ExitStack() as stack:
        stack.callback(give_back)
        for name, (kind, module) in found.items():
            original = module.processor
            layer = GuidedAttention(name, kind, family, settings, call, pictures=hasattr(original, "to_k_ip"))
            layer.module, layer.twin = module, twin(denoiser, original, layer)
            module.processor = layer.twin
            layers.append(layer)
            changed.append((module, original, layer.twin))
        # found under their names in sys.modules, the namespaces can be traced by torch.compile
        namespaces |= {n.__name__: n for cls in _twins[denoiser].values() for n in cls.nag_namespaces}
        sys.modules.update(namespaces)
        stack.pop_all()  # all went well

    return layers, give_back
