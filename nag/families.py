"""One row per denoiser class: where its text comes in, and which of its attentions see text.

That is all that NAG must be told about a model. To add a family, add a row; the parametrised tests ask for a tiny one too.
Where a model counts its text tokens itself, the row also names one of the small adapters in `nag/adapters.py`.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from . import adapters

KINDS = {
    "cross": "keys are the text, queries the image",
    "cross_second": "keys are the second text, queries the image",
    "cross_added": "keys are the text and what goes with either text (the image itself, a picture, a duration) behind it, queries the image",
    "joint": "keys are text and image in one sequence; queries are too, or are the image alone",
    "text": "keys and queries are the text alone",
    "injected": "keys are the text, queries are text and image in one sequence",
}


@dataclass(frozen=True)
class Packed:
    """One input of the denoiser that carries something per text token, and grows by the negative's when they are packed.

    argument: its name in the denoiser's `forward`. encoded: its place in what `encode_prompt` returns; None where it is made elsewhere.
    dim: the dimension that counts tokens. kind: "text", "layers", "mask", "count" or "ids". of: which text (0 the first) they belong to.
    batch: the dimension that counts rows. call: which call of `encode_prompt` returns it, where a pipeline has one per text encoder.
    """

    argument: str
    encoded: int | None
    dim: int = 1
    kind: str = "text"
    of: int = 0
    batch: int = 0
    call: int = 0


def text(encoded: int | None = 0, argument: str = "encoder_hidden_states", dim: int = 1, of: int = 0, batch: int = 0,
         call: int = 0) -> Packed:
    """A text: (rows, T, D), or a list of `rows` tensors (T, D) with `dim=0`; with `batch=1` (layers, rows, T, D)."""
    return Packed(argument, encoded, dim, "text", of, batch, call)


def mask(encoded: int | None, argument: str = "encoder_attention_mask", of: int = 0, call: int = 0) -> Packed:
    """A text's mask, (rows, T); image tokens may follow the text's."""
    return Packed(argument, encoded, 1, "mask", of, 0, call)


def valid(encoded: int | None, argument: str, of: int = 0) -> Packed:
    """How many of a text's tokens are not padding, (rows,): a mask in short, for families with `rows`."""
    return Packed(argument, encoded, 0, "count", of)


def ids(encoded: int | None, argument: str = "txt_ids", dim: int = -2, of: int = 0) -> Packed:
    """Position ids of a text's tokens, (T, axes) or (rows, T, axes), image tokens may follow. The negative brings its own, or counts
    as the positive does."""
    return Packed(argument, encoded, dim, "ids", of)


def text_layers(encoded: int, argument: str = "text_encoder_layers", of: int = 0) -> Packed:
    """A text's hidden states in every layer of its encoder: a list of (rows, T, D). The denoiser may get the last of them only."""
    return Packed(argument, encoded, 1, "layers", of)


