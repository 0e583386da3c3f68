"""Seed 17 is seed 17: the same noise on every machine, whatever a model computes in."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from test_compare import ask, preset
from tiny import PIPELINES, draw, pipeline

from nag import presets, private
from nag.engine import loading, noise
from nag.engine.engine import Engine
from nag.engine.loading import Loaded, PipelineCache

OTHERS = torch.bfloat16, torch.float16, torch.float64


class Enough(Exception):
    """The denoiser was called: all noise that a picture starts from is drawn."""


@contextlib.contextmanager
def drawn(into: list):
    """Everything that is drawn, before it is cast."""
    real = torch.randn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *a, **k: into.append(real(*a, **k)) or into[-1])
        yield


def start(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """What a tiny pipeline draws before its first step."""
    pipe, found = copy.deepcopy(pipeline(name)), []
    pipe.to(dtype)

    def stop(*_):
        raise Enough

    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    denoiser.register_forward_pre_hook(stop)
    with noise.in_float32(), drawn(found), pytest.raises(Enough):
        draw(name, pipe=pipe, seed=17)
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_seed_17_is_seed_17(name):
    expected = start(name, torch.float32)
    assert expected and all(x.dtype == torch.float32 for x in expected)
    for dtype in OTHERS:
        found = start(name, dtype)
        assert len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_other_precisions_are_float32_cast(dtype):
    """For one generator and for one a picture, and as before once the context is left."""

    def both(of):
        seeds = [torch.Generator().manual_seed(17) for _ in range(2)]
        one = randn_tensor((2, 3, 4), torch.Generator().manual_seed(17), "cpu", of)
        return one, randn_tensor((2, 3, 4), seeds, "cpu", of)

    before, expected = both(dtype), both(torch.float32)
    with noise.in_float32():
        assert all(map(torch.equal, both(dtype), [x.to(dtype) for x in expected]))
        assert all(map(torch.equal, both(torch.float32), expected))
    assert all(map(torch.equal, both(dtype), before))
    assert not torch.equal(before[0], expected[0].to(dtype))  # left alone it is another noise


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_picture_of_the_engine_starts_from_it(name):
    noises = []
    for dtype in ("float32", "bfloat16"):
        pipe = copy.deepcopy(pipeline(name)).to(getattr(torch, dtype))
        loaded = Loaded(preset(name), pipe, "cpu", dtype, getattr(torch, dtype))
        bench = Engine(PipelineCache(loader=lambda _, loaded=loaded: loaded), previews=False)
        found = []
        with drawn(found):
            *_, (run, _, _) = bench.run(*ask(name, guidance=["none"]))
        assert run.columns[0].state == "done", run.columns[0].reason
        noises.append(found)
    assert len(noises[0]) == len(noises[1]) > 0 and all(map(torch.equal, *noises))


@pytest.mark.parametrize("units", [True, False])
def test_models_that_ship_are_drawn_in_float32_wherever_they_are(units, monkeypatch):
    """On a processor with units for bfloat16 too: a link gives the same pictures everywhere."""
    monkeypatch.setattr(private, "has_matrix_units", lambda: units)
    known = presets.load_all()
    shipped = [one for one in known.values() if one.shipped]
    devices = "cuda", "cpu", "mps"
    computed_in = {loading.dtype_of(one, on) for one in shipped for on in devices}
    assert computed_in == {"float32"}
    others = [one for one in known.values() if not one.shipped and one.dtype == "auto"]
    assert {loading.dtype_of(one, "cuda") for one in others} <= {"bfloat16"}
    assert {loading.dtype_of(one, "cpu") for one in others} <= {"bfloat16" if units else "float32"}


@pytest.mark.parametrize("name", ["pocket-portrait", "pocket-joint"])
def test_no_rounding_moves_a_pixel_by_more_than_one(name, monkeypatch):
    """Of models that ship. Machines add up in float32 in different orders, a GPU's kernels in yet
    another: a picture drawn in float64 stands for them all. bfloat16 is off by up to 255. (Clips
    are off by one, too, but in float64 take ten minutes.)"""

    def pictures(dtype):
        monkeypatch.setattr(loading, "dtype_of", lambda *_: dtype)
        asked = {"preset": name, "seed": 5, "guidance": ["none", "cfg", "nag"]}
        *_, (run, _, _) = Engine(previews=False).run(*presets.resolve(asked))
        assert [column.state for column in run.columns] == ["done"] * 3
        return np.stack([column.image for column in run.columns]).astype(int)

    off = abs(pictures("float32") - pictures("float64"))
    assert 0 < off.max() <= 1 and off.mean() < 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_is_float32_on_a_gpu(dtype):
    """cuDNN may not round convolutions to TF32 in models whose pictures are the processor's."""
    pipe, seen = copy.deepcopy(pipeline("sd")).to(getattr(torch, dtype)), set()
    pipe.unet.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    loaded = Loaded(preset("sd"), pipe, "cpu", dtype, getattr(torch, dtype))
    bench = Engine(PipelineCache(loader=lambda _: loaded), previews=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", True)
        *_, (run, _, _) = bench.run(*ask("sd", guidance=["none"]))
        assert torch.backends.cudnn.allow_tf32
    assert run.columns[0].state == "done", run.columns[0].reason
    assert seen == {dtype != "float32"}
