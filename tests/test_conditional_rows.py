"""Which rows are the prompt's and which CFG's does not depend on the words: unmodified pipelines
that put them in every order, and a CFG negative that is the prompt itself."""

import PIL.Image
import pytest
import torch
from test_guidance import STRONG, differ
from tiny import (
    NEGATIVE,
    PIPELINES,
    PROMPT,
    clip,
    clip_tokenizer,
    draw,
    kl_vae,
    llm,
    llm_tokenizer,
    pipeline,
    prepared,
    sd,
    sdxl,
    unet,
)

import nag
from nag import families
from nag.errors import NAGError
from nag.guidance.recognition import PromptRows
from nag.guidance.texts import Texts


def red():
    return PIL.Image.new("RGB", (32, 32), "red")


def pix2pix():
    """Rows [prompt, picture alone, nothing], put together by `_encode_prompt`."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    parts = sd().components | {"unet": unet(in_channels=8)}
    return StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def sdxl_pix2pix():
    """The same, put together by the pipeline's call."""
    from diffusers import StableDiffusionXLInstructPix2PixPipeline

    pipe = sdxl()
    parts = {
        name: part
        for name, part in pipe.components.items()
        if name not in ("image_encoder", "feature_extractor")
    }
    size = dict(pipe.unet.config) | {"in_channels": 8}
    parts["unet"] = unet(**{k: v for k, v in size.items() if not k.startswith("_")})
    return StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)


def safe():
    """Rows [nothing, prompt, what is not to be shown]."""
    from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

    return StableDiffusionPipelineSafe(**sd().components, requires_safety_checker=False)


def lumina_next():
    """Rows [prompt, nothing]."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LuminaNextDiT2DModel,
        LuminaPipeline,
    )

    return LuminaPipeline(
        transformer=LuminaNextDiT2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=16,
            num_layers=2,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            cross_attention_dim=16,
        ).eval(),
        vae=kl_vae(),
        text_encoder=llm("Gemma2Model"),
        tokenizer=llm_tokenizer(bos=True),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def stable_cascade():
    """Rows [prompt, nothing]."""
    from denoisers import CASES
    from diffusers import DDPMWuerstchenScheduler, StableCascadePriorPipeline

    return StableCascadePriorPipeline(
        prior=CASES["StableCascadeUNet"].build().eval(),
        text_encoder=clip(projection=True),
        tokenizer=clip_tokenizer(),
        scheduler=DDPMWuerstchenScheduler(),
        resolution_multiple=8.0,
    )


EDIT = {"image_guidance_scale": 1.5, "guidance_scale": 4.0}
UNUSUAL = {  # pipeline -> (how to build it, arguments, the rows that are the prompt's)
    "pix2pix": (pix2pix, EDIT | {"image": red}, [True, False, False]),
    "sdxl-pix2pix": (sdxl_pix2pix, EDIT | {"image": red}, [True, False, False]),
    "safe": (safe, {"guidance_scale": 4.0}, [False, True, False]),
    "lumina-next": (
        lumina_next,
        {"guidance_scale": 4.0, "clean_caption": False, "max_sequence_length": 24},
        [True, False],
    ),
    "stable-cascade": (stable_cascade, {"guidance_scale": 4.0}, [True, False]),
}


def unusual(name: str):
    """(pipe, draw)"""
    build, arguments, _ = UNUSUAL[name]
    pipe = prepared(build)

    def call(prompt=PROMPT, negative="blurry", steps=1, **options):
        given = {key: value() if callable(value) else value for key, value in arguments.items()}
        sized = {"height": 32, "width": 32} if "pix2pix" not in name else {}
        output = "pt" if name == "safe" else "latent"
        return pipe(
            prompt=prompt,
            negative_prompt=negative,
            num_inference_steps=steps,
            output_type=output,
            return_dict=False,
            generator=torch.Generator().manual_seed(0),
            **given | sized | options,
        )[0]

    return pipe, call


def usual(name: str, cfg: int):
    """The same of `tests/tiny.py`'s pipelines."""

    def call(prompt=PROMPT, negative="blurry", steps=1, **options):
        return draw(name, prompt, cfg, steps, **{"negative_prompt": negative} | options)

    return pipeline(name), call


