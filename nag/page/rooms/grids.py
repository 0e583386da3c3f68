"""Sweep and Seeds: grids of pictures that fill while they are looked at."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import gradio as gr

from ... import private
from ...engine.reuse import LeastRecentlyUsed
from ...errors import Refused
from ...explore.axis import KINDS, Axis, parse
from ...explore.grid import Grid, Line, lines, sides
from ...explore.reading import Readings
from ...methods import METHODS
from ...presets import Preset, resolve
from ...request import Request, Value
from .. import cells, offline
from ..controls import in_order
from ..files import FOLDER, file_data
from ..grid_value import ROOM, Drawn, GridValue
from .asked import Asked, asked, fields

if TYPE_CHECKING:
    from ..zero_gpu import LentEngine

SAVED = {  # what is made, how its file ends, its media type
    "picture": (offline.grid_png, "png", "image/png"),
    "zip": (offline.grid_zip, "zip", "application/zip"),
    "html": (offline.grid_page, "html", "text/html"),
}


KEPT = ROOM // 4  # bytes of pictures that a visit may hold beside the grids that it looks at


class Misfit(Refused):
    """A refusal of one of the room's own fields. field: "across", "down" or "seeds"."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


class Fields(NamedTuple):
    """The room's own fields, read. key: the way to guide where the lines name none. values: of an
    axis that was left empty, (its setting, what was taken for it)."""

    across: list[Line]
    down: list[Line]
    corner: str
    key: str
    values: dict[str, tuple[str, str]]


@dataclass(eq=False)
class Visit:
    """One visitor's grid in one room, and the way to stop what draws it.

    shown: what the room shows. planned: what its fields ask for; the same grid, or another one, of
    which not as much is drawn. kept: what was drawn for grids before these, by identity.
    """

    shown: GridValue
    planned: GridValue
    key: tuple  # of all that decides the planned grid
    stop: threading.Event = field(default_factory=threading.Event)
    running: bool = False
    refused: dict | None = None  # why the fields ask for nothing that can be drawn, and which field
    values: dict = field(default_factory=dict)
    kept: LeastRecentlyUsed[Drawn] = field(
        default_factory=lambda: LeastRecentlyUsed(10_000, KEPT, 3600)
    )

    @property
    def size(self) -> int:
        """Bytes of all its pictures in memory, each counted once."""
        held = self.kept.sizes()
        for grid in (self.shown, self.planned):
            held |= {name: one.size for name, one in grid.drawn.items()}
        return sum(held.values())

    def settle(self) -> None:
        """Shows what is planned where no fewer pictures are there than in what is shown: pictures
        are not taken away before their place is drawn anew."""
        planned = self.planned
        if not planned.grid.missing or planned.filled >= self.shown.filled:
            self.shown = planned

    def remember(self) -> None:
        """Keeps what was drawn, for the plan that came meanwhile and for later ones."""
        drawn = self.shown.drawn
        for name, one in drawn.items():
            self.kept.put(name, one, one.size)
        self.planned.take_over(drawn.get)

    def value(self) -> dict:
        """What the browser is told."""
        planned = None if self.running or self.planned is self.shown else self.planned
        told = self.shown.value(self.running, planned)
        return told | {"refused": self.refused, "values": self.values}


