"""Which attention modules of a denoiser see its text: functions of the denoiser, for the table.

Each returns {name: (kind, module)}; the kinds are `nag.families.KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import NAGValueError

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from .schema import Layers


def named(**patterns: str) -> Callable[[ModelMixin], Layers]:
    """Attention modules whose whole name matches: `named(joint=r"blocks\\.\\d+\\.attn")`."""
    expressions = {kind: re.compile(pattern) for kind, pattern in patterns.items()}

    def layers(denoiser: ModelMixin) -> Layers:
        return {
            name: (kind, module)
            for name, module in denoiser.named_modules()
            for kind, expression in expressions.items()
            if expression.fullmatch(name) and hasattr(module, "processor")
        }

    return layers


def cross_attention(denoiser: ModelMixin, kind: str = "cross") -> Layers:
    """By what it is, not by its name: with `only_cross_attention` the text reaches `attn1` too."""
    if denoiser.config.get("encoder_hid_dim_type") in ("image_proj", "text_image_proj"):
        raise NAGValueError(
            f"This {type(denoiser).__name__} is told by a picture's embedding what to show "
            "(Kandinsky 2), and not by words alone."
        )
    return {
        name: ("cross_added" if getattr(m, "added_kv_proj_dim", None) is not None else kind, m)
        for name, m in denoiser.named_modules()
        if getattr(m, "is_cross_attention", False) and hasattr(m, "processor")
    }


def audioldm2_texts(denoiser: ModelMixin) -> Layers:
    """Of the transformers behind one another in a block, from the third on they see the second
    text."""
    second = set()
    for block in [*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks]:
        transformers = getattr(block, "attentions", [])
        count = len(transformers) // max(1, len(block.resnets) - (block is denoiser.mid_block))
        for i, transformer in enumerate(transformers):
            if i % count > 1:
                second |= set(transformer.modules())
    return {
        name: ("cross_second" if module in second else "cross", module)
        for name, (_, module) in cross_attention(denoiser).items()
    }


def motif_video(denoiser: ModelMixin) -> Layers:
    """The last `num_decoder_layers` single blocks attend the video's own encoder states instead of
    a text."""
    count = len(denoiser.single_transformer_blocks)
    late = tuple(
        f"single_transformer_blocks.{i}." for i in range(count - denoiser.num_decoder_layers, count)
    )
    found = named(
        joint=r"(single_)?transformer_blocks\.\d+\.attn",
        cross=r"(single_)?transformer_blocks\.\d+\.cross_attn",
    )(denoiser)
    return {name: layer for name, layer in found.items() if not name.startswith(late)}
