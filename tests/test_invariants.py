"""What must hold whatever is guided: every tiny pipeline with its own text encoders, and a bare
pipeline around every denoiser class, in every style of CFG."""

import re
from types import SimpleNamespace

import pytest
import torch
from denoisers import CASES, LENGTH, bare
from oracle import doubled, text_seen
from test_guidance import STRONG, close, differ, seeds, state
from tiny import ALIKE, NEGATIVE, PIPELINES, PROMPT, draw, pipeline

import nag
from nag import families
from nag.guidance.steps import StepCounter

NAMES = [*PIPELINES, *CASES]
STYLES = [
    *((name, cfg) for name, tiny in PIPELINES.items() for cfg in range(len(tiny.cfg))),
    *((name, cfg) for name in CASES for cfg in ("before", "behind", "apart")),
]
EITHER = [*((name, None) for name in NAMES), *STYLES]


def pipe_of(name: str):
    return bare(name) if name in CASES else pipeline(name)


def drawn(name: str, prompt=PROMPT, cfg=None, **options):
    """Latents of one call."""
    if name in CASES:
        return bare(name)(prompt, cfg, **options)
    return draw(name, prompt, cfg, **options)


def guided(name: str, negative=NEGATIVE, prompt=PROMPT, cfg=None, settings=STRONG, **options):
    with nag.guide(pipe_of(name), negative, **settings):
        return drawn(name, prompt, cfg, **options)


# off, the bare pipelines' styles of CFG differ in nothing
OFF = [(name, cfg) for name, cfg in EITHER if name in PIPELINES or cfg is None]


@pytest.mark.parametrize(("name", "cfg"), OFF)
def test_off_means_off(name, cfg):
    plain = drawn(name, cfg=cfg)
    for off in ({"scale": 1.0}, {"alpha": 0.0}, {"end": 0.0}):
        assert torch.equal(guided(name, cfg=cfg, settings=STRONG | off), plain), off


@pytest.mark.parametrize(
    ("name", "cfg"), [(name, cfg) for name, cfg in EITHER if cfg in (None, 0, "apart")]
)
def test_negative_equal_to_positive_changes_nothing(name, cfg):
    close(guided(name, PROMPT, cfg=cfg), drawn(name, cfg=cfg))


@pytest.mark.parametrize(("name", "cfg"), EITHER)
def test_it_changes_the_picture_in_every_step(name, cfg):
    """And raises where it does not reach every layer."""
    with nag.guide(pipe_of(name), NEGATIVE, **STRONG) as progress:
        out = drawn(name, cfg=cfg)
    style = PIPELINES[name].cfg[cfg] if name in PIPELINES and cfg is not None else {}
    calls = 2 if "skip_guidance_layers" in style else 1  # of the same text in one step
    assert progress.guided_steps == progress.step == 2
    assert progress.guided_calls == 2 * calls
    assert out.isfinite().all() and differ(out, drawn(name, cfg=cfg))


def delivered(name: str, prompt: str) -> dict:
    """The text inputs that a prompt becomes, by the denoiser's arguments."""
    if name in CASES:
        return bare(name).texts(prompt)
    seen = []
    with text_seen(pipeline(name), seen):
        draw(name, prompt, steps=1)
    return seen[0]


@pytest.mark.parametrize(("name", "cfg"), EITHER)
def test_packed_equals_doubled(name, cfg, monkeypatch):
    texts = delivered(name, PROMPT), delivered(name, ALIKE)
    with doubled(pipe_of(name), *texts, monkeypatch, s=8.0, tau=3.0, alpha=0.7):
        expected = drawn(name, cfg=cfg)
    assert differ(expected, drawn(name, cfg=cfg))
    close(guided(name, ALIKE, cfg=cfg), expected, 1e-4)


def raising(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_restored(name, monkeypatch):
    """Behind a picture, and behind one that ended in a layer or at a step."""
    pipe = pipe_of(name)
    plain = drawn(name)  # a pipeline's first call sets attributes of its own
    before, family = state(pipe), families.find(pipe)
    guided(name)
    assert state(pipe) == before and torch.equal(drawn(name), plain)
    layers = family.layers(families.denoiser_of(pipe)).items()
    last = [layer for path, (_, layer) in layers if not re.fullmatch(family.silent, path)][-1]
    handle = last.register_forward_hook(raising)
    with pytest.raises(KeyboardInterrupt):
        guided(name)
    handle.remove()
    assert state(pipe) == before and torch.equal(drawn(name), plain)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(pipe.scheduler), "step", raising)
        guided(name)
    assert state(pipe) == before and torch.equal(drawn(name), plain)


