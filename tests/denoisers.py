"""A tiny random denoiser per family, and the smallest pipeline around it: words already encoded, an
Euler step, CFG in every style.

`tests/tiny.py` has the real pipelines with real text encoders; here every denoiser class of
`nag/families.py` has its turn.
To add a case: what to build, the shape of its latents, the arguments of a call, what its words
    become. Say in a comment what the real pipeline does.
"""

import functools
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from tiny import loud, unet

from nag import families

LENGTH = 7  # text tokens


def noise(words: str, *shape, what: str = ""):
    """Random numbers that depend on the words alone."""
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{what}{words}".encode()))
    )


def embeds(words: list[str], length: int, width: int, what: str = ""):
    """(n, length, width)"""
    return torch.stack([noise(w, length, width, what=what) for w in words])


def masks(words: list[str], length: int):
    """(n, length): words of different length leave different padding behind; at least three tokens
    count."""
    valid = torch.tensor([3 + len(w) % (length - 2) for w in words])
    return (torch.arange(length)[None] < valid[:, None]).long()


@dataclass(frozen=True)
class Case:
    """build: () -> denoiser. latents: shape of one row. arguments: (latents, timestep) -> the
    call's arguments that carry no text.
    texts: (words, length) -> the text inputs by argument, and what else `encode_prompt` returns by
        its place.
    out: the call's result -> what the scheduler gets, of the latents' shape.
    parts: modules of the pipeline. connect: (pipe, texts) -> what the pipeline makes of the texts
        before the denoiser.
    deliver: (text inputs, latents) -> what it makes of them for the call.
    lengths: text inputs -> number of tokens of each text inside the denoiser, where that is not
        theirs.
    For the oracle, which runs the model as it is: pooled: modules that pool the text; their (first)
        result is the positive's for both.
    shared: {module: tokens}, the same for some tokens of a result. spans: where texts stand, if the
        row's adapter moves them.
    moved: whether the image moves up to the last valid text token of its row. alone: whether
        attention runs row by row.
    """

    build: Callable
    latents: tuple
    arguments: Callable
    texts: Callable
    out: Callable = operator.itemgetter(0)
    deliver: Callable = lambda texts, latents: texts
    lengths: Callable | None = None
    shared: dict = field(default_factory=dict)
    moved: bool = False
    pooled: tuple = ()
    spans: Callable | None = None
    alone: bool = False
    parts: tuple = ()  # (name, build)
    connect: Callable | None = None
    early: bool = False  # connected before the batch is put together for CFG


class Scheduler:
    """Euler, and nothing else."""

    def __init__(self):
        self.timesteps = torch.tensor([])

    def set_timesteps(self, steps: int):
        self.timesteps = torch.linspace(900, 100, steps)

    def step(self, output, timestep, latents):
        return latents - output / len(self.timesteps)


class Bare:
    """The smallest pipeline: `encode_prompt`, a scheduler and a denoiser. cfg: None, "before",
    "behind" (the unconditional rows) or "apart"."""

    def __init__(self, case: Case, denoiser):
        self.case, self.transformer, self.scheduler = case, denoiser, Scheduler()
        self.family = families.find(denoiser)
        for name, build in case.parts:
            setattr(self, name, build())

    def encode_prompt(self, prompt, length: int = LENGTH, text_encoder_index: int = 0):
        texts = self.case.texts([prompt] if isinstance(prompt, str) else list(prompt), length)
        places = {
            p.encoded: texts[p.argument]
            for p in self.family.inputs
            if p.encoded is not None and p.call == text_encoder_index
        }
        places |= {place: value for place, value in texts.items() if isinstance(place, int)}
        return tuple(places.get(i) for i in range(max(places) + 1))

    def encoded(self, prompt) -> dict:
        results = [
            self.encode_prompt(prompt, text_encoder_index=i)
            for i in range(1 + max(p.call for p in self.family.inputs))
        ]
        return {
            p.argument: results[p.call][p.encoded]
            for p in self.family.inputs
            if p.encoded is not None
        }

    def texts(self, prompt) -> dict:
        return self.connected(self.encoded(prompt))

    def connected(self, texts: dict) -> dict:
        return self.case.connect(self, texts) if self.case.connect else texts

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        cfg=None,
        steps: int = 2,
        seed: int = 0,
        latents=None,
        scale: float = 4.0,
        generator: list | None = None,
    ):
        """generator: one for each prompt."""
        prompt = [prompt] if isinstance(prompt, str) else prompt
        positive = self.encoded(prompt)
        if self.case.early:
            positive = self.connected(positive)
        calls = [positive]
        if cfg:
            negative = self.encoded(["blurry"] * len(prompt))
            if self.case.early:
                negative = self.connected(negative)
            order = {"before": [negative, positive], "behind": [positive, negative]}.get(cfg)
            calls = (
                [positive, negative]
                if order is None
                else [
                    {
                        p.argument: self._both(p, *(side[p.argument] for side in order))
                        for p in self.family.inputs
                        if p.argument in positive
                    }
                ]
            )
        if not self.case.early:
            calls = [self.connected(texts) for texts in calls]
        if latents is None and generator is not None:
            latents = torch.cat(
                [torch.randn(1, *self.case.latents, generator=one) for one in generator]
            )
        elif latents is None:
            latents = torch.randn(
                len(prompt), *self.case.latents, generator=torch.Generator().manual_seed(seed)
            )
        self.scheduler.set_timesteps(steps)
        kept = [{} for _ in calls]  # masks and ids, which a pipeline makes once for all steps
        for timestep in self.scheduler.timesteps:
            outputs = []
            for texts, made in zip(calls, kept, strict=True):
                times = 2 if cfg in ("before", "behind") else 1
                rows = torch.cat([latents] * times)
                given = self.case.arguments(rows, timestep) | self.case.deliver(texts, rows)
                for name in {p.argument for p in self.family.inputs} & set(given):
                    given[name] = made.setdefault(name, given[name])
                outputs.append(self.case.out(self.transformer(**given)))
            if cfg:
                first, second = outputs if cfg == "apart" else outputs[0].chunk(2)
                cond, uncond = (second, first) if cfg == "before" else (first, second)
                outputs = [uncond + scale * (cond - uncond)]
            latents = self.scheduler.step(outputs[0], timestep, latents)
        return latents

    def _both(self, p, first, second):
        if first is None:
            return None
        if p.kind == "layers":
            return [torch.cat(layers) for layers in zip(first, second, strict=True)]
        if isinstance(first, list):
            return first + second
        if p.kind == "ids" and first.ndim == 2:
            return first
        return torch.cat([first, second], p.batch)