@dataclass(frozen=True)
class Family:
    """What NAG must be told of a denoiser class.

    layers: denoiser -> {name: (kind, attention module)} of all that see the text; see `KINDS`.
    inputs: what is packed. The first is the text by whose values the conditional rows are recognised.
    order: of a joint attention's sequence, "text, image" or "image, text". spans: where that is not enough, a function
        (kind, lengths, count) -> (pieces of the positive, pieces of the negative), each a list of (start, length).
    grow: tokens that a text of so many tokens has inside the model (registers, padding to a multiple).
    adapter: (pipe, denoiser, guidance) -> context manager, for models that count their text tokens or change their text on the way;
        see `nag/adapters.py`.
    rows: names of the arguments with one entry per row ("name[]": a list of tensors with rows). Set where texts of different length
        cannot share a call: padding is then cut off by the mask, and rows of different length (or un-guided ones) run one by one.
    repeats: the pipeline repeats its texts for `num_images_per_prompt` itself, after `encode_prompt`.
    empty: with `rows`: a text whose mask leaves nothing of it may have no tokens at all; otherwise it keeps one.
    silent: a pattern of layers that a call may leave out (sound beside a video).
    encoders: the pipeline's methods that turn words into text, as far as it has them.
    phrase: (prompt as the pipeline hands it to an encoder, negative words) -> these words in the same form, where that is not the words alone.
    together: with CFG, `encode_prompt` returns the unconditional rows and behind them the prompt's, which are the last.
    each: an argument with one entry per row, where the pipeline repeats its text for every frame of a row.
    tokenizer: where the text is one token of the denoiser's for each of a tokenizer's, and padding is attended: the pipeline's name for it;
        behind: for how many tokens of something else it begins, the pipeline's name for that number. With these, `trim` can cut padding.
    remark: what a user should know, for the README's table.
    """

    layers: Callable
    inputs: tuple[Packed, ...] = field(default_factory=lambda: (text(),))
    order: str = "image, text"
    spans: Callable | None = None
    grow: Callable | None = None
    adapter: Callable | None = None
    rows: tuple[str, ...] = ()
    repeats: bool = False
    empty: bool = False
    silent: str = ""
    encoders: tuple[str, ...] = ("encode_prompt",)
    phrase: Callable | None = None
    together: bool = False
    each: str | None = None
    tokenizer: str = ""
    behind: str = ""
    remark: str = ""

    @property
    def texts(self) -> list[Packed]:
        return [p for p in self.inputs if p.kind == "text"]

    def companion(self, kind: str, of: int = 0) -> Packed | None:
        """The mask, the ids or the count of a text."""
        return next((p for p in self.inputs if p.kind == kind and p.of == of), None)

    def pieces(self, kind: str, lengths, count: int) -> tuple[list, list]:
        """Where the positive and the negative texts stand in an attention's keys: two lists of (start, length).

        lengths: (T+, T-) of every text input. count: number of keys. Texts follow one another, each positive before its negative.
        """
        if self.grow:
            lengths = [(self.grow(positive), self.grow(negative) if negative else 0) for positive, negative in lengths]
        if self.spans:
            return self.spans(kind, lengths, count)
        start = count - sum(map(sum, lengths)) if kind == "joint" and self.order == "image, text" else 0
        positives, negatives = one_after_another(lengths, start)
        behind = start + sum(map(sum, lengths))
        shared = [(behind, count - behind)] if kind == "cross_added" and count > behind else []
        return positives + shared, negatives + shared


def named(**patterns: str) -> Callable:
    """Attention modules whose whole name matches: `named(joint=r"blocks\\.\\d+\\.attn")`."""
    expressions = {kind: re.compile(pattern) for kind, pattern in patterns.items()}

    def layers(denoiser) -> dict:
        return {name: (kind, module) for name, module in denoiser.named_modules() for kind, expression in expressions.items()
                if expression.fullmatch(name) and hasattr(module, "processor")}
    return layers


def cross_attention(denoiser, kind: str = "cross") -> dict:
    """By what it is, not by its name: with `only_cross_attention` the text reaches `attn1` too."""
    found = {name: m for name, m in denoiser.named_modules() if getattr(m, "is_cross_attention", False) and hasattr(m, "processor")}
    if denoiser.config.get("encoder_hid_dim_type") in ("image_proj", "text_image_proj"):
        raise ValueError(f"This {type(denoiser).__name__} is told by a picture's embedding what to show (Kandinsky 2), and not by words alone.")
    return {name: ("cross_added" if getattr(m, "added_kv_proj_dim", None) is not None else kind, m) for name, m in found.items()}


IN_TWO_STREAMS = named(joint=r"(single_)?transformer_blocks\.\d+\.attn")  # Flux and what is built like it


def one_after_another(lengths, start: int) -> tuple[list, list]:
    """Each positive before its negative, from `start` on."""
    positives, negatives = [], []
    for positive, negative in lengths:
        positives.append((start, positive))
        negatives.append((start + positive, negative))
        start += positive + negative
    return positives, negatives


