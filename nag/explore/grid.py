"""A grid of pictures of one model: two settings against each other, or columns against seeds.

    across, down = lines(parse("nag_alpha", "0 .. 1")), lines(parse("nag_scale", "2, 5, 10"))
    grid = Grid(preset, request, across, down)
    for picture in grid.draw(engine, stop):     # coarse to fine; after a stop, what is missing
        ...

Cells whose pictures must be equal share one: at alpha 0 every scale is the un-guided picture.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..engine.run import Column, Run, decisive, identity
from ..errors import Refused
from ..methods import METHODS
from ..presets import Preset, resolve
from ..request import Request
from .axis import KINDS, Axis, coarse_to_fine

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.engine import Event
    from ..xray import XRay

MOST = 200  # cells
AT_ONCE = 8  # seeds in one pipeline call
PIXELS = 4 * 2**20  # of all pictures of such a call


@dataclass(frozen=True)
class Line:
    """A row or a column of a grid.

    changes: settings of `Request`. key: the way to guide, where it is not the grid's own.
    """

    name: str
    changes: dict = field(default_factory=dict)
    key: str | None = None


def lines(axis: Axis) -> list[Line]:
    """One for each value of an axis."""
    return [Line(axis.name(i), {axis.field: value}) for i, value in enumerate(axis.values)]


def sides(across: Axis, down: Axis | None) -> tuple[list[Line], list[Line]]:
    """The columns and rows of a sweep; one row where nothing varies downwards. Raises `Refused`."""
    if down is not None and down.field == across.field:
        raise Refused(f"Across and down are both {across.label}: choose two settings.")
    return lines(across), [Line("")] if down is None else lines(down)


def corner(across: Axis, down: Axis | None) -> str:
    """What its heads are, in words."""
    return f"{across.label} across" + ("" if down is None else f", {down.label} down")


@dataclass
class Picture:
    """One picture, which one cell or several show.

    reference: no cell may show it; the others are judged by it.
    """

    identity: str
    request: Request
    key: str
    reference: bool = False
    column: Column | None = None  # when drawn, or failed

    @property
    def done(self) -> bool:
        return self.column is not None and self.column.state == "done"

    @property
    def cost(self) -> int:
        """Denoiser calls."""
        return self.request.num_inference_steps * (2 if METHODS[self.key].cfg else 1)


class Draws(Protocol):
    """What a grid asks of an engine: `nag.engine.engine.Engine`, or one that is lent a GPU."""

    def run(
        self,
        preset: Preset,
        request: Request,
        stop: threading.Event | None = None,
        run_id: str = "run",
        image: Image.Image | None = None,
        record: XRay | None = None,
        seeds: Sequence[int] = (),
    ) -> Iterator[Event]:
        """See `Engine.run`."""


class Grid:
    """across, down: its columns and rows. key: the way to guide where the lines name none.

    image: the PIL image that the preset's model begins with. references: also draw the un-guided
    picture of every noise; None: where the preset has a meter that compares with it.
    `cells[row][column]` is the picture there, `pictures` are all, in the order of drawing.
    Raises `Refused`, before anything is drawn.
    """

    def __init__(
        self,
        preset: Preset,
        request: Request,
        across: list[Line],
        down: list[Line],
        key: str = "nag",
        image: Image.Image | None = None,
        references: bool | None = None,
    ) -> None:
        if len(across) * len(down) > MOST:
            raise Refused(
                f"A grid has at most {MOST} cells, "
                f"got {len(across)} x {len(down)} = {len(across) * len(down)}."
            )
        self.preset, self.request, self.key, self.image = preset, request, key, image
        self.across, self.down = across, down
        self._check_effect()
        known: dict[str, Picture] = {}
        self.cells = [[self._picture(known, row, column) for column in across] for row in down]
        if preset.meter is not None if references is None else references:
            for picture in list(known.values()):
                self._add(known, picture.request, "none", reference=True)
        # a picture's identity -> the un-guided one of the same noise
        self.references = {name: self._reference(known, one) for name, one in known.items()}
        self.pictures = self._in_order(known)

    def _check_effect(self) -> None:
        """Raises `Refused` for a setting that no picture here uses: they would all be the same."""
        keys = {row.key or column.key or self.key for row in self.down for column in self.across}
        for name in {name for line in (*self.across, *self.down) for name in line.changes}:
            if any(name in decisive(self.request, key) for key in keys):
                continue
            drawn = " and ".join(METHODS[key].name for key in sorted(keys))
            users = [key for key in METHODS if name in decisive(self.request, key)]
            others = f"it does in columns {', '.join(users)}" if users else "it is switched off"
            raise Refused(
                f"{KINDS[name].label} changes nothing in pictures by {drawn}; {others}. "
                "Choose another setting."
            )

    def _picture(self, known: dict[str, Picture], row: Line, column: Line) -> Picture:
        raw = {**self.request.model_dump(), **row.changes, **column.changes}
        key = row.key or column.key or self.key
        _, request = resolve(raw | {"guidance": [key]}, {self.preset.name: self.preset})
        return self._add(known, request, without_what_is_off(request, key))

    def _add(self, known: dict, request: Request, key: str, reference: bool = False) -> Picture:
        request = request.model_copy(update={"guidance": (key,), "fresh": False, "batched": False})
        name = identity(Run("grid", self.preset, request, [], start=self.image), key)
        return known.setdefault(name, Picture(name, request, key, reference))

    def _in_order(self, known: dict[str, Picture]) -> list[Picture]:
        """Coarse to fine: ends first, then halves, each picture behind its reference."""
        levels = {}
        for row, y in zip(self.cells, coarse_to_fine(len(self.down)), strict=True):
            for picture, x in zip(row, coarse_to_fine(len(self.across)), strict=True):
                levels[picture.identity] = min(max(x, y), levels.get(picture.identity, 99))
        drawn: dict[str, Picture] = {}
        for name in sorted(levels, key=levels.get):
            if reference := self.references[name]:
                drawn.setdefault(reference.identity, reference)
            drawn.setdefault(name, known[name])
        return list(drawn.values())

    def _reference(self, known: dict[str, Picture], picture: Picture) -> Picture | None:
        request = picture.request.model_copy(update={"guidance": ("none",)})
        return known.get(identity(Run("grid", self.preset, request, [], start=self.image), "none"))

    def reference(self, picture: Picture) -> Picture | None:
        """The un-guided picture of the same noise, or None where the grid has none."""
        return self.references[picture.identity]

    @property
    def missing(self) -> list[Picture]:
        """What is still to be drawn, in order. What failed is tried again."""
        return [picture for picture in self.pictures if not picture.done]

    def seconds_left(self) -> float | None:
        """By what the drawn ones took per denoiser call; None before there is one."""
        done = [p for p in self.pictures if p.done and p.column.seconds and not p.column.reused]
        if not done:
            return None
        shares = (p.column.seconds / max(1, len(p.column.together)) for p in done)
        rate = sum(shares) / sum(p.cost for p in done)
        return rate * sum(p.cost for p in self.missing)

    def draw(
        self, engine: Draws, stop: threading.Event | None = None, run_id: str = "grid"
    ) -> Iterator[Picture]:
        """Draws what is missing, and yields each picture when it is done or has failed. Pictures
        that differ in their seed alone are drawn together, up to `at_once`.

        Ends at `stop` within a step, and keeps what there is. engine: see `nag.engine.engine`.
        """
        stop, left, most = stop or threading.Event(), self.missing, self.at_once
        while left and not stop.is_set():
            now = [p for p in left if but_seed(p) == but_seed(left[0])][:most]
            left = [p for p in left if p.identity not in {one.identity for one in now}]
            seeds = {"seeds": [p.request.seed for p in now]} if len(now) > 1 else {}
            *_, (run, _, _) = engine.run(
                self.preset, now[0].request, Following(stop), run_id, self.image, **seeds
            )
            for picture, column in zip(now, run.columns, strict=True):
                if column.state == "stopped":
                    return
                picture.column = column
                yield picture
            if len(now) > 1 and not any(c.together or c.reused for c in run.columns):
                most = 1  # there was no room for several, or the model takes one at a time

    @property
    def at_once(self) -> int:
        """How many seeds are drawn in one call. Videos gain nothing by it: one is enough to do."""
        if self.request.num_frames > 1:
            return 1
        size = self.request.width * self.request.height
        return max(1, min(AT_ONCE, self.preset.batch or AT_ONCE, PIXELS // size))


def but_seed(picture: Picture) -> tuple:
    """All that decides a picture but its seed."""
    return picture.key, picture.request.model_copy(update={"seed": 0})


class Following(threading.Event):
    """Set with another event, or by itself: a run that ends sets its own, and the grid goes on."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self.other = other

    def is_set(self) -> bool:
        return super().is_set() or self.other.is_set()


def without_what_is_off(request: Request, key: str) -> str:
    """The way to guide that is left where the settings switch NAG (or a rival) off."""
    settings = request.attention(key)
    if settings is None or not settings.off:
        return key
    return "cfg" if METHODS[key].cfg else "none"
