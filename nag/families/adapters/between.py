"""Pipelines that rewrite the text between `encode_prompt` and the denoiser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ... import private
from ...errors import NAGValueError
from ...patch import wrap_method
from ..schema import Adapted

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from ...guidance.state import CallState


@contextlib.contextmanager
def ernie_texts(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> Iterator[Adapted]:
    """The pipeline pads its list of texts into a tensor, which is not what `encode_prompt`
    returned. In the model every text is numbered from 0, and the image's number follows the
    positive's (not a rotation, so distances would not do)."""

    def padded(texts, result, pad, text_hiddens, *args, **kwargs):
        plus, minus = texts.positive.get("text_bth"), texts.negative.get("text_bth")
        if not isinstance(plus, list):  # padded already
            return texts
        check_same_tensors(plus, text_hiddens[-len(plus) :])
        hidden, lengths = pad(plus, *args, **kwargs)
        hidden = F.pad(hidden, (0, 0, 0, result[0].shape[1] - hidden.shape[1]))
        other = pad(minus, *args, **kwargs) if isinstance(minus, list) else (minus, None)
        names = "text_bth", "text_lens"
        return replace(
            texts,
            positive=dict(zip(names, (hidden, lengths), strict=True)),
            negative=dict(zip(names, other, strict=True)),
        )

    def pos_embed(original, ids):
        if state.layout is not None:
            ids, (positive, negative) = ids.clone(), state.layout.texts[0]
            ids[:, : -positive - negative, 0] = positive
            ids[:, -negative:, 0] = torch.arange(negative, dtype=ids.dtype, device=ids.device)
        return original(ids)

    with wrap_method(denoiser.pos_embed, "forward", pos_embed):
        pads = hasattr(pipe, private.ERNIE_PADS)
        yield Adapted(rewrites=((pipe, private.ERNIE_PADS, padded),) if pads else ())


def check_same_tensors(encoded: list, given: list) -> None:
    """Raises NAGValueError unless the pipeline goes on with what `encode_prompt` returned."""
    if not all(a is b for a, b in zip(encoded, given, strict=True)):
        raise NAGValueError(
            "NAG needs the words: with prompt_embeds ErnieImagePipeline does not call "
            "encode_prompt for the prompt."
        )


def first_row(text: torch.Tensor, wanted: torch.Tensor) -> int | None:
    """Where the rows of `wanted` stand in a batch of texts."""
    if text.shape[1:] != wanted.shape[1:]:
        return None
    starts = range(0, len(text) - len(wanted) + 1, len(wanted))
    return next(
        (i for i in starts if torch.equal(text[i : i + len(wanted)], wanted.to(text))), None
    )


def connected(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[Adapted]:
    """The pipeline's connectors rewrite the text (and make the sound's) between `encode_prompt` and
    the denoiser, which would show rows that nobody encoded: the negative goes through them too, and
    rows are recognised by what they made of the positive."""

    def sides(video, audio, keep) -> dict:
        return {
            "encoder_hidden_states": video,
            "audio_encoder_hidden_states": audio,
            "encoder_attention_mask": keep,
            "audio_encoder_attention_mask": keep,
        }

    def rewritten(texts, result, connect, text, mask, *args, **kwargs):
        own, negative = texts.positive["encoder_hidden_states"], texts.negative
        start = first_row(text, own)
        if start is None:
            return texts
        if (
            "audio_encoder_hidden_states" not in negative
        ):  # by hand it comes as the denoiser takes it
            hidden, keep = negative["encoder_hidden_states"], negative["encoder_attention_mask"]
            negative = sides(*connect(hidden.to(text), keep.to(mask), *args, **kwargs))
        positive = sides(*(part[start : start + len(own)] for part in result))
        return replace(texts, positive=positive, negative=negative)

    connectors = getattr(pipe, "connectors", None)
    rewrites = () if connectors is None else ((connectors, "", rewritten),)
    return contextlib.nullcontext(Adapted(rewrites=rewrites))


def conditioned(
    pipe: DiffusionPipeline, denoiser: ModelMixin, state: CallState
) -> contextlib.AbstractContextManager[Adapted]:
    """The pipeline's condition encoder makes one text of prompt, lyrics and timbre after
    `encode_prompt`, and the denoiser would show rows that nobody encoded: it makes one of the
    negative prompt with the same lyrics and timbre too."""

    def rewritten(texts, result, condition, *args, **kwargs):
        positive, other = texts.results
        if first_row(kwargs["text_hidden_states"], positive[0]) != 0:
            return texts
        negative = texts.negative
        if other is not None:  # not by hand, as the denoiser takes it
            words = {"text_hidden_states": other[0], "text_attention_mask": other[1]}
            negative = {"encoder_hidden_states": condition(*args, **{**kwargs, **words})[0]}
        return replace(texts, positive={"encoder_hidden_states": result[0]}, negative=negative)

    encoder = getattr(pipe, "condition_encoder", None)
    rewrites = () if encoder is None else ((encoder, "", rewritten),)
    return contextlib.nullcontext(Adapted(rewrites=rewrites))
