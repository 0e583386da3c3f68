"""Models whose text stands in an unusual place of the sequence."""

import contextlib
import dataclasses
import sys
import types

import torch

from ...errors import NAGValueError
from ...patch import own_forward, wrap_method
from ...twins import with_globals


class Hidden:
    """The negative's tokens. A class of its own, for torch.compile cannot trace a write to a SimpleNamespace."""

    tokens = None


@contextlib.contextmanager
def behind_the_image(pipe, denoiser, guidance):
    """Image-to-video models cut the context at 512 from its end into image and text: the negative is hidden until the
    text's own projections."""
    hidden = Hidden()

    def forward(original, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if guidance.layout is None:
            return original(hidden_states, encoder_hidden_states, *args, **kwargs)
        positive, negative = guidance.layout.texts[0]
        pictures = encoder_hidden_states.shape[1] - positive - negative
        if pictures == positive + negative:  # the op could not tell which of the two it attends
            raise NAGValueError(
                f"This model has {pictures} image tokens, and the texts have as many: give a negative text of another length."
            )
        shown, tokens = encoder_hidden_states.split([pictures + positive, negative], 1)
        hidden.tokens = tokens
        return original(hidden_states, shown, *args, **kwargs)

    def project(linear, tokens):
        return linear(tokens if guidance.layout is None else torch.cat([tokens, hidden.tokens], 1))

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


@contextlib.contextmanager
def kept_references(pipe, denoiser, guidance):
    """FLUX.2 klein KV keeps the keys of its reference images from the first step: keys without queries, which would pass for an
    attention that is not the text's. The references attend themselves alone, so what is kept holds nothing of a text."""

    def forward(original, *args, **kwargs):
        if guidance.layout is not None:
            cache = kwargs.get("kv_cache")
            guidance.layout.cached_reference_tokens = (
                cache.num_ref_tokens if cache is not None else kwargs.get("num_ref_tokens", 0)
            )
        return original(*args, **kwargs)

    yield forward


@contextlib.contextmanager
def mask_of_text_and_image(pipe, denoiser, guidance):
    """The mask comes inside `joint_attention_kwargs`, covers the image too and is left out where nothing is padded; it would be
    too short for a packed text. `attention_mask` brings the negative's."""

    def forward(
        original, hidden_states, *args, attention_mask=None, joint_attention_kwargs=None, **kwargs
    ):
        given = (joint_attention_kwargs or {}).get("attention_mask")
        if guidance.layout is not None and (given is not None or attention_mask is not None):
            positive, negative = guidance.layout.texts[0]
            ones = hidden_states.new_ones(
                len(hidden_states), positive + hidden_states.shape[1]
            ).bool()
            own = ones if given is None else given[:, 0, 0]
            other = (
                ones[:, :1].expand(-1, negative)
                if attention_mask is None
                else attention_mask[:, positive:].bool()
            )
            mask = torch.cat([own[:, :positive], other, own[:, positive:]], 1)[:, None, None]
            joint_attention_kwargs = {**(joint_attention_kwargs or {}), "attention_mask": mask}
        return original(
            hidden_states, *args, joint_attention_kwargs=joint_attention_kwargs, **kwargs
        )

    yield forward


@contextlib.contextmanager
def ideogram_sequence(pipe, denoiser, guidance):
    """Text (padded on its left) and image are one sequence from `encode_prompt` on: the negative would bring its padding and an
    image of its own. It is cut out and stands behind the image, with roles and positions made for it as the pipeline makes them."""
    text = {}

    def encode_prompt(original, *args, **kwargs):
        result = original(*args, **kwargs)
        positive, negative = (side["encoder_hidden_states"] for side in guidance.encoded)
        used = [
            side.any(-1).any(0).nonzero()[:, 0] for side in (positive, negative)
        ]  # padding and image are zeros
        text["length"] = int(used[0].max()) + 1
        guidance.encoded[1]["encoder_hidden_states"] = negative[
            :, used[1].min() : used[1].max() + 1
        ]
        return result

    def forward(
        original,
        hidden_states,
        timestep,
        encoder_hidden_states,
        position_ids,
        segment_ids,
        indicator,
        **kwargs,
    ):
        if guidance.layout is None:
            return original(
                hidden_states,
                timestep,
                encoder_hidden_states,
                position_ids,
                segment_ids,
                indicator,
                **kwargs,
            )
        end, negative = text["length"], guidance.layout.texts[0][1]
        guidance.layout = dataclasses.replace(guidance.layout, texts=((end, negative),))
        used = encoder_hidden_states[:, -negative:].any(-1)
        places = (
            (used.long().cumsum(1) - 1)
            .clamp(min=0)[..., None]
            .expand(-1, -1, position_ids.shape[-1])
        )
        output = original(
            torch.cat(
                [
                    hidden_states,
                    hidden_states.new_zeros(len(hidden_states), negative, hidden_states.shape[2]),
                ],
                1,
            ),
            timestep,
            encoder_hidden_states,
            torch.cat([position_ids, places], 1),
            torch.cat([segment_ids, torch.where(used, segment_ids[:, end - 1 : end], -1)], 1),
            torch.cat([indicator, torch.where(used, indicator[:, end - 1 : end], 0)], 1),
            **kwargs,
        )
        return (output[0][:, :-negative],)

    with wrap_method(pipe, "encode_prompt", encode_prompt):
        yield forward


@contextlib.contextmanager
def gist_tokens(pipe, denoiser, guidance):
    """A perceiver turns the text into gist tokens, fewer than the text's and as many as its length asks for, numbered from 1: both
    texts together would make the gist of one long text. So they are counted, made and numbered apart."""
    forward = type(denoiser).forward
    module = sys.modules[forward.__module__]
    namespace = types.SimpleNamespace(**vars(module))

    def compute_gist_count(text_lengths, **options):
        layout = guidance.layout
        gists = module.compute_gist_count(list(layout.texts[0]), **options)
        guidance.layout = dataclasses.replace(layout, texts=(layout.texts[0], tuple(gists)))
        return [sum(gists)] * len(text_lengths)

    def perceive(original, text, count, mask=None, gist_mask=None):
        if guidance.layout is None:
            return original(text, count, mask, gist_mask)
        texts, gists = guidance.layout.texts
        masks = (None, None) if mask is None else mask.split(texts, 1)
        return torch.cat(
            [original(*half) for half in zip(text.split(texts, 1), gists, masks, strict=True)], 1
        )

    def grid(original, size, start, *args, **kwargs):
        if guidance.layout is None or start[0] != 1:  # images stand behind the last gist's place
            return original(size, start, *args, **kwargs)
        return torch.cat(
            [original((gist, 1, 1), start, *args, **kwargs) for gist in guidance.layout.texts[1]]
        )

    def call(original, *args, **kwargs):
        if guidance.layout is None:
            return original(*args, **kwargs)
        with own_forward(denoiser, counting):
            return original(*args, **kwargs)

    namespace.compute_gist_count = compute_gist_count
    counting = types.MethodType(with_globals(forward, namespace), denoiser)
    with (
        wrap_method(denoiser.perceiver, "forward", perceive),
        wrap_method(denoiser, "create_coordinate_grid", grid),
    ):
        yield call


def text_last(pipe, denoiser, guidance):
    """Between image and text other tokens could not be told from the text's: the text is moved behind them. Keys have no order."""

    def embed(original, *args, **kwargs):
        embeds = original(*args, **kwargs)
        return embeds if guidance.layout is None else embeds.roll(-sum(guidance.layout.texts[0]), 1)

    return wrap_method(denoiser, "get_clip_embeddings", embed)
