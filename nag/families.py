"""One row per denoiser class: where its text comes in, and which of its attentions see text.

That is all that NAG must be told about a model. To add a family, add a row; the parametrised tests ask for a tiny one too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Packed:
    """One tensor input that carries text tokens, and grows by the negative's when they are packed.

    argument: its name in the denoiser's `forward`. encoded: its place in what `encode_prompt` returns.
    dim: the dimension that counts tokens.
    """

    argument: str
    encoded: int
    dim: int


@dataclass(frozen=True)
class Family:
    """A row: `attention` is "cross" (keys are text) or "joint" (keys are text and image, in `order`)."""

    attention: str
    modules: Callable  # denoiser -> {name: attention module} of all that see the text
    text: Packed = Packed("encoder_hidden_states", 0, 1)
    mask: Packed | None = None
    ids: Packed | None = None
    order: str = "image, text"


def named(pattern: str) -> Callable:
    """Attention modules whose whole name matches `pattern`."""
    expression = re.compile(pattern)
    return lambda denoiser: {name: m for name, m in denoiser.named_modules() if expression.fullmatch(name) and hasattr(m, "processor")}


def cross_attention(denoiser) -> dict:
    """By what it is, not by its name: with `only_cross_attention` the text reaches `attn1` too."""
    found = {name: m for name, m in denoiser.named_modules() if getattr(m, "is_cross_attention", False) and hasattr(m, "processor")}
    added = [name for name, m in found.items() if getattr(m, "added_kv_proj_dim", None) is not None]
    if added:
        raise ValueError(
            f"{type(denoiser).__name__} mixes text into its self-attention ({added[0]}): Kandinsky 2 and DeepFloyd models are not supported."
        )
    return found


FAMILIES = {
    # SD 1.5, SDXL and all that is distilled from them. The pooled text of SDXL stays as it is.
    "UNet2DConditionModel": Family("cross", cross_attention, mask=Packed("encoder_attention_mask", -1, 1)),
    "PixArtTransformer2DModel": Family(
        "cross", named(r"transformer_blocks\.\d+\.attn2"), mask=Packed("encoder_attention_mask", 1, 1),
    ),
    # SD3.5-Medium's attn2 sees the image only and is left alone.
    "SD3Transformer2DModel": Family("joint", named(r"transformer_blocks\.\d+\.attn"), order="image, text"),
    "FluxTransformer2DModel": Family(
        "joint", named(r"(single_)?transformer_blocks\.\d+\.attn"), order="text, image", ids=Packed("txt_ids", 2, 0),
    ),
}


def denoiser_of(pipe):
    """The UNet or transformer of a pipeline, or the module itself; a compiled one is unwrapped."""
    for name in ("transformer", "unet"):
        if getattr(pipe, name, None) is not None:
            pipe = getattr(pipe, name)
            break
    return getattr(pipe, "_orig_mod", pipe)


def find(pipe) -> Family:
    """The row of a pipeline's denoiser. Raises a ValueError that names what is supported."""
    denoiser = denoiser_of(pipe)
    for cls in type(denoiser).__mro__:
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__]
    raise ValueError(
        f"NAG does not know how text enters a {type(denoiser).__name__}, and does not guess. Supported: {', '.join(sorted(FAMILIES))}."
    )


def supports(pipe) -> tuple[bool, str]:
    """Whether `nag.guide` works on this pipeline or denoiser, and in one sentence how, or why not."""
    try:
        family = find(pipe)
        layers = len(family.modules(denoiser_of(pipe)))
    except ValueError as error:
        return False, str(error)
    return True, f"{type(denoiser_of(pipe)).__name__}: {layers} {family.attention}-attention layers, negative text packed behind the positive."
