"""The rooms as an API: one parameter a setting, beside those of the room itself.

What was drawn for one call is there for the next, so a sweep that was stopped goes on where it
was.
"""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr
from gradio.data_classes import FileData

from ... import presets
from ...engine.reuse import LeastRecentlyUsed
from ...engine.run import Run, identity
from ...errors import NAGRuntimeError, Refused
from ...explore import inside
from ...explore.axis import KINDS, parse
from ...explore.command import count
from ...explore.grid import Grid, Line, corner, lines, sides
from ...explore.reading import Readings
from ...explore.store import told_of
from ...explore.votes import QUESTIONS, VoteFile, tally
from ...methods import METHODS
from ...request import SETTINGS, Value
from .. import offline
from ..api import Endpoints
from ..arguments import check, checked
from ..blocks import ENGINE
from ..controls import PRESETS
from ..files import FOLDER, file_data
from ..grid_value import ROOM, GridValue
from ..handlers import PageHandlers, begun_with
from .asked import Asked

if TYPE_CHECKING:
    from PIL import Image

    from ...xray import XRay

Setting = Literal[tuple(KINDS)]
Column = Literal[tuple(METHODS)]
NO_FILE = (
    "Votes end with each visit here: they are kept, and can be counted, where the owner starts the "
    "page with --votes FILE."
)


class RoomEndpoints:
    """The functions of the rooms' API. They are called with what was asked of the page's fields,
    and with parameters of their own, which Gradio and MCP are told by `typed`."""

    def __init__(self, handlers: PageHandlers, votes: Path | None = None) -> None:
        self.handlers, self.votes = handlers, votes
        # of everybody: the same would be drawn for all
        self.grids = LeastRecentlyUsed(8, ROOM, 3600)
        self.recordings = LeastRecentlyUsed(16, 256 * 2**20, 3600)

    def sweep(
        self,
        request: gr.Request,
        asked: Asked,
        across: Setting,
        across_values: str,
        down: Setting | None = None,
        down_values: str = "",
        column: Column = "nag",
    ) -> tuple[dict, FileData]:
        """Draw two settings against each other, on one noise.

        The same call goes on where one was stopped. Whatever is left out is the preset's own.

        Args:
            across: The setting that varies from left to right.
            across_values: Values "2, 5, 10", a range ".25, .4 .. 1", or words "hat | beard".
            down: The setting that varies from top to bottom; one row if left out.
            down_values: Its values, written the same way.
            column: The way to guide.

        Returns:
            Settings, heads, and of every cell what became of the unwanted thing in it.
            The sweep as one picture.
        """
        if down_values and not down:
            raise Refused("down_values go with down: name the setting that they are of.")
        axes = parse(across, across_values), parse(down, down_values) if down else None
        columns, rows = sides(*axes)
        shown = self._grid(request, asked, "sweep", columns, rows, corner(*axes), column)
        return told_of(shown.grid, shown.readings), self._sheet(shown)

    def seeds(
        self, request: gr.Request, asked: Asked, seeds: str = "1 .. 8"
    ) -> tuple[dict, FileData]:
        """Draw every column on many seeds, and count what became of the unwanted thing.

        One picture proves nothing. Of the settings, `seed` is not used here.

        Args:
            seeds: Seeds "1, 5, 9", or a range "1 .. 8".

        Returns:
            What became of every cell; "counted" has shares, 95 % intervals, paired differences.
            All of it as one picture.
        """
        rows = [Line(METHODS[key].label, {}, key) for key in asked.request.guidance]
        across = lines(parse("seed", seeds))
        shown = self._grid(request, asked, "seeds", across, rows, "seed", "nag")
        counted = count(shown.grid, shown.readings) if shown.readings.words() else {}
        return told_of(shown.grid, shown.readings, counted=counted), self._sheet(shown)

    def xray(
        self,
        request: gr.Request,
        asked: Asked,
        at_scale: float | None = None,
        at_tau: float | None = None,
        at_alpha: float | None = None,
    ) -> tuple[dict, FileData]:
        """Record how far NAG pushes attention in every layer and step, and how much tau cuts.

        Another call with other at_... reads the same recording, and draws nothing.

        Args:
            at_scale: Read it at this NAG scale: an estimate but for the first layer and step.
            at_tau: Read it at this tau, the same.
            at_alpha: Read it at this alpha, the same.

        Returns:
            Shares of clipped patches, mean R and change, by layer and step; what is suggested.
            The shares as one picture.
        """
        moved = {"nag_scale": at_scale, "nag_tau": at_tau, "nag_alpha": at_alpha}
        pairs = [f"{name}={value}" for name, value in moved.items() if value is not None]
        there = inside.at(pairs, asked.preset, asked.request)
        inside.check(asked.request)
        only = inside.only_nag(asked.request)
        start = asked.start
        key = identity(Run("xray", asked.preset, only, [], start=start), "nag")
        xray = self.recordings.get(key)
        if xray is None:
            xray = self._record(request, asked, only, start)
            self.recordings.put(key, xray, xray.nbytes)
        told = inside.told_of(xray, asked.preset, asked.request, there)
        picture = inside.heat_map(told)
        name = f"xray-{uuid.uuid4().hex[:12]}.png"
        path = FOLDER.write(name, lambda path: picture.save(path, "PNG"))
        return told, FileData(**file_data(path, "image/png"))

    def tally(self, column: Column = "nag") -> dict:
        """Count the blind votes that the owner of this server keeps.

        Args:
            column: The column whose wins are counted, against all others.

        Returns:
            For each question wins, losses, draws, the paper's score, and a 95 % interval of wins.
        """
        if self.votes is None:
            raise Refused(NO_FILE)
        votes = VoteFile(self.votes).read()
        return {question: tally(votes, question, column).json() for question in QUESTIONS}

    def _grid(
        self,
        request: gr.Request,
        asked: Asked,
        name: str,
        across: list[Line],
        down: list[Line],
        heads: str,
        column: str,
    ) -> GridValue:
        """A grid, drawn to its end. Raises `NAGRuntimeError` where nothing of it could be drawn."""
        settings = asked.request.model_dump_json()
        key = name, asked.preset.name, settings, asked.picture, str(across), str(down), column
        shown = self.grids.get(key)
        if shown is None:
            grid = Grid(asked.preset, asked.request, across, down, column, asked.start)
            shown = GridValue(name, grid, Readings(grid), heads)
        try:
            drawn = list(
                shown.grid.draw(Listened(self.handlers, request), run_id=uuid.uuid4().hex[:12])
            )
        finally:  # what is there stays, for a call that goes on
            self.grids.put(key, shown, min(shown.size, ROOM))
        if drawn and not any(picture.done for picture in drawn):
            raise NAGRuntimeError(drawn[0].column.reason)
        return shown

    def _sheet(self, shown: GridValue) -> FileData:
        name = f"{shown.name}-{uuid.uuid4().hex[:12]}.png"
        path = FOLDER.write(name, lambda path: path.write_bytes(offline.grid_png(shown)))
        return FileData(**file_data(path, "image/png"))

    def _record(
        self, request: gr.Request, asked: Asked, only: presets.Request, start: Image.Image | None
    ) -> XRay:
        from ...xray import XRay

        engine, run_id = Listened(self.handlers, request), uuid.uuid4().hex[:12]
        *_, (run, _, _) = engine.run(asked.preset, only, None, run_id, start, XRay())
        return inside.recording_of(run)