def steps_of(latents, timestep):
    """(rows,) timesteps"""
    return timestep.expand(len(latents))


def ramp(*sides):
    """Position ids of a grid, (tokens, axes)"""
    return (
        torch.cartesian_prod(*[torch.arange(side) for side in sides])
        .float()
        .reshape(-1, len(sides))
    )


def _if():
    return unet(
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_norm="group_norm",
        cross_attention_dim=32,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )


def _animatediff():
    from diffusers import UNetMotionModel

    return UNetMotionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=2,
        norm_num_groups=4,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"),
        motion_num_attention_heads=2,
        motion_max_seq_length=4,
    )


def _unet3d(name="UNet3DConditionModel", **config):
    import diffusers

    return getattr(diffusers, name)(
        **{
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "attention_head_dim": 8,
            "norm_num_groups": 32,
            "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
            **config,
        }
    )


def _dreamlite():
    from diffusers import DreamLiteUNetModel

    return DreamLiteUNetModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
        down_block_types=("DreamLiteDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        mid_block_type="DreamLiteUNetMidBlock2DCrossAttn",
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    )


def _audioldm2():
    from diffusers import AudioLDM2UNet2DConditionModel

    return AudioLDM2UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=((None, 16, 12),) * 2,
        attention_head_dim=8,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def _kandinsky3():
    from diffusers import Kandinsky3UNet

    return Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=16,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=16,
        encoder_hid_dim=16,
    )


def _stable_cascade():
    from diffusers.models.unets import StableCascadeUNet

    return StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=8,
        patch_size=1,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        )
        * 2,
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        clip_image_in_channels=16,
        clip_seq=2,
        dropout=(0.0, 0.0),
        self_attn=True,
        switch_level=(False,),
    )


def _stable_audio():
    from diffusers import StableAudioDiTModel

    return StableAudioDiTModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=4,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=16,
    )


def _stable_audio_3():
    from diffusers import StableAudio3DiTModel

    return StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        cond_token_dim=16,
        global_cond_dim=8,
        local_add_cond_dim=5,
        timestep_features_dim=8,
        num_memory_tokens=2,
    )


def _ace_step():
    from diffusers import AceStepTransformer1DModel

    return AceStepTransformer1DModel(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=4,
    )


def _ace_step_conditions():
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    torch.manual_seed(1)
    return AceStepConditionEncoder(
        hidden_size=16,
        intermediate_size=32,
        text_hidden_dim=16,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    ).eval()


def _ace_step_delivered(pipe, texts):
    text = texts["encoder_hidden_states"]
    ones, lyrics = (
        torch.ones(text.shape[:2]).bool(),
        noise("lyrics", 1, 4, 16).repeat(len(text), 1, 1),
    )
    packed, _ = pipe.condition_encoder(
        text_hidden_states=text,
        text_attention_mask=ones,
        lyric_hidden_states=lyrics,
        lyric_attention_mask=ones[:, :4],
        refer_audio_acoustic_hidden_states_packed=noise("timbre", 1, 6, 4).repeat(len(text), 1, 1),
        refer_audio_order_mask=torch.arange(len(text)),
    )
    return {"encoder_hidden_states": packed}


def followed(tokens: int, width: int, masked=None):
    """Tokens of a duration behind the text, as some pipelines put them."""

    def deliver(pipe, texts):
        text = texts["encoder_hidden_states"]
        both = torch.cat([text, noise("seconds", 1, tokens, width).repeat(len(text), 1, 1)], 1)
        masks = (
            {masked: torch.cat([texts[masked], texts[masked].new_ones(len(text), tokens)], 1)}
            if masked
            else {}
        )
        return {"encoder_hidden_states": both, **masks}

    return deliver


def _unet_xs():
    from diffusers import UNetControlNetXSModel

    return UNetControlNetXSModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        norm_num_groups=4,
        cross_attention_dim=16,
        transformer_layers_per_block=1,
        num_attention_heads=2,
        ctrl_conditioning_embedding_out_channels=(4, 4),
        ctrl_block_out_channels=(8, 16),
        ctrl_num_attention_heads=2,
    )


def _pixart():
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=16,
        caption_channels=16,
        use_additional_conditions=False,
    )


def _wan(name="WanTransformer3DModel", **config):
    import diffusers

    return getattr(diffusers, name)(
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
    )


def _wan_animate():
    return _wan(
        "WanAnimateTransformer3DModel",
        in_channels=12,
        latent_channels=4,
        image_dim=8,
        added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )


def _helios():
    from diffusers import HeliosTransformer3DModel

    return HeliosTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_dim=(4, 4, 4),
    )


def _sana():
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )


def _sana_video():
    from diffusers import SanaVideoTransformer3DModel

    return SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )


def _sana_wm():
    from diffusers import SanaWMTransformer3DModel

    return SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        caption_channels=16,
        chunk_plucker_channels=6,
    )


LTX2 = dict(
    in_channels=16,
    out_channels=16,
    num_attention_heads=2,
    attention_head_dim=8,
    cross_attention_dim=16,
    audio_in_channels=16,
    audio_out_channels=16,
    audio_num_attention_heads=2,
    audio_attention_head_dim=4,
    audio_cross_attention_dim=8,
    num_layers=2,
    caption_channels=16,
)


def _ltx2():
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel(**LTX2)


def _ltx2_connectors():
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    torch.manual_seed(1)
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
    )
    loud(connectors)
    return connectors


def _ltx2_delivered(pipe, texts):
    video, audio, keep = pipe.connectors(
        texts["encoder_hidden_states"], texts["encoder_attention_mask"]
    )
    return {
        "encoder_hidden_states": video,
        "encoder_attention_mask": keep,
        "audio_encoder_hidden_states": audio,
        "audio_encoder_attention_mask": keep,
    }


def _refiner():
    from diffusers import SanaWMLTX2RefinerTransformer3DModel

    return SanaWMLTX2RefinerTransformer3DModel(**LTX2)


def _ltx():
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )


def _allegro():
    from diffusers import AllegroTransformer3DModel

    return AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=48,
        sample_width=8,
        sample_height=8,
        sample_frames=2,
        caption_channels=16,
    )


def _allegro_positions(x):
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    *frequencies, t, h, w = get_3d_rotary_pos_embed_allegro(
        24, ((0, 0), (4, 4)), (4, 4), 2, interpolation_scale=(2.2, 2.0, 2.0)
    )
    return {
        "image_rotary_emb": (
            tuple(frequencies),
            torch.cartesian_prod(t.long(), h.long(), w.long()).T.reshape(3, 1, -1).contiguous(),
        )
    }


