"""Merge, formula and blend of one guided attention as a Triton kernel. Imported by `nag/fused.py`
where a GPU is at hand: Triton comes with PyTorch's builds for CUDA on Linux, not with others.

Without it a guided layer reads and writes its output about ten times. Here one program has all
heads of one token in registers (the norm is over all of them): it reads each part once and writes
once. Runs on a processor, slowly, under TRITON_INTERPRET=1.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from .formula import EPS
from .kernels import Answer
from .settings import NAGSettings

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

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
    # torch.compile hands numbers over in float64, and all that they touch would be computed so
    scale = tl.cast(scale, tl.float32)
    tau = tl.cast(tau, tl.float32)
    alpha = tl.cast(alpha, tl.float32)
    program = tl.program_id(0).to(tl.int64)
    row = program // tokens
    token = program % tokens
    head = tl.arange(0, HEADS).to(tl.int64)
    feature = tl.arange(0, FEATURES)
    guided = (row >= first_row) & (row < last_row)
    real = head < heads
    label = 0
    if MERGE:
        label = tl.load(labels + token).to(tl.int32)
    # heads that are read of a part: all, or none where a text's own tokens do not ask it
    of_text = head < tl.where(label != 2, heads, 0)
    asked = head < tl.where(guided & (label != 1), heads, 0)
    inside = real[:, None] & (feature < features)[None, :]
    of_text_inside = of_text[:, None] & (feature < features)[None, :]
    asked_inside = asked[:, None] & (feature < features)[None, :]

    at = row * row_stride + token * token_stride + head[:, None] * head_stride + feature[None, :]
    of_negative = at - first_row * row_stride
    z_positive = tl.load(positive + at, mask=of_text_inside, other=0.0).to(tl.float32)
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
        z = tl.where(label == 1, z_positive, z)
        z = tl.where(label == 2, tl.where(guided, z_negative, 0.0), z)
    place = program * heads * features + head[:, None] * features + feature[None, :]
    tl.store(out + place, z.to(out.dtype.element_ty), mask=inside)


# (device, dtypes, sizes, strides, ...) -> the kernel that Triton compiled for such arguments. It
# takes Triton longer to find it again than all else in a guided layer takes, and steps of small
# models on fast GPUs wait for Python. None where this Triton's kernels are called otherwise.
compiled: dict | None = {}


def steer(
    positive: torch.Tensor | Answer,
    negative: torch.Tensor | Answer,
    rows: slice,
    settings: NAGSettings,
    image: Answer | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `nag.fused.steer`. One launch where outputs have like strides, and log-sum-exps."""
    if image is not None:
        outputs, lses = zip(image, positive, negative, strict=True)
        read = *alike(*outputs), *alike(*lses), labels
        z, lse, order = read[0], read[3], MERGED
    else:
        read = alike(positive, negative)
        z, lse, order = read[0], read[0], ALONE
    batch, heads, tokens, features = z.shape
    out = z.new_empty(batch, tokens, heads, features)
    sizes = heads, features, *z.stride()[:3], *lse.stride()[:3], image is not None
    numbers = tokens, *sizes[:-1], rows.start, rows.stop
    strengths = float(settings.scale), float(settings.tau), float(settings.alpha)
    launch((batch * tokens, 1, 1), read, order, out, (*numbers, *strengths), sizes)
    return out.transpose(1, 2)


# the kernel's first arguments, among the tensors that are read: without MERGE most go unread
MERGED, ALONE = tuple(range(7)), (0, 0, 1, 0, 0, 0, 0)


def launch(
    grid: tuple, read: tuple, order: tuple, out: torch.Tensor, numbers: tuple, sizes: tuple
) -> None:
    """Runs the kernel.

    read: the tensors that are read; order: which of them is which of the kernel's first arguments.
    numbers: its scalar arguments, in order. sizes: those of them, and of the constants, for which
    Triton compiles a kernel of its own; with device, dtypes and the tensors' alignment they are the
    key of `compiled`.
    """
    if torch.compiler.is_compiling() or compiled is None:
        return launch_by_triton(grid, read, order, out, numbers, sizes)
    device = out.device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # the one that Triton launches on
            return launch(grid, read, order, out, numbers, sizes)
    places = [tensor.data_ptr() for tensor in read]
    odd = tuple([i for i, place in enumerate(places) if place % 16])
    key = device, out.dtype, read[-2].dtype, sizes, odd  # merged, the last but one is an lse
    kernel = compiled.get(key)
    if kernel is None:  # under Triton's interpreter it stays so
        compiled[key] = launch_by_triton(grid, read, order, out, numbers, sizes)
        return
    try:  # addresses, not tensors: Triton would ask the driver for each whose it is
        addresses = [places[i] for i in order]
        kernel[grid](*addresses, out.data_ptr(), *numbers, *constants_of(sizes))
    except TypeError:  # an older Triton's wants other arguments, and has not begun
        disuse()
        launch_by_triton(grid, read, order, out, numbers, sizes)


def disuse() -> None:
    global compiled
    compiled = None


def constants_of(sizes: tuple) -> tuple:
    """The last arguments of the kernel: EPS, MERGE, HEADS, FEATURES."""
    heads, features, *_, merge = sizes
    return EPS, merge, triton.next_power_of_2(heads), triton.next_power_of_2(features)


def launch_by_triton(
    grid: tuple, read: tuple, order: tuple, out: torch.Tensor, numbers: tuple, sizes: tuple
) -> "CompiledKernel | None":
    """As Triton does it: it finds the kernel for such arguments, or compiles it, and returns it."""
    eps, merge, heads, features = constants_of(sizes)
    return steer_kernel[grid](
        *[read[i] for i in order],
        out,
        *numbers,
        EPS=eps,
        MERGE=merge,
        HEADS=heads,
        FEATURES=features,
        num_warps=min(16, max(4, heads * features // 512)),
    )


def alike(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors (B, H, N, D) or (B, H, N), or contiguous copies where their strides differ. The
    first dimension may differ too: of one row no stride is asked."""
    first, *others = tensors
    strides, together = first.stride(), first.ndim == 3 or first.stride(-1) == 1
    if together and all([x.stride() == strides for x in others]):
        return tensors
    same = all(
        x.stride()[1:] == strides[1:] and (x.shape[0] == 1 or x.stride(0) == strides[0])
        for x in others
    )
    return tensors if same and together else tuple(x.contiguous() for x in tensors)
