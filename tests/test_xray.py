"""The X-ray: its numbers are the formula's, and tau, alpha and scale move in it without a run."""

import functools
import json
import math
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file
from tiny import NEGATIVE, PROMPT, draw, pipeline

import nag
from nag import presets
from nag.__main__ import main
from nag.engine.engine import Engine
from nag.errors import NAGValueError
from nag.explore.inside import FILE, only_nag
from nag.formula import normalized_attention_guidance
from nag.xray import XRay, grid_of, placed

ENGINE = Engine(previews=False)
HEADS, TOKENS, FEATURES = 3, 40, 16
DIM = (-3, -1)  # heads and features of (B, H, N, D)


def outputs(seed=0, rows=1):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, HEADS, TOKENS, FEATURES, generator=draw)
    return z, z + 0.4 * torch.randn(z.shape, generator=draw)


def recorded(**more):
    xray = XRay(**more)
    for step in range(3):
        for layer in ("up", "down"):
            xray.add(layer, step, *outputs(step), DIM)
    return xray


def by_hand(plus, minus, scale):
    """R in float64, in the paper's letters."""
    plus, minus = plus.double(), minus.double()
    z = plus + (scale - 1) * (plus - minus)
    return z.abs().sum(DIM) / plus.abs().sum(DIM)


@pytest.mark.parametrize("scale", [2.0, 5.0, 20.0])
@pytest.mark.parametrize("tau", [1.0, 1.7, 4.0])
def test_what_tau_clips_is_exact_at_a_recorded_scale(scale, tau):
    share = recorded().clipped(scale, tau)
    expected = (by_hand(*outputs(1), scale) > tau).double().mean()
    assert share.shape == (2, 3)
    assert share[0, 1] == pytest.approx(float(expected), abs=1 / TOKENS)
    assert recorded().mean_ratio(scale)[1, 1] == pytest.approx(
        float(by_hand(*outputs(1), scale).mean()), rel=1e-3
    )


def test_between_recorded_scales_a_push_is_never_thought_smaller_than_it_is():
    xray = recorded(scales=(1, 4, 12))
    for scale in (1.5, 2.5, 6.0, 11.0):
        guess, truth = xray.ratio(0, 0, scale), by_hand(*outputs(0), scale)[0]
        assert (guess >= truth - 2e-3).all() and guess.mean() < 1.15 * truth.mean()
    beyond = xray.ratio(0, 0, 24.0)
    assert beyond.mean() == pytest.approx(float(by_hand(*outputs(0), 24.0).mean()), rel=0.05)


@pytest.mark.parametrize("scale, tau, alpha", [(5.0, 1.3, 0.25), (8.0, 2.0, 0.85), (2.0, 9.0, 1.0)])
def test_the_change_is_that_of_the_formula_for_any_tau_and_alpha(scale, tau, alpha):
    plus, minus = outputs(2)
    out = normalized_attention_guidance(plus, minus, scale, tau, alpha, DIM)
    norm = torch.linalg.vector_norm
    expected = norm(out - plus, dim=DIM) / norm(plus, dim=DIM)
    torch.testing.assert_close(
        recorded().change(0, 2, scale, tau, alpha), expected[0], rtol=5e-3, atol=5e-3
    )


def test_parts_of_a_layer_are_put_together_and_frames_behind_one_another():
    plus, minus = outputs(rows=2)
    whole, parts = XRay(), XRay()
    whole.add("a", 0, plus, minus, DIM)
    for at in (0, 16, 32):
        parts.add("a", 0, plus[:, :, at : at + 16], minus[:, :, at : at + 16], DIM)
    assert whole.cell(0, 0).shape == (2 * TOKENS, len(whole.scales) + 2)
    assert torch.equal(whole.cell(0, 0), parts.cell(0, 0))


def test_what_was_not_guided_is_no_number():
    xray = recorded()
    xray.add("late", 1, *outputs(), DIM)
    share = xray.clipped(5.0, 2.0)
    assert share.shape == (3, 3) and share[2].isnan().tolist() == [True, False, True]
    assert xray.cell(2, 0) is None and xray.ratio(2, 0, 5.0) is None
    assert XRay().clipped(5.0, 2.0).shape == (0, 0)


def test_its_memory_is_half_precision():
    xray = recorded()
    assert xray.nbytes == 2 * 3 * TOKENS * (len(xray.scales) + 2) * 2


def test_a_silent_layer_has_numbers_too():
    """All-zero attention (padding) divides by nothing."""
    xray, zero = XRay(), torch.zeros(1, HEADS, TOKENS, FEATURES)
    xray.add("a", 0, zero, zero, DIM)
    assert xray.cell(0, 0).isfinite().all() and float(xray.clipped(5.0, 2.0)) == 0