def hidream_spans(kind, lengths, count) -> tuple[list, list]:
    """Behind the image T5's text, then Llama's last layer, then the Llama layer of the block."""
    t5, llama = lengths
    return one_after_another([t5, llama, llama], count - sum(t5) - 2 * sum(llama))


def hunyuan_image_spans(kind, lengths, count) -> tuple[list, list]:
    """Behind the image the text between quotation marks, if any, then the prompt."""
    return one_after_another(lengths[::-1], count - sum(map(sum, lengths)))


COGVIEW = Family(named(joint=r"transformer_blocks\.\d+\.attn1"), order="text, image")


def motif_video(denoiser) -> dict:
    """The last `num_decoder_layers` single blocks attend the video's own encoder states instead of a text."""
    singles = len(denoiser.single_transformer_blocks) - denoiser.num_decoder_layers
    late = tuple(f"single_transformer_blocks.{i}." for i in range(singles, len(denoiser.single_transformer_blocks)))
    found = named(joint=r"(single_)?transformer_blocks\.\d+\.attn", cross=r"(single_)?transformer_blocks\.\d+\.cross_attn")(denoiser)
    return {name: layer for name, layer in found.items() if not name.startswith(late)}


def second_text_first(kind: str, lengths, count: int) -> tuple[list, list]:
    """(image, second text, first text), where the first is the one by which conditional rows are known."""
    (first, first_negative), (second, second_negative) = lengths
    start = count - first - first_negative - second - second_negative
    middle = start + second + second_negative
    return [(middle, first), (start, second)], [(middle + first, first_negative), (start + second, second_negative)]


def between_image_tags(prompt: str, words: str) -> str:
    """`words` in a chat message that names as many reference images as `prompt` does."""
    found = re.fullmatch(r"(<\|im_start\|>user\n(?:<image>\n)*).*(<\|im_end\|>\n)", prompt, re.DOTALL)
    return found[1] + words + found[2] if found else words


HUNYUAN_VIDEO = Family(
    named(joint=r"(single_)?transformer_blocks\.\d+\.attn"), (text(), mask(2)), adapter=adapters.apart("context_embedder"),
    rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance", "image_embeds",
          "latents_clean", "latents_history_2x", "latents_history_4x"))
COGVIDEO_X = Family(named(joint=r"transformer_blocks\.\d+\.attn1"), order="text, image", adapter=adapters.one_text_per_patch_embed)


def two_texts(denoiser) -> dict:
    """AudioLDM 2: of the transformers behind one another in a block, from the third on they see the second text."""
    second = set()
    for block in [*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks]:
        transformers = getattr(block, "attentions", [])
        count = len(transformers) // max(1, len(block.resnets) - (block is denoiser.mid_block))
        second |= {module for i, transformer in enumerate(transformers) if i % count > 1 for module in transformer.modules()}
    return {name: ("cross_second" if m in second else "cross", m) for name, (_, m) in cross_attention(denoiser).items()}


def own(kind: str, lengths, count: int) -> tuple[list, list]:
    """Two texts, each in attentions of its own."""
    positive, negative = lengths[kind == "cross_second"]
    return [(0, positive)], [(positive, negative)]


def behind(kind: str, lengths, count: int) -> tuple[list, list]:
    """The text behind what goes with either text."""
    positive, negative = lengths[0]
    start = count - positive - negative
    return [(0, start), (start, positive)], [(0, start), (start + positive, negative)]


ATTN2 = named(cross=r"transformer_blocks\.\d+\.attn2")
PIXART = Family(ATTN2, (text(), mask(1)))
WAN = Family(named(cross=r"(vace_)?blocks\.\d+\.attn2"), adapter=adapters.behind_the_image, tokenizer="tokenizer")