def _anyflow():
    from diffusers import AnyFlowTransformer3DModel

    return AnyFlowTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def _anyflow_far():
    from diffusers import AnyFlowFARTransformer3DModel

    return AnyFlowFARTransformer3DModel(
        patch_size=(1, 2, 2),
        compressed_patch_size=(1, 4, 4),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        chunk_partition=(1, 1),
    )


def _latte():
    from diffusers import LatteTransformer3DModel

    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=10,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=16,
        video_length=2,
    )


def _sd3():
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
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
    )


def _flux():
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )


def _qwen():
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def _hunyuan_video():
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
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
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )


def _z_image():
    from diffusers import ZImageTransformer2DModel

    return ZImageTransformer2DModel(
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
    )


def _flux2():
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
    )


def _flux2_kv():
    from diffusers.models.transformers.transformer_flux2 import (
        Flux2KVAttnProcessor,
        Flux2KVParallelSelfAttnProcessor,
    )

    denoiser = _flux2()
    for block in denoiser.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in denoiser.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    return denoiser


def _chroma():
    from diffusers import ChromaTransformer2DModel

    return ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )


def _like_flux(name: str, **config):
    import diffusers

    return getattr(diffusers, name)(
        **{
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "axes_dims_rope": (2, 2, 4),
            **config,
        }
    )


def _krea2():
    from diffusers import Krea2Transformer2DModel

    return Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=2,
        num_refiner_text_blocks=2,
        axes_dims_rope=(2, 2, 4),
    )


def _ideogram():
    from diffusers import Ideogram4Transformer2DModel

    return Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=16,
        mrope_section=(2, 2, 2),
    )


def _fibo2():
    from diffusers import BriaFibo2Transformer2DModel

    return BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        axes_dims=(4, 4, 4),
        axes_lens=(16, 16, 16),
        cap_feat_dim=8,
        min_num_gist_tokens=2,
        max_num_gist_tokens=6,
        gist_step=1,
        gist_min_text_len=1,
        gist_max_text_len=13,
        injection_layer_ids=(1, 2),
        perceiver_num_layers=1,
    )


def tokens_of(x, t, **more):
    """A call with 16 image tokens and a timestep below 1."""
    return {"hidden_states": x, "timestep": steps_of(x, t) / 1000, "return_dict": False, **more}


def _chroma_mask(texts, x):
    return texts | {
        "attention_mask": torch.cat([texts["attention_mask"], torch.ones(x.shape[:2])], 1)
    }


def _fibo_layers(texts, x):
    """The last four layers for four blocks; the mask, which covers the image, in another place."""
    mask = (
        torch.cat([texts["attention_mask"], torch.ones(x.shape[:2])], 1).bool()
        if "attention_mask" in texts
        else None
    )
    return {name: value for name, value in texts.items() if name != "attention_mask"} | {
        "text_encoder_layers": texts["text_encoder_layers"][-4:],
        "joint_attention_kwargs": {} if mask is None else {"attention_mask": mask[:, None, None]},
    }


def _fibo_texts(words, n):
    return {
        "encoder_hidden_states": embeds(words, n, 16),
        "txt_ids": torch.zeros(len(words), n, 3),
        "text_encoder_layers": [embeds(words, n, 8, str(layer)) for layer in range(6)],
    }


def _ideogram_texts(words, n):
    """Padded on the left, and with zeros for the image behind."""
    return {
        "encoder_hidden_states": torch.nn.functional.pad(
            embeds(words, n, 16) * masks(words, n).flip(1)[..., None], (0, 0, 0, 16)
        )
    }


def _ideogram_sequence(texts, x):
    features = texts["encoder_hidden_states"]
    used, place = (
        features.any(-1),
        torch.arange(features.shape[1]) - (features.shape[1] - 16),
    )  # negative: text
    image = place >= 0
    position = torch.where(
        image[:, None],
        65536 + torch.nn.functional.pad(ramp(4, 4), (1, 0, len(place) - 16, 0)).long(),
        (used.cumsum(1) - 1).clamp(min=0)[..., None],
    )
    return {
        "encoder_hidden_states": features,
        "position_ids": position,
        "segment_ids": torch.where(used | image, 1, -1),
        "indicator": torch.where(image, 2, torch.where(used, 3, 0)),
        "hidden_states": torch.nn.functional.pad(x, (0, 0, len(place) - 16, 0)),
    }


def _hunyuan_dit():
    from diffusers import HunyuanDiT2DModel

    return HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        learn_sigma=False,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=8,
        text_len=LENGTH,
        text_len_t5=LENGTH,
    )


def _lumina_next():
    from diffusers import LuminaNextDiT2DModel

    denoiser = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        learn_sigma=False,
        cross_attention_dim=16,
    )
    torch.nn.init.normal_(denoiser.pad_token)
    return denoiser


def _cogview(name):
    import diffusers

    return getattr(diffusers, name)(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=4,
        sample_size=8,
    )


def _prx(**config):
    from diffusers.models import PRXTransformer2DModel

    return PRXTransformer2DModel(
        in_channels=4,
        context_in_dim=16,
        hidden_size=16,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
        **config,
    )


def _hidream():
    from diffusers import HiDreamImageTransformer2DModel

    return HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[16, 12],
        text_emb_dim=8,
        num_routed_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 16),
        llama_layers=[0, 2, 1, 2],
    )


def _nucleus():
    from diffusers.models import NucleusMoEImageTransformer2DModel

    denoiser = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=12,
        dense_moe_strategy="leave_first_block_dense",
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=1.0,
    )
    for name, parameter in denoiser.named_parameters():
        if ".experts." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def _qwen_21():
    from diffusers.models import QwenImage21Transformer2DModel

    return QwenImage21Transformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def _auraflow():
    from diffusers import AuraFlowTransformer2DModel

    return AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )


def _lumina2():
    from diffusers import Lumina2Transformer2DModel

    return Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 16, 16),
        cap_feat_dim=16,
    )


def _ernie():
    from diffusers.models import ErnieImageTransformer2DModel

    return ErnieImageTransformer2DModel(
        hidden_size=24,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(4, 4, 4),
    )


def _hunyuan_image(**config):
    from diffusers import HunyuanImageTransformer2DModel

    return HunyuanImageTransformer2DModel(
        **{
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 16,
            "text_embed_2_dim": 12,
            "rope_axes_dim": (4, 4),
            **config,
        }
    )


def _hunyuan_image_arguments(x, t):
    return {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False}


def cogview(name):
    """Sizes and crops as in SDXL."""
    return Case(
        functools.partial(_cogview, name),
        (4, 8, 8),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            **{
                size: torch.full((len(x), 2), 8.0)
                for size in ("original_size", "target_size", "crop_coords")
            },
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
    )


