"""One row per denoiser class: where its text comes in, and which of its attentions see text.

That is all that NAG must be told about a model. To add a family, add a row; the parametrised tests ask for a tiny one too.
Where a model counts its text tokens itself, the row also names one of the small adapters in `nag/adapters.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from . import adapters

KINDS = {
    "cross": "keys are the text, queries the image",
    "joint": "keys and queries are text and image in one sequence",
    "text": "keys and queries are the text alone",
}


@dataclass(frozen=True)
class Packed:
    """One input of the denoiser that carries something per text token, and grows by the negative's when they are packed.

    argument: its name in the denoiser's `forward`. encoded: its place in what `encode_prompt` returns; None where it is made elsewhere.
    dim: the dimension that counts tokens. kind: "text", "mask" or "ids". of: which text (0 the first) the tokens belong to.
    """

    argument: str
    encoded: int | None
    dim: int = 1
    kind: str = "text"
    of: int = 0


def text(encoded: int | None = 0, argument: str = "encoder_hidden_states", dim: int = 1, of: int = 0) -> Packed:
    """A text: (rows, T, D), or a list of `rows` tensors (T, D) with `dim=0`."""
    return Packed(argument, encoded, dim, "text", of)


def mask(encoded: int | None, argument: str = "encoder_attention_mask", of: int = 0) -> Packed:
    """A text's mask, (rows, T); image tokens may follow the text's."""
    return Packed(argument, encoded, 1, "mask", of)


def ids(encoded: int | None, argument: str = "txt_ids", dim: int = -2, of: int = 0) -> Packed:
    """Position ids of a text's tokens, (T, axes) or (rows, T, axes): the negative brings its own."""
    return Packed(argument, encoded, dim, "ids", of)


@dataclass(frozen=True)
class Family:
    """What NAG must be told of a denoiser class.

    layers: denoiser -> {name: (kind, attention module)} of all that see the text; see `KINDS`.
    inputs: what is packed. The first is the text by whose values the conditional rows are recognised.
    order: of a joint attention's sequence, "text, image" or "image, text". spans: where that is not enough, a function
        (kind, lengths, count) -> (pieces of the positive, pieces of the negative), each a list of (start, length).
    grow: tokens that a text of so many tokens has inside the model (registers, padding to a multiple).
    adapter: (pipe, denoiser, guidance) -> context manager, for models that count their text tokens; see `nag/adapters.py`.
    rows: names of the arguments with one entry per row. Set where texts of different length cannot share a call: padding is
        then cut off by the mask, and rows of different length (or un-guided ones) run one after the other.
    remark: what a user should know, for the README's table.
    """

    layers: Callable
    inputs: tuple[Packed, ...] = field(default_factory=lambda: (text(),))
    order: str = "image, text"
    spans: Callable | None = None
    grow: Callable | None = None
    adapter: Callable | None = None
    rows: tuple[str, ...] = ()
    remark: str = ""

    @property
    def texts(self) -> list[Packed]:
        return [p for p in self.inputs if p.kind == "text"]

    def companion(self, kind: str, of: int = 0) -> Packed | None:
        """The mask or the ids of a text."""
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
        positives, negatives = [], []
        for positive, negative in lengths:
            positives.append((start, positive))
            negatives.append((start + positive, negative))
            start += positive + negative
        return positives, negatives


def named(**patterns: str) -> Callable:
    """Attention modules whose whole name matches: `named(joint=r"blocks\\.\\d+\\.attn")`."""
    expressions = {kind: re.compile(pattern) for kind, pattern in patterns.items()}

    def layers(denoiser) -> dict:
        return {name: (kind, module) for name, module in denoiser.named_modules() for kind, expression in expressions.items()
                if expression.fullmatch(name) and hasattr(module, "processor")}
    return layers


def cross_attention(denoiser) -> dict:
    """By what it is, not by its name: with `only_cross_attention` the text reaches `attn1` too."""
    found = {name: m for name, m in denoiser.named_modules() if getattr(m, "is_cross_attention", False) and hasattr(m, "processor")}
    added = [name for name, m in found.items() if getattr(m, "added_kv_proj_dim", None) is not None]
    if added:
        raise ValueError(
            f"{type(denoiser).__name__} mixes text into its self-attention ({added[0]}): Kandinsky 2 and DeepFloyd models are not supported."
        )
    return {name: ("cross", m) for name, m in found.items()}


