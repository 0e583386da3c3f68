"""X-ray: how far each layer and step pushes the picture, and what tau cuts of it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gradio as gr

from ... import private
from ...engine.reuse import LeastRecentlyUsed
from ...errors import Refused
from ...explore.inside import check, recording_of
from ...request import Value
from .. import cells, offline
from ..files import FOLDER, file_data
from ..xray_value import recorded
from .asked import asked as asked_for

if TYPE_CHECKING:
    from ..zero_gpu import LentEngine

SAVED = {  # what is made, how its file ends, its media type
    "picture": (offline.xray_png, "png", "image/png"),
    "zip": (offline.xray_zip, "zip", "application/zip"),
    "html": (offline.xray_page, "html", "text/html"),
}


class XRayRoom:
    """Draws the column with NAG once, recorded. engine: see `nag.engine.engine`."""

    def __init__(self, engine: LentEngine) -> None:
        self.engine, self.stops = engine, {}
        self.last = LeastRecentlyUsed(32, 256 * 2**20, 3600)  # visitor -> (recording, run)

    def draw(self, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values: the run's steps, then the recording. Raises `Refused`."""
        from ...xray import XRay

        found = asked_for(values, guidance=["nag"], fresh=True)
        preset, asked, start = found.preset, found.request, found.start
        check(asked)
        session, stop, run_id = request.session_hash, threading.Event(), uuid.uuid4().hex[:12]
        self.halt(request)  # of two recordings of one visitor the newer one counts
        self.stops[session] = stop
        events = self.engine.run(preset, asked, stop, run_id, start, XRay())
        try:
            yield {"state": "running", "step": 0, "total": asked.num_inference_steps}
            with contextlib.closing(events):
                for run, column, _ in events:  # noqa: B007
                    if column is not None and column.state == "step":
                        yield {"state": "running", "step": column.step, "total": column.total}
        finally:
            if self.stops.get(session) is stop:
                del self.stops[session]
        if run.columns[0].state == "stopped":
            yield {"state": "empty"}
            return
        xray = recording_of(run)
        self.last.put(session, (xray, run), xray.nbytes)
        yield recorded(xray, run)

    def halt(self, request: gr.Request) -> None:
        """Stops within a step."""
        if stop := self.stops.get(request.session_hash):
            stop.set()

    def ended(self, request: gr.Request) -> dict:
        """The room's value after a run that ended with an error: the recording before it."""
        last = self.last.get(request.session_hash)
        return recorded(*last) if last else {"state": "empty"}

    def export(self, event: gr.EventData, request: gr.Request, *values: Value) -> dict:
        """The last recording in a file, read at the settings of the page -> the room's value, with
        the file. Raises `Refused`."""
        last, kind = self.last.get(request.session_hash), private.event_data(event).get("export")
        if last is None:
            raise Refused("There is nothing to save yet: record a picture first.")
        if kind not in SAVED:
            raise Refused(f"An X-ray is saved as {', '.join(SAVED)}; got {kind!r:.40}.")
        write, suffix, media = SAVED[kind]
        there = asked_for(values).request if values else last[1].request
        prompt = cells.slug(last[1].request.prompt, 40)
        name = f"xray-{prompt}-{uuid.uuid4().hex[:6]}.{suffix}"
        path = FOLDER.write(name, lambda path: path.write_bytes(write(*last, there)))
        return recorded(*last) | {"file": file_data(path, media)}
