"""NASA and value sign flip, in the place of NAG, each against a few lines that say it by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from denoisers import bare
from torch.testing import assert_close

import nag
from nag import NAGSettings
from nag.attention_processor import GuidedAttention
from nag.engine.engine import Engine
from nag.errors import Refused
from nag.guidance.state import CallState
from nag.segments import Layout

PLUS, MINUS, IMAGE = 5, 3, 12


def pieces(kind, texts, count):
    """Where the texts stand: first, in `cross_added` with the tokens that go with either."""
    either = [(PLUS + MINUS, count - PLUS - MINUS)] if kind == "cross_added" else []
    return [(0, PLUS), *either], [(PLUS, MINUS), *either]


def layer(kind: str, method: str, scale: float, rows: slice, total: int):
    """One guided layer whose text stands first, and its call."""
    family = SimpleNamespace(pieces=pieces)
    call = CallState(prompt_rows=None, layout=Layout(((PLUS, MINUS),), rows, total))
    return GuidedAttention("here", kind, family, NAGSettings(scale=scale, method=method), call)


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def by_hand(method, q, scale, plus, minus):
    """Image queries q; keys and values that go with the positive, and those of the negative."""
    if method == "nasa":
        return attention(q, *plus) - scale * attention(q, *minus)
    return attention(
        q, torch.cat([plus[0], minus[0]], 2), torch.cat([plus[1], -scale * minus[1]], 2)
    )


def op(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, mask)


@pytest.mark.parametrize("method", ["nasa", "vsf"])
@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 2)], ids=["all rows", "with unconditional"])
def test_cross_attention(method, rows):
    q, k, v = (torch.randn(2, 4, n, 8) for n in (IMAGE, PLUS + MINUS, PLUS + MINUS))
    out = layer("cross", method, 1.5, rows, 2).attend(op, q, k, v, None, 2)
    plus, minus = ((k[:, :, part], v[:, :, part]) for part in (slice(PLUS), slice(PLUS, None)))
    expected = attention(q, *plus)
    expected[rows] = by_hand(method, q, 1.5, plus, minus)[rows]
    assert_close(out, expected)


@pytest.mark.parametrize("method", ["nasa", "vsf"])
@pytest.mark.parametrize("kind", ["joint", "cross_added"])
def test_keys_that_go_with_either_text_count_once_and_with_their_own_sign(kind, method):
    """The image's own, where its queries come alone, or a picture's behind the text."""
    q, k, v = (torch.randn(2, 4, n, 8) for n in (IMAGE, *[PLUS + MINUS + IMAGE] * 2))
    out = layer(kind, method, 1.5, slice(0, 2), 2).attend(op, q, k, v, None)
    text, other, either = slice(PLUS), slice(PLUS, PLUS + MINUS), slice(PLUS + MINUS, None)

    def of(*parts):
        return [torch.cat([x[:, :, part] for part in parts], 2) for x in (k, v)]

    minus = of(other) if method == "vsf" else of(other, either)
    assert_close(out, by_hand(method, q, 1.5, of(text, either), minus))


@pytest.mark.parametrize("method", ["nag", "nasa", "vsf"])
def test_texts_that_attend_without_the_image_attend_themselves(method):
    """As in Qwen-Image 2.1, where the image's queries follow in a call of their own."""
    q, k, v = (torch.randn(1, 4, PLUS + MINUS, 8) for _ in range(3))
    out = layer("joint", method, 1.5, slice(0, 1), 1).attend(op, q, k, v, None)
    for part in (slice(PLUS), slice(PLUS, None)):
        assert_close(out[:, :, part], attention(*(x[:, :, part] for x in (q, k, v))))


