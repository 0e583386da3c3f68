"""What NAG cannot guide is refused before a step, by `supports` too, with advice that works."""

import inspect
import re
import types

import diffusers
import pytest
import tiny
import torch
from test_guidance import STRONG, differ
from tiny import NEGATIVE, PROMPT, prepared

import nag
from nag import families
from nag.errors import NAGError

SD = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
DRAWING = {"num_inference_steps": 2, "output_type": "latent", "height": 32, "width": 32}


def parts_for(cls, build) -> dict:
    """Of a tiny pipeline, the parts that a class takes."""
    taken = inspect.signature(cls.__init__).parameters
    return {name: part for name, part in build().components.items() if name in taken}


def of_sd(cls):
    options = {name: value for name, value in SD.items() if "requires" not in name}
    return cls(**{**parts_for(cls, tiny.sd), **options})


def of_sdxl(cls):
    return cls(**parts_for(cls, tiny.sdxl))


def of_sd3(cls):
    return cls(**parts_for(cls, tiny.sd3), pag_applied_layers=["blocks.1"])


REPLACING = {
    "StableDiffusion3PAGPipeline": (of_sd3, "StableDiffusion3Pipeline"),
    "StableDiffusion3PAGImg2ImgPipeline": (of_sd3, "StableDiffusion3Img2ImgPipeline"),
    "StableDiffusionAttendAndExcitePipeline": (of_sd, "StableDiffusionPipeline"),
    "TextToVideoZeroPipeline": (of_sd, "StableDiffusionPipeline"),
    "TextToVideoZeroSDXLPipeline": (of_sdxl, "StableDiffusionXLPipeline"),
}


def built(name):
    build, other = REPLACING[name]
    return prepared(lambda: build(getattr(diffusers, name))), other


@pytest.mark.parametrize("name", REPLACING)
def test_a_pipeline_that_replaces_the_processors_is_refused_with_advice_that_works(name):
    pipe, other = built(name)
    yes, why = nag.supports(pipe)
    assert not yes and name in why and f"{other}.from_pipe(pipe)" in why
    with pytest.raises(NAGError, match="from_pipe"), nag.guide(pipe, NEGATIVE):
        pass
    instead = getattr(diffusers, other).from_pipe(pipe)
    instead.set_progress_bar_config(disable=True)
    yes, how = nag.supports(instead)
    assert yes, how
    more = dict(DRAWING)
    if "Img2Img" in other:
        more = {
            "num_inference_steps": 4,
            "output_type": "latent",
            "image": torch.rand(1, 3, 32, 32),
        }

    def draw():
        return instead(PROMPT, generator=torch.Generator().manual_seed(0), **more).images

    plain = draw()
    with nag.guide(instead, NEGATIVE, **STRONG):
        assert differ(draw(), plain)


def test_every_pipeline_that_replaces_processors_of_text_is_in_the_table():
    """Found in the code of their calls; those that replace a self-attention's alone are not."""
    from nag.families.refused import PIPELINES

    replaces = re.compile(r"self\.unet\.set_attn_processor\((?!original)")
    found = set()
    for name in dir(diffusers):
        cls = getattr(diffusers, name)
        if not (inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline)):
            continue
        source = inspect.getsource(inspect.getmodule(cls))
        body = source[source.index(f"class {cls.__name__}") :]
        if replaces.search(body.split("\nclass ")[0]) and cls is not diffusers.DiffusionPipeline:
            found.add(cls.__name__)
        if "PAG" in name and "3" in name:
            found.add(cls.__name__)
    assert found and found <= set(PIPELINES), found - set(PIPELINES)
    assert all(hasattr(diffusers, name) for name in PIPELINES)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("StableDiffusionPAGPipeline", of_sd),
        ("StableDiffusionXLPAGPipeline", of_sdxl),
    ],
)
def test_perturbed_self_attention_is_no_obstacle(name, build):
    pipe = prepared(lambda: build(getattr(diffusers, name)))
    before = dict(pipe.unet.attn_processors)

    def draw(scale):
        generator = torch.Generator().manual_seed(0)
        return pipe(PROMPT, generator=generator, pag_scale=scale, **DRAWING).images

    plain, without = draw(3.0), draw(0.0)
    with nag.guide(pipe, NEGATIVE, **STRONG) as running:
        out = draw(3.0)
    assert running.guided_steps == 2 and differ(plain, without) and differ(out, plain)
    after = pipe.unet.attn_processors
    assert all(after[key] is before[key] for key in before) and torch.equal(draw(3.0), plain)


@pytest.mark.parametrize(
    "name",
    [
        "LEditsPPPipelineStableDiffusion",
        "LEditsPPPipelineStableDiffusionXL",
        "VisualClozeGenerationPipeline",
    ],
)
def test_an_encoder_without_a_prompt_is_not_supported(name):
    """`encode_prompt` of these takes no argument that could be the prompt."""
    pipe = object.__new__(getattr(diffusers, name))
    flux = "Cloze" in name
    denoiser = (tiny.flux() if flux else tiny.sd()).components["transformer" if flux else "unet"]
    vars(pipe)["transformer" if flux else "unet"] = denoiser
    yes, why = nag.supports(pipe)
    assert not yes and name in why


@pytest.mark.parametrize("inside", [False, True])
def test_free_noise_is_refused_before_the_video_is_drawn(inside):
    pipe, steps = prepared(tiny.animatediff), []
    length = types.SimpleNamespace(motion_max_seq_length=32)
    pipe.motion_adapter = types.SimpleNamespace(config=length)
    pipe.unet.register_forward_hook(lambda *_: steps.append(1))
    drawing = {**DRAWING, "num_frames": 5, "guidance_scale": 1.0}

    def free():
        pipe.enable_free_noise(context_length=4, context_stride=2)

    if not inside:
        free()
        yes, why = nag.supports(pipe)
        assert not yes and "pipe.disable_free_noise()" in why
    with pytest.raises(NAGError, match=r"pipe\.disable_free_noise\(\)"), nag.guide(pipe, NEGATIVE):
        free()
        pipe(PROMPT, **drawing)
    assert not steps
    pipe.disable_free_noise()
    plain = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **drawing).frames
    with nag.guide(pipe, NEGATIVE, **STRONG):
        out = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **drawing).frames
    assert differ(out, plain)


# --- advice


class Silent:
    """A processor that attends by itself, and nothing."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        both = hidden_states, encoder_hidden_states
        return both if type(attn).__name__ == "FluxAttention" else hidden_states


@pytest.mark.parametrize(
    ("name", "part"), [("sd", "unet"), ("flux", "transformer"), ("wan", "transformer")]
)
def test_advice_names_the_denoiser_that_the_pipeline_has(name, part):
    from diffusers.models.attention_processor import AttnProcessor

    pipe = prepared(tiny.PIPELINES[name].build)
    layer = next(iter(families.find(pipe).layers(families.denoiser_of(pipe)).values()))[1]
    original = layer.processor
    layer.processor = AttnProcessor() if name == "sd" else Silent()
    with pytest.raises(NAGError) as caught, nag.guide(pipe, NEGATIVE):
        tiny.draw(name, pipe=pipe)
    said = str(caught.value)
    assert f"pipe.{part}" in said and (part == "unet" or "pipe.unet" not in said)
    assert type(original).__name__ in said or "AttnProcessor2_0" in said
    assert type(layer.processor).__name__ in said
