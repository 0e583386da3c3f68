"""The method itself: one pure function, and the settings it takes. Nothing here knows of a model."""

import math
from dataclasses import dataclass

import torch

EPS = 1e-6


def normalized_attention_guidance(z_positive, z_negative, scale: float, tau: float, alpha: float, dim: int | tuple[int, ...] = -1):
    """Attention output guided away from a negative prompt: extrapolate, bound the L1 norm, blend (arXiv 2505.21179, section 3.2).

    ```
    Z~   = Z+ + phi (Z+ - Z-)          phi = scale - 1: the paper's phi is off at 0, our scale at 1
    R    = |Z~|_1 / |Z+|_1             one scalar per image token
    Z^   = min(R, tau) / R * Z~        only shrinks; R <= tau passes through
    Zout = alpha Z^ + (1 - alpha) Z+
    ```

    Args:
        z_positive, z_negative: outputs of the same image queries against the positive and the negative text, all heads
            concatenated, (..., D); or heads apart, with `dim` naming the two dimensions (heads, features).
        scale: >= 1; 1 returns `z_positive`. tau: >= 1, the most that a token's norm may grow; infinity does without the bound.
        alpha: 0 to 1; 0 returns `z_positive`, 1 does without the blend.

    Returns a new tensor of `z_positive`'s shape and dtype. Everything in between is float32: in half precision the norm of
    3072 features overflows from a mean |z| of about 5, and the guidance vanishes without a word.
    """
    dtype, z_positive = z_positive.dtype, z_positive.float()
    # this form, not scale * Z+ - phi * Z-: for Z- == Z+ it is exact
    z_guided = z_positive + (scale - 1) * (z_positive - z_negative.float())
    dims = (dim,) if isinstance(dim, int) else dim
    norm = torch.linalg.vector_norm
    ratio = norm(z_guided, 1, dims, keepdim=True) / norm(z_positive, 1, dims, keepdim=True).clamp_min(EPS)
    z_guided = z_guided * (tau / ratio).clamp_max(1)  # min(R, tau) / R, without 0 / 0 on padding rows; at tau = infinity 1
    return torch.lerp(z_positive, z_guided, alpha).to(dtype)


def negative_away_steer_attention(z_positive, z_negative, scale: float):
    """NASA (arXiv 2412.02687, section 4.2), for comparison: Z+ - phi Z-, with `scale` as phi, off at 0. Shapes as above."""
    return (z_positive.float() - scale * z_negative.float()).to(z_positive.dtype)


METHODS = ("nag", "nasa", "vsf")


@dataclass(frozen=True)
class NAGSettings:
    """How strongly to guide. The only place where the defaults stand; RANGES says what is valid.

    scale: strength of the negative prompt, 1 (off) and up; the paper's phi + 1.
    tau: the most that attention at any point of the picture may grow, 1 and up, in multiples of its un-guided size; infinity is no limit.
    alpha: how much of the guided result is mixed in, 0 (off) to 1.
    end: share of the steps that are guided, 0 (off) to 1. Not the noise level that the authors' code asks for.
    method: "nag", or for comparison "nasa" (Z+ - scale Z-) or "vsf" (value sign flip, arXiv 2508.10931: the negative's values count
        -scale times in one softmax with all others). These two know scale (0, off, and up) and end only.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    end: float = 1.0
    method: str = "nag"

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"NAG method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        for name, (low, high) in (RANGES if self.method == "nag" else OTHER_RANGES).items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high or (name == "scale" and math.isinf(value)):
                limit = f"between {low:g} and {high:g}" if math.isfinite(high) else f"a {'' if name == 'tau' else 'finite '}number from {low:g} up"
                raise ValueError(f"NAG {name} must be {limit}, got {value!r}.")

    @property
    def off(self) -> bool:
        """Whether these settings mean: do not touch anything."""
        return self.end == 0 or (self.scale == 1 or self.alpha == 0 if self.method == "nag" else self.scale == 0)

    def blend(self, z_positive, z_negative, dim):
        """The guided output. For "vsf", `z_negative` is that output already: it is made by the attention, not behind it."""
        if self.method == "vsf":
            return z_negative.to(z_positive.dtype)
        if self.method == "nasa":
            return negative_away_steer_attention(z_positive, z_negative, self.scale)
        return normalized_attention_guidance(z_positive, z_negative, self.scale, self.tau, self.alpha, dim=dim)


RANGES = {"scale": (1.0, math.inf), "tau": (1.0, math.inf), "alpha": (0.0, 1.0), "end": (0.0, 1.0)}
OTHER_RANGES = {"scale": (0.0, math.inf), "end": (0.0, 1.0)}
