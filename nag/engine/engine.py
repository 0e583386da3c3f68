"""One request -> its columns, one by one, from the same starting noise, with progress. Knows no page and loads no model itself.

    engine = Engine()
    for event in engine.run(preset, request, stop):       # dictionaries, see `Engine.run`
        ...

Sampling runs in a thread of its own; the generator only reads a queue. Closing the generator (a closed tab) or setting
`stop` ends the sampling within one step. torch and diffusers are loaded by the first run.
"""

import contextlib
import logging
import queue
import threading
import time
from dataclasses import replace

from ..errors import NAGError, NAGRuntimeError, Refused, Stopped, out_of_memory, unexpected
from ..media import video
from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from . import words, work
from .call import call_pipeline
from .loading import Loaded, PipelineCache, import_libraries
from .memory import free_memory
from .previews import Previews
from .reuse import LeastRecentlyUsed
from .run import Column, Run, identity, size_of
from .verdict import judge

log = logging.getLogger("nag")
DEADLINE = 30 * 60  # seconds that one run may take


class OutOfTime(NAGRuntimeError):
    """The run took longer than `DEADLINE`."""


def _together(columns: list[Column]) -> list[list[Column]]:
    """Which columns can be rows of one call: those without CFG, and those with it, for that is switched for a whole call. In each, the
    guided one is the last. The rivals change attention in ways of their own, and stay alone."""
    rivals = [c for c in columns if METHODS[c.key].research]
    others = sorted((c for c in columns if c not in rivals), key=lambda c: METHODS[c.key].attention)
    shared = [[c for c in others if METHODS[c.key].cfg is cfg] for cfg in (False, True)]
    return [group for group in shared if group] + [[c] for c in rivals]


def _apart(loaded: Loaded) -> str:
    """Why this model draws its columns one after another, in a sentence, or ""."""
    from .. import families

    if loaded.preset.image:
        return "Columns that begin with a picture are drawn one after another."
    if loaded.preset.batch == 1:
        return "This model draws other pictures from several prompts in a call than from one, so the columns were drawn one after another."
    if families.supports(loaded.pipe)[0] and families.find(loaded.pipe).rows:
        return "This model takes texts of different length one by one, so the columns were drawn one after another."
    return ""


