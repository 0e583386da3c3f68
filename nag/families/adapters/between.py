"""Pipelines that rewrite the text between `encode_prompt` and the denoiser."""

import contextlib

import torch
import torch.nn.functional as F

from ...errors import NAGValueError
from ...patch import wrap_call, wrap_method


@contextlib.contextmanager
def ernie_texts(pipe, denoiser, guidance):
    """The pipeline pads its list of texts into a tensor, which is not what `encode_prompt` returned. In the model every
    text is numbered from 0, and the image's number follows the positive's (not a rotation, so distances would not do)."""

    def pad_text(original, text_hiddens, *args, **kwargs):
        padded = original(text_hiddens, *args, **kwargs)
        sides = guidance.encoded and [side.get("text_bth") for side in guidance.encoded]
        if sides and isinstance(sides[0], list):
            if not all(
                a is b for a, b in zip(sides[0], text_hiddens[-len(sides[0]) :], strict=True)
            ):
                raise NAGValueError(
                    "NAG needs the words: with prompt_embeds ErnieImagePipeline does not call encode_prompt for the prompt."
                )
            plus, minus = (
                original(side, *args, **kwargs) if isinstance(side, list) else (side, None)
                for side in sides
            )
            plus = F.pad(plus[0], (0, 0, 0, padded[0].shape[1] - plus[0].shape[1])), plus[1]
            guidance.encoded = tuple(
                dict(zip(("text_bth", "text_lens"), side, strict=True)) for side in (plus, minus)
            )
        return padded

    def pos_embed(original, ids):
        if guidance.layout is not None:
            ids, (positive, negative) = ids.clone(), guidance.layout.texts[0]
            ids[:, : -positive - negative, 0] = positive
            ids[:, -negative:, 0] = torch.arange(negative, dtype=ids.dtype, device=ids.device)
        return original(ids)

    with contextlib.ExitStack() as stack:
        if hasattr(pipe, "_pad_text"):
            stack.enter_context(wrap_method(pipe, "_pad_text", pad_text))
        stack.enter_context(wrap_method(denoiser.pos_embed, "forward", pos_embed))
        yield


def first_row(text, wanted) -> int | None:
    """Where the rows of `wanted` stand in a batch of texts."""
    starts = range(0, len(text) - len(wanted) + 1, len(wanted))
    return next(
        (
            i
            for i in starts
            if text.shape[1:] == wanted.shape[1:]
            and torch.equal(text[i : i + len(wanted)], wanted.to(text))
        ),
        None,
    )


def connected(pipe, denoiser, guidance):
    """The pipeline's connectors rewrite the text (and make the sound's) between `encode_prompt` and the denoiser, which would show
    rows that nobody encoded: the negative goes through them too, and rows are recognised by what they made of the positive."""

    def sides(video, audio, keep):
        return {
            "encoder_hidden_states": video,
            "audio_encoder_hidden_states": audio,
            "encoder_attention_mask": keep,
            "audio_encoder_attention_mask": keep,
        }

    def forward(original, text, mask, *args, **kwargs):
        result = original(text, mask, *args, **kwargs)
        positive, negative = guidance.encoded or (None, None)
        start = first_row(text, positive["encoder_hidden_states"]) if positive else None
        if start is not None:
            if (
                "audio_encoder_hidden_states" not in negative
            ):  # given by hand, it comes as the denoiser takes it
                negative = sides(
                    *original(
                        negative["encoder_hidden_states"].to(text),
                        negative["encoder_attention_mask"].to(mask),
                        *args,
                        **kwargs,
                    )
                )
            guidance.encoded = (
                sides(
                    *(out[start : start + len(positive["encoder_hidden_states"])] for out in result)
                ),
                negative,
            )
        return result

    connectors = getattr(pipe, "connectors", None)
    return contextlib.nullcontext() if connectors is None else wrap_call(connectors, forward)


def conditioned(pipe, denoiser, guidance):
    """The pipeline's condition encoder makes one text of prompt, lyrics and timbre after `encode_prompt`, and the denoiser would show
    rows that nobody encoded: it makes one of the negative prompt with the same lyrics and timbre too."""

    def forward(original, *args, **kwargs):
        result = original(*args, **kwargs)
        positive, other = guidance.results or (None, None)
        if positive and first_row(kwargs["text_hidden_states"], positive[0]) == 0:
            negative = guidance.encoded[1]
            if other is not None:  # not given by hand, as the denoiser takes it
                negative = {
                    "encoder_hidden_states": original(
                        *args,
                        **{
                            **kwargs,
                            "text_hidden_states": other[0],
                            "text_attention_mask": other[1],
                        },
                    )[0]
                }
            guidance.encoded = {"encoder_hidden_states": result[0]}, negative
        return result

    encoder = getattr(pipe, "condition_encoder", None)
    return contextlib.nullcontext() if encoder is None else wrap_call(encoder, forward)