@pytest.mark.parametrize("method", ["nasa", "vsf"])
@pytest.mark.parametrize("plain", [False, True], ids=["two passes", "merged"])
def test_joint_attention(method, plain):
    """Only the picture is steered; each text attends itself and the picture, values unflipped."""
    q, k, v = (torch.randn(1, 4, PLUS + MINUS + IMAGE, 8) for _ in range(3))
    out = layer("joint", method, 1.5, slice(0, 1), 1).attend(op, q, k, v, None, 2, plain)
    text, other, image = slice(PLUS), slice(PLUS, PLUS + MINUS), slice(PLUS + MINUS, None)

    def of(x, *parts):
        return torch.cat([x[:, :, part] for part in parts], 2)

    assert_close(of(out, text), attention(of(q, text), of(k, text, image), of(v, text, image)))
    assert_close(of(out, other), attention(of(q, other), of(k, other, image), of(v, other, image)))
    minus = (
        (of(k, other), of(v, other))
        if method == "vsf"
        else (of(k, other, image), of(v, other, image))
    )
    assert_close(
        of(out, image),
        by_hand(method, of(q, image), 1.5, (of(k, text, image), of(v, text, image)), minus),
    )


@pytest.mark.parametrize("method", ["nasa", "vsf"])
@pytest.mark.parametrize(
    "name",
    [
        "FluxTransformer2DModel",
        "SD3Transformer2DModel",
        "UNet2DConditionModel",
        "WanTransformer3DModel",
        "QwenImage21Transformer2DModel",
    ],
)
def test_on_whole_models_they_steer_and_leave_nothing_behind(name, method):
    pipe = bare(name)

    def guided(scale):
        with nag.guide(pipe, "with big glasses", method=method, scale=scale) as guidance:
            out = pipe("a portrait of a pirate", steps=1)
        assert guidance.guided_calls == bool(scale)
        return out

    before = pipe("a portrait of a pirate", steps=1)
    assert 0 < (guided(0.1) - before).norm() < (guided(1.0) - before).norm()
    assert torch.equal(guided(0), before) and torch.equal(
        pipe("a portrait of a pirate", steps=1), before
    )


def test_methods_and_their_ranges():
    with pytest.raises(ValueError, match="method must be one of nag, nasa, vsf, got 'nag2'"):
        NAGSettings(method="nag2")
    with pytest.raises(ValueError, match="NAG scale must be a finite number from 0 up, got -1"):
        NAGSettings(scale=-1, method="vsf")
    with pytest.raises(ValueError, match="NAG scale must be a finite number from 1 up"):
        NAGSettings(scale=0.5)
    assert NAGSettings(scale=1.0).off and not NAGSettings(scale=1.0, method="nasa").off


def test_without_the_bound_it_is_extrapolation_and_blend():
    z, w = torch.randn(2, 3, 40, 8), torch.randn(2, 3, 40, 8)
    z[0, :, 0] = w[0, :, 0] = 0  # padding
    out = nag.normalized_attention_guidance(z, w, 8.0, math.inf, 0.5, dim=(1, 3))
    assert_close(out, z + 0.5 * 7 * (z - w))


def test_they_are_columns_of_a_comparison_with_scales_of_their_own():
    from nag import presets
    from nag.page import cells

    preset, request = presets.resolve(
        {"guidance": ["none", "nag", "nasa", "vsf"], "nasa_scale": 0.4, "nag_end": 0.5}
    )
    *_, (run, _, _) = Engine(previews=False).run(preset, request)
    columns = {column.key: column for column in run.columns}
    assert [column.state for column in run.columns] == ["done"] * 4
    assert len({column.image.tobytes() for column in run.columns}) == 4
    assert columns["nasa"].guided_steps == columns["vsf"].guided_steps == 2
    said = run.json()["columns"]
    assert (
        said["nasa"]["nasa_scale"] == 0.4
        and said["vsf"]["vsf_scale"] == 1
        and "nag_scale" not in said["vsf"]
    )
    assert cells.label(run, "nasa") == "NASA scale .4 until .5"
    assert "guided in 2 of 4" in cells.cell(run, columns["vsf"])["note"]
    with pytest.raises(Refused, match="vsf_scale must be between 0 and 10"):
        presets.resolve({"vsf_scale": 11})
