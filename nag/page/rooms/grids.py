"""Sweep and Seeds: grids of pictures that fill while they are looked at."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gradio as gr

from ...engine.reuse import LeastRecentlyUsed
from ...engine.run import Column, Run
from ...engine.verdict import mean_difference
from ...errors import Refused
from ...explore.axis import KINDS, parse
from ...explore.command import count, sentence
from ...explore.grid import Grid, Line, Picture, lines
from ...explore.reading import Readings
from ...explore.sheet import sheet, told
from ...methods import METHODS
from ...presets import Preset
from ...request import Request, Value
from .. import cells
from ..controls import in_order
from ..files import FOLDER, file_data
from ..inline import data_uri
from .asked import asked, fields

if TYPE_CHECKING:
    from ..zero_gpu import LentEngine

SIDE = 192  # px of a picture in a grid
LARGE = 512  # px of one that is looked at by itself


@dataclass
class Visit:
    """One visitor's grid in one room, and the way to stop what draws it."""

    grid: Grid
    readings: Readings
    key: tuple  # of all that decides the grid
    corner: str  # what its heads are
    small: dict[str, str] = field(default_factory=dict)  # identity -> data URI
    told: dict[str, dict] = field(default_factory=dict)  # identity -> what the browser is told
    stop: threading.Event = field(default_factory=threading.Event)


