"""The method itself: one pure function, and the settings it takes. Nothing here knows of a model."""

import math
from dataclasses import dataclass, fields

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
        scale: >= 1; 1 returns `z_positive`. tau: >= 1, the most that a token's norm may grow. alpha: 0 to 1; 0 returns `z_positive`.

    Returns a new tensor of `z_positive`'s shape and dtype. Everything in between is float32: in half precision the norm of
    3072 features overflows from a mean |z| of about 5, and the guidance vanishes without a word.
    """
    dtype, z_positive = z_positive.dtype, z_positive.float()
    # this form, not scale * Z+ - phi * Z-: for Z- == Z+ it is exact
    z_guided = z_positive + (scale - 1) * (z_positive - z_negative.float())
    dims = (dim,) if isinstance(dim, int) else dim
    norm = torch.linalg.vector_norm
    ratio = norm(z_guided, 1, dims, keepdim=True) / norm(z_positive, 1, dims, keepdim=True).clamp_min(EPS)
    z_guided = z_guided * (tau / ratio.clamp_min(tau))  # min(R, tau) / R, without 0 / 0 on padding rows
    return torch.lerp(z_positive, z_guided, alpha).to(dtype)


@dataclass(frozen=True)
class NAGSettings:
    """How strongly to guide. The only place where the defaults stand; `NAGSettings.ranges` says what is valid.

    scale: strength of the negative prompt, 1 (off) and up; the paper's phi + 1.
    tau: the most that attention at any point of the picture may grow, 1 and up, in multiples of its un-guided size.
    alpha: how much of the guided result is mixed in, 0 (off) to 1.
    end: share of the steps that are guided, 0 (off) to 1. Not the noise level that the authors' code asks for.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    end: float = 1.0

    def __post_init__(self):
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), RANGES[field.name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
                limit = f"between {low:g} and {high:g}" if math.isfinite(high) else f"a finite number from {low:g} up"
                raise ValueError(f"NAG {field.name} must be {limit}, got {value!r}.")

    @property
    def off(self) -> bool:
        """Whether these settings mean: do not touch anything."""
        return self.scale == 1 or self.alpha == 0 or self.end == 0


RANGES = {"scale": (1.0, math.inf), "tau": (1.0, math.inf), "alpha": (0.0, 1.0), "end": (0.0, 1.0)}
