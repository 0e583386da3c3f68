"""Models whose text stands in an unusual place of the sequence."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ...errors import NAGValueError
from ...patch import own_forward, wrap_method
from ...twins import with_globals
from ..schema import Adapted

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from ...guidance.state import CallState


class Hidden:
    """The negative's tokens. A class of its own, for torch.compile cannot trace a write to a
    SimpleNamespace."""

    tokens = None


@contextlib.contextmanager
def behind_the_image(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[None]:
    """Image-to-video models cut the context at 512 from its end into image and text: the negative
    is hidden until the text's own projections."""
    hidden = Hidden()

    def forward(original, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if state.layout is None:
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)
        positive, negative = state.layout.texts[0]
        pictures = encoder_hidden_states.shape[1] - positive - negative
        if pictures == positive + negative:  # the op could not tell which of the two it attends
            raise NAGValueError(
                f"This model has {pictures} image tokens, and the texts have as many: give a "
                "negative text of another length."
            )
        shown, tokens = encoder_hidden_states.split([pictures + positive, negative], 1)
        hidden.tokens = tokens
        return original(hidden_states, shown, *args, **kwargs)

    def project(linear, tokens):
        return linear(tokens if state.layout is None else torch.cat([tokens, hidden.tokens], 1))

    with contextlib.ExitStack() as stack:
        for path, attention in denoiser.named_modules():
            if path.endswith(".attn2") and getattr(attention, "add_k_proj", None) is not None:
                stack.enter_context(wrap_method(attention, "forward", forward))
                for name in ("to_k", "to_v", "to_kv"):
                    if hasattr(attention, name):
                        stack.enter_context(
                            wrap_method(getattr(attention, name), "forward", project)
                        )
        yield


