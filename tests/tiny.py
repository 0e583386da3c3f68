"""Tiny pipelines with random weights, one per way in which a text is delivered: the real classes,
real tokenizers, built from configs."""

import atexit
import functools
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nag import families

PROMPT, NEGATIVE = "portrait of a pirate, smiling face", "glasses"
# as many tokens as PROMPT for every tokenizer that does not pad
ALIKE = "drawing of a sailor, crying face"

HUNYUAN_TEMPLATE = "<|im_start|>system describe the video<|im_end|><|im_start|>user {}<|im_end|>"
QWEN_TEMPLATE = (
    "<|im_start|>system describe the image<|im_end|>"
    "<|im_start|>user {}<|im_end|><|im_start|>assistant"
)
# with Qwen3's way to end the thinking, and content as a string or in parts
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }} "
    "{{ m.content if m.content is string else m.content[0].text }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@functools.cache
def clip_tokenizer():
    from nag.pocket.text import build_tokenizer

    return build_tokenizer(Path(tempfile.mkdtemp()), count=300)


@functools.cache
def t5_tokenizer():
    from transformers import T5Tokenizer

    letters = [(f"▁{c}", -2.0) for c in "abcdefghijklmnopqrstuvwxyz,"] + [
        (c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz,▁"
    ]
    return T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters],
        extra_ids=0,
        model_max_length=24,
    )


