"""What the browser is told of a grid: pictures by number, and which cell shows which."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..engine import grammar
from ..engine.run import Column, Run, size_of
from ..engine.verdict import mean_difference
from ..explore.axis import KINDS
from ..explore.command import count, sentence
from ..explore.grid import Grid, Picture
from ..explore.reading import Readings
from ..explore.sheet import told
from ..methods import METHODS
from . import cells
from .inline import data_uri

SIDE = 192  # px of a picture in a grid
LARGE = 512  # px of one that travels in a file
ROOM = 512 * 2**20  # bytes that all grids of a room may hold


class Drawn(NamedTuple):
    """A finished picture without its grid: another grid may have a place for it."""

    column: Column
    small: str  # data URI, or "" where none was made yet
    reading: dict | None

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return size_of(self.column) + len(self.small)


class GridValue:
    """One grid as plain values. What was told of a finished picture is remembered.

    name: "sweep" or "seeds". corner: what its heads are. side: px of a picture.
    """

    def __init__(
        self, name: str, grid: Grid, readings: Readings, corner: str, side: int = SIDE
    ) -> None:
        self.name, self.grid, self.readings, self.corner = name, grid, readings, corner
        self.side = side
        # a picture's identity -> its place among the grid's pictures
        self.numbers = {picture.identity: i for i, picture in enumerate(grid.pictures)}
        self.small: dict[str, str] = {}  # identity -> data URI
        self.told: dict[str, dict] = {}  # identity -> what the browser is told

    @property
    def size(self) -> int:
        """Bytes that its pictures hold in memory."""
        return sum(one.size for one in self.drawn.values())

    @property
    def drawn(self) -> dict[str, Drawn]:
        """Its finished pictures by their identity."""
        known = self.readings.known
        return {
            p.identity: Drawn(p.column, self.small.get(p.identity, ""), known.get(p.identity))
            for p in self.grid.pictures
            if p.done
        }

    @property
    def filled(self) -> int:
        """How many cells show a finished picture."""
        return sum(picture.done for row in self.grid.cells for picture in row)

    def take_over(self, kept: Callable[[str], Drawn | None]) -> None:
        """Pictures that were drawn for other grids, and what was read in them. kept: identity ->
        such a picture."""
        for picture in self.grid.pictures:
            if picture.done or (one := kept(picture.identity)) is None:
                continue
            picture.column = one.column
            if one.small:
                self.small[picture.identity] = one.small
            if one.reading is not None:
                self.readings.known[picture.identity] = one.reading

    def value(self, running: bool = False, planned: GridValue | None = None) -> dict:
        """All of it. planned: the grid that the room's fields ask for now, where it is another; how
        much is to be drawn is said of that one, and pictures that it has no place for are stale."""
        grid, name = self.grid, self.name
        due = planned or self
        return {
            "room": name,
            "state": "running" if running else "done" if not due.grid.missing else "waiting",
            "count": sum(not p.reference for p in due.grid.pictures),
            "missing": len(due.grid.missing),
            # of those, un-guided pictures that stand in no cell
            "beside": sum(picture.reference for picture in due.grid.missing),
            "seconds": due.grid.seconds_left(),
            "at_once": due.grid.at_once,
            "key": due.grid.key,
            "method": METHODS[due.grid.key].name,
            "corner": self.corner,
            "across": [line.name for line in grid.across],
            "down": [line.name for line in grid.down],
            "keys": [line.key for line in grid.down],
            "made": [self._made(line.key) for line in grid.down] if name == "seeds" else [],
            "aspect": grid.request.width / grid.request.height,
            "cells": [
                [self._cell(self.numbers[p.identity], y, x) for x, p in enumerate(row)]
                for y, row in enumerate(grid.cells)
            ],
            "pictures": [
                self._picture(p) | {"stale": p.done and p.identity not in due.numbers}
                for p in grid.pictures
            ],
            "counted": _counted(grid, self.readings) if name == "seeds" else [],
            "verdict": self._verdict() if name == "sweep" else _seeds_verdict(grid, self.readings),
        }

    def _made(self, key: str | None) -> str:
        """The settings of a column in a line: "scale 10 · tau 2"."""
        parts = cells.caption(self.grid.request, key or "nag")
        return " · ".join(f"{word} {value}".rstrip() for _, word, value in parts)

    def _cell(self, number: int, y: int, x: int) -> dict:
        row, column = self.grid.down[y], self.grid.across[x]
        changes = {**row.changes, **column.changes}
        name = ", ".join(
            v if isinstance(v, str) else f"{KINDS[f].label} {v:g}" for f, v in changes.items()
        )
        named = ", ".join(filter(None, (row.name if row.key else "", name)))
        return {"picture": number, "set": changes, "name": named}

    def _picture(self, picture: Picture) -> dict:
        column = picture.column
        if picture.identity in self.told:
            return self.told[picture.identity]
        if column is None:
            return {"state": "missing"}
        if not picture.done:
            return {"state": column.state, "reason": column.reason}
        if picture.identity not in self.small:
            self.small[picture.identity] = data_uri(column.image, self.side)
        found = self.readings.outcome(picture)
        reference = self.grid.reference(picture)
        beside = reference if reference is not picture and reference and reference.done else None
        run = Run(column.run or "grid", self.grid.preset, picture.request, [column])
        said = {
            "state": "done",
            "preview": self.small[picture.identity],
            "reference": self.numbers[reference.identity] if beside else None,
            "difference": round(mean_difference(column.image, beside.column.image), 1)
            if beside
            else None,
            "outcome": found.kind if found else "",
            "told": told(found) if found else "",
            "share": found.share if found else None,
            "changed": list(found.changed) if found else [],
            "time": _time(column),
            "cell": cells.cell(run, column),
        }
        if reference is None or reference.done:  # else it is told again, with what it is beside
            self.told[picture.identity] = said
        return said

    def _verdict(self) -> dict | None:
        """How many cells are rid of it, and which of them is nearest to the un-guided picture."""
        words, read = self.readings.words(), []
        for y, row in enumerate(self.grid.cells):
            for x, picture in enumerate(row):
                if picture.done and (found := self.readings.outcome(picture)):
                    read.append((picture, found.kind, [y, x]))
        if not words or not read:
            return None
        there = [one for one in read if one[1] != "absent"]
        if not there:
            head = f"There {'were' if _many(words) else 'was'} no {words} to remove."
            return {"sign": "", "head": head, "text": "", "best": None}
        gone = [(picture, at) for picture, kind, at in there if kind == "gone"]
        if not gone:
            left = sum(kind == "left" for _, kind, _ in there)
            head = _stays(words, left, len(there))
            return {"sign": "left" if left else "replaced", "head": head, "text": "", "best": None}
        picture, best = min(gone, key=lambda one: self._cost(one[0]))
        name = self._cell(self.numbers[picture.identity], *best)["name"]
        head = f"No {words} in {len(gone)} of {len(there)}."
        return {"sign": "gone", "head": head, "text": self._kept(picture, name), "best": best}

    def _cost(self, picture: Picture) -> tuple:
        """What a picture without the unwanted thing costs: other things that changed, then pixels
        (which the thing's own place is among), then how hard NAG pushed."""
        changed = self.readings.outcome(picture).changed
        push = picture.request.nag
        return (
            len(changed),
            self._picture(picture)["difference"] or 0,
            push.alpha * (push.scale - 1) * push.end,
            push.tau,
        )

    def _kept(self, picture: Picture, name: str) -> str:
        changed = [grammar.attribute(one) for one in self.readings.outcome(picture).changed]
        if not changed:
            return f"{name} changes nothing else that the meter reads."
        change = f"only the {changed[0]} changes"
        if len(changed) > 1:
            change = f"the {grammar.listed(changed)} change"
        return f"{name} keeps most of the rest: {change}."


def _many(words: str) -> bool:
    """Whether a verb that goes with them is in the plural: "glasses", "hat and beard"."""
    return grammar.plural(words) or " and " in words


def _stays(words: str, left: int, of: int) -> str:
    """What is in the place of an unwanted thing that is gone from no picture."""
    stay, its = ("stay", "their") if _many(words) else ("stays", grammar.its(words))
    every = f"in all {of}" if of > 1 else "in the one that is drawn"
    if left == of:
        return f"The {words} {stay} {every}."
    if not left:
        return f"Something else takes {its} place {every}."
    return f"The {words} {stay} in {left} of {of}; in {of - left} something else is there instead."


def _time(column: Column) -> str:
    others = len(column.together) - 1
    many = f", with {others} other seed{'s' * (others != 1)}" if column.together else ""
    return f"{column.seconds:.2f} s{many}"


def _counted(grid: Grid, readings: Readings) -> list[dict | None]:
    """For each row of columns what was counted over its seeds, with a sentence."""
    words, found = readings.words(), count(grid, readings) if readings.meter else {}
    rows: list[dict | None] = []
    for row, line in zip(grid.cells, grid.down, strict=True):
        one = found.get(line.key)
        if line.key == "none" and words and readings.meter:
            kinds = [readings.outcome(picture) for picture in row if picture.done]
            there = sum(one.kind == "left" for one in kinds if one)
            rows.append({"word": words, "there": there, "of": len(kinds)})
            continue
        if one is None or not words:
            rows.append(None)
            continue
        rows.append(one | {"word": words, "text": sentence(words, METHODS[line.key].name, one)})
    return rows


def _seeds_verdict(grid: Grid, readings: Readings) -> dict | None:
    """How many seeds are rid of it, in the column that matters most and against CFG."""
    words, found = readings.words(), count(grid, readings) if readings.meter else {}
    guided = [key for key in ("nag", "cfg+nag", *found) if key in found and found[key]["of"]]
    if not words or not guided or any(not p.done for row in grid.cells for p in row):
        return None
    one = found[guided[0]]
    name = METHODS[guided[0]].name
    go = "go" if _many(words) else "goes"
    seeds = "seed" if one["of"] == 1 else "seeds"
    head = f"The {words} {go} in {one['gone']} of {one['of']} {seeds} with {name}"
    cfg = found.get("cfg")
    if cfg and guided[0] != "cfg":
        head += f", in {cfg['gone']} of {cfg['of']} with CFG"
    its = "their" if _many(words) else grammar.its(words)
    text = f"In {one['replaced']} something else is in {its} place." * bool(one["replaced"])
    sign = "gone" if 2 * one["gone"] > one["of"] else "left"
    return {"sign": sign, "head": f"{head}.", "text": text, "best": None}
