"""A prompt that changes while a picture is drawn: every step until `end` is guided, or raises."""

import pytest
import torch
from test_guidance import STRONG, close, differ
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline

import nag
from nag.errors import NAGError
from nag.patch import wrap_method

STEPS = 4
# pipelines with step callbacks -> the callback's tensors that are the prompt's
EMBEDS = {
    "sd": "prompt_embeds",
    "sdxl": "prompt_embeds",
    "sd3": "prompt_embeds",
    "flux": "prompt_embeds",
    "flux2": "prompt_embeds",
    "sana": "prompt_embeds",
    "qwen-image": "prompt_embeds",
    "z-image": "prompt_embeds",
    "wan": "prompt_embeds",
    "ltx": "prompt_embeds",
    "latte": "prompt_embeds",
    "hunyuan-video": "prompt_embeds",
    "cogview4": "prompt_embeds",
    "chroma": "prompt_embeds",
    "lumina2": "prompt_embeds",
}
BOTH = [(name, None) for name in EMBEDS] + [
    (name, 0) for name in EMBEDS if PIPELINES[name].cfg and name != "ltx"
]


def weighted(value, weight: float):
    if isinstance(value, list):
        return [weighted(row, weight) for row in value]
    return value * weight


def drawn(name, cfg=None, change=None, **options):
    """Latents, with `change` of the prompt's embeddings after every step."""

    def callback(pipe, step, timestep, tensors):
        return change(step, tensors)

    callbacks = {}
    if change:
        callbacks = {
            "callback_on_step_end": callback,
            "callback_on_step_end_tensor_inputs": ["latents", EMBEDS[name]],
        }
    return draw(name, PROMPT, cfg, STEPS, **callbacks, **options)


def every_step(step, tensors):
    return {key: weighted(value, 1.02) for key, value in tensors.items() if "embeds" in key}


def once(step, tensors):
    if step != 1:
        return {}
    return {key: weighted(value, 0.7) for key, value in tensors.items() if "embeds" in key}


@pytest.mark.parametrize("change", [every_step, once])
@pytest.mark.parametrize(("name", "cfg"), BOTH)
def test_every_step_is_guided_whatever_a_callback_does_to_the_prompt(name, cfg, change):
    with nag.guide(pipeline(name), NEGATIVE, **STRONG) as progress:
        out = drawn(name, cfg, change)
    assert progress.guided_steps == progress.step == STEPS
    assert differ(out, drawn(name, cfg, change))
    with nag.guide(pipeline(name), NEGATIVE, **STRONG):
        assert not torch.equal(out, drawn(name, cfg))


def test_a_prompt_swapped_for_another_is_guided_as_that_one():
    """Swapped before the first step counts, the picture is the other prompt's."""
    pipe = pipeline("sd")
    chef = pipe.encode_prompt("a chef", "cpu", 1, False)[0]

    def swap(step, tensors):
        return {"prompt_embeds": chef} if step == 1 else {}

    seen = []
    with nag.guide(pipe, NEGATIVE, **STRONG) as progress:
        handle = pipe.unet.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]),
            with_kwargs=True,
        )
        drawn("sd", change=swap)
        handle.remove()
    assert progress.guided_steps == STEPS
    negative = pipe.encode_prompt(NEGATIVE, "cpu", 1, False)[0]
    close(seen[1], torch.cat([pipe.encode_prompt(PROMPT, "cpu", 1, False)[0], negative], 1))
    close(seen[2], torch.cat([chef, negative], 1))


def test_embeddings_that_are_changed_in_place_are_read_anew():
    def in_place(step, tensors):
        tensors["prompt_embeds"].mul_(0.9)
        return {}

    def anew(step, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"] * 0.9}

    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), nag.guide(pipeline("sd"), NEGATIVE, **STRONG):
            out, expected = drawn("sd", 0, in_place), drawn("sd", 0, anew)
        close(out, expected)


