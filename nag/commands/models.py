"""`python -m nag models`: the presets, what is fetched, licence, and what this machine can run."""

import argparse

from .. import presets
from ..presets import Preset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    for name, preset in presets.load_all().items():
        print(f"{name:24} {_line(preset)}")
    return 0


def _line(preset: Preset) -> str:
    from ..engine.memory import runs_here

    size = f"{preset.fetched_gb:5.1f} GB" if preset.size_gb else "ships   "
    what = "video" if preset.fps else "edit" if preset.image else "image"
    gated = "gated" if preset.gated else "     "
    return f"{what:6} {size}  {gated}  {runs_here(preset):34} {preset.licence}"