class Listened:
    """The rooms' engine, whose runs end when the caller has left. See `Engine.run`."""

    def __init__(self, handlers: PageHandlers, request: gr.Request) -> None:
        self.handlers, self.listener = handlers, request.session_hash

    def run(
        self,
        preset: presets.Preset,
        request: presets.Request,
        stop: threading.Event | None,
        run_id: str,
        *more: Any,
        **named: Any,
    ) -> Iterator[Any]:
        """Raises `NAGRuntimeError` where nobody listens any more."""
        events = self.handlers.rooms.run(preset, request, stop, run_id, *more, **named)
        try:
            yield from self.handlers.listened(events, run_id, self.listener)
        finally:
            events.close()


def typed(function: Callable, without: tuple[str, ...] = ()) -> Callable:
    """`function(request, asked, **own)` as an endpoint: its own parameters, then those of /draw but
    `without`, each with its hint and its line of help."""
    own = inspect.signature(function, eval_str=True)
    drawn = inspect.signature(Endpoints.draw, eval_str=True)
    mine = {n: p for n, p in own.parameters.items() if n not in ("self", "request", "asked")}
    theirs = {n: p for n, p in drawn.parameters.items() if n not in ("self", "request", *without)}
    names = [*mine, *theirs]

    def endpoint(request: gr.Request, *values: Value) -> Any:
        given = dict(zip(names, values, strict=False))
        raw = {n: given[n] for n in ("preset", *SETTINGS) if given.get(n) is not None}
        preset, asked = presets.resolve(raw, PRESETS)
        picture = begun_with(preset, given.get("start_picture"))
        own = {n: given[n] for n in mine if n in given}
        check(function, own)
        return function(request, Asked(preset, asked, picture), **own)

    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = inspect.Parameter("request", keyword, annotation=gr.Request)
    parameters = [first, *(p.replace(kind=keyword) for p in (mine | theirs).values())]
    endpoint.__signature__ = inspect.Signature(parameters, return_annotation=own.return_annotation)
    endpoint.__annotations__ = {p.name: p.annotation for p in parameters}
    endpoint.__annotations__["return"] = own.return_annotation
    endpoint.__name__ = endpoint.__qualname__ = function.__name__
    endpoint.__doc__ = _documented(function, theirs)
    return endpoint


def _documented(function: Callable, names: dict) -> str:
    """A docstring with the lines of /draw for `names` among its arguments."""
    told = inspect.getdoc(Endpoints.draw).partition("Args:")[2].partition("Returns:")[0]
    more = [line for line in told.splitlines() if line.strip().partition(":")[0] in names]
    head, args, tail = inspect.getdoc(function).partition("\n\nReturns:")
    return "\n".join([head, *more]) + args + tail


def add_api(handlers: PageHandlers, votes: Path | None = None) -> None:
    """Adds the rooms' endpoints to the gr.Blocks that is being built."""
    api, turn = RoomEndpoints(handlers, votes), {"concurrency_id": ENGINE, "concurrency_limit": 1}
    gr.api(typed(api.sweep, ("guidance", "batched", "fresh")), api_name="sweep", **turn)
    gr.api(typed(api.seeds, ("seed", "batched", "fresh")), api_name="seeds", **turn)
    gr.api(typed(api.xray, ("guidance", "batched", "fresh")), api_name="xray", **turn)
    gr.api(checked(api.tally), api_name="tally")
