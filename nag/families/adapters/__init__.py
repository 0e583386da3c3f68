"""The small adapters: for models that count their text tokens somewhere outside of attention.

Each is a function (pipe, denoiser, state) -> context manager, entered while `nag.guide` is open. It
wraps modules of the denoiser, and gives an `Adapted` with what `nag.guide` changes for it, or None.
`state` is read only: while `state.layout` is None (no guided call is running) what an adapter wraps
does what it always did. Each states what would go wrong without it.

To change a call of the whole denoiser, it gives a function that stands around every such call.
Nothing is put in the place of a whole model's `forward`: offloading takes its hooks there off and
on after every picture, and what had been put there between goes with them.
"""

from .alone import (
    beside_the_image,
    each_text_alone,
    hunyuan_dit_texts,
    hunyuan_video_15,
    pooled,
)
from .between import (
    conditioned,
    connected,
    ernie_texts,
)
from .positions import (
    counted_from_zero,
    joy_image_positions,
    lumina_positions,
    one_text_per_patch_embed,
    qwen_21_layout,
    qwen_positions,
    registers,
    z_image_captions,
)
from .sequences import (
    behind_the_image,
    gist_tokens,
    ideogram_sequence,
    kept_references,
    mask_of_text_and_image,
    text_last,
)

__all__ = [
    "behind_the_image",
    "beside_the_image",
    "conditioned",
    "connected",
    "counted_from_zero",
    "each_text_alone",
    "ernie_texts",
    "gist_tokens",
    "hunyuan_dit_texts",
    "hunyuan_video_15",
    "ideogram_sequence",
    "joy_image_positions",
    "kept_references",
    "lumina_positions",
    "mask_of_text_and_image",
    "one_text_per_patch_embed",
    "pooled",
    "qwen_21_layout",
    "qwen_positions",
    "registers",
    "text_last",
    "z_image_captions",
]
