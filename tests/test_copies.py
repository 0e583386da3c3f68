"""Copies made while `nag.guide` is open: refused with a sentence where they would be broken for
good, and clean where they can be."""

import copy
import io
import pickle

import pytest
import torch
from test_guidance import STRONG, differ, guided, state
from tiny import NEGATIVE, draw, pipeline

import nag
from nag import families
from nag.errors import NAGError

SENTENCE = r"is guided, and a copy of it would be broken.*nag\.guide"
COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "torch.save": lambda value: torch.save(value, io.BytesIO()),
}
PARTS = {
    "pipeline": lambda pipe: pipe,
    "denoiser": families.denoiser_of,
    "processors": lambda pipe: list(processors(pipe)),
    "a processor": lambda pipe: processors(pipe)[-1],
}
NAMES = ["sd", "flux", "wan"]


def processors(pipe) -> list:
    denoiser = families.denoiser_of(pipe)
    return [module.processor for _, module in families.find(pipe).layers(denoiser).values()]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_what_is_guided_is_refused(name, how, part):
    if how == "copy" and part == "processors":
        pytest.skip("a list of the same objects")
    pipe, expected = pipeline(name), guided(name)
    before = state(pipe)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        with pytest.raises(NAGError, match=SENTENCE):
            COPIES[how](PARTS[part](pipe))
        assert torch.equal(draw(name), expected)  # the refusal leaves no trace
    assert state(pipe) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_made_of_what_is_guided_is_refused(name):
    """diffusers' own sentence would say that parts are missing."""
    pipe, expected = pipeline(name), guided(name)
    before, names = state(pipe), set(pipe.components)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        with pytest.raises(NAGError, match=r"from_pipe .* before you enter nag\.guide"):
            type(pipe).from_pipe(pipe)
        assert set(pipe.components) == names and torch.equal(draw(name), expected)
    assert state(pipe) == before
    type(pipe).from_pipe(pipe)


@pytest.mark.parametrize("name", NAMES)
def test_outside_everything_is_copied_as_always(name):
    guided(name)
    denoiser = families.denoiser_of(pipeline(name))
    weights = denoiser.state_dict()
    for other in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert type(other) is type(denoiser) and other.state_dict().keys() == weights.keys()
        assert all(torch.equal(one, weights[name]) for name, one in other.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_weights_may_be_saved_inside(name, tmp_path):
    pipe = pipeline(name)
    denoiser = families.denoiser_of(pipe)
    weights = {key: value.clone() for key, value in denoiser.state_dict().items()}
    with nag.guide(pipe, NEGATIVE, **STRONG):
        torch.save(denoiser.state_dict(), tmp_path / "weights.pt")
        denoiser.save_pretrained(tmp_path / "denoiser")
    saved = torch.load(tmp_path / "weights.pt")
    again = type(denoiser).from_pretrained(tmp_path / "denoiser")
    for key, value in weights.items():
        assert torch.equal(saved[key], value) and torch.equal(again.state_dict()[key], value)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_scheduler_copied_inside_is_one_of_its_own(how):
    pipe = pipeline("flux")
    with nag.guide(pipe, NEGATIVE, **STRONG):
        other = how(pipe.scheduler)
    steps = other.set_timesteps(4), len(other.timesteps)
    assert steps[1] == 4 and getattr(other.step, "original", other.step).__self__ is other
    latents = torch.randn(1, 16, 16)
    assert other.step(latents, other.timesteps[0], latents).prev_sample.shape == latents.shape
    assert other.step_index == 1 and differ(guided("flux"), draw("flux"))


def test_processors_taken_inside_and_set_outside_are_the_models_own():
    """`attn_processors`, kept to be put back later, is diffusers' own pattern."""
    pipe, expected, plain = pipeline("sd"), guided("sd"), draw("sd")
    original = dict(pipe.unet.attn_processors)
    with nag.guide(pipe, NEGATIVE, **STRONG):
        taken = dict(pipe.unet.attn_processors)
    try:
        pipe.unet.set_attn_processor(dict(taken))
        assert torch.equal(draw("sd"), plain)
        assert torch.equal(guided("sd"), expected)
    finally:
        pipe.unet.set_attn_processor(original)
    assert torch.equal(draw("sd"), plain)
