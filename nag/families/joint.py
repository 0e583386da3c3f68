"""Transformers with joint attention, text and image in one sequence: a row for each class."""

import re

from . import adapters
from .layers import motif_video, named
from .schema import Family, ids, mask, text, text_layers, valid
from .spans import (
    around_the_image,
    gists_or_text,
    hidream_spans,
    hunyuan_image_spans,
    second_text_first,
)


def between_image_tags(prompt: str, words: str) -> str:
    """`words` in a chat message that names as many reference images as `prompt` does."""
    found = re.fullmatch(
        r"(<\|im_start\|>user\n(?:<image>\n)*).*(<\|im_end\|>\n)", prompt, re.DOTALL
    )
    return found[1] + words + found[2] if found else words


# of Flux and what is built like it
IN_TWO_STREAMS = named(joint=r"(single_)?transformer_blocks\.\d+\.attn")
ATTN = named(joint=r"transformer_blocks\.\d+\.attn")
ATTN1 = named(joint=r"transformer_blocks\.\d+\.attn1")
COGVIEW = Family(ATTN1, order="text, image")
COGVIDEO_X = Family(ATTN1, order="text, image", adapter=adapters.one_text_per_patch_embed)
QWEN = (text(), mask(1, "encoder_hidden_states_mask"))
# arguments with an entry per row, for families that run texts of different length one by one
ROWS = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")
HUNYUAN_ROWS = (
    *ROWS,
    "timestep_r",
    "encoder_hidden_states_2",
    "encoder_attention_mask_2",
    "guidance",
    "image_embeds",
)
HUNYUAN_TEXTS = (
    text(),
    mask(1),
    text(2, "encoder_hidden_states_2", of=1),
    mask(3, "encoder_attention_mask_2", of=1),
)
HUNYUAN_VIDEO = Family(
    IN_TWO_STREAMS,
    (text(), mask(2)),
    adapter=adapters.each_text_alone("context_embedder"),
    rows=(
        *ROWS,
        "pooled_projections",
        "guidance",
        "image_embeds",
        "latents_clean",
        "latents_history_2x",
        "latents_history_4x",
    ),
    alpha=0.12,  # ComfyUI-NAG's workflow
)

