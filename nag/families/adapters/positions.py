"""Models that number their text tokens: the negative has positions of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...errors import NAGValueError
from ...patch import wrap_method
from ..schema import Adapted

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from ...guidance.state import CallState
    from ..schema import Adapter


def counted_from_zero(*paths: str) -> Adapter:
    """Rotary tables of a text, looked up by position. The negative's tokens would have none:
    Kandinsky 5 is told the positive's positions alone, and two texts at full length count beyond
    the table's end."""

    @contextlib.contextmanager
    def adapter(pipe, denoiser, state):
        def forward(original, positions, *args, **kwargs):
            if state.layout is not None:
                positions = torch.cat(
                    [
                        torch.arange(length, device=positions.device)
                        for length in state.layout.texts[0]
                    ]
                )
            return original(positions, *args, **kwargs)

        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(wrap_method(denoiser.get_submodule(path), "forward", forward))
            yield

    adapter.__doc__ = "The negative's positions are counted from zero, as the positive's."
    return adapter


def one_text_per_patch_embed(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """The table of positions that is added to text and video has room for one text: the negative
    takes the positive's places (in turns of the positive's length where it is longer), or the
    shapes would not match."""

    def forward(original, text, video):
        if state.layout is None:
            return original(text, video)
        positive, negative = text.split(state.layout.texts[0], 1)
        count = positive.shape[1]
        embedded = original(positive, video)
        parts = [
            original(F.pad(part, (0, 0, 0, count - part.shape[1])), video)[:, : part.shape[1]]
            for part in negative.split(count, 1)
        ]
        return torch.cat([embedded[:, :count], *parts, embedded[:, count:]], 1)

    return wrap_method(denoiser.patch_embed, "forward", forward)


def joy_image_positions(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """Where text has positions (rope_type "mrope"), they start behind the image's; the negative's
    must start there again."""

    def get_rotary_pos_embed(original, *args, txt_rope_size=None, **kwargs):
        if state.layout is None or txt_rope_size is None:
            return original(*args, txt_rope_size=txt_rope_size, **kwargs)
        positive, negative = (
            original(*args, txt_rope_size=length, **kwargs) for length in state.layout.texts[0]
        )
        return positive[0], tuple(
            torch.cat(pair) for pair in zip(positive[1], negative[1], strict=True)
        )

    return wrap_method(denoiser, "get_rotary_pos_embed", get_rotary_pos_embed)


def qwen_positions(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """Text positions start behind the image's and count on; the negative's must start there
    again."""

    def forward(original, *args, max_txt_seq_len=None, **kwargs):
        if state.layout is None:
            return original(*args, max_txt_seq_len=max_txt_seq_len, **kwargs)
        positive, negative = (
            original(*args, max_txt_seq_len=length, **kwargs) for length in state.layout.texts[0]
        )
        return positive[0], torch.cat([positive[1], negative[1]], 0)

    return wrap_method(denoiser.pos_embed, "forward", forward)


def z_image_captions(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """Every caption is padded to a multiple of 32 and numbered from 1; the image's numbers follow
    the positive caption's."""

    def patchify_and_embed(original, images, captions, *args, **kwargs):
        layout = state.layout
        if layout is None:
            return original(images, captions, *args, **kwargs)
        lengths = layout.texts[0]
        plus, minus = (
            original(images, [c.split(lengths)[sign] for c in captions], *args, **kwargs)
            for sign in (0, 1)
        )
        both = list(plus)
        # captions, their position ids (a few too many, which the model cuts off at the end), their
        # padding
        for place in (1, 4, 6):
            both[place] = [
                torch.cat([p[: len(cp)], n[: len(cn)]])
                for p, n, cp, cn in zip(plus[place], minus[place], plus[1], minus[1], strict=True)
            ]
        return tuple(both)

    return wrap_method(denoiser, "patchify_and_embed", patchify_and_embed)


def shifted(text: torch.Tensor, image_from: torch.Tensor, image_to: torch.Tensor) -> torch.Tensor:
    """Rotary factors of a text whose image stands at `image_from`, moved along so that it has its
    distance to `image_to`. All (..., T, D)."""
    return text * (image_to[..., :1, :] / image_from[..., :1, :])


def lumina_positions(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """The image's positions start behind the caption. The negative keeps its own distance to the
    image, as if it were alone with it."""

    def forward(original, hidden_states, attention_mask):
        layout = state.layout
        if layout is None:
            return original(hidden_states, attention_mask)
        plus, minus = (
            original(hidden_states, mask) for mask in attention_mask.split(layout.texts[0], 1)
        )
        text = torch.cat([plus[1], shifted(minus[1], minus[2], plus[2])], 1)
        lengths = [
            [a + b for a, b in zip(plus[4], minus[4], strict=True)],
            [a + b for a, b in zip(plus[5], minus[4], strict=True)],
        ]
        return plus[0], text, plus[2], torch.cat([text, plus[2]], 1), *lengths

    return wrap_method(denoiser.rope_embedder, "forward", forward)


def registers(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[None]:
    """The model puts its register tokens before its text. The negative needs a copy: registers see
    text and image, and differ with them."""

    def forward(original, encoder_hidden_states):
        text, layout = original(encoder_hidden_states), state.layout
        if layout is None:
            return text
        positive, negative = text.split(layout.texts[0], 1)
        tokens = denoiser.register_tokens.to(text).expand(len(text), -1, -1)
        return torch.cat([positive, tokens, negative], 1)

    return wrap_method(denoiser.context_embedder, "forward", forward)


@contextlib.contextmanager
def qwen_21_layout(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[Adapted]:
    """The model reads where its image tokens are from a mask over the joint sequence, and the
    image's positions start behind the text: the negative keeps its own distance. Its cache of text
    keys is left out: it would not know that guidance has ended."""
    if any(
        "Flex" in base.__name__
        for m in denoiser.modules()
        for base in type(getattr(m, "processor", None)).__mro__
    ):
        raise NAGValueError(
            "NAG needs QwenImage21AttnProcessor: one flex_attention call cannot tell two texts "
            "from one."
        )
    cached = []  # themselves: the id of one that is gone may be another's

    def forward(original, *args, **kwargs):
        layout, cache = state.layout, kwargs.get("kv_cache")
        if layout is not None:
            if cache is not None and not any(one is cache for one in cached):
                cached.append(cache)
            positive, negative = layout.texts[0]
            mask = kwargs["img_mask"]
            if mask[:, :positive].any():
                raise NAGValueError(
                    "NAG guides Qwen-Image 2.1 from text alone: with condition images the "
                    "pictures stand between the words."
                )
            kwargs["img_mask"] = torch.cat([mask.new_zeros(len(mask), negative), mask], 1)
        if any(one is cache for one in cached):
            kwargs |= {"kv_cache": None, "kv_cache_mode": None}
        return original(*args, **kwargs)

    def pos_embed(original, img_shapes, image_pad_mask, *args, **kwargs):
        if state.layout is None:
            return original(img_shapes, image_pad_mask, *args, **kwargs)
        positive, negative = state.layout.texts[0]
        plus, minus = (
            original(img_shapes, image_pad_mask[other:], *args, **kwargs)
            for other in (negative, positive)
        )
        return torch.cat(
            [
                plus[:positive],
                shifted(minus[:negative], minus[negative:], plus[positive:]),
                plus[positive:],
            ]
        )

    with wrap_method(denoiser.pos_embed, "forward", pos_embed):
        yield Adapted(forward)
