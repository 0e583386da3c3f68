"""Answers the page's buttons and the API. Raises `NAGError`, which `blocks.Page` shows."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

import gradio as gr

from .. import presets
from ..engine import failures
from ..engine.engine import Engine
from ..errors import NAGError, NAGRuntimeError, Refused
from ..media import uploads
from ..presets import Preset
from ..request import Request, Value
from .clicks import Click, Clicks
from .controls import INPUTS, PRESETS, in_order
from .files import FOLDER
from .gate import Audience
from .keep import Keeper
from .line import address_of
from .painting import Painting, Shown, stopped
from .zero_gpu import GPUTime, LentEngine

T = TypeVar("T")
PATIENCE = 60  # seconds within which somebody must begin to listen to a run

log = logging.getLogger("nag")


class PageHandlers:
    """Answers the page's buttons and the API. One click a browser tab; the engine's lock keeps the
    runs apart.

    engine: needs only `run`, a generator with the arguments of `Engine.run`, and `busy`.
    audience: who listens; a run is ended when its listener has left.
    gpu: who lends a GPU to a run, on a ZeroGPU Space.
    """

    def __init__(
        self, engine: Engine, audience: Audience | None = None, gpu: GPUTime | None = None
    ) -> None:
        self.engine, self.audience, self.clicks = engine, audience or Audience(), Clicks()
        self.stops, self.keeper, self.gpu = {}, Keeper(), gpu or GPUTime()
        self.draw, self.rooms = self.gpu.lent(self._draw), LentEngine(engine, self.gpu)

    def prepare(self, request: gr.Request, *values: Value) -> tuple[dict, dict, dict, int, str]:
        """A click: the values of `INPUTS`, whether the seed is locked, and a start picture's path.

        -> the bench that waits, Compare, Stop, the seed, and the click's number for `go`.
        """
        *settings, lock, picture = values
        raw = dict(zip(INPUTS, settings, strict=True))
        raw["guidance"] = in_order(raw["guidance"] or ())
        if not raw["guidance"]:
            raise Refused("Tick at least one column under More.")
        if not lock:
            raw["seed"] = random.randrange(2**32)
        preset, asked = presets.resolve(raw, PRESETS)
        picture = looked_at(preset, picture)
        client = address_of(request.client and request.client.host)
        click = Click(preset, asked, picture, client)
        self.clicks.put(request.session_hash, click)
        hint = "Waiting for another comparison to end." if self.engine.busy else ""
        bench = Painting(preset, asked, click.id).shown(hint).bench
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        return bench, off, on, raw["seed"], click.id

    def go(self, click_id: str, request: gr.Request) -> Iterator[dict]:
        """The bench's values, when it is this click's turn."""
        tab = request.session_hash
        click = self.clicks.get(tab)
        if click_id in self.clicks.forgotten:
            raise Refused("This comparison waited too long and was dropped: press Compare again.")
        if click is None or click.id != click_id or click.begun:
            return  # stopped while it waited, or overtaken by a newer click
        click.begun = True
        try:
            with contextlib.closing(self._watched(click, tab)) as values:
                for shown in values:
                    if self.clicks.get(tab) is not click:
                        return  # the bench is a newer click's
                    self.keeper.put(shown)
                    yield shown.bench
        finally:
            self.clicks.pop(tab, click)

    def back(self, request: gr.Request) -> tuple[dict, dict]:
        """-> Compare and Stop, after a run; a newer click has them now, if there is one."""
        if self.clicks.get(request.session_hash):
            return gr.skip(), gr.skip()
        return gr.update(interactive=True), gr.update(interactive=False)

    def refused(self, click_id: str, request: gr.Request) -> tuple[dict, dict]:
        """-> Compare and Stop, where a click was not let wait, or ended with an error."""
        click = self.clicks.get(request.session_hash)
        if click and click.id == click_id:
            self.clicks.pop(request.session_hash, click)
        return self.back(request)

    def halt(self, request: gr.Request) -> tuple[dict, dict, dict]:
        """-> the bench, Compare and Stop, where the run had not begun: else it paints its end."""
        click = self.clicks.get(request.session_hash)
        if click is None:
            return gr.skip(), gr.skip(), gr.skip()
        if click.begun:
            click.stop.set()
            return gr.skip(), gr.skip(), gr.skip()
        self.clicks.pop(request.session_hash, click)
        bench = Painting(click.preset, click.request, click.id).ended("").bench
        return bench, gr.update(interactive=True), gr.update(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.clicks.pop(request.session_hash)

    def api(
        self, request: gr.Request, settings: dict, image: str | None = None
    ) -> Iterator[tuple[dict, list[str]]]:
        """Any subset of the settings as one JSON object, and a picture where the preset begins with
        one -> (the run, its files in the order of `guidance`: PNG, or MP4 of a video)."""
        preset, asked = presets.resolve(settings, PRESETS)
        click = Click(preset, asked, begun_with(preset, image))
        with contextlib.closing(self._watched(click, request.session_hash)) as values:
            for shown in values:
                if shown.problem:
                    raise NAGRuntimeError(shown.problem)
                self.keeper.put(shown)
                yield shown.run, shown.files

    def _watched(self, click: Click, listener: str | None) -> Iterator[Shown]:
        """The run, until it is over or was stopped, or its listener has left, or never came."""
        self.stops[click.id] = click.stop
        values = self.draw(click.preset, click.request, click.id, click.picture)
        try:
            for shown in self.listened(values, click.id, listener):
                yield shown
                if self.gpu.spaces and click.stop.is_set():  # which the other process does not see
                    yield stopped(shown)
                    return
        except NAGError as error:  # nobody listens, or no GPU was lent
            yield Painting(click.preset, click.request, click.id).ended(str(error))
        finally:
            values.close()  # on ZeroGPU, too, the end of the generator is the end of the run
            self.stops.pop(click.id, None)

    def listened(self, events: Iterator[T], run_id: str, listener: str | None) -> Iterator[T]:
        """The events of a run while its listener is there, or may still come. Raises
        `NAGRuntimeError` where nobody is."""
        begun, heard = time.monotonic(), False
        for event in events:
            away = self.audience.away(listener)
            if away and (heard or time.monotonic() - begun > PATIENCE):
                log.info("run %s: nobody listens, so it is ended", run_id)
                raise NAGRuntimeError("This run was ended: nobody listened to it any more.")
            heard = heard or not away
            yield event

    def _draw(
        self, preset: Preset, request: Request, run_id: str, picture: str | None
    ) -> Iterator[Shown]:
        """The run. On ZeroGPU in another process: arguments and values can be pickled."""
        painting = Painting(preset, request, run_id)
        stop = self.stops.get(run_id) or threading.Event()
        try:
            image = None
            if preset.image:  # decoded only now, so that a click that waits holds no picture
                image = uploads.load(picture and FOLDER.uploaded(picture), preset.title)
            events = self.engine.run(preset, request, stop, run_id, image)
            with contextlib.closing(events):
                for event in events:
                    if painting.update(*event):
                        yield painting.shown(None if painting.run.over else "")
        except Exception as error:
            if not isinstance(error, NAGError):
                log.exception("run %s", run_id)
            yield painting.ended(failures.of_run(error, run_id))


def begun_with(preset: Preset, picture: str | None) -> str | None:
    """`looked_at` for programs, whose picture is not left aside in silence."""
    if picture and not preset.image:
        raise Refused(f"{preset.title} does not begin with a picture: give it none.")
    return looked_at(preset, picture)


def looked_at(preset: Preset, picture: str | None) -> str | None:
    """The path of a start picture that can be read; None where the preset has none, whatever is
    given. Raises `Refused`."""
    if not preset.image:
        return None
    uploads.look(picture and FOLDER.uploaded(picture), preset.title)
    return picture
