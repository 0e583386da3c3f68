"""From words to the denoiser: what every pipeline's own `encode_prompt` makes of a negative prompt,
and what becomes of it on the way.

The invariants are in `test_invariants.py`, over the same pipelines; here it is words that vary.
"""

import copy

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from diffusers.pipelines.wan import pipeline_wan_i2v
from oracle import text_seen
from test_guidance import EITHER, FAMILIES, STRONG, STYLES, close, differ, guided, seeds, state
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline, prepared, qwen_image_edit, wan_i2v

import nag
from nag import families
from nag.guidance import call

LONG = (
    "a portrait of a nurse with a hat, a long beard, sad, blurry " * 12
)  # longer than any of the encoders takes
VIDEO = [name for name, tiny in PIPELINES.items() if {"num_frames", "video_length"} & {*tiny.plain}]


def pictures(name: str) -> str:
    return (
        "num_videos_per_prompt"
        if "num_frames" in PIPELINES[name].plain
        else "num_images_per_prompt"
    )


def texts(name: str, prompt, **options) -> dict:
    """What a pipeline delivers to its denoiser for a prompt, by argument."""
    seen = []
    with text_seen(pipeline(name), seen):
        draw(name, prompt, steps=1, **options)
    return seen[0]


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b.to(a))
    return a is b is None or (len(a) == len(b) and all(map(equal, a, b)))