class GridRoom:
    """Answers one room's buttons. A grid is kept for an hour, and drawn on where it was stopped.

    engine: see `nag.engine.engine`. asked: the room's own fields -> (across, down, corner).
    """

    def __init__(self, engine: LentEngine, name: str) -> None:
        self.engine, self.name = engine, name
        self.visits, self.lock = LeastRecentlyUsed(32, 32, 3600), threading.RLock()

    def draw(self, event: gr.EventData, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values while its pictures come, coarse to fine. Raises `Refused`."""
        visit = self._visit(request.session_hash, event._data or {}, values)
        visit.stop = threading.Event()
        yield self.value(visit, running=True)
        run_id = uuid.uuid4().hex[:12]
        with contextlib.closing(visit.grid.draw(self.engine, visit.stop, run_id)) as pictures:
            try:
                for _ in pictures:
                    yield self.value(visit, running=True)
            finally:
                visit.stop.set()
        yield self.value(visit)

    def plan(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """What these fields would draw, without drawing. Raises `Refused`."""
        return self.value(self._visit(request.session_hash, event._data or {}, values))

    def halt(self, request: gr.Request) -> None:
        """Stops within a step; what is there stays."""
        if visit := self._known(request.session_hash):
            visit.stop.set()

    def export(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """The grid as one picture, or all of it as a ZIP -> the room's value, with the file."""
        visit = self._known(request.session_hash)
        if visit is None or not any(p.done for p in visit.grid.pictures):
            raise Refused("There is nothing to save yet: draw the grid first.")
        as_zip = (event._data or {}).get("export") == "zip"
        name = f"{self.name}-{cells.slug(visit.grid.request.prompt, 40)}-{uuid.uuid4().hex[:6]}"
        page = sheet(visit.grid, visit.readings, visit.corner)
        content = _zip(visit, page) if as_zip else _png(page)
        suffix = "zip" if as_zip else "png"
        path = FOLDER.write(f"{name}.{suffix}", lambda path: path.write_bytes(content))
        kind = "application/zip" if as_zip else "image/png"
        return self.value(visit) | {"file": file_data(path, kind)}

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
            visit = Visit(grid, Readings(grid), key, corner)
            if before is not None:
                before.stop.set()
                _take_over(grid, before.grid)
                visit.small, visit.readings.known = before.small, before.readings.known
            self.visits.put(session, visit, 1)
        return visit

    def asked(self, data: dict, request: Request) -> tuple[list[Line], list[Line], str]:
        """The fields as lines. Raises `Refused`."""
        if self.name == "seeds":
            rows = [Line(METHODS[key].label, {}, key) for key in request.guidance]
            return lines(parse("seed", _text(data, "seeds", "1 .. 8"))), rows, "seed →"
        names = [_text(data, side, one) for side, one in (("across", "nag_alpha"), ("down", ""))]
        across = parse(names[0], _text(data, "across_values", "0 .. 1"))
        if not names[1]:
            return lines(across), [Line("")], f"{across.label} →"
        down = parse(names[1], _text(data, "down_values", "2, 5, 10"))
        if down.field == across.field:
            raise Refused(f"Across and down are both {across.label}: choose two settings.")
        return lines(across), lines(down), f"{down.label} ↓ {across.label} →"

    def value(self, visit: Visit, running: bool = False) -> dict:
        """What the browser draws: pictures by number, and which cell shows which."""
        grid, readings = visit.grid, visit.readings
        numbers = {picture.identity: i for i, picture in enumerate(grid.pictures)}
        left = grid.seconds_left()
        return {
            "room": self.name,
            "state": "running" if running else "done" if not grid.missing else "waiting",
            "count": sum(not p.reference for p in grid.pictures),
            "missing": len(grid.missing),
            "seconds": left,
            "at_once": grid.at_once,
            "corner": visit.corner,
            "across": [line.name for line in grid.across],
            "down": [line.name for line in grid.down],
            "keys": [line.key for line in grid.down],
            "aspect": grid.request.width / grid.request.height,
            "cells": [
                [self._cell(visit, numbers[p.identity], y, x) for x, p in enumerate(row)]
                for y, row in enumerate(grid.cells)
            ],
            "pictures": [self._picture(visit, picture) for picture in grid.pictures],
            "counted": _counted(grid, readings) if self.name == "seeds" else [],
            "verdict": _verdict(grid, readings) if self.name == "sweep" else None,
        }

    def _cell(self, visit: Visit, number: int, y: int, x: int) -> dict:
        row, column = visit.grid.down[y], visit.grid.across[x]
        changes = {**row.changes, **column.changes}
        name = ", ".join(
            v if isinstance(v, str) else f"{KINDS[f].label} {v:g}" for f, v in changes.items()
        )
        return {
            "picture": number,
            "set": changes,
            "name": ", ".join(filter(None, (row.name if row.key else "", name))),
        }

    def _picture(self, visit: Visit, picture: Picture) -> dict:
        column = picture.column
        if picture.identity in visit.told:
            return visit.told[picture.identity]
        if column is None:
            return {"state": "missing"}
        if not picture.done:
            return {"state": column.state, "reason": column.reason}
        if picture.identity not in visit.small:
            visit.small[picture.identity] = data_uri(column.image, SIDE)
        found = visit.readings.outcome(picture)
        reference = visit.grid.reference(picture)
        beside = reference is not None and reference.done and reference is not picture
        said = {
            "state": "done",
            "preview": visit.small[picture.identity],
            "reference": visit.small.get(reference.identity, "") if beside else "",
            "difference": round(mean_difference(column.image, reference.column.image), 1)
            if beside
            else None,
            "outcome": found.kind if found else "",
            "told": told(found) if found else "",
            "share": found.share if found else None,
            "changed": list(found.changed) if found else [],
            "time": _time(column),
            "cell": cells.cell(
                Run(column.run or "grid", visit.grid.preset, picture.request, [column]), column
            ),
        }
        if reference is None or reference.done:  # else it is told again, with what it is beside
            visit.told[picture.identity] = said
        return said


def _time(column: Column) -> str:
    many = f", with {len(column.together) - 1} other seeds" if column.together else ""
    return f"{column.seconds:.2f} s{many}"


def _take_over(grid: Grid, before: Grid) -> None:
    """Pictures that the grid before this one has already."""
    drawn = {p.identity: p.column for p in before.pictures if p.done}
    for picture in grid.pictures:
        picture.column = drawn.get(picture.identity)


def _text(data: dict, name: str, default: str) -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or len(value) > 2000:
        raise Refused(f"{name} must be text of at most 2000 characters.")
    return value


def _counted(grid: Grid, readings: Readings) -> list[dict | None]:
    """For each row of columns what was counted over its seeds, with a sentence."""
    words, found = readings.words(), count(grid, readings) if readings.meter else {}
    rows: list[dict | None] = []
    for line in grid.down:
        one = found.get(line.key)
        if one is None or not words:
            rows.append(None)
            continue
        rows.append(one | {"word": words, "text": sentence(words, METHODS[line.key].name, one)})
    return rows


def _verdict(grid: Grid, readings: Readings) -> dict | None:
    """How many cells are rid of it, and which of them is nearest to the un-guided picture."""
    words = readings.words()
    shown = [(p, y, x) for y, row in enumerate(grid.cells) for x, p in enumerate(row) if p.done]
    if not words or not shown:
        return None
    outcomes = {p.identity: readings.outcome(p) for p, _, _ in shown}
    if all(found is None or found.kind == "absent" for found in outcomes.values()):
        return {"sign": "", "head": f"There was no {words} to remove.", "text": "", "best": None}
    gone = [one for one in shown if outcomes[one[0].identity].kind == "gone"]
    if not gone:
        head = f"The {words} stays in all {len(shown)}, or something else takes its place."
        return {"sign": "left", "head": head, "text": "", "best": None}
    head = f"No {words} in {len(gone)} of {len(shown)}."

    def change(one) -> float:
        return mean_difference(one[0].column.image, grid.reference(one[0]).column.image)

    gentle = min(gone, key=change)
    text = f"The one that changes least of the rest differs by {change(gentle):.0f} of 255."
    return {"sign": "gone", "head": head, "text": text, "best": gentle[1:]}


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _zip(visit: Visit, page) -> bytes:
    """The sheet, every picture, and what made them."""
    buffer, grid = io.BytesIO(), visit.grid
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("grid.png", _png(page))
        rows = []
        for y, row in enumerate(grid.cells):
            for x, picture in enumerate(row):
                if not picture.done:
                    continue
                name = f"{y + 1:02}-{x + 1:02}.png"
                archive.writestr(name, _png(picture.column.image))
                made = picture.request.model_dump(mode="json")
                rows.append({**made, "file": name, "guidance": picture.key})
        about = {"corner": visit.corner, "preset": grid.preset.name, "cells": rows}
        archive.writestr("grid.json", json.dumps(about, indent=1, ensure_ascii=False))
    return buffer.getvalue()


def fields_of(preset: Preset) -> dict:
    """What the room's own fields begin with: values around the preset's own."""
    scale = preset.settings.get("nag_scale", Request.model_fields["nag_scale"].default)
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
