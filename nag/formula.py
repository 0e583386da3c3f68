"""The method itself: one pure function on tensors. Nothing here knows of a model."""

import torch

EPS = 1e-6


def normalized_attention_guidance(
    z_positive: torch.Tensor,
    z_negative: torch.Tensor,
    scale: float,
    tau: float,
    alpha: float,
    dim: int | tuple[int, ...] = -1,
) -> torch.Tensor:
    """Attention output guided away from a negative prompt: extrapolate, bound the L1 norm, blend
    (arXiv 2505.21179, section 3.2).

    ```
    Z~   = Z+ + phi (Z+ - Z-)          phi = scale - 1: the paper's phi is off at 0, our scale at 1
    R    = |Z~|_1 / |Z+|_1             one scalar per image token
    Z^   = min(R, tau) / R * Z~        only shrinks; R <= tau passes through
    Zout = alpha Z^ + (1 - alpha) Z+
    ```

    Args:
        z_positive, z_negative: outputs of the same image queries against the positive and the
            negative text, all heads concatenated, (..., D); or heads apart, with `dim` naming the
            two dimensions (heads, features).
        scale: >= 1; 1 returns `z_positive`.
        tau: >= 1, the most that a token's norm may grow; infinity does without the bound.
        alpha: 0 to 1; 0 returns `z_positive`, 1 does without the blend.

    Returns a new tensor of `z_positive`'s shape and dtype. Everything in between is float32: in
    half precision the norm of 3072 features overflows from a mean |z| of about 5, and the guidance
    vanishes without a word.
    """
    dtype, z_positive = z_positive.dtype, z_positive.float()
    # Z- + scale (Z+ - Z-) in one pass, and exact for Z- == Z+
    z_guided = torch.lerp(z_negative.float(), z_positive, scale)
    ratio = l1_norm(z_guided, dim) / l1_norm(z_positive, dim).clamp_min(EPS)
    # min(R, tau) / R, without 0 / 0 on padding rows; at tau = infinity 1
    z_guided = z_guided * (tau / ratio).clamp_max(1)
    return torch.lerp(z_positive, z_guided, alpha).to(dtype)


def l1_norm(z: torch.Tensor, dim: int | tuple[int, ...]) -> torch.Tensor:
    """The sum of |z| over `dim`, which is kept with size 1."""
    if z.device.type == "cpu":  # where `vector_norm` takes four times as long as two passes
        return z.abs().sum(dim, keepdim=True)
    return torch.linalg.vector_norm(z, 1, dim, keepdim=True)
