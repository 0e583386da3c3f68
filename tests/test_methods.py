"""One table says what the ways to guide are, and everybody asks it."""

import re
from pathlib import Path

import nag
from nag.methods import METHODS, SWITCHES
from nag.request import Request
from nag.settings import METHODS as ATTENTION

WORDS = {"prompt": "a pirate", "negative_prompt": "glasses", "width": 64, "height": 64}


def test_every_setting_that_a_way_uses_is_a_setting_of_a_request():
    for method in METHODS.values():
        assert {*method.settings, *SWITCHES.values()} <= set(Request.model_fields), method
        assert method.scale in ("", *method.settings)
        assert method.attention in ("", *ATTENTION)
    assert len({method.colour for method in METHODS.values()}) == len(METHODS)


def test_a_column_uses_the_settings_of_its_way_and_no_other():
    request = Request(**WORDS, num_inference_steps=4, guidance_scale=3, nag_refinement=False)
    assert METHODS["none"].used(request) == {}
    assert METHODS["cfg"].used(request) == {"guidance_scale": 3}
    assert METHODS["nasa"].used(request) == {"nasa_scale": 0.5, "nag_end": 1}
    assert METHODS["cfg+nag"].used(request) == {
        "guidance_scale": 3,
        "nag_scale": 5,
        "nag_tau": 2.5,
        "nag_normalisation": True,
        "nag_refinement": False,
        "nag_end": 1,
    }, "alpha is switched off"


def test_attention_is_left_alone_where_the_table_says_so():
    request = Request(**WORDS, num_inference_steps=4, guidance_scale=3, vsf_scale=2)
    for key, method in METHODS.items():
        settings = request.attention(key)
        assert ("" if settings is None else settings.method) == method.attention
    assert request.attention("vsf").scale == 2 and request.attention("cfg+nag") == request.nag


def test_nobody_looks_for_a_way_in_the_letters_of_another():
    """`"nag" in "nasa"` is false by luck."""
    guessed = re.compile(
        r"""["'](nag|cfg|nasa|vsf)["'] (not )?in \w*\.?(key|column|guidance|kind)\b"""
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(nag.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if guessed.search(line)
    ]
    assert found == []
