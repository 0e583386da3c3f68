"""One row per denoiser class: where its text comes in, and which of its attentions see text.

That is all that NAG must be told about a model. To add a family, add a row; the parametrised tests ask for a tiny one too.
Where a model counts its text tokens itself, the row also names one of the small adapters in `nag/families/adapters/`.
"""

import functools
import re

from . import adapters
from .schema import Family, cross_attention, ids, mask, named, text, text_layers, valid
from .spans import (
    around_the_image,
    behind,
    gists_or_text,
    hidream_spans,
    hunyuan_image_spans,
    own,
    second_text_first,
)

IN_TWO_STREAMS = named(
    joint=r"(single_)?transformer_blocks\.\d+\.attn"
)  # Flux and what is built like it
COGVIEW = Family(named(joint=r"transformer_blocks\.\d+\.attn1"), order="text, image")


def motif_video(denoiser) -> dict:
    """The last `num_decoder_layers` single blocks attend the video's own encoder states instead of a text."""
    singles = len(denoiser.single_transformer_blocks) - denoiser.num_decoder_layers
    late = tuple(
        f"single_transformer_blocks.{i}."
        for i in range(singles, len(denoiser.single_transformer_blocks))
    )
    found = named(
        joint=r"(single_)?transformer_blocks\.\d+\.attn",
        cross=r"(single_)?transformer_blocks\.\d+\.cross_attn",
    )(denoiser)
    return {name: layer for name, layer in found.items() if not name.startswith(late)}


def between_image_tags(prompt: str, words: str) -> str:
    """`words` in a chat message that names as many reference images as `prompt` does."""
    found = re.fullmatch(
        r"(<\|im_start\|>user\n(?:<image>\n)*).*(<\|im_end\|>\n)", prompt, re.DOTALL
    )
    return found[1] + words + found[2] if found else words


HUNYUAN_VIDEO = Family(
    named(joint=r"(single_)?transformer_blocks\.\d+\.attn"),
    (text(), mask(2)),
    adapter=adapters.apart("context_embedder"),
    rows=(
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "pooled_projections",
        "guidance",
        "image_embeds",
        "latents_clean",
        "latents_history_2x",
        "latents_history_4x",
    ),
)
COGVIDEO_X = Family(
    named(joint=r"transformer_blocks\.\d+\.attn1"),
    order="text, image",
    adapter=adapters.one_text_per_patch_embed,
)


def two_texts(denoiser) -> dict:
    """AudioLDM 2: of the transformers behind one another in a block, from the third on they see the second text."""
    second = set()
    for block in [*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks]:
        transformers = getattr(block, "attentions", [])
        count = len(transformers) // max(1, len(block.resnets) - (block is denoiser.mid_block))
        second |= {
            module
            for i, transformer in enumerate(transformers)
            if i % count > 1
            for module in transformer.modules()
        }
    return {
        name: ("cross_second" if m in second else "cross", m)
        for name, (_, m) in cross_attention(denoiser).items()
    }


