import math

import pytest
import torch
from oracle import naive
from torch.testing import assert_close

from nag import NAGSettings, normalized_attention_guidance


def test_agrees_with_the_paper_in_float64():
    z, w = torch.randn(2, 3, 40, 8), torch.randn(2, 3, 40, 8)
    for s, tau, alpha in ((5, 2.5, 0.25), (3, 1.0, 0.5), (11, 3.5, 1.0)):
        assert_close(
            normalized_attention_guidance(z, w, s, tau, alpha, dim=(1, 3)),
            naive(z, w, s, tau, alpha).float(),
        )
        heads_together = normalized_attention_guidance(
            z.transpose(1, 2).flatten(2), w.transpose(1, 2).flatten(2), s, tau, alpha
        )
        assert_close(heads_together, naive(z, w, s, tau, alpha).float().transpose(1, 2).flatten(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_negative_equal_to_positive_scale_one_and_alpha_zero_change_nothing(dtype):
    z, w = torch.randn(2, 9, 64).to(dtype), torch.randn(2, 9, 64).to(dtype)
    assert torch.equal(normalized_attention_guidance(z, z, 8.0, 1.0, 0.7), z)
    assert torch.equal(normalized_attention_guidance(z, w, 1.0, 2.5, 0.7), z)
    assert torch.equal(normalized_attention_guidance(z, w, 8.0, 2.5, 0.0), z)


def test_half_precision_survives_norms_that_overflow_it():
    z, w = 30 * torch.randn(1, 4, 3072), 30 * torch.randn(1, 4, 3072)
    half = normalized_attention_guidance(z.half(), w.half(), 5.0, 2.5, 0.25)
    assert half.dtype == torch.float16 and half.isfinite().all()
    assert_close(
        half.float(), normalized_attention_guidance(z, w, 5.0, 2.5, 0.25), rtol=2e-3, atol=0.1
    )


def test_rows_of_zeros_stay_finite_and_no_input_is_written_to():
    z, w = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    z[0, 0] = 0
    w[0, :2] = 0
    before = z.clone(), w.clone()
    out = normalized_attention_guidance(z, w, 5.0, 2.5, 1.0)
    assert out.isfinite().all() and torch.equal(out[0, 0], torch.zeros(8))
    assert torch.equal(z, before[0]) and torch.equal(w, before[1])


def test_no_token_grows_beyond_tau():
    z, w = torch.randn(1, 50, 16), torch.randn(1, 50, 16)
    grown = normalized_attention_guidance(z, w, 20.0, 2.5, 1.0).abs().sum(-1) / z.abs().sum(-1)
    assert grown.max() <= 2.5 + 1e-5 and grown.max() > 2.4


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": 0.5},
        {"scale": math.nan},
        {"scale": math.inf},
        {"tau": 0.9},
        {"alpha": 1.1},
        {"alpha": -0.1},
        {"end": 2},
        {"end": "half"},
        {"tau": None},
    ],
)
def test_a_setting_out_of_range_is_named_in_a_sentence(bad):
    with pytest.raises(ValueError, match=f"NAG {next(iter(bad))} must be"):
        NAGSettings(**bad)