@pytest.mark.parametrize("name", NAMES)
def test_end_counts_steps(name):
    with nag.guide(pipe_of(name), NEGATIVE, **STRONG, end=0.5) as progress:
        half = drawn(name, steps=4)
    assert progress.guided_calls == progress.guided_steps == 2 and progress.step >= 4
    assert differ(half, drawn(name, steps=4)) and not torch.equal(half, guided(name, steps=4))


@pytest.mark.parametrize("steps", [4, 20, 25, 28, 50, 1000])
def test_a_share_that_is_a_whole_number_of_steps_guides_so_many(steps):
    """.28 of 25 steps are 7, though .28 * 25 is 7.000000000000001 in binary."""
    pipe = SimpleNamespace(num_timesteps=steps)
    for percent in (p for p in range(1, 100) if not p * steps % 100):
        progress = SimpleNamespace(settings=SimpleNamespace(end=percent / 100), step=0)
        counter, guided = StepCounter(progress, AssertionError), 0
        while counter.active(pipe):
            progress.step, guided = progress.step + 1, guided + 1
        assert guided == percent * steps // 100


def rows_of_the_first_step(name: str, cfg):
    """[(whether it is conditional, the denoiser's output, the same guided)]"""
    if name in CASES:  # at scale 0 CFG is the unconditional output alone, at scale 1 the other
        for scale in (0.0, 1.0):
            options = {"cfg": cfg, "scale": scale, "steps": 1}
            yield bool(scale), drawn(name, **options), guided(name, **options)
        return
    pipe, first = pipeline(name), families.find(pipeline(name)).inputs[0].argument
    outputs, texts = [], []
    handle = families.denoiser_of(pipe).register_forward_hook(
        lambda module, args, output: outputs.extend(row.detach().clone() for row in output[0])
    )
    try:
        with text_seen(pipe, texts):
            drawn(name, cfg=cfg, steps=1)
        guided(name, cfg=cfg, steps=1)
    finally:
        handle.remove()
    prompt = delivered(name, PROMPT)[first][0]
    rows = [row for seen in texts for row in seen[first]]
    assert len(outputs) == 2 * len(rows)
    for row, before, after in zip(rows, outputs, outputs[len(rows) :], strict=False):
        yield row.shape == prompt.shape and torch.equal(row, prompt), before, after


@pytest.mark.parametrize(("name", "cfg"), STYLES)
def test_with_cfg_the_conditional_rows_are_guided_and_no_others(name, cfg):
    rows = list(rows_of_the_first_step(name, cfg))
    assert any(conditional for conditional, *_ in rows)
    for conditional, before, after in rows:
        if conditional:
            assert differ(after, before)
        else:
            close(after, before, 1e-6)


BATCHES = [
    *((name, None, count) for name in PIPELINES for count in (1, 2, 3, 4)),
    *((name, cfg, 3) for name in CASES for cfg in (None, "before")),
]


@pytest.mark.parametrize(("name", "cfg", "count"), BATCHES)
def test_a_batch_equals_single_runs(name, cfg, count):
    prompts = ["a pirate", "portrait of a chef, sad face", "a nurse", "afro"][:count]
    negatives = ["glasses", "a long beard", "hat", "mask, red shirt"][:count]
    batch = guided(name, negatives, prompts, cfg, generator=seeds(count))
    for i, row in enumerate(batch):
        one = {"prompt": prompts[i], "cfg": cfg}
        single = guided(name, negatives[i], **one, generator=seeds(count)[i : i + 1])
        close(row[None], single, 1e-4)
        assert differ(single, drawn(name, **one, generator=seeds(count)[i : i + 1]))


LENGTHS = [
    *((name, length) for name in PIPELINES for length in (1, 5, 40)),
    *((name, length) for name in CASES for length in (LENGTH - 2, LENGTH + 5)),
]


def embeds(name: str, length: int):
    """A negative of so many tokens, as `negative_prompt_embeds`."""
    family = families.find(pipe_of(name))
    if name in CASES:
        texts = CASES[name].texts([NEGATIVE], length)
        inputs = [p.argument for p in family.inputs if p.kind in ("text", "layers")]
        return {argument: texts[argument] for argument in inputs}
    text = delivered(name, PROMPT)[family.inputs[0].argument]
    negative = torch.randn(1, length, text[0].shape[-1])
    return list(negative) if isinstance(text, list) else negative


@pytest.mark.parametrize(("name", "length"), LENGTHS)
def test_a_negative_longer_or_shorter_than_the_positive(name, length):
    with nag.guide(pipe_of(name), negative_prompt_embeds=embeds(name, length), **STRONG):
        out = drawn(name)
    assert out.isfinite().all() and differ(out, drawn(name))