def guided_rows(pipe, call, **options) -> list[bool]:
    """Of every row that the denoiser sees in one step, in its order: whether NAG changes it."""
    outputs = []
    handles = [
        denoiser.register_forward_hook(
            lambda module, args, output: outputs.extend(row.clone() for row in output[0])
        )
        for denoiser in families.denoisers_of(pipe)
    ]
    try:
        call(**options)
        count = len(outputs)
        with nag.guide(pipe, NEGATIVE, **STRONG):
            call(**options)
    finally:
        for handle in handles:
            handle.remove()
    assert len(outputs) == 2 * count
    return [differ(a, b) for a, b in zip(outputs[count:], outputs[:count], strict=True)]


@pytest.mark.parametrize("name", UNUSUAL)
def test_cfgs_rows_are_never_guided(name):
    assert guided_rows(*unusual(name)) == UNUSUAL[name][2]


@pytest.mark.parametrize("words", ["", PROMPT], ids=["empty", "words"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_the_same_rows_are_guided_where_cfgs_negative_is_the_prompt(name, words):
    pipe, call = unusual(name)
    if name == "sdxl-pix2pix":  # three rows with one text, in no order that others have
        with pytest.raises(NAGError, match="give CFG another negative prompt"):
            guided_rows(pipe, call, prompt=words, negative=words)
    else:
        assert guided_rows(pipe, call, prompt=words, negative=words) == UNUSUAL[name][2]


STYLES = [
    (name, cfg)
    for name, tiny in PIPELINES.items()
    for cfg in range(len(tiny.cfg))
    if name != "flux2-klein"  # takes no negative prompt
]


@pytest.mark.parametrize("words", ["", PROMPT], ids=["empty", "words"])
@pytest.mark.parametrize(("name", "cfg"), STYLES)
def test_a_usual_pipeline_whose_cfg_negative_is_the_prompt(name, cfg, words):
    pipe, call = usual(name, cfg)
    rows = guided_rows(pipe, call, prompt=words, negative="blurry, with a hat")
    assert any(rows)
    assert guided_rows(pipe, call, prompt=words, negative=words) == rows
    several = {"prompt": [words] * 2, "negative": [words] * 2}
    other = {"prompt": [words] * 2, "negative": ["blurry, with a hat"] * 2}
    assert guided_rows(pipe, call, **several) == guided_rows(pipe, call, **other)


def test_flux2_klein_has_an_empty_negative_of_its_own():
    pipe = pipeline("flux2-klein")

    def call(prompt):
        return draw("flux2-klein", prompt, 0, 1)

    assert guided_rows(pipe, call, prompt="") == guided_rows(pipe, call, prompt=PROMPT)
    assert guided_rows(pipe, call, prompt="") == [True, False]


def test_equal_prompts_with_different_negatives_are_refused_where_their_order_is_not_known():
    """AABB, as pipelines repeat texts for several pictures of each, and ABAB look alike."""
    family = families.find(pipeline("sd"))
    name = family.inputs[0].argument
    prompt, other = torch.randn(1, 4, 8), torch.randn(1, 4, 8)

    def found(prompts, negatives, text):
        texts = Texts({name: torch.cat(prompts)}, {name: torch.cat(negatives)}, cfg=False)
        return PromptRows(family).find(texts, text, 0).rows

    four = prompt.repeat(4, 1, 1)
    one, two = torch.randn(2, 1, 4, 8)
    with pytest.raises(NAGError, match="cannot tell which is whose"):
        found([prompt, prompt], [one, two], four)
    assert found([prompt, prompt], [one, one], four) == [0, 1, 0, 1]
    mixed = torch.cat([prompt, prompt, other, other])
    assert found([prompt, other], [one, two], mixed) == [0, 0, 1, 1]
