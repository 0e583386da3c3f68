"""pocket-portrait's second generation: its student learns to decide.

A student of few steps is a regression. Where its teacher could have gone either way (which skin,
which hair) it answers with the mean of both, and its later steps, which never saw such a mixture,
leave it as a blotch. Two things show its last steps what to make of one:

* its own pictures, redrawn. The classifier reads one, the few colours and variants that it does not
  read are found by trying, and what comes of that is rendered: the nearest drawing that there is.
  The last steps of the way to the picture are led to that drawing;
* mixtures: the latents of two drawings that differ in one to three things, blended evenly or in
  places, under the noise of the last step. The answer is the drawing that has the larger share.

On its first steps, where a mean is the right answer, the student is held to what it said before.
"""

import random
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import data
from .loop import device, fit
from .portrait import Portrait, shipped_unet
from .reader import load_classifier
from .train import STUDENT_STEPS, load_denoiser
from .vae import load_vae, to_tensor

PATHS, PAIRS = 2048, 6000
LEVELS = [1 - step / STUDENT_STEPS for step in range(STUDENT_STEPS)]
HELD, LED, MIXED = 8, 16, 8  # rows of a batch; on a GPU LARGE times as many
LARGE = 4
# share of the redrawn pictures that are led: those least like their drawing may be like another
CLEAR = 0.95
CHANGEABLE = (
    "eyewear",
    "facial hair",
    "mask",
    "head",
    "head",
    "expression",
    "shirt",
    "background",
    "skin",
    "skin",
    "hair",
    "hair",
)
SHARE = 0.42  # at most so much of a mixture is the other drawing


def first(run: Path) -> torch.nn.Module:
    """The first generation, of this run or as it ships."""
    if (run / "student.pt").exists():
        return load_denoiser(run, Portrait.build, "student")
    return shipped_unet().eval()


# --- its own pictures, redrawn


@torch.no_grad()
def draw_paths(
    run: Path, student: torch.nn.Module, source: Portrait, count: int, size: int = 64
) -> tuple[torch.Tensor, list[str]]:
    """What the student draws of `count` captions -> latents before each step and after the last
    (count, 5, 12, 16, 16), captions
    """
    path = run / "paths.pt"
    if path.exists():
        return torch.load(path)
    rng, generator = random.Random(77), torch.Generator().manual_seed(5)
    captions = [data.caption(data.sample_person(rng), rng) for _ in range(count)]
    out = torch.empty(count, STUDENT_STEPS + 1, 12, 16, 16)
    for start in range(0, count, size):
        part = captions[start : start + size]
        out[start : start + size, 0] = torch.randn(len(part), 12, 16, 16, generator=generator)
        x, text = out[start : start + size, 0].to(device()), source.encode(part)
        for step, level in enumerate(LEVELS):
            s = torch.full((len(part), 1, 1, 1), level, device=x.device)
            x = x - source.predict(student, x, s, text).float() / STUDENT_STEPS
            out[start : start + size, step + 1] = x.cpu()
    torch.save((out, captions), path)
    return out, captions


def nearest(job: tuple[np.ndarray, dict[str, str]]) -> tuple[np.ndarray, float]:
    """(picture, its labels) -> the nearest drawing, and their mean squared difference.

    Found by trying, one after another, the colours and variants that labels do not name.
    """
    picture, labels = job
    person = data.Person(
        data.NEUTRAL,
        labels,
        {
            name: data.VARIANTS[name][value][0]
            for name, value in labels.items()
            if data.VARIANTS[name][value]
        },
        data.SKIN[1],
        data.HAIR[0],
    )

    def error(person):
        drawn = np.asarray(data.render(person))
        return float(np.square(drawn.astype(np.float32) - picture).mean()), drawn

    best, drawn = error(person)
    for name in ("skin", "hair", *person.variants):
        if name in ("skin", "hair"):
            others = [
                replace(person, **{name: colour})
                for colour in (data.SKIN if name == "skin" else data.HAIR)
            ]
        else:
            others = [
                replace(person, variants=person.variants | {name: variant})
                for variant in data.VARIANTS[name][labels[name]]
            ]
        for other in others:
            if other == person:
                continue
            found, there = error(other)
            if found < best:
                best, drawn, person = found, there, other
    return drawn, best