@functools.cache
def words() -> tuple[dict, list]:
    """Vocabulary and merges of a byte-level BPE that knows the words of the tests and of the
    templates."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [
        PROMPT,
        NEGATIVE,
        ALIKE,
        HUNYUAN_TEMPLATE,
        SYSTEM_MESSAGE,
        "blurry, a chef and a nurse with a hat, a long beard, sad",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def llm_tokenizer(bos: bool = False, **options):
    """Fresh, since pipelines set its padding side. Qwen's has no first token, those of Gemma, Llama
    and GLM have."""
    from tokenizers.processors import TemplateProcessing
    from transformers import Qwen2Tokenizer

    vocab, merges = words()
    marks = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocab),
        merges=list(merges),
        chat_template=CHAT,
        extra_special_tokens=marks,
        **options,
    )
    if bos:
        first = tokenizer.eos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            f"{first} $A", special_tokens=[(first, tokenizer.eos_token_id)]
        )
    return tokenizer


def llm(kind: str, layers: int = 2, width: int = 16):
    """A language model as text encoder, e.g. "Gemma2Model"."""
    import transformers

    sizes = {
        "vocab_size": 700,
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,
    }  # louder than the default, or all texts are alike
    eyes = {"hidden_size": 16, "intermediate_size": 16}
    cls = getattr(transformers, kind)
    if kind == "Qwen2_5_VLForConditionalGeneration":
        config = cls.config_class(
            text_config=sizes | {"rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}},
            vision_config=eyes | {"depth": 1, "num_heads": 2, "out_hidden_size": width},
        )
    elif kind == "Mistral3ForConditionalGeneration":
        config = cls.config_class(
            text_config=sizes | {"model_type": "mistral"},
            vision_config=eyes
            | {"model_type": "pixtral", "num_hidden_layers": 1, "num_attention_heads": 2},
        )
    else:
        config = cls.config_class(**sizes)
    return cls(config).eval()


def umt5(width: int = 16):
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
        )
    ).eval()


def clip(projection: bool = False, width: int = 16, length: int = 24):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5(width: int = 16):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
        )
    ).eval()


def kl_vae(channels: int = 4, blocks: int = 2, kind: str = "AutoencoderKL", **config):
    import diffusers

    return getattr(diffusers, kind)(
        **{
            "latent_channels": channels,
            "block_out_channels": (8,) * blocks,
            "down_block_types": ("DownEncoderBlock2D",) * blocks,
            "up_block_types": ("UpDecoderBlock2D",) * blocks,
            "norm_num_groups": 4,
            "sample_size": 32,
            **({"shift_factor": 0.0} if kind == "AutoencoderKL" else {}),
            **config,
        }
    ).eval()


def wan_vae(kind: str = "AutoencoderKLWan", **config):
    """Halves time twice and space three times, as the real one."""
    import diffusers

    return getattr(diffusers, kind)(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        **config,
    ).eval()


def dc_vae():
    from diffusers import AutoencoderDC

    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_out_channels": (8,) * 3,
            "layers_per_block": (1,) * 3,
            "qkv_multiscales": ((),) * 3,
        }.items()
    }
    return AutoencoderDC(latent_channels=4, attention_head_dim=8, **sides).eval()


def ltx_vae():
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1,) * 3,
        decoder_layers_per_block=(1,) * 3,
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2,
        upsample_residual=(False,) * 2,
        upsample_factor=(1,) * 2,
        patch_size=1,
        patch_size_t=1,
    ).eval()


def hunyuan_vae():
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).eval()


def unet(**config):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "attention_head_dim": 8,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **config,
        }
    ).eval()


def sd():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        unet=unet(),
        vae=kl_vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
            transformer_layers_per_block=(1, 2),
        ),
        vae=kl_vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=16,
            sample_size=16,
            caption_channels=16,
            use_additional_conditions=False,
        ).eval(),
        vae=kl_vae(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def sd3():
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ).eval(),
        vae=kl_vae(),
        text_encoder=clip(True),
        text_encoder_2=clip(True),
        text_encoder_3=t5(32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
        ).eval(),
        vae=kl_vae(),
        text_encoder=clip(),
        text_encoder_2=t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def kontext():
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(
        **{
            name: part
            for name, part in flux().components.items()
            if name not in ("image_encoder", "feature_extractor")
        }
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


def flux2_transformer(text: int, **config):
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        **{
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": text,
            "timestep_guidance_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
            **config,
        }
    ).eval()


def flux2():
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

    return Flux2Pipeline(
        transformer=flux2_transformer(32),
        vae=kl_vae(kind="AutoencoderKLFlux2"),
        text_encoder=llm("Mistral3ForConditionalGeneration"),
        tokenizer=llm_tokenizer(padding_side="left"),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def flux2_klein():
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    return Flux2KleinPipeline(
        transformer=flux2_transformer(32, guidance_embeds=False),
        vae=kl_vae(kind="AutoencoderKLFlux2"),
        text_encoder=llm("Qwen3ForCausalLM"),
        tokenizer=llm_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def sana():
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    return SanaPipeline(
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
        ).eval(),
        vae=dc_vae(),
        text_encoder=llm("Gemma2Model"),
        tokenizer=llm_tokenizer(bos=True),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def qwen_image():
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    pipe = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
        vae=wan_vae("AutoencoderKLQwenImage"),
        text_encoder=llm("Qwen2_5_VLForConditionalGeneration"),
        tokenizer=llm_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    # the pipeline cuts the template off by its number of tokens, which is the tokenizer's
    pipe.prompt_template_encode = QWEN_TEMPLATE
    pipe.prompt_template_encode_start_idx = len(
        pipe.tokenizer(QWEN_TEMPLATE.split("{}")[0].rstrip())["input_ids"]
    )
    return pipe


def z_image():
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ).eval(),
        vae=kl_vae(),
        text_encoder=llm("Qwen3Model"),
        tokenizer=llm_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def wan_transformer(**config):
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 16,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
            **config,
        }
    ).eval()


def wan(boundary_ratio=None):
    """With `boundary_ratio` as Wan 2.2: a second transformer for the steps of little noise."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    return WanPipeline(
        transformer=wan_transformer(),
        transformer_2=wan_transformer() if boundary_ratio else None,
        boundary_ratio=boundary_ratio,
        vae=wan_vae(),
        text_encoder=umt5(),
        tokenizer=t5_tokenizer(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def wan_i2v():
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    eyes = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return WanImageToVideoPipeline(
        transformer=wan_transformer(in_channels=12, image_dim=8, added_kv_proj_dim=24),
        vae=wan_vae(),
        text_encoder=umt5(),
        tokenizer=t5_tokenizer(),
        image_encoder=CLIPVisionModel(eyes).eval(),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def qwen_image_edit():
    """Its processor stands in for Qwen2VLProcessor, which cannot be built without torchvision."""
    from diffusers import QwenImageEditPipeline
    from transformers import BatchFeature
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    base, mark = qwen_image(), "<|image_pad|>"
    base.tokenizer.add_special_tokens(
        {"additional_special_tokens": [mark, "<|vision_start|>", "<|vision_end|>"]}
    )
    base.text_encoder.config.image_token_id = base.tokenizer.convert_tokens_to_ids(mark)
    eyes = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56)

    def processor(text, images, **options):
        seen = eyes(images=[images] * len(text), return_tensors="pt")
        marks = mark * (int(seen["image_grid_thw"][0].prod()) // 4)
        return BatchFeature(
            {
                **base.tokenizer(
                    [t.replace(mark, marks) for t in text], padding=True, return_tensors="pt"
                ),
                **seen,
            }
        )

    pipe = QwenImageEditPipeline(**base.components, processor=processor)
    pipe.prompt_template_encode = QWEN_TEMPLATE.replace(
        "{}", f"<|vision_start|>{mark}<|vision_end|>{{}}"
    )
    pipe.prompt_template_encode_start_idx = base.prompt_template_encode_start_idx
    return pipe


def ltx():
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

    return LTXPipeline(
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=2,
            caption_channels=16,
        ).eval(),
        vae=ltx_vae(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def animatediff():
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, UNetMotionModel

    adapter = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    return AnimateDiffPipeline(
        unet=UNetMotionModel.from_unet2d(unet(), adapter).eval(),
        vae=kl_vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(),
        motion_adapter=None,
    )


def latte():
    from diffusers import DPMSolverMultistepScheduler, LattePipeline, LatteTransformer3DModel

    return LattePipeline(
        transformer=LatteTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            num_layers=2,
            cross_attention_dim=16,
            attention_bias=True,
            sample_size=16,
            patch_size=2,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            caption_channels=16,
            video_length=5,
        ).eval(),
        vae=kl_vae(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(
            variance_type="learned", prediction_type="flow_prediction", use_flow_sigmas=True
        ),
    )


def hunyuan_video():
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    return HunyuanVideoPipeline(
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=16,
            rope_axes_dim=(2, 4, 4),
        ).eval(),
        vae=hunyuan_vae(),
        text_encoder=llm("LlamaModel", layers=3),
        tokenizer=llm_tokenizer(bos=True),
        text_encoder_2=clip(length=77),
        tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def cogview4():
    from diffusers import (
        CogView4Pipeline,
        CogView4Transformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    return CogView4Pipeline(
        transformer=CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=16,
            condition_dim=8,
            pos_embed_max_size=16,
            sample_size=16,
            rope_axes_dim=(8, 8),
        ).eval(),
        vae=kl_vae(),
        text_encoder=llm("GlmModel"),
        tokenizer=llm_tokenizer(bos=True, padding_side="left"),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )


def chroma():
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ).eval(),
        vae=kl_vae(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def lumina2():
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    pipe = Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(128, 16, 16),
            cap_feat_dim=16,
        ).eval(),
        vae=kl_vae(blocks=4),
        text_encoder=llm("Gemma2Model"),
        tokenizer=llm_tokenizer(bos=True),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.system_prompt = "You are an AI"
    return pipe


@dataclass(frozen=True)
class Tiny:
    """build: () -> pipeline. plain: arguments of a call without CFG. cfg: what they are with CFG,
    one dictionary for every style."""

    build: Callable
    plain: dict
    cfg: tuple = ()


TEXT = {"max_sequence_length": 24}
VIDEO = {"num_frames": 5, **TEXT}
TEMPLATE = {"template": HUNYUAN_TEMPLATE, "crop_start": 9}

CFG = {"guidance_scale": 4.0}
TRUE_CFG = {"true_cfg_scale": 4.0}

PIPELINES = {
    "sd": Tiny(sd, {"guidance_scale": 0.0}, (CFG, CFG | {"guidance_rescale": 0.7})),
    "sdxl": Tiny(sdxl, {"guidance_scale": 0.0}, (CFG, CFG | {"guidance_rescale": 0.7})),
    "pixart": Tiny(
        pixart,
        {"guidance_scale": 1.0, "use_resolution_binning": False, "clean_caption": False, **TEXT},
        (CFG,),
    ),
    "sd3": Tiny(
        sd3,
        {"guidance_scale": 0.0, **TEXT},
        (
            CFG,
            CFG
            | {
                "skip_guidance_layers": [1],
                "skip_layer_guidance_start": -0.1,
                "skip_layer_guidance_stop": 1.0,
            },
        ),
    ),
    "flux": Tiny(flux, {"guidance_scale": 3.5, **TEXT}, (TRUE_CFG,)),
    "flux2": Tiny(
        flux2, {"guidance_scale": 4.0, "max_sequence_length": 64, "text_encoder_out_layers": (1, 2)}
    ),  # has no CFG
    "flux2-klein": Tiny(
        flux2_klein, {"guidance_scale": 1.0, "text_encoder_out_layers": (1, 2), **TEXT}, (CFG,)
    ),
    "sana": Tiny(sana, {"guidance_scale": 1.0, "use_resolution_binning": False, **TEXT}, (CFG,)),
    "qwen-image": Tiny(qwen_image, {"true_cfg_scale": 1.0, **TEXT}, (TRUE_CFG,)),
    "z-image": Tiny(
        z_image,
        {"guidance_scale": 0.0, **TEXT},
        (CFG, CFG | {"cfg_normalization": True}, CFG | {"cfg_truncation": 0.1}),
    ),
    "wan": Tiny(wan, {"guidance_scale": 1.0, **VIDEO}, (CFG,)),
    "wan2.2": Tiny(
        functools.partial(wan, 0.875),
        {"guidance_scale": 1.0, **VIDEO},
        (CFG, CFG | {"guidance_scale_2": 3.0}),
    ),
    "ltx": Tiny(ltx, {"guidance_scale": 1.0, **VIDEO}, (CFG, CFG | {"guidance_rescale": 0.7})),
    # unmasked: else the pipeline hides padding from single prompts and zeroes it in several, and a
    # batch is not what its rows are alone
    "latte": Tiny(
        latte,
        {"guidance_scale": 1.0, "clean_caption": False, "mask_feature": False, "video_length": 5},
        (CFG,),
    ),
    "hunyuan-video": Tiny(
        hunyuan_video, {"guidance_scale": 6.0, "prompt_template": TEMPLATE, **VIDEO}, (TRUE_CFG,)
    ),
    "cogview4": Tiny(cogview4, {"guidance_scale": 1.0, **TEXT}, (CFG,)),
    "chroma": Tiny(chroma, {"guidance_scale": 1.0, **TEXT}, (CFG,)),
    "lumina2": Tiny(
        lumina2,
        {"guidance_scale": 1.0, "max_sequence_length": 26},
        (  # PROMPT fills it
            CFG,
            CFG | {"cfg_normalization": False},
            CFG | {"cfg_trunc_ratio": 0.6},
        ),
    ),
}


@functools.cache
def pipeline(name: str):
    """Built once per name. At random initialisation a few layers are zero (gates, output
    projections); they are filled."""
    return prepared(PIPELINES[name].build)


def prepared(build):
    torch.manual_seed(0)
    pipe = build()
    for denoiser in families.denoisers_of(pipe):
        loud(denoiser)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def loud(denoiser) -> None:
    """Weights under which text matters: NAG's effect on a freshly initialised model drowns in
    rounding."""
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim > 1:
            parameter.data.mul_(1.5)


def draw(
    name: str,
    prompt=PROMPT,
    cfg: int | None = None,
    steps: int = 2,
    seed: int = 0,
    pipe=None,
    **options,
):
    """What one call of a tiny pipeline returns as its first output: latents, (rows, ...), unless
    asked otherwise. cfg: which style."""
    tiny, pipe = PIPELINES[name], pipe or pipeline(name)
    arguments = {**tiny.plain, **(tiny.cfg[cfg] if cfg is not None else {})}
    if cfg is not None and "negative_prompt" in inspect.signature(type(pipe).__call__).parameters:
        arguments["negative_prompt"] = (
            "blurry" if isinstance(prompt, str) else ["blurry"] * len(prompt)
        )
    seeds = {"generator": torch.Generator().manual_seed(seed)}
    prompt = (
        list(prompt) if isinstance(prompt, list) else prompt
    )  # Z-Image writes its chat template into the list
    arguments |= (
        {"num_inference_steps": steps, "height": 32, "width": 32, "output_type": "latent"}
        | seeds
        | options
    )
    return pipe(prompt=prompt, return_dict=False, **arguments)[0]