def kept_references(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[Adapted]:
    """FLUX.2 klein KV keeps the keys of its reference images from the first step: keys without
    queries, which would pass for an attention that is not the text's. The references attend
    themselves alone, so what is kept holds nothing of a text."""

    def layout(layout, given: dict):
        cache = given.get("kv_cache")
        count = given.get("num_ref_tokens", 0) if cache is None else cache.num_ref_tokens
        return dataclasses.replace(layout, cached_reference_tokens=count)

    return contextlib.nullcontext(Adapted(layout=layout))


@contextlib.contextmanager
def mask_of_text_and_image(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[Adapted]:
    """The mask comes inside `joint_attention_kwargs`, covers the image too and is left out where
    nothing is padded; it would be too short for a packed text. `attention_mask` brings the
    negative's."""

    def packed_mask(hidden_states, own, other):
        """(B, 1, 1, T+ + T- + I) of the positive's and the image's (B, 1, 1, T+ + I), and one that
        ends in the negative's (B, T+ + T-); None where nothing is masked."""
        positive, negative = state.layout.texts[0]
        count = positive + hidden_states.shape[1]
        ones = hidden_states.new_ones(len(hidden_states), count).bool()
        own = ones if own is None else own[:, 0, 0]
        other = ones[:, :1].expand(-1, negative) if other is None else other[:, positive:].bool()
        return torch.cat([own[:, :positive], other, own[:, positive:]], 1)[:, None, None]

    def around(
        call, hidden_states, *args, attention_mask=None, joint_attention_kwargs=None, **kwargs
    ):
        own = (joint_attention_kwargs or {}).get("attention_mask")
        if state.layout is not None and (own is not None or attention_mask is not None):
            mask = packed_mask(hidden_states, own, attention_mask)
            joint_attention_kwargs = {**(joint_attention_kwargs or {}), "attention_mask": mask}
        return call(hidden_states, *args, joint_attention_kwargs=joint_attention_kwargs, **kwargs)

    yield Adapted(around)


def ideogram_sequence(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[Adapted]:
    """Text (padded on its left) and image are one sequence from `encode_prompt` on: the negative
    would bring its padding and an image of its own. It is cut out and stands behind the image, with
    roles and positions made for it as the pipeline makes them."""
    end = None  # of the positive text, counted in tokens

    def cut(texts, result, encode_prompt, *args, **kwargs):
        nonlocal end
        positive, negative = (
            side["encoder_hidden_states"] for side in (texts.positive, texts.negative)
        )
        used = [  # padding and image are zeros
            side.any(-1).any(0).nonzero()[:, 0] for side in (positive, negative)
        ]
        end = int(used[0].max()) + 1
        words = negative[:, used[1].min() : used[1].max() + 1]
        return dataclasses.replace(
            texts, negative=texts.negative | {"encoder_hidden_states": words}
        )

    def layout(layout, given: dict):
        return dataclasses.replace(layout, texts=((end, layout.texts[0][1]),))

    def around(
        call, hidden_states, timestep, encoder_hidden_states, position_ids, segment_ids, indicator,
        **kwargs,
    ):  # fmt: skip
        tokens = hidden_states, timestep, encoder_hidden_states
        if state.layout is None:
            return call(*tokens, position_ids, segment_ids, indicator, **kwargs)
        negative = state.layout.texts[0][1]
        used = encoder_hidden_states[:, -negative:].any(-1)
        places = (used.long().cumsum(1) - 1).clamp(min=0)[..., None]
        places = places.expand(-1, -1, position_ids.shape[-1])
        room = hidden_states.new_zeros(len(hidden_states), negative, hidden_states.shape[2])
        output = call(
            torch.cat([hidden_states, room], 1),
            timestep,
            encoder_hidden_states,
            torch.cat([position_ids, places], 1),
            torch.cat([segment_ids, torch.where(used, segment_ids[:, end - 1 : end], -1)], 1),
            torch.cat([indicator, torch.where(used, indicator[:, end - 1 : end], 0)], 1),
            **kwargs,
        )
        return (output[0][:, :-negative],)

    rewrites = ((pipe, "encode_prompt", cut),)
    return contextlib.nullcontext(Adapted(around, layout, rewrites))


@contextlib.contextmanager
def gist_tokens(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[Adapted]:
    """A perceiver turns the text into gist tokens, fewer than the text's and as many as its length
    asks for, numbered from 1: both texts in one would make the gist of one long text. So each
    text's are counted, made and numbered alone.

    With pictures of the text that is to be drawn, the first steps run on another caption than the
    prompt: nothing would be guided in them."""
    forward = type(denoiser).forward
    module = sys.modules[forward.__module__]
    namespace = types.SimpleNamespace(**vars(module))
    config = denoiser.config

    def layout(layout, given: dict):
        gists = module.compute_gist_count(
            list(layout.texts[0]),
            min_gist=config.min_num_gist_tokens,
            max_gist=config.max_num_gist_tokens,
            gist_step=config.gist_step,
            min_text_len=config.gist_min_text_len,
            max_text_len=config.gist_max_text_len,
        )
        return dataclasses.replace(layout, texts=(layout.texts[0], tuple(gists)))

    def compute_gist_count(text_lengths, **options):
        return [sum(state.layout.texts[1])] * len(text_lengths)

    def perceive(original, text, count, mask=None, gist_mask=None):
        if state.layout is None:
            return original(text, count, mask, gist_mask)
        texts, gists = state.layout.texts
        masks = (None, None) if mask is None else mask.split(texts, 1)
        halves = zip(text.split(texts, 1), gists, masks, strict=True)
        return torch.cat([original(*half) for half in halves], 1)

    def grid(original, size, start, *args, **kwargs):
        if state.layout is None or start[0] != 1:  # images stand behind the last gist's place
            return original(size, start, *args, **kwargs)
        gists = state.layout.texts[1]
        return torch.cat([original((gist, 1, 1), start, *args, **kwargs) for gist in gists])

    def around(call, *args, **kwargs):
        if state.layout is None:
            return call(*args, **kwargs)
        with own_forward(denoiser, counting):
            return call(*args, **kwargs)

    def encode_prompt(original, *args, **kwargs):
        given = inspect.signature(original).bind_partial(*args, **kwargs).arguments
        if given.get("image") is None and any(given.get("text_images") or []):
            raise NAGValueError(
                f"NAG cannot guide a {type(pipe).__name__} with pictures of rendered text, whose "
                "first steps run on another caption: call it with render_text_images=False and "
                "without text_images."
            )
        return original(*args, **kwargs)

    namespace.compute_gist_count = compute_gist_count
    counting = types.MethodType(with_globals(forward, namespace), denoiser)
    with (
        wrap_method(denoiser.perceiver, "forward", perceive),
        wrap_method(denoiser, "create_coordinate_grid", grid),
        wrap_method(pipe, "encode_prompt", encode_prompt),
    ):
        yield Adapted(around, layout)


def text_last(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """Between image and text other tokens could not be told from the text's: the text is moved
    behind them. Keys have no order."""

    def embed(original, *args, **kwargs):
        embeds = original(*args, **kwargs)
        return embeds if state.layout is None else embeds.roll(-sum(state.layout.texts[0]), 1)

    return wrap_method(denoiser, "get_clip_embeddings", embed)
