"""Attention in parts, merged: what one pass over all keys gives."""

import pytest
import torch
import torch.nn.functional as F
from denoisers import bare
from tiny import NEGATIVE, PROMPT
from torch.nn.attention import SDPBackend

import nag
from nag import fused, kernels
from nag.attention_processor import GuidedAttention
from nag.segments import Inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_two_parts_merged_are_one_attention(dtype, mask):
    q, k, v = (torch.randn(2, 4, n, 64, dtype=torch.float64) for n in (50, 70, 70))
    keep = torch.ones(2, 1, 1, 70, dtype=torch.bool)
    if mask:
        keep[0, ..., 30:60] = False
        keep[1, ..., :20] = False  # of the second row's first part nothing is left
    expected = F.scaled_dot_product_attention(q, k, v, keep)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    given = {
        None: None,
        "bool": keep,
        "float": torch.zeros(keep.shape).masked_fill(~keep, float("-inf")).to(dtype),
    }[mask]
    inputs = Inputs(q, k, v, given)
    assert kernels.able(inputs)
    parts = [kernels.attend(inputs.seen([part])) for part in ((0, 20), (20, 50))]
    error = (kernels.merge(*parts) - expected).abs().max()
    whole = (F.scaled_dot_product_attention(q, k, v, given) - expected).abs().max()
    assert error <= 1.5 * whole + 1e-6
    if dtype == torch.float32:
        assert error < 1e-5


def test_several_query_heads_may_share_a_key_head():
    q, k, v = torch.randn(2, 6, 50, 64), torch.randn(2, 2, 70, 64), torch.randn(2, 2, 70, 64)
    inputs = Inputs(q, k, v)
    assert kernels.able(inputs)
    merged = kernels.merge(*[kernels.attend(inputs.seen([at])) for at in ((0, 20), (20, 50))])
    assert (merged - F.scaled_dot_product_attention(q, k, v, enable_gqa=True)).abs().max() < 1e-5


def test_where_no_kernel_can_there_are_two_passes():
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 3, 5, 8)
    assert not kernels.able(Inputs(q, k, k))  # query heads that cannot be shared out
    differs = torch.zeros(1, 1, 5, 5)  # from query to query
    assert not kernels.able(Inputs(q, q, q, differs))
    assert not kernels.able(Inputs(*[x.to("meta") for x in (q, q, q)]))


def test_a_kernel_is_used_only_where_it_was_seen_to_be_right(monkeypatch):
    """As a GPU's are chosen; here the processor stands in for one, whose own choice comes first."""

    def broken(*_):
        raise RuntimeError("No available kernel.")

    def wrong_base(*arguments):  # a log-sum-exp to the base of 2
        out, sums = kernels._cpu(*arguments)
        return out, sums / 0.6931

    def no_masks(inputs, scale):
        if inputs.mask is not None:
            raise ValueError("Takes no mask.")
        return kernels._cpu(inputs, scale)

    def decided(*candidates):
        monkeypatch.setattr(kernels, "chosen", {})
        names = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, "third"
        monkeypatch.setitem(kernels.KERNELS, "cpu", dict(zip(names, candidates, strict=False)))
        kernels.prepare("cpu")
        return kernels.chosen

    assert set(decided(kernels._cpu).values()) == {kernels._cpu}
    assert set(decided(broken, wrong_base).values()) == {None}
    x = torch.randn(1, 4, 5, 8)
    assert not kernels.able(Inputs(x, x, x))
    assert decided(broken, no_masks, kernels._cpu) == {
        ("cpu", dtype, masked, wide): kernels._cpu if masked else no_masks
        for dtype in kernels.DTYPES
        for masked in (False, True)
        for wide in (False, True)
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (SDPBackend.CUDNN_ATTENTION, ["_cudnn", "_flash", "_efficient"]),
        (SDPBackend.FLASH_ATTENTION, ["_flash", "_cudnn", "_efficient"]),
        (SDPBackend.EFFICIENT_ATTENTION, ["_efficient", "_cudnn", "_flash"]),
        (SDPBackend.MATH, []),  # somebody has switched the others off
    ],
)
def test_the_kernel_that_pytorch_would_choose_is_tried_first(choice, expected, monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "cpu", kernels.KERNELS["cuda"])
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: choice.value)
    x = torch.randn(1, 4, 5, 8)
    assert [kernel.__name__ for kernel in kernels._candidates(Inputs(x, x, x))] == expected
    monkeypatch.delattr(torch, "_fused_sdp_choice")  # of another PyTorch
    assert len(kernels._candidates(Inputs(x, x, x))) == 3


