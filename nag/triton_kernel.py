"""Merge, formula and blend of one guided attention as Triton kernels. Imported by `nag/fused.py`
where a GPU is at hand: Triton comes with PyTorch's builds for CUDA on Linux, not with others.

Without them a guided layer reads and writes its output about ten times. Here one program has all
heads of one token in registers (the norm is over all of them): it reads each part once and writes
once. Runs on a CPU, slowly, under TRITON_INTERPRET=1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl
from triton.runtime import driver

from .formula import EPS
from .kernels import Answer
from .segments import Segments
from .settings import NAGSettings

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

# of a kernel's arguments, those that change from call to call: not to be compiled into it
VARYING = ["tokens", "first_row", "last_row"]


@triton.jit
def guided(z_positive, z_negative, scale, tau, alpha, EPS: tl.constexpr):
    """The formula for one token, (heads, features) in float32; see `nag.formula`."""
    # torch.compile hands numbers over in float64, and all that they touch would be computed so
    scale = tl.cast(scale, tl.float32)
    tau = tl.cast(tau, tl.float32)
    alpha = tl.cast(alpha, tl.float32)
    z = z_positive + (scale - 1.0) * (z_positive - z_negative)
    norm = tl.sum(tl.sum(tl.abs(z_positive), 1), 0)
    ratio = tl.sum(tl.sum(tl.abs(z), 1), 0) / tl.maximum(norm, EPS)
    z = z * tl.minimum(tau / ratio, 1.0)
    return z_positive + alpha * (z - z_positive)


@triton.jit(do_not_specialize=VARYING)
def steer_kernel(
    positive,  # outputs of attention, with the strides below
    negative,  # its first row is `first_row`
    out,  # (rows, tokens, heads, features), contiguous
    tokens,
    heads,
    features,
    row_stride,
    head_stride,
    token_stride,
    negative_row_stride,
    negative_head_stride,
    negative_token_stride,
    first_row,  # conditional are the rows from here
    last_row,  # to before this one
    scale,
    tau,
    alpha,
    EPS: tl.constexpr,
    HEADS: tl.constexpr,  # powers of two, the next above
    FEATURES: tl.constexpr,
):
    """One token of one row, without a merge; see `nag.fused.steer`. Offsets have 64 bits."""
    program = tl.program_id(0).to(tl.int64)
    row = program // tokens
    token = program % tokens
    head = tl.arange(0, HEADS).to(tl.int64)[:, None]
    feature = tl.arange(0, FEATURES)[None, :]
    asked = (row >= first_row) & (row < last_row)
    real = (head < heads) & (feature < features)
    real_asked = (head < tl.where(asked, heads, 0)) & (feature < features)

    place = row * row_stride + token * token_stride + head * head_stride + feature
    z_positive = tl.load(positive + place, mask=real, other=0.0).to(tl.float32)
    place = (row - first_row) * negative_row_stride + token * negative_token_stride
    place = place + head * negative_head_stride + feature
    z_negative = tl.load(negative + place, mask=real_asked, other=0.0).to(tl.float32)
    z = guided(z_positive, z_negative, scale, tau, alpha, EPS)
    z = tl.where(asked, z, z_positive)
    place = program * heads * features + head * features + feature
    tl.store(out + place, z.to(out.dtype.element_ty), mask=real)


@triton.jit
def merged(
    text,
    text_lse,
    row,
    token,
    row_stride,
    head_stride,
    token_stride,
    lse_row_stride,
    lse_head_stride,
    lse_token_stride,
    head,
    feature,
    heads,
    features,
    z_image,
    image_lse,
):
    """What a token gets of a text and of the image together, (heads, features) in float32. heads: 0
    where it asks the text nothing."""
    place = row * row_stride + token * token_stride + head[:, None] * head_stride + feature[None, :]
    real = (head < heads)[:, None] & (feature < features)[None, :]
    z = tl.load(text + place, mask=real, other=0.0).to(tl.float32)
    place = row * lse_row_stride + token * lse_token_stride + head * lse_head_stride
    lse = tl.load(text_lse + place, mask=head < heads, other=0.0)
    return z + tl.sigmoid(image_lse - lse)[:, None] * (z_image - z)


@triton.jit(do_not_specialize=[*VARYING, "positive_from", "negative_from"])
def merge_kernel(
    image,  # outputs of attention, and their log-sum-exps
    image_lse,
    positive,
    positive_lse,
    negative,  # its first row is `first_row`
    negative_lse,
    labels,  # of every token: 0 image, 1 positive text, 2 negative text
    out,  # (rows, tokens, heads, features), contiguous
    tokens,
    heads,
    features,
    image_row_stride,
    image_head_stride,
    image_token_stride,
    image_lse_row_stride,
    image_lse_head_stride,
    image_lse_token_stride,
    positive_row_stride,
    positive_head_stride,
    positive_token_stride,
    positive_lse_row_stride,
    positive_lse_head_stride,
    positive_lse_token_stride,
    negative_row_stride,
    negative_head_stride,
    negative_token_stride,
    negative_lse_row_stride,
    negative_lse_head_stride,
    negative_lse_token_stride,
    positive_from,  # the first token that has asked this text
    negative_from,
    first_row,  # conditional are the rows from here
    last_row,  # to before this one
    scale,
    tau,
    alpha,
    EPS: tl.constexpr,
    HEADS: tl.constexpr,  # powers of two, the next above
    FEATURES: tl.constexpr,
):
    """One token of one row, whose parts are merged first; see `nag.fused.steer`."""
    program = tl.program_id(0).to(tl.int64)
    row = program // tokens
    token = program % tokens
    head = tl.arange(0, HEADS).to(tl.int64)
    feature = tl.arange(0, FEATURES)
    conditional = (row >= first_row) & (row < last_row)
    label = tl.load(labels + token).to(tl.int32)
    real = (head < heads)[:, None] & (feature < features)[None, :]

    place = row * image_row_stride + token * image_token_stride
    place = place + head[:, None] * image_head_stride + feature[None, :]
    z_image = tl.load(image + place, mask=real, other=0.0).to(tl.float32)
    place = row * image_lse_row_stride + token * image_lse_token_stride
    lse = tl.load(image_lse + place + head * image_lse_head_stride, mask=head < heads, other=0.0)
    z_positive = merged(
        positive,
        positive_lse,
        row,
        token - positive_from,
        positive_row_stride,
        positive_head_stride,
        positive_token_stride,
        positive_lse_row_stride,
        positive_lse_head_stride,
        positive_lse_token_stride,
        head,
        feature,
        tl.where(label != 2, heads, 0),
        features,
        z_image,
        lse,
    )
    z_negative = merged(
        negative,
        negative_lse,
        row - first_row,
        token - negative_from,
        negative_row_stride,
        negative_head_stride,
        negative_token_stride,
        negative_lse_row_stride,
        negative_lse_head_stride,
        negative_lse_token_stride,
        head,
        feature,
        tl.where(conditional & (label != 1), heads, 0),
        features,
        z_image,
        lse,
    )
    z = guided(z_positive, z_negative, scale, tau, alpha, EPS)
    z = tl.where(conditional & (label != 1), z, z_positive)
    z = tl.where(label == 2, tl.where(conditional, z_negative, 0.0), z)
    place = program * heads * features + head[:, None] * features + feature[None, :]
    tl.store(out + place, z.to(out.dtype.element_ty), mask=real)


class Found(NamedTuple):
    """All of a launch but tensors and strengths. run: takes a stream, these and the arguments."""

    run: Callable
    code: tuple  # what Triton compiled, and nobody's hooks
    shape: tuple  # of what is written
    numbers: tuple
    constants: tuple


# (device, dtype, shape, strides, ...) -> `Found`. It takes Triton longer to find it again than all
# else in a guided layer takes, and steps of small models on fast GPUs wait for Python. None where
# this Triton's kernels are called otherwise.
launches: dict[tuple, Found] | None = {}
MOST_LAUNCHES = 1000  # in so many shapes nobody draws, and what is dropped is found again


def steer(
    positive: torch.Tensor | Answer,
    negative: torch.Tensor | Answer,
    rows: slice,
    settings: NAGSettings,
    image: Answer | None = None,
    at: Segments | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `nag.fused.steer`, which makes the labels. One launch."""
    if image is None:
        parts = read = dense(positive), dense(negative)
        return launch(steer_kernel, parts, read, (rows.start, rows.stop), settings)
    parts = []
    for out, lse in (image, positive, negative):
        parts += dense(out), lse
    starts = at.asking_positive[0], at.asking_negative[0]
    return launch(merge_kernel, parts, (*parts, labels), (*starts, rows.start, rows.stop), settings)


