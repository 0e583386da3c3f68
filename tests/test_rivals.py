"""The rivals, in the place of NAG or on CFG, each against a few lines of float64 that say it by
hand."""

import math
from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.nn.functional as F
from denoisers import bare
from torch.testing import assert_close

import nag
from nag import NAGSettings, fused
from nag.attention_processor import GuidedAttention
from nag.engine.engine import Engine
from nag.errors import NAGRuntimeError, Refused
from nag.guidance.projected import MOMENTUM, NUMBERS, RADIUS, Projection, projected_cfg
from nag.guidance.state import CallState
from nag.rivals import IN_ONE_SOFTMAX
from nag.segments import Layout

PLUS, MINUS, IMAGE = 5, 3, 12
RIVALS = ["nasa", "ong", "vsf", "negpip"]
BIAS = 0.7


def pieces(kind, texts, count):
    """Where the texts stand: first, in `cross_added` with the tokens that go with either."""
    either = [(PLUS + MINUS, count - PLUS - MINUS)] if kind == "cross_added" else []
    return [(0, PLUS), *either], [(PLUS, MINUS), *either]


def layer(kind: str, method: str, scale: float, rows: slice, total: int):
    """One guided layer whose text stands first, and its call."""
    family = SimpleNamespace(pieces=pieces)
    call = CallState(prompt_rows=None, layout=Layout(((PLUS, MINUS),), rows, total))
    settings = NAGSettings(scale=scale, method=method, bias=BIAS)
    return GuidedAttention("here", kind, family, settings, call)


def attention(q, k, v, lower=None):
    """In float64, rounded at the end. lower: of which keys the logits are BIAS lower."""
    q, k, v = q.double(), k.double(), v.double()
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if lower is not None:
        logits = logits - BIAS * lower
    return (torch.softmax(logits, -1) @ v).float()


def by_hand(method, q, scale, plus, minus):
    """Image queries q; keys and values that go with the positive, and those of the negative."""
    if method == "nasa":
        return attention(q, *plus) - scale * attention(q, *minus)
    if method == "ong":
        out = attention(q, *plus).double()
        other = attention(q, *minus).double()
        for row in range(len(out)):
            for token in range(out.shape[2]):  # all heads together
                a, b = out[row, :, token].flatten(), other[row, :, token].flatten()
                part = b - (b @ a) / (a @ a) * a
                assert abs(part @ a) < 1e-9
                out[row, :, token] -= scale * part.reshape(out.shape[1], -1)
        return out.float()
    lower = torch.tensor([0] * plus[0].shape[2] + [method == "vsf"] * minus[0].shape[2])
    return attention(
        q, torch.cat([plus[0], minus[0]], 2), torch.cat([plus[1], -scale * minus[1]], 2), lower
    )


def op(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, mask)


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 2)], ids=["all rows", "with unconditional"])
def test_cross_attention(method, rows):
    q, k, v = (torch.randn(2, 4, n, 8) for n in (IMAGE, PLUS + MINUS, PLUS + MINUS))
    out = layer("cross", method, 1.5, rows, 2).attend(op, q, k, v, None, 2)
    plus, minus = ((k[:, :, part], v[:, :, part]) for part in (slice(PLUS), slice(PLUS, None)))
    expected = attention(q, *plus)
    expected[rows] = by_hand(method, q, 1.5, plus, minus)[rows]
    assert_close(out, expected)


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("kind", ["joint", "cross_added"])
def test_keys_that_go_with_either_text_count_once_and_with_their_own_sign(kind, method):
    """The image's own, where its queries come alone, or a picture's behind the text."""
    q, k, v = (torch.randn(2, 4, n, 8) for n in (IMAGE, *[PLUS + MINUS + IMAGE] * 2))
    out = layer(kind, method, 1.5, slice(0, 2), 2).attend(op, q, k, v, None)
    text, other, either = slice(PLUS), slice(PLUS, PLUS + MINUS), slice(PLUS + MINUS, None)

    def of(*parts):
        return [torch.cat([x[:, :, part] for part in parts], 2) for x in (k, v)]

    minus = of(other) if method in IN_ONE_SOFTMAX else of(other, either)
    assert_close(out, by_hand(method, q, 1.5, of(text, either), minus))


