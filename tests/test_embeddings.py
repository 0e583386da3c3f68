"""Embeddings in place of words: with freed text encoders, whether a pipeline encodes or not."""

import inspect

import numpy as np
import pytest
import tiny
import torch
from denoisers import bare
from test_guidance import STRONG, close, differ, guided
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, prepared

import nag
from nag import families
from nag.errors import NAGError
from nag.patch import wrap_method

# what each place of `encode_prompt`'s answer is called in the pipeline's own call
MASKED = ("prompt_embeds", "prompt_attention_mask")
NAMES = {
    "sdxl": ("prompt_embeds", None, "pooled_prompt_embeds"),
    "pixart": MASKED,
    "sd3": ("prompt_embeds", None, "pooled_prompt_embeds"),
    "flux": ("prompt_embeds", "pooled_prompt_embeds"),
    "sana": MASKED,
    "qwen-image": ("prompt_embeds", "prompt_embeds_mask"),
    "ltx": MASKED,
    "hunyuan-video": ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"),
    "chroma": ("prompt_embeds", None, "prompt_attention_mask"),
    "lumina2": MASKED,
}
EVERY = list(PIPELINES)


def encoded(pipe, name, words):
    """What the pipeline's call makes of a prompt, as its `encode_prompt` returns it."""
    seen = []

    def keep(encode_prompt, *args, **kwargs):
        seen.append(encode_prompt(*args, **kwargs))
        return seen[-1]

    with wrap_method(pipe, "encode_prompt", keep):
        draw(name, words, steps=1, pipe=pipe)
    return seen[0] if isinstance(seen[0], tuple) else (seen[0],)


def given(pipe, name, words) -> dict:
    """The same as arguments of the pipeline's call."""
    known = inspect.signature(type(pipe).__call__).parameters
    names = NAMES.get(name, ("prompt_embeds",))
    arguments = {
        argument: value
        for argument, value in zip(names, encoded(pipe, name, words), strict=False)
        if argument and value is not None
    }
    arguments |= {"negative_prompt": None} if "negative_prompt" in known else {}
    return arguments


def negative_of(pipe, name) -> dict:
    """The negative's embeddings by the denoiser's arguments."""
    result = encoded(pipe, name, NEGATIVE)
    texts = families.find(pipe).inputs
    return {p.argument: result[p.encoded] for p in texts if p.encoded is not None}


def free_encoders(pipe, tokenizers: bool = True) -> None:
    """As diffusers' guide to memory does: encode, free, call with embeddings."""
    for part in list(pipe.components):
        if part.startswith("text_encoder") or (tokenizers and part.startswith("tokenizer")):
            setattr(pipe, part, None)


def fresh(name):
    return prepared(PIPELINES[name].build)


@pytest.mark.parametrize("name", EVERY)
def test_embeddings_are_guided_by_words_as_words_are(name):
    pipe = fresh(name)
    arguments = given(pipe, name, PROMPT)
    with nag.guide(pipe, NEGATIVE, **STRONG) as running:
        out = draw(name, None, pipe=pipe, **arguments)
    close(out, guided(name), 1e-4)
    assert running.guided_steps == 2 and differ(out, draw(name))