@torch.no_grad()
def redraw(
    run: Path, latents: torch.Tensor, processes: int | None = None, size: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """latents (n, 12, 16, 16) -> those of the drawings that are nearest, and how far off each
    picture is (n,)
    """
    from tqdm import tqdm

    path, vae, classifier, jobs = (
        run / "redrawn.pt",
        load_vae(run),
        load_classifier(run),
        [],
    )
    if path.exists():
        return torch.load(path)
    for part in latents.split(size):
        pictures = vae.decode(
            part.to(device()).contiguous(memory_format=torch.channels_last)
        ).sample.clamp(-1, 1)
        labels = torch.stack([head.argmax(-1) for head in classifier(pictures)], 1).tolist()
        pictures = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for picture, row in zip(pictures, labels, strict=True):
            jobs.append(
                (
                    picture,
                    {
                        name: values[i]
                        for (name, values), i in zip(data.ATTRIBUTES.items(), row, strict=True)
                    },
                )
            )
    with Pool(processes) as pool:
        found = list(
            tqdm(
                pool.imap(nearest, jobs, chunksize=16),
                total=len(jobs),
                desc="redraw",
                mininterval=20,
            )
        )
    drawn = torch.cat(
        [
            encoded(vae, [one for one, _ in found[start : start + size]])
            for start in range(0, len(found), size)
        ]
    )
    errors = torch.tensor([error for _, error in found])
    torch.save((drawn, errors), path)
    return drawn, errors


def encoded(vae: torch.nn.Module, pictures: list[np.ndarray]) -> torch.Tensor:
    """uint8 pictures -> latents (n, 12, 16, 16)"""
    return (
        vae.encode(to_tensor(np.stack(pictures)).contiguous(memory_format=torch.channels_last))
        .latents.float()
        .cpu()
    )


# --- mixtures


def changed(person: data.Person, rng: random.Random) -> data.Person:
    """The same person with one to three things drawn anew."""
    new, labels, variants = (
        data.sample_person(rng, person.role),
        dict(person.labels),
        dict(person.variants),
    )
    skin, hair = person.skin, person.hair
    for name in rng.sample(CHANGEABLE, rng.randint(1, 3)):
        match name:
            case "skin":
                skin = rng.choice([colour for colour in data.SKIN if colour != person.skin])
            case "hair":
                hair = rng.choice([colour for colour in data.HAIR if colour != person.hair])
            case _:
                labels[name] = new.labels[name]
                variants.pop(name, None)
                if name in new.variants:
                    variants[name] = new.variants[name]
    return data.Person(person.role, labels, variants, skin, hair)


def pair(index: int) -> tuple[tuple[data.Person, data.Person], np.ndarray]:
    """Two people, and their drawings (2, 128, 128, 3)"""
    rng = random.Random(5_000_000 + index)
    person = data.sample_person(rng)
    people = person, changed(person, rng)
    return people, np.stack([np.asarray(data.render(one), np.uint8) for one in people])


@torch.no_grad()
def build_pairs(
    run: Path, count: int, processes: int | None = None, size: int = 32
) -> tuple[list, torch.Tensor]:
    """`count` pairs of people, and their latents (count, 2, 12, 16, 16)"""
    from tqdm import tqdm

    path = run / "pairs.pt"
    if path.exists():
        latents, rows = torch.load(path)
        return [[data.Person(*row) for row in both] for both in rows], latents
    vae, people, latents, waiting = load_vae(run), [], [], []
    with Pool(processes) as pool:
        for both, pictures in tqdm(
            pool.imap(pair, range(count), chunksize=16), total=count, desc="pairs", mininterval=20
        ):
            people.append(both)
            waiting += [*pictures]
            if len(waiting) >= size or len(people) == count:
                latents.append(encoded(vae, waiting))
                waiting = []
    latents = torch.cat(latents).unflatten(0, (-1, 2))
    rows = [
        [(one.role, one.labels, one.variants, one.skin, one.hair) for one in both]
        for both in people
    ]
    torch.save((latents, rows), path)
    return people, latents


def mask(difference: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """How much of the other drawing is where: (1, 16, 16), zero, even, or in places.

    difference: between the two, (1, 16, 16)
    """
    kind = rng.random()
    if kind < 0.25:
        return torch.zeros(1, 16, 16)
    if kind < 0.6:
        return torch.full((1, 16, 16), rng.uniform(0, SHARE))
    places = F.interpolate(
        torch.rand(1, 1, rng.choice((3, 4, 6)), rng.choice((3, 4, 6))), (16, 16), mode="bicubic"
    )[0]
    places = torch.sigmoid((places - 0.5) * rng.choice((4, 8, 16)) + rng.uniform(-1, 0))
    share = float((places * difference).sum() / difference.sum().clamp_min(1e-6))
    return places * min(1, SHARE / max(share, 1e-3))


def train_second(
    run: Path,
    steps: int,
    count: int = PATHS,
    pairs: int = PAIRS,
    seconds: float | None = None,
) -> torch.nn.Module:
    """seconds: of the training alone, as of `fit`."""
    times = LARGE if device().type == "cuda" else 1
    held_rows, led_rows, mixed_rows = HELD * times, LED * times, MIXED * times
    source = Portrait.without_data(run)
    student = first(run)
    paths, captions = draw_paths(run, student, source, count)
    drawn, errors = redraw(run, paths[:, -1])
    clear, levels = (
        np.flatnonzero(errors <= errors.quantile(CLEAR)),
        torch.tensor(LEVELS).view(-1, 1, 1, 1),
    )
    people, latents = build_pairs(run, pairs)

    def held(numbers):
        rows, at = numbers.integers(0, count, held_rows), numbers.choice([0, 1], held_rows)
        return (
            paths[rows, at],
            levels[at],
            (paths[rows, at] - paths[rows, at + 1]) * STUDENT_STEPS,
            [captions[row] for row in rows],
        )

    def led(numbers):
        rows, at = numbers.choice(clear, led_rows), numbers.choice([2, 3, 3], led_rows)
        return (
            paths[rows, at],
            levels[at],
            (paths[rows, at] - drawn[rows]) / levels[at],
            [captions[row] for row in rows],
        )

    def mixed(numbers, rng):
        rows, sides = (
            numbers.integers(0, len(people), mixed_rows),
            numbers.integers(0, 2, mixed_rows),
        )
        one, other, s = latents[rows, sides], latents[rows, 1 - sides], levels[[-1] * mixed_rows]
        share = torch.stack(
            [mask(difference, rng) for difference in (one - other).abs().mean(1, keepdim=True)]
        )
        x = (1 - s) * torch.lerp(one, other, share) + s * torch.randn_like(one)
        return (
            x,
            s,
            (x - one) / s,
            [data.caption(people[row][side], rng) for row, side in zip(rows, sides, strict=True)],
        )

    def loss(step):
        rng, numbers = random.Random(step), np.random.default_rng(step)
        *parts, words = zip(held(numbers), led(numbers), mixed(numbers, rng), strict=True)
        x, s, target = (torch.cat(part).to(device()) for part in parts)
        text = source.encode([one for some in words for one in some])
        out = source.predict(
            student, x.contiguous(memory_format=torch.channels_last), s, text
        ).float()
        kept, known, found = (
            error.mean()
            for error in (out - target).square().split((held_rows, led_rows, mixed_rows))
        )
        return kept + known + 0.5 * found, {
            "held": kept.detach(),
            "led": known.detach(),
            "mixed": found.detach(),
        }

    return fit("second", run, student.requires_grad_(True), loss, steps, lr=2e-4, seconds=seconds)