@pytest.mark.parametrize("method", ["nag", *RIVALS])
def test_texts_that_attend_without_the_image_attend_themselves(method):
    """As in Qwen-Image 2.1, where the image's queries follow in a call of their own."""
    q, k, v = (torch.randn(1, 4, PLUS + MINUS, 8) for _ in range(3))
    out = layer("joint", method, 1.5, slice(0, 1), 1).attend(op, q, k, v, None)
    for part in (slice(PLUS), slice(PLUS, None)):
        assert_close(out[:, :, part], attention(*(x[:, :, part] for x in (q, k, v))))


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("plain", [False, True], ids=["two passes", "merged"])
def test_joint_attention(method, plain):
    """Only the picture is steered; each text attends itself and the picture, values unflipped. But
    NegPiP's negative words are words of the prompt, which everybody attends."""
    q, k, v = (torch.randn(1, 4, PLUS + MINUS + IMAGE, 8) for _ in range(3))
    out = layer("joint", method, 1.5, slice(0, 1), 1).attend(op, q, k, v, None, 2, plain)
    text, other, image = slice(PLUS), slice(PLUS, PLUS + MINUS), slice(PLUS + MINUS, None)

    def of(x, *parts):
        return torch.cat([x[:, :, part] for part in parts], 2)

    if method == "negpip":  # one prompt, of which some words have a negative weight
        sign = torch.ones(v.shape[2])
        sign[other] = -1.5
        assert_close(out, attention(q, k, v * sign[:, None]))
        return
    assert_close(of(out, text), attention(of(q, text), of(k, text, image), of(v, text, image)))
    assert_close(of(out, other), attention(of(q, other), of(k, other, image), of(v, other, image)))
    minus = (
        (of(k, other), of(v, other))
        if method in IN_ONE_SOFTMAX
        else (of(k, other, image), of(v, other, image))
    )
    assert_close(
        of(out, image),
        by_hand(method, of(q, image), 1.5, (of(k, text, image), of(v, text, image)), minus),
    )


@pytest.mark.parametrize("method", IN_ONE_SOFTMAX)
@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 2)], ids=["all rows", "with unconditional"])
@pytest.mark.parametrize("kind", ["cross", "joint"])
def test_what_is_answered_in_one_softmax_is_not_asked_a_second_time(kind, rows, method):
    """A step's operations are counted, and shown as the rival's cost."""
    asked, total = [], 2

    def counted(q, k, v, mask):
        asked.append(q.shape[0] * q.shape[2])
        return op(q, k, v, mask)

    text = PLUS + MINUS if kind == "joint" else 0
    q, k, v = (torch.randn(total, 4, n, 8) for n in (text + IMAGE, *[PLUS + MINUS + IMAGE] * 2))
    if kind == "cross":
        k, v = k[:, :, : PLUS + MINUS], v[:, :, : PLUS + MINUS]
    out = layer(kind, method, 1.5, rows, total).attend(counted, q, k, v, None)
    unread = MINUS * rows.start if kind == "joint" else 0  # of unconditional rows
    assert sum(asked) == total * (text + IMAGE) - unread and out.isfinite().all()
    alone = layer(kind, method, 1.5, slice(0, 1), 1)
    assert_close(out[1:], alone.attend(op, *(x[1:] for x in (q, k, v)), None))
    if rows.start:  # sees the prompt, as if there were no negative
        seen = [*range(PLUS), *range(PLUS + MINUS, k.shape[2])]
        ours = [*range(PLUS), *range(PLUS + MINUS, q.shape[2])] if text else [*range(IMAGE)]
        plain = attention(q[:1, :, ours], k[:1, :, seen], v[:1, :, seen])
        assert_close(out[:1, :, ours], plain)