def _cosmos(**config):
    from diffusers import CosmosTransformer3DModel

    return CosmosTransformer3DModel(
        **{
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "mlp_ratio": 2,
            "text_embed_dim": 16,
            "adaln_lora_dim": 4,
            "max_size": (4, 16, 16),
            "concat_padding_mask": False,
            **config,
        }
    )  # the padding mask is the picture's, and wants torchvision


def _cogvideo_x(**config):
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 4,
            "text_embed_dim": 16,
            "num_layers": 2,
            "sample_width": 4,
            "sample_height": 4,
            "sample_frames": 5,
            "max_text_seq_length": LENGTH,
            **config,
        }
    )


def _consis_id():
    from diffusers import ConsisIDTransformer3DModel

    return ConsisIDTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=16,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=LENGTH,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=1,
        LFE_id_dim=4,
        LFE_vit_dim=8,
        LFE_depth=5,
        LFE_dim_head=4,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=4,
        LFE_output_dim=10,
        LFE_ff_mult=1,
    )


def _mochi():
    from diffusers import MochiTransformer3DModel

    return MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
    )


def _hunyuan_video_15():
    from diffusers import HunyuanVideo15Transformer3DModel

    return HunyuanVideo15Transformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=12,
        image_embed_dim=8,
        rope_axes_dim=(2, 4, 4),
    )


def _framepack():
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    return HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        has_image_proj=True,
        image_proj_dim=8,
        has_clean_x_embedder=True,
    )


def _easy_animate():
    from diffusers import EasyAnimateTransformer3DModel

    return EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=4,
        text_embed_dim=16,
    )


def _motif_video(**config):
    from diffusers import MotifVideoTransformer3DModel

    return MotifVideoTransformer3DModel(
        **{
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_decoder_layers": 1,
            "patch_size": 2,
            "text_embed_dim": 16,
            "rope_axes_dim": (2, 4, 4),
            "enable_text_cross_attention_dual": True,
            "enable_text_cross_attention_single": True,
            **config,
        }
    )


def _kandinsky_5():
    from diffusers import Kandinsky5Transformer3DModel

    return Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=8,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
    )


def _kandinsky_6():
    from diffusers import Kandinsky6Transformer3DModel

    return Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=8,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=2,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        visual_cond=False,
        in_audio_dim=4,
        out_audio_dim=4,
    )


def _joy_image(**config):
    from diffusers import JoyImageEditTransformer3DModel

    return JoyImageEditTransformer3DModel(
        **{
            "in_channels": 4,
            "out_channels": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "text_dim": 16,
            "num_layers": 2,
            "rope_dim_list": [4, 6, 6],
            **config,
        }
    )


def _joy_image_plus():
    from diffusers import JoyImageEditPlusTransformer3DModel

    return JoyImageEditPlusTransformer3DModel(
        in_channels=4,
        out_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=16,
        num_layers=2,
        rope_dim_list=[4, 6, 6],
    )


def glyphs(words: list[str], length: int):
    """A second text for the letters to be drawn, of which some words have none: (embeddings,
    mask)"""
    mask = masks(words, length) * torch.tensor([[int(len(w) % 4 > 0)] for w in words])
    return embeds(words, length, 12, "glyphs") * mask.any(1)[:, None, None], mask


def masked(words: list[str], length: int) -> dict:
    return {
        "encoder_hidden_states": embeds(words, length, 16),
        "encoder_attention_mask": masks(words, length),
    }


def hunyuan_video_15(words, n):
    second, mask = glyphs(words, n + 2)
    return masked(words, n) | {"encoder_hidden_states_2": second, "encoder_attention_mask_2": mask}


def rows_of(x, what: str, *shape):
    """The same random numbers for every row"""
    return noise(what, 1, *shape).repeat(len(x), *[1] * len(shape))


def framepack(x, t):
    frames, height, width = x.shape[2:]
    return {
        "hidden_states": x,
        "timestep": steps_of(x, t),
        "return_dict": False,
        "guidance": torch.full((len(x),), 6000.0),
        "pooled_projections": rows_of(x, "pooled", 8),
        "image_embeds": rows_of(x, "picture", 3, 8),
        "indices_latents": torch.arange(10, 10 + frames),
        "latents_clean": rows_of(x, "clean", 4, 2, height, width),
        "indices_latents_clean": torch.tensor([0, 9]),
        "latents_history_2x": rows_of(x, "2x", 4, 2, height, width),
        "indices_latents_history_2x": torch.arange(7, 9),
        "latents_history_4x": rows_of(x, "4x", 4, 4, height, width),
        "indices_latents_history_4x": torch.arange(3, 7),
    }


def rope(tokens: int, width: int):
    """(cos, sin) of some rotary positions"""
    angles = noise("rope", tokens, width)
    return angles.cos(), angles.sin()


def plain(x, t, **more):
    return {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False, **more}


def cross(build, latents=(4, 8, 8), width=16, extra=None, masked=None, exact=None, **fields):
    """A denoiser that takes (latents, timestep, text) and nothing else worth mentioning. extra:
    latents -> further arguments.
    masked: the name of the text's mask. exact: the number of text tokens where the model asks for
        it."""

    def texts(words, length):
        length = exact if exact and length == LENGTH else length
        return {"encoder_hidden_states": embeds(words, length, width)} | (
            {masked: masks(words, length)} if masked else {}
        )

    def arguments(x, t):
        return {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            **(extra(x) if extra else {}),
        }

    return Case(build, latents, arguments, texts, **fields)


def unet2d(build, latents=(4, 8, 8), extra=None, **fields):
    return Case(
        build,
        latents,
        lambda x, t: {
            "sample": x,
            "timestep": t,
            "return_dict": False,
            **(extra(x) if extra else {}),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
        **fields,
    )


def picture(x):
    """Tokens of a picture, which image-to-video models put before the text, which must have 512."""
    return {"encoder_hidden_states_image": noise("picture", 1, 5, 8).repeat(len(x), 1, 1)}


def hidream(latents):
    return Case(
        _hidream,
        latents,
        lambda x, t: {
            "hidden_states": x,
            "timesteps": steps_of(x, t),
            "return_dict": False,
            "pooled_embeds": noise("pooled", 1, 8).repeat(len(x), 1),
        },
        lambda words, n: {
            "encoder_hidden_states_t5": embeds(words, n, 16),
            "encoder_hidden_states_llama3": torch.stack(
                [embeds(words, n + 2, 12, f"layer {i}") for i in range(3)]
            ),
        },
    )


def prx(build, latents):
    return Case(
        build,
        latents,
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t) / 1000, "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "attention_mask": masks(words, n).bool(),
        },
    )