def test_a_callback_that_encodes_does_not_begin_the_count_anew():
    def encodes(step, tensors):
        pipeline("sd").encode_prompt(f"a chef, step {step}", "cpu", 1, False)
        return {}

    with nag.guide(pipeline("sd"), NEGATIVE, **STRONG, end=0.5) as progress:
        out = drawn("sd", change=encodes)
        expected = drawn("sd")
    assert torch.equal(out, expected)
    assert (progress.step, progress.guided_steps) == (STEPS, 2 + 2)


def test_a_callback_that_encodes_and_swaps_is_guided_to_the_end():
    pipe = pipeline("wan")

    def encodes(step, tensors):
        words = ["a chef", "a nurse", "a sailor", "a pirate"][step]
        embeds = pipe.encode_prompt(words, do_classifier_free_guidance=False)[0]
        return {"prompt_embeds": torch.nn.functional.pad(embeds, (0, 0, 0, 24))[:, :24]}

    with nag.guide(pipe, NEGATIVE, **STRONG, end=0.5) as progress:
        drawn("wan", change=encodes)
    assert (progress.step, progress.guided_steps) == (STEPS, 2)


def test_cfg_switched_off_in_mid_run_goes_on_guided():
    """The "dynamic CFG" of diffusers' documentation."""

    def off(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 0.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}
        return {}

    with nag.guide(pipeline("sd"), NEGATIVE, **STRONG) as progress:
        draw(
            "sd",
            cfg=0,
            steps=STEPS,
            callback_on_step_end=off,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
    assert progress.guided_steps == progress.step == STEPS


def test_cfgs_own_negative_may_change_too():
    def change(step, tensors):
        return {"negative_prompt_embeds": tensors["negative_prompt_embeds"] * 0.9}

    def call():
        return draw(
            "wan",
            PROMPT,
            0,
            STEPS,
            callback_on_step_end=lambda pipe, step, timestep, tensors: change(step, tensors),
            callback_on_step_end_tensor_inputs=["negative_prompt_embeds"],
        )

    outputs = []
    handle = pipeline("wan").transformer.register_forward_hook(
        lambda module, args, output: outputs.append(output[0].clone())
    )
    with nag.guide(pipeline("wan"), NEGATIVE, **STRONG) as progress:
        call()
    handle.remove()
    assert progress.guided_calls == progress.guided_steps == STEPS  # and not CFG's calls


def test_a_text_of_which_nobody_knows_whose_it_is_raises_in_its_step():
    """Two rows more than before: no place tells which of them are the prompt's."""

    def change(step, tensors):
        embeds = tensors["prompt_embeds"]
        return {"prompt_embeds": torch.cat([embeds * 0.9] * 2), "latents": tensors["latents"]}

    steps = []

    def double(pipe, step, timestep, tensors):
        steps.append(step)
        embeds = torch.cat([tensors["prompt_embeds"] * 0.9] * 2)
        return {"prompt_embeds": embeds, "latents": torch.cat([tensors["latents"]] * 2)}

    with (
        pytest.raises(NAGError, match="NAG guided nothing in step 2"),
        nag.guide(pipeline("sd"), NEGATIVE, **STRONG),
    ):
        draw(
            "sd",
            steps=STEPS,
            callback_on_step_end=double,
            callback_on_step_end_tensor_inputs=["prompt_embeds", "latents"],
        )
    assert steps == [0]


def test_embeddings_that_nobody_recognises_raise_before_the_first_step_is_over():
    pipe, steps = pipeline("sd"), []

    def changed(encode_prompt, *args, **kwargs):
        return tuple(None if x is None else x + 1 for x in encode_prompt(*args, **kwargs))

    with (
        pytest.raises(NAGError, match="NAG guided nothing in step 1"),
        nag.guide(pipe, NEGATIVE),
        wrap_method(pipe, "encode_prompt", changed),
    ):
        draw("sd", callback_on_step_end=lambda *_: steps.append(1) or {})
    assert not steps