def test_suggestions_follow_their_rules():
    xray = recorded()
    tau, alpha = xray.suggest(5.0)
    ratios = torch.stack([by_hand(*outputs(step), 5.0) for step in range(3)])
    assert (ratios <= tau).double().mean() >= 0.9 > (ratios <= tau - 0.11).double().mean()
    changes = torch.cat([xray.change(0, step, 5.0, tau, alpha) for step in range(3)])
    more = torch.cat([xray.change(0, step, 5.0, tau, alpha + 0.06) for step in range(3)])
    assert (changes <= 1).double().mean() >= 0.9 and (
        alpha == 1 or (more <= 1).double().mean() < 0.9
    )
    with pytest.raises(NAGValueError, match="Nothing was recorded"):
        XRay().suggest(5.0)


@pytest.mark.parametrize("scales", [(5.0,), (0.5, 2.0), (1.0, math.inf), ()])
def test_scales_that_cannot_be_recorded_are_refused(scales):
    with pytest.raises(NAGValueError, match="two or more numbers from 1 up"):
        XRay(scales=scales)


@pytest.mark.parametrize(
    "tokens, size, frames, grid",
    [
        (64, (128, 128), 1, (1, 8, 8)),
        (4096, (1024, 1024), 1, (1, 64, 64)),
        (1560, (832, 480), 1, (1, 30, 52)),
        (9 * 1560, (832, 480), 9, (9, 30, 52)),
        (16 * 64, (128, 128), 16, (16, 8, 8)),
        (2304, (768, 1344), 1, (1, 64, 36)),
    ],
)
def test_tokens_lie_on_the_pictures_grid(tokens, size, frames, grid):
    assert grid_of(tokens, *size, frames) == grid


def test_tokens_that_are_no_picture_have_no_grid():
    with pytest.raises(NAGValueError, match="lie on no grid"):
        grid_of(61, 128, 128)