FAMILIES = {
    # SD 1.5, SDXL and all that is distilled from them. The pooled text of SDXL stays as it is.
    "UNet2DConditionModel": Family(cross_attention, (text(), mask(None)), adapter=adapters.beside_the_image, tokenizer="tokenizer"),
    # ControlNet-XS: base and control in one model; the control's layers rest where it is not applied
    "UNetControlNetXSModel": Family(cross_attention, adapter=adapters.beside_the_image, silent=r".*ctrl.*"),
    "DreamLiteUNetModel": Family(cross_attention, (text(), mask(1)), together=True,
                                 remark="The negative prompt is encoded without the prefix that the pipeline gives the prompt."),
    "UNetMotionModel": Family(cross_attention, each="sample"),
    "UNet3DConditionModel": Family(cross_attention),
    "I2VGenXLUNet": Family(functools.partial(cross_attention, kind="cross_added")),
    "Kandinsky3UNet": Family(
        named(cross=r"(down|up)_blocks\.\d+\.attentions\.[1-9]\d*\.attention"), (text(), mask(2)),
        adapter=adapters.pooled("add_time_condition")),
    "AudioLDM2UNet2DConditionModel": Family(
        two_texts, (text(2), text(0, "encoder_hidden_states_1", of=1), mask(1, "encoder_attention_mask_1", of=1)), spans=own, together=True),
    # The decoder, which sees pooled text only, is left alone.
    "StableCascadeUNet": Family(
        named(cross_added=r"(down|up)_blocks\.\d+\.\d+\.attention"), (text(0, "clip_text"),), spans=behind, adapter=adapters.text_last),
    # --- cross-attention
    "PixArtTransformer2DModel": PIXART,
    "SanaTransformer2DModel": PIXART,
    "SanaVideoTransformer3DModel": PIXART,
    "SanaWMTransformer3DModel": Family(named(cross=r"blocks\.\d+\.cross_attn"), (text(dim=2), mask(1, "mask"))),
    "SanaWMLTX2RefinerTransformer3DModel": PIXART,
    "LTXVideoTransformer3DModel": PIXART,
    "LTX2VideoTransformer3DModel": Family(
        named(cross=r"transformer_blocks\.\d+\.attn2", cross_second=r"transformer_blocks\.\d+\.audio_attn2"),
        (text(), mask(1), text(None, "audio_encoder_hidden_states", of=1), mask(None, "audio_encoder_attention_mask", of=1)),
        spans=own, adapter=adapters.connected, remark="Video and sound are both guided."),
    "AllegroTransformer3DModel": Family(ATTN2, (text(dim=2), mask(1))),
    "LatteTransformer3DModel": Family(ATTN2),
    "StableAudioDiTModel": Family(named(cross_added=r"transformer_blocks\.\d+\.attn2"), together=True),
    "StableAudio3DiTModel": Family(named(cross_added=r"transformer_blocks\.\d+\.cross_attn"), (text(), mask(1))),
    "AceStepTransformer1DModel": Family(named(cross=r"layers\.\d+\.cross_attn"), adapter=adapters.conditioned,
                                       remark="The negative prompt is sung to the same lyrics; lyrics are not guided."),
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
        (text(), mask(2, "text_embedding_mask"),
         text(0, "encoder_hidden_states_t5", of=1, call=1), mask(2, "text_embedding_mask_t5", of=1, call=1)),
        adapter=adapters.hunyuan_dit_texts, remark="The modulation, pooled from T5's text, is the prompt's for both."),
    "LuminaNextDiT2DModel": Family(
        named(cross=r"layers\.\d+\.attn2"), (text(), mask(1, "encoder_mask")), adapter=adapters.pooled("time_caption_embed"),
        remark="The modulation, pooled from the text, is the prompt's for both."),
    # --- cross-attention behind a text encoder of the model's own
    "Kandinsky5Transformer3DModel": Family(
        named(cross=r"visual_transformer_blocks\.\d+\.cross_attention", text=r"text_transformer_blocks\.\d+\.self_attention"),
        adapter=adapters.counted_from_zero("text_rope_embeddings")),
    "Kandinsky6Transformer3DModel": Family(
        named(cross=r"visual_transformer_blocks\.\d+\.(video|audio)_dec_block\.cross_attention",
              text=r"(video|audio)_text_transformer_blocks\.\d+\.attn"),
        (text(), mask(2)), adapter=adapters.counted_from_zero("video_text_rope_embeddings", "audio_text_rope_embeddings"),
        silent=r".*audio_dec_block\.cross_attention"),
    # --- joint attention
    # SD3.5-Medium's attn2 sees the image only and is left alone.
    "SD3Transformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"), tokenizer="tokenizer_3", behind="tokenizer_max_length"),
    "FluxTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(2)), "text, image", tokenizer="tokenizer_2"),
    # the mask covers text and image
    "ChromaTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(1), mask(2, "attention_mask")), "text, image"),
    "BriaTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(2)), "text, image"),
    "OvisImageTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(2)), "text, image"),
    "LongCatImageTransformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(1)), "text, image"),
    # layerwise_blocks attend the layers of one token, and are left alone
    "Krea2Transformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn", text=r"text_fusion\.refiner_blocks\.\d+\.attn"),
        (text(), mask(1), ids(None, "position_ids")), "text, image"),
    "CogView3PlusTransformer2DModel": COGVIEW,
    "CogView4Transformer2DModel": COGVIEW,
    "HiDreamImageTransformer2DModel": Family(
        named(joint=r"(double|single)_stream_blocks\.\d+\.block\.attn1"),
        (text(0, "encoder_hidden_states_t5"), text(2, "encoder_hidden_states_llama3", dim=2, of=1, batch=1)), spans=hidream_spans),
    # The text has keys and values, and no queries.
    "PRXTransformer2DModel": Family(named(joint=r"blocks\.\d+\.attention"), (text(), mask(1, "attention_mask")), "text, image"),
    "MotifVideoTransformer3DModel": Family(motif_video, (text(), mask(2))),
    "EasyAnimateTransformer3DModel": Family(named(joint=r"transformer_blocks\.\d+\.attn1"), order="text, image"),
    "JoyImageEditPlusTransformer3DModel": Family(
        named(joint=r"double_blocks\.\d+\.attn"), (text(), mask(1, "encoder_hidden_states_mask")),
        encoders=("encode_prompt", "encode_prompt_multiple_images"), phrase=between_image_tags),
    # --- joint attention with an adapter
    "Flux2Transformer2DModel": Family(IN_TWO_STREAMS, (text(), ids(1)), "text, image", adapter=adapters.kept_references),
    "BriaFiboTransformer2DModel": Family(
        IN_TWO_STREAMS, (text(), text_layers(5), mask(3, "attention_mask"), ids(2)), "text, image",
        adapter=adapters.mask_of_text_and_image),
    # the main stream sees gist tokens, which a perceiver makes of each text; a few blocks see the text itself too
    "BriaFibo2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", injected=r"layers\.\d+\.cross_attention"), (text(dim=2), mask(1)), "text, image",
        spans=adapters.gists_or_text, adapter=adapters.gist_tokens,
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "context_latents[]"),
        remark="With pictures of rendered text, the first steps run on another caption and are not guided."),
    "Ideogram4Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention"), spans=adapters.around_the_image, adapter=adapters.ideogram_sequence, repeats=True),
    "QwenImageTransformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"), (text(), mask(1, "encoder_hidden_states_mask")), "text, image",
        adapter=adapters.qwen_positions),
    "NucleusMoEImageTransformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"), (text(), mask(1, "encoder_hidden_states_mask")), adapter=adapters.qwen_positions),
    "QwenImage21Transformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"), (text(), mask(1, "encoder_hidden_states_mask")), "text, image",
        adapter=adapters.qwen_21_layout, remark="Text to image only."),
    "AuraFlowTransformer2DModel": Family(
        named(joint=r"(joint|single)_transformer_blocks\.\d+\.attn"), order="text, image", grow=lambda length: length + 8,
        adapter=adapters.registers),
    "Lumina2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attn", text=r"context_refiner\.\d+\.attn"), (text(), mask(1)), "text, image",
        adapter=adapters.lumina_positions, rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")),
    "ErnieImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.self_attention"), (text(0, "text_bth"), valid(1, "text_lens")),
        adapter=adapters.ernie_texts, remark="The image stands behind the prompt, also for the negative.",
        rows=("hidden_states", "timestep", "text_bth", "text_lens")),
    "HunyuanImageTransformer2DModel": Family(
        named(joint=r"(single_)?transformer_blocks\.\d+\.attn"),
        (text(), mask(1), text(2, "encoder_hidden_states_2", of=1), mask(3, "encoder_attention_mask_2", of=1)), spans=hunyuan_image_spans,
        adapter=adapters.apart("context_embedder"),
        rows=("hidden_states", "timestep", "timestep_r", "encoder_hidden_states", "encoder_attention_mask", "encoder_hidden_states_2",
              "encoder_attention_mask_2", "guidance")),
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideoFramepackTransformer3DModel": HUNYUAN_VIDEO,
    "HunyuanVideo15Transformer3DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"),
        (text(0), mask(1), text(2, "encoder_hidden_states_2", of=1), mask(3, "encoder_attention_mask_2", of=1)), spans=second_text_first,
        adapter=adapters.hunyuan_video_15, empty=True,
        rows=("hidden_states", "timestep", "timestep_r", "encoder_hidden_states", "encoder_attention_mask", "encoder_hidden_states_2",
              "encoder_attention_mask_2", "image_embeds")),
    "CogVideoXTransformer3DModel": COGVIDEO_X,
    "ConsisIDTransformer3DModel": COGVIDEO_X,
    "MochiTransformer3DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn1"), (text(), mask(1)), adapter=adapters.apart("time_embed"), empty=True,
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask")),
    "JoyImageEditTransformer3DModel": Family(
        named(joint=r"double_blocks\.\d+\.attn"), adapter=adapters.joy_image_positions,
        encoders=("encode_prompt", "encode_prompt_multiple_images")),
    "ZImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", text=r"context_refiner\.\d+\.attention"), (text(0, "cap_feats", 0),),
        grow=lambda length: length + -length % 32, adapter=adapters.z_image_captions, rows=("x", "t", "cap_feats")),
}

