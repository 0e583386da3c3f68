"""Transformers with cross-attention: a row for each class."""

from dataclasses import replace

from . import adapters
from .layers import named
from .schema import Family, mask, text
from .spans import own_attentions

ATTN2 = named(cross=r"transformer_blocks\.\d+\.attn2")
PIXART = Family(ATTN2, (text(), mask(1)))
WAN = Family(
    named(cross=r"(vace_)?blocks\.\d+\.attn2"),
    adapter=adapters.behind_the_image,
    tokenizer="tokenizer",
)
CROSS = {
    "PixArtTransformer2DModel": replace(PIXART, alpha=0.375),
    "SanaTransformer2DModel": replace(PIXART, alpha=0.375),
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
        spans=own_attentions,
        adapter=adapters.connected,
        remark="Video and sound are both guided.",
    ),
    "AllegroTransformer3DModel": Family(ATTN2, (text(dim=2), mask(1))),
    "LatteTransformer3DModel": Family(ATTN2),
    "StableAudioDiTModel": Family(named(cross_added=r"transformer_blocks\.\d+\.attn2")),
    "StableAudio3DiTModel": Family(
        named(cross_added=r"transformer_blocks\.\d+\.cross_attn"), (text(), mask(1))
    ),
    "AceStepTransformer1DModel": Family(
        named(cross=r"layers\.\d+\.cross_attn"),
        adapter=adapters.conditioned,
        remark="The negative prompt is sung to the same lyrics; lyrics are not guided.",
    ),
    # Cosmos 2.5 Transfer hands over (text, picture).
    "CosmosTransformer3DModel": Family(ATTN2),
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
        cfg_order=(True, False),
        remark="The modulation, pooled from the text, is the prompt's for both.",
    ),
    # --- behind a text encoder of the model's own
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
}
