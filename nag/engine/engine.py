"""One request -> its columns, one by one, from the same starting noise, with progress.

    engine = Engine()
    for run, column, preview in engine.run(preset, request, stop):  # see `Engine.run`
        ...

Sampling runs in a thread of its own; the generator only reads a queue. Closing the generator (a
closed tab) or setting `stop` ends the sampling within one step. torch and diffusers are loaded by
the first run.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import NAGRuntimeError, NAGValueError, Refused, Stopped, unexpected
from ..presets import Preset
from ..request import Request
from . import words
from .drawing import Drawing, Tell
from .loading import Loaded, PipelineCache, import_libraries
from .reuse import LeastRecentlyUsed
from .run import OVER, Column, Run, identity, size_of
from .verdict import judge

if TYPE_CHECKING:
    from PIL import Image

    from ..xray import XRay

log = logging.getLogger("nag")
NOT_MEASURED = "The pictures could not be measured; the log says why."

# (the run, a column that changed or None, a small PIL image of it or None)
Event = tuple[Run, Column | None, "Image.Image | None"]


class Engine:
    """One pipeline at a time, one run at a time.

    Finished columns are kept for an hour after their last use, up to `KEPT` (columns, bytes), and
    shown again when all that decides their picture is the same: whoever asks for it would get these
    very bytes, only later. Failed and stopped columns are not kept. With `batched`, columns are
    shown again whether they were drawn alone or with others, in whatever company: the same but for
    rounding.
    """

    KEPT = 64, 512 * 2**20

    def __init__(self, shelf: PipelineCache | None = None, previews: bool = True) -> None:
        self.shelf, self.lock, self.previews = shelf or PipelineCache(), threading.Lock(), previews
        # (identity, drawn with others) -> (column, device, dtype); the lock guards it
        self.kept = LeastRecentlyUsed(*self.KEPT, 3600)

    @property
    def busy(self) -> bool:
        return self.lock.locked()

    def run(
        self,
        preset: Preset,
        request: Request,
        stop: threading.Event | None = None,
        run_id: str = "run",
        image: Image.Image | None = None,
        record: XRay | None = None,
        seeds: Sequence[int] = (),
        previews: bool = True,
    ) -> Iterator[Event]:
        """Yields whenever something changed; the last one has `run.over`.

        `image` is the PIL image that an image-to-image or image-to-video preset begins with,
        `record` the nag.XRay in which the column with NAG is recorded. With `seeds`, the columns
        are the request's only way of guiding on each of them, drawn in one pipeline call where the
        model allows it: the pictures of single calls, but for rounding.
        previews: False where nobody sees them. Settings are what they were when called. Raises
        `Refused` when the model does not load or has no picture to begin with.
        """
        if preset.image and image is None:
            raise Refused(f"{preset.title} begins with a picture: give it one.")
        steps, keys = request.num_inference_steps, request.guidance
        columns = [Column(key, steps) for key in keys]
        if seeds:
            if len(keys) != 1:
                raise NAGValueError(f"One way of guiding goes with seeds, got {', '.join(keys)}.")
            columns = [Column(keys[0], steps, seed=seed) for seed in seeds]
        run = Run(
            run_id,
            preset,
            request,
            columns,
            start=fitted(image, request.width, request.height) if preset.image else None,
            record=record,
        )
        stop, events = stop or threading.Event(), queue.SimpleQueue()
        work = threading.Thread(
            target=self._work,
            args=(run, stop, events, previews),
            name=f"sample {run_id}",
            daemon=True,
        )
        work.start()
        try:
            yield from _until_the_end(run, events)
        finally:
            # not joined: a web server closes generators on its event loop, and the lock already
            # serialises the runs
            stop.set()

    def _work(
        self, run: Run, stop: threading.Event, events: queue.SimpleQueue, previews: bool
    ) -> None:
        """The sampling thread: puts (column, preview), then an error or None."""

        def tell(column: Column, preview: Image.Image | None = None) -> None:
            events.put((column, preview))

        ended = None
        try:
            with self._held(stop):
                self._sample(run, stop, tell, previews)
        except BaseException as error:  # whatever ends this thread, somebody waits for it
            ended = error
        events.put(ended)

    @contextlib.contextmanager
    def _held(self, stop: threading.Event) -> Iterator[None]:
        while not self.lock.acquire(timeout=0.1):
            if stop.is_set():
                raise Stopped
        try:
            yield
        finally:
            self.lock.release()

    def _sample(self, run: Run, stop: threading.Event, tell: Tell, previews: bool) -> None:
        """Everything that needs the lock: load, warm up, the columns, the verdict."""
        import_libraries()
        if not run.request.fresh:
            self._recall(run)
        missing = [column for column in run.columns if not column.reused]
        loaded, remark = self._load(run, missing, tell), ""
        if missing:
            shown = self.previews and previews
            remark = Drawing(loaded, run, stop, tell, shown).draw(missing)
            self._keep(run, missing)
        _conclude(run, loaded, remark)

    def _load(self, run: Run, missing: list[Column], tell: Tell) -> Loaded | None:
        """The model, where there is something to draw or to measure."""
        for column in missing:
            column.state = "loading"
        tell(run.columns[0])
        loaded = self.shelf.get(run.preset) if missing or run.preset.meter else None
        for column in missing:
            column.state = "queued"
            run.device = ", ".join(filter(None, (loaded.device, loaded.placement)))
            run.dtype = loaded.dtype
        return loaded

    def _recall(self, run: Run) -> None:
        """Puts the columns that are kept in their places."""
        for place, column in enumerate(run.columns):
            shared = run.request.batched or column.seed is not None
            for together in (False, True)[: 1 + shared]:
                if found := self.kept.get((identity(run, column.key, column.seed), together)):
                    kept, run.device, run.dtype = found
                    run.columns[place] = replace(kept, reused=True, seed=column.seed)
                    break

    def _keep(self, run: Run, drawn: list[Column]) -> None:
        """Finished columns, but for a video that could not be coded: that is tried again."""
        for column in drawn:
            if column.state == "done" and (column.video or not column.frames):
                key = identity(run, column.key, column.seed), bool(column.together)
                self.kept.put(key, (replace(column), run.device, run.dtype), size_of(column))


def _until_the_end(run: Run, events: queue.SimpleQueue) -> Iterator[Event]:
    """The events of a run until it is over. Raises what ended it."""
    while isinstance(event := events.get(), tuple):
        yield run, *event
    if event is not None:
        state = "stopped" if isinstance(event, Stopped) else "failed"
        for column in run.columns:
            column.state = column.state if column.state in OVER else state
    if isinstance(event, Stopped):  # before it began
        event = None
    if isinstance(event, Exception):
        raise event
    if event is not None:  # SystemExit and its kind end a thread, not the one who waits for it
        log.error("run %s", run.id, exc_info=event)
        raise NAGRuntimeError(unexpected(event, run.id, "This run")) from event
    run.over = True
    yield run, None, None


def _conclude(run: Run, loaded: Loaded | None, remark: str) -> None:
    """What is said under the pictures. remark: of how they were drawn."""
    try:
        seeds = any(column.seed is not None for column in run.columns)
        for one in [replace(run, columns=[c]) for c in run.columns] if seeds else [run]:
            judge(loaded.meter if loaded else None, one)
    except Exception:
        log.exception("run %s: the pictures could not be measured", run.id)
        run.hint = NOT_MEASURED
    unread = words.remark(run)
    if unread:
        log.warning("run %s: %s", run.id, unread)
    run.hint = " ".join(filter(None, (run.hint, unread, remark)))
    if run.verdict:
        run.verdict["text"] = " ".join(filter(None, (run.verdict["text"], unread, remark)))


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """A PIL image cut to the shape asked for, around its middle, and scaled to it."""
    from PIL import ImageOps

    return ImageOps.fit(image.convert("RGB"), (width, height))
