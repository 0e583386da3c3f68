"""Attention that also returns its log-sum-exp, and the merge of two such parts.

What attends [text, image] is attention to the text and attention to the image, each weighed by the
sum of its exponentials. So image keys, which both texts go with, need to be attended only once. By
this identity FlashAttention joins its blocks (arXiv 2205.14135, section 3.1).

An answer is (output (B, H, N, D), log-sum-exp (B, H, N) in float32, by the natural logarithm).
Where no kernel gives one, attention runs in two passes instead.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from .segments import Inputs

Answer = tuple[torch.Tensor, torch.Tensor]
Kernel = Callable[[Inputs, float | None], Answer]
DTYPES = torch.float32, torch.bfloat16, torch.float16


def _cpu(inputs: Inputs, scale: float | None) -> Answer:
    """Any precision, with a mask."""
    *inputs, mask = inputs
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *inputs, attn_mask=mask, scale=scale
    )


def _cudnn(inputs: Inputs, scale: float | None) -> Answer:
    """Half precision without a mask; what Hopper is fastest with."""
    *inputs, mask = inputs
    if mask is not None:
        raise ValueError("cuDNN's attention is asked without a mask only.")
    out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *inputs, None, True, 0.0, False, False, scale=scale
    )[:2]
    return out, lse.squeeze(-1) if lse.ndim == 4 else lse


def _flash(inputs: Inputs, scale: float | None) -> Answer:
    """Half precision without a mask."""
    *inputs, mask = inputs
    if mask is not None:
        raise ValueError("Flash attention takes no mask.")
    return torch.ops.aten._scaled_dot_product_flash_attention(
        *inputs, 0.0, False, False, scale=scale
    )[:2]


def _efficient(inputs: Inputs, scale: float | None) -> Answer:
    """Any precision, with a mask (B, H, N, keys), whose rows begin at multiples of 16 numbers."""
    query, key, value, mask = inputs
    if mask is not None:
        keys = key.shape[2]
        wide = mask.new_zeros(*mask.shape[:-1], -(-keys // 16) * 16)
        wide[..., :keys] = mask
        mask = wide[..., :keys].expand(*query.shape[:3], keys)
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, 0.0, False, scale=scale
    )[:2]
    return out, lse[..., : query.shape[2]]  # the kernel pads it


# kind of device -> {how PyTorch calls it: kernel}
KERNELS = {
    "cpu": {SDPBackend.FLASH_ATTENTION: _cpu},
    "cuda": {
        SDPBackend.CUDNN_ATTENTION: _cudnn,
        SDPBackend.FLASH_ATTENTION: _flash,
        SDPBackend.EFFICIENT_ATTENTION: _efficient,
    },
}
WIDE = 128  # features of a head; fewer kernels take more

# (kind of device, dtype, with a mask, wide heads) -> the kernel that this machine was seen to
# compute rightly, or None. The CPU's is tested wherever this package is; a GPU's depends on
# its generation and on the build of PyTorch, so `prepare` tries it.
chosen: dict[tuple[str, torch.dtype, bool, bool], Kernel | None] = {
    ("cpu", dtype, masked, wide): _cpu
    for dtype in DTYPES
    for masked in (False, True)
    for wide in (False, True)
}


def prepare(device: torch.device | str) -> None:
    """Decides, once in a process and before anything is drawn, which kernels `attend` uses on this
    kind of device: of those that are right the first, and first comes PyTorch's own choice.

    A kernel is right if two merged parts of a small attention are PyTorch's attention to the whole.
    """
    device = torch.device(device)
    for dtype in DTYPES if device.type in KERNELS else ():
        for masked in (False, True):
            for wide in (False, True):
                key = device.type, dtype, masked, wide
                if key not in chosen:
                    inputs = _small_attention(device, dtype, masked, wide)
                    right = (kernel for kernel in _candidates(inputs) if _right(kernel, inputs))
                    chosen[key] = next(right, None)


def _small_attention(device: torch.device, dtype: torch.dtype, masked: bool, wide: bool) -> Inputs:
    """Always the same numbers."""
    generator = torch.Generator().manual_seed(0)
    features = 2 * WIDE if wide else WIDE
    query, key, value = (
        torch.randn(2, 3, n, features, generator=generator).to(device, dtype) for n in (37, 53, 53)
    )
    mask = torch.zeros(2, 1, 1, 53)
    hidden = torch.rand(mask.shape, generator=generator) < 0.3
    mask = mask.masked_fill(hidden, float("-inf")).to(device, dtype)
    return Inputs(query, key, value, mask if masked else None)


def _candidates(inputs: Inputs) -> list[Kernel]:
    """The kernels of a device; none where PyTorch would compute by plain matrix products, which is
    how people switch the others off."""
    kernels = KERNELS[inputs.query.device.type]
    try:
        first = SDPBackend(torch._fused_sdp_choice(*inputs))
    except (AttributeError, RuntimeError, ValueError):  # another PyTorch: in our own order
        return list(kernels.values())
    if first not in kernels:
        return []
    return [kernels[first], *(k for name, k in kernels.items() if name != first)]


@torch.no_grad()
def _right(kernel: Kernel, inputs: Inputs) -> bool:
    def answer(start: int, length: int) -> Answer:
        return _run(kernel, inputs.seen([(start, length)]), None)

    try:
        merged = merge(answer(0, 21), answer(21, inputs.key.shape[2] - 21))
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):
        return False
    whole = F.scaled_dot_product_attention(*(None if x is None else x.float() for x in inputs))
    limit = 1e-4 if inputs.query.dtype == torch.float32 else 3e-2
    return bool((merged - whole).abs().max() < limit)


def able(inputs: Inputs) -> bool:
    """Whether `attend` can: there is a kernel for these, a whole number of query heads for each key
    head, and a mask that is the same for all queries. Nobody may want gradients: log-sum-exps
    have none here."""
    query, key, value, mask = inputs
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if wanted or value.dtype != query.dtype or _kernel_for(inputs) is None:
        return False
    features = query.shape[-1]
    if query.device.type != "cpu" and (features % 8 or features > 2 * WIDE):
        return False  # PyTorch pads heads of other sizes for its kernels
    heads = query.shape[1] % key.shape[1] == 0 and features == value.shape[-1]
    return heads and (mask is None or mask.shape[-2] == 1)


def _kernel_for(inputs: Inputs) -> Kernel | None:
    query, masked = inputs.query, inputs.mask is not None
    return chosen.get((query.device.type, query.dtype, masked, query.shape[-1] > WIDE))


def attend(inputs: Inputs, scale: float | None = None) -> Answer | None:
    """What queries (B, H, N, D) get of keys and values (B, H or fewer, keys, D), whose mask is
    (B or 1, 1, 1, keys). None where nothing asks or nothing is attended.

    For inputs that `able` allows.
    """
    query, key, value, mask = inputs
    if not key.shape[2] or not query.shape[2]:
        return None
    if key.shape[1] != query.shape[1]:  # neighbouring heads share a key head
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    return _run(_kernel_for(inputs), Inputs(query, key, value, mask), scale)


def _run(kernel: Kernel, inputs: Inputs, scale: float | None) -> Answer:
    query, key, value, mask = inputs
    if mask is None:
        return kernel(inputs, scale)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    mask = mask.to(query.dtype)
    empty = (mask == float("-inf")).all(-1)  # (B or 1, 1, 1)
    # undefined for an empty row, which weighs nothing
    out, lse = kernel(Inputs(query, key, value, mask), scale)
    return out.masked_fill(empty[..., None], 0), lse.masked_fill(empty, float("-inf"))


def split(answer: Answer | None, lengths: list[int]) -> list[Answer]:
    """What queries got that asked together -> one answer for each of them."""
    if answer is None:
        return []
    return list(zip(*(part.split(lengths, 2) for part in answer), strict=True))


def merge(first: Answer, second: Answer | None) -> torch.Tensor:
    """Two parts of one attention -> its output (B, H, N, D), in float32. There may be no second."""
    if second is None:
        return first[0].float()
    (a, lse_a), (b, lse_b) = first, second
    return torch.lerp(b.float(), a.float(), torch.sigmoid(lse_a - lse_b)[..., None])
