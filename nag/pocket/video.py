"""pocket-video: the portraits of pocket-portrait in motion, as a plain LTXPipeline: 17 frames of 128 px, text by cross-attention.

Shapes: B clips, frames (B, 3, 17, 128, 128) in [-1, 1], latents (B, 48, 5, 8, 8): the VAE takes 16 x 16 pixels and four frames as one.
For the stages that are shared with the image models, time and height stand in one dimension: (B, 48, 5 * 8, 8).
"""

from pathlib import Path

import numpy as np
import torch

from . import clips, data, joint, models, train

CHANNELS, LATENT_FRAMES, SIDE = 48, 5, 8
HEADS, HEAD, LAYERS = 3, 64, 12


def build_vae():
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        latent_channels=CHANNELS, block_out_channels=(64, 128), decoder_block_out_channels=(64, 128),
        down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True), decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2, upsample_residual=(False,) * 2, upsample_factor=(1,) * 2, patch_size=4)


def to_tensor(array) -> torch.Tensor:
    """uint8 (B, frames, H, W, 3) -> float (B, 3, frames, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(array)).to(train.device()).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def train_vae(run: Path, steps: int, size: int = 8):
    """64 px crops, nine frames of clips and single pictures in turn: a picture has one frame to learn lines from, at a ninth of the cost.
    Otherwise as the image VAE's: noise on the latents, which are pulled to mean 0 and variance 1."""
    vae, moving, still = build_vae(), np.load(run / "clips" / "clips.npy", mmap_mode="r"), train.pictures(run)[:, None]

    def loss(step):
        rng, source, count, frames = np.random.default_rng(step), moving, size, 9
        if step % 2:
            source, count, frames = still, 5 * size, 1
        rows = train.batch_at(step, len(source), count, seed=1)
        corners = rng.integers(0, [source.shape[1] - frames + 1, 65, 65], (count, 3))
        target = to_tensor(np.stack([source[i, t:t + frames, y:y + 64, x:x + 64] for i, (t, y, x) in zip(rows, corners, strict=True)]))
        latents = vae.encode(target).latent_dist.mode().float()
        mean, var = latents.mean((0, 2, 3, 4)), latents.var((0, 2, 3, 4))
        output = vae.decode(latents + .1 * torch.randn_like(latents)).sample.float()
        mse = (output.detach().clamp(-1, 1) - target).square().mean()
        value = train.picture_loss(*(x.transpose(1, 2).flatten(0, 1) for x in (output, target)))
        if frames > 1:
            value = value + (output.diff(dim=2) - target.diff(dim=2)).abs().mean()  # and what moves
        value = value + .05 * (mean.square().mean() + var.clamp_min(1e-4).log().square().mean())
        return value, {"psnr": 10 * torch.log10(4 / mse)}

    return train.fit("video-vae", run, vae, loss, steps, lr=1.5e-3)


def load_vae(run: Path):
    vae = build_vae()
    train._load_average(vae, run / "video-vae.pt")
    return vae.to(train.device()).eval().requires_grad_(False)


@torch.no_grad()
def encode(run: Path, name: str, source, size: int):
    """Clips or pictures as latents, fp16, on disk: (n, 48, frames * 8, 8). A picture is a clip of one frame: the VAE is causal."""
    from tqdm import tqdm

    path, vae = run / name, load_vae(run)
    if path.exists():
        return
    parts = []
    for start in tqdm(range(0, len(source), size), desc=path.stem, mininterval=20):
        pixels = source[start:start + size]
        with torch.autocast(train.device().type, torch.bfloat16):
            latents = vae.encode(to_tensor(pixels if pixels.ndim == 5 else pixels[:, None])).latent_dist.mode()
        parts.append(latents.flatten(2, 3).half().cpu().numpy())
    np.save(path, np.concatenate(parts))


def encode_all(run: Path):
    encode(run, "video-stills.npy", train.pictures(run), 64)
    encode(run, "video-latents.npy", np.load(run / "clips" / "clips.npy", mmap_mode="r"), 4)


def tokenizer(run: Path):
    from transformers import T5Tokenizer

    folder = run / "video-tokenizer"
    if (folder / "tokenizer.json").exists():
        return T5Tokenizer.from_pretrained(folder)
    return joint.build_tokenizer(folder, source=clips, sample=clips.sample_clip)


def train_t5(run: Path, steps: int, size: int = 256):
    tok = tokenizer(run)
    return train.train_text(run, steps, size, "video-t5", tok, joint.build_t5(tok), clips, clips.load(run / "clips"))


def build_transformer():
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=HEADS, attention_head_dim=HEAD, cross_attention_dim=HEADS * HEAD,
        num_layers=LAYERS, caption_channels=models.WIDTH)
    for name, module in model.named_modules():  # begins as the identity, as `joint.build_transformer` does
        if name.endswith(("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")) or name == "proj_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


class Video(train.Portrait):
    """The transformer: its text is the T5's tokens, and which of them are words."""

    name, lr, muon, size = "video", 1.5e-3, True, 16

    def __init__(self, run: Path):
        self.latents = np.load(run / "video-latents.npy")
        self.people = clips.load(run / "clips")
        self.load_text(run)
        self.empty = self.encode([""])

    caption = staticmethod(clips.caption)

    def load_text(self, run: Path):
        self.tok = tokenizer(run)
        reader = train.AttributeReader(joint.build_t5(self.tok), clips.ATTRIBUTES)
        train._load_average(reader, run / "video-t5.pt")
        self.text_encoder = reader.text_encoder.to(train.device()).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, captions):
        ids = train.tokenize(self.tok, captions)
        return self.text_encoder(ids)[0].float(), ids.ne(self.tok.pad_token_id).float()

    def build(self):
        return build_transformer()

    def start(self, model, run: Path):
        """Motion is learned by a model that draws already."""
        if (run / "video-stills.pt").exists():
            train._load_average(model, run / "video-stills.pt")

    def predict(self, model, x, s, text):
        rows, channels, height, width = x.shape
        out = model(hidden_states=x.permute(0, 2, 3, 1).reshape(rows, -1, channels), encoder_hidden_states=text[0], timestep=1000 * s.flatten(),
                    encoder_attention_mask=text[1], num_frames=height // SIDE, height=SIDE, width=SIDE,
                    rope_interpolation_scale=(4 / clips.FPS, 16, 16), return_dict=False)[0]
        return out.reshape(rows, height, width, channels).permute(0, 3, 1, 2)


class Stills(Video):
    """The same transformer on pictures, as clips of one frame: they cost a fifth, and there are more of them."""

    name, size = "video-stills", 64
    caption = staticmethod(data.caption)

    def __init__(self, run: Path):
        self.latents = np.load(run / "video-stills.npy", mmap_mode="r")
        self.people = data.load_people(run / "data")
        self.load_text(run)
        self.empty = self.encode([""])

    def start(self, model, run: Path):
        pass


def assemble(run: Path, denoiser: str = "video-student"):
    """The pipeline of a training run, float32."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline

    source = object.__new__(Video)
    source.load_text(run)
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=load_vae(run), text_encoder=source.text_encoder, tokenizer=source.tok,
        transformer=train.load_denoiser(run, source, denoiser))