JOINT = {
    # SD3.5-Medium's attn2 sees the image only and is left alone.
    "SD3Transformer2DModel": Family(
        ATTN, tokenizer="tokenizer_3", tokens_before="tokenizer_max_length", alpha=0.125
    ),
    "FluxTransformer2DModel": Family(
        IN_TWO_STREAMS, (text(), ids(2)), "text, image", tokenizer="tokenizer_2"
    ),
    # the mask covers text and image
    "ChromaTransformer2DModel": Family(
        IN_TWO_STREAMS, (text(), ids(1), mask(2, "attention_mask")), "text, image"
    ),
    "BriaTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(2)), "text, image"),
    "OvisImageTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(2)), "text, image"),
    "LongCatImageTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(1)), "text, image"),
    # layerwise_blocks attend the layers of one token, and are left alone
    "Krea2Transformer2DModel": Family(
        named(
            joint=r"transformer_blocks\.\d+\.attn", text=r"text_fusion\.refiner_blocks\.\d+\.attn"
        ),
        (text(), mask(1), ids(None, "position_ids")),
        "text, image",
    ),
    "CogView3PlusTransformer2DModel": COGVIEW,
    "CogView4Transformer2DModel": COGVIEW,
    "HiDreamImageTransformer2DModel": Family(
        named(joint=r"(double|single)_stream_blocks\.\d+\.block\.attn1"),
        (
            text(0, "encoder_hidden_states_t5"),
            text(2, "encoder_hidden_states_llama3", dim=2, of=1, batch=1),
        ),
        spans=hidream_spans,
    ),
    # The text has keys and values, and no queries.
    "PRXTransformer2DModel": Family(
        named(joint=r"blocks\.\d+\.attention"), (text(), mask(1, "attention_mask")), "text, image"
    ),
    "MotifVideoTransformer3DModel": Family(motif_video, (text(), mask(2))),
    "EasyAnimateTransformer3DModel": Family(ATTN1, order="text, image"),
    "JoyImageEditPlusTransformer3DModel": Family(
        named(joint=r"double_blocks\.\d+\.attn"),
        QWEN,
        encoders=("encode_prompt", "encode_prompt_multiple_images"),
        phrase=between_image_tags,
    ),
    # --- with an adapter
    "Flux2Transformer2DModel": Family(
        IN_TWO_STREAMS, (text(), ids(1)), "text, image", adapter=adapters.kept_references
    ),
    "BriaFiboTransformer2DModel": Family(
        IN_TWO_STREAMS,
        (text(), text_layers(5), mask(3, "attention_mask"), ids(2)),
        "text, image",
        adapter=adapters.mask_of_text_and_image,
    ),
    # the main stream sees gist tokens, which a perceiver makes of each text; a few blocks see the
    # text itself too
    "BriaFibo2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", injected=r"layers\.\d+\.cross_attention"),
        (text(dim=2), mask(1)),
        "text, image",
        spans=gists_or_text,
        adapter=adapters.gist_tokens,
        rows=(*ROWS, "context_latents[]"),
        remark="Pictures of rendered text are refused: with them the first steps run on another "
        "caption.",
    ),
    "Ideogram4Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention"),
        spans=around_the_image,
        adapter=adapters.ideogram_sequence,
        repeats=True,
    ),
    "QwenImageTransformer2DModel": Family(
        ATTN, QWEN, "text, image", adapter=adapters.qwen_positions
    ),
    "NucleusMoEImageTransformer2DModel": Family(ATTN, QWEN, adapter=adapters.qwen_positions),
    "QwenImage21Transformer2DModel": Family(
        ATTN, QWEN, "text, image", adapter=adapters.qwen_21_layout, remark="Text to image only."
    ),
    "AuraFlowTransformer2DModel": Family(
        named(joint=r"(joint|single)_transformer_blocks\.\d+\.attn"),
        order="text, image",
        grow=lambda length: length + 8,
        adapter=adapters.registers,
    ),
    "Lumina2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attn", text=r"context_refiner\.\d+\.attn"),
        (text(), mask(1)),
        "text, image",
        adapter=adapters.lumina_positions,
        rows=ROWS,
    ),
    "ErnieImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.self_attention"),
        (text(0, "text_bth"), valid(1, "text_lens")),
        adapter=adapters.ernie_texts,
        rows=("hidden_states", "timestep", "text_bth", "text_lens"),
        remark="The image stands behind the prompt, also for the negative.",
    ),
    "HunyuanImageTransformer2DModel": Family(
        IN_TWO_STREAMS,
        HUNYUAN_TEXTS,
        spans=hunyuan_image_spans,
        adapter=adapters.each_text_alone("context_embedder"),
        rows=HUNYUAN_ROWS,
    ),
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideoFramepackTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideo15Transformer3DModel": Family(
        ATTN,
        HUNYUAN_TEXTS,
        spans=second_text_first,
        adapter=adapters.hunyuan_video_15,
        rows=HUNYUAN_ROWS,
        empty=True,
    ),
    "CogVideoXTransformer3DModel": COGVIDEO_X,
    "ConsisIDTransformer3DModel": COGVIDEO_X,
    "MochiTransformer3DModel": Family(
        ATTN1,
        (text(), mask(1)),
        adapter=adapters.each_text_alone("time_embed"),
        rows=ROWS,
        empty=True,
    ),
    "JoyImageEditTransformer3DModel": Family(
        named(joint=r"double_blocks\.\d+\.attn"),
        adapter=adapters.joy_image_positions,
        encoders=("encode_prompt", "encode_prompt_multiple_images"),
    ),
    "ZImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", text=r"context_refiner\.\d+\.attention"),
        (text(0, "cap_feats", 0),),
        grow=lambda length: length + -length % 32,
        adapter=adapters.z_image_captions,
        cfg_order=(True, False),
        rows=("x", "t", "cap_feats"),
    ),
}
