"""UNets: a row for each class."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from . import adapters
from .layers import audioldm2_texts, cross_attention, named
from .schema import Family, mask, text
from .spans import after_shared, own_attentions

if TYPE_CHECKING:
    from diffusers import ModelMixin


def alpha_of_unet(unet: ModelMixin) -> float:
    """.5 for SDXL, .375 for SD 1.5 (arXiv 2505.21179, table of settings)."""
    return 0.5 if unet.config.get("addition_embed_type") == "text_time" else 0.375


UNETS = {
    # SD 1.5, SDXL and all that is distilled from them. The pooled text of SDXL stays as it is.
    "UNet2DConditionModel": Family(
        cross_attention,
        (text(), mask(None)),
        adapter=adapters.beside_the_image,
        tokenizer="tokenizer",
        alpha=alpha_of_unet,
    ),
    # ControlNet-XS: base and control in one model; the control's layers may rest
    "UNetControlNetXSModel": Family(
        cross_attention, adapter=adapters.beside_the_image, silent=r".*ctrl.*"
    ),
    "DreamLiteUNetModel": Family(
        cross_attention,
        (text(), mask(1)),
        remark="The negative prompt is encoded without the prefix that the pipeline gives the "
        "prompt.",
    ),
    "UNetMotionModel": Family(cross_attention, each="sample"),
    "UNet3DConditionModel": Family(cross_attention),
    "I2VGenXLUNet": Family(functools.partial(cross_attention, kind="cross_added")),
    "Kandinsky3UNet": Family(
        named(cross=r"(down|up)_blocks\.\d+\.attentions\.[1-9]\d*\.attention"),
        (text(), mask(2)),
        adapter=adapters.pooled("add_time_condition"),
    ),
    "AudioLDM2UNet2DConditionModel": Family(
        audioldm2_texts,
        (
            text(2),
            text(0, "encoder_hidden_states_1", of=1),
            mask(1, "encoder_attention_mask_1", of=1),
        ),
        spans=own_attentions,
    ),
    # The decoder, which sees pooled text only, is left alone.
    "StableCascadeUNet": Family(
        named(cross_added=r"(down|up)_blocks\.\d+\.\d+\.attention"),
        (text(0, "clip_text"),),
        spans=after_shared,
        adapter=adapters.text_last,
        cfg_order=(True, False),
    ),
}
