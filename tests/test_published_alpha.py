"""Where no alpha is given, `nag.guide` takes the one that is published for the family."""

import re
from pathlib import Path

import pytest
import tiny

import nag
from nag.settings import NAGSettings

PAGE = Path(nag.__file__).parent / "guidance" / "COMING_FROM.md"
# the row of COMING_FROM.md's table that a tiny pipeline belongs to; "" for families without one
ROWS = {
    "sd": "SD 1.5, PixArt, SANA",
    "pixart": "SD 1.5, PixArt, SANA",
    "sana": "SD 1.5, PixArt, SANA",
    "sdxl": "SDXL",
    "sd3": "SD 3, SD 3.5",
    "flux": "Flux, Wan",
    "wan": "Flux, Wan",
    "hunyuan-video": "HunyuanVideo",
    "ltx": "",
    "z-image": "",
}


@pytest.mark.parametrize("name", ROWS)
def test_the_published_alpha_is_the_default(name):
    published = NAGSettings().alpha
    if ROWS[name]:
        row = rf"^\| {re.escape(ROWS[name])} \| (\.\d+) \|"
        published = float(re.search(row, PAGE.read_text(), re.M)[1])
    with nag.guide(tiny.pipeline(name), tiny.NEGATIVE) as progress:
        assert progress.settings == NAGSettings(alpha=published)
    with nag.guide(tiny.pipeline(name), tiny.NEGATIVE, alpha=0.7) as progress:
        assert progress.settings.alpha == 0.7


def test_an_alpha_of_nothing_is_off_and_not_the_default():
    with nag.guide(tiny.pipeline("sdxl"), tiny.NEGATIVE, alpha=0) as progress:
        assert progress.settings.off


def test_a_published_alpha_is_what_is_drawn_with():
    drawn = []
    for alpha in ({}, {"alpha": 0.5}, {"alpha": 0.25}):
        with nag.guide(tiny.pipeline("sdxl"), tiny.NEGATIVE, **alpha):
            drawn.append(tiny.draw("sdxl"))
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
