import json
import math

import pytest

from nag import presets
from nag.presets import Refused, resolve

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
    ({"num_frames": 81}, "num_frames must be between 1 and 1"),
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
@pytest.mark.parametrize("field", ["guidance_scale", "nag_scale", "nag_tau", "nag_alpha", "nag_end", "seed", "width", "num_inference_steps"])
def test_no_number_that_is_none(field, value):
    with pytest.raises(Refused, match=f"{field} must be a finite number"):
        resolve({field: value})


def test_the_product_of_size_steps_and_columns_is_capped():
    big = {"preset": "sdxl-turbo", "width": 1024, "height": 1024, "num_inference_steps": 8, "guidance": ["none", "cfg", "nag", "cfg+nag"]}
    with pytest.raises(Refused, match="times the most work"):
        resolve(big)


@pytest.mark.parametrize("raw", [None, [], "x", 3])
def test_settings_are_one_object(raw):
    with pytest.raises(Refused, match="one JSON object"):
        resolve(raw)


def test_a_subset_is_completed_from_its_preset():
    preset, request = resolve({"preset": "flux-schnell", "seed": 7, "nag_scale": 3})
    assert request.seed == 7 and request.nag_scale == 3.0 and request.num_inference_steps == 4 and request.width == 1024
    assert preset.arguments == {"max_sequence_length": 256}


@pytest.mark.parametrize("name", list(presets.load_all()))
def test_every_preset_is_valid_and_says_why(name):
    preset, request = resolve({"preset": name})
    assert preset.look_for and preset.source and preset.prompts and "MEASURED" not in preset.look_for
    for pair in preset.prompts:
        resolve({"preset": name, "prompt": pair.prompt, "negative_prompt": pair.negative_prompt})
    assert preset.local or (preset.revision and len(preset.revision) == 40)
    assert next(iter(presets.load_all())) == presets.DEFAULT and request.guidance[0] == "none"


def test_a_broken_preset_file_is_named():
    good = (presets.FOLDER / "pocket-portrait.json").read_text()
    with pytest.raises(Refused, match=r"presets/mine\.json is not a preset"):
        presets.parse("mine", good[:-5])
    with pytest.raises(Refused, match="colour"):
        presets.parse("mine", json.dumps(json.loads(good) | {"colour": "red"}))
    for bad in ({"ranges": {"steps": [1, 2]}}, {"ranges": {"prompt": [1, 2]}}, {"multiple": 0}, {"cap": -1}):
        with pytest.raises(Refused, match=r"presets/mine\.json"):
            presets.parse("mine", json.dumps(json.loads(good) | bad))
    with pytest.raises(Refused, match="nag_tau must be between"):
        presets.parse("mine", json.dumps(json.loads(good) | {"nag_tau": 99}))
