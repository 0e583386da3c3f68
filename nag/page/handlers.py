"""Answers the page's buttons and the API."""

from .. import presets
from ..engine.engine import Engine, failure
from ..engine.run import Column, Run
from ..errors import NAGError, Refused, Stopped
from ..media import uploads
from . import cells
from .controls import INPUTS, PRESETS
from .files import save, save_video

try:  # on a ZeroGPU Space, and before torch touches CUDA
    import spaces
except ImportError:
    spaces = None

import html
import logging
import random
import threading
import time
import uuid

import gradio as gr

log = logging.getLogger("nag")


class Click:
    """What one click asked for: frozen settings, and the way to stop it."""

    def __init__(self, preset, request, image=None):
        self.id, self.preset, self.request, self.image = (
            uuid.uuid4().hex[:12],
            preset,
            request,
            image,
        )
        self.stop, self.begun = threading.Event(), False


def on_gpu(function):
    """`spaces.GPU` where there is one: a ZeroGPU Space runs the generator in a process that holds a GPU for that long."""
    return spaces.GPU(duration=120)(function) if spaces else function


class PageHandlers:
    """Answers the page's buttons. One ticket a browser tab; the engine's lock keeps the runs apart.

    `engine` needs only `run(preset, request, stop, run_id, image)` and `busy`: a test may bring its own.
    """

    def __init__(self, engine: Engine):
        self.engine, self.tickets, self.paint = engine, {}, on_gpu(self._paint)

    def prepare(self, request: gr.Request, *values):
        *settings, lock, path = values
        raw = dict(zip(INPUTS, settings, strict=True))
        if not lock:
            raw["seed"] = random.randrange(2**32)
        try:
            preset, asked = presets.resolve(raw, PRESETS)
            ticket = Click(
                preset, asked, uploads.load(path, preset.title) if preset.image else None
            )
        except Refused as error:
            raise gr.Error(
                html.escape(str(error), quote=False), print_exception=False
            ) from None  # a toast is HTML
        older = self.tickets.pop(request.session_hash, None)
        if older:
            older.stop.set()
        self.tickets[request.session_hash] = ticket
        waiting = Run(
            ticket.id,
            ticket.preset,
            ticket.request,
            [Column(key, ticket.request.num_inference_steps) for key in ticket.request.guidance],
        )
        hint = "Waiting for another comparison to end." if self.engine.busy else ""
        return (
            cells.value(waiting, {}, {}, hint),
            gr.update(interactive=False),
            gr.update(interactive=True),
            raw["seed"],
            ticket.id,
        )

    def _paint(self, preset, request, run_id, image=None):
        """Bench values, as the run goes on. Arguments and values can be pickled: on ZeroGPU this runs in another process."""
        stop = next(
            (t.stop for t in list(self.tickets.values()) if t.id == run_id), threading.Event()
        )
        run, previews, images, videos, sent = None, {}, {}, {}, 0.0
        try:
            for run, column, preview in self.engine.run(preset, request, stop, run_id, image):
                if preview is not None:
                    previews[column.key] = cells.data_uri(preview)
                for done in run.columns:
                    if done.state == "done" and done.key not in images:
                        images[done.key] = save(run, done)
                    if done.video and done.key not in videos:
                        videos[done.key] = save_video(run, done)
                changed = (
                    preview is not None
                    or run.over
                    or column.state != "step"
                    or time.monotonic() - sent > 0.12
                )
                if changed:
                    sent = time.monotonic()
                    yield cells.value(run, previews, images, None if run.over else "", videos)
        except Refused as error:
            yield ended(run_id, preset, request, str(error))
        except Stopped:
            yield ended(run_id, preset, request, "")
        except Exception as error:
            log.exception("run %s", run_id)
            for column in run.columns if run else ():
                column.state = column.state if column.state == "done" else "failed"
            reason = failure(error, run_id)
            yield (
                cells.value(run, previews, images, reason, videos)
                if run
                else ended(run_id, preset, request, reason)
            )

    def go(self, ticket_id, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket is None or ticket.id != ticket_id or ticket.begun or ticket.stop.is_set():
            return  # stopped while it waited, or overtaken by a newer click
        ticket.begun = True
        painting = self.paint(ticket.preset, ticket.request, ticket.id, ticket.image)
        for value in painting:
            yield value
            if (
                spaces and ticket.stop.is_set()
            ):  # the other process does not see the flag; closing its generator ends it
                painting.close()
                for cell in value["cells"]:
                    cell["state"] = (
                        cell["state"] if cell["state"] in ("done", "failed") else "stopped"
                    )
                yield value
                return

    def back(self, ticket_id, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket and ticket.id != ticket_id:  # a newer click has the buttons now
            return gr.skip(), gr.skip()
        self.tickets.pop(request.session_hash, None)
        return gr.update(interactive=True), gr.update(interactive=False)

    def halt(self, request: gr.Request):
        ticket = self.tickets.get(request.session_hash)
        if ticket is None:
            return gr.skip(), gr.skip(), gr.skip()
        ticket.stop.set()
        if ticket.begun:  # its own generator paints the end
            return gr.skip(), gr.skip(), gr.skip()
        self.tickets.pop(request.session_hash, None)
        return (
            ended(ticket.id, ticket.preset, ticket.request, ""),
            gr.update(interactive=True),
            gr.update(interactive=False),
        )

    def leave(self, request: gr.Request):
        ticket = self.tickets.pop(request.session_hash, None)
        if ticket:
            ticket.stop.set()

    def api(self, settings: dict, image=None):
        """Any subset of the settings as one JSON object, and a picture where the preset begins with one -> (the run, its files in the
        order of `guidance`: PNG, or MP4 of a video)."""
        try:
            preset, request = presets.resolve(settings, PRESETS)
        except Refused as error:
            raise gr.Error(str(error), print_exception=False) from None
        try:
            start = uploads.load(image, preset.title) if preset.image else None
            for run, _, _ in self.engine.run(  # noqa: B007
                preset, request, threading.Event(), uuid.uuid4().hex[:12], start
            ):
                pass
        except NAGError as error:
            raise gr.Error(str(error), print_exception=False) from None
        done = [c for c in run.columns if c.state == "done"]
        return run.json() | {"files": [c.key for c in done]}, [
            (save_video if c.video else save)(run, c)["path"] for c in done
        ]


def ended(run_id: str, preset, request, reason: str) -> dict:
    """The bench after a run that ended as a whole: the reason once, under it."""
    state = "failed" if reason else "stopped"
    run = Run(
        run_id,
        preset,
        request,
        [Column(key, request.num_inference_steps, state) for key in request.guidance],
    )
    return cells.value(run, {}, {}, reason)
