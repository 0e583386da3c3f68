"""The parts of pocket-portrait: standard diffusers and transformers classes, sizes chosen for two CPU cores.

Shapes: B rows, T = 24 tokens, latents (B, 12, 16, 16), pictures (B, 3, 128, 128) in [-1, 1].
"""

import json
import random
from pathlib import Path

from torch import nn

from ..pocket import data

TOKENS = 24
LATENT_CHANNELS = 12
WIDTH = 192  # of the text encoder, and of the UNet where it attends


def build_tokenizer(folder: Path, count: int = 20_000):
    """A CLIPTokenizer with a vocabulary trained on our captions, saved into `folder`.

    Every byte is added with and without the end-of-word mark: the trainer drops pieces that never end a word, and
    a word it never saw must become bytes, not an error.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    rng = random.Random(0)
    captions = [data.caption(data.sample_person(rng), rng) for _ in range(count)]
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    # the same split as CLIP's: words, digits, punctuation
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1024, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in learned["merges"]]
    pieces = (
        alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    )
    pieces = list(dict.fromkeys(pieces)) + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({piece: i for i, piece in enumerate(pieces)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae():
    """AutoencoderTiny, 8x downsampling. One decoder block works at 64 px: without it all above 32 px is linear, hence soft."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(64,) * 4,
        decoder_block_out_channels=(64,) * 4,
        num_encoder_blocks=(0, 0, 2, 2),
        num_decoder_blocks=(2, 4, 1, 0),
    )
    # The default initialisation shrinks the signal block by block until nothing is left to learn from.
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in vae.named_modules():
        if name.endswith("conv.4"):  # the last convolution of a residual block
            module.weight.data.mul_(0.2)
    vae.decoder.layers[-1].weight.data.mul_(0.1)
    nn.init.constant_(vae.decoder.layers[-1].bias, 0.6)  # the mean of the pictures
    return vae


def build_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, WIDTH),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=[2, 3],  # heads: the argument's old meaning
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def build_scheduler(shift: float = 1.0):
    """Plain Euler steps on the straight flow; the one such scheduler that StableDiffusionPipeline accepts."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        solver_order=1,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        algorithm_type="dpmsolver++",
        steps_offset=1,  # unused with flow sigmas; StableDiffusionPipeline warns at any other value
    )