def by_hooks(name, scale, steps):
    """(layer, step) -> R in float64, from the queries, keys and values that a tiny model's own
    attention sees in a run without NAG up to its first step: packed by hand, nothing of ours."""
    pipe, found = pipeline(name), {}
    texts = [pipe.encode_prompt(words, "cpu", 1, False)[0] for words in (PROMPT, NEGATIVE)]

    def attend(layer, attention, inputs, keywords, output):
        hidden = keywords.get("hidden_states", inputs[0] if inputs else None)

        def heads(x):
            return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2).double()

        z = []
        for text in texts:
            q, k, v = attention.to_q(hidden), attention.to_k(text), attention.to_v(text)
            weights = heads(q) @ heads(k).mT * attention.scale
            z.append(weights.softmax(-1) @ heads(v))
        guided = z[0] + (scale - 1) * (z[0] - z[1])
        ratio = guided.abs().sum((1, 3)) / z[0].abs().sum((1, 3))
        found.setdefault(layer, ratio[0])

    hooks = [
        module.register_forward_hook(functools.partial(attend, layer), with_kwargs=True)
        for layer, module in pipe.unet.named_modules()
        if layer.endswith("attn2")
    ]
    try:
        draw(name, steps=steps)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def test_a_recording_is_what_hooks_see_in_the_first_layer_of_the_first_step():
    """Behind it the picture is already guided, and a plain run shows another."""
    xray, scale = XRay(), 5.0
    with nag.guide(pipeline("sd"), NEGATIVE, scale=scale, tau=1.1, alpha=0.7, record=xray):
        draw("sd", steps=3)
    expected = by_hooks("sd", scale, 3)
    assert set(xray.layers) == set(expected) and xray.steps == 3
    first = xray.layers[0]
    torch.testing.assert_close(
        xray.ratio(0, 0, scale).double(), expected[first], rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize("name", ["sd", "flux", "sd3", "wan"])
def test_recording_changes_no_picture(name):
    settings = {"scale": 4.0, "tau": 1.2, "alpha": 0.6}
    with nag.guide(pipeline(name), NEGATIVE, **settings):
        plain = draw(name)
    xray = XRay()
    with nag.guide(pipeline(name), NEGATIVE, **settings, record=xray):
        assert torch.equal(draw(name), plain)
    assert xray.steps == 2 and all(xray.cell(i, 1) is not None for i in range(len(xray.layers)))


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_another_tau_is_predicted_exactly_for_the_first_layer_of_the_first_step(name):
    """And another scale at least as high as it is, by little."""
    one, other = XRay(), XRay(scales=(1.0, 3.0, 9.0))
    with nag.guide(pipeline(name), NEGATIVE, scale=4.0, tau=1.2, record=one):
        draw(name)
    with nag.guide(pipeline(name), NEGATIVE, scale=9.0, tau=5.0, record=other):
        draw(name)
    for tau in (1.05, 1.5, 3.0):
        seen = float(other.clipped(9.0, tau)[0, 0])
        guessed = float(one.clipped(9.0, tau)[0, 0])
        assert guessed == pytest.approx(seen, abs=0.13) and guessed >= seen - 0.02
        assert float(one.clipped(8.0, tau)[0, 0]) == float(
            (one.ratio(0, 0, 8.0) > tau).float().mean()
        )


def test_a_real_run_at_another_tau_cuts_what_the_x_ray_said():
    """Of a pocket model, in the first step: exactly in the first layer, and behind it to a patch or
    two in 64."""
    found = {}
    for tau in (2.5, 1.5):
        preset, request = presets.resolve({"preset": "pocket-portrait", "nag_tau": tau})
        request = only_nag(request).model_copy(update={"num_inference_steps": 2})
        *_, (run, _, _) = ENGINE.run(preset, request, record=XRay())
        found[tau] = run.record
    said, real = (found[tau].clipped(request.nag_scale, 1.5) for tau in found)
    assert said[0, 0] == real[0, 0] > 0
    assert (said - real)[:, 0].abs().max() <= 2 / 64 + 1e-6


def test_end_leaves_the_steps_behind_it_without_numbers():
    xray = XRay()
    with nag.guide(pipeline("sd"), NEGATIVE, scale=4.0, end=0.5, record=xray):
        draw("sd", steps=4)
    assert xray.steps == 2


@pytest.mark.parametrize(
    "tokens, size, frames, grid",
    [
        (1024, (128, 128), 16, (16, 8, 8)),
        (21 * 1560, (832, 480), 81, (21, 30, 52)),
        (13 * 384, (768, 512), 97, (13, 16, 24)),
        (64, (128, 128), 1, (1, 8, 8)),
    ],
)
def test_tokens_of_a_video_lie_on_as_many_grids_as_its_latents_have_frames(
    tokens, size, frames, grid
):
    assert placed(tokens, *size, frames) == grid


SMALL = ["--set", "num_inference_steps=2"]


def test_the_command_line_records_once_and_reads_at_other_settings(tmp_path, capsys, monkeypatch):
    from nag.engine import engine

    command = ["xray", *SMALL, "--out", str(tmp_path)]
    assert main(command) == 0
    said, told = capsys.readouterr().out, json.loads((tmp_path / "xray.json").read_text())
    assert "Recorded now." in said and "Patches that tau 2.5 cuts at scale 4" in said
    assert told["exact"] == "every step" and told["steps"] == 2 and len(told["clipped"]) == 4
    assert Image.open(tmp_path / "xray.png").height > 150
    monkeypatch.setattr(engine.Engine, "run", lambda *_, **__: pytest.fail("drew again"))
    assert main(command) == 0
    assert json.loads((tmp_path / "xray.json").read_text()) == told, "nothing was lost on the way"
    assert main([*command, "--at", "nag_tau=4", "nag_scale=5"]) == 0
    assert "Read from the recording that is there" in capsys.readouterr().out
    moved = json.loads((tmp_path / "xray.json").read_text())
    assert moved["read"] == {"nag_scale": 5, "nag_tau": 4, "nag_alpha": 0.5}
    assert moved["exact"].startswith("the first layer of the first step")
    assert moved["clipped"][0][0] < told["clipped"][0][0]
    assert main([*command, "--html", "--zip"]) == 0
    files = zipfile.ZipFile(tmp_path / "xray.zip")
    page = (tmp_path / "xray.html").read_text()
    packed, kept = load(files.read("recording.safetensors")), load_file(tmp_path / FILE)
    assert packed.keys() == kept.keys() and all(packed[k].equal(kept[k]) for k in kept)
    assert set(files.namelist()) >= {"xray.json", "xray.png", "xray.html", "picture.png"}
    assert "<script src" not in page and '="http' not in page
    cut = (tmp_path / "recording.safetensors").read_bytes()[:-8]
    (tmp_path / "recording.safetensors").write_bytes(cut)
    with pytest.raises(pytest.fail.Exception, match="drew again"):
        main(command)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--set", "nag_scale=1"], "NAG is off at scale 1"),
        (["--at", "nag_end=.5"], "--at moves nag_scale, nag_tau, nag_alpha without a run"),
        (["--at", "nag_tau=x"], "--at nag_tau wants a number"),
        (["--at", "nag_tau=0"], "nag_tau must be between"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_a_sentence(arguments, sentence, tmp_path, capsys):
    assert main(["xray", *arguments, "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
