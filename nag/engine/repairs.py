"""What a pipeline that loaded without an error still needs before its first call."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("nag")


def repair(pipe: DiffusionPipeline, video: bool) -> None:
    """Changes `pipe` in place. video: whether it makes videos, which are decoded in tiles.

    diffusers' documentation of HunyuanVideo and LTX-2 decodes in tiles throughout, for without them
    a video of usual length is decoded in more memory than the denoiser takes.
    """
    for holder, name in _tokenizers_of(pipe):
        if (spaced := _as_its_file_says(getattr(holder, name))) is not None:
            setattr(holder, name, spaced)
    vae = getattr(pipe, "vae", None)
    if video and hasattr(vae, "enable_tiling") and not _makes_four_channels(vae):
        vae.enable_tiling()


def _makes_four_channels(vae: ModelMixin) -> bool:
    """Whether this VAE, in tiles, encodes into four channels that are not its own: diffusers'
    AutoencoderTiny (0.42). It takes little memory without them."""
    return type(vae).__name__ == "AutoencoderTiny" and vae.config.latent_channels != 4


def _tokenizers_of(pipe: DiffusionPipeline) -> list[tuple[object, str]]:
    """Where each tokenizer of `pipe` stands: (the pipeline or a processor in it, attribute)."""
    from transformers import PreTrainedTokenizerBase

    parts = pipe.components
    found = [(pipe, n) for n, part in parts.items() if isinstance(part, PreTrainedTokenizerBase)]
    inner = ((part, getattr(part, "tokenizer", None)) for part in parts.values())
    return found + [(p, "tokenizer") for p, t in inner if isinstance(t, PreTrainedTokenizerBase)]


def _as_its_file_says(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The tokenizer loaded again as its tokenizer.json says, or None where it already is.

    The Llama tokenizer of transformers 5 puts a splitter of its own in place of the file's. If the
    file's works on bytes (Llama 3, in HunyuanVideo), every space of a prompt is lost without a word
    (transformers issue 45488). AutoTokenizer sees to it; a pipeline's model_index.json names the
    class instead. It pads where it did: Llama's on the left where its folder says nothing.
    """
    from transformers import PreTrainedTokenizerFast

    path = Path(str(tokenizer.name_or_path)) / "tokenizer.json"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not path.is_file():
        return None
    if not _by_bytes(json.loads(path.read_text(encoding="utf-8"))) or _by_bytes(
        json.loads(backend.to_str())
    ):
        return None
    log.info("%s loaded again as its tokenizer.json says", type(tokenizer).__name__)
    return PreTrainedTokenizerFast.from_pretrained(path.parent, padding_side=tokenizer.padding_side)


def _by_bytes(content: dict) -> bool:
    """Whether a tokenizer.json splits text by bytes, which keeps spaces inside the tokens."""
    splitter = content.get("pre_tokenizer") or {}
    return any(s.get("type") == "ByteLevel" for s in (splitter, *splitter.get("pretokenizers", ())))