FAMILIES = {
    # SD 1.5, SDXL and all that is distilled from them. The pooled text of SDXL stays as it is.
    "UNet2DConditionModel": Family(cross_attention, (text(), mask(None))),
    # --- cross-attention
    "PixArtTransformer2DModel": Family(named(cross=r"transformer_blocks\.\d+\.attn2"), (text(), mask(1))),
    "WanTransformer3DModel": Family(named(cross=r"blocks\.\d+\.attn2"), adapter=adapters.behind_the_image),
    # --- joint attention
    # SD3.5-Medium's attn2 sees the image only and is left alone.
    "SD3Transformer2DModel": Family(named(joint=r"transformer_blocks\.\d+\.attn")),
    "FluxTransformer2DModel": Family(named(joint=r"(single_)?transformer_blocks\.\d+\.attn"), (text(), ids(2)), "text, image"),
    # --- joint attention with an adapter
    "QwenImageTransformer2DModel": Family(
        named(joint=r"transformer_blocks\.\d+\.attn"), (text(), mask(1, "encoder_hidden_states_mask")), "text, image",
        adapter=adapters.qwen_positions),
    "HunyuanVideoTransformer3DModel": Family(
        named(joint=r"(single_)?transformer_blocks\.\d+\.attn"), (text(), mask(2)), adapter=adapters.apart("context_embedder"),
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "guidance")),
    "ZImageTransformer2DModel": Family(
        named(joint=r"layers\.\d+\.attention", text=r"context_refiner\.\d+\.attention"), (text(0, "cap_feats", 0),),
        grow=lambda length: length + -length % 32, adapter=adapters.z_image_captions, rows=("x", "t", "cap_feats")),
    # --- temporary
    "SanaTransformer2DModel": Family(named(cross=r"transformer_blocks\.\d+\.attn2"), (text(), mask(1))),
    "LTXVideoTransformer3DModel": Family(named(cross=r"transformer_blocks\.\d+\.attn2"), (text(), mask(1))),
    "Flux2Transformer2DModel": Family(named(joint=r"(single_)?transformer_blocks\.\d+\.attn"), (text(), ids(1)), "text, image"),
    "ChromaTransformer2DModel": Family(
        named(joint=r"(single_)?transformer_blocks\.\d+\.attn"), (text(), ids(1), mask(2, "attention_mask")), "text, image"),
    "CogView4Transformer2DModel": Family(named(joint=r"transformer_blocks\.\d+\.attn1"), (text(),), "text, image"),
    "Lumina2Transformer2DModel": Family(
        named(joint=r"layers\.\d+\.attn", text=r"context_refiner\.\d+\.attn"), (text(), mask(1)), "text, image",
        adapter=adapters.lumina_positions, rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")),
}

REFUSED = {
    # class: why NAG cannot guide it as it is
}


def denoisers_of(pipe) -> list:
    """The UNet or transformers of a pipeline as they stand there (Wan 2.2 has two), or the module itself."""
    names = ("transformer", "transformer_2", "unet")
    return [found for name in names if (found := getattr(pipe, name, None)) is not None] or [pipe]


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


def supports(pipe) -> tuple[bool, str]:
    """Whether `nag.guide` works on this pipeline or denoiser, and in one sentence how, or why not."""
    try:
        family, denoiser = find(pipe), denoiser_of(pipe)
        layers = family.layers(denoiser)
    except ValueError as error:
        return False, str(error)
    if not layers:
        return False, f"This {type(denoiser).__name__} has no attention layer that sees text, so NAG has nothing to guide."
    counts = {kind: sum(k == kind for k, _ in layers.values()) for kind in KINDS}
    found = " and ".join(f"{count} {kind}-attention" for kind, count in counts.items() if count)
    return True, f"{type(denoiser).__name__}: {found} layers, negative text packed behind the positive."