class GridRoom:
    """Answers one room's buttons. A grid is kept for an hour, and drawn on where it was stopped;
    so are pictures of grids before it, for settings that somebody comes back to.

    engine: see `nag.engine.engine`. name: "sweep" or "seeds".
    """

    def __init__(self, engine: LentEngine, name: str) -> None:
        self.engine, self.name = engine, name
        self.visits, self.lock = LeastRecentlyUsed(32, ROOM, 3600), threading.RLock()

    def draw(self, event: gr.EventData, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values while its pictures come, coarse to fine. Raises `Refused`."""
        visit = self._visit(request.session_hash, private.event_data(event), values)
        with self.lock:
            visit.shown, visit.stop, visit.running = visit.planned, threading.Event(), True
        grid, run_id = visit.shown.grid, uuid.uuid4().hex[:12]
        try:
            yield visit.value()
            with contextlib.closing(grid.draw(self.engine, visit.stop, run_id)) as pictures:
                for _ in pictures:
                    yield visit.value()
        finally:
            visit.running = False
            visit.stop.set()
            self._weigh(request.session_hash, visit)
        yield visit.value()

    def plan(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """What these fields would draw, without drawing; or why they would not, in a sentence."""
        data = private.event_data(event)
        try:
            visit = self._visit(request.session_hash, data, values)
        except Refused as error:
            if visit := self._known(request.session_hash):
                return visit.value()
            return {"room": self.name, "state": "waiting", "refused": _told(error)}
        if not visit.running:
            visit.settle()
        return visit.value()

    def halt(self, request: gr.Request) -> None:
        """Stops within a step; what is there stays."""
        if visit := self._known(request.session_hash):
            visit.stop.set()

    def ended(self, request: gr.Request) -> dict:
        """The room's value after a drawing that ended with an error: what is there stays."""
        visit = self._known(request.session_hash)
        return visit.value() if visit else gr.skip()

    def export(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """The grid as one picture, or all of it as a ZIP -> the room's value, with the file."""
        visit = self._known(request.session_hash)
        if visit is None or not visit.shown.filled:
            raise Refused("There is nothing to save yet: draw the grid first.")
        kind = private.event_data(event).get("export")
        if kind not in SAVED:
            raise Refused(f"A grid is saved as {', '.join(SAVED)}; got {kind!r:.40}.")
        write, suffix, media = SAVED[kind]
        prompt = cells.slug(visit.shown.grid.request.prompt, 40)
        name = f"{self.name}-{prompt}-{uuid.uuid4().hex[:6]}.{suffix}"
        path = FOLDER.write(name, lambda path: path.write_bytes(write(visit.shown)))
        return visit.value() | {"file": file_data(path, media)}

    def _known(self, session: str | None) -> Visit | None:
        with self.lock:
            return self.visits.get(session)

    def _visit(self, session: str | None, data: dict, values: tuple) -> Visit:
        """This visit, with the grid for these fields as its plan. Raises `Refused`, and notes in
        the visit why."""
        try:
            return self._planned(session, data, values)
        except Refused as error:
            if visit := self._known(session):
                visit.refused = _told(error)
            raise

    def _planned(self, session: str | None, data: dict, values: tuple) -> Visit:
        columns = in_order(fields(values)["guidance"] or ()) or ["nag"]
        found = asked(values, guidance=columns, fresh=False)
        preset, request, picture = found
        own = self.asked(data, preset, request)
        settings = request.model_dump_json()
        key = (preset.name, settings, picture, str(own.across), str(own.down), own.key)
        with self.lock:  # a plan and a click may come at once, and must find one grid
            visit = self._known(session)
            if visit is None or visit.key != key:
                planned = GridValue(self.name, *self._grid(found, own, data), own.corner)
                if visit is None:
                    visit = Visit(planned, planned, key)
                planned.take_over(visit.shown.drawn.get)
                planned.take_over(visit.kept.get)
                visit.planned, visit.key = planned, key
                self._put(session, visit)
            visit.refused, visit.values = None, own.values
        return visit

    def _grid(self, found: Asked, own: Fields, data: dict) -> tuple[Grid, Readings]:
        """Raises `Misfit` where a sentence is of one of the room's fields."""
        preset, request, _ = found
        try:
            grid = Grid(preset, request, own.across, own.down, own.key, image=found.start)
        except Refused as error:
            swept = {"seeds": "seed"} if self.name == "seeds" else data
            for side in ("across", "down", "seeds"):
                name = swept.get(side)
                if name in KINDS and str(error).startswith((name, KINDS[name].label)):
                    raise Misfit(str(error), side) from None
            raise
        return grid, Readings(grid)

    def _weigh(self, session: str | None, visit: Visit) -> None:
        """Notes what a visit holds, now that it has pictures; a newer one in its place stays."""
        with self.lock:
            visit.remember()
            if self._known(session) in (None, visit):
                self._put(session, visit)

    def _put(self, session: str | None, visit: Visit) -> None:
        self.visits.put(session, visit, min(visit.size, ROOM))

    def asked(self, data: dict, preset: Preset, request: Request) -> Fields:
        """The fields as lines. One that is empty has values around the preset's own. Raises
        `Refused`."""
        taken: dict[str, tuple[str, str]] = {}

        def axis(side: str, name: str, text: str) -> Axis:
            if not text.strip() and name in KINDS:
                text = around(preset, request, name)
                taken[side] = name, text
            try:
                return parse(name, text)
            except Refused as error:
                raise Misfit(str(error), side) from None

        if self.name == "seeds":
            rows = [Line(METHODS[key].label, {}, key) for key in request.guidance]
            across = axis("seeds", "seed", _text(data, "seeds", ""))
            return Fields(lines(across), rows, "seed →", "nag", taken)
        name = _text(data, "down", "")
        across = axis("across", _text(data, "across", "nag_alpha"), _text(data, "across_values"))
        down = axis("down", name, _text(data, "down_values")) if name else None
        corner = f"{across.label} →" if down is None else f"{down.label} ↓ {across.label} →"
        try:
            columns, rows = sides(across, down)
        except Refused as error:
            raise Misfit(str(error), "down") from None
        # which has no effect on a picture by NAG alone
        both = "guidance_scale" in (across.field, name)
        if both and not preset.cfg:
            side = "across" if across.field == "guidance_scale" else "down"
            what = f"CFG scale changes nothing with {preset.title}, whose pipeline does no CFG"
            raise Misfit(f"{what}. Choose another setting.", side)
        return Fields(columns, rows, corner, "cfg+nag" if both else "nag", taken)


def _told(error: Refused) -> dict:
    return {"text": str(error), "field": error.field if isinstance(error, Misfit) else ""}


def _text(data: dict, name: str, default: str = "") -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or len(value) > 2000:
        raise Refused(f"{name} must be text of at most 2000 characters.")
    return value


def around(preset: Preset, request: Request, name: str) -> str:
    """Values for an axis, as they are typed: around the preset's own, and the one that is set."""
    now = getattr(request, name)
    if name == "negative_prompt":
        return now
    low, high = preset.range(name)
    if name == "seed":
        first = int(min(now, high - 7))
        return f"{first} .. {first + 7}"
    own = preset.default(name)
    if name in ("nag_alpha", "nag_end"):
        values = [0.25, 0.5, 0.75, 1]
    elif name == "nag_scale":
        values = [max(1.5, own / 4), own / 2, own, 2 * own]
    else:
        values = [own / 2, own, 1.5 * own, 2 * own]
    whole = KINDS[name].whole
    near = (min(high, max(low, round(one) if whole else float(f"{one:.3g}"))) for one in values)
    off = 1 if name == "nag_scale" else None  # the picture without guidance
    return ", ".join(f"{one:.6g}" for one in sorted({*near, now}) if one != off or one == now)


def fields_of(preset: Preset) -> dict:
    """What the room's own fields begin with: values around the preset's own."""
    _, request = resolve({"preset": preset.name}, {preset.name: preset})
    return {
        "across": "nag_alpha",
        "across_values": around(preset, request, "nag_alpha"),
        "down": "nag_scale",
        "down_values": around(preset, request, "nag_scale"),
        "seeds": around(preset, request, "seed"),
        "fields": [[name, kind.label] for name, kind in KINDS.items()],
    }
