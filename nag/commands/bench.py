"""`python -m nag bench`: what guidance costs with a preset on this machine, as a row of a table."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..engine.run import Run
from ..errors import NAGRuntimeError, Refused
from ..methods import METHODS
from ..presets import Preset
from ..request import Request

if TYPE_CHECKING:
    from PIL import Image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often every column is drawn and timed"
    )


def run(
    options: argparse.Namespace, preset: Preset, request: Request, start: Image.Image | None
) -> int:
    """Prints the row. Raises `Refused` for a request without un-guided column to compare with."""
    if "none" not in request.guidance or len(request.guidance) < 2:
        raise Refused(
            'bench divides by the column without guidance: leave "none" in --set guidance.'
        )
    if options.rounds < 1:
        raise Refused(f"--rounds must be 1 or more, got {options.rounds}.")
    runs = list(rounds(options.rounds, preset, request, start))
    print("\n".join(table(runs)))
    return 0


def rounds(
    count: int, preset: Preset, request: Request, start: Image.Image | None
) -> Iterator[Run]:
    """Yields finished runs; every column is drawn anew in each, right behind the others."""
    from ..engine.engine import Engine

    engine = Engine(previews=False)
    request = request.model_copy(update={"fresh": True, "batched": False})
    for number in range(count):
        *_, (finished, _, _) = engine.run(preset, request, run_id=f"bench {number}", image=start)
        for column in finished.columns:
            if column.state != "done":
                raise NAGRuntimeError(f"{METHODS[column.key].label}: {column.reason}")
        yield finished


def table(runs: list[Run]) -> list[str]:
    """A Markdown table of one row: seconds of a step, and of every way of guiding the ratio to a
    step without (median, range), with that of the counted operations where they are known."""
    first = runs[0]
    keys = [column.key for column in first.columns if column.key != "none"]
    heads = ["preset", "size, steps", "on", "s a step", *(METHODS[key].label for key in keys)]
    plain = [_column(run, "none") for run in runs]
    request = first.request
    cells = [
        first.preset.name,
        f"{request.width} x {request.height}, {plain[0].step}",
        f"{_device(first)}, {first.dtype}",
        f"{statistics.median(column.steady / column.step for column in plain):.3f}",
        *(_ratio(runs, key) for key in keys),
    ]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), f"| {' | '.join(cells)} |"]


def _column(run: Run, key: str):
    return next(column for column in run.columns if column.key == key)


def _ratio(runs: list[Run], key: str) -> str:
    ratios = [run.relative(_column(run, key)) for run in runs]
    work = runs[0].work(_column(runs[0], key))
    counted = f", counted {work:.3f}" if work else ""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}){counted}"


def _device(run: Run) -> str:
    """The name of a GPU; of a processor how many threads compute."""
    import torch

    if run.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{run.device}, {torch.get_num_threads()} threads"
