"""A tiny random denoiser per family, and the smallest pipeline around it: words already encoded, an Euler step, CFG in every style.

`tests/tiny.py` has the real pipelines with real text encoders; here every denoiser class of `nag/families.py` has its turn.
To add a case: what to build, the shape of its latents, the arguments of a call, what its words become. Say in a comment what the real pipeline does.
"""

import functools
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nag import families

LENGTH = 7  # text tokens


def noise(words: str, *shape, what: str = ""):
    """Random numbers that depend on the words alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{what}{words}".encode())))


def embeds(words: list[str], length: int, width: int, what: str = ""):
    """(n, length, width)"""
    return torch.stack([noise(w, length, width, what=what) for w in words])


def masks(words: list[str], length: int):
    """(n, length): words of different length leave different padding behind; at least three tokens count."""
    valid = torch.tensor([3 + len(w) % (length - 2) for w in words])
    return (torch.arange(length)[None] < valid[:, None]).long()


@dataclass(frozen=True)
class Case:
    """build: () -> denoiser. latents: shape of one row. arguments: (latents, timestep) -> the call's arguments that carry no text.
    texts: (words, length) -> the text inputs by argument, and what else `encode_prompt` returns by its place.
    out: the call's result -> what the scheduler gets, of the latents' shape. pooled: modules that pool the text, by convention the positive's.
    parts: modules of the pipeline. deliver: (pipe, texts) -> what the pipeline makes of the texts before the denoiser.
    """

    build: Callable
    latents: tuple
    arguments: Callable
    texts: Callable
    out: Callable = operator.itemgetter(0)
    parts: tuple = ()  # (name, build)
    deliver: Callable | None = None
    early: bool = False  # delivered before the batch is put together for CFG
    pooled: tuple = ()


class Scheduler:
    """Euler, and nothing else."""

    def __init__(self):
        self.timesteps = torch.tensor([])

    def set_timesteps(self, steps: int):
        self.timesteps = torch.linspace(900, 100, steps)

    def step(self, output, timestep, latents):
        return latents - output / len(self.timesteps)


class Bare:
    """The smallest pipeline: `encode_prompt`, a scheduler and a denoiser. cfg: None, "before", "behind" (the unconditional rows) or "apart"."""

    def __init__(self, case: Case, denoiser):
        self.case, self.transformer, self.scheduler = case, denoiser, Scheduler()
        self.family = families.find(denoiser)
        for name, build in case.parts:
            setattr(self, name, build())

    def encode_prompt(self, prompt, length: int = LENGTH):
        texts = self.case.texts([prompt] if isinstance(prompt, str) else list(prompt), length)
        places = {p.encoded: texts[p.argument] for p in self.family.inputs if p.encoded is not None}
        places |= {place: value for place, value in texts.items() if isinstance(place, int)}
        return tuple(places.get(i) for i in range(max(places) + 1))

    def encoded(self, prompt) -> dict:
        result = self.encode_prompt(prompt)
        return {p.argument: result[p.encoded] for p in self.family.inputs if p.encoded is not None}

    def texts(self, prompt) -> dict:
        return self._delivered(self.encoded(prompt))

    def _delivered(self, texts: dict) -> dict:
        return self.case.deliver(self, texts) if self.case.deliver else texts

    @torch.no_grad()
    def __call__(self, prompt, cfg=None, steps: int = 2, seed: int = 0, latents=None, scale: float = 4.0):
        prompt = [prompt] if isinstance(prompt, str) else prompt
        positive = self.encoded(prompt)
        if self.case.early:
            positive = self._delivered(positive)
        calls = [positive]
        if cfg:
            negative = self.encoded(["blurry"] * len(prompt))
            if self.case.early:
                negative = self._delivered(negative)
            order = {"before": [negative, positive], "behind": [positive, negative]}.get(cfg)
            calls = [positive, negative] if order is None else [
                {p.argument: self._both(p, *(side[p.argument] for side in order)) for p in self.family.inputs if p.argument in positive}]
        if not self.case.early:
            calls = [self._delivered(texts) for texts in calls]
        if latents is None:
            latents = torch.randn(len(prompt), *self.case.latents, generator=torch.Generator().manual_seed(seed))
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            outputs = []
            for texts in calls:
                times = 2 if cfg in ("before", "behind") else 1
                rows = torch.cat([latents] * times)
                outputs.append(self.case.out(self.transformer(**self.case.arguments(rows, timestep), **texts)))
            if cfg:
                first, second = outputs if cfg == "apart" else outputs[0].chunk(2)
                cond, uncond = (second, first) if cfg == "before" else (first, second)
                outputs = [uncond + scale * (cond - uncond)]
            latents = self.scheduler.step(outputs[0], timestep, latents)
        return latents

    def _both(self, p, first, second):
        if first is None:
            return None
        if isinstance(first, list):
            return first + second
        if p.kind == "ids" and first.ndim == 2:
            return first
        return torch.cat([first, second], 1 if p.argument == "encoder_hidden_states_llama3" else 0)


def steps_of(latents, timestep):
    """(rows,) timesteps"""
    return timestep.expand(len(latents))


def ramp(*sides):
    """Position ids of a grid, (tokens, axes)"""
    return torch.cartesian_prod(*[torch.arange(side) for side in sides]).float().reshape(-1, len(sides))


def _unet(**config):
    from tiny import unet

    return unet(**config)


def _if():
    from tiny import unet

    return unet(
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_norm="group_norm", cross_attention_dim=32,
        encoder_hid_dim=16, encoder_hid_dim_type="text_proj", addition_embed_type="text", addition_embed_type_num_heads=2)


def _animatediff():
    from diffusers import UNetMotionModel

    return UNetMotionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, num_attention_heads=2, norm_num_groups=4,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"), up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"),
        motion_num_attention_heads=2, motion_max_seq_length=4)


def _unet3d(name="UNet3DConditionModel", **config):
    import diffusers

    return getattr(diffusers, name)(**{
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 8,
        "norm_num_groups": 32, "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"), "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
        **config})


def _dreamlite():
    from diffusers import DreamLiteUNetModel

    return DreamLiteUNetModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, attention_head_dim=8, norm_num_groups=4,
        down_block_types=("DreamLiteDownBlock2D", "DreamLiteCrossAttnDownBlock2D"), mid_block_type="DreamLiteUNetMidBlock2DCrossAttn",
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"))


def _audioldm2():
    from diffusers import AudioLDM2UNet2DConditionModel

    return AudioLDM2UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=((None, 16, 12),) * 2, attention_head_dim=8,
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))


def _kandinsky3():
    from diffusers import Kandinsky3UNet

    return Kandinsky3UNet(
        in_channels=4, time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2, block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=16, encoder_hid_dim=16)


def _stable_cascade():
    from diffusers.models.unets import StableCascadeUNet

    return StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, patch_size=1, conditioning_dim=16, block_out_channels=(16, 16),
        num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1), block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        clip_text_in_channels=16, clip_text_pooled_in_channels=16, clip_image_in_channels=16, clip_seq=2, dropout=(0.0, 0.0),
        self_attn=True, switch_level=(False,))


def _stable_audio():
    from diffusers import StableAudioDiTModel

    return StableAudioDiTModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, num_key_value_attention_heads=1, out_channels=4,
        cross_attention_dim=8, time_proj_dim=8, global_states_input_dim=8, cross_attention_input_dim=16)


def _stable_audio_3():
    from diffusers import StableAudio3DiTModel

    return StableAudio3DiTModel(
        io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=16, global_cond_dim=8, local_add_cond_dim=5, timestep_features_dim=8,
        num_memory_tokens=2)


def _ace_step():
    from diffusers import AceStepTransformer1DModel

    return AceStepTransformer1DModel(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, in_channels=12,
        audio_acoustic_hidden_dim=4, sliding_window=4)


def _ace_step_conditions():
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    torch.manual_seed(1)
    return AceStepConditionEncoder(
        hidden_size=16, intermediate_size=32, text_hidden_dim=16, timbre_hidden_dim=4, num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8).eval()


def _ace_step_delivered(pipe, texts):
    text = texts["encoder_hidden_states"]
    ones, lyrics = torch.ones(text.shape[:2]).bool(), noise("lyrics", 1, 4, 16).repeat(len(text), 1, 1)
    packed, _ = pipe.condition_encoder(
        text_hidden_states=text, text_attention_mask=ones, lyric_hidden_states=lyrics, lyric_attention_mask=ones[:, :4],
        refer_audio_acoustic_hidden_states_packed=noise("timbre", 1, 6, 4).repeat(len(text), 1, 1), refer_audio_order_mask=torch.arange(len(text)))
    return {"encoder_hidden_states": packed}


def followed(tokens: int, width: int, masked=None):
    """Tokens of a duration behind the text, as some pipelines put them."""
    def deliver(pipe, texts):
        text = texts["encoder_hidden_states"]
        both = torch.cat([text, noise("seconds", 1, tokens, width).repeat(len(text), 1, 1)], 1)
        masks = {masked: torch.cat([texts[masked], texts[masked].new_ones(len(text), tokens)], 1)} if masked else {}
        return {"encoder_hidden_states": both, **masks}
    return deliver


def _pixart():
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=16,
        sample_size=16, caption_channels=16, use_additional_conditions=False)


def _wan(name="WanTransformer3DModel", **config):
    import diffusers

    return getattr(diffusers, name)(**{
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, **config})


def _wan_animate():
    return _wan(
        "WanAnimateTransformer3DModel", in_channels=12, latent_channels=4, image_dim=8, added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_encoder_size=16, motion_style_dim=8, motion_dim=4, motion_encoder_dim=8,
        face_encoder_hidden_dim=8, face_encoder_num_heads=2, inject_face_latents_blocks=2)


def _helios():
    from diffusers import HeliosTransformer3DModel

    return HeliosTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4))


def _sana():
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, sample_size=8)


def _sana_video():
    from diffusers import SanaVideoTransformer3DModel

    return SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12, num_cross_attention_heads=2,
        cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=16, sample_size=8, rope_max_seq_len=32)


def _sana_wm():
    from diffusers import SanaWMTransformer3DModel

    return SanaWMTransformer3DModel(
        in_channels=4, num_layers=2, hidden_size=32, num_attention_heads=2, softmax_every_n=2, linear_head_dim=16, caption_channels=16,
        chunk_plucker_channels=6)


LTX2 = dict(
    in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, audio_in_channels=16,
    audio_out_channels=16, audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, caption_channels=16)


def _ltx2():
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel(**LTX2)


def _ltx2_connectors():
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    torch.manual_seed(1)
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=1, video_connector_num_attention_heads=2, video_connector_attention_head_dim=8,
        video_connector_num_layers=1, video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8, audio_connector_num_layers=1, audio_connector_num_learnable_registers=None)
    loud(connectors)
    return connectors


def _ltx2_delivered(pipe, texts):
    video, audio, keep = pipe.connectors(texts["encoder_hidden_states"], texts["encoder_attention_mask"])
    return {"encoder_hidden_states": video, "encoder_attention_mask": keep, "audio_encoder_hidden_states": audio,
            "audio_encoder_attention_mask": keep}


def _refiner():
    from diffusers import SanaWMLTX2RefinerTransformer3DModel

    return SanaWMLTX2RefinerTransformer3DModel(**LTX2)


def _ltx():
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=2, caption_channels=16)


def _allegro():
    from diffusers import AllegroTransformer3DModel

    return AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=48, sample_width=8,
        sample_height=8, sample_frames=2, caption_channels=16)


def _allegro_positions(x):
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    *frequencies, t, h, w = get_3d_rotary_pos_embed_allegro(24, ((0, 0), (4, 4)), (4, 4), 2, interpolation_scale=(2.2, 2.0, 2.0))
    return {"image_rotary_emb": (tuple(frequencies), torch.cartesian_prod(t.long(), h.long(), w.long()).T.reshape(3, 1, -1).contiguous())}


def _anyflow():
    from diffusers import AnyFlowTransformer3DModel

    return AnyFlowTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
        num_layers=2, rope_max_seq_len=32)


def _anyflow_far():
    from diffusers import AnyFlowFARTransformer3DModel

    return AnyFlowFARTransformer3DModel(
        patch_size=(1, 2, 2), compressed_patch_size=(1, 4, 4), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, chunk_partition=(1, 1))


def _latte():
    from diffusers import LatteTransformer3DModel

    return LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=16, attention_bias=True,
        sample_size=8, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=10, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=16, video_length=2)


def _sd3():
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, pooled_projection_dim=32, out_channels=4, pos_embed_max_size=16, dual_attention_layers=(0,),
        qk_norm="rms_norm")


def _flux():
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4))


def _qwen():
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6))


def _hunyuan_video():
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4))


def _z_image():
    from diffusers import ZImageTransformer2DModel

    return ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32])


def cross(build, latents=(4, 8, 8), width=16, extra=None, masked=None, exact=None, **fields):
    """A denoiser that takes (latents, timestep, text) and nothing else worth mentioning. extra: latents -> further arguments.
    masked: the name of the text's mask. exact: the number of text tokens where the model asks for it."""
    def texts(words, length):
        length = exact if exact and length == LENGTH else length
        return {"encoder_hidden_states": embeds(words, length, width)} | ({masked: masks(words, length)} if masked else {})

    def arguments(x, t):
        return {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False, **(extra(x) if extra else {})}
    return Case(build, latents, arguments, texts, **fields)