class Engine:
    """One pipeline at a time, one run at a time.

    Finished columns are kept for an hour after their last use, up to `KEPT` (columns, bytes), and shown again when all that decides
    their picture is the same: whoever asks for it would get these very bytes, only later. Failed and stopped columns are not kept.
    With `batched`, columns are shown again whether they were drawn alone or with others, in whatever company: the same but for rounding.
    """

    KEPT = 64, 512 * 2**20

    def __init__(self, shelf: PipelineCache | None = None, previews: bool = True):
        self.shelf, self.lock, self.previews = shelf or PipelineCache(), threading.Lock(), previews
        self.kept = LeastRecentlyUsed(
            *self.KEPT, 3600
        )  # (identity, drawn with others) -> (column, device, dtype); the lock guards it

    @property
    def busy(self) -> bool:
        return self.lock.locked()

    def run(
        self,
        preset: Preset,
        request: Request,
        stop: threading.Event | None = None,
        run_id: str = "run",
        image=None,
        record=None,
    ):
        """Yields `(run, column or None, preview or None)` whenever something changed; the last one has `run.over`.

        `preview` is a small PIL image; `image` the PIL image that an image-to-image or image-to-video preset begins with.
        Settings are what they were when called. Raises `Refused` when the model does not load or has no picture to begin with.
        """
        if preset.image and image is None:
            raise Refused(f"{preset.title} begins with a picture: give it one.")
        stop, events = stop or threading.Event(), queue.Queue()
        run = Run(
            run_id,
            preset,
            request,
            [Column(key, request.num_inference_steps) for key in request.guidance],
            start=fitted(image, request.width, request.height) if preset.image else None,
            record=record,
        )

        def work():
            try:
                with self._held(stop):
                    self._sample(
                        run, stop, lambda column, preview=None: events.put((column, preview))
                    )
            except Exception as error:
                events.put(error)
            finally:
                events.put(None)

        worker = threading.Thread(target=work, name=f"sample {run_id}", daemon=True)
        worker.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield run, *event
            run.over = True
            yield run, None, None
        finally:
            stop.set()  # not joined: a web server closes generators on its event loop, and the lock already serialises the runs

    @contextlib.contextmanager
    def _held(self, stop):
        while not self.lock.acquire(timeout=0.1):
            if stop.is_set():
                raise Stopped
        try:
            yield
        finally:
            self.lock.release()

    def _sample(self, run: Run, stop: threading.Event, tell) -> None:
        """Everything that needs the lock: load, warm up, the columns, the verdict."""
        import_libraries()
        if not run.request.fresh:
            self._recall(run)
        missing = [column for column in run.columns if not column.reused]
        for column in missing:
            column.state = "loading"
        tell(run.columns[0])
        loaded = self.shelf.get(run.preset) if missing or run.preset.meter else None
        if missing:
            run.device, run.dtype = (
                ", ".join(filter(None, (loaded.device, loaded.placement))),
                loaded.dtype,
            )
        until = time.monotonic() + DEADLINE  # a first download does not count
        for column in missing:
            column.state = "queued"
        calls, remark = self._calls(loaded, run, missing)
        coders = []
        while calls:
            columns = calls.pop(0)
            if stop.is_set():
                for column in columns:
                    column.state = "stopped"
                continue
            if not self._draw(loaded, run, columns, stop, until, tell):
                remark = "The columns could not be drawn together (the log says why), so they were drawn one after another."
                calls[:0] = [[column] for column in columns]
                continue
            for column in columns:
                tell(column)
                if column.frames:
                    coders.append(
                        threading.Thread(target=_encode, args=(run, column, tell), daemon=True)
                    )
                    coders[-1].start()
                    if loaded.device == "cpu":  # or the next column would pay for it
                        coders[-1].join()
        for coder in coders:
            coder.join()
        for column in missing:
            if column.state == "done" and (
                column.video or not column.frames
            ):  # a video that could not be coded is tried again
                key = identity(run, column.key), bool(column.together)
                self.kept.put(key, (replace(column), run.device, run.dtype), size_of(column))
        try:
            judge(loaded.meter if loaded else None, run)
        except Exception:
            log.exception("run %s: the pictures are there, but could not be measured", run.id)
        unread = words.remark(run)
        if unread:
            log.warning("run %s: %s", run.id, unread)
        run.hint = " ".join(filter(None, (run.hint, unread, remark)))
        if run.verdict:
            run.verdict["text"] = " ".join(filter(None, (run.verdict["text"], unread, remark)))

    def _recall(self, run: Run) -> None:
        """Puts the columns that are kept in their places."""
        for place, column in enumerate(run.columns):
            for together in (False, True)[: 1 + run.request.batched]:
                if found := self.kept.get((identity(run, column.key), together)):
                    kept, run.device, run.dtype = found
                    run.columns[place] = replace(kept, reused=True)
                    break

    def _calls(self, loaded, run: Run, missing: list[Column]) -> tuple[list[list[Column]], str]:
        """The columns of each pipeline call, and what there is to say about that."""
        alone = [[column] for column in missing]
        if not run.request.batched or not missing or len(run.columns) == 1:
            return alone, ""
        if all(len(columns) == 1 for columns in _together(run.columns)):
            return (
                alone,
                "No two of these columns can share a call: no guidance goes with NAG, and CFG with CFG + NAG.",
            )
        if reason := _apart(loaded):
            return alone, reason
        return sorted(_together(missing), key=lambda columns: min(map(missing.index, columns))), ""

    def _draw(self, loaded: Loaded, run: Run, columns: list[Column], stop, until, tell) -> bool:
        """Draws the columns of one pipeline call. False where several failed together: one of them may be the cause, or the lack of room for
        all, so each is to be tried alone."""
        request, previews, keys = (
            run.request,
            Previews(loaded, run.request, len(columns)),
            tuple(column.key for column in columns),
        )
        try:
            warm = (request.width, request.height, request.num_frames, keys)
            for column in columns:
                column.state = "step"
                tell(column)
            if (
                warm not in loaded.warm
            ):  # the first call of a size pays for caches that are nobody's guidance

                def one_step(step, latents):
                    if self.previews:
                        previews.draw(latents)
                    raise Stopped

                with work.counted(loaded.pipe) as operations, contextlib.suppress(Stopped):
                    call_pipeline(loaded, run, keys, one_step)
                if len(keys) == 1:
                    loaded.operations[warm[:3], keys[0]] = operations()
                _put_back(loaded)
                loaded.warm.add(warm)
            previews.wait()

            def on_step(step, latents):
                made = previews.make(latents) if self.previews else [None] * len(columns)
                for column, preview in zip(columns, made, strict=True):
                    column.step = step
                    column.state = "step" if step < column.total else "decoding"
                    tell(column, preview)
                if stop.is_set():
                    raise Stopped
                if time.monotonic() > until:
                    raise OutOfTime(
                        f"The run took more than {DEADLINE // 60} minutes and was ended."
                    )

            results, watch = call_pipeline(loaded, run, keys, on_step)
            if self.previews:
                previews.learn(watch.latents, [frames[len(frames) // 2] for frames in results])
            for column, frames, sha256, spread in zip(
                columns, results, watch.sha256, watch.spread(len(columns)), strict=True
            ):
                nag = run.request.attention(column.key) is not None
                column.together, column.seconds, column.latents_sha256, column.spread = (
                    keys if len(keys) > 1 else (),
                    watch.seconds,
                    sha256,
                    spread,
                )
                if not column.together:  # else the steps' times are of all columns together
                    column.steady, column.saved = (
                        watch.steady,
                        watch.saved if nag else None,
                    )
                texts = {name: getattr(request, name) for name in ("prompt", "negative_prompt")}
                column.cut = {name: loaded.cut.of(text) for name, text in texts.items()}
                column.guided_steps, column.step, column.run = (
                    watch.guided if nag else 0,
                    watch.step,
                    run.id,
                )
                column.operations = work.of_column(
                    loaded.operations, warm[:3], column.key, column.guided_steps, column.step
                )
                column.image, column.frames, column.state = (
                    frames[len(frames) // 2],
                    frames if len(frames) > 1 else None,
                    "done",
                )
        except Stopped:
            for column in columns:
                column.state = "stopped"
        except Exception as error:
            log.exception("run %s, column %s", run.id, ", ".join(keys))
            again = len(columns) > 1 and not isinstance(error, OutOfTime)
            for column in columns:
                if again:
                    column.state, column.step = "queued", 0
                else:
                    column.state, column.reason = "failed", _why(error, loaded, request, run.id)
            return not again
        finally:
            _put_back(loaded)
        return True


def _encode(run: Run, column: Column, tell) -> None:
    try:
        column.video = video.encode(column.frames, run.preset.fps or 16)
    except Exception:
        log.exception(
            "run %s, column %s: the frames are there, but could not be made a video",
            run.id,
            column.key,
        )
        column.reason = "The frames could not be coded as a video; the middle one is shown."
    tell(column)


def fitted(image, width: int, height: int):
    """A PIL image cut to the shape asked for, around its middle, and scaled to it."""
    from PIL import ImageOps

    return ImageOps.fit(image.convert("RGB"), (width, height))


def _put_back(loaded: Loaded) -> None:
    """A pipeline call that ended early leaves things where its last lines would have put them back."""
    loaded.pipe.maybe_free_model_hooks()  # offloaded parts off the GPU again
    vae = getattr(loaded.pipe, "vae", None)
    if (
        vae is not None and vae.dtype != loaded.vae_dtype
    ):  # SDXL decodes in float32 and returns to half only on success
        vae.to(loaded.vae_dtype)
    if loaded.device != "cpu":
        free_memory()


def _why(error: Exception, loaded: Loaded, request: Request, run_id: str) -> str:
    """What went wrong in a column and what to do, without paths or traces."""
    if isinstance(error, ArithmeticError):
        return f"The numbers left the range of {loaded.dtype}. A lower CFG or NAG scale helps, or a wider dtype in the preset."
    if out_of_memory(error):
        return (
            f"Out of memory at {request.width} x {request.height}. A smaller size helps; "
            "with CFG the batch is twice as large."
        )
    if isinstance(error, NameError) and error.name == "ftfy":  # diffusers imports it if it is there
        return "This pipeline needs one more package on this machine: pip install ftfy."
    if isinstance(error, NAGError):
        return str(error)
    return unexpected(error, run_id)


def failure(error: Exception, run_id: str) -> str:
    """A sentence for an error that ended a whole run."""
    return str(error) if isinstance(error, NAGError) else unexpected(error, run_id, "This run")