@pytest.mark.parametrize("tokenizers", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_words_for_freed_encoders_are_refused_before_the_first_step(name, tokenizers):
    pipe = fresh(name)
    arguments, steps = given(pipe, name, PROMPT), []
    free_encoders(pipe, tokenizers)
    families.denoiser_of(pipe).register_forward_hook(lambda *_: steps.append(1))
    sentence = r"text encoder.* (is|are) None.*negative_prompt_embeds"
    with pytest.raises(NAGError, match=sentence), nag.guide(pipe, NEGATIVE, **STRONG):
        draw(name, None, pipe=pipe, **arguments)
    assert not steps


@pytest.mark.parametrize("name", EVERY)
def test_with_freed_encoders_the_negatives_embeddings_guide(name):
    pipe = fresh(name)
    arguments, negative = given(pipe, name, PROMPT), negative_of(pipe, name)
    free_encoders(pipe)
    with nag.guide(pipe, negative_prompt_embeds=negative, **STRONG):
        close(draw(name, None, pipe=pipe, **arguments), guided(name), 1e-4)


def test_an_encoder_that_was_deleted_is_none_too():
    pipe = fresh("sdxl")
    arguments = given(pipe, "sdxl", PROMPT)
    del pipe.text_encoder, pipe.text_encoder_2
    with (
        pytest.raises(NAGError, match="text_encoder, text_encoder_2 are None"),
        nag.guide(pipe, NEGATIVE),
    ):
        draw("sdxl", None, pipe=pipe, **arguments)


def test_one_of_several_encoders_is_freed():
    """SD3's own way to save memory, T5 left out, is another model: words are encoded as it does."""
    pipe = fresh("sd3")
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    with nag.guide(pipe, NEGATIVE, **STRONG):
        out = draw("sd3", pipe=pipe)
    assert differ(out, draw("sd3", pipe=pipe))
    pipe, arguments = fresh("sd3"), given(fresh("sd3"), "sd3", PROMPT)
    pipe.text_encoder_3 = None  # made with T5, which is now gone
    with pytest.raises(NAGError, match="text_encoder_3 is None"), nag.guide(pipe, NEGATIVE):
        draw("sd3", None, pipe=pipe, **arguments)


# --- pipelines that call `encode_prompt` for words only


def ernie():
    import diffusers

    return diffusers.ErnieImagePipeline(
        transformer=bare.__wrapped__("ErnieImageTransformer2DModel").transformer,
        vae=tiny.kl_vae(1, 3, "AutoencoderKLFlux2"),
        text_encoder=tiny.llm("MistralModel", 3),
        tokenizer=tiny.llm_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )


class Processor:
    """Qwen2.5-VL's, for text alone."""

    def __init__(self):
        self.tokenizer = tiny.llm_tokenizer()

    def __call__(self, text, images, videos, **options):
        return self.tokenizer(text, **options)


def kandinsky():
    import diffusers

    return diffusers.Kandinsky5T2VPipeline(
        transformer=bare.__wrapped__("Kandinsky5Transformer3DModel").transformer,
        vae=tiny.hunyuan_vae(),
        text_encoder=tiny.llm("Qwen2_5_VLForConditionalGeneration"),
        tokenizer=Processor(),
        text_encoder_2=tiny.clip(width=8, length=77),
        tokenizer_2=tiny.clip_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )


ERNIE = {"use_pe": False, "height": 32, "width": 32}
KANDINSKY = {"num_frames": 5, "height": 32, "width": 32, "max_sequence_length": 700}


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize(
    ("build", "options", "names"),
    [
        (ernie, ERNIE, ("prompt_embeds",)),
        (ernie, {**ERNIE, "num_images_per_prompt": 2}, ("prompt_embeds",)),
        (
            kandinsky,
            KANDINSKY,
            ("prompt_embeds_qwen", "prompt_embeds_clip", "prompt_cu_seqlens"),
        ),
    ],
)
def test_embeddings_of_pipelines_that_then_encode_nothing(build, options, names, cfg):
    """With CFG they encode its negative prompt alone, which is not the prompt."""
    pipe = prepared(build)

    def call(**more):
        generator = torch.Generator().manual_seed(0)
        options_of_all = {"num_inference_steps": 2, "output_type": "latent", **options}
        more |= {"generator": generator, "guidance_scale": cfg, "return_dict": False}
        return pipe(**options_of_all, **more)[0]

    length = {name: options[name] for name in ("max_sequence_length",) if name in options}
    result = pipe.encode_prompt([PROMPT], device=torch.device("cpu"), **length)
    result = result if isinstance(result, tuple) else (result,)
    given = dict(zip(names, result, strict=True))
    close(call(**given), call(prompt=PROMPT), 1e-5)
    with nag.guide(pipe, NEGATIVE, **STRONG) as running:
        words = call(prompt=PROMPT)
    with nag.guide(pipe, NEGATIVE, **STRONG) as again:
        close(call(**given), words, 1e-4)
    assert differ(words, call(prompt=PROMPT)) and again.guided_calls == running.guided_calls == 2


# --- forms of embeddings


@pytest.mark.parametrize("name", ["sd", "z-image", "flux"])
@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda e: (e,), "got: tuple"),
        (lambda e: (e, None), "got: tuple"),
        (lambda e: np.asarray(e), "got: ndarray"),
        (lambda e: e.tolist(), "got: list of list"),
        (lambda e: [np.asarray(e[0])], "got: list of ndarray"),
        (lambda e: [], "got: list of nothing"),
        (lambda e: 7, "got: int"),
        (lambda e: e[0, 0], r"torch.float32 \(16,\)"),
        (lambda e: [e[0, 0]], r"torch.float32 \(16,\)"),
        (lambda e: e.long(), "torch.int64"),
        (lambda e: e[:, :0], r"\(1, 0, 16\)"),
        (lambda e: e[:0], r"\(0, 4, 16\)"),
        (lambda e: {}, "dictionary"),
        (lambda e: {"colour": e}, "dictionary"),
        (lambda e: {"encoder_hidden_states": e, "cap_feats": e}, "no argument of this model"),
    ],
)
def test_embeddings_in_another_form_are_refused_in_a_sentence(name, form, what):
    pipe = fresh(name)
    text = torch.randn(1, 4, families.denoiser_of(pipe).config.get("cap_feat_dim", 16))
    with (
        pytest.raises(NAGError, match=what),
        nag.guide(pipe, negative_prompt_embeds=form(text)),
    ):
        draw(name, pipe=pipe)


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1]], np.ones((1, 4)), torch.ones(4), (1, 1)])
def test_a_mask_in_another_form_is_refused_in_a_sentence(mask):
    pipe, text = fresh("pixart"), torch.randn(1, 4, 16)
    with (
        pytest.raises(NAGError, match="negative_prompt_attention_mask"),
        nag.guide(pipe, negative_prompt_embeds=text, negative_prompt_attention_mask=mask),
    ):
        draw("pixart", pipe=pipe)
