"""A run as the page and the API are told of it, while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ..engine.run import Column, Run
from ..presets import Preset
from ..request import Request
from . import cells
from .files import save, save_video
from .inline import data_uri

if TYPE_CHECKING:
    from PIL import Image

PAUSE = 0.12  # seconds between two values that differ in a step's number alone


class Shown(NamedTuple):
    """A run at one moment, in plain values: on ZeroGPU they come from another process."""

    bench: dict  # the bench's value
    run: dict  # the run's own account, complete when it is over
    files: list[str]  # paths of what is finished
    problem: str = ""  # why the run ended as a whole


class Painting:
    """The run so far, its previews, and the files of its finished columns."""

    def __init__(self, preset: Preset, request: Request, run_id: str) -> None:
        columns = [Column(key, request.num_inference_steps) for key in request.guidance]
        self.run = Run(run_id, preset, request, columns)
        self.previews, self.images, self.videos, self.sent = {}, {}, {}, 0.0

    def update(self, run: Run, column: Column | None, preview: Image.Image | None = None) -> bool:
        """Takes in what the engine tells. -> whether it is worth telling on."""
        self.run = run
        if preview is not None:
            self.previews[column.key] = data_uri(preview)
        for done in run.columns:
            if done.state == "done" and done.key not in self.images:
                self.images[done.key] = save(run, done)
            if done.video and done.key not in self.videos:
                self.videos[done.key] = save_video(run, done)
        late = time.monotonic() - self.sent > PAUSE
        return preview is not None or run.over or late or column.state != "step"

    def shown(self, hint: str | None = "", problem: str = "") -> Shown:
        """The bench with that hint; None: the run's own."""
        self.sent = time.monotonic()
        run, images, videos = self.run, self.images, self.videos
        done = [c.key for c in run.columns if c.state == "done"]
        files = [(videos.get(key) or images[key])["path"] for key in done if key in images]
        told = run.json() | {"files": done} if run.over else _progress(run)
        return Shown(cells.value(run, self.previews, images, hint, videos), told, files, problem)

    def ended(self, reason: str) -> Shown:
        """After a run that ended as a whole: what is finished stays, the reason stands once."""
        self.run.over = True
        for column in self.run.columns:
            if column.state != "done":
                column.state = "failed" if reason else "stopped"
        return self.shown(reason, reason)


def stopped(shown: Shown) -> Shown:
    """The same run, ended from outside."""
    for cell in shown.bench["cells"]:
        if cell["state"] not in ("done", "failed"):
            cell["state"] = "stopped"
    return shown


def _progress(run: Run) -> dict:
    columns = {c.key: {"state": c.state, "steps": c.step} for c in run.columns}
    return {"schema": 1, "run": run.id, "columns": columns}
