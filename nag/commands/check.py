"""`python -m nag check`: whether a preset runs on this machine, with its weights or without."""

import argparse

from .. import presets
from ..engine.run import Column
from ..errors import Refused
from ..presets import Preset
from ..request import DEFAULT, Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default=DEFAULT)
    parser.add_argument(
        "--dry",
        action="store_true",
        help="load nothing: only ask the installed diffusers whether the preset fits it",
    )
    parser.add_argument("--all", action="store_true", help="every preset, with --dry")


def run(options: argparse.Namespace) -> int:
    """0 where nothing is wrong. Raises `Refused`."""
    if options.dry:
        return _dry(list(presets.load_all()) if options.all else [options.preset])
    if options.all:
        raise Refused("check --all goes with --dry: without it, every model would be fetched.")
    return _draw(*_least(options.preset))


def _least(name: str) -> tuple[Preset, Request]:
    """Two steps of every column, and of a video as few frames as there can be."""
    preset, _ = presets.resolve({"preset": name})
    least = {
        "num_inference_steps": max(2, int(preset.range("num_inference_steps")[0])),
        "num_frames": int(preset.range("num_frames")[0]),
    }
    return presets.resolve({"preset": name, **least})


def _draw(preset: Preset, request: Request) -> int:
    """A machine with the weights says whether all fits together."""
    from PIL import Image

    from ..engine.engine import Engine
    from ..families import supports

    engine, grey = Engine(previews=False), "#8899aa"
    start = Image.new("RGB", (request.width, request.height), grey) if preset.image else None
    *_, (run, _, _) = engine.run(preset, request, image=start)
    loaded = engine.shelf.get(preset)
    print(f"{preset.title}: {run.device}, {run.dtype}. {supports(loaded.pipe)[1]}")
    for column in run.columns:
        print(_line(column))
    if peak := max(column.peak for column in run.columns):
        print(f"peak {peak / 1e9:.1f} GB on the GPU")
    return 0 if all(column.state == "done" for column in run.columns) else 1


def _line(column: Column) -> str:
    return (
        f"{column.key:8} {column.state:8} {column.seconds:7.2f} s for {column.step} steps, "
        f"guided {column.guided_steps}  {column.reason}"
    )


def _dry(names: list[str]) -> int:
    """What can be said of presets without their weights."""
    from ..engine.dry import faults, missing

    found = 0
    for name in names:
        preset = presets.resolve({"preset": name})[0]
        if packages := missing(preset):
            lines = [f"cannot be checked: pip install {packages}"]
        else:
            lines = faults(preset)
            found += len(lines)
        print(f"{name:24} {' '.join(lines) or 'ok'}")
    return 1 if found else 0
