"""Loops of one's own inside `nag.guide`, which call the denoiser and not the pipeline."""

import copy
import functools
import itertools

import pytest
import torch
from test_guidance import STRONG, close, differ
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline, prepared

import nag
from nag.errors import NAGRuntimeError, NAGValueError

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


# --- steps of another scheduler than the pipeline's


def by_hand(pipe, text, count=4):
    """Euler's method, in a loop without any scheduler."""
    latents, sigmas = LATENTS.expand(len(text), -1, -1, -1), torch.linspace(1, 0, count + 1)
    with torch.no_grad():
        for now, then in itertools.pairwise(sigmas):
            noise = pipe.unet(latents, 999 * now, encoder_hidden_states=text)[0]
            latents = latents + (then - now) * noise
    return latents


def by_another_scheduler(pipe, text, count=4):
    scheduler, latents = type(pipe.scheduler).from_config(pipe.scheduler.config), LATENTS
    scheduler.set_timesteps(count)
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = pipe.unet(latents, t, encoder_hidden_states=text)[0]
            latents = scheduler.step(noise, t, latents)[0]
    return latents


LOOPS = [by_hand, by_another_scheduler]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_shows_a_text_which_nobody_heard_of_is_not_left_unguided(loop):
    pipe = pipeline("sd")
    text = text_of(pipe)
    with (
        pytest.raises(RuntimeError, match=r"call the pipeline's encode_prompt inside nag\.guide"),
        nag.guide(pipe, NEGATIVE, **STRONG),
    ):
        loop(pipe, text)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_encodes_inside_is_guided_in_every_step(loop):
    pipe = pipeline("sd")
    plain = loop(pipe, text_of(pipe))
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        out = loop(pipe, text_of(pipe))
    assert progress.guided_calls == 4 and differ(out, plain)


def test_nothing_is_missed_where_nothing_was_to_be_guided():
    """Words encoded and not drawn, calls behind `end`, and CFG's text beside the prompt's."""
    pipe = pipeline("sd")
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        text = text_of(pipe)
    assert progress.guided_calls == 0
    other = torch.randn_like(text)
    for off in ({"scale": 1.0}, {"end": 0.0}):
        with nag.guide(pipe, NEGATIVE, **STRONG | off):
            by_hand(pipe, other)
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        by_hand(pipe, torch.cat([other, text_of(pipe)]), count=1)
        by_hand(pipe, other, count=1)
    assert progress.guided_calls == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_an_end_that_would_never_come_is_refused_at_the_second_step(loop):
    pipe = pipeline("sd")
    with (
        pytest.raises(RuntimeError, match=r"end=0\.5 would never come: step pipe\.scheduler, or"),
        nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as progress,
    ):
        loop(pipe, text_of(pipe))
    assert progress.guided_calls == 1


def test_an_end_comes_in_a_loop_that_steps_the_pipelines_scheduler():
    pipe, latents = pipeline("sd"), LATENTS
    draw("sd")  # of 2 steps, and says so ever after
    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as progress, torch.no_grad():
        for picture in range(2):  # the second begins at the first timestep again
            text = text_of(pipe)
            pipe.scheduler.set_timesteps(4)
            for t in pipe.scheduler.timesteps:
                for shown in (torch.randn_like(text), text):
                    noise = pipe.unet(latents, t, encoder_hidden_states=shown)[0]
                latents = pipe.scheduler.step(noise, t, latents)[0]
            assert progress.guided_calls == 2 * (picture + 1)


# --- which text is the prompt


def encoded(pipe, words):
    return pipe.encode_prompt(words, torch.device("cpu"), 1, False)[0]


def test_the_empty_text_before_the_prompt_is_refused():
    """CFG's text, which would be guided in the prompt's place."""
    pipe = pipeline("sd")
    with nag.guide(pipe, NEGATIVE, **STRONG), pytest.raises(NAGRuntimeError, match="prompt first"):
        encoded(pipe, "")
        encoded(pipe, PROMPT)
    with nag.guide(pipe, NEGATIVE, **STRONG), torch.no_grad():
        text, other = encoded(pipe, PROMPT), encoded(pipe, "")
        both = pipe.unet(LATENTS.repeat(2, 1, 1, 1), 500, torch.cat([other, text])).sample
        alone = pipe.unet(LATENTS, 500, text).sample
    plain = pipe.unet(LATENTS, 500, other).sample
    close(both[1:], alone, 1e-5)
    close(both[:1], plain, 1e-5)


def test_a_second_prompt_is_said_to_be_none():
    pipe = pipeline("sd")
    with nag.guide(pipe, NEGATIVE, **STRONG), torch.no_grad():
        first, second = encoded(pipe, PROMPT), encoded(pipe, "a wizard")
        pipe.scheduler.set_timesteps(2)
        for text in (first, second):
            out = pipe.unet(LATENTS, 500, text).sample
            if text is first:
                pipe.scheduler.step(out, pipe.scheduler.timesteps[0], LATENTS)
        with pytest.raises(NAGRuntimeError, match="encode all prompts in one call"):
            pipe.scheduler.step(out, pipe.scheduler.timesteps[1], LATENTS)


def test_a_denoiser_that_is_replaced_inside_is_refused():
    pipe = pipeline("sd")
    kept, other = pipe.unet, copy.deepcopy(pipe.unet)
    once = {"num_inference_steps": 1, "height": 16, "width": 16, "output_type": "latent"}
    try:
        with nag.guide(pipe, NEGATIVE, **STRONG):
            pipe.unet = other
            with pytest.raises(NAGRuntimeError, match="was replaced inside"):
                pipe(PROMPT, **once)
            pipe.unet = kept
            pipe(PROMPT, **once)
    finally:
        pipe.unet = kept


def test_a_mask_that_leaves_nothing_is_refused():
    pipe = pipeline("pixart")
    text = torch.randn(1, 24, pipe.transformer.config.caption_channels)
    with (
        pytest.raises(NAGValueError, match="leaves nothing of a row"),
        nag.guide(
            pipe, negative_prompt_embeds=text, negative_prompt_attention_mask=torch.zeros(1, 24)
        ),
    ):
        pass
