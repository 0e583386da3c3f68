"""pocket-video: the portraits of pocket-portrait in motion, as a plain LattePipeline: 16 frames of 128 px, text by cross-attention.

It shares the VAE with pocket-portrait, frame by frame: on two cores a VAE for videos would have cost more than all else. Its own are a small T5
and the transformer, whose blocks look in turn at a frame's 64 tokens and the text, and at one place in all frames.
Shapes: B clips of F frames, latents (B, 12, F, 16, 16). For the stages that are shared with the image models time and height stand in one
dimension, (B, 12, F * 16, 16): a picture is a clip of one frame.

Trained once, nearly as `python -m nag.pocket` has it (20,000 of the stills, `encode --steps 20000`; stage `video` had single stills in
place of clips that do not move for its first 390 steps, and its length was changed on the way; two cores without units for bf16, 85
minutes): lines are sharp from the first stage on, a person who does not move stays the same person, but words come last. At 8 steps and
CFG 3 the first stage drew what a role implies in .27 of 30 pictures (CFG 6: .47), the second in .20, the student in .20 of 20; who moves
is smudged. Before it can ship it needs several times the stills, and likely the teacher's guided answers instead of its plain ones.
"""

from pathlib import Path

import numpy as np
import torch

from . import clips, joint, models, train

HEADS, HEAD, LAYERS, SIDE = 3, 64, 8, 16
BUDGET = 32  # frames of a batch
SHARED = Path(__file__).resolve().parents[2] / "assets" / "pocket-joint"


@torch.no_grad()
def encode_clips(run: Path, count: int):
    """The frames of `count` clips as latents, fp16, on disk: (count, 12, 16, 16, 16). Frames that are the same are encoded once."""
    from tqdm import tqdm

    path, vae = run / "video-latents.npy", train.load_vae(run)
    if path.exists():
        return
    source = np.load(run / "clips" / "clips.npy", mmap_mode="r")[:count]
    out = np.empty((len(source), models.LATENT_CHANNELS, clips.FRAMES, SIDE, SIDE), np.float16)
    for i, frames in enumerate(tqdm(source, desc="video-encode", mininterval=20)):
        different = {}
        places = [different.setdefault(frame.tobytes(), len(different)) for frame in frames]
        pixels = train.to_tensor(frames[[places.index(place) for place in range(len(different))]])
        with train.autocast():
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents.float().cpu().numpy()
        out[i] = latents[places].transpose(1, 0, 2, 3)
    np.save(path, out)


def tokenizer(run: Path):
    from transformers import T5Tokenizer

    folder = run / "video-tokenizer"
    if (folder / "tokenizer.json").exists():
        return T5Tokenizer.from_pretrained(folder)
    return joint.build_tokenizer(folder, source=clips, sample=clips.sample_clip)


def train_t5(run: Path, steps: int, size: int = 192):
    tok = tokenizer(run)
    return train.train_text(run, steps, size, "video-t5", tok, joint.build_t5(tok), clips, clips.load(run / "clips"), masked=True)


def build_transformer():
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD, in_channels=models.LATENT_CHANNELS, out_channels=models.LATENT_CHANNELS,
        num_layers=LAYERS, cross_attention_dim=HEADS * HEAD, attention_bias=True, sample_size=SIDE, patch_size=2,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        caption_channels=models.WIDTH, video_length=clips.FRAMES)
    for name, module in model.named_modules():  # begins as the identity, as `joint.build_transformer` does
        if name.endswith(("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")) or name == "proj_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model


