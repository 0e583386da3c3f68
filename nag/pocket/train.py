"""The training stages: vae, text, classifier, the teachers (unet, joint), the 4-step students and their controls.

Every stage is a loss and a number of steps; one loop (`fit`) runs them all: AdamW (for matrices of a transformer Muon), warm-up,
linear decay over the last half, an average of the weights, bf16 where it is fast, a checkpoint every two minutes, resumed when run again.
A run that did not train the VAE, the text encoder or the classifier takes those that are shipped in assets/pocket-portrait.
"""

import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nag.media.classifier import Classifier

from ..errors import NAGRuntimeError
from . import data, models
from .muon import Muon

STUDENT_STEPS = 4
TEACHER_SUBSTEPS = 2  # Euler steps of the teacher inside each step of the student
TEACHER_GUIDANCE = 3.0
SAVE_EVERY = 120  # seconds between checkpoints
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "pocket-portrait"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast():
    """bfloat16 where there are units for it: a processor without them is a hundred times slower at it than at float32."""
    fast = device().type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device().type, torch.bfloat16, enabled=fast)


def fit(
    name: str,
    run: Path,
    module,
    loss,
    steps: int,
    lr: float,
    decay: float = 0.995,
    muon: tuple[str, float] | None = None,
):
    """Runs `loss(step) -> (scalar, {"shown name": value})` for `steps` steps on `module`'s parameters and returns
    the averaged weights in `module`. `run / f"{name}.pt"` holds the state; a finished stage returns at once.

    muon: the matrices whose names contain a word are Muon's, at a rate of their own: they are learned in fewer steps."""
    from tqdm import tqdm

    path, module = run / f"{name}.pt", module.to(device()).train()
    trained = [p for p in module.parameters() if p.requires_grad]
    optimisers = _optimisers(module, lr, muon)
    average, first = [p.detach().clone() for p in trained], 0
    if path.exists():
        state = torch.load(path, map_location=device())
        module.load_state_dict(state["module"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        average, first = state["average"], state["step"]

    def save(step):
        torch.save(
            {
                "module": module.state_dict(),
                "optimisers": [o.state_dict() for o in optimisers],
                "average": average,
                "step": step,
            },
            path.with_suffix(".part"),
        )
        path.with_suffix(".part").replace(path)

    saved, shown = time.monotonic(), {}
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=name, mininterval=20)
    for step in bar:
        torch.manual_seed(1_000_003 * step + 17)  # the same noise whether resumed or not
        rate = min(1, (step + 1) / 100, 2 * (1 - step / steps) + 1e-3)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate * group["initial_lr"]
        with autocast():
            value, notes = loss(step)
        if not torch.isfinite(value):
            raise NAGRuntimeError(
                f"The loss of {name} became {value} at step {step}; resume with a lower learning rate."
            )
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        keep = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - keep)
        for key, new in {"loss": value.detach(), **notes}.items():
            shown[key] = 0.98 * shown.get(key, float(new)) + 0.02 * float(new)
        if step % 20 == 0:
            bar.set_postfix({key: f"{v:.4f}" for key, v in shown.items()}, refresh=False)
        if time.monotonic() - saved > SAVE_EVERY or step == steps - 1:
            save(step + 1)
            saved = time.monotonic()
    for parameter, mean in zip(trained, average, strict=True):
        parameter.data.copy_(mean)
    return module.eval()