ATTN2 = named(cross=r"transformer_blocks\.\d+\.attn2")
PIXART = Family(ATTN2, (text(), mask(1)))
WAN = Family(
    named(cross=r"(vace_)?blocks\.\d+\.attn2"),
    adapter=adapters.behind_the_image,
    tokenizer="tokenizer",
)
FAMILIES = {
    # SD 1.5, SDXL and all that is distilled from them. The pooled text of SDXL stays as it is.
    "UNet2DConditionModel": Family(
        cross_attention,
        (text(), mask(None)),
        adapter=adapters.beside_the_image,
        tokenizer="tokenizer",
    ),
    # ControlNet-XS: base and control in one model; the control's layers rest where it is not applied
    "UNetControlNetXSModel": Family(
        cross_attention, adapter=adapters.beside_the_image, silent=r".*ctrl.*"
    ),
    "DreamLiteUNetModel": Family(
        cross_attention,
        (text(), mask(1)),
        together=True,
        remark="The negative prompt is encoded without the prefix that the pipeline gives the prompt.",
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
        two_texts,
        (
            text(2),
            text(0, "encoder_hidden_states_1", of=1),
            mask(1, "encoder_attention_mask_1", of=1),
        ),
        spans=own,
        together=True,
    ),
    # The decoder, which sees pooled text only, is left alone.
    "StableCascadeUNet": Family(
        named(cross_added=r"(down|up)_blocks\.\d+\.\d+\.attention"),
        (text(0, "clip_text"),),
        spans=behind,
        adapter=adapters.text_last,
    ),
    # --- cross-attention
    "PixArtTransformer2DModel": PIXART,
    "SanaTransformer2DModel": PIXART,
    "SanaVideoTransformer3DModel": PIXART,
    "SanaWMTransformer3DModel": Family(
        named(cross=r"blocks\.\d+\.cross_attn"), (text(dim=2), mask(1, "mask"))
    ),
    "SanaWMLTX2RefinerTransformer3DModel": PIXART,
    "LTXVideoTransformer3DModel": PIXART,
    "LTX2VideoTransformer3DModel": Family(
        named(
            cross=r"transformer_blocks\.\d+\.attn2",
            cross_second=r"transformer_blocks\.\d+\.audio_attn2",
        ),
        (
            text(),
            mask(1),
            text(None, "audio_encoder_hidden_states", of=1),
            mask(None, "audio_encoder_attention_mask", of=1),
        ),
        spans=own,
        adapter=adapters.connected,
        remark="Video and sound are both guided.",
    ),
    "AllegroTransformer3DModel": Family(ATTN2, (text(dim=2), mask(1))),
    "LatteTransformer3DModel": Family(ATTN2),
    "StableAudioDiTModel": Family(
        named(cross_added=r"transformer_blocks\.\d+\.attn2"), together=True
    ),
    "StableAudio3DiTModel": Family(
        named(cross_added=r"transformer_blocks\.\d+\.cross_attn"), (text(), mask(1))
    ),
    "AceStepTransformer1DModel": Family(
        named(cross=r"layers\.\d+\.cross_attn"),
        adapter=adapters.conditioned,
        remark="The negative prompt is sung to the same lyrics; lyrics are not guided.",
    ),
    # Cosmos 2.5 Transfer hands over (text, picture).
    "CosmosTransformer3DModel": Family(named(cross=r"transformer_blocks\.\d+\.attn2")),
    "WanTransformer3DModel": WAN,
    "WanVACETransformer3DModel": WAN,
    "WanAnimateTransformer3DModel": WAN,
    "SkyReelsV2Transformer3DModel": WAN,
    "ChronoEditTransformer3DModel": WAN,
    "AnyFlowTransformer3DModel": WAN,
    "AnyFlowFARTransformer3DModel": WAN,  # end counts the steps of every chunk
    "HeliosTransformer3DModel": WAN,
    "HunyuanDiT2DModel": Family(
        named(cross=r"blocks\.\d+\.attn2"),
        (
            text(),
            mask(2, "text_embedding_mask"),
            text(0, "encoder_hidden_states_t5", of=1, call=1),
            mask(2, "text_embedding_mask_t5", of=1, call=1),
        ),
        adapter=adapters.hunyuan_dit_texts,
        remark="The modulation, pooled from T5's text, is the prompt's for both.",
    ),
    "LuminaNextDiT2DModel": Family(
        named(cross=r"layers\.\d+\.attn2"),
        (text(), mask(1, "encoder_mask")),
        adapter=adapters.pooled("time_caption_embed"),
        remark="The modulation, pooled from the text, is the prompt's for both.",
    ),
    # --- cross-attention behind a text encoder of the model's own
    "Kandinsky5Transformer3DModel": Family(
        named(
            cross=r"visual_transformer_blocks\.\d+\.cross_attention",
            text=r"text_transformer_blocks\.\d+\.self_attention",
        ),
        adapter=adapters.counted_from_zero("text_rope_embeddings"),
    ),
    "Kandinsky6Transformer3DModel": Family(
        named(
            cross=r"visual_transformer_blocks\.\d+\.(video|audio)_dec_block\.cross_attention",
            text=r"(video|audio)_text_transformer_blocks\.\d+\.attn",
        ),
        (text(), mask(2)),
        adapter=adapters.counted_from_zero(
            "video_text_rope_embeddings", "audio_text_rope_embeddings"
        ),
        silent=r".*audio_dec_block\.cross_attention",
    ),
    # --- joint attention
    # SD3.5-Medium's attn2 sees the image only and is left alone.
    "SD3Transformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        tokenizer="tokenizer_3",
        behind="tokenizer_max_length",
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
    "EasyAnimateTransformer3DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn1"), order="text, image"
    ),
    "JoyImageEditPlusTransformer3DModel": Family(
        named(joint=r"double_blocks\.\d+\.attn"),
        (text(), mask(1, "encoder_hidden_states_mask")),
        encoders=("encode_prompt", "encode_prompt_multiple_images"),
        phrase=between_image_tags,
    ),
    # --- joint attention with an adapter
    "Flux2Transformer2DModel": Family(
        IN_TWO_STREAMS, (text(), ids(1)), "text, image", adapter=adapters.kept_references
    ),
    "BriaFiboTransformer2DModel": Family(
        IN_TWO_STREAMS,
        (text(), text_layers(5), mask(3, "attention_mask"), ids(2)),
        "text, image",
        adapter=adapters.mask_of_text_and_image,
    ),
    # the main stream sees gist tokens, which a perceiver makes of each text; a few blocks see the text itself too
    "BriaFibo2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", injected=r"layers\.\d+\.cross_attention"),
        (text(dim=2), mask(1)),
        "text, image",
        spans=gists_or_text,
        adapter=adapters.gist_tokens,
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "context_latents[]",
        ),
        remark="With pictures of rendered text, the first steps run on another caption and are not guided.",
    ),
    "Ideogram4Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention"),
        spans=around_the_image,
        adapter=adapters.ideogram_sequence,
        repeats=True,
    ),
    "QwenImageTransformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        (text(), mask(1, "encoder_hidden_states_mask")),
        "text, image",
        adapter=adapters.qwen_positions,
    ),
    "NucleusMoEImageTransformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        (text(), mask(1, "encoder_hidden_states_mask")),
        adapter=adapters.qwen_positions,
    ),
    "QwenImage21Transformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        (text(), mask(1, "encoder_hidden_states_mask")),
        "text, image",
        adapter=adapters.qwen_21_layout,
        remark="Text to image only.",
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
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    ),
    "ErnieImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.self_attention"),
        (text(0, "text_bth"), valid(1, "text_lens")),
        adapter=adapters.ernie_texts,
        remark="The image stands behind the prompt, also for the negative.",
        rows=("hidden_states", "timestep", "text_bth", "text_lens"),
    ),
    "HunyuanImageTransformer2DModel": Family(
        named(joint=r"(single_)?transformer_blocks\.\d+\.attn"),
        (
            text(),
            mask(1),
            text(2, "encoder_hidden_states_2", of=1),
            mask(3, "encoder_attention_mask_2", of=1),
        ),
        spans=hunyuan_image_spans,
        adapter=adapters.apart("context_embedder"),
        rows=(
            "hidden_states",
            "timestep",
            "timestep_r",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
            "guidance",
        ),
    ),
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideoFramepackTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideo15Transformer3DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        (
            text(0),
            mask(1),
            text(2, "encoder_hidden_states_2", of=1),
            mask(3, "encoder_attention_mask_2", of=1),
        ),
        spans=second_text_first,
        adapter=adapters.hunyuan_video_15,
        empty=True,
        rows=(
            "hidden_states",
            "timestep",
            "timestep_r",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
            "image_embeds",
        ),
    ),
    "CogVideoXTransformer3DModel": COGVIDEO_X,
    "ConsisIDTransformer3DModel": COGVIDEO_X,
    "MochiTransformer3DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn1"),
        (text(), mask(1)),
        adapter=adapters.apart("time_embed"),
        empty=True,
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
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
        rows=("x", "t", "cap_feats"),
    ),
}
