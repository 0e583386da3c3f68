"""Sweep and Seeds: grids of pictures that fill while they are looked at."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gradio as gr

from ... import private
from ...engine.reuse import LeastRecentlyUsed
from ...errors import Refused
from ...explore.axis import KINDS, parse
from ...explore.grid import Grid, Line, lines, sides
from ...explore.reading import Readings
from ...methods import METHODS
from ...presets import Preset
from ...request import Request, Value
from .. import cells, offline
from ..controls import in_order
from ..files import FOLDER, file_data
from ..grid_value import ROOM, GridValue
from .asked import asked, fields

if TYPE_CHECKING:
    from ..zero_gpu import LentEngine

SAVED = {  # what is made, how its file ends, its media type
    "picture": (offline.grid_png, "png", "image/png"),
    "zip": (offline.grid_zip, "zip", "application/zip"),
    "html": (offline.grid_page, "html", "text/html"),
}


@dataclass(eq=False)
class Visit:
    """One visitor's grid in one room, and the way to stop what draws it."""

    shown: GridValue
    key: tuple  # of all that decides the grid
    stop: threading.Event = field(default_factory=threading.Event)


class GridRoom:
    """Answers one room's buttons. A grid is kept for an hour, and drawn on where it was stopped.

    engine: see `nag.engine.engine`. name: "sweep" or "seeds".
    """

    def __init__(self, engine: LentEngine, name: str) -> None:
        self.engine, self.name = engine, name
        self.visits, self.lock = LeastRecentlyUsed(32, ROOM, 3600), threading.RLock()

    def draw(self, event: gr.EventData, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values while its pictures come, coarse to fine. Raises `Refused`."""
        visit = self._visit(request.session_hash, private.event_data(event), values)
        visit.stop = threading.Event()
        yield visit.shown.value(running=True)
        run_id = uuid.uuid4().hex[:12]
        with contextlib.closing(visit.shown.grid.draw(self.engine, visit.stop, run_id)) as pictures:
            try:
                for _ in pictures:
                    yield visit.shown.value(running=True)
            finally:
                visit.stop.set()
                self._weigh(request.session_hash, visit)
        yield visit.shown.value()

    def plan(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """What these fields would draw, without drawing. Raises `Refused`."""
        return self._visit(request.session_hash, private.event_data(event), values).shown.value()

    def halt(self, request: gr.Request) -> None:
        """Stops within a step; what is there stays."""
        if visit := self._known(request.session_hash):
            visit.stop.set()

    def ended(self, request: gr.Request) -> dict:
        """The room's value after a drawing that ended with an error: what is there stays."""
        visit = self._known(request.session_hash)
        return visit.shown.value() if visit else gr.skip()

    def export(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """The grid as one picture, or all of it as a ZIP -> the room's value, with the file."""
        visit = self._known(request.session_hash)
        if visit is None or not any(p.done for p in visit.shown.grid.pictures):
            raise Refused("There is nothing to save yet: draw the grid first.")
        kind = private.event_data(event).get("export")
        if kind not in SAVED:
            raise Refused(f"A grid is saved as {', '.join(SAVED)}; got {kind!r:.40}.")
        write, suffix, media = SAVED[kind]
        prompt = cells.slug(visit.shown.grid.request.prompt, 40)
        name = f"{self.name}-{prompt}-{uuid.uuid4().hex[:6]}.{suffix}"
        path = FOLDER.write(name, lambda path: path.write_bytes(write(visit.shown)))
        return visit.shown.value() | {"file": file_data(path, media)}

    def _known(self, session: str | None) -> Visit | None:
        with self.lock:
            return self.visits.get(session)

    def _visit(self, session: str | None, data: dict, values: tuple) -> Visit:
        """This visitor's grid for these fields: the one that is there, or a new one."""
        columns = in_order(fields(values)["guidance"] or ()) or ["nag"]
        found = asked(values, guidance=columns, fresh=False)
        preset, request, picture = found
        across, down, corner = self.asked(data, request)
        key = (preset.name, request.model_dump_json(), picture, str(across), str(down))
        with self.lock:  # a plan and a click may come at once, and must find one grid
            before = self._known(session)
            if before is not None and before.key == key:
                return before
            grid = Grid(preset, request, across, down, image=found.start)
            visit = Visit(GridValue(self.name, grid, Readings(grid), corner), key)
            if before is not None:
                before.stop.set()
                visit.shown.take_over(before.shown)
            self._put(session, visit)
        return visit

    def _weigh(self, session: str | None, visit: Visit) -> None:
        """Notes what a visit holds, now that it has pictures; a newer one in its place stays."""
        with self.lock:
            if self._known(session) in (None, visit):
                self._put(session, visit)

    def _put(self, session: str | None, visit: Visit) -> None:
        self.visits.put(session, visit, min(visit.shown.size, ROOM))

    def asked(self, data: dict, request: Request) -> tuple[list[Line], list[Line], str]:
        """The fields as lines. Raises `Refused`."""
        if self.name == "seeds":
            rows = [Line(METHODS[key].label, {}, key) for key in request.guidance]
            return lines(parse("seed", _text(data, "seeds", "1 .. 8"))), rows, "seed →"
        down, name = None, _text(data, "down", "")
        across = parse(_text(data, "across", "nag_alpha"), _text(data, "across_values", "0 .. 1"))
        if name:
            down = parse(name, _text(data, "down_values", "2, 5, 10"))
        corner = f"{across.label} →" if down is None else f"{down.label} ↓ {across.label} →"
        return *sides(across, down), corner


def _text(data: dict, name: str, default: str) -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or len(value) > 2000:
        raise Refused(f"{name} must be text of at most 2000 characters.")
    return value


def fields_of(preset: Preset) -> dict:
    """What the room's own fields begin with: values around the preset's own."""
    scale = preset.default("nag_scale")
    low = max(1.5, scale / 4)
    around = ", ".join(f"{value:.3g}" for value in (low, scale / 2, scale, 2 * scale) if value > 1)
    return {
        "across": "nag_alpha",
        "across_values": "0.25, 0.4 .. 1",
        "down": "nag_scale",
        "down_values": around,
        "seeds": f"{preset.settings['seed']} .. {preset.settings['seed'] + 7}",
        "fields": [[name, kind.label] for name, kind in KINDS.items()],
    }
