"""The rival methods, for comparison, and the choice between them and NAG."""

from .formula import normalized_attention_guidance
from .settings import NAGSettings


def negative_away_steer_attention(z_positive, z_negative, scale: float):
    """NASA (arXiv 2412.02687, section 4.2), for comparison: Z+ - phi Z-, with `scale` as phi, off at 0. Shapes as above."""
    return (z_positive.float() - scale * z_negative.float()).to(z_positive.dtype)


def blend(settings: NAGSettings, z_positive, z_negative, dim):
    """The guided output by whichever method. For "vsf", `z_negative` is that output already: it is made by the attention, not behind it."""
    if settings.method == "vsf":
        return z_negative.to(z_positive.dtype)
    if settings.method == "nasa":
        return negative_away_steer_attention(z_positive, z_negative, settings.scale)
    return normalized_attention_guidance(
        z_positive, z_negative, settings.scale, settings.tau, settings.alpha, dim=dim
    )
