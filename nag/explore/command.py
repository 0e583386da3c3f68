"""`python -m nag sweep` and `python -m nag seeds`: grids of pictures from the command line.

    python -m nag sweep --across "nag_alpha=0 .. 1" --down "nag_scale=2, 5, 10" --out out
    python -m nag seeds --seeds "17 .. 24" --out out

Stopped (Ctrl-C), the same command goes on: finished pictures are kept. `--dry` says how many
pictures there would be, and how long they would take by the time of one that it draws.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.engine import Engine
from ..engine.provenance import provenance
from ..errors import NAGRuntimeError, Refused
from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from .axis import KINDS, Axis, parse
from .grid import Grid, Line, corner, lines, sides
from .reading import Readings, compared, counted
from .store import Store

if TYPE_CHECKING:
    from PIL import Image


FEW = 10  # pairs; of fewer no interval is told
# called with the options, the grid, what was read in it, and what its heads are
Also = Callable[[argparse.Namespace, Grid, Readings, str], None]


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Options of `sweep`, beside those that name a preset and its settings."""
    named = f"one of {', '.join(KINDS)}, and its values"
    parser.add_argument("--across", required=True, metavar="SETTING=VALUES", help=named)
    parser.add_argument("--down", metavar="SETTING=VALUES", help="the same, for the rows")
    parser.add_argument("--column", default="nag", choices=list(METHODS), help="default: nag")
    _add_output(parser)


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Options of `seeds`."""
    parser.add_argument("--seeds", default="1 .. 8", metavar="VALUES", help="default: 1 .. 8")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry", action="store_true", help="how many pictures, and how long")
    parser.add_argument("--out", type=Path, required=True, help="folder for grid.png, grid.json")


def sweep(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
    also: Also | None = None,
) -> int:
    """Two settings against each other. also: what else is written at the end. Raises `Refused`."""
    across, down = _axis(options.across), _axis(options.down) if options.down else None
    grid = Grid(preset, request, *sides(across, down), options.column, image)
    return _draw(options, grid, corner(across, down), lambda readings: {}, also)


def seeds(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
    also: Also | None = None,
) -> int:
    """The same columns on many seeds, counted. also: as in `sweep`. Raises `Refused`."""
    rows = [Line(METHODS[key].label, {}, key) for key in request.guidance]
    grid = Grid(preset, request, lines(parse("seed", options.seeds)), rows, image=image)
    return _draw(options, grid, "seed", lambda readings: {"counted": count(grid, readings)}, also)


def count(grid: Grid, readings: Readings) -> dict:
    """{key: what became of it on all seeds, and the paired difference from CFG, if there is one}"""
    rows = {
        line.key: [readings.outcome(picture) for picture in row]
        for line, row in zip(grid.down, grid.cells, strict=True)
    }
    found = {key: counted(row) for key, row in rows.items() if key != "none"}
    for key in found:
        if key != "cfg" and "cfg" in rows:
            found[key]["against_cfg"] = compared(rows[key], rows["cfg"])
    return found


def sentence(word: str, label: str, one: dict) -> str:
    """The counts of one column in words, with their interval."""
    if not one["of"]:
        return f"{label}: no {word} to remove on any of these seeds"
    low, high = (round(100 * share) for share in one["interval"])
    text = f"{label}: {word} gone in {one['gone']} of {one['of']} (95 %: {low} to {high} of 100)"
    if one["replaced"]:
        text += f", in {one['replaced']} something else instead"
    against = one.get("against_cfg")
    if against:
        points = [f"{100 * x:+.0f}" for x in (against["difference"], *against["interval"])]
        text += f"; {points[0]} points against CFG ("
        if against["of"] >= FEW:  # of fewer the interval is too narrow: 2 against 0 would be sure
            text += f"95 %: {points[1]} to {points[2]}, "
        text += f"p = {against['p']:.2g} by McNemar's exact test)"
    return text


def _axis(text: str) -> Axis:
    field, equals, values = text.partition("=")
    if not equals:
        raise Refused(f"An axis is SETTING=VALUES, such as 'nag_alpha=0 .. 1', got {text!r}.")
    return parse(field.strip(), values)


def _draw(options, grid: Grid, heads: str, extra, also: Also | None) -> int:
    store, readings = Store(options.out, provenance(grid.preset)), Readings(grid)
    engine = Engine(previews=False)
    kept = store.load(grid, readings)
    print(f"{len(grid.pictures)} pictures, {kept} of them there already")
    failed, stop, drawn = [], threading.Event(), 0
    try:
        for picture in grid.draw(engine, stop):
            if not picture.done:
                failed.append(picture.column.reason)
                continue
            store.save(picture, readings)
            drawn += 1
            left = grid.seconds_left()
            there = len(grid.pictures) - len(grid.missing)
            print(f"{there} of {len(grid.pictures)}, {left:.0f} s left")
            if options.dry and drawn >= len(picture.column.together):
                return 0
    except KeyboardInterrupt:
        stop.set()
        raise Refused("Stopped. The same command goes on: finished pictures are kept.") from None
    if failed:
        raise NAGRuntimeError(f"{len(failed)} of the pictures failed. The first: {failed[0]}")
    told = extra(readings)
    store.finish(grid, readings, heads, told)
    if also is not None:
        also(options, grid, readings, heads)
    for key, one in told.get("counted", {}).items():
        if readings.words():
            print(sentence(readings.words(), METHODS[key].label, one))
    return 0
