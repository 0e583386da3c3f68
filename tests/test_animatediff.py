"""AnimateDiff gives its denoiser a prompt's text once per frame, and its latents once per video.
(test_families tests the denoiser.)"""

import pytest
import torch
from test_guidance import STRONG, close, differ
from tiny import PROMPT, animatediff, prepared
from video_page import preset

import nag
from nag import presets
from nag.engine.engine import Engine


@pytest.fixture(scope="module")
def pipe():
    return prepared(animatediff)


def draw(pipe, prompt=PROMPT, seeds=(0,), guidance_scale=1.0):
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(
        prompt=prompt,
        num_frames=5,
        num_inference_steps=2,
        height=32,
        width=32,
        output_type="latent",
        generator=generator,
        guidance_scale=guidance_scale,
    ).frames


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_every_video_of_a_batch_is_guided_by_its_own_negative(pipe, guidance_scale):
    prompts, negatives = ["a pirate", "a sailor"], ["glasses", "a long beard"]
    with nag.guide(pipe, negatives, **STRONG) as guidance:
        batch = draw(pipe, prompts, (0, 1), guidance_scale)
    assert guidance.guided_steps == 2 and batch.shape == (2, 4, 5, 16, 16)
    for i, video in enumerate(batch):
        with nag.guide(pipe, negatives[i], **STRONG):
            alone = draw(pipe, prompts[i], (i,), guidance_scale)
        close(video[None], alone, 1e-4)
        assert differ(alone, draw(pipe, prompts[i], (i,), guidance_scale))


def test_the_prompt_as_its_own_negative_changes_nothing(pipe):
    """z+ + (s - 1) (z+ - z-) = z+, of the same norm: only a negative that reaches the frames in
    their order can do so."""
    plain = draw(pipe, ["a pirate", "a sailor"], (0, 1))
    with nag.guide(pipe, ["a pirate", "a sailor"], **STRONG) as guidance:
        close(draw(pipe, ["a pirate", "a sailor"], (0, 1)), plain, 1e-5)
    assert guidance.guided_steps == 2
    with nag.guide(pipe, ["a sailor", "a pirate"], **STRONG):
        assert differ(draw(pipe, ["a pirate", "a sailor"], (0, 1)), plain)


def test_the_page_compares_it(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    chosen = preset(
        str(tmp_path),
        arguments={},
        frames=1,
        num_frames=5,
        width=32,
        height=32,
        num_inference_steps=2,
    )
    _, request = presets.resolve({"preset": "tiny-video", "fresh": True}, {"tiny-video": chosen})
    *_, (run, _, _) = Engine().run(chosen, request)
    assert [(column.key, column.state, len(column.frames)) for column in run.columns] == [
        (key, "done", 5) for key in ("none", "cfg", "nag")
    ]
    pictures = [column.frames[2].tobytes() for column in run.columns]
    assert len({*pictures}) == 3
