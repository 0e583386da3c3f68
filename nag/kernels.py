"""Attention that also returns its log-sum-exp, and the merge of two such parts.

What attends [text, image] is attention to the text and attention to the image, each weighed by the sum of its exponentials. So image
keys, which both texts go with, need to be attended once only. Where no kernel returns that sum, attention runs in two passes instead.
"""

import torch
import torch.nn.functional as F


def _cpu(query, key, value, mask, scale):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )


def _flash(query, key, value, mask, scale):
    """Half precision without a mask."""
    if mask is not None:
        raise ValueError("Flash attention takes no mask.")
    return torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, False, False, scale=scale
    )[:2]


def _efficient(query, key, value, mask, scale):
    """Any precision, with a mask: (B, H, N, keys), whose rows it wants to begin at multiples of 16 numbers."""
    if mask is not None:
        keys = key.shape[2]
        wide = mask.new_zeros(*mask.shape[:-1], -(-keys // 16) * 16)
        wide[..., :keys] = mask
        mask = wide[..., :keys].expand(len(query), query.shape[1], query.shape[2], keys)
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, 0.0, False, scale=scale
    )[:2]
    return out, lse[..., : query.shape[2]]  # the kernel pads it


KERNELS = {"cpu": (_cpu,), "cuda": (_flash, _efficient)}
DTYPES = torch.float32, torch.bfloat16, torch.float16

# (kind of device, dtype, with a mask) -> the kernel that this machine was seen to compute rightly, or None. The processor's is tested
# wherever this package is; a GPU's depends on its generation and on the build of PyTorch, so `prepare` tries it.
chosen = {("cpu", dtype, masked): _cpu for dtype in DTYPES for masked in (False, True)}


def prepare(device) -> None:
    """Decides, once in a process and before anything is drawn, which kernels `attend` may use on this kind of device.

    A kernel is taken if two merged parts of a small attention are what PyTorch's own attention makes of the whole.
    """
    device = torch.device(device)
    for dtype in DTYPES:
        for masked in (False, True):
            key = device.type, dtype, masked
            if key not in chosen:
                chosen[key] = next(
                    (
                        kernel
                        for kernel in KERNELS.get(device.type, ())
                        if _right(kernel, device, dtype, masked)
                    ),
                    None,
                )


@torch.no_grad()
def _right(kernel, device, dtype, masked: bool) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, n, 64, generator=generator).to(device, dtype) for n in (37, 53, 53)
    )
    mask = None
    if masked:
        mask = (
            torch.zeros(2, 1, 1, 53)
            .masked_fill(torch.rand(2, 1, 1, 53, generator=generator) < 0.3, float("-inf"))
            .to(device, dtype)
        )
    try:
        parts = [
            _run(
                kernel,
                query,
                key[:, :, part],
                value[:, :, part],
                None if mask is None else mask[..., part],
                None,
            )
            for part in (slice(0, 21), slice(21, None))
        ]
        whole = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), None if mask is None else mask.float()
        )
        error = (merge(*parts) - whole).abs().max()
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):
        return False
    return bool(error < (1e-4 if dtype == torch.float32 else 3e-2))


def able(query, key, value, mask) -> bool:
    """Whether `attend` can: there is a kernel, a whole number of query heads for each key head, and
    a mask that is the same for all queries. Nobody may want gradients: log-sum-exps have none."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        return False
    if (
        chosen.get((query.device.type, query.dtype, mask is not None)) is None
        or value.dtype != query.dtype
    ):
        return False
    if query.device.type != "cpu" and (
        query.shape[-1] % 8 or query.shape[-1] > 256
    ):  # PyTorch pads heads of other sizes for its kernels
        return False
    return (
        query.shape[1] % key.shape[1] == 0
        and query.shape[-1] == value.shape[-1]
        and (mask is None or mask.shape[-2] == 1)
    )


def attend(query, key, value, mask=None, scale: float | None = None):
    """(B, H, N, D) queries, keys and values (of fewer heads, too), mask (B or 1, 1, 1, keys) -> (output (B, H, N, D), log-sum-exp (B, H, N) in
    float32).

    None where nothing asks, or nothing is attended. For arguments that `able` allows."""
    if not key.shape[2] or not query.shape[2]:
        return None
    if key.shape[1] != query.shape[1]:  # neighbouring heads share a key head
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    return _run(
        chosen[query.device.type, query.dtype, mask is not None], query, key, value, mask, scale
    )


def _run(kernel, query, key, value, mask, scale):
    if mask is None:
        return kernel(query, key, value, None, scale)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    mask = mask.to(query.dtype)
    empty = (mask == float("-inf")).all(
        -1
    )  # (B or 1, 1, 1); of nothing to attend a kernel says what it likes, and it weighs nothing
    out, lse = kernel(query, key, value, mask, scale)
    return out.masked_fill(empty[..., None], 0), lse.masked_fill(empty, float("-inf"))


def split(answer, lengths) -> list:
    """What `attend` gave to queries that asked together -> one for each of them, where there are."""
    return list(zip(*(part.split(lengths, 2) for part in answer), strict=True)) if lengths else []


def merge(first, second):
    """Two parts (output, log-sum-exp) of one attention -> its output, in float32. The second may be None: there was nothing to attend."""
    if second is None:
        return first[0].float()
    (a, lse_a), (b, lse_b) = first, second
    return torch.lerp(b.float(), a.float(), torch.sigmoid(lse_a - lse_b)[..., None])
