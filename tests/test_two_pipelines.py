"""Two pipelines with one denoiser: the one that was named is guided, the other is refused,
always."""

import diffusers
import PIL.Image
import pytest
import torch
from test_guidance import STRONG, differ, guided, state
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline, prepared

import nag
from nag.errors import NAGError

SENTENCE = r"runs the denoiser of a \w+ that is guided, and is not guided itself: leave nag\.guide"
PAIRS = {  # a pipeline of `tests/tiny.py` -> another class for its parts
    "sd": "StableDiffusionImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
}


def pair(name: str):
    pipe = pipeline(name)
    return pipe, getattr(diffusers, PAIRS[name]).from_pipe(pipe)


def from_picture(name: str, other, prompt=PROMPT, **options):
    return other(
        prompt=prompt,
        image=PIL.Image.new("RGB", (32, 32), "red"),
        strength=1.0,
        num_inference_steps=2,
        guidance_scale=0.0,
        output_type="latent",
        return_dict=False,
        generator=torch.Generator().manual_seed(0),
        **({"height": 32, "width": 32, "max_sequence_length": 24} if name == "flux" else {}),
        **options,
    )[0]


@pytest.mark.parametrize("prompt", [PROMPT, "a chef"], ids=["same words", "other words"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_other_pipeline_is_refused_before_and_behind_the_named_one(name, prompt):
    pipe, other = pair(name)
    plain = from_picture(name, other, prompt)
    expected, before = guided(name), state(pipe)
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        with pytest.raises(NAGError, match=SENTENCE):
            from_picture(name, other, prompt)
        assert torch.equal(draw(name), expected) and progress.guided_steps == 2
        with pytest.raises(NAGError, match=SENTENCE):
            from_picture(name, other, prompt)
        assert torch.equal(draw(name), expected) and progress.guided_steps == 4
    assert state(pipe) == before and torch.equal(from_picture(name, other, prompt), plain)


@pytest.mark.parametrize("name", PAIRS)
def test_each_is_guided_under_its_own_name(name):
    pipe, other = pair(name)
    plain, expected = from_picture(name, other), guided(name)
    with nag.guide(other, NEGATIVE, **STRONG):
        assert differ(from_picture(name, other), plain)
        with pytest.raises(NAGError, match=SENTENCE):
            draw(name)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        assert torch.equal(draw(name), expected)


def test_a_pipeline_made_inside_is_another_one():
    pipe = pipeline("sd")
    with nag.guide(pipe, NEGATIVE, **STRONG):
        with pytest.raises(NAGError, match="from_pipe would change the dtype"):
            diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
        again = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
        again.set_progress_bar_config(disable=True)
        with pytest.raises(NAGError, match=SENTENCE):
            draw("sd", pipe=again)
    assert torch.equal(draw("sd", pipe=again), draw("sd"))


def test_embeddings_encoded_by_hand_do_not_let_the_other_in():
    (pipe, other), expected = pair("sd"), guided("sd")
    with nag.guide(pipe, NEGATIVE, **STRONG):
        embeds = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
        with pytest.raises(NAGError, match=SENTENCE):
            from_picture("sd", other, None, prompt_embeds=embeds)
        assert torch.equal(draw("sd", None, prompt_embeds=embeds), expected)


def test_a_callback_that_runs_the_other_is_refused():
    pipe, other = pair("sd")

    def preview(*_):
        from_picture("sd", other)

    with pytest.raises(NAGError, match=SENTENCE), nag.guide(pipe, NEGATIVE, **STRONG):
        draw("sd", callback_on_step_end=preview)


def test_a_loop_of_ones_own_is_guided():
    """The pipeline taken apart, as diffusers' documentation shows."""
    pipe = pipeline("sd")

    def loop():
        embeds = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
        pipe.scheduler.set_timesteps(2)
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                noise = pipe.unet(latents, t, encoder_hidden_states=embeds).sample
                latents = pipe.scheduler.step(noise, t, latents).prev_sample
        return latents

    plain = loop()
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        first, second = loop(), loop()
    assert progress.guided_steps == 4
    assert torch.equal(first, second) and differ(first, plain)


@pytest.mark.parametrize("both", [False, True], ids=["one guided", "both guided"])
def test_steps_of_another_pipeline_with_the_same_scheduler_are_not_counted(both):
    """They once ended in "NAG guided nothing: it encoded no prompt"."""
    one, other = pipeline("sd"), prepared(PIPELINES["sd"].build)
    own, other.scheduler = other.scheduler, one.scheduler
    plain, expected = draw("sd"), guided("sd")
    with nag.guide(other, NEGATIVE, **STRONG) as idle:
        if both:
            with nag.guide(one, NEGATIVE, **STRONG) as progress:
                out = draw("sd")
            assert progress.guided_steps == progress.step == 2
        else:
            out = draw("sd")
    assert torch.equal(out, expected if both else plain)
    assert idle.step == idle.guided_calls == 0
    with nag.guide(one, NEGATIVE, **STRONG), nag.guide(other, NEGATIVE, **STRONG) as progress:
        draw("sd", pipe=other)
    assert progress.guided_steps == progress.step == 2
    other.scheduler = own
