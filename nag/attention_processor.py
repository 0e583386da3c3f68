"""How NAG reaches the attention of any diffusers model without a line of model code.

Two facts make it possible. (1) A model's text enters as one sequence, so the negative text can be *packed* behind the
positive one: everything that works token by token (projections, norms, MLPs, modulation) runs once and knows nothing.
(2) Only the attention op itself has to know that there are two texts, and in diffusers every processor ends in one of two
functions: `F.scaled_dot_product_attention(q, k, v)` or `dispatch_attention_fn(q, k, v)`.

So each text attention keeps its own processor, with one change: a twin of the processor whose `__call__` is the *same code
object*, run in a copy of its module's namespace in which those two names are ours (`twin`). LoRA, IP-Adapter,
fused projections, RoPE and chosen kernels stay what they are. (A wrapper around the processor would not do: diffusers
drops keyword arguments that are missing from the processor's own signature. Patching `F` globally is not thread-safe.)

Letters: B rows, I image tokens, T+ and T- positive and negative text tokens, H heads, D features per head.
"""

import copy
import itertools
import sys
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .formula import NAGSettings, normalized_attention_guidance

_serial = itertools.count()


@dataclass
class Layout:
    """What the packed sequence of the running denoiser call holds: T+ and T- tokens; `rows` of the batch are conditional."""

    positive: int
    negative: int
    rows: slice
    whole: bool  # every row is conditional


class GuidedAttention:
    """The attention op of one layer. While `call.layout` is None it is the op that it stands for, and nothing else."""

    def __init__(self, name: str, attention: str, order: str, settings: NAGSettings, call):
        self.name, self.attention, self.order, self.settings, self.call = name, attention, order, settings, call
        self.hit = False

    def attend(self, op, query, key, value, mask, tokens: int):
        """`op(query, key, value, mask)` with guided image rows. `tokens` is the token dimension: 2 in (B, H, N, D), 1 in (B, N, H, D)."""
        layout = self.call.layout
        if layout is None:
            return op(query, key, value, mask)
        if mask is not None and mask.ndim == 2 and tokens == 1:  # dispatch_attention_fn also takes (B, keys)
            mask = mask[:, None, None, :]
        texts = layout.positive + layout.negative
        if self.attention == "cross":
            if key.shape[tokens] != texts:  # not the text: an IP-Adapter's image tokens
                return op(query, key, value, mask)
            self.hit = True
            return self._cross(op, query, key, value, mask, tokens, layout)
        self.hit = True
        return self._joint(op, query, key, value, mask, tokens, layout)

    def _cross(self, op, query, key, value, mask, tokens, layout):
        positive, negative = slice(0, layout.positive), slice(layout.positive, None)
        rows = layout.rows
        z_positive = op(query, take(key, tokens, positive), take(value, tokens, positive), mask_of(mask, positive))  # (B, H, I, D)
        z_negative = op(query[rows], take(key[rows], tokens, negative), take(value[rows], tokens, negative),
                        mask_of(mask_rows(mask, rows, len(query)), negative))
        return self._blend(z_positive, z_negative, tokens, layout)

    def _joint(self, op, query, key, value, mask, tokens, layout):
        """text+ attends [text+, image], text- attends [text-, image], the image both. Two passes, which attend the image keys
        twice; here is where attention with log-sum-exp will attend them once and merge."""
        rows, count = layout.rows, query.shape[tokens]
        image = count - layout.positive - layout.negative
        if self.order == "text, image":
            spans = {"positive": (0, layout.positive), "negative": (layout.positive, layout.negative), "image": (count - image, image)}
        else:
            spans = {"image": (0, image), "positive": (image, layout.positive), "negative": (image + layout.positive, layout.negative)}

        def branch(text, q, k, v, m):
            """One text with the image -> (text tokens, image tokens), each (B, H, N, D)"""
            ends = sorted((spans[text], spans["image"]))
            part = [torch.cat([x.narrow(tokens, *end) for end in ends], tokens) for x in (q, k, v)]
            if m is not None:
                m = torch.cat([m.narrow(-1, *end) for end in ends], -1)
                if m.shape[-2] > 1:
                    m = torch.cat([m.narrow(-2, *end) for end in ends], -2)
            first, second = op(*part, m).split([length for _, length in ends], tokens)
            return (first, second) if ends[0] == spans[text] else (second, first)

        text_positive, z_positive = branch("positive", query, key, value, mask)
        text_negative, z_negative = branch("negative", query[rows], key[rows], value[rows], mask_rows(mask, rows, len(query)))
        if not layout.whole:  # unconditional rows carry a negative text too, and nobody reads it
            full = text_negative.new_zeros(len(query), *text_negative.shape[1:])
            full[rows] = text_negative
            text_negative = full
        parts = {"positive": text_positive, "negative": text_negative, "image": self._blend(z_positive, z_negative, tokens, layout)}
        return torch.cat([parts[name] for name in sorted(spans, key=lambda name: spans[name][0])], tokens)

    def _blend(self, z_positive, z_negative, tokens, layout):
        settings = self.settings
        features = (-3, -1) if tokens == 2 else (-2, -1)  # the paper's norm is over all heads together
        guided = normalized_attention_guidance(
            z_positive[layout.rows], z_negative, settings.scale, settings.tau, settings.alpha, dim=features,
        )
        if layout.whole:
            return guided
        out = z_positive.clone()
        out[layout.rows] = guided
        return out