NO_WORDS = "it takes no words."
REFUSED = {
    # class: why NAG cannot guide it as it is
    **dict.fromkeys(("UNet1DModel", "UNet2DModel", "T5FilmDecoder"), NO_WORDS),
    **dict.fromkeys(("MotionAdapter", "TransformerTemporalModel"), "it is an inner part of other models."),
    "Flux3Transformer2DModel":
        "diffusers runs FLUX.3 with modular blocks only, one of which encodes the prompt, so there is no encode_prompt to listen to.",
    "GlmImageTransformer2DModel":
        "all it reads as text are the words between quotation marks; the rest of a prompt reaches it as image tokens drawn by a language "
        "model, so a negative prompt has nothing to steer.",
    "OmniGenTransformer2DModel":
        "its pipeline has no text encoder that NAG could ask for the negative prompt: words go in as token ids, in one causal sequence "
        "with the pictures.",
    "Kandinsky6SRTransformer3DModel": "it enlarges a video and never sees a text, so there is nothing to steer away from.",
    "Cosmos3OmniTransformer":
        "its text is token ids in one sequence with the video, whose positions count on from the text's, and its pipeline has no "
        "encode_prompt, so a second text cannot be put beside the first from outside.",
    "MiniMaxH3Transformer3DModel":
        "it runs in modular pipelines only, which have no encode_prompt, and places text, video and sound by index tables made elsewhere, "
        "so there is no place to bring in a second text.",
    "WanAnimate2Transformer3DModel": "its modular pipeline has no encode_prompt, so NAG cannot listen to its words.",
    "MiniMaxMusic3Transformer1DModel": "it adds its text to the latents frame by frame and has no attention that sees text.",
    "MiniMaxMusic3RVQDepthDecoder": "it writes audio codes one by one and denoises nothing.",
    "LongCatAudioDiTTransformer": "it averages its text into the modulation in the midst of its forward, so a negative text would change more "
                                  "than attention.",
    "UNetSpatioTemporalConditionModel": "it is told by a picture what to show, and not by words.",
    "UVit2DModel": "aMUSEd encodes its words inside the pipeline's call and has no encode_prompt, so NAG cannot listen to them.",
    "PriorTransformer": "it makes one embedding of words, and no image whose tokens could look at two texts.",
    "DiTTransformer2DModel": "it is told by a class number what to show, and not by words.",
    "RFD4ProteinaTransformer": "it designs proteins, and no words tell it what to make.",
    "Transformer2DModel": "it is an inner part of other models.",
    "DreamLiteTransformer2DModel": "it is an inner part of a DreamLiteUNetModel.",
}


