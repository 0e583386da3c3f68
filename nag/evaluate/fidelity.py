"""`python -m nag fidelity`: does a pocket model draw what its words say, without guidance?

    python -m nag fidelity [--preset pocket-portrait] [--count 512] [--steps 1 2 4]
    python -m nag fidelity --denoiser student        of a training run, as in `evaluate`

On people and seeds of their own, whose captions name a role and one to three attributes:

stated     share of the stated attributes that the classifier sees
all        share of pictures that show all that is stated, with its 95 % Wilson interval
frechet    Frechet distance to renders of the same people, which went through the VAE; compare
           equal counts only
lines      the pictures' squared differences between neighbouring pixels, against those renders':
           less than 1 is blurred
off        share of pixels with a colour that the drawings do not have, and in brackets that of the
           renders: lines have soft edges, and a VAE its losses; what is above that are blotches
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Refused
from ..home import HOME
from ..pocket import DENOISERS, data
from .colours import palette

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

    from ..presets import Preset

SEED, BATCH = 70_000, 32
OFF = 24  # of 765: how far a pixel may be from a colour


def asked(count: int) -> tuple[list[data.Person], list[str], list[list[str]]]:
    """People, a caption of each, and the attributes that it states."""
    rng = random.Random(99_991)
    people = [data.sample_person(rng) for _ in range(count)]
    captions, stated = [], []
    for person in people:
        phrases = data.phrases(person)
        names = rng.sample(list(phrases), rng.randint(1, 3))
        captions.append(
            ", ".join(
                [
                    f"portrait of {data.with_article(person.role)}",
                    *(phrases[name] for name in names),
                ]
            )
        )
        stated.append(names)
    return people, captions, stated


def lines(pictures: Iterable[Image.Image]) -> float:
    return float(
        np.mean(
            [
                sum(
                    np.square(np.diff(np.asarray(one, np.float32), axis=axis)).mean()
                    for axis in (0, 1)
                )
                for one in pictures
            ]
        )
    )


def off_palette(pictures: Iterable[Image.Image]) -> float:
    shares = []
    for picture in pictures:
        pixels = np.asarray(picture, np.float32)[::2, ::2].reshape(-1, 1, 3)
        shares.append((np.abs(pixels - palette()).sum(-1).min(-1) > OFF).mean())
    return float(np.mean(shares))


def draw(
    pipe: DiffusionPipeline, preset: Preset, captions: list[str], steps: int
) -> list[Image.Image]:
    """One picture of each caption, without guidance."""
    import inspect

    import torch

    from ..engine.call import generator
    from ..engine.noise import in_float32, without_tf32

    off = (
        {}
        if "true_cfg_scale" in inspect.signature(pipe.__call__).parameters
        else {"guidance_scale": 1.0}
    )
    pictures = []
    with torch.inference_mode(), in_float32(), without_tf32():
        for start in range(0, len(captions), BATCH):
            some = captions[start : start + BATCH]
            generators = [generator(SEED + start + i) for i in range(len(some))]
            pictures += pipe(
                some,
                num_inference_steps=steps,
                height=data.SIZE,
                width=data.SIZE,
                generator=generators,
                **{**off, **preset.arguments},
            ).images
    return pictures


def measure(
    pipe: DiffusionPipeline, preset: Preset, count: int, steps: list[int]
) -> dict[int, dict]:
    """{steps: the numbers above}"""
    import torch

    from ..explore.counting import wilson
    from ..media import meter
    from . import references
    from .statistics import Frechet

    people, captions, stated = asked(count)
    reader, names = meter.Meter.load(HOME / preset.meter), list(data.ATTRIBUTES)
    truth = torch.tensor([data.encode_labels(person) for person in people])
    renders = references.renders(pipe.vae, people)
    features = references.look(reader, renders)[1]
    renders, middle = [frames[0] for frames in renders], features.mean(0)
    basis = torch.linalg.svd(features - middle, full_matrices=False).Vh[: references.COMPONENTS].mT
    distance, found = Frechet((features - middle) @ basis), {}
    for number in steps:
        pictures = draw(pipe, preset, captions, number)
        labels, features = references.look(reader, [[picture] for picture in pictures])
        shown = [
            [bool(labels[i, names.index(name)] == truth[i, names.index(name)]) for name in of_one]
            for i, of_one in enumerate(stated)
        ]
        whole = sum(map(all, shown))
        found[number] = {
            "stated": sum(map(sum, shown)) / sum(map(len, shown)),
            "all": whole / count,
            "interval": wilson(whole, count),
            "frechet": float(distance((features - middle) @ basis)),
            "lines": lines(pictures) / lines(renders),
            "off": off_palette(pictures),
            "off_renders": off_palette(renders),
        }
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawTextHelpFormatter
    parser.add_argument(
        "--preset",
        default="pocket-portrait",
        choices=("pocket-portrait", "pocket-joint", "pocket-joint-teacher"),
    )
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", help="default: the preset's")
    parser.add_argument(
        "--denoiser",
        choices=[name for name in DENOISERS if not name.startswith("video")],
        help="of a training run",
    )
    parser.add_argument("--run", type=Path, default=Path("runs"))


def run(options: argparse.Namespace) -> int:
    """Raises `Refused`."""
    from .. import presets
    from ..engine import loading

    if options.count < 33:
        raise Refused(
            f"--count must be 33 or more, for a distance in 32 dimensions; got {options.count}."
        )
    preset, _ = presets.resolve({"preset": options.preset}, dict(presets.load_all()))
    if options.denoiser:
        from ..pocket.export import pipeline

        pipe = pipeline(options.run, options.denoiser)
    else:
        pipe = loading.load(preset).pipe
    pipe.set_progress_bar_config(disable=True)
    print("| steps | stated | all (95 %) | frechet | lines | off |\n|---|---|---|---|---|---|")
    for steps, one in measure(
        pipe, preset, options.count, options.steps or [preset.settings["num_inference_steps"]]
    ).items():
        low, high = one["interval"]
        print(
            f"| {steps} | {one['stated']:.3f} | {one['all']:.2f} ({low:.2f}-{high:.2f}) | "
            f"{one['frechet']:.0f} | {one['lines']:.3f} | "
            f"{one['off']:.3f} ({one['off_renders']:.3f}) |",
            flush=True,
        )
    return 0