def take(tensor, dim: int, where: slice):
    start, stop, _ = where.indices(tensor.shape[dim])
    return tensor.narrow(dim, start, stop - start)


def mask_of(mask, keys: slice):
    return None if mask is None else mask[..., keys]


def mask_rows(mask, rows: slice, count: int):
    """The rows of a mask that may be broadcast over the batch."""
    return mask[rows] if mask is not None and mask.ndim > 2 and mask.shape[0] == count else mask


def twin(processor, guided: GuidedAttention):
    """`processor` again, with its attention op led through `guided`. The original is not touched."""
    function = type(processor).__call__
    namespace = types.ModuleType(f"nag._attention_{next(_serial)}")
    namespace.__dict__.update(function.__globals__)

    def scaled_dot_product_attention(query, key, value, attn_mask=None, *args, **options):
        def op(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask, *args, **options)
        return guided.attend(op, query, key, value, attn_mask, 2)

    functional = types.ModuleType(namespace.__name__ + "_functional")
    functional.__dict__.update(F.__dict__)
    functional.scaled_dot_product_attention = scaled_dot_product_attention
    if namespace.__dict__.get("F") is F:
        namespace.F = functional
    dispatch = namespace.__dict__.get("dispatch_attention_fn")
    if dispatch is not None:
        def dispatch_attention_fn(query, key, value, attn_mask=None, *args, **options):
            def op(q, k, v, mask):
                return dispatch(q, k, v, mask, *args, **options)
            return guided.attend(op, query, key, value, attn_mask, 1)
        namespace.dispatch_attention_fn = dispatch_attention_fn

    # Found under its name in sys.modules, the namespace can be traced by torch.compile; `remove` takes it out again.
    sys.modules[namespace.__name__] = namespace
    sys.modules[functional.__name__] = functional
    call = types.FunctionType(function.__code__, namespace.__dict__, function.__name__, function.__defaults__, function.__closure__)
    call.__kwdefaults__ = function.__kwdefaults__
    other = copy.copy(processor)
    other.__class__ = type(type(processor).__name__, (type(processor),), {"__call__": call, "_nag_namespace": namespace.__name__})
    return other


def install(modules: dict, attention: str, order: str, settings: NAGSettings, call):
    """Gives every module of `modules` a guided twin of its processor. Returns the guided layers and a function that gives all back."""
    layers, originals = [], []
    for name, module in modules.items():
        layer = GuidedAttention(name, attention, order, settings, call)
        original = module.processor
        module.processor = twin(original, layer)
        layers.append(layer)
        originals.append((module, original))

    def give_back():
        for module, original in originals:
            name = type(module.processor).__dict__.get("_nag_namespace")
            sys.modules.pop(name, None)
            sys.modules.pop(f"{name}_functional", None)
            module.processor = original

    return layers, give_back
