"""`python -m nag sweep`, `seeds` and `xray`, with what the page can save of its rooms."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..explore import command, inside
from ..explore.grid import Grid
from ..explore.reading import Readings
from ..presets import Preset
from ..request import Request

if TYPE_CHECKING:
    from PIL import Image

    from ..xray import XRay


def add_sweep(parser: argparse.ArgumentParser) -> None:
    command.add_sweep(parser)
    _add_files(parser)


def add_seeds(parser: argparse.ArgumentParser) -> None:
    command.add_seeds(parser)
    _add_files(parser)


def add_xray(parser: argparse.ArgumentParser) -> None:
    inside.add_arguments(parser)
    _add_files(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", action="store_true", help="also one page that works offline")
    parser.add_argument("--zip", action="store_true", help="also everything in one file")


def sweep(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
) -> int:
    """Raises `Refused`."""
    return command.sweep(options, preset, request, image, _grid_files)


def seeds(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
) -> int:
    """Raises `Refused`."""
    return command.seeds(options, preset, request, image, _grid_files)


def xray(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
) -> int:
    """Raises `Refused`."""
    return inside.run(options, preset, request, image, _xray_files)


def _grid_files(options: argparse.Namespace, grid: Grid, readings: Readings, corner: str) -> None:
    if not options.html and not options.zip:
        return
    from ..page import offline
    from ..page.grid_value import GridValue

    shown = GridValue(options.command, grid, readings, corner)
    if options.html:
        (options.out / "grid.html").write_bytes(offline.grid_page(shown))
    if options.zip:
        (options.out / "grid.zip").write_bytes(offline.grid_zip(shown))


def _xray_files(
    options: argparse.Namespace, xray: XRay, preset: Preset, request: Request, there: Request
) -> None:
    if not options.html and not options.zip:
        return
    from PIL import Image

    from ..engine.run import Column, Run
    from ..page import offline

    column = Column("nag", request.num_inference_steps, "done")
    column.image = Image.open(options.out / inside.PICTURE)
    run = Run("xray", preset, inside.only_nag(request), [column])
    if options.html:
        (options.out / "xray.html").write_bytes(offline.xray_page(xray, run, there))
    if options.zip:
        (options.out / "xray.zip").write_bytes(offline.xray_zip(xray, run, there))