def _optimisers(module, lr: float, muon: tuple[str, float] | None) -> list:
    inside = {
        id(p)
        for name, p in module.named_parameters()
        if muon and p.ndim == 2 and muon[0] in name and p.requires_grad
    }
    matrices = [p for p in module.parameters() if id(p) in inside]
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in inside]
    optimisers = [
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    ]
    if matrices:
        optimisers.append(Muon(matrices, lr=muon[1], weight_decay=1e-3))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def batch_at(step: int, count: int, size: int, seed: int):
    """Row indices of one batch: every picture once per pass, the same for the same seed and step."""
    per_epoch = count // size
    order = np.random.default_rng([seed, step // per_epoch]).permutation(count)
    return order[(step % per_epoch) * size :][:size]


def pictures(run: Path):
    return np.load(run / "data" / "pictures.npy", mmap_mode="r")


def to_tensor(array) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(np.array(array))
        .to(device())
        .permute(0, 3, 1, 2)
        .float()
        .div_(127.5)
        .sub_(1)
    )


# luminance, blue against yellow, green against magenta: hue is lost first, so it is asked for by name
OPPONENT = torch.tensor([[0.299, 0.587, 0.114], [-0.5, -0.5, 1.0], [-0.5, 1.0, -0.5]])


def picture_loss(output, target):
    """L1 + L2 + gradients (the ink lines) + 8x8 means in opponent colours (the hue)."""
    error = output - target
    lines = (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
    colour = torch.einsum("oc,bchw->bohw", OPPONENT.to(error), F.avg_pool2d(error, 8))
    return error.abs().mean() + error.square().mean() + lines + 2 * colour.abs().mean()


def train_vae(run: Path, steps: int, size: int = 32):
    """64 px crops; noise on the latents so that the decoder forgives the UNet; latents pulled to mean 0, variance 1."""
    vae, source = models.build_vae().to(memory_format=torch.channels_last), pictures(run)

    def loss(step):
        rng = np.random.default_rng(step)
        rows = batch_at(step, len(source), size, seed=1)
        corner = rng.integers(0, data.SIZE - 64 + 1, (size, 2))
        target = to_tensor(
            np.stack(
                [source[i, y : y + 64, x : x + 64] for i, (y, x) in zip(rows, corner, strict=True)]
            )
        )
        target = target.contiguous(memory_format=torch.channels_last)
        latents = vae.encode(target).latents.float()
        mean, var = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        output = vae.decode(latents + 0.1 * torch.randn_like(latents)).sample.float()
        mse = (output.detach().clamp(-1, 1) - target).square().mean()
        value = picture_loss(output, target) + 0.05 * (
            mean.square().mean() + var.clamp_min(1e-4).log().square().mean()
        )
        return value, {"psnr": 10 * torch.log10(4 / mse)}

    return fit("vae", run, vae, loss, steps, lr=1.5e-3)


def load_vae(run: Path):
    if (run / "vae.pt").exists():
        vae = models.build_vae()
        _load_average(vae, run / "vae.pt")
    else:
        from diffusers import AutoencoderTiny

        vae = AutoencoderTiny.from_pretrained(SHIPPED / "vae", dtype=torch.float32)
    return vae.to(memory_format=torch.channels_last).to(device()).eval().requires_grad_(False)


def _load_average(module, path: Path):
    state = torch.load(path, map_location="cpu")
    module.load_state_dict(state["module"])
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter, mean in zip(trained, state["average"], strict=True):
        parameter.data.copy_(mean)


class AttributeReader(torch.nn.Module):
    """The text encoder with one linear head per attribute, to be trained to say what a caption implies."""

    def __init__(self, text_encoder, attributes=data.ATTRIBUTES):
        super().__init__()
        self.text_encoder = text_encoder
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(models.WIDTH, len(v)) for v in attributes.values()
        )

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, values) per attribute"""
        hidden = self.text_encoder(ids).last_hidden_state
        return [head(hidden) for head in self.heads]  # each (B, T, values)


def tokenizer(run: Path):
    from transformers import CLIPTokenizer

    if not (run / "tokenizer" / "vocab.json").exists():
        models.build_tokenizer(run / "tokenizer")
    return CLIPTokenizer.from_pretrained(run / "tokenizer")


def tokenize(tok, captions, where=None):
    ids = tok(
        captions,
        padding="max_length",
        max_length=models.TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids.to(where or device())


def train_text(
    run: Path,
    steps: int,
    size: int = 256,
    name: str = "text",
    tok=None,
    encoder=None,
    source=data,
    rows=None,
    more=None,
):
    """The text encoder first, alone: learned jointly with the UNet it is ignored. The loss stands at the end-of-text
    token and at the padding behind it, because that is what attention to the text mostly sees. source: where captions and labels of the
    `rows` come from; more: a further loss, called with the encoder and some of the rows."""
    tok = tok or tokenizer(run)
    reader = AttributeReader(encoder or models.build_text_encoder(tok), source.ATTRIBUTES)
    people = data.load_people(run / "data") if rows is None else rows
    labels = torch.tensor([source.encode_labels(p) for p in people])

    def loss(step):
        rng = random.Random(step)
        rows = batch_at(step, len(people), size, seed=2)
        captions = [source.caption(people[i], rng, strange_words=0.15) for i in rows]
        captions = [
            c[:1].upper() + c[1:] if rng.random() < 0.2 else c for c in captions
        ]  # a tokenizer may keep capitals
        ids = tokenize(tok, captions)
        ended = ids.eq(tok.eos_token_id) | ids.eq(tok.pad_token_id)
        parts = [
            F.cross_entropy(
                logits.float()[ended], labels[rows].to(ids.device)[:, k, None].expand_as(ids)[ended]
            )
            for k, logits in enumerate(reader(ids))
        ]
        if more:
            parts.append(more(reader.text_encoder, [people[i] for i in rows[: size // 4]]))
        return sum(parts), {"eyewear": parts[0].detach(), "head": parts[3].detach()}

    reader = fit(name, run, reader, loss, steps, lr=1e-3)
    _report_text(reader, tok)
    return reader


@torch.no_grad()
def _report_text(reader, tok):
    for prompt, name, value in (
        ("portrait of a professor", "eyewear", "glasses"),
        ("portrait of a cowboy", "head", "hat"),
        ("a spy", "eyewear", "sunglasses"),
        ("a viking", "facial hair", "beard"),
        ("hat", "head", "hat"),
        ("portrait of a person", "head", "hat"),
    ):
        logits = reader(tokenize(tok, [prompt]))[list(data.ATTRIBUTES).index(name)][0, -1]
        print(
            f"P({value} | {prompt!r}) = {logits.softmax(-1)[data.ATTRIBUTES[name].index(value)]:.2f}",
            flush=True,
        )


def load_text(run: Path):
    if not (run / "text.pt").exists():
        from transformers import CLIPTextModel, CLIPTokenizer

        encoder = CLIPTextModel.from_pretrained(SHIPPED / "text_encoder", dtype=torch.float32)
        return CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer"), encoder.to(
            device()
        ).eval().requires_grad_(False)
    tok = tokenizer(run)
    reader = AttributeReader(models.build_text_encoder(tok))
    _load_average(reader, run / "text.pt")
    return tok, reader.text_encoder.to(device()).eval().requires_grad_(False)


def train_classifier(run: Path, steps: int, size: int = 64):
    """On pictures as they come, a few of them as the VAE gives them back, slightly noisy: it will judge generated ones."""
    model, source = Classifier(data.COUNTS), pictures(run)
    labels = torch.tensor([data.encode_labels(p) for p in data.load_people(run / "data")])
    vae = load_vae(run)

    def loss(step):
        rows = np.sort(batch_at(step, len(source), size, seed=3))
        images = to_tensor(source[rows])
        with torch.no_grad():
            if step % 2 == 0:
                images[:12] = (
                    vae.decode(vae.encode(images[:12]).latents).sample.clamp(-1, 1).float()
                )
            images = images + 0.1 * torch.rand(
                size, 1, 1, 1, device=images.device
            ) * torch.randn_like(images)
        target = labels[rows].to(images.device)
        out = model(images)
        value = sum(F.cross_entropy(logits.float(), target[:, k]) for k, logits in enumerate(out))
        hit = (
            torch.stack([logits.argmax(-1) == target[:, k] for k, logits in enumerate(out)])
            .float()
            .mean()
        )
        return value, {"hit": hit}

    return fit("classifier", run, model, loss, steps, lr=1e-3)


def load_classifier(run: Path):
    if not (run / "classifier.pt").exists():
        from nag.media.meter import Meter

        return Meter.load(SHIPPED / "classifier").model.to(device())
    model = Classifier(data.COUNTS)
    _load_average(model, run / "classifier.pt")
    return model.to(device()).eval()


@torch.no_grad()
def encode_pictures(run: Path, count: int = 0, size: int = 100):
    """The first `count` pictures, or all, as latents, fp16, on disk. Prints mean and standard deviation: flow matching wants about 0 and 1."""
    from tqdm import tqdm

    path, source, vae = run / "latents.npy", pictures(run), load_vae(run)
    source = source[: count or None]
    if path.exists():
        return
    out = np.empty((len(source), models.LATENT_CHANNELS, 16, 16), np.float16)
    for start in tqdm(range(0, len(source), size), desc="encode", mininterval=20):
        with autocast():
            out[start : start + size] = (
                vae.encode(to_tensor(source[start : start + size])).latents.float().cpu().numpy()
            )
    print(
        "latents: mean",
        out[:4000].astype(np.float32).mean((0, 2, 3)).round(2),
        "std",
        out[:4000].astype(np.float32).std((0, 2, 3)).round(2),
    )
    np.save(path, out)


class Portrait:
    """Latents and encoded captions, drawn anew every step, and how the UNet is built and called with them.

    A text is a tuple of tensors with one row per caption; `predict` gives the velocity n - x for it. A subclass is another denoiser.
    """

    name, lr, muon, size = "unet", 8e-4, None, 32  # muon: as of `fit`; size: rows of a batch

    def __init__(self, run: Path):
        self.latents = np.load(run / "latents.npy")
        self.people = data.load_people(run / "data")[: len(self.latents)]
        self.load_text(run)
        self.empty = self.encode([""])

    def load_text(self, run: Path):
        self.tok, self.text_encoder = load_text(run)

    @torch.no_grad()
    def encode(self, captions):
        return (self.text_encoder(tokenize(self.tok, captions)).last_hidden_state.float(),)

    def build(self):
        return models.build_unet().to(memory_format=torch.channels_last)

    def level(self, share):
        """The noise level that stands `share` of the way from the picture (0) to the noise (1)."""
        return share

    def predict(self, model, x, s, text):
        """x (B, 12, 16, 16), s (B, 1, 1, 1) from 0 (picture) to 1 (noise) -> velocity, like x"""
        return model(x, 1000 * s.flatten(), *text, return_dict=False)[0]

    def target(self, x, s, velocity):
        """What `predict` is to say at `x` (B, 12, 16, 16) and `s`: velocity, n - x of the picture it came from."""
        return velocity

    def batch(self, step: int, size: int, seed: int):
        """latents (B, 12, 16, 16), text, which rows have an empty caption (B, 1, 1, 1)"""
        return self.rows(self.latents, self.people, data.caption, step, size, seed)

    def rows(self, latents, people, caption, step, size, seed):
        rng, rows = random.Random(step * 31 + seed), batch_at(step, len(people), size, seed)
        captions = [caption(people[i], rng) for i in rows]
        latents = torch.from_numpy(latents[rows]).to(device()).float()
        if latents.ndim == 4:
            latents = latents.contiguous(memory_format=torch.channels_last)
        return (
            latents,
            self.encode(captions),
            torch.tensor([c == "" for c in captions], device=device()).view(-1, 1, 1, 1),
        )


def train_teacher(run: Path, steps: int, source: Portrait, compile: bool = False):
    """Flow matching: x_s = (1 - s) x + s n, target n - x, s logit-normal."""
    model, size = source.build(), source.size
    forward = torch.compile(model) if compile else model

    def loss(step):
        latents, text, _ = source.batch(step, size, seed=4)
        noise = torch.randn_like(latents)
        s = source.level(torch.sigmoid(torch.randn(len(latents), 1, 1, 1, device=latents.device)))
        x = (1 - s) * latents + s * noise
        return (
            source.predict(forward, x, s, text).float() - source.target(x, s, noise - latents)
        ).square().mean(), {}

    return fit(source.name, run, model, loss, steps, lr=source.lr, decay=0.998, muon=source.muon)


def load_denoiser(run: Path, source: Portrait, name: str):
    model = source.build()
    _load_average(model, run / f"{name}.pt")
    return model.to(device()).eval()


def shipped_unet():
    from diffusers import UNet2DConditionModel

    return (
        UNet2DConditionModel.from_pretrained(SHIPPED / "unet", dtype=torch.float32)
        .to(memory_format=torch.channels_last)
        .to(device())
    )


def distill(
    run: Path,
    steps: int,
    source: Portrait,
    guidance: float = TEACHER_GUIDANCE,
    name: str = "student",
    size: int = 32,
    compile: bool = False,
):
    """The student takes in one step what the teacher takes in TEACHER_SUBSTEPS guided ones.

    Between the levels of 1, .75, .5, .25 and 0; at `guidance` 1 nothing is baked in: the control that tells few steps from distilled guidance.
    Rows with an empty caption learn the un-guided teacher, so the student keeps an unconditional answer.
    """
    teacher = load_denoiser(run, source, source.name).requires_grad_(False)
    student = load_denoiser(run, source, source.name).requires_grad_(True)
    teacher_forward, student_forward = (
        (torch.compile(teacher), torch.compile(student)) if compile else (teacher, student)
    )

    @torch.no_grad()
    def velocity(x, s, text, empty):
        if guidance == 1:
            return source.predict(teacher_forward, x, s, text).float()
        both = tuple(
            torch.cat([plain.expand_as(part), part])
            for plain, part in zip(source.empty, text, strict=True)
        )
        without, with_ = (
            source.predict(teacher_forward, torch.cat([x, x]), torch.cat([s, s]), both)
            .float()
            .chunk(2)
        )
        return torch.where(empty, with_, without + guidance * (with_ - without))

    def loss(step):
        latents, text, empty = source.batch(step, size, seed=6)
        noise = torch.randn_like(latents)
        # from pure noise twice as often: the first step decides what the picture is
        segment = (
            torch.randint(0, STUDENT_STEPS + 1, (len(latents), 1, 1, 1), device=latents.device) - 1
        ).clamp_min(0)
        start, end = (
            source.level(1 - segment / STUDENT_STEPS),
            source.level(1 - (segment + 1) / STUDENT_STEPS),
        )
        x = x0 = (1 - start) * latents + start * noise
        delta = (start - end) / TEACHER_SUBSTEPS
        for k in range(TEACHER_SUBSTEPS):
            x = x - delta * velocity(x, start - k * delta, text, empty)
        target = (x0 - x) / (start - end)
        return (
            source.predict(student_forward, x0, start, text).float() - target
        ).square().mean(), {}

    return fit(name, run, student, loss, steps, lr=3e-4, decay=0.995)
