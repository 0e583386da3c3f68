"""Denoisers shaped like the real ones, with random weights, for `cost.py`.

Each is a function (full) -> Case: full is the model's own size; else as many image and text tokens
as the model has, and less width and depth. Text inputs are made of words by random numbers.
"""

import torch
from denoisers import Case, embeds, noise, ramp, steps_of


def flux(full: bool):
    """4096 image tokens (1024 px), 512 text tokens; full: Flux.1-dev, 12 billion."""
    from diffusers import FluxTransformer2DModel

    config = (
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "axes_dims_rope": (16, 56, 56),
            "attention_head_dim": 128,
            "guidance_embeds": True,
        }
        if full
        else {
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 8,
            "joint_attention_dim": 128,
            "pooled_projection_dim": 64,
            "axes_dims_rope": (8, 28, 28),
            "attention_head_dim": 64,
            "guidance_embeds": True,
        }
    )
    return Case(
        lambda: FluxTransformer2DModel(patch_size=1, in_channels=64, **config),
        (4096, 64),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "img_ids": ramp(1, 64, 64),
            "guidance": torch.full((len(x),), 3.5),
            "pooled_projections": noise("pooled", 1, config["pooled_projection_dim"]).repeat(
                len(x), 1
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 512, config["joint_attention_dim"]),
            "txt_ids": torch.zeros(512, 3),
        },
    )


def sd35(full: bool):
    """4096 image tokens, 333 text tokens; full: SD3.5-Large."""
    from diffusers import SD3Transformer2DModel

    layers, heads, text, pooled = (38, 38, 4096, 2048) if full else (2, 8, 128, 64)
    return Case(
        lambda: SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            num_layers=layers,
            attention_head_dim=64,
            num_attention_heads=heads,
            joint_attention_dim=text,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=pooled,
            out_channels=16,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
        (16, 128, 128),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "pooled_projections": noise("pooled", 1, pooled).repeat(len(x), 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, 333, text)},
    )


def sdxl(full: bool):
    """128 x 128 latents, 77 text tokens, transformers at half and a quarter of the side; full:
    SDXL."""
    from diffusers import UNet2DConditionModel

    config = (
        {
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
        if full
        else {
            "block_out_channels": (64, 128, 256),
            "cross_attention_dim": 256,
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": (1, 1, 4),
        }
    )
    added = {"text_embeds": noise("pooled", 1, 1280), "time_ids": torch.full((1, 6), 1024.0)}
    return Case(
        lambda: UNet2DConditionModel(
            sample_size=128,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            **config,
        ),
        (4, 128, 128),
        lambda x, t: {
            "sample": x,
            "timestep": t,
            "return_dict": False,
            **(
                {
                    "added_cond_kwargs": {
                        name: value.repeat(len(x), 1) for name, value in added.items()
                    }
                }
                if full
                else {}
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 77, config["cross_attention_dim"])
        },
    )


def sana(full: bool):
    """32 x 32 latents (1024 px), 300 text tokens; full: Sana 1.6B."""
    from diffusers import SanaTransformer2DModel

    config = (
        {
            "num_attention_heads": 70,
            "num_layers": 20,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "caption_channels": 2304,
        }
        if full
        else {
            "num_attention_heads": 16,
            "num_layers": 2,
            "num_cross_attention_heads": 8,
            "cross_attention_head_dim": 64,
            "cross_attention_dim": 512,
            "caption_channels": 128,
        }
    )
    return Case(
        lambda: SanaTransformer2DModel(
            in_channels=32,
            out_channels=32,
            attention_head_dim=32,
            sample_size=32,
            patch_size=1,
            **config,
        ),
        (32, 32, 32),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 300, config["caption_channels"]),
            "encoder_attention_mask": torch.ones(len(words), 300),
        },
    )


def wan(full: bool, frames: int = 5, heads: int = 8, layers: int = 1):
    """5 latent frames of 60 x 104 (7,800 tokens), 512 text tokens; full: Wan2.1 1.3B, 21 latent
    frames (480p, 81 frames)."""
    from diffusers import WanTransformer3DModel

    config = (
        {
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "text_dim": 4096,
            "freq_dim": 256,
            "ffn_dim": 8960,
            "num_layers": 30,
        }
        if full
        else {
            "num_attention_heads": heads,
            "attention_head_dim": 64,
            "text_dim": 128,
            "freq_dim": 64,
            "ffn_dim": 256 * heads,
            "num_layers": layers,
        }
    )
    return Case(
        lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2), in_channels=16, out_channels=16, rope_max_seq_len=1024, **config
        ),
        (16, 21 if full else frames, 60, 104),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, 512, config["text_dim"])},
    )


def wan_81(full: bool):
    """As many tokens as the model has of 81 frames (32,760), at a sixth of its width, one block."""
    return wan(full, 21, 4)


def ltx(full: bool):
    """13 latent frames of 16 x 22 (704 x 512, 97 frames), 128 text tokens; full: LTX-Video 2B."""
    from diffusers import LTXVideoTransformer3DModel

    heads, layers, text = (32, 28, 4096) if full else (8, 1, 128)
    return Case(
        lambda: LTXVideoTransformer3DModel(
            in_channels=128,
            out_channels=128,
            num_attention_heads=heads,
            attention_head_dim=64,
            cross_attention_dim=64 * heads,
            num_layers=layers,
            caption_channels=text,
        ),
        (13 * 16 * 22, 128),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "num_frames": 13,
            "height": 16,
            "width": 22,
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 128, text),
            "encoder_attention_mask": torch.ones(len(words), 128),
        },
    )


def hunyuan(full: bool):
    """9 latent frames of 32 x 56 (4,032 tokens), 256 text tokens; full: HunyuanVideo, 13 billion,
    13 latent frames of 90 x 160 (720p, 49 frames)."""
    from diffusers import HunyuanVideoTransformer3DModel

    config = (
        {
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "num_layers": 20,
            "num_single_layers": 40,
            "text_embed_dim": 4096,
            "pooled_projection_dim": 768,
            "rope_axes_dim": (16, 56, 56),
        }
        if full
        else {
            "num_attention_heads": 8,
            "attention_head_dim": 64,
            "num_layers": 1,
            "num_single_layers": 2,
            "text_embed_dim": 128,
            "pooled_projection_dim": 64,
            "rope_axes_dim": (8, 28, 28),
        }
    )
    return Case(
        lambda: HunyuanVideoTransformer3DModel(
            in_channels=16,
            out_channels=16,
            patch_size=2,
            patch_size_t=1,
            guidance_embeds=True,
            num_refiner_layers=2,
            **config,
        ),
        (16, 13, 90, 160) if full else (16, 9, 32, 56),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "guidance": torch.full((len(x),), 6000.0),
            "pooled_projections": noise("pooled", 1, config["pooled_projection_dim"]).repeat(
                len(x), 1
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 256, config["text_embed_dim"]),
            "encoder_attention_mask": (torch.arange(256) < 40).long().repeat(len(words), 1),
        },
    )


SHAPES = {
    "flux": flux,
    "sd35": sd35,
    "hunyuan": hunyuan,
    "sdxl": sdxl,
    "sana": sana,
    "wan": wan,
    "wan-81": wan_81,
    "ltx": ltx,
}
