"""Merge, formula and blend of one guided attention as a Triton kernel. Imported by `nag/fused.py`
where a GPU is at hand: Triton comes with PyTorch's builds for CUDA on Linux, not with others.

Without it a guided layer reads and writes its output about ten times. Here one program has all
heads of one token in registers (the norm is over all of them): it reads each part once and writes
once. Runs on a processor, slowly, under TRITON_INTERPRET=1.
"""

import contextlib

import torch
import triton
import triton.language as tl

from .formula import EPS
from .kernels import Answer
from .settings import NAGSettings

# of the kernel's arguments, those that change from call to call: not to be compiled into it
VARYING = ["tokens", "first_row", "last_row"]


@triton.jit(do_not_specialize=VARYING)
def steer_kernel(
    image,  # three outputs of attention, all with the strides below
    positive,
    negative,  # its first row is `first_row`
    image_lse,  # and their log-sum-exps
    positive_lse,
    negative_lse,
    labels,  # of every token: 0 image, 1 positive text, 2 negative text
    out,  # (rows, tokens, heads, features), contiguous
    tokens,
    heads,
    features,
    row_stride,
    head_stride,
    token_stride,
    lse_row_stride,
    lse_head_stride,
    lse_token_stride,
    first_row,  # conditional are the rows from here
    last_row,  # to before this one
    scale,
    tau,
    alpha,
    EPS: tl.constexpr,
    MERGE: tl.constexpr,  # positive and negative are of the text alone, to be merged with image
    HEADS: tl.constexpr,  # powers of two, the next above
    FEATURES: tl.constexpr,
):
    """One token of one row; see `nag.fused.steer`. Offsets have 64 bits."""
    program = tl.program_id(0).to(tl.int64)
    row = program // tokens
    token = program % tokens
    head = tl.arange(0, HEADS).to(tl.int64)
    feature = tl.arange(0, FEATURES)
    guided = (row >= first_row) & (row < last_row)
    real = head < heads
    asked = head < tl.where(guided, heads, 0)  # what is read of the negative: here all, or nothing
    inside = real[:, None] & (feature < features)[None, :]
    asked_inside = asked[:, None] & (feature < features)[None, :]

    at = row * row_stride + token * token_stride + head[:, None] * head_stride + feature[None, :]
    of_negative = at - first_row * row_stride
    z_positive = tl.load(positive + at, mask=inside, other=0.0).to(tl.float32)
    z_negative = tl.load(negative + of_negative, mask=asked_inside, other=0.0).to(tl.float32)
    if MERGE:
        at_lse = row * lse_row_stride + token * lse_token_stride + head * lse_head_stride
        of_negative = at_lse - first_row * lse_row_stride
        z_image = tl.load(image + at, mask=inside, other=0.0).to(tl.float32)
        lse = tl.load(image_lse + at_lse, mask=real, other=0.0)
        lse_positive = tl.load(positive_lse + at_lse, mask=real, other=0.0)
        lse_negative = tl.load(negative_lse + of_negative, mask=asked, other=0.0)
        z_positive += tl.sigmoid(lse - lse_positive)[:, None] * (z_image - z_positive)
        z_negative += tl.sigmoid(lse - lse_negative)[:, None] * (z_image - z_negative)

    z_guided = z_positive + (scale - 1.0) * (z_positive - z_negative)
    norm = tl.sum(tl.sum(tl.abs(z_positive), 1), 0)
    ratio = tl.sum(tl.sum(tl.abs(z_guided), 1), 0) / tl.maximum(norm, EPS)
    z_guided = z_guided * tl.minimum(tau / ratio, 1.0)
    z_guided = z_positive + alpha * (z_guided - z_positive)
    z = tl.where(guided, z_guided, z_positive)
    if MERGE:
        label = tl.load(labels + token)
        z = tl.where(label == 1, z_positive, z)
        z = tl.where(label == 2, tl.where(guided, z_negative, 0.0), z)
    place = program * heads * features + head[:, None] * features + feature[None, :]
    tl.store(out + place, z.to(out.dtype.element_ty), mask=inside)


def steer(
    positive: torch.Tensor | Answer,
    negative: torch.Tensor | Answer,
    rows: slice,
    settings: NAGSettings,
    image: Answer | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `nag.fused.steer`. One launch where outputs have like strides, and log-sum-exps."""
    merge = image is not None
    if merge:
        outputs, lses = zip(image, positive, negative, strict=True)
        z, lse = alike(*outputs), alike(*lses)
    else:
        z, lse = alike(positive, positive, negative), (positive,) * 3
    batch, heads, tokens, features = z[1].shape
    out = z[1].new_empty(batch, tokens, heads, features)
    lanes = triton.next_power_of_2(heads), triton.next_power_of_2(features)
    with on_device_of(out):
        steer_kernel[(batch * tokens,)](
            *z,
            *lse,
            labels if merge else positive,
            out,
            tokens,
            heads,
            features,
            *z[1].stride()[:3],
            *lse[1].stride()[:3],
            rows.start,
            rows.stop,
            settings.scale,
            settings.tau,
            settings.alpha,
            EPS=EPS,
            MERGE=merge,
            HEADS=lanes[0],
            FEATURES=lanes[1],
            num_warps=min(16, max(4, lanes[0] * lanes[1] // 512)),
        )
    return out.transpose(1, 2)


def alike(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors (B, H, N, D) or (B, H, N), or contiguous copies where their strides differ. The
    first dimension may differ too: of one row no stride is asked."""
    first = tensors[0]
    same = all(
        x.stride()[1:] == first.stride()[1:] and (len(x) == 1 or x.stride(0) == first.stride(0))
        for x in tensors
    )
    features_together = first.ndim == 3 or first.stride(-1) == 1
    return tensors if same and features_together else tuple(x.contiguous() for x in tensors)


def on_device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current GPU, of several perhaps another; torch.compile sees to it."""
    if tensor.device.type == "cpu" or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
