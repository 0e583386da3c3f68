import contextlib
import inspect
import json
import math
import os
import re
import subprocess
import sys

import pytest
import torch

from nag import presets
from nag.engine.engine import Engine
from nag.errors import Refused
from nag.formula import normalized_attention_guidance
from nag.page import cards
from nag.presets import resolve
from nag.request import DEFAULT

HOSTILE = [
    ({"num_inference_steps": 10**9}, "num_inference_steps must be between"),
    ({"num_inference_steps": 0}, "num_inference_steps must be between"),
    ({"num_inference_steps": 4.5}, "num_inference_steps must be a whole number"),
    ({"num_inference_steps": None}, "num_inference_steps must be a finite number"),
    ({"num_inference_steps": 10**400}, "num_inference_steps must be a finite number"),
    ({"width": 100_000}, "width must be between"),
    ({"width": 100}, "width must be a multiple of 16"),
    ({"height": "128"}, "height must be a finite number"),
    ({"height": -128}, "height must be between"),
    ({"num_frames": 81}, "num_frames must be 1 for"),
    ({"seed": -1}, "seed must be between"),
    ({"seed": 2**64}, "seed must be between"),
    ({"seed": True}, "seed must be a finite number"),
    ({"guidance_scale": 1e9}, "guidance_scale must be between"),
    ({"guidance_scale": [5]}, "guidance_scale must be a finite number"),
    ({"nag_scale": 0}, "nag_scale must be between"),
    ({"nag_tau": "inf"}, "nag_tau must be a finite number"),
    ({"nag_alpha": 1.5}, "nag_alpha must be between"),
    ({"nag_end": -1}, "nag_end must be between"),
    ({"prompt": "x" * 100_000}, "prompt must have at most 2000 characters"),
    ({"prompt": "\ud800"}, "prompt must be valid Unicode"),
    ({"prompt": {"a": 1}}, "prompt must be text"),
    ({"negative_prompt": None}, "negative_prompt must be text"),
    ({"nag_normalisation": "off"}, "nag_normalisation must be true or false"),
    ({"nag_refinement": 0}, "nag_refinement must be true or false"),
    ({"batched": 1}, "batched must be true or false"),
    ({"fresh": 1}, "fresh must be true or false"),
    ({"guidance": ["none", "pag"]}, "guidance must be a list"),
    ({"guidance": []}, "guidance must be a list"),
    ({"guidance": ["nag", "nag"]}, "guidance must name every column once"),
    ({"preset": "../../etc/passwd"}, "preset must be one of"),
    ({"model": "someone/else"}, "'model' is not a setting"),
    ({"custom_pipeline": "evil"}, "'custom_pipeline' is not a setting"),
]


@pytest.mark.parametrize(("raw", "sentence"), HOSTILE)
def test_hostile_settings_are_refused_by_name(raw, sentence):
    with pytest.raises(Refused) as caught:
        resolve(raw)
    assert sentence in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "field",
    [
        "guidance_scale",
        "nag_scale",
        "nag_tau",
        "nag_alpha",
        "nag_end",
        "seed",
        "width",
        "num_inference_steps",
    ],
)
def test_no_number_that_is_none(field, value):
    with pytest.raises(Refused, match=f"{field} must be a finite number"):
        resolve({field: value})


def test_the_product_of_size_steps_and_columns_is_capped():
    big = {
        "preset": "sdxl-turbo",
        "width": 1024,
        "height": 1024,
        "num_inference_steps": 8,
        "guidance": ["none", "cfg", "nag", "cfg+nag"],
    }
    with pytest.raises(Refused, match="times the most work"):
        resolve(big)


def test_switched_off_the_bound_is_out_of_reach_and_nothing_is_blended():
    request = resolve({"nag_tau": 2, "nag_alpha": 0.5})[1]
    assert (request.nag.tau, request.nag.alpha) == (2, 0.5)
    request = resolve(
        {"nag_tau": 2, "nag_alpha": 0, "nag_normalisation": False, "nag_refinement": False}
    )[1]
    positive, negative = torch.randn(2, 3, 8)
    out = normalized_attention_guidance(
        positive, negative, 1000.0, request.nag.tau, request.nag.alpha
    )
    torch.testing.assert_close(out, positive + 999 * (positive - negative))
    assert not request.nag.off and resolve({})[1].nag_normalisation is True


