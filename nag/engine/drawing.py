"""The columns of one run, drawn call by call: warm-up, steps, results, failures."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import NAGRuntimeError, Refused, Stopped
from ..media import metadata, video
from . import failures, work
from .call import Drawn, Row, call_pipeline
from .clock import OnStep
from .loading import Loaded
from .memory import free_memory, peak_of
from .previews import Previews
from .run import Column, Run
from .sharing import calls_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger("nag")
DEADLINE = 30 * 60  # seconds that one run may take; loading does not count
ONE_BY_ONE = (
    "The columns could not be drawn together (the log says why), so they were drawn one after "
    "another."
)
BLACKED_OUT = (
    "The model's own safety checker blacked this picture out; another seed or other words may pass."
)

# called with a column that changed, and a preview of it or None
Tell = Callable[..., None]


class OutOfTime(NAGRuntimeError):
    """The run took longer than `DEADLINE`."""


class Drawing:
    """Draws columns of a run on a loaded model, until `stop` is set."""

    def __init__(
        self, loaded: Loaded, run: Run, stop: threading.Event, tell: Tell, previews: bool = True
    ) -> None:
        self.loaded, self.run, self.stop, self.tell = loaded, run, stop, tell
        self.previews, self.until = previews, time.monotonic() + DEADLINE
        self.coders: list[threading.Thread] = []

    def draw(self, missing: list[Column]) -> str:
        """Draws columns, and fills them in. -> what there is to say about how they were drawn."""
        calls, remark = calls_of(self.loaded, self.run, missing)
        while calls:
            columns = calls.pop(0)
            if self.stop.is_set():
                _set_state(columns, "stopped")
            elif self._call(columns):
                self._finish(columns)
            else:
                remark = ONE_BY_ONE
                calls[:0] = [[column] for column in columns]
        for coder in self.coders:
            coder.join()
        return remark

    def _call(self, columns: list[Column]) -> bool:
        """Draws the columns of one pipeline call. False where several failed together: one of them
        may be the cause, or the lack of room for all, so each is to be tried alone."""
        run, previews = self.run, Previews(self.loaded, self.run.request, len(columns))
        keys = tuple(column.key for column in columns)
        try:
            for column in columns:
                column.state = "step"
                self.tell(column)
            self._warm_up(columns, previews)
            previews.wait()
            with peak_of(self.loaded.device) as peak:
                drawn = self._pipeline(columns, functools.partial(self._stepped, columns, previews))
            for i, column in enumerate(columns):
                self._fill(column, drawn, i, keys)
                column.peak = peak()
            if self.previews:
                previews.learn(drawn.clock.latents, [column.image for column in columns])
        except Stopped:
            _set_state(columns, "stopped")
        except Exception as error:
            reason = failures.of_column(error, run, keys)
            if len(columns) > 1 and not isinstance(error, OutOfTime):
                _set_state(columns, "queued")
                return False
            _set_state(columns, "failed", reason)
        finally:
            put_back(self.loaded)
        return True

    def _pipeline(self, columns: list[Column], on_step: OnStep) -> Drawn:
        request = self.run.request
        words = request.prompt, request.negative_prompt
        seeds = [request.seed if c.seed is None else c.seed for c in columns]
        rows = [Row(c.key, *words, seed) for c, seed in zip(columns, seeds, strict=True)]
        start, record = self.run.start, self.run.record
        drawn = call_pipeline(self.loaded, request, rows, on_step, start, record)
        if any(drawn.blacked_out):
            raise Refused(BLACKED_OUT)
        return drawn

    def _warm_up(self, columns: list[Column], previews: Previews) -> None:
        """The first call of a size pays for caches that are nobody's guidance: one step of it. Not
        of seeds drawn together, whose time is compared with nothing."""
        keys = tuple(column.key for column in columns)
        seeds = len(columns) > 1 and columns[0].seed is not None
        if seeds or (self._size, keys) in self.loaded.warm:
            return

        def one_step(step: int, latents: torch.Tensor) -> None:
            if self.previews:
                previews.draw(latents)
            raise Stopped

        with work.counted(self.loaded.pipe) as operations, contextlib.suppress(Stopped):
            self._pipeline(columns, one_step)
        if len(keys) == 1:
            self.loaded.operations[self._size, keys[0]] = operations()
        put_back(self.loaded)
        self.loaded.warm.add((self._size, keys))

    @property
    def _size(self) -> tuple[int, int, int]:
        request = self.run.request
        return request.width, request.height, request.num_frames

    def _stepped(
        self, columns: list[Column], previews: Previews, step: int, latents: torch.Tensor
    ) -> None:
        """After every step of a call. Raises `Stopped` and `OutOfTime`."""
        made = previews.make(latents) if self.previews else [None] * len(columns)
        for column, preview in zip(columns, made, strict=True):
            column.step = step
            column.state = "step" if step < column.total else "decoding"
            self.tell(column, preview)
        if self.stop.is_set():
            raise Stopped
        if time.monotonic() > self.until:
            raise OutOfTime(f"The run took more than {DEADLINE // 60} minutes and was ended.")

    def _fill(self, column: Column, drawn: Drawn, i: int, keys: tuple[str, ...]) -> None:
        """What one column has of a call in which it is row `i`."""
        clock, frames = drawn.clock, video.pictures(drawn.pixels[i])
        guided = self.run.request.attention(column.key) is not None
        column.latents_sha256, column.spread = clock.sha256[i], clock.spread()[i]
        column.seconds, column.step, column.run = clock.seconds, clock.step, self.run.id
        column.guided_steps = clock.guided if guided else 0
        column.operations = work.of_column(
            self.loaded.operations, self._size, column.key, column.guided_steps, column.step
        )
        column.together = keys if len(keys) > 1 else ()
        if not column.together:  # else the steps' times are of all columns together
            column.steady, column.saved = clock.steady, clock.saved if guided else None
        texts = {name: getattr(self.run.request, name) for name in ("prompt", "negative_prompt")}
        column.cut = {name: self.loaded.cut.of(text) for name, text in texts.items()}
        column.image, column.frames = frames[len(frames) // 2], frames if len(frames) > 1 else None
        column.sound = drawn.sounds[i]
        column.state = "done"

    def _finish(self, columns: list[Column]) -> None:
        """Tells what came of a call, and has its videos coded."""
        for column in columns:
            self.tell(column)
            if column.frames:
                coder = threading.Thread(target=self._encode, args=(column,), daemon=True)
                self.coders.append(coder)
                coder.start()
                if self.loaded.device == "cpu":  # or the next column would pay for it
                    coder.join()

    def _encode(self, column: Column) -> None:
        try:
            run, sound, column.sound = self.run, column.sound, None
            tags = metadata.video_tags(run.preset, run.request, column.key)
            column.video = video.encode(column.frames, run.preset.fps or 16, tags, sound)
            column.sounds = sound is not None
        except Exception:
            log.exception("run %s, column %s: no video of its frames", self.run.id, column.key)
            column.reason = "The frames could not be coded as a video; the middle one is shown."
        self.tell(column)


def _set_state(columns: list[Column], state: str, reason: str = "") -> None:
    for column in columns:
        column.state, column.reason = state, reason
        if state == "queued":
            column.step = 0


def put_back(loaded: Loaded) -> None:
    """A pipeline call that ended early leaves things where its last lines would have put them
    back."""
    loaded.pipe.maybe_free_model_hooks()  # offloaded parts off the GPU again
    vae = getattr(loaded.pipe, "vae", None)
    # SDXL decodes in float32 and returns to half only on success
    if vae is not None and vae.dtype != loaded.vae_dtype:
        vae.to(loaded.vae_dtype)
    if loaded.device != "cpu":
        free_memory()