def lumina_rotary():
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return get_2d_rotary_pos_embed_lumina(8, 384, 384)


# name -> case; the name is the denoiser's class, with a variant behind a colon
CASES = {
    # --- UNets
    "UNet2DConditionModel": unet2d(unet),
    # Kolors: its text encoder is wider than the UNet's text
    "UNet2DConditionModel:kolors": unet2d(
        lambda: unet(encoder_hid_dim=16, encoder_hid_dim_type="text_proj")
    ),
    # DeepFloyd: text and image keys in one attention; the text is pooled, and normalised over its
    # tokens
    "UNet2DConditionModel:if": unet2d(_if, pooled=("add_embedding",)),
    # AnimateDiff repeats its text for every frame
    "UNetMotionModel": unet2d(
        _animatediff,
        (4, 2, 8, 8),
        connect=lambda pipe, texts: {
            "encoder_hidden_states": texts["encoder_hidden_states"].repeat_interleave(2, 0)
        },
    ),
    "DreamLiteUNetModel": Case(
        _dreamlite,
        (4, 8, 8),
        lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
    ),
    # two texts of different lengths, each in attentions of its own
    "AudioLDM2UNet2DConditionModel": Case(
        _audioldm2,
        (4, 8, 8),
        lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 4, 16),
            "encoder_hidden_states_1": embeds(words, n, 12, "second"),
            "encoder_attention_mask_1": masks(words, n),
        },
    ),
    "UNet3DConditionModel": unet2d(_unet3d, (4, 2, 8, 8)),
    "I2VGenXLUNet": unet2d(
        functools.partial(_unet3d, "I2VGenXLUNet"),
        (4, 2, 8, 8),
        lambda x: {
            "fps": torch.full((len(x),), 8),
            "image_latents": noise("picture", 1, 4, 2, 8, 8).repeat(len(x), 1, 1, 1, 1),
            "image_embeddings": noise("picture", 1, 16).repeat(len(x), 1),
        },
    ),
    "Kandinsky3UNet": Case(
        _kandinsky3,
        (4, 16, 16),
        lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
        pooled=("add_time_condition",),
    ),
    # the prior: keys are image, text, pooled text and pictures
    "StableCascadeUNet": Case(
        _stable_cascade,
        (4, 8, 8),
        lambda x, t: {
            "sample": x,
            "timestep_ratio": steps_of(x, t) / 1000,
            "clip_text_pooled": noise("pooled", 1, 1, 16).repeat(len(x), 1, 1),
            "clip_img": noise("picture", 1, 1, 16).repeat(len(x), 1, 1),
            "return_dict": False,
        },
        lambda words, n: {"clip_text": embeds(words, n, 16)},
    ),
    "UNetControlNetXSModel": Case(
        _unet_xs,
        (4, 8, 8),
        lambda x, t: {
            "sample": x,
            "timestep": t,
            "return_dict": False,
            "controlnet_cond": noise("edges", 1, 3, 16, 16).repeat(len(x), 1, 1, 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
    ),
    # --- cross-attention
    "PixArtTransformer2DModel": Case(
        _pixart,
        (4, 16, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
    ),
    "CosmosTransformer3DModel": cross(_cosmos, (4, 2, 4, 4), extra=lambda x: {"fps": 24}),
    # Cosmos 2.5 Transfer: the text comes with a picture, in a tuple
    "CosmosTransformer3DModel:transfer": cross(
        functools.partial(
            _cosmos,
            img_context_dim_in=8,
            img_context_num_tokens=5,
            img_context_dim_out=32,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=16,
            encoder_hidden_states_channels=16,
        ),
        (4, 2, 4, 4),
        deliver=lambda texts, x: (
            texts
            | {
                "encoder_hidden_states": (
                    texts["encoder_hidden_states"],
                    rows_of(x, "picture", 5, 8),
                )
            }
        ),
    ),
    "WanTransformer3DModel": cross(_wan, (4, 2, 4, 4)),
    "WanTransformer3DModel:i2v": cross(
        functools.partial(_wan, image_dim=8, added_kv_proj_dim=24),
        (4, 2, 4, 4),
        extra=picture,
        exact=512,
    ),
    "WanVACETransformer3DModel": cross(
        functools.partial(
            _wan, "WanVACETransformer3DModel", vace_layers=[0, 1], vace_in_channels=8
        ),
        (4, 2, 4, 4),
        extra=lambda x: {
            "control_hidden_states": noise("control", 1, 8, 2, 4, 4).repeat(len(x), 1, 1, 1, 1)
        },
    ),
    # the pipeline puts the reference's latents and a mask before the noise: channels and one frame
    # more than what it predicts
    "WanAnimateTransformer3DModel": Case(
        _wan_animate,
        (4, 3, 4, 4),
        lambda x, t: {
            "hidden_states": torch.cat([x, x, x], 1),
            "timestep": steps_of(x, t),
            "return_dict": False,
            **picture(x),
            "pose_hidden_states": noise("pose", 1, 4, 2, 4, 4).repeat(len(x), 1, 1, 1, 1),
            "face_pixel_values": noise("face", 1, 3, 5, 16, 16).repeat(len(x), 1, 1, 1, 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, 512 if n == LENGTH else n, 16)},
    ),
    "HunyuanDiT2DModel": Case(
        _hunyuan_dit,
        (4, 8, 8),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "image_meta_size": torch.ones(len(x), 6),
            "style": torch.zeros(len(x), dtype=torch.long),
            "image_rotary_emb": tuple(noise("rotary", 2, 16, 8)),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "text_embedding_mask": masks(words, n),
            "encoder_hidden_states_t5": embeds(words, n, 32, "t5"),
            "text_embedding_mask_t5": masks([w + "t5" for w in words], n),
        },
        shared={"time_extra_emb": slice(None)},
    ),
    "LuminaNextDiT2DModel": Case(
        _lumina_next,
        (4, 8, 8),
        lambda x, t: {
            "hidden_states": x,
            "timestep": 1 - steps_of(x, t) / 1000,
            "return_dict": False,
            "cross_attention_kwargs": {},
            "image_rotary_emb": lumina_rotary(),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_mask": masks(words, n),
        },
        shared={"time_caption_embed": slice(None)},
    ),
    # --- cross-attention behind a text encoder of the model's own
    "Kandinsky5Transformer3DModel": Case(
        _kandinsky_5,
        (2, 4, 4, 4),
        lambda x, t: plain(
            x,
            t,
            pooled_projections=rows_of(x, "pooled", 8),
            visual_rope_pos=(torch.arange(2), torch.arange(2), torch.arange(2)),
            text_rope_pos=torch.arange(LENGTH),
        ),
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
        lambda output: output,
    ),
    "Kandinsky6Transformer3DModel": Case(
        _kandinsky_6,
        (2, 4, 4, 4),
        lambda x, t: plain(
            x,
            t,
            pooled_projections=rows_of(x, "pooled", 8),
            audio_hidden_states=rows_of(x, "sound", 5, 4),
        ),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n).bool(),
        },
    ),
    # no sound; and a prompt that fills all its tokens has no mask
    "Kandinsky6Transformer3DModel:silent": Case(
        _kandinsky_6,
        (2, 4, 4, 4),
        lambda x, t: plain(x, t, pooled_projections=rows_of(x, "pooled", 8)),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": None,
        },
    ),
    "SkyReelsV2Transformer3DModel": cross(
        functools.partial(_wan, "SkyReelsV2Transformer3DModel"), (4, 2, 4, 4)
    ),
    "SkyReelsV2Transformer3DModel:i2v": cross(
        functools.partial(_wan, "SkyReelsV2Transformer3DModel", image_dim=8, added_kv_proj_dim=24),
        (4, 2, 4, 4),
        extra=picture,
        exact=512,
    ),
    # diffusion forcing: every frame has its own timestep
    "SkyReelsV2Transformer3DModel:forcing": Case(
        functools.partial(_wan, "SkyReelsV2Transformer3DModel", num_frame_per_block=2),
        (4, 4, 4, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t)[:, None] - torch.arange(4) * 10,
            "return_dict": False,
            "enable_diffusion_forcing": True,
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
    ),
    "ChronoEditTransformer3DModel": cross(
        functools.partial(_wan, "ChronoEditTransformer3DModel", image_dim=8, added_kv_proj_dim=24),
        (4, 2, 4, 4),
        extra=picture,
        exact=512,
    ),
    "AnyFlowTransformer3DModel": Case(
        _anyflow,
        (2, 4, 4, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t)[:, None].repeat(1, 2),
            "r_timestep": steps_of(x, t / 2)[:, None].repeat(1, 2),
            "return_dict": False,
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
    ),
    "AnyFlowFARTransformer3DModel": Case(
        _anyflow_far,
        (2, 4, 4, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t)[:, None].repeat(1, 2),
            "r_timestep": steps_of(x, t / 2)[:, None].repeat(1, 2),
            "return_dict": False,
            "chunk_partition": (1, 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)},
    ),
    # the frames before stand in the sequence too, and see no text
    "HeliosTransformer3DModel": cross(
        _helios,
        (4, 2, 4, 4),
        extra=lambda x: {
            "indices_hidden_states": torch.tensor([[1, 2]]).repeat(len(x), 1),
            "indices_latents_history_short": torch.tensor([[0]]).repeat(len(x), 1),
            "latents_history_short": noise("before", 1, 4, 1, 4, 4).repeat(len(x), 1, 1, 1, 1),
        },
    ),
    "SanaTransformer2DModel": cross(_sana, masked="encoder_attention_mask"),
    "SanaVideoTransformer3DModel": cross(
        _sana_video, (4, 2, 4, 4), masked="encoder_attention_mask"
    ),
    # its text has a dimension of one, (rows, 1, T, D); every frame has its own timestep
    "SanaWMTransformer3DModel": Case(
        _sana_wm,
        (4, 2, 4, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t)[:, None, None].repeat(1, 1, 2),
            "return_dict": False,
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16)[:, None],
            "mask": masks(words, n),
        },
    ),
    "SanaWMLTX2RefinerTransformer3DModel": Case(
        _refiner,
        (8, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t)[:, None].repeat(1, 8),
            "return_dict": False,
            "video_rotary_emb": (noise("cosines", 1, 8, 16), noise("sines", 1, 8, 16)),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
    ),
    "LTXVideoTransformer3DModel": cross(
        _ltx,
        (8, 16),
        masked="encoder_attention_mask",
        extra=lambda x: {"num_frames": 2, "height": 2, "width": 2},
    ),
    # what is denoised is 8 tokens of video and 4 of sound
    "LTX2VideoTransformer3DModel": Case(
        _ltx2,
        (12, 16),
        lambda x, t: {
            "hidden_states": x[:, :8],
            "audio_hidden_states": x[:, 8:],
            "timestep": steps_of(x, t),
            "sigma": steps_of(x, t),
            "num_frames": 2,
            "height": 2,
            "width": 2,
            "audio_num_frames": 4,
            "return_dict": False,
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
            "audio_encoder_hidden_states": embeds(words, n, 16, "sound"),
        },
        lambda output: torch.cat(output, 1),
        parts=(("connectors", _ltx2_connectors),),
        connect=_ltx2_delivered,
    ),
    # the pipeline gives the encoded text a dimension of one behind the rows
    "AllegroTransformer3DModel": cross(
        _allegro,
        (4, 2, 8, 8),
        masked="encoder_attention_mask",
        extra=_allegro_positions,
        connect=lambda pipe, texts: {
            **texts,
            "encoder_hidden_states": texts["encoder_hidden_states"][:, None],
        },
    ),
    # every frame is a row of its own inside
    "LatteTransformer3DModel": cross(_latte, (4, 2, 8, 8)),
    "StableAudioDiTModel": cross(
        _stable_audio,
        (4, 8),
        connect=followed(2, 16),
        extra=lambda x: {
            "global_hidden_states": noise("seconds", 1, 1, 8).repeat(len(x), 1, 1),
            "rotary_embedding": (noise("cosines", 9, 4), noise("sines", 9, 4)),
        },
    ),
    "StableAudio3DiTModel": cross(
        _stable_audio_3,
        (4, 8),
        masked="encoder_attention_mask",
        connect=followed(1, 16, "encoder_attention_mask"),
        extra=lambda x: {"global_hidden_states": noise("seconds", 1, 8).repeat(len(x), 1)},
    ),
    # the condition encoder puts lyrics and timbre before the text, and needs its mask
    "AceStepTransformer1DModel": Case(
        _ace_step,
        (8, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "timestep_r": steps_of(x, t) / 2,
            "return_dict": False,
            "context_latents": noise("context", 1, 8, 8).repeat(len(x), 1, 1),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            1: torch.ones(len(words), n).bool(),
        },
        parts=(("condition_encoder", _ace_step_conditions),),
        connect=_ace_step_delivered,
        early=True,
    ),
    # --- joint attention
    "SD3Transformer2DModel": Case(
        _sd3,
        (4, 8, 8),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "pooled_projections": noise("pooled", 1, 32).repeat(len(x), 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 32)},
    ),
    "FluxTransformer2DModel": Case(
        _flux,
        (16, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "pooled_projections": noise("pooled", 1, 16).repeat(len(x), 1),
            "img_ids": ramp(1, 4, 4),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": torch.zeros(n, 3),
        },
    ),
    "ChromaTransformer2DModel": Case(
        _chroma,
        (16, 16),
        lambda x, t: tokens_of(x, t, img_ids=ramp(1, 4, 4)),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": torch.zeros(n, 3),
            "attention_mask": masks(words, n).float(),
        },
        deliver=_chroma_mask,
    ),
    # encode_prompt's ids have rows; the pipeline takes those of the first
    "BriaTransformer2DModel": Case(
        functools.partial(_like_flux, "BriaTransformer2DModel"),
        (16, 16),
        lambda x, t: tokens_of(x, t * 1000, img_ids=ramp(1, 4, 4)),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": torch.zeros(len(words), n, 3),
        },
        deliver=lambda texts, x: texts | {"txt_ids": texts["txt_ids"][0]},
    ),
    "OvisImageTransformer2DModel": Case(
        functools.partial(_like_flux, "OvisImageTransformer2DModel", out_channels=16),
        (16, 16),
        lambda x, t: tokens_of(x, t, img_ids=ramp(1, 4, 4)),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": torch.arange(n)[:, None] * torch.tensor([0.0, 1, 1]),
        },
    ),
    "LongCatImageTransformer2DModel": Case(
        functools.partial(_like_flux, "LongCatImageTransformer2DModel"),
        (16, 16),
        lambda x, t: tokens_of(x, t, img_ids=ramp(1, 4, 4) + 7),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": torch.arange(n)[:, None] * torch.tensor([0.0, 1, 1]),
        },
    ),
    "Krea2Transformer2DModel": Case(
        _krea2,
        (16, 16),
        lambda x, t: tokens_of(
            x, t, position_ids=torch.cat([torch.zeros(LENGTH, 3), ramp(1, 4, 4)])
        ),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 48).unflatten(2, (3, 16)),
            "encoder_attention_mask": masks(words, n).bool(),
        },
    ),
    "CogView4Transformer2DModel": cogview("CogView4Transformer2DModel"),
    "HiDreamImageTransformer2DModel": hidream((4, 8, 8)),
    "HiDreamImageTransformer2DModel:wide": hidream(
        (4, 4, 8)
    ),  # pictures that are not square are padded to the most tokens
    "PRXTransformer2DModel": prx(_prx, (4, 8, 8)),
    "PRXTransformer2DModel:pixel": prx(
        functools.partial(_prx, bottleneck_size=8, resolution_embeds=True), (4, 8, 8)
    ),
    # --- joint attention with an adapter
    # the ids count the text's tokens, and have rows
    "Flux2Transformer2DModel": Case(
        _flux2,
        (16, 16),
        lambda x, t: tokens_of(
            x,
            t,
            guidance=torch.full((len(x),), 4.0),
            img_ids=ramp(1, 4, 4, 1).expand(len(x), -1, -1),
        ),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": ramp(1, 1, 1, n).expand(len(words), -1, -1),
        },
    ),
    # klein KV, first step: 8 tokens of a reference image stand before the image's and attend
    # themselves alone
    "Flux2Transformer2DModel:kv": Case(
        _flux2_kv,
        (16, 16),
        lambda x, t: tokens_of(
            torch.cat([noise("reference", 1, 8, 16).expand(len(x), -1, -1), x], 1),
            steps_of(x, t),
            kv_cache_mode="extract",
            num_ref_tokens=8,
            img_ids=torch.cat(
                [ramp(1, 2, 4, 1) + torch.tensor([10, 0, 0, 0]), ramp(1, 4, 4, 1)]
            ).expand(len(x), -1, -1),
        ),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "txt_ids": ramp(1, 1, 1, n).expand(len(words), -1, -1),
        },
    ),
    "BriaFiboTransformer2DModel": Case(
        functools.partial(_like_flux, "BriaFiboTransformer2DModel", text_encoder_dim=8),
        (16, 16),
        lambda x, t: tokens_of(x, t * 1000, img_ids=ramp(1, 4, 4)),
        lambda words, n: _fibo_texts(words, n) | {"attention_mask": masks(words, n)},
        deliver=_fibo_layers,
    ),
    "BriaFiboTransformer2DModel:unpadded": Case(
        functools.partial(_like_flux, "BriaFiboTransformer2DModel", text_encoder_dim=8),
        (16, 16),
        lambda x, t: tokens_of(x, t * 1000, img_ids=ramp(1, 4, 4)),
        lambda words, n: _fibo_texts(words, n) | {"attention_mask": torch.ones(len(words), n)},
        deliver=lambda texts, x: _fibo_layers(
            {name: value for name, value in texts.items() if name != "attention_mask"}, x
        ),
    ),
    # 7 tokens make 4 gist tokens; a picture to edit stands behind the image
    "BriaFibo2Transformer2DModel": Case(
        _fibo2,
        (4, 8, 8),
        lambda x, t: tokens_of(
            x, t, context_latents=[noise("context", 1, 4, 4, 8).expand(len(x), -1, -1, -1)]
        ),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 24).unflatten(2, (3, 8)).transpose(1, 2),
            "encoder_attention_mask": None,
        },
        lengths=lambda texts: [texts["encoder_hidden_states"].shape[2], 4],
    ),
    "Ideogram4Transformer2DModel": Case(
        _ideogram,
        (16, 16),
        lambda x, t: tokens_of(x, t),
        _ideogram_texts,
        lambda output: output[0][:, -16:],
        deliver=_ideogram_sequence,
        lengths=lambda texts: [texts["encoder_hidden_states"].shape[1] - 16],
    ),
    "EasyAnimateTransformer3DModel": cross(_easy_animate, (4, 2, 4, 4)),
    "MotifVideoTransformer3DModel": Case(_motif_video, (4, 2, 4, 4), plain, masked),
    # image-to-video: the tokens of a picture stand before the text
    "MotifVideoTransformer3DModel:i2v": Case(
        functools.partial(
            _motif_video, image_embed_dim=8, enable_text_cross_attention_single=False
        ),
        (4, 2, 4, 4),
        lambda x, t: plain(x, t, image_embeds=rows_of(x, "picture", 3, 8)),
        masked,
    ),
    "JoyImageEditPlusTransformer3DModel": Case(
        _joy_image_plus,
        (6, 4, 1, 2, 2),
        lambda x, t: plain(x, t, shape_list=[[(1, 2, 2), (1, 1, 1)]] * len(x)),
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_hidden_states_mask": masks(words, n),
        },
    ),
    # --- joint attention with an adapter
    # CogVideoX-2b: a table of positions; 1.5: rotary ones
    "CogVideoXTransformer3DModel": cross(_cogvideo_x, (2, 4, 4, 4)),
    "CogVideoXTransformer3DModel:rotary": cross(
        functools.partial(_cogvideo_x, use_rotary_positional_embeddings=True, patch_size_t=2),
        (2, 4, 4, 4),
        extra=lambda x: {"image_rotary_emb": rope(4, 8)},
    ),
    "ConsisIDTransformer3DModel": cross(
        _consis_id,
        (2, 4, 4, 4),
        extra=lambda x: {
            "image_rotary_emb": rope(8, 8),
            "id_cond": rows_of(x, "face", 4),
            "id_vit_hidden": [rows_of(x, f"face {i}", 2, 8) for i in range(5)],
        },
    ),
    "MochiTransformer3DModel": Case(
        _mochi, (4, 2, 4, 4), plain, masked, pooled=("time_embed",), alone=True
    ),
    # without a picture the model keeps masked tokens of one, which it moves behind the texts that
    # count
    "HunyuanVideo15Transformer3DModel": Case(
        _hunyuan_video_15,
        (4, 2, 4, 4),
        lambda x, t: plain(x, t, image_embeds=torch.zeros(len(x), 3, 8)),
        hunyuan_video_15,
        spans=lambda kind, lengths, count: (
            [(count - 3 - sum(map(sum, lengths)), 3 + sum(map(sum, lengths)))],
            [],
        ),
    ),
    "HunyuanVideo15Transformer3DModel:i2v": Case(
        _hunyuan_video_15,
        (4, 2, 4, 4),
        lambda x, t: plain(x, t, image_embeds=rows_of(x, "picture", 3, 8)),
        hunyuan_video_15,
    ),
    "HunyuanVideoFramepackTransformer3DModel": Case(_framepack, (4, 2, 8, 8), framepack, masked),
    "JoyImageEditTransformer3DModel": cross(_joy_image, (2, 4, 1, 4, 4)),
    "JoyImageEditTransformer3DModel:mrope": cross(
        functools.partial(_joy_image, rope_type="mrope"), (2, 4, 1, 4, 4)
    ),
    "QwenImageTransformer2DModel": Case(
        _qwen,
        (16, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "img_shapes": [[(1, 4, 4)]] * len(x),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_hidden_states_mask": masks(words, n),
        },
    ),
    "NucleusMoEImageTransformer2DModel": Case(
        _nucleus,
        (16, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "img_shapes": [(1, 4, 4)] * len(x),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_hidden_states_mask": masks(words, n),
        },
    ),
    # a slot of the mask over the joint sequence stands for four image tokens
    "QwenImage21Transformer2DModel": Case(
        _qwen_21,
        (16, 16),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "img_shapes": [[(1, 4, 4)]] * len(x),
            "img_mask": (torch.arange(LENGTH + 4) >= LENGTH).expand(len(x), -1),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_hidden_states_mask": masks(words, n),
            "img_mask": (torch.arange(n + 4) >= n).expand(len(words), -1),
        },
        lambda output: output[0][:, -16:],
    ),
    "AuraFlowTransformer2DModel": cross(_auraflow, (4, 8, 8)),
    "Lumina2Transformer2DModel": Case(
        _lumina2,
        (4, 8, 8),
        lambda x, t: {
            "hidden_states": x,
            "timestep": 1 - steps_of(x, t) / 1000,
            "return_dict": False,
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
        moved=True,
    ),
    # the pipeline pads texts of different length with zeros; the 16 image tokens stand behind the
    # positive
    "ErnieImageTransformer2DModel": Case(
        _ernie,
        (4, 4, 4),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {
            "text_bth": embeds(words, n, 16) * masks(words, n)[..., None],
            "text_lens": masks(words, n).sum(1),
        },
        shared={"pos_embed": slice(0, 16)},
    ),
    # the second text is what stands between quotation marks in the first
    "HunyuanImageTransformer2DModel": Case(
        _hunyuan_image,
        (4, 4, 4),
        _hunyuan_image_arguments,
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
            "encoder_hidden_states_2": torch.zeros(len(words), 5, 12),
            "encoder_attention_mask_2": torch.zeros(len(words), 5).long(),
        },
    ),
    "HunyuanImageTransformer2DModel:glyphs": Case(
        _hunyuan_image,
        (4, 4, 4),
        _hunyuan_image_arguments,
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
            "encoder_hidden_states_2": embeds(words, 5, 12),
            "encoder_attention_mask_2": masks([w + "glyph" for w in words], 5),
        },
    ),
    # the distilled refiner: five dimensions, no second text
    "HunyuanImageTransformer2DModel:refiner": Case(
        functools.partial(
            _hunyuan_image,
            patch_size=(1, 1, 1),
            rope_axes_dim=(4, 2, 2),
            text_embed_2_dim=None,
            guidance_embeds=True,
        ),
        (4, 1, 4, 4),
        lambda x, t: {**_hunyuan_image_arguments(x, t), "guidance": torch.full((len(x),), 3250.0)},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
            "encoder_hidden_states_2": None,
            "encoder_attention_mask_2": None,
        },
    ),
    "HunyuanVideoTransformer3DModel": Case(
        _hunyuan_video,
        (4, 2, 4, 4),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "guidance": torch.full((len(x),), 6000.0),
            "pooled_projections": noise("pooled", 1, 8).repeat(len(x), 1),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, n, 16),
            "encoder_attention_mask": masks(words, n),
        },
    ),
    "ZImageTransformer2DModel": Case(
        _z_image,
        (4, 1, 8, 8),
        lambda x, t: {"x": list(x), "t": steps_of(x, t) / 1000, "return_dict": False},
        lambda words, n: {"cap_feats": [noise(w, n + len(w) % 4, 16) for w in words]},
        lambda output: torch.stack(output[0]),
    ),
}


def _alike(name: str, like: str):
    import diffusers

    return getattr(diffusers, name).from_config(CASES[like].build().config)


for (
    _name,
    _family,
) in (
    families.FAMILIES.items()
):  # a class that takes another one's row as it is, is tried with that one's case
    _like = next((other for other in CASES if families.FAMILIES.get(other) is _family), None)
    if _name not in CASES and _like:
        CASES[_name] = replace(CASES[_like], build=functools.partial(_alike, _name, _like))


@functools.cache
def bare(name: str) -> Bare:
    """Built once per name. At random initialisation a few layers are zero (gates, output
    projections); they are filled."""
    torch.manual_seed(0)
    denoiser = CASES[name].build().eval()
    loud(denoiser)
    return Bare(CASES[name], denoiser)