def denoisers_of(pipe) -> list:
    """The UNet or transformers of a pipeline as they stand there (Wan 2.2 has two), or the module itself."""
    for names in (("transformer", "transformer_2", "unet"), ("prior",)):
        if found := [part for name in names if (part := getattr(pipe, name, None)) is not None]:
            return found
    return [pipe]


def unwrapped(denoiser):
    """The model inside `torch.compile`."""
    return getattr(denoiser, "_orig_mod", denoiser)


def denoiser_of(pipe):
    """The first denoiser of a pipeline, unwrapped."""
    return unwrapped(denoisers_of(pipe)[0])


def row_of(cls) -> str | None:
    """The name of the row that describes a denoiser class: its own, or that of a class it inherits from."""
    return next((base.__name__ for base in cls.__mro__ if base.__name__ in FAMILIES or base.__name__ in REFUSED), None)


def find(pipe) -> Family:
    """The row of a pipeline's denoiser. Raises a ValueError that says why it is refused, or names what is supported."""
    denoiser = denoiser_of(pipe)
    row = row_of(type(denoiser))
    if row in REFUSED:
        raise ValueError(f"NAG cannot guide a {row}: {REFUSED[row]}")
    if row is None:
        raise ValueError(
            f"NAG does not know how text enters a {type(denoiser).__name__}, and does not guess. Supported: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[row]


def encoders_of(pipe) -> list[str]:
    """The methods of a pipeline that turn words into text."""
    named = [name for name in find(pipe).encoders if hasattr(pipe, name)]
    return named or [name for name in ("_encode_prompt",) if hasattr(pipe, name)]


def supports(pipe) -> tuple[bool, str]:
    """Whether `nag.guide` works on this pipeline (or on pipelines with this denoiser), and in one sentence how, or why not."""
    try:
        family, denoiser = find(pipe), denoiser_of(pipe)
        layers = family.layers(denoiser)
    except ValueError as error:
        return False, str(error)
    if denoiser is not pipe and not encoders_of(pipe):
        return False, f"NAG listens to a pipeline's {family.encoders[-1]}, and a {type(pipe).__name__} has none."
    if not layers:
        return False, f"This {type(denoiser).__name__} has no attention layer that sees text, so NAG has nothing to guide."
    counts = {kind: sum(k.startswith(kind) for k, _ in layers.values()) for kind in ("cross", "joint", "text")}
    found = " and ".join(f"{count} {kind}-attention" for kind, count in counts.items() if count)
    return True, f"{type(denoiser).__name__}: {found} layers, negative text packed behind the positive."