@pytest.mark.parametrize("raw", [None, [], "x", 3])
def test_settings_are_one_object(raw):
    with pytest.raises(Refused, match="one JSON object"):
        resolve(raw)


def test_a_subset_is_completed_from_its_preset():
    preset, request = resolve({"preset": "flux-schnell", "seed": 7, "nag_scale": 3})
    assert (
        request.seed == 7
        and request.nag_scale == 3.0
        and request.num_inference_steps == 4
        and request.width == 1024
    )
    assert preset.arguments == {"max_sequence_length": 256}


@pytest.mark.parametrize("name", [n for n, one in presets.load_all().items() if one.shipped])
def test_what_is_said_under_a_sample_is_short(name):
    assert len(presets.load_all()[name].look_for) <= 120


def test_the_alpha_that_the_first_picture_is_to_be_tried_at_takes_the_hat_away():
    said = presets.load_all()["pocket-portrait"].look_for
    alpha = float(re.search(r"alpha: (\.\d+)", said)[1])
    *_, (run, _, _) = Engine(previews=False).run(*resolve({"nag_alpha": alpha}))
    none, _, nag = run.columns
    assert none.readings["hat"] > 0.5 and nag.outcomes["hat"].kind == "gone"


@pytest.mark.parametrize("name", list(presets.load_all()))
def test_every_preset_is_valid_and_says_why(name):
    preset, request = resolve({"preset": name})
    assert (
        preset.look_for and preset.source and preset.prompts and "MEASURED" not in preset.look_for
    )
    for pair in preset.prompts:
        resolve({"preset": name, "prompt": pair.prompt, "negative_prompt": pair.negative_prompt})
    assert preset.local or preset.revision is None or re.fullmatch("[0-9a-f]{40}", preset.revision)
    assert (
        preset.licence
        and preset.largest_gb <= preset.size_gb
        and (preset.local or preset.largest_gb > 0)
    )
    assert len(preset.prompts) >= 3 and preset.prompts[0].prompt == request.prompt
    assert next(iter(presets.load_all())) == DEFAULT and request.guidance[0] == "none"


def test_a_broken_preset_file_is_named():
    good = (presets.FOLDER / "pocket-portrait.json").read_text()
    with pytest.raises(Refused, match=r"presets/mine\.json is not a preset"):
        presets.parse("mine", good[:-5])
    with pytest.raises(Refused, match="colour"):
        presets.parse("mine", json.dumps(json.loads(good) | {"colour": "red"}))
    for bad in (
        {"ranges": {"steps": [1, 2]}},
        {"ranges": {"prompt": [1, 2]}},
        {"multiple": 0},
        {"cap": -1},
        {"frames": 0},
        {"fps": -1},
        {"largest_gb": -1},
        {"cfg": "perhaps"},
    ):
        with pytest.raises(Refused, match=r"presets/mine\.json"):
            presets.parse("mine", json.dumps(json.loads(good) | bad))
    with pytest.raises(Refused, match="nag_tau must be between"):
        presets.parse("mine", json.dumps(json.loads(good) | {"nag_tau": 99}))


def test_unpinned_repositories_are_the_known_two():
    """No commit of theirs was seen in public."""
    unpinned = set()
    for name, preset in presets.load_all().items():
        pins = [preset.revision, *([preset.lora.get("revision")] if preset.lora else [])]
        if not preset.local and not all(pin and re.fullmatch("[0-9a-f]{40}", pin) for pin in pins):
            unpinned.add(name)
    assert unpinned == {"ltx2-distilled", "hunyuan-video-15"}


def test_a_preset_says_so_where_its_settings_are_not_published():
    origins = ("arXiv 2505.21179", "ComfyUI-NAG", "NAG: community", "NAG not published")
    for preset in presets.load_all().values():
        assert preset.shipped or any(words in preset.source for words in origins), preset.source


