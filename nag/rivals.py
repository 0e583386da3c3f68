"""Two rival methods for research, in the place of NAG, and the choice between the three."""

import torch

from .formula import normalized_attention_guidance
from .segments import Inputs, Op, Segments, take
from .settings import NAGSettings


def negative_away_steer_attention(
    z_positive: torch.Tensor, z_negative: torch.Tensor, scale: float
) -> torch.Tensor:
    """NASA (arXiv 2412.02687, section 4.2): Z+ - phi Z-, with `scale` as phi, off at 0.

    z_positive, z_negative: as in `normalized_attention_guidance`, whose place it takes.
    """
    return (z_positive.float() - scale * z_negative.float()).to(z_positive.dtype)


def value_sign_flip(
    op: Op, inputs: Inputs, queries: Segments, keys: Segments, scale: float
) -> torch.Tensor:
    """Value sign flip (arXiv 2508.10931): one softmax over all that the image attends and the
    negative text, whose values count -scale times -> the image's tokens (B, H, I, D)."""
    seen = keys.with_positive + keys.negative
    flipped = take(inputs.value, keys.negative) * -scale
    value = torch.cat([take(inputs.value, keys.with_positive), flipped], 2)
    return op(*inputs.seen(seen, queries.image)._replace(value=value))


def blend(
    settings: NAGSettings,
    z_positive: torch.Tensor,
    z_negative: torch.Tensor,
    dim: int | tuple[int, ...],
) -> torch.Tensor:
    """The guided output by whichever method; of shape and dtype of `z_positive`.

    Value sign flip is made by the attention itself, and not behind it: here nothing changes.
    """
    if settings.method == "vsf":
        return z_positive
    if settings.method == "nasa":
        return negative_away_steer_attention(z_positive, z_negative, settings.scale)
    return normalized_attention_guidance(
        z_positive, z_negative, settings.scale, settings.tau, settings.alpha, dim=dim
    )
