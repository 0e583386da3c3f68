"""Counts what guidance does to the pocket model: attribute rate, fidelity, and how much of the rest was kept.

    python -m nag.pocket evaluate                      the shipped model, held-out roles and seeds, preset settings
    python -m nag.pocket evaluate --sweep              CFG and NAG settings on the tuning roles and seeds
    python -m nag.pocket evaluate --unet unet          the undistilled teacher of a training run (or `control`)

rate   share of pictures in which the classifier sees the attribute, with its 95 % Wilson interval
FD     Frechet distance, in 32 principal components of the classifier's features, to renders of the same roles *without*
       the attribute, which were passed through the VAE so that its own loss is not counted as damage
keep   share of the other attributes that are as in the un-guided picture of the same seed
std    standard deviation of the final latents against the un-guided ones: above 1, the picture burns
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from . import data
from .train import device

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = 32
REFERENCES = 256
# attribute, value, roles to tune on, roles to report on. Reported roles, seeds and wording are never looked at in tuning.
CASES = {
    "hat": ("head", "hat", ("detective",), ("cowboy", "explorer")),
    "glasses": ("eyewear", "glasses", ("scientist", "librarian"), ("AI researcher", "professor")),
    "sunglasses": ("eyewear", "sunglasses", ("movie star",), ("spy", "rock star")),
    "mask": ("mask", "mask", ("nurse",), ("surgeon",)),
    "beard": ("facial hair", "beard", ("viking",), ("lumberjack", "wizard")),
}
LEADING = ("hat", "glasses", "sunglasses")


@dataclass(frozen=True)
class Way:
    """One way of guiding; scale 1 is off for both."""

    label: str
    cfg: float = 1.0
    nag: float = 1.0
    tau: float = 2.5
    alpha: float = 0.5
    end: float = 1.0


def load(folder: Path, unet: str | None, run: Path):
    """The shipped pipeline, or one of a training run."""
    if unet:
        from .export import pipeline

        return pipeline(run, unet).to(device())
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.inference_mode()
def draw(pipe, prompts: list[str], negative: str, seeds: list[int], way: Way, steps: int, batch: int = 32):
    """-> pictures (n, 3, 128, 128) in [-1, 1], latents (n, C, 16, 16); every seed draws what it draws alone."""
    import contextlib

    from nag import guide

    pictures, latents = [], []
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        arguments = {
            "prompt": prompts[part], "num_inference_steps": steps, "guidance_scale": way.cfg, "output_type": "latent",
            "height": data.SIZE, "width": data.SIZE, "generator": [torch.Generator("cpu").manual_seed(s) for s in seeds[part]],
        }
        if way.cfg > 1:
            arguments["negative_prompt"] = [negative] * len(prompts[part])
        context = guide(pipe, negative, scale=way.nag, tau=way.tau, alpha=way.alpha, end=way.end) if way.nag > 1 else contextlib.nullcontext()
        with context:
            out = pipe(**arguments).images
        latents.append(out.float().cpu())
        pictures.append(pipe.vae.decode(out).sample.clamp(-1, 1).float().cpu())
    return torch.cat(pictures), torch.cat(latents)


@torch.inference_mode()
def read(classifier, pictures):
    """-> labels (n, attributes) as class indices, features (n, 256)"""
    labels, features = [], []
    for part in pictures.split(128):
        features.append(classifier.features(part))
        labels.append(torch.stack([head(features[-1]).argmax(-1) for head in classifier.heads], 1))
    return torch.cat(labels), torch.cat(features)


def frechet(a, b) -> float:
    """|mean difference|^2 + tr(A + B - 2 (AB)^1/2), of rows (n, k) in float64."""
    a, b = a.double(), b.double()
    A, B = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(A)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, p = 1.96, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


class Yardstick:
    """The classifier, the basis in which distances are measured, and the references of every case."""

    def __init__(self, pipe, classifier):
        self.pipe, self.classifier, self.references = pipe, classifier, {}
        import random

        rng = random.Random(99)
        people = [data.sample_person(rng) for _ in range(600)]
        pictures = self._render(people)
        labels, features = read(classifier, pictures)
        truth = torch.tensor([data.encode_labels(p) for p in people])
        self.accuracy = dict(zip(data.ATTRIBUTES, (labels == truth).float().mean(0).tolist(), strict=True))
        self.mean = features.mean(0)
        self.basis = torch.linalg.svd(features - self.mean, full_matrices=False).Vh[:COMPONENTS].T  # (256, 32)

    @torch.inference_mode()
    def _render(self, people):
        """Renders as the VAE gives them back, (n, 3, 128, 128)"""
        import numpy as np

        pictures = torch.stack([torch.from_numpy(np.array(data.render(p))) for p in people]).permute(0, 3, 1, 2).float() / 127.5 - 1
        vae = self.pipe.vae
        return torch.cat([vae.decode(vae.encode(part.to(vae.device)).latents).sample.clamp(-1, 1).float().cpu() for part in pictures.split(64)])

    def distance(self, features, case: str, roles) -> float:
        key = case, roles
        if key not in self.references:
            attribute, value, *_ = CASES[case]
            people = [p for role in roles for p in data.references(role, (attribute, value), REFERENCES // len(roles))]
            self.references[key] = (read(self.classifier, self._render(people))[1] - self.mean) @ self.basis
        return frechet((features - self.mean) @ self.basis, self.references[key])


def measure(yardstick: Yardstick, case: str, ways: list[Way], count: int, steps: int, held_out: bool) -> list[dict]:
    """One row per way, the first being no guidance."""
    attribute, value, tuning, reported = CASES[case]
    roles = reported if held_out else tuning
    wording = "portrait of {}" if held_out else "a drawing of {}"
    names = [data.with_article(role) for role in roles]
    prompts = [wording.format(names[i % len(names)]) for i in range(count)]
    seeds = [(10_000 if held_out else 50_000) + i for i in range(count)]
    index = list(data.ATTRIBUTES).index(attribute)
    wanted = data.ATTRIBUTES[attribute].index(value)
    others = [i for i in range(len(data.ATTRIBUTES)) if i != index]
    rows, plain = [], None
    for way in [Way("none"), *ways]:
        pictures, latents = draw(yardstick.pipe, prompts, value, seeds, way, steps)
        labels, features = read(yardstick.classifier, pictures)
        hits = int((labels[:, index] == wanted).sum())
        plain = plain or {"labels": labels, "std": float(latents.std())}
        rows.append({
            "case": case, "way": way.label, "steps": steps, "n": count, "rate": hits / count, "interval": wilson(hits, count),
            "fd": yardstick.distance(features, case, roles), "keep": float((labels == plain["labels"])[:, others].float().mean()),
            "std": float(latents.std()) / plain["std"], "pictures": pictures[:8],
        })
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| negative | way | rate (95 %) | FD | keep | std |", "|---|---|---|---|---|---|"]
    for r in rows:
        low, high = r["interval"]
        lines.append(f"| {r['case']} | {r['way']} | {r['rate']:.2f} ({low:.2f}-{high:.2f}) | {r['fd']:.0f} | {r['keep']:.2f} | {r['std']:.2f} |")
    return "\n".join(lines)


def sheet(rows: list[dict], path: Path) -> None:
    """Contact sheet: a line per row of the table, eight seeds each."""
    from PIL import Image, ImageDraw, ImageFont

    size, margin = data.SIZE, 150
    image = Image.new("RGB", (margin + 8 * size, len(rows) * size), "white")
    draw_, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    for y, row in enumerate(rows):
        text = f"{row['case']}\n{row['way']}\n{row['rate']:.0%} left" if row["way"] != "none" else f"{row['case']}\nno guidance\n{row['rate']:.0%}"
        draw_.multiline_text((10, y * size + 34), text, "#1e293b", font, spacing=6)
        strip = torch.cat(list(row["pictures"]), 2)
        image.paste(Image.fromarray(((strip + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()), (margin, y * size))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def preset_ways() -> list[Way]:
    """CFG and NAG as the shipped preset sets them."""
    from nag.presets import resolve

    _, request = resolve({"preset": "pocket-portrait"})
    return [
        Way(f"CFG {request.guidance_scale:g}", cfg=request.guidance_scale),
        Way(f"NAG {request.nag_scale:g}", nag=request.nag_scale, tau=request.nag_tau, alpha=request.nag_alpha, end=request.nag_end),
    ]


def sweep_ways() -> list[Way]:
    grid = [(scale, alpha, 2.5) for alpha in (.25, .5, .75, 1.0) for scale in (3, 5, 8)]
    grid += [(8, .75, tau) for tau in (1.5, 4.0, 20.0)]
    return [Way(f"CFG {s:g}", cfg=s) for s in (1.5, 2, 3, 5, 7)] + [
        Way(f"NAG {s:g} a{a:g} t{t:g}", nag=s, alpha=a, tau=t) for s, a, t in grid]


def parse_way(text: str) -> Way:
    """"cfg=2" or "nag=8,alpha=.75,tau=2.5" """
    values = {key: float(value) for key, value in (pair.split("=") for pair in text.split(","))}
    return Way(text.replace("cfg=", "CFG ").replace("nag=", "NAG "), **values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nag.pocket evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "assets" / "pocket-portrait")
    parser.add_argument("--unet", choices=("student", "control", "unet"), help="take the UNet of a training run instead")
    parser.add_argument("--run", type=Path, default=Path("runs"))
    parser.add_argument("--count", type=int, default=64, help="pictures per cell")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sweep", action="store_true", help="many settings, on the tuning roles and seeds")
    parser.add_argument("--tuning", action="store_true", help="tuning roles and seeds for --ways too")
    parser.add_argument("--ways", nargs="+", type=parse_way, help='e.g. cfg=2 "nag=8,alpha=.75"')
    parser.add_argument("--out", type=Path, help="folder for results.json, table.md and sheet.png")
    options = parser.parse_args(arguments)
    try:
        import dicebear  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError:
        parser.error("evaluation renders its references: pip install dicebear-core dicebear-styles resvg-py")
    if options.unet:
        from . import train

        classifier = train.load_classifier(options.run).cpu()
    else:
        from nag.meter import Meter

        classifier = Meter.load(options.model / "classifier").model
    import diffusers

    diffusers.logging.set_verbosity_error()
    yardstick = Yardstick(load(options.model, options.unet, options.run), classifier)
    print("classifier, on 600 held-out renders: " + ", ".join(f"{k} {v:.1%}" for k, v in yardstick.accuracy.items()), flush=True)
    ways = options.ways or (sweep_ways() if options.sweep else preset_ways())
    rows = []
    for case in options.cases:
        new = measure(yardstick, case, ways, options.count, options.steps, held_out=not (options.sweep or options.tuning))
        print(table(new), flush=True)
        rows += new
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        sheet([r for r in rows if r["case"] in LEADING or len(options.cases) < 3], options.out / "sheet.png")
        (options.out / "table.md").write_text(table(rows) + "\n")
        plain = [{k: v for k, v in r.items() if k != "pictures"} for r in rows]
        (options.out / "results.json").write_text(json.dumps({"classifier": yardstick.accuracy, "rows": plain}, indent=1) + "\n")
