"""pocket-joint: a transformer with joint attention on the data of pocket-portrait, as a plain FluxPipeline.

It shares the VAE and the CLIP text encoder (here the pooled text) with pocket-portrait; its own are a small T5 and the transformer.
Shapes: B rows, 64 picture tokens (2 x 2 patches of the 16 x 16 latents, 48 channels), T = 24 text tokens.
"""

import math
import random
import re
from collections import Counter
from pathlib import Path

import torch

from . import data, models, train

HEADS, HEAD = 3, 64
DOUBLE, SINGLE = (
    4,
    8,
)  # blocks with weights of their own for text and picture, and blocks that share them


def build_tokenizer(folder: Path, count: int = 20_000):
    """A T5Tokenizer (Unigram) whose pieces are the words of our captions, and letters for all others; saved into `folder`.

    The captions know some hundred words: the trainer of Unigram vocabularies, made for far more, cuts such words to pieces.
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
        model_max_length=models.TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenizer(run: Path):
    from transformers import T5Tokenizer

    folder = run / "tokenizer_2"
    return (
        T5Tokenizer.from_pretrained(folder)
        if (folder / "tokenizer.json").exists()
        else build_tokenizer(folder)
    )


def build_t5(tok):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tok),
            d_model=models.WIDTH,
            d_kv=32,
            d_ff=2 * models.WIDTH,
            num_layers=4,
            num_heads=6,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=models.TOKENS,
            pad_token_id=tok.pad_token_id,
            eos_token_id=tok.eos_token_id,
        )
    )


def train_t5(run: Path, steps: int, size: int = 256):
    tok = tokenizer(run)
    return train.train_text(run, steps, size, name="t5", tok=tok, encoder=build_t5(tok))


def load_t5(run: Path):
    tok = tokenizer(run)
    reader = train.AttributeReader(build_t5(tok))
    train._load_average(reader, run / "t5.pt")
    return tok, reader.text_encoder.to(train.device()).eval().requires_grad_(False)


def build_transformer():
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * models.LATENT_CHANNELS,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=models.WIDTH,
        pooled_projection_dim=models.WIDTH,
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


def pack(x):
    """(B, C, H, W) -> (B, H/2 * W/2, 4 C), as FluxPipeline does."""
    rows, channels, height, width = x.shape
    x = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(rows, height * width // 4, 4 * channels)


def unpack(x, height: int, width: int):
    rows, _, channels = x.shape
    x = x.reshape(rows, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(rows, channels // 4, height, width)


def places():
    """The pipeline's img_ids: (64, 3), zero, row and column."""
    side = torch.arange(8.0)
    return torch.stack([torch.zeros(64), side.repeat_interleave(8), side.repeat(8)], 1)


class Joint(train.Portrait):
    """The transformer: its text is the T5's tokens and CLIP's pooled vector."""

    name, lr, muon, size = "joint", 1.5e-3, ("blocks.", 1.5e-3), 64

    def load_text(self, run: Path):
        self.tok, self.text_encoder = train.load_text(run)
        self.tok_2, self.text_encoder_2 = load_t5(run)
        self.place()

    def place(self):
        self.places, self.nowhere = (
            places().to(train.device()),
            torch.zeros(models.TOKENS, 3, device=train.device()),
        )

    @torch.no_grad()
    def encode(self, captions):
        pooled = self.text_encoder(train.tokenize(self.tok, captions)).pooler_output.float()
        return self.text_encoder_2(train.tokenize(self.tok_2, captions))[0].float(), pooled

    def build(self):
        return build_transformer()

    def predict(self, model, x, s, text):
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


def assemble(run: Path, denoiser: str = "joint-student"):
    """The pipeline of a training run, float32."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    source = object.__new__(Joint)  # its text parts, without the data
    source.load_text(run)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=train.load_vae(run),
        text_encoder=source.text_encoder,
        tokenizer=source.tok,
        text_encoder_2=source.text_encoder_2,
        tokenizer_2=source.tok_2,
        transformer=train.load_denoiser(run, source, denoiser),
    )
