"""What the meter of a pocket model says of a grid's pictures."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..engine.loading import import_libraries
from ..home import HOME
from ..media.outcome import Outcome, outcome
from ..presets import Preset
from .counting import mcnemar, paired_difference, wilson
from .grid import Grid, Picture

if TYPE_CHECKING:
    from ..media.meter import Meter


class Readings:
    """Reads each picture once. Without a meter, or with words unknown to it, all is None."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.meter, self.known = grid, meter_of(grid.preset), {}

    def reading(self, picture: Picture) -> dict | None:
        """{attribute: {value: probability}}"""
        if self.meter is None or not picture.done:
            return None
        if picture.identity not in self.known:
            shown = picture.column.frames or picture.column.image
            self.known[picture.identity] = self.meter.read([shown])[0]
        return self.known[picture.identity]

    def outcome(self, picture: Picture) -> Outcome | None:
        """Beside the un-guided picture of the same noise."""
        reference = self.grid.reference(picture)
        before = self.reading(reference) if reference is not None else None
        after = self.reading(picture)
        if before is None or after is None:
            return None
        return outcome(before, after, self.named(picture))

    def named(self, picture: Picture) -> list[tuple[str, str]]:
        """What the negative prompt names, as (attribute, value)."""
        return self.meter.named_in(picture.request.negative_prompt) if self.meter else []

    def words(self) -> str:
        """The same as words: "hat and beard"; "unwanted thing" where the cells name others."""
        if self.meter is None:
            return ""
        asked = {picture.request.negative_prompt for row in self.grid.cells for picture in row}
        named = {tuple(self.meter.named_in(prompt)) for prompt in asked}
        if len(named) > 1:
            return "unwanted thing"
        return " and ".join(map(self.meter.phrase, named.pop()))


@functools.cache
def _meter(folder: str):
    import_libraries()  # first of all threads, or not beside another
    from ..media.meter import Meter

    return Meter.load(HOME / folder)


def meter_of(preset: Preset) -> Meter | None:
    """The meter of a preset, or None. One for all: it is read only."""
    return _meter(preset.meter) if preset.meter else None


def counted(outcomes: list[Outcome | None]) -> dict:
    """Of a row of outcomes, over the pictures in which there was something to remove.

    {"of": how many, "gone": nothing in its place, "replaced", "left", "interval": of gone / of}
    """
    there = [one for one in outcomes if one is not None and one.kind != "absent"]
    found = {kind: sum(one.kind == kind for one in there) for kind in ("gone", "replaced", "left")}
    interval = wilson(found["gone"], len(there)) if there else None
    return {"of": len(there), **found, "interval": interval}


def compared(first: list[Outcome | None], second: list[Outcome | None]) -> dict | None:
    """Two rows over the same noise: the difference of the shares that are gone.

    {"of": pairs, "difference", "interval" (95 %), "p" (McNemar)}; None where no pair had anything.
    """
    pairs = [
        (a.kind == "gone", b.kind == "gone")
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None and "absent" not in (a.kind, b.kind)
    ]
    if not pairs:
        return None
    ones, others = ([side for side in sides] for sides in zip(*pairs, strict=True))
    difference, low, high = paired_difference(ones, others)
    p = mcnemar(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    return {"of": len(pairs), "difference": difference, "interval": (low, high), "p": p}
