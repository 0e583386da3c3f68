"""Tiny pipelines with random weights, one per denoiser family: the real classes, real tokenizers, built from configs."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from denoisers import loud

PROMPT, NEGATIVE = "portrait of a pirate, smiling face", "glasses"


@functools.cache
def clip_tokenizer():
    from nag.pocket.models import build_tokenizer

    return build_tokenizer(Path(tempfile.mkdtemp()), count=300)


@functools.cache
def t5_tokenizer():
    from transformers import T5Tokenizer

    letters = [(f"▁{c}", -2.0) for c in "abcdefghijklmnopqrstuvwxyz,"] + [(c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz,▁"]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0, model_max_length=24)


def clip(projection: bool = False, width: int = 16):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5(width: int = 16):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval()


def kl_vae(channels: int = 4):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=32, shift_factor=0.0,
    ).eval()


def unet(**config):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 8,
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **config,
    }).eval()


def sd():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        unet=unet(), vae=kl_vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


def sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        unet=unet(cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8,
                  projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=(1, 2)),
        vae=kl_vae(), text_encoder=clip(), text_encoder_2=clip(projection=True), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )


def pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=16,
            sample_size=16, caption_channels=16, use_additional_conditions=False).eval(),
        vae=kl_vae(), text_encoder=t5(), tokenizer=t5_tokenizer(), scheduler=DPMSolverMultistepScheduler(),
    )


def sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=1, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=4, pos_embed_max_size=16,
            dual_attention_layers=(0,), qk_norm="rms_norm").eval(),
        vae=kl_vae(), text_encoder=clip(True), text_encoder_2=clip(True), text_encoder_3=t5(32), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), tokenizer_3=t5_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4)).eval(),
        vae=kl_vae(), text_encoder=clip(), text_encoder_2=t5(), tokenizer=clip_tokenizer(), tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def kontext():
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**{name: part for name, part in flux().components.items() if name not in ("image_encoder", "feature_extractor")})


def wan():
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    return WanPipeline(
        tokenizer=t5_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=UMT5EncoderModel(UMT5Config(
            vocab_size=len(t5_tokenizer()), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval(),
        vae=AutoencoderKLWan(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval(),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
            ffn_dim=32, num_layers=2, rope_max_seq_len=64).eval(),
    )


@functools.cache
def folder_of(name: str) -> str:
    """A tiny pipeline saved as a user's folder, to be loaded like any model."""
    torch.manual_seed(0)
    pipe = {"wan": wan, "kontext": kontext}[name]()
    loud(pipe.transformer)
    folder = tempfile.mkdtemp(prefix="nag-tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    return folder


# name -> (build, arguments of a plain call, arguments of a call with CFG)
PIPELINES = {
    "sd": (sd, {"guidance_scale": 0.0}, {"guidance_scale": 4.0}),
    "sdxl": (sdxl, {"guidance_scale": 0.0}, {"guidance_scale": 4.0}),
    "pixart": (pixart, {"guidance_scale": 1.0, "use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 24},
               {"guidance_scale": 4.0, "use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 24}),
    "sd3": (sd3, {"guidance_scale": 0.0, "max_sequence_length": 24}, {"guidance_scale": 4.0, "max_sequence_length": 24}),
    "flux": (flux, {"guidance_scale": 3.5, "max_sequence_length": 24},
             {"guidance_scale": 3.5, "true_cfg_scale": 4.0, "max_sequence_length": 24}),
}


@functools.cache
def pipeline(name: str):
    """Built once per name. At random initialisation a few layers are zero (gates, output projections); they are filled."""
    torch.manual_seed(0)
    pipe = PIPELINES[name][0]()
    loud(getattr(pipe, "transformer", None) or pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(name: str, prompt=PROMPT, cfg: bool = False, steps: int = 2, seed: int = 0, pipe=None, **options):
    """Latents of one call of a tiny pipeline, (rows, ...)."""
    _, plain, with_cfg = PIPELINES[name]
    arguments = with_cfg if cfg else plain
    if cfg:
        arguments = {**arguments, "negative_prompt": "blurry" if isinstance(prompt, str) else ["blurry"] * len(prompt)}
    pipe = pipe or pipeline(name)
    return pipe(prompt, num_inference_steps=steps, height=32, width=32, output_type="latent",
                generator=torch.Generator().manual_seed(seed), **{**arguments, **options}).images