def test_the_kernels_of_a_gpu_return_what_is_expected_of_their_shapes():
    """Their schema alone: a GPU decides the rest when it is met."""
    q, k = (torch.empty(2, 4, n, 64, dtype=torch.bfloat16, device="meta") for n in (50, 70))
    mask = torch.empty(2, 1, 1, 70, dtype=torch.bfloat16, device="meta")
    for kernel, given in (
        (kernels._cudnn, None),
        (kernels._flash, None),
        (kernels._efficient, None),
        (kernels._efficient, mask),
    ):
        out, sums = kernel(Inputs(q, k, k, given), None)
        assert (
            out.shape == (2, 4, 50, 64) and sums.shape == (2, 4, 50) and sums.dtype == torch.float32
        )


@pytest.mark.parametrize(
    "name", ["FluxTransformer2DModel", "SD3Transformer2DModel", "QwenImageTransformer2DModel"]
)
def test_in_bfloat16_the_error_is_no_larger_than_in_two_passes(name):
    """Of one guided denoiser call, against float32."""
    import copy

    pipe = bare(name)
    latents = torch.randn(1, *pipe.case.latents)

    def outputs(denoiser, dtype, **options):
        other = type(pipe)(pipe.case, denoiser)

        def cast(values):
            return {
                n: v.to(dtype)
                if isinstance(v, torch.Tensor) and v.is_floating_point() and n != "timestep"
                else v
                for n, v in values.items()
            }

        with (
            nag.guide(other, "with big glasses", scale=8.0, tau=3.0, alpha=0.7, **options),
            torch.no_grad(),
        ):
            texts = other.texts("a portrait of a pirate")
            other.scheduler.set_timesteps(1)
            return denoiser(
                **cast(pipe.case.arguments(latents, torch.tensor(500.0))), **cast(texts)
            )[0].float()

    expected = outputs(pipe.transformer, torch.float32, exact=True)
    half = copy.deepcopy(pipe.transformer).to(torch.bfloat16)
    errors = {
        exact: (outputs(half, torch.bfloat16, exact=exact) - expected).norm()
        for exact in (True, False)
    }
    assert 0 < errors[False] <= 1.5 * errors[True], errors


@pytest.mark.parametrize(
    "name",
    [
        "ChromaTransformer2DModel",
        "HunyuanVideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "QwenImageTransformer2DModel",
    ],
)
def test_a_mask_that_a_gpu_gets_is_memory_of_its_own(name, monkeypatch):
    """Cut out of a packed one it may begin between two words, which ends a process there
    (`CUDA error: misaligned address`). The processor takes a GPU's ways."""
    masks, guided, run = [], GuidedAttention._guided, kernels._run

    def spied(layer, op, *rest):
        def seen(query, key, value, mask):
            masks.append(mask)
            return op(query, key, value, mask)

        return guided(layer, seen, *rest)

    monkeypatch.setattr(GuidedAttention, "_guided", spied)
    monkeypatch.setattr(
        kernels, "_run", lambda k, i, scale: masks.append(i.mask) or run(k, i, scale)
    )
    monkeypatch.setitem(fused.launchers, "cpu", fused.in_torch)
    pipe = bare(name)
    for exact in (False, True):
        with nag.guide(pipe, NEGATIVE, exact=exact):
            pipe(PROMPT, steps=1)
    masks = [mask for mask in masks if mask is not None]
    assert masks
    for mask in masks:
        assert mask.storage_offset() == 0 and mask.is_contiguous()
