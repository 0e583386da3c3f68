"""A kernel of one's own, gradients, masks: a guided layer attends as it would without guidance."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from denoisers import CASES, bare
from test_guidance import STRONG, close, differ, guided
from tiny import NEGATIVE, PIPELINES, PROMPT, draw, pipeline

import nag
from nag import families

TORCHS_OWN = F.scaled_dot_product_attention
JOINT = [
    name
    for name in PIPELINES
    if any(
        kind == "joint"
        for kind, _ in families.find(pipeline(name))
        .layers(families.denoiser_of(pipeline(name)))
        .values()
    )
]


class Coarse:
    """A kernel like SageAttention's: keys in eight bits, another picture. Counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, query, key, *args, **kwargs):
        self.calls += 1
        step = key.abs().amax(-1, keepdim=True).clamp_min(1e-6) / 3
        return TORCHS_OWN(query, (key / step).round() * step, *args, **kwargs)


@contextlib.contextmanager
def in_torch(kernel):
    """As SageAttention's README says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", kernel)
        yield


class Mode(torch.overrides.TorchFunctionMode):
    """As ParaAttention and xDiT do."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def __torch_function__(self, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            function = self.kernel if function is TORCHS_OWN else function
            return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def as_native_back_end(kernel):
    """In diffusers' table of back ends, under the name of the default."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    def native(query, key, value, attn_mask=None, **kwargs):
        kwargs = {k: v for k, v in kwargs.items() if k in ("dropout_p", "is_causal", "scale")}
        query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        return kernel(query, key, value, attn_mask, **kwargs).permute(0, 2, 1, 3)

    with pytest.MonkeyPatch.context() as patch:
        table = _AttentionBackendRegistry._backends
        patch.setitem(table, AttentionBackendName.NATIVE, native)
        yield


@contextlib.contextmanager
def in_the_models_module(kernel):
    """In place of the name that a model's processors call."""
    from diffusers.models.transformers import transformer_flux

    def dispatch(query, key, value, attn_mask=None, **_):
        query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        return kernel(query, key, value, attn_mask).permute(0, 2, 1, 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_flux, "dispatch_attention_fn", dispatch)
        yield


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, place) for name in JOINT for place in (in_torch, Mode)),
        ("flux", as_native_back_end),
        ("qwen-image", as_native_back_end),
        ("flux", in_the_models_module),
    ],
)
def test_a_kernel_of_ones_own_is_used_when_guided(name, place):
    plain, usual, kernel = draw(name), guided(name), Coarse()
    with place(kernel):
        assert differ(draw(name), plain)
        of_plain = kernel.calls
        kernel.calls = 0
        out = guided(name)
        assert kernel.calls >= of_plain
        assert torch.equal(out, guided(name, exact=True)) and differ(out, usual)
    assert torch.equal(guided(name), usual)  # and the merged way again


def test_a_processor_that_was_patched_after_it_was_guided_is_guided_as_patched(monkeypatch):
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    plain, usual, original = draw("flux"), guided("flux"), FluxAttnProcessor.__call__

    def louder(self, attn, *args, **kwargs):
        out = original(self, attn, *args, **kwargs)
        return tuple(2 * one for one in out) if isinstance(out, tuple) else 2 * out

    with monkeypatch.context() as patch:
        patch.setattr(FluxAttnProcessor, "__call__", louder)
        assert differ(draw("flux"), plain)
        with contextlib.suppress(RuntimeError):  # refused, or guided: never as if it were not there
            assert differ(guided("flux"), usual)
    assert torch.equal(guided("flux"), usual)


# --- gradients


JOINT_CASES = [
    name
    for name in CASES
    if {"joint", "injected"}
    & {kind for kind, _ in bare(name).family.layers(bare(name).transformer).values()}
]


def gradient(name, **settings):
    """Of a guided call's output by its latents, as somebody has it who steers by a loss."""
    pipe = bare(name)
    latents = torch.randn(1, *pipe.case.latents, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_()
    pipe.scheduler.set_timesteps(2)
    with torch.enable_grad(), nag.guide(pipe, NEGATIVE, **STRONG, **settings):
        texts = pipe.texts([PROMPT])
        arguments = pipe.case.arguments(latents, pipe.scheduler.timesteps[0])
        out = pipe.transformer(**arguments | pipe.case.deliver(texts, latents))
        pipe.case.out(out).square().sum().backward()
    return latents.grad


@pytest.mark.parametrize("name", JOINT_CASES)
def test_gradients_are_those_of_two_passes(name):
    exact = gradient(name, exact=True)
    assert exact.abs().max() > 0
    close(gradient(name), exact, 1e-3)


# --- masks


@contextlib.contextmanager
def masks_seen(pipe, into: list):
    """Every mask that reaches PyTorch's attention in the denoiser, whichever op takes it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "attention" in function.__name__:
                given = [*args[3:], *(kwargs or {}).values()]
                into.extend(mask for mask in given if isinstance(mask, torch.Tensor))
            return function(*args, **(kwargs or {}))

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for denoiser in families.denoisers_of(pipe):
            forward = denoiser.forward

            def watched(*args, forward=forward, **kwargs):
                with Watch():
                    return forward(*args, **kwargs)

            patch.setattr(denoiser, "forward", watched)
        yield stack


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("name", "cfg"),
    [("pixart", None), ("ltx", 0), ("sana", None), ("chroma", None), ("chroma", 0)],
)
def test_a_mask_that_is_cut_is_memory_of_its_own(name, cfg, exact):
    """Kernels of a GPU read masks in words of 16 bytes, and die of one that begins in between."""
    pipe, seen = pipeline(name), []
    with masks_seen(pipe, seen):
        guided(name, "glasses, beard", cfg, exact=exact)
    assert seen and not [m.shape for m in seen if m.storage_offset() or m.stride(-1) != 1]
