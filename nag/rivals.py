"""Rival methods for research, in the place of NAG, and the choice between them.

Two of them change what attention returns (`blend`), two the attention itself (`in_one_softmax`).
Adaptive projected guidance changes CFG and stands in `nag/guidance/projected.py`.
"""

import torch

from .formula import EPS, normalized_attention_guidance
from .segments import Inputs, Op, Pieces, Segments, take
from .settings import NAGSettings

# methods in whose attention image and negative text meet in one softmax
IN_ONE_SOFTMAX = ("vsf", "negpip")


def negative_away_steer_attention(
    z_positive: torch.Tensor, z_negative: torch.Tensor, scale: float
) -> torch.Tensor:
    """NASA (arXiv 2412.02687, section 4.2): Z+ - phi Z-, with `scale` as phi, off at 0.

    z_positive, z_negative: as in `normalized_attention_guidance`, whose place it takes.
    """
    return (z_positive.float() - scale * z_negative.float()).to(z_positive.dtype)


def orthogonal_negative_guidance(
    z_positive: torch.Tensor, z_negative: torch.Tensor, scale: float, dim: int | tuple[int, ...]
) -> torch.Tensor:
    """Orthogonal Negative Guidance (arXiv 2605.29390): of Z- only what is orthogonal to Z+ is taken
    away, Z+ - scale (Z- - <Z-, Z+> / <Z+, Z+> Z+), off at scale 0.

    From the abstract: attention outputs, "orthogonalizes negative-prompt features with respect to
    positive-prompt features and subtracts only the orthogonal component". Ours, for the paper's
    equations were not at hand: one product for each image token over `dim`, which is all heads
    together as in NAG's norm; every layer and step; cross-attention beside joint.

    z_positive, z_negative: as in `normalized_attention_guidance`, whose place it takes.
    """
    z, w = z_positive.float(), z_negative.float()
    share = (w * z).sum(dim, keepdim=True) / z.square().sum(dim, keepdim=True).clamp_min(EPS)
    return (z - scale * (w - share * z)).to(z_positive.dtype)


def in_one_softmax(
    op: Op, inputs: Inputs, queries: Segments, keys: Segments, settings: NAGSettings
) -> tuple[Pieces, torch.Tensor]:
    """One softmax over all that is attended and the negative text, whose values count -scale times
    -> the queries that are answered so, and their answers (B, H, N, D).

    "vsf": value sign flip (arXiv 2508.10931, section 3, and the authors' code for SD3). The image's
    queries alone see the flipped values, by logits that are `bias` lower, and each text is left to
    itself, as `GuidedAttention.joint` has it. The negative has no padding (`guide` cuts it). Ours:
    the same in cross-attention, where the authors have several forms.

    "negpip": like NegPiP (github.com/hako-mikan/sd-webui-negpip), which has no paper: the
    negative's words, appended to the prompt, with a negative weight on their values, and no bias.
    In joint attention every query sees them, the texts' too, as tokens of one prompt would. Ours:
    the words are encoded alone, and what begins and ends their text is left out, which NegPiP
    appends with a positive weight.
    """
    alone = settings.method == "vsf"
    asking = queries.image if alone else [piece[:2] for piece in queries.labelled]
    seen, count = keys.with_positive + keys.negative, sum(n for _, n in keys.negative)
    flipped = take(inputs.value, keys.negative) * -settings.scale
    chosen = inputs.seen(seen, asking)
    value = torch.cat([take(inputs.value, keys.with_positive), flipped], 2)
    mask = lowered(chosen, count, settings.bias) if alone and settings.bias else chosen.mask
    return asking, op(*chosen._replace(value=value, mask=mask))


def lowered(inputs: Inputs, count: int, bias: float) -> torch.Tensor:
    """The mask of `inputs`, by which the logits of the last `count` keys are `bias` lower."""
    mask, (_, _, keys, _) = inputs.mask, inputs.key.shape
    row = inputs.query.new_zeros(1, 1, 1, keys)
    row[..., keys - count :] = -bias
    if mask is None:
        return row
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=row.dtype).masked_fill(~mask, -torch.inf)
    return mask + row


def blend(
    settings: NAGSettings,
    z_positive: torch.Tensor,
    z_negative: torch.Tensor,
    dim: int | tuple[int, ...],
) -> torch.Tensor:
    """The guided output by whichever method; of shape and dtype of `z_positive`.

    Those of `in_one_softmax` are made by the attention itself: here nothing changes.
    """
    match settings.method:
        case "nasa":
            return negative_away_steer_attention(z_positive, z_negative, settings.scale)
        case "ong":
            return orthogonal_negative_guidance(z_positive, z_negative, settings.scale, dim)
        case "nag":
            return normalized_attention_guidance(
                z_positive, z_negative, settings.scale, settings.tau, settings.alpha, dim=dim
            )
    return z_positive