def dense(z: torch.Tensor) -> torch.Tensor:
    """Features side by side, as the kernels read them."""
    return z if z.stride(-1) == 1 else z.contiguous()


def launch(
    kernel: Callable, parts: Sequence, read: Sequence, places: tuple, settings: NAGSettings
) -> torch.Tensor:
    """Runs a kernel -> (B, H, N, D). Its arguments are the tensors that it `read`s, what it writes,
    sizes, three strides of each of `parts`, `places`, and the strengths."""
    z = parts[0]
    strengths = float(settings.scale), float(settings.tau), float(settings.alpha)
    if torch.compiler.is_compiling() or launches is None:
        return launch_by_triton(kernel, parts, read, places, strengths)[0]
    device = z.device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # the one that Triton launches on
            return launch(kernel, parts, read, places, settings)
    addresses = [tensor.data_ptr() for tensor in read]
    odd = [address % 16 > 0 for address in addresses]  # Triton compiles another kernel for these
    # the two kernels have other numbers of parts, so their keys differ in length
    key = device, z.dtype, z.shape, *[part.stride() for part in parts], *places, *odd
    found = launches.get(key)
    if found is None:
        out, compiled = launch_by_triton(kernel, parts, read, places, strengths)
        if compiled is not None:  # Triton's interpreter has none
            remember(key, compiled, parts, places)
        return out
    run, code, shape, numbers, constants = found
    out = z.new_empty(shape)
    try:  # addresses, not tensors: Triton would ask the driver for each whose it is
        numbers = *addresses, out.data_ptr(), *numbers, *strengths, *constants
        run(driver.active.get_current_stream(device.index), *code, *numbers)
    except (AttributeError, TypeError):  # an older Triton's wants other arguments; nothing has run
        disuse()
        return launch_by_triton(kernel, parts, read, places, strengths)[0]
    return out.transpose(1, 2)


