"""`python -m nag.pocket evaluate`: `python -m nag evaluate` on the pocket models, also on those of a training run.

    python -m nag.pocket evaluate --out out                              the shipped model
    python -m nag.pocket evaluate --denoiser control --out out           of a run: `second`, `student`, `control` (nothing baked in), `unet` (teacher)
    python -m nag.pocket evaluate --denoiser joint --preset pocket-joint --out out            `joint-student`, `joint-control`, `joint`
    python -m nag.pocket evaluate --denoiser video --preset pocket-video --out out            `video-student`, `video`
"""

import argparse
from pathlib import Path

DENOISERS = "second", "student", "control", "unet", "joint-student", "joint-control", "joint", "video-student", "video"


def main(arguments: list[str]) -> int:
    from nag.__main__ import main as nag

    parser = argparse.ArgumentParser(prog="python -m nag.pocket evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--denoiser", choices=DENOISERS, help="take that of a training run instead of the shipped one")
    parser.add_argument("--run", type=Path, default=Path("runs"))
    own, others = parser.parse_known_args(arguments)
    if own.denoiser:
        from .export import pipeline

        folder = own.run / "pipelines" / own.denoiser
        pipeline(own.run, own.denoiser).save_pretrained(folder)
        others += ["--model", str(folder)]
    return nag(["evaluate", *others])