@pytest.mark.parametrize("method", RIVALS)
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
    known = "nag, nasa, ong, vsf, negpip"
    with pytest.raises(ValueError, match=f"method must be one of {known}, got 'nag2'"):
        NAGSettings(method="nag2")
    with pytest.raises(ValueError, match="NAG scale must be a finite number from 0 up, got -1"):
        NAGSettings(scale=-1, method="vsf")
    with pytest.raises(ValueError, match="NAG scale must be a finite number from 1 up"):
        NAGSettings(scale=0.5)
    for method in RIVALS:
        with pytest.raises(ValueError, match="NAG scale must be a finite number from 0 up"):
            NAGSettings(scale=math.inf, method=method)
    for bias in (-0.1, math.inf, True):
        with pytest.raises(ValueError, match="NAG bias must be a finite number from 0 up"):
            NAGSettings(method="vsf", bias=bias)
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
        {
            "guidance": ["none", "cfg", "nag", *RIVALS, "apg"],
            "nasa_scale": 0.4,
            "nag_end": 0.5,
            "vsf_bias": 0.3,
        }
    )
    *_, (run, _, _) = Engine(previews=False).run(preset, request)
    columns = {column.key: column for column in run.columns}
    assert [column.state for column in run.columns] == ["done"] * 8
    assert len({column.image.tobytes() for column in run.columns}) == 8
    assert {columns[key].guided_steps for key in RIVALS} == {2}
    said = run.json()["columns"]
    assert (
        said["nasa"]["nasa_scale"] == 0.4
        and said["vsf"]["vsf_scale"] == 1
        and "nag_scale" not in said["vsf"]
    )
    assert cells.label(run, "nasa") == "NASA scale .4 until .5"
    assert cells.label(run, "vsf") == "VSF scale 1 bias .3 until .5"
    assert cells.label(run, "apg") == "CFG + APG scale 7"
    assert "guided in 2 of 4" in cells.cell(run, columns["vsf"])["note"]
    for name in ("ong_scale", "vsf_scale", "negpip_scale"):
        with pytest.raises(Refused, match=f"{name} must be between 0 and 20, got 21"):
            presets.resolve({name: 21})
    with pytest.raises(Refused, match="vsf_bias must be between 0 and 10, got -1"):
        presets.resolve({"vsf_bias": -1})


def test_the_kernel_of_a_gpu_serves_nag_alone(monkeypatch):
    monkeypatch.setattr(fused, "able", lambda z: True)
    able = {
        method: layer("cross", method, 1.5, slice(0, 1), 1)._fusable(torch.zeros(1))
        for method in ("nag", *RIVALS)
    }
    assert able == {"nag": True} | dict.fromkeys(RIVALS, False)


@pytest.mark.parametrize("kind", ["bool", "float", "none"])
def test_the_bias_of_value_sign_flip_goes_with_a_mask(kind):
    q, k, v = (torch.randn(2, 4, n, 8) for n in (IMAGE, PLUS + MINUS, PLUS + MINUS))
    keep = torch.ones(2, 1, 1, PLUS + MINUS, dtype=torch.bool)
    if kind != "none":
        keep[1, ..., 2] = False
        keep[:, ..., -1] = False
    zeros = torch.zeros(keep.shape)
    mask = {"bool": keep, "float": zeros.masked_fill(~keep, -torch.inf), "none": None}[kind]
    out = layer("cross", "vsf", 1.5, slice(0, 2), 2).attend(op, q, k, v, mask)
    sign = torch.ones(PLUS + MINUS)
    sign[PLUS:] = -1.5
    lower = (torch.arange(PLUS + MINUS) >= PLUS).float()
    for row in range(2):
        seen = keep[row, 0, 0]
        part = k[row, :, seen], (v * sign[:, None])[row, :, seen]
        assert_close(out[row], attention(q[row], *part, lower[seen]))