def remember(key: tuple, compiled: "CompiledKernel", parts: Sequence, places: tuple) -> None:
    try:
        run = functools.partial(compiled.run, rows_and_tokens(parts[0]), 1, 1)
        code = compiled.function, compiled.packed_metadata, None, None, None
    except AttributeError:
        return disuse()
    if len(launches) >= MOST_LAUNCHES:
        launches.clear()
    constants = tuple(constants_of(parts[0]).values())
    shape = memory_of(parts[0])
    launches[key] = Found(run, code, shape, numbers_of(parts, places), constants)


def disuse() -> None:
    global launches
    launches = None


def rows_and_tokens(z: torch.Tensor) -> int:
    """Programs of a kernel."""
    return z.shape[0] * z.shape[2]


def memory_of(z: torch.Tensor) -> tuple[int, int, int, int]:
    """(B, H, N, D) -> (B, N, H, D)"""
    batch, heads, tokens, features = z.shape
    return batch, tokens, heads, features


def numbers_of(parts: Sequence, places: tuple) -> tuple:
    """A kernel's numbers, but for strengths and constants."""
    _, heads, tokens, features = parts[0].shape
    strides = [stride for part in parts for stride in part.stride()[:3]]
    return tokens, heads, features, *strides, *places


def constants_of(z: torch.Tensor) -> dict:
    """The last arguments of a kernel."""
    heads, features = (triton.next_power_of_2(size) for size in (z.shape[1], z.shape[3]))
    return {"EPS": EPS, "HEADS": heads, "FEATURES": features}


def launch_by_triton(
    kernel: Callable, parts: Sequence, read: Sequence, places: tuple, strengths: tuple
) -> "tuple[torch.Tensor, CompiledKernel | None]":
    """As Triton does it: it finds what it compiled for such arguments, or compiles, and returns it
    too."""
    z = parts[0]
    out, constants = z.new_empty(memory_of(z)), constants_of(z)
    warps = min(16, max(2, constants["HEADS"] * constants["FEATURES"] // 512))
    compiled = kernel[(rows_and_tokens(z), 1, 1)](
        *read, out, *numbers_of(parts, places), *strengths, **constants, num_warps=warps
    )
    return out.transpose(1, 2), compiled
