"""Step caches: what carries tensors of a denoiser from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import private

if TYPE_CHECKING:
    from diffusers import ModelMixin

# what these libraries put in the place of a module's `forward` keeps no tensors for a later step,
# unless `private.stateful_hooks` finds that it does
KNOWN = {"accelerate", "diffusers", "nag", "peft", "torch", "transformers"}


def keeps_tensors(denoiser: ModelMixin) -> bool:
    """Whether a later step may need tensors of the shape that the guided ones had: a step cache of
    diffusers, or any code of others in the place of a `forward`, as cache-dit, ParaAttention and
    TeaCache put it there. What such code keeps nobody can say."""
    return bool(private.stateful_hooks(denoiser)) or has_foreign_forward(denoiser)


def has_foreign_forward(denoiser: ModelMixin) -> bool:
    """Whether a module of a denoiser, or its class, has a `forward` of a library not in `KNOWN`."""
    placed = [vars(module).get("forward") for module in denoiser.modules()]
    return any(map(is_foreign, [type(denoiser).forward, *placed]))


def is_foreign(function: Callable | None) -> bool:
    """Whether a function, or one that it wraps, was written by a library not in `KNOWN`."""
    if function is None:
        return False
    inner = [getattr(function, name, None) for name in ("func", "__func__", "__wrapped__")]
    if any(map(is_foreign, inner)):
        return True
    if any(part is not None for part in inner[:2]):  # a partial or a bound method of known code
        return False
    names = getattr(function, "__globals__", {})
    return names.get("__name__", "").partition(".")[0] not in KNOWN


def forget_caches(denoiser: ModelMixin) -> None:
    """Of a picture that was stopped half-way a cache still holds tensors with two texts, which fit
    no later call."""
    for registry in private.stateful_hooks(denoiser):
        registry.reset_stateful_hooks(recurse=False)


def forget_texts(denoiser: ModelMixin) -> None:
    """A cache of a text's keys knows the text by where its tensor lies, and so takes a newly packed
    one for another that lay there before."""
    for registry in private.text_caches(denoiser):
        registry.reset_stateful_hooks(recurse=False)
