"""Loops of one's own inside `nag.guide`, which call the denoiser and not the pipeline."""

import functools

import pytest
import torch
from test_guidance import STRONG, close, differ
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline, prepared

import nag

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


# --- the same text, with other companions


def pixart_calls(masks, change=lambda mask: None):
    """A guided denoiser call with each mask, all with the same embeddings."""
    pipe = pipeline("pixart")
    options = {"device": torch.device("cpu"), "max_sequence_length": 24}
    with nag.guide(pipe, NEGATIVE, **STRONG), torch.no_grad():
        text, *_ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, **options)
        outputs = []
        for mask in masks:
            change(mask)
            call = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
            outputs.append(pipe.transformer(LATENTS, timestep=torch.tensor([500]), **call)[0])
    return outputs


def test_another_mask_for_the_same_embeddings_is_another_call():
    whole, cut = torch.ones(1, 24), torch.ones(1, 24)
    cut[:, 3:] = 0
    (first,), (second,) = pixart_calls([whole]), pixart_calls([cut])
    assert differ(first, second)
    for one, expected in zip(pixart_calls([whole, cut]), (first, second), strict=True):
        close(one, expected, 1e-6)


def test_a_mask_that_is_changed_in_place_is_another_one():
    cut = torch.ones(1, 24)
    cut[:, 3:] = 0
    (expected,) = pixart_calls([cut])
    mask, seen = torch.ones(1, 24), []

    def change(mask):
        if seen:
            mask[:, 3:] = 0
        seen.append(mask)

    first, second = pixart_calls([mask, mask], change)
    close(second, expected, 1e-6)
    assert differ(first, second)


def test_other_positions_for_the_same_embeddings_are_another_call():
    pipe = pipeline("flux")
    latents = torch.randn(1, 16, pipe.transformer.config.in_channels)
    image = torch.zeros(16, 3)
    image[:, 1], image[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4

    def calls(*positions):
        with nag.guide(pipe, NEGATIVE, **STRONG), torch.no_grad():
            options = {"device": torch.device("cpu"), "max_sequence_length": 24}
            text, pooled, _ = pipe.encode_prompt(PROMPT, None, **options)
            call = {"encoder_hidden_states": text, "pooled_projections": pooled}
            call |= {"timestep": torch.tensor([0.5]), "img_ids": image}
            if pipe.transformer.config.guidance_embeds:
                call["guidance"] = torch.tensor([3.5])
            return [pipe.transformer(latents, txt_ids=ids, **call)[0] for ids in positions]

    zeros, counting = torch.zeros(24, 3), torch.arange(24.0)[:, None].expand(24, 3).contiguous()
    (first,), (second,) = calls(zeros), calls(counting)
    assert differ(first, second)
    for one, expected in zip(calls(zeros, counting), (first, second), strict=True):
        close(one, expected, 1e-6)


# --- gradients


def text_of(pipe):
    with torch.no_grad():
        return pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_is_refused_where_gradients_are_wanted(reentrant):
    """What runs a second time runs behind the guided call, and is not guided."""
    from torch.utils.checkpoint import checkpoint

    pipe = prepared(PIPELINES["sd"].build)
    again = functools.partial(checkpoint, use_reentrant=reentrant)
    pipe.unet.enable_gradient_checkpointing(lambda module, *args: again(module.__call__, *args))
    with nag.guide(pipe, NEGATIVE, **STRONG):
        text = text_of(pipe)
        with pytest.raises(RuntimeError, match=r"Call disable_gradient_checkpointing\(\) on it"):
            pipe.unet(LATENTS, 500, encoder_hidden_states=text)
        with torch.no_grad():
            expected = pipe.unet(LATENTS, 500, encoder_hidden_states=text)[0]
        pipe.unet.disable_gradient_checkpointing()
        latents = LATENTS.clone().requires_grad_()
        out = pipe.unet(latents, 500, encoder_hidden_states=text)[0]
        out.square().mean().backward()
    close(out, expected, 1e-6)
    assert latents.grad.abs().max() > 0


def test_pictures_are_drawn_with_gradient_checkpointing_as_without():
    pipe = prepared(PIPELINES["sd"].build)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        expected = draw("sd", pipe=pipe)
        pipe.unet.enable_gradient_checkpointing()
        assert torch.equal(draw("sd", pipe=pipe), expected)