@pytest.mark.parametrize("negative", [NEGATIVE, "", LONG], ids=["short", "empty", "long"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_negative_is_encoded_as_a_prompt_would_be(name, negative, monkeypatch):
    encoded, plan = [], call.plan_call
    monkeypatch.setattr(
        call, "plan_call", lambda texts, *rest: encoded.append(texts) or plan(texts, *rest)
    )
    with nag.guide(pipeline(name), negative, **STRONG) as guidance:
        out = draw(name)
    assert guidance.guided_calls == guidance.step == 2 and differ(out, draw(name))
    sides = encoded[0].positive, encoded[0].negative
    for side, words in zip(sides, (PROMPT, negative), strict=True):
        delivered = texts(name, words)
        for p in families.find(pipeline(name)).inputs:
            if p.encoded is not None and p.kind == "mask" and delivered[p.argument] is not None:
                count = side[p.argument].shape[1]  # image tokens may follow
                assert equal(delivered[p.argument][:, :count], side[p.argument])
            elif p.encoded is not None:
                assert equal(delivered[p.argument], side[p.argument]), p.argument


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [("a", LONG), (LONG, "a"), ("", NEGATIVE), (LONG, LONG + "!"), (LONG, "")],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_texts_of_any_length_go_together(name, prompt, negative):
    with nag.guide(pipeline(name), negative, **STRONG) as guidance:
        out = draw(name, prompt)
    assert guidance.guided_calls == guidance.step == 2 and out.isfinite().all()
    if (prompt, negative) == (LONG, LONG + "!"):  # what is cut off cannot matter
        seen = [
            texts(name, words)[families.find(pipeline(name)).inputs[0].argument]
            for words in (prompt, negative)
        ]
        if equal(*seen):
            close(out, draw(name, prompt))
    else:
        assert differ(out, draw(name, prompt))


@pytest.mark.parametrize(("name", "cfg"), STYLES)
def test_an_empty_prompt_with_cfg_is_guided(name, cfg):
    """The pipeline's own negative prompt is then the prompt, where it is empty too."""
    with nag.guide(pipeline(name), NEGATIVE, **STRONG) as guidance:
        out = draw(name, "", cfg, **({} if "flux2" in name else {"negative_prompt": ""}))
    assert guidance.guided_steps == 2
    assert differ(out, draw(name, "", cfg, **({} if "flux2" in name else {"negative_prompt": ""})))


@pytest.mark.parametrize(("name", "cfg"), EITHER)
def test_several_pictures_of_several_prompts_equal_single_runs(name, cfg):
    """Prompts of equal length: some pipelines order the masks of several pictures of several
    prompts otherwise than their texts."""
    prompts, negatives = ["a pirate", "a sailor"], ["glasses", "a long beard"]
    with nag.guide(pipeline(name), negatives, **STRONG):
        batch = draw(name, prompts, cfg, generator=seeds(4), **{pictures(name): 2})
    assert negatives == ["glasses", "a long beard"]
    for i, row in enumerate(batch):
        close(row[None], guided(name, negatives[i // 2], cfg, prompts[i // 2], seed=i), 1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_negative_serves_every_picture(name):
    with nag.guide(pipeline(name), NEGATIVE, **STRONG):
        batch = draw(name, ["a pirate", "a sailor"], generator=seeds(4), **{pictures(name): 2})
    for i, row in enumerate(batch):
        close(row[None], guided(name, prompt=("a pirate", "a sailor")[i // 2], seed=i), 1e-4)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_several_pictures_of_one_prompt_are_all_guided(name, count):
    with nag.guide(pipeline(name), NEGATIVE, **STRONG):
        touched = draw(name, generator=seeds(count), **{pictures(name): count})
    for i, row in enumerate(touched):
        close(row[None], guided(name, seed=i), 1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_call_in_the_same_context_hears_its_own_words(name):
    with nag.guide(pipeline(name), NEGATIVE, **STRONG) as guidance:
        first, second = draw(name), draw(name, "a chef", 0 if PIPELINES[name].cfg else None)
    assert guidance.guided_calls == 4
    assert torch.equal(first, guided(name))
    assert torch.equal(
        second, guided(name, prompt="a chef", cfg=0 if PIPELINES[name].cfg else None)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_after_one_that_failed_hears_its_own_words(name):
    pipe = pipeline(name)
    draw(name)  # a pipeline that was never called lacks what a call leaves on it
    before = state(pipe)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        handle = (
            families.find(pipe)
            .layers(families.denoiser_of(pipe))
            .popitem()[1][1]
            .register_forward_hook(lambda *_: 1 / 0)
        )
        with pytest.raises(ZeroDivisionError):
            draw(name, "a chef")
        handle.remove()
        out = draw(name)
    assert torch.equal(out, guided(name)) and state(pipe) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_it_decodes_to_guided_pixels(name):
    """0 to 1, (rows, height, width, 3), or with frames behind the rows."""
    plain, touched = draw(name, output_type="np"), None
    with nag.guide(pipeline(name), NEGATIVE, **STRONG):
        touched, pil = draw(name, output_type="np"), draw(name, output_type="pil")
    assert touched.shape == ((1, 5, 32, 32, 3) if name in VIDEO else (1, 32, 32, 3))
    assert np.isfinite(touched).all() and abs(touched - plain).max() > 1e-4
    assert (pil[0][4] if name in VIDEO else pil[0]).size == (32, 32)


def test_wan_with_two_transformers_guides_in_both(monkeypatch):
    pipe, reached = pipeline("wan2.2"), []
    handles = [
        m.register_forward_hook(lambda m, a, o: reached.append((m, o[0].clone())))
        for m in (pipe.transformer, pipe.transformer_2)
    ]
    plain = draw("wan2.2")
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
        draw("wan2.2")
    assert guidance.guided_calls == 2
    with nag.guide(pipe, NEGATIVE, end=0.5, **STRONG) as guidance:
        half = draw("wan2.2")
    for handle in handles:
        handle.remove()
    assert guidance.guided_calls == 1 and differ(half, plain)
    assert [m for m, _ in reached] == [pipe.transformer, pipe.transformer_2] * 3
    assert differ(reached[2][1], reached[0][1]) and differ(reached[3][1], reached[5][1])


@pytest.mark.parametrize("name", ["sana", "wan", "hunyuan-video"])
def test_a_denoiser_in_half_precision_recognises_its_text(name, monkeypatch):
    """These pipelines cast what `encode_prompt` returns to the denoiser's type."""
    pipe = pipeline(name)
    monkeypatch.setattr(pipe, "transformer", copy.deepcopy(pipe.transformer).bfloat16())
    with nag.guide(pipe, NEGATIVE, **STRONG) as guidance:
        out = draw(name)
    assert guidance.guided_calls == 2 and differ(out, draw(name))


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (
            wan_i2v,
            {"num_frames": 5, "guidance_scale": 1.0},
        ),  # with 512 tokens, which the model counts on
        (wan_i2v, {"num_frames": 5, "guidance_scale": 4.0, "negative_prompt": "blurry"}),
        (qwen_image_edit, {"true_cfg_scale": 1.0}),
        (qwen_image_edit, {"true_cfg_scale": 4.0, "negative_prompt": "blurry"}),
    ],
)
def test_a_picture_beside_the_prompt(build, options, monkeypatch):
    """Wan's is encoded apart from the text, Qwen-Image's together with the prompt, and with the
    negative too."""
    monkeypatch.setattr(
        pipeline_wan_i2v, "prompt_clean", str.strip
    )  # asks for a package that is not needed here
    monkeypatch.setattr(
        pipeline_qwenimage_edit, "calculate_dimensions", lambda *_: (32, 32, None)
    )  # a megapixel otherwise
    pipe = prepared(build)

    def edited(prompt=PROMPT):
        return pipe(
            image=PIL.Image.new("RGB", (32, 32), "red"),
            prompt=prompt,
            height=32,
            width=32,
            num_inference_steps=2,
            output_type="latent",
            return_dict=False,
            generator=torch.Generator().manual_seed(0),
            **options,
        )[0]

    plain = edited()
    for negative in (NEGATIVE, "", LONG):
        with nag.guide(pipe, negative, **STRONG) as guidance:
            out = edited()
        assert guidance.guided_calls == 2 and differ(out, plain)
    with nag.guide(pipe, PROMPT, **STRONG):
        close(edited(), plain)
    assert torch.equal(edited(), plain)


def test_a_prompt_given_as_embeddings_takes_a_negative_in_words():
    pipe = pipeline("sd")
    embeds = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
    with nag.guide(pipe, NEGATIVE, **STRONG):
        out = pipe(
            prompt_embeds=embeds,
            guidance_scale=0.0,
            num_inference_steps=2,
            height=32,
            width=32,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images
    assert torch.equal(out, guided("sd"))


def test_an_encode_prompt_without_a_prompt_raises(monkeypatch):
    pipe = pipeline("sd")
    monkeypatch.setattr(
        pipe,
        "encode_prompt",
        lambda text, *args, **kwargs: type(pipe).encode_prompt(pipe, text, *args, **kwargs),
    )
    with (
        pytest.raises(ValueError, match="which argument of this encode_prompt is the prompt: text"),
        nag.guide(pipe, NEGATIVE),
    ):
        pipe.encode_prompt(PROMPT, "cpu", 1, False)
