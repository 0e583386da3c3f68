"""Whose pooled text should modulate the negative's rows, and does the negative's padding matter?
Measured on pocket-joint.

    python tests/benchmarks/pooled.py [--count 128] [--scale 5 --tau 2.5 --alpha .5]

Flux adds a pooled text vector to the timestep, which scales and shifts every token of a row. The
packed form has one row for both texts and gives it the positive's. With the batch doubled each half
can have its own, as the authors' Flux code does. Here all are drawn from the same noise and read by
the classifier: the share of pictures that show what the negative prompt names (95 % interval), the
share of the other attributes kept, and how far the pictures are from the packed ones (of 255).
"trimmed" is the packed form with `trim=True`: without the padding that fills the negative's text up
to 24 tokens.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import nag
from nag.evaluate.cases import CASES
from nag.evaluate.statistics import wilson
from nag.media.meter import Meter
from nag.pocket.data import with_article

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@contextlib.contextmanager
def doubled(pipe, negatives: list[str], settings, pooled: str, tokens: int):
    """`pipe` with NAG in two rows per picture, the negative's behind; pooled: "positive" or
    "negative", the vector of these."""
    transformer, real = pipe.transformer, F.scaled_dot_product_attention
    minus, pooled_minus, _ = pipe.encode_prompt(negatives, negatives, max_sequence_length=tokens)
    forward = type(transformer).forward

    def attention(query, key, value, *args, **options):
        out = real(query, key, value, *args, **options)
        if key.shape[2] > tokens:  # the text stands first; the text encoders run before this
            image = out[:, :, tokens:]
            half = len(image) // 2
            guided = nag.normalized_attention_guidance(
                image[:half], image[half:], settings.scale, settings.tau, settings.alpha, dim=(1, 3)
            )
            image.copy_(torch.cat([guided, guided]))
        return out

    def both(hidden_states, encoder_hidden_states, pooled_projections, timestep, **options):
        other = pooled_minus if pooled == "negative" else pooled_projections
        F.scaled_dot_product_attention = attention
        try:
            out = forward(
                transformer,
                hidden_states=torch.cat([hidden_states] * 2),
                timestep=torch.cat([timestep] * 2),
                encoder_hidden_states=torch.cat([encoder_hidden_states, minus]),
                pooled_projections=torch.cat([pooled_projections, other]),
                **options,
            )
        finally:
            F.scaled_dot_product_attention = real
        return (out[0][: len(hidden_states)],)

    transformer.forward = both
    try:
        yield
    finally:
        del transformer.forward


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    for name, default in (("scale", 5.0), ("tau", 2.5), ("alpha", 0.5)):
        parser.add_argument(f"--{name}", type=float, default=default)
    options = parser.parse_args()
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        ASSETS / "pocket-joint", dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    meter, settings = (
        Meter.load(ASSETS / "pocket-portrait" / "classifier"),
        nag.NAGSettings(options.scale, options.tau, options.alpha),
    )
    cells = [
        (f"portrait of {with_article(role)}", value, attribute)
        for attribute, value, _, roles in CASES.values()
        for role in roles
    ]
    jobs = [(*cells[i % len(cells)], 10_000 + i) for i in range(options.count)]

    def draw(way: str):
        images = []
        for start in range(0, len(jobs), 32):
            prompts, negatives, _, seeds = map(list, zip(*jobs[start : start + 32], strict=True))
            with contextlib.ExitStack() as stack:
                if way in ("packed", "trimmed"):
                    stack.enter_context(
                        nag.guide(
                            pipe,
                            negatives,
                            scale=options.scale,
                            tau=options.tau,
                            alpha=options.alpha,
                            trim=way == "trimmed",
                        )
                    )
                elif way != "none":
                    stack.enter_context(doubled(pipe, negatives, settings, way, 24))
                images += pipe(
                    prompts,
                    num_inference_steps=options.steps,
                    guidance_scale=0.0,
                    height=128,
                    width=128,
                    max_sequence_length=24,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                ).images
        return images

    def pixels(images):
        import numpy as np

        return torch.from_numpy(np.stack([np.asarray(image) for image in images])).float()

    with torch.inference_mode():
        pictures = {way: draw(way) for way in ("none", "packed", "trimmed", "positive", "negative")}
    shown = {way: meter.read(images) for way, images in pictures.items()}
    best = {
        way: [{name: max(shares, key=shares.get) for name, shares in one.items()} for one in read]
        for way, read in shown.items()
    }
    print("| | attribute rate (95 %) | keep | differs from packed |\n|---|---|---|---|")
    labels = {
        "none": "no guidance",
        "packed": "packed",
        "trimmed": "packed, trimmed",
        "positive": "doubled, positive pooled",
        "negative": "doubled, negative pooled",
    }
    for way, label in labels.items():
        hits = sum(
            one[attribute] == value
            for one, (_, value, attribute, _) in zip(best[way], jobs, strict=True)
        )
        kept = [
            one[name] == plain[name]
            for one, plain, job in zip(best[way], best["none"], jobs, strict=True)
            for name in one
            if name != job[2]
        ]
        low, high = wilson(hits, len(jobs))
        apart = (pixels(pictures[way]) - pixels(pictures["packed"])).abs().mean()
        print(
            f"| {label} | {hits / len(jobs):.2f} ({low:.2f}-{high:.2f}) "
            f"| {sum(kept) / len(kept):.2f} | {apart:.2f} |"
        )


if __name__ == "__main__":
    main()
