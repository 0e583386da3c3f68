"""pocket-joint: a transformer with joint attention on the data of pocket-portrait, as a plain
FluxPipeline.

It shares the VAE and the CLIP text encoder (here the pooled text) with pocket-portrait; its own are
a small T5 and the transformer.

Shapes: B rows, 64 picture tokens (2 x 2 patches of the 16 x 16 latents, 48 channels), T = 24 text
tokens.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import ASSETS, data
from .loop import device
from .portrait import Portrait
from .text import TOKENS, WIDTH, AttributeReader, load_text, tokenize, train_text, trained_encoder
from .train import load_denoiser
from .vae import LATENT_CHANNELS, load_vae

if TYPE_CHECKING:
    from diffusers import FluxPipeline
    from transformers import T5Tokenizer

SHIPPED = ASSETS / "pocket-joint"
HEADS, HEAD = 3, 64
# blocks with weights of their own for text and picture, and blocks that share them
DOUBLE, SINGLE = 4, 8


def build_tokenizer(folder: Path, count: int = 20_000) -> T5Tokenizer:
    """A T5Tokenizer (Unigram) whose pieces are the words of our captions, and letters for all
    others; saved into `folder`.

    The captions know some hundred words: the trainer of Unigram vocabularies, made for far more,
    cuts such words to pieces.
    """
    from transformers import T5Tokenizer

    rng, words = random.Random(0), Counter()
    for _ in range(count):
        text = data.caption(data.sample_person(rng), rng)
        words.update(re.findall(r"[A-Za-z]+", text + " " + text[:1].upper() + text[1:]))
    whole = sum(words.values())
    letters = [chr(i) for i in range(33, 127)]
    pieces = [(f"\u2581{word}", math.log(n / whole)) for word, n in words.most_common()]
    pieces += [
        (piece, -12.0) for piece in ["\u2581", *letters]
    ]  # rarer than any word, so words stay whole
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *pieces],
        extra_ids=0,
        model_max_length=TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenizer(run: Path) -> T5Tokenizer:
    from transformers import T5Tokenizer

    folder = run / "tokenizer_2"
    return (
        T5Tokenizer.from_pretrained(folder)
        if (folder / "tokenizer.json").exists()
        else build_tokenizer(folder)
    )


def build_t5(tok: T5Tokenizer) -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tok),
            d_model=WIDTH,
            d_kv=32,
            d_ff=2 * WIDTH,
            num_layers=4,
            num_heads=6,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=TOKENS,
            pad_token_id=tok.pad_token_id,
            eos_token_id=tok.eos_token_id,
        )
    )


def train_t5(run: Path, steps: int, size: int = 256) -> AttributeReader:
    tok = tokenizer(run)
    return train_text(run, steps, size, name="t5", tok=tok, encoder=build_t5(tok))


def load_t5(run: Path) -> tuple:
    """Tokenizer and T5 of this run, or those that ship."""
    if not (run / "t5.pt").exists():
        from transformers import T5EncoderModel, T5Tokenizer

        encoder = T5EncoderModel.from_pretrained(SHIPPED / "text_encoder_2", dtype=torch.float32)
        encoder = encoder.to(device()).eval().requires_grad_(False)
        return T5Tokenizer.from_pretrained(SHIPPED / "tokenizer_2"), encoder
    tok = tokenizer(run)
    return tok, trained_encoder(AttributeReader(build_t5(tok)), run / "t5.pt")


def build_transformer() -> torch.nn.Module:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )
    # every block begins as the identity (DiT's adaLN-zero), which diffusers leaves to the training
    for name, module in model.named_modules():
        if (
            name.endswith(
                ("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")
            )
            or name == "proj_out"
        ):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


def shipped_teacher() -> torch.nn.Module:
    """The transformer before its distillation, as it ships."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(
        SHIPPED / "transformer", variant="teacher", dtype=torch.float32
    )


def pack(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H/2 * W/2, 4 C), as FluxPipeline does."""
    rows, channels, height, width = x.shape
    x = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(rows, height * width // 4, 4 * channels)


def unpack(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, H/2 * W/2, 4 C) -> (B, C, H, W): what `pack` took apart."""
    rows, _, channels = x.shape
    x = x.reshape(rows, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(rows, channels // 4, height, width)


def places() -> torch.Tensor:
    """The pipeline's img_ids: (64, 3), zero, row and column."""
    side = torch.arange(8.0)
    return torch.stack([torch.zeros(64), side.repeat_interleave(8), side.repeat(8)], 1)


class Joint(Portrait):
    """The transformer: its text is the T5's tokens and CLIP's pooled vector."""

    name, lr, muon, size = "joint", 1.5e-3, ("blocks.", 1.5e-3), 64

    def load_text(self, run: Path) -> None:
        self.tok, self.text_encoder = load_text(run)
        self.tok_2, self.text_encoder_2 = load_t5(run)
        self.place()

    def place(self) -> None:
        self.places = places().to(device())
        self.nowhere = torch.zeros(TOKENS, 3, device=device())

    def tokenized(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        return tokenize(self.tok, captions), tokenize(self.tok_2, captions)

    @torch.no_grad()
    def read(self, ids: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        pooled = self.text_encoder(ids[0]).pooler_output.float()
        return self.text_encoder_2(ids[1])[0].float(), pooled

    @staticmethod
    def build() -> torch.nn.Module:
        return build_transformer()

    def predict(
        self,
        model: torch.nn.Module,
        x: torch.Tensor,
        s: torch.Tensor,
        text: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        out = model(
            hidden_states=pack(x),
            timestep=s.flatten(),
            encoder_hidden_states=text[0],
            pooled_projections=text[1],
            img_ids=self.places,
            txt_ids=self.nowhere,
            return_dict=False,
        )[0]
        return unpack(out, *x.shape[-2:])


def assemble(run: Path, denoiser: str = "joint-student") -> FluxPipeline:
    """The pipeline of a training run, float32."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    source = Joint.without_data(run)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=load_vae(run),
        text_encoder=source.text_encoder,
        tokenizer=source.tok,
        text_encoder_2=source.text_encoder_2,
        tokenizer_2=source.tok_2,
        transformer=load_denoiser(run, Joint.build, denoiser),
    )