class Stills(train.Portrait):
    """The transformer on pictures, without its blocks over time. Three quarters of what it is to say come from pocket-joint's teacher, which
    draws the same pictures from the same words: an answer without noise teaches more than a picture does."""

    name, lr, muon, size, share = "video-stills", 1.5e-3, True, BUDGET, .75
    frames = None  # which of a clip's frames the last batch has; None: it has pictures

    def load_text(self, run: Path):
        self.tok = tokenizer(run)
        reader = train.AttributeReader(joint.build_t5(self.tok), clips.ATTRIBUTES, masked=True)
        train._load_average(reader, run / "video-t5.pt")
        self.text_encoder = reader.text_encoder.to(train.device()).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, captions):
        """(B, 24, 192) and what is added to attention scores, (B, 1, 24). The pipeline shows a prompt without its padding, and a negative prompt
        with as much of it as makes it as long as the prompt; so some of it is shown here."""
        self.captions = captions
        ids = train.tokenize(self.tok, [caption.lower() for caption in captions])
        words = ids.ne(self.tok.pad_token_id)
        shown = torch.arange(models.TOKENS, device=ids.device) < words.sum(1, keepdim=True) + torch.randint(0, 8, (len(ids), 1)).to(ids.device)
        return self.text_encoder(ids, attention_mask=words)[0].float(), torch.where(shown, 0., -1e4)[:, None]

    def build(self):
        return build_transformer()

    def predict(self, model, x, s, text):
        rows, channels, height, width = x.shape
        count = height // SIDE
        moving = self.frames is not None
        if moving:  # the model numbers frames by what it was given
            model.temp_pos_embed = self.numbers[:, self.frames]
        out = model(x.reshape(rows, channels, count, SIDE, width), timestep=1000 * s.flatten(), encoder_hidden_states=text[0],
                    encoder_attention_mask=text[1].repeat_interleave(count, 0), enable_temporal_attentions=moving, return_dict=False)[0]
        return out.reshape(x.shape)

    def teach(self, x, s):
        if not hasattr(self, "teacher"):
            self.teacher = Teacher()
        return self.teacher(x, s, self.captions)

    def target(self, x, s, velocity):
        return self.share * self.teach(x, s) + (1 - self.share) * velocity


class Teacher:
    """pocket-joint before its distillation, as it ships."""

    def __init__(self):
        from diffusers import FluxPipeline

        pipe = FluxPipeline.from_pretrained(SHARED, variant="teacher", dtype=torch.float32).to(train.device())
        self.model, self.source = pipe.transformer.requires_grad_(False), object.__new__(joint.Joint)
        self.source.tok, self.source.text_encoder = pipe.tokenizer, pipe.text_encoder
        self.source.tok_2, self.source.text_encoder_2 = pipe.tokenizer_2, pipe.text_encoder_2
        self.source.place()

    @torch.no_grad()
    def __call__(self, x, s, captions):
        return self.source.predict(self.model, x, s, self.source.encode(captions)).float()


class Video(Stills):
    """The transformer on parts of clips and whole ones. In turn with these come pictures as clips in which nothing moves: there are more of
    them, and pocket-joint's teacher knows the answer to one, which teaches to keep a face in time."""

    name, lr = "video", 1e-3
    TURNS = ((4, False), (4, True), (8, False), (8, True), (4, True), (clips.FRAMES, False), (4, True), (clips.FRAMES, True))  # frames, moving

    def __init__(self, run: Path):
        super().__init__(run)
        self.moving = np.load(run / "video-latents.npy", mmap_mode="r")
        self.clips = clips.load(run / "clips")[:len(self.moving)]
        self.numbers = build_transformer().temp_pos_embed.to(train.device())

    def start(self, model, run: Path):
        """Motion is learned by a model that draws already."""
        train._load_average(model, run / "video-stills.pt")

    def batch(self, step: int, size: int, seed: int):
        """`size` frames, of each clip a few."""
        count, self.moves = self.TURNS[step % len(self.TURNS)]
        self.frames = np.sort(np.random.default_rng([seed, step]).permutation(clips.FRAMES)[:count])
        if self.moves:
            latents, *others = self.rows(self.moving, self.clips, clips.caption, step, size // count, seed)
            return latents[:, :, torch.from_numpy(self.frames)].flatten(2, 3), *others
        latents, *others = super().batch(step, size // count, seed)
        return latents.repeat(1, 1, count, 1), *others

    def target(self, x, s, velocity):
        """Frames of one picture are looks at it through noise of their own. Their mean is as one look through less, which is for the teacher
        of pictures: (1 - s) x + s n / sqrt(F) stands at the level t with t / (1 - t) = s / (1 - s) / sqrt(F)."""
        if self.moves:
            return velocity
        count = len(self.frames)
        ratio = s / (1 - s) / count ** .5
        level = ratio / (1 + ratio)
        mean = x.unflatten(2, (count, SIDE)).mean(2) * (1 - level) / (1 - s)
        picture = (mean - level * self.teach(mean, level)).repeat(1, 1, count, 1)
        return self.share * (x - picture) / s + (1 - self.share) * velocity


def assemble(run: Path, denoiser: str = "video-student"):
    """The pipeline of a training run, float32."""
    from diffusers import LattePipeline

    source = object.__new__(Stills)
    source.load_text(run)
    # "learned" keeps the pipeline from throwing half of the model's channels away, as it does for models that predict no variance
    scheduler = models.build_scheduler(variance_type="learned")
    return LattePipeline(
        scheduler=scheduler, vae=train.load_vae(run), text_encoder=source.text_encoder, tokenizer=source.tok,
        transformer=train.load_denoiser(run, source, denoiser))
