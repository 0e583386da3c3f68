"""Attention that also returns its log-sum-exp, and the merge of two such parts.

What attends [text, image] is attention to the text and attention to the image, each weighed by the sum of its exponentials. So image
keys, which both texts go with, need to be attended once only. Where no kernel returns that sum, attention runs in two passes instead.
"""

import torch


def able(query, key, value, mask) -> bool:
    """Whether `attend` can: on a processor, with as many key heads as query heads, and a mask that is the same for all queries.

    CUDA's kernels return the sum too (flash attention without a mask, memory-efficient attention with one); they have not been
    tried here, so two passes run there.
    """
    return (query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16, torch.float16) and value.dtype == query.dtype
            and query.shape[1] == key.shape[1] and query.shape[-1] == value.shape[-1] and (mask is None or mask.shape[-2] == 1))


def attend(query, key, value, mask=None, scale: float | None = None):
    """(B, H, N, D) queries, keys and values, mask (B or 1, 1, 1, keys) -> (output (B, H, N, D), log-sum-exp (B, H, N) in float32)."""
    empty = None
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
        mask = mask.to(query.dtype)
        empty = (mask == float("-inf")).all(-1)  # (B or 1, 1, 1); of nothing to attend the kernel says 0, which would be one
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, scale=scale)
    return out, lse if empty is None else lse.masked_fill(empty, float("-inf"))


def merge(first, second):
    """Two parts (output, log-sum-exp) of one attention -> its output, in float32. The second may be None: there was nothing to attend."""
    if second is None:
        return first[0].float()
    (a, lse_a), (b, lse_b) = first, second
    return torch.lerp(b.float(), a.float(), torch.sigmoid(lse_a - lse_b)[..., None])
