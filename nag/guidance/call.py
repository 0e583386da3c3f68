"""One call of the denoiser, with its text packed."""

import functools
import re
from dataclasses import replace

from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from ..errors import NAGRuntimeError
from .packing import plan_call
from .rows import join_outputs, select_rows
from .steps import active


def step_caches(denoiser) -> list:
    """The registries of hooks that carry tensors from step to step (first-block cache and its relatives)."""
    registries = [
        registry
        for module in denoiser.modules()
        if (registry := vars(module).get("_diffusers_hook")) is not None
    ]
    return [
        registry
        for registry in registries
        if any(hook._is_stateful for hook in registry.hooks.values())
    ]


def forget_caches(denoiser) -> None:
    """Of a picture that was stopped half-way a cache still holds tensors with two texts, which fit no later call."""
    for registry in step_caches(denoiser):
        registry.reset_stateful_hooks(recurse=False)


def guided_forward(
    pipe, denoiser, guidance, family, layers, names, inner, forward, /, *args, **kwargs
):
    """A denoiser call with its text packed: in one piece, or for families with `rows` in pieces of equal text lengths."""
    if inner:
        forward = functools.partial(inner, forward)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    first = family.inputs[0].argument
    text = given.get(first)
    guidance.called = True
    beside = text[1:] if isinstance(text, tuple) else ()  # Cosmos 2.5 hands over (text, picture)
    if beside:
        text = given[first] = text[0]
    # a cache that holds tensors of the guided steps needs the later ones of the same shape
    carried_only = guidance.encoded is not None and not active(pipe, guidance)
    if guidance.encoded is None or text is None or (carried_only and not step_caches(denoiser)):
        return forward(*args, **kwargs)
    tensors = tuple(text) if isinstance(text, list) else (text,)
    key = tuple(map(id, tensors))
    if (
        key not in guidance.plans
    ):  # comparing values is a wait for the GPU: once per tensor, not once per step
        if len(guidance.plans) > 8:  # a pipeline that makes a new tensor every step
            guidance.plans.clear()
        guidance.plans[key] = tensors, plan_call(guidance, family, given, text)
    parts = guidance.plans[key][1]
    if parts is None:
        return forward(*args, **kwargs)
    check_guidable(denoiser, layers, parts)
    guidance.backend = str(
        getattr(
            _AttentionBackendRegistry._active_backend,
            "value",
            _AttentionBackendRegistry._active_backend,
        )
    )
    guidance.guided_calls += not carried_only
    guidance.fresh = guidance.fresh or not carried_only
    outputs = []
    try:
        for rows, layout, packed in parts:
            guidance.layout = replace(layout, carried_only=carried_only) if layout else None
            change = (
                packed
                if rows is None
                else select_rows(given, family.rows, rows, len(text)) | packed
            )
            if beside:
                change = change | {first: (change.get(first, text), *beside)}
            outputs.append(
                forward(
                    *(change.get(name, value) for name, value in zip(names, args, strict=False)),
                    **{
                        **kwargs,
                        **{
                            name: value
                            for name, value in change.items()
                            if name not in names[: len(args)]
                        },
                    },
                )
            )
    finally:
        guidance.layout = None
    check_all_reached(layers, family)
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs)


def check_guidable(denoiser, layers, parts) -> None:
    if len(parts) > 1 and step_caches(denoiser):
        raise NAGRuntimeError(
            f"A {type(denoiser).__name__} runs texts of different length one after the other, which its step cache would mix up: "
            "give one prompt at a time, or call disable_cache() on it."
        )
    strangers = [layer.name for layer in layers if layer.module.processor is not layer.twin]
    if strangers:
        raise NAGRuntimeError(
            f"{len(strangers)} attention processors were replaced inside nag.guide (first: {strangers[0]}), so the picture would "
            "not be guided: load IP-Adapters, fuse projections and choose processors before you enter it."
        )


def check_all_reached(layers, family) -> None:
    """After the first guided call every layer must have been reached."""
    missed = [
        layer.name
        for layer in layers
        if not layer.hit and not re.fullmatch(family.silent, layer.name)
    ]
    if missed:
        raise NAGRuntimeError(
            f"NAG did not reach the attention of {len(missed)} of {len(layers)} layers (first: {missed[0]}), so the picture would be "
            "guided in part or not at all. Their processor calls neither F.scaled_dot_product_attention nor dispatch_attention_fn: "
            "call pipe.unet.set_attn_processor(AttnProcessor2_0()) or the model's default processor."
        )
