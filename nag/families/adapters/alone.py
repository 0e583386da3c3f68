"""Models that mix, pool or normalise the tokens of their text: each text goes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import torch

from ... import private
from ...patch import own_forward, wrap_method
from ...segments import Layout
from ..schema import Adapted

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from ...guidance.state import CallState
    from ..schema import Adapter


V = TypeVar("V")  # tensors, and tuples or lists of them


def halves(value: V, layout: Layout, sign: int) -> V:
    """The positive's (sign 0) or the negative's (sign 1) part of a packed tensor (B, T+ + T-, ...);
    anything else as it is."""
    positive, negative = layout.texts[0]
    if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == positive + negative:
        return value.narrow(1, *((0, positive), (positive, negative))[sign])
    return value


def rejoined(positive: V, negative: V, layout: Layout) -> V:
    """Two results of a text-only module as one: what has tokens is put behind one another, (B, T+,
    ...) and (B, T-, ...) -> (B, T+ + T-, ...); the rest is the positive's."""
    if isinstance(positive, (tuple, list)):
        return type(positive)(
            rejoined(p, n, layout) for p, n in zip(positive, negative, strict=True)
        )
    tokens = isinstance(positive, torch.Tensor) and positive.ndim > 1
    if tokens and (positive.shape[1], negative.shape[1]) == layout.texts[0]:
        return torch.cat([positive, negative], 1)
    return positive


def each_text_alone(path: str) -> Adapter:
    """A module that mixes or pools the tokens of its text runs on each text alone. What it pools (a
    modulation) is the positive's."""

    def adapter(pipe, denoiser, state):
        def forward(original, *args, **kwargs):
            layout = state.layout
            if layout is None:
                return original(*args, **kwargs)
            results = [
                original(
                    *(halves(a, layout, sign) for a in args),
                    **{k: halves(v, layout, sign) for k, v in kwargs.items()},
                )
                for sign in (0, 1)
            ]
            return rejoined(*results, layout)

        return wrap_method(denoiser.get_submodule(path), "forward", forward)

    adapter.__doc__ = f"`{path}` sees each text alone."
    return adapter


@contextlib.contextmanager
def hunyuan_video_15(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[None]:
    """Its refiner pools and mixes the first text's tokens, so each text goes through it alone.
    Without a picture, the model keeps masked tokens of one behind the texts, with one they stand
    before: the masked ones are left out, so that the texts are always last."""

    def forward(original, image_embeds):
        embedded = original(image_embeds)
        if state.layout is not None and not image_embeds.any():
            return embedded[:, :0]
        return embedded

    with (
        each_text_alone("context_embedder")(pipe, denoiser, state),
        wrap_method(denoiser.image_embedder, "forward", forward),
    ):
        yield


def pooled(path: str, of: int = 0) -> Adapter:
    """A module that pools a text into one vector for all tokens (a modulation) would mix both texts
    into it: it sees the positive alone."""

    def adapter(pipe, denoiser, state):
        def positive_alone(value):
            """(B, T+ + T-, D), or a mask over these tokens (B, ..., T+ + T-) -> with T+"""
            positive, negative = state.layout.texts[of]
            if not isinstance(value, torch.Tensor) or value.ndim < 2:
                return value
            for dim in (1, value.ndim - 1):
                if value.shape[dim] == positive + negative:
                    return value.narrow(dim, 0, positive)
            return value

        def forward(original, *args, **kwargs):
            if state.layout is None:
                return original(*args, **kwargs)
            named = {name: positive_alone(value) for name, value in kwargs.items()}
            return original(*map(positive_alone, args), **named)

        return wrap_method(denoiser.get_submodule(path), "forward", forward)

    adapter.__doc__ = f"`{path}` pools the text: it sees the positive's alone."
    return adapter


@contextlib.contextmanager
def beside_the_image(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[None]:
    """UNets that add their text's keys to the image's may pool it into the time embedding, and
    normalise it over all tokens: each text alone, or they would mix."""

    def norm(original, tokens):  # (B, D, T)
        if state.layout is None:
            return original(tokens)
        texts = tokens.split(state.layout.texts[0], 2)
        return torch.cat([original(text) for text in texts], 2)

    with contextlib.ExitStack() as stack:
        if denoiser.config.get("addition_embed_type") == "text":
            stack.enter_context(pooled("add_embedding")(pipe, denoiser, state))
        for module in denoiser.modules():
            if isinstance(getattr(module, "norm_cross", None), torch.nn.GroupNorm):
                stack.enter_context(wrap_method(module.norm_cross, "forward", norm))
        yield


@contextlib.contextmanager
def hunyuan_dit_texts(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[Adapted]:
    """Padding is a learned token per position of the two texts, the negative's like the positive's;
    T5's text is also pooled into the modulation, by a module that has as many positions, and sees
    the positive's alone."""
    own = getattr(denoiser, private.own_forward(denoiser))
    lengths = denoiser.config.text_len, denoiser.config.text_len_t5

    def padding():
        """(T+ + T- of both texts, D)"""
        positions = [
            start + torch.arange(count).clamp(max=length - 1)
            for start, length, pair in zip(
                (0, lengths[0]), lengths, state.layout.texts, strict=True
            )
            for count in pair
        ]
        return denoiser.text_embedding_padding[torch.cat(positions)]

    def forward(*args, **kwargs):
        object.__setattr__(denoiser, "text_embedding_padding", padding())
        try:
            return own(*args, **kwargs)
        finally:
            object.__delattr__(denoiser, "text_embedding_padding")  # uncovers the parameter

    def around(call, *args, **kwargs):
        if state.layout is None:
            return call(*args, **kwargs)
        with own_forward(denoiser, forward):  # where the parameter is on the device
            return call(*args, **kwargs)

    with pooled("time_extra_emb", of=1)(pipe, denoiser, state):
        yield Adapted(around)