def unet2d(build, latents=(4, 8, 8), extra=None, **fields):
    return Case(build, latents, lambda x, t: {"sample": x, "timestep": t, "return_dict": False, **(extra(x) if extra else {})},
                lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)}, **fields)


def picture(x):
    """Tokens of a picture, which image-to-video models put before the text, which must have 512."""
    return {"encoder_hidden_states_image": noise("picture", 1, 5, 8).repeat(len(x), 1, 1)}


# name -> case; the name is the denoiser's class, with a variant behind a colon
CASES = {
    # --- UNets
    "UNet2DConditionModel": unet2d(_unet),
    # Kolors: its text encoder is wider than the UNet's text
    "UNet2DConditionModel:kolors": unet2d(lambda: _unet(encoder_hid_dim=16, encoder_hid_dim_type="text_proj")),
    # DeepFloyd: text and image keys in one attention; the text is pooled, and normalised over its tokens
    "UNet2DConditionModel:if": unet2d(_if, pooled=("add_embedding",)),
    # AnimateDiff repeats its text for every frame
    "UNetMotionModel": unet2d(_animatediff, (4, 2, 8, 8), deliver=lambda pipe, texts: {
        "encoder_hidden_states": texts["encoder_hidden_states"].repeat_interleave(2, 0)}),
    "DreamLiteUNetModel": Case(
        _dreamlite, (4, 8, 8), lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n)}),
    # two texts of different lengths, each in attentions of its own
    "AudioLDM2UNet2DConditionModel": Case(
        _audioldm2, (4, 8, 8), lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, 4, 16), "encoder_hidden_states_1": embeds(words, n, 12, "second"),
                          "encoder_attention_mask_1": masks(words, n)}),
    "UNet3DConditionModel": unet2d(_unet3d, (4, 2, 8, 8)),
    "I2VGenXLUNet": unet2d(functools.partial(_unet3d, "I2VGenXLUNet"), (4, 2, 8, 8), lambda x: {
        "fps": torch.full((len(x),), 8), "image_latents": noise("picture", 1, 4, 2, 8, 8).repeat(len(x), 1, 1, 1, 1),
        "image_embeddings": noise("picture", 1, 16).repeat(len(x), 1)}),
    "Kandinsky3UNet": Case(
        _kandinsky3, (4, 16, 16), lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n)}, pooled=("add_time_condition",)),
    # the prior: keys are image, text, pooled text and pictures
    "StableCascadeUNet": Case(
        _stable_cascade, (4, 8, 8), lambda x, t: {
            "sample": x, "timestep_ratio": steps_of(x, t) / 1000, "clip_text_pooled": noise("pooled", 1, 1, 16).repeat(len(x), 1, 1),
            "clip_img": noise("picture", 1, 1, 16).repeat(len(x), 1, 1), "return_dict": False},
        lambda words, n: {"clip_text": embeds(words, n, 16)}),
    # --- cross-attention
    "PixArtTransformer2DModel": Case(
        _pixart, (4, 16, 16), lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False,
                                            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n)}),
    "WanTransformer3DModel": cross(_wan, (4, 2, 4, 4)),
    "WanTransformer3DModel:i2v": cross(functools.partial(_wan, image_dim=8, added_kv_proj_dim=24), (4, 2, 4, 4), extra=picture, exact=512),
    "WanVACETransformer3DModel": cross(
        functools.partial(_wan, "WanVACETransformer3DModel", vace_layers=[0, 1], vace_in_channels=8), (4, 2, 4, 4),
        extra=lambda x: {"control_hidden_states": noise("control", 1, 8, 2, 4, 4).repeat(len(x), 1, 1, 1, 1)}),
    # the pipeline puts the reference's latents and a mask before the noise: channels and one frame more than what it predicts
    "WanAnimateTransformer3DModel": Case(
        _wan_animate, (4, 3, 4, 4), lambda x, t: {
            "hidden_states": torch.cat([x, x, x], 1), "timestep": steps_of(x, t), "return_dict": False, **picture(x),
            "pose_hidden_states": noise("pose", 1, 4, 2, 4, 4).repeat(len(x), 1, 1, 1, 1),
            "face_pixel_values": noise("face", 1, 3, 5, 16, 16).repeat(len(x), 1, 1, 1, 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, 512 if n == LENGTH else n, 16)}),
    "SkyReelsV2Transformer3DModel": cross(functools.partial(_wan, "SkyReelsV2Transformer3DModel"), (4, 2, 4, 4)),
    "SkyReelsV2Transformer3DModel:i2v": cross(
        functools.partial(_wan, "SkyReelsV2Transformer3DModel", image_dim=8, added_kv_proj_dim=24), (4, 2, 4, 4), extra=picture, exact=512),
    # diffusion forcing: every frame has its own timestep
    "SkyReelsV2Transformer3DModel:forcing": Case(
        functools.partial(_wan, "SkyReelsV2Transformer3DModel", num_frame_per_block=2), (4, 4, 4, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t)[:, None] - torch.arange(4) * 10, "return_dict": False, "enable_diffusion_forcing": True},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)}),
    "ChronoEditTransformer3DModel": cross(
        functools.partial(_wan, "ChronoEditTransformer3DModel", image_dim=8, added_kv_proj_dim=24), (4, 2, 4, 4), extra=picture, exact=512),
    "AnyFlowTransformer3DModel": Case(
        _anyflow, (2, 4, 4, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t)[:, None].repeat(1, 2), "r_timestep": steps_of(x, t / 2)[:, None].repeat(1, 2),
            "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)}),
    "AnyFlowFARTransformer3DModel": Case(
        _anyflow_far, (2, 4, 4, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t)[:, None].repeat(1, 2), "r_timestep": steps_of(x, t / 2)[:, None].repeat(1, 2),
            "return_dict": False,
            "chunk_partition": (1, 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)}),
    # the frames before stand in the sequence too, and see no text
    "HeliosTransformer3DModel": cross(_helios, (4, 2, 4, 4), extra=lambda x: {
        "indices_hidden_states": torch.tensor([[1, 2]]).repeat(len(x), 1), "indices_latents_history_short": torch.tensor([[0]]).repeat(len(x), 1),
        "latents_history_short": noise("before", 1, 4, 1, 4, 4).repeat(len(x), 1, 1, 1, 1)}),
    "SanaTransformer2DModel": cross(_sana, masked="encoder_attention_mask"),
    "SanaVideoTransformer3DModel": cross(_sana_video, (4, 2, 4, 4), masked="encoder_attention_mask"),
    # its text has a dimension of one, (rows, 1, T, D); every frame has its own timestep
    "SanaWMTransformer3DModel": Case(
        _sana_wm, (4, 2, 4, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t)[:, None, None].repeat(1, 1, 2), "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16)[:, None], "mask": masks(words, n)}),
    "SanaWMLTX2RefinerTransformer3DModel": Case(
        _refiner, (8, 16), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t)[:, None].repeat(1, 8), "return_dict": False,
            "video_rotary_emb": (noise("cosines", 1, 8, 16), noise("sines", 1, 8, 16))},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n)}),
    "LTXVideoTransformer3DModel": cross(
        _ltx, (8, 16), masked="encoder_attention_mask", extra=lambda x: {"num_frames": 2, "height": 2, "width": 2}),
    # what is denoised is 8 tokens of video and 4 of sound
    "LTX2VideoTransformer3DModel": Case(
        _ltx2, (12, 16), lambda x, t: {
            "hidden_states": x[:, :8], "audio_hidden_states": x[:, 8:], "timestep": steps_of(x, t), "sigma": steps_of(x, t), "num_frames": 2,
            "height": 2, "width": 2, "audio_num_frames": 4, "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n),
                          "audio_encoder_hidden_states": embeds(words, n, 16, "sound")},
        lambda output: torch.cat(output, 1), (("connectors", _ltx2_connectors),), _ltx2_delivered),
    # the pipeline gives the encoded text a dimension of one behind the rows
    "AllegroTransformer3DModel": cross(
        _allegro, (4, 2, 8, 8), masked="encoder_attention_mask", extra=_allegro_positions,
        deliver=lambda pipe, texts: {**texts, "encoder_hidden_states": texts["encoder_hidden_states"][:, None]}),
    # every frame is a row of its own inside
    "LatteTransformer3DModel": cross(_latte, (4, 2, 8, 8)),
    "StableAudioDiTModel": cross(_stable_audio, (4, 8), deliver=followed(2, 16), extra=lambda x: {
        "global_hidden_states": noise("seconds", 1, 1, 8).repeat(len(x), 1, 1), "rotary_embedding": (noise("cosines", 9, 4), noise("sines", 9, 4))}),
    "StableAudio3DiTModel": cross(
        _stable_audio_3, (4, 8), masked="encoder_attention_mask", deliver=followed(1, 16, "encoder_attention_mask"),
        extra=lambda x: {"global_hidden_states": noise("seconds", 1, 8).repeat(len(x), 1)}),
    # the condition encoder puts lyrics and timbre before the text, and needs its mask
    "AceStepTransformer1DModel": Case(
        _ace_step, (8, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t), "timestep_r": steps_of(x, t) / 2, "return_dict": False,
            "context_latents": noise("context", 1, 8, 8).repeat(len(x), 1, 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), 1: torch.ones(len(words), n).bool()},
        parts=(("condition_encoder", _ace_step_conditions),), deliver=_ace_step_delivered, early=True),
    # --- joint attention
    "SD3Transformer2DModel": Case(
        _sd3, (4, 8, 8), lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False,
                                       "pooled_projections": noise("pooled", 1, 32).repeat(len(x), 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 32)}),
    "FluxTransformer2DModel": Case(
        _flux, (16, 16), lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t) / 1000, "return_dict": False,
                                       "pooled_projections": noise("pooled", 1, 16).repeat(len(x), 1), "img_ids": ramp(1, 4, 4)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "txt_ids": torch.zeros(n, 3)}),
    # --- joint attention with an adapter
    "QwenImageTransformer2DModel": Case(
        _qwen, (16, 16), lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t) / 1000, "return_dict": False,
                                       "img_shapes": [[(1, 4, 4)]] * len(x)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_hidden_states_mask": masks(words, n)}),
    "HunyuanVideoTransformer3DModel": Case(
        _hunyuan_video, (4, 2, 4, 4), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t), "return_dict": False, "guidance": torch.full((len(x),), 6000.0),
            "pooled_projections": noise("pooled", 1, 8).repeat(len(x), 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, n, 16), "encoder_attention_mask": masks(words, n)}),
    "ZImageTransformer2DModel": Case(
        _z_image, (4, 1, 8, 8), lambda x, t: {"x": list(x), "t": steps_of(x, t) / 1000, "return_dict": False},
        lambda words, n: {"cap_feats": [noise(w, n + len(w) % 4, 16) for w in words]}, lambda output: torch.stack(output[0])),
}


@functools.cache
def bare(name: str) -> Bare:
    """Built once per name. At random initialisation a few layers are zero (gates, output projections); they are filled."""
    torch.manual_seed(0)
    denoiser = CASES[name].build().eval()
    loud(denoiser)
    return Bare(CASES[name], denoiser)


def loud(denoiser) -> None:
    """Weights under which text matters: NAG's effect on a freshly initialised model drowns in rounding."""
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=.3)
        elif parameter.ndim > 1:
            parameter.data.mul_(1.5)