@pytest.mark.parametrize(
    "name", [name for name, preset in presets.load_all().items() if preset.fps]
)
def test_a_video_has_only_as_many_frames_as_its_model_can_make(name):
    preset, request = resolve({"preset": name})
    (lowest, highest), rule = map(int, preset.range("num_frames")), preset.frames
    assert (
        1 < lowest < request.num_frames <= highest
        and (lowest - 1) % rule == (highest - 1) % rule == 0
    )
    assert (rule == 1) == (
        preset.pipeline == "AnimateDiffPipeline"
    )  # whose VAE knows single pictures
    assert resolve({"preset": name, "num_frames": lowest})[1].num_frames == lowest
    with (
        contextlib.nullcontext()
        if rule == 1
        else pytest.raises(
            Refused,
            match=rf"num_frames must be a multiple of {rule} plus 1 for .*, "
            rf"like {lowest} or {lowest + rule}, got",
        )
    ):
        resolve({"preset": name, "num_frames": lowest + 1})
    with pytest.raises(Refused, match="num_frames must be between"):
        resolve({"preset": name, "num_frames": highest + rule})


def test_a_video_that_costs_too_much_is_told_its_frames():
    with pytest.raises(
        Refused, match=r"times the most work .*, num_frames \(81\) or the number of columns"
    ):
        resolve({"preset": "wan21-1b", "num_frames": 81, "num_inference_steps": 50})


def test_a_picture_has_one_frame():
    for preset in presets.load_all().values():
        assert bool(preset.fps) == ("num_frames" in preset.ranges) and (
            preset.fps or preset.frames == 1
        )


def test_a_fixed_setting_is_refused_as_such():
    with pytest.raises(Refused, match="num_inference_steps must be 8 for LTX"):
        resolve({"preset": "ltx-video", "num_inference_steps": 9})


def test_a_model_without_cfg_refuses_its_columns():
    with pytest.raises(
        Refused,
        match=r"guidance must be out of none, nag, nasa, ong, vsf, negpip for FLUX\.2 klein",
    ):
        resolve({"preset": "flux2-klein", "guidance": ["none", "cfg"]})


def test_what_a_gpu_needs_is_one_sentence():
    everything = presets.load_all()
    assert (
        everything["flux-dev"].memory
        == "34 GB of weights: a GPU with 39 GB free; with less, model offload, down to 29 GB."
    )
    assert everything["wan22-14b"].memory.endswith("down to 34 GB. Long videos need more.")
    assert all(preset.memory for preset in everything.values())


def signature(name):
    """Parameters of a pipeline's call. Where a package is missing (sentencepiece for Kolors),
    diffusers has a dummy instead."""
    import diffusers

    cls = getattr(diffusers, name)
    if "kwargs" in (found := inspect.signature(cls.__call__).parameters) and len(found) <= 3:
        pytest.skip(f"{name} needs a package that is not installed")
    return found


@pytest.mark.parametrize(
    "name",
    [name for name, preset in presets.load_all().items() if preset.pipeline != "DiffusionPipeline"],
)
def test_every_pipeline_and_its_arguments_exist(name):
    preset = presets.load_all()[name]
    known = signature(preset.pipeline)
    assert {*preset.arguments, "prompt", "num_inference_steps", "width", "height", "generator"} <= {
        *known
    }
    has_cfg = "negative_prompt" in known and {"guidance_scale", "true_cfg_scale"} & {*known}
    assert preset.cfg == bool(has_cfg)
    assert bool(preset.fps) == bool({"num_frames", "video_length"} & {*known})
    if preset.image:
        assert "image" in known
    for key in ("timesteps", "sigmas"):
        if key in preset.arguments:
            assert preset.range("num_inference_steps") == (len(preset.arguments[key]),) * 2


def test_of_several_settings_out_of_range_the_same_one_is_named_every_time():
    wrong = {"width": 1, "height": 1, "num_inference_steps": 10**6}
    script = (
        f"from nag.presets import resolve\ntry: resolve({wrong})\nexcept Exception as e: print(e)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(said) == 1 and "must be" in said.pop()


def test_a_preset_may_leave_out_any_of_nag_s_knobs(monkeypatch):
    preset = presets.load_all()["sdxl"]
    settings = {k: v for k, v in preset.settings.items() if k not in ("nag_tau", "nag_alpha")}
    bare = preset.model_copy(update={"settings": settings | {"nag_scale": 6.0}})
    assert bare.default("nag_alpha") == resolve({})[1].model_fields["nag_alpha"].default
    monkeypatch.setattr(cards.machine, "needs_gpu", lambda _: True)
    assert ["NAG", "scale 6, tau 2.5, alpha 0.25"] in cards.card(bare)["facts"]