def packed_negative(**negative):
    """The prompt's 24 tokens on pocket-portrait, and what stands behind them."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("assets/pocket-portrait")
    pipe.set_progress_bar_config(disable=True)
    seen = []
    pipe.unet.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    whole = pipe.encode_prompt("hat glasses", "cpu", 1, False)[0]
    if "embeds" in negative:
        negative["negative_prompt_embeds"] = negative.pop("embeds")(whole)
    with nag.guide(pipe, scale=2.0, **negative):
        pipe("a pirate", guidance_scale=1.0, num_inference_steps=1, output_type="latent")
    return whole, seen[0][:, 24:]


@pytest.mark.parametrize(
    ("method", "kept"),
    [("nag", slice(24)), ("ong", slice(24)), ("vsf", slice(0, 4)), ("negpip", slice(1, 3))],
)
def test_padding_of_the_negative_is_removed_as_published(method, kept):
    """CLIP fills both texts up to 24 tokens here: a begin, two words, and ends."""
    whole, behind = packed_negative(negative_prompt="hat glasses", method=method)
    assert_close(behind, whole[:, kept])


@pytest.mark.parametrize(
    ("negative", "left"),
    [
        ({"negative_prompt": "", "method": "negpip"}, 1),  # its end
        ({"negative_prompt": "", "method": "vsf"}, 2),
        ({"negative_prompt": "hat", "method": "vsf", "trim": False}, 24),
        ({"embeds": lambda whole: whole, "method": "vsf"}, 24),  # nobody can tell where it begins
    ],
)
def test_something_of_the_negative_is_always_left(negative, left):
    assert packed_negative(**negative)[1].shape[1] == left


def apg_by_hand(c, u, scale, running):
    """Algorithm 1 of arXiv 2410.02416 for one picture: (prediction, momentum)."""
    d = c.double() - u.double()
    running = d + MOMENTUM * running
    radius = RADIUS * math.sqrt(c.numel() / NUMBERS)
    d = running * min(1.0, radius / float(running.norm()))
    unit = c.double() / c.double().norm()
    d = d - (d * unit).sum() * unit  # eta is 0
    return (c.double() + (scale - 1) * d).float(), running


@pytest.mark.parametrize("apart", [False, True], ids=["one call", "two calls"])
@pytest.mark.parametrize("cfg_first", [True, False])
def test_adaptive_projected_guidance_is_what_a_pipeline_makes_of_it(apart, cfg_first):
    project, running, scale = Projection(2, cfg_first), [0.0, 0.0], 7.0
    for size in (9.0, 1.0, 0.1):  # beyond the bound of the norm, and within it
        c, u = size * torch.randn(2, 4, 6, 6), size * torch.randn(2, 4, 6, 6)
        if apart:
            assert project(lambda x: (x,), c)[0] is c
            other = project(lambda x: (x,), u)[0]
        else:
            rows = torch.cat([u, c] if cfg_first else [c, u])
            first, second = project(lambda x: (x, "more"), rows)[0].chunk(2)
            other, same = (first, second) if cfg_first else (second, first)
            assert torch.equal(same, c)
        made = other + scale * (c - other)  # by the pipeline
        for i in range(2):
            expected, running[i] = apg_by_hand(c[i], u[i], scale, running[i])
            assert_close(made[i], expected, atol=1e-4, rtol=1e-4)
    assert project.changed == 3


def test_apg_is_refused_where_it_would_do_nothing_or_something_else():
    with pytest.raises(NAGRuntimeError, match="made 3 for 2: leave this column out"):
        Projection(2)(lambda x: (x,), torch.zeros(3, 4))
    with pytest.raises(NAGRuntimeError, match="made no tensor for 2"):
        Projection(2)(lambda x: ([x],), torch.zeros(2, 4))
    pipe = tiny.pipeline("sd")
    with (
        pytest.raises(NAGRuntimeError, match="ran without CFG: give a guidance scale above 1"),
        projected_cfg(pipe, 1),
    ):
        pipe("a cat", guidance_scale=1.0, num_inference_steps=1, output_type="latent")
    assert "_nag_call" not in vars(pipe.unet)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux", "wan"])
def test_apg_reaches_pipelines_of_either_kind(name):
    """With both texts in one call of the denoiser, and in two; and leaves nothing behind."""
    before = tiny.draw(name, cfg=0)
    with projected_cfg(tiny.pipeline(name), 1) as projection:
        after = tiny.draw(name, cfg=0)
    assert projection.changed == 2 and torch.isfinite(after).all()
    assert not torch.equal(before, after) and torch.equal(before, tiny.draw(name, cfg=0))
