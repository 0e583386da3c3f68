"""One request -> its columns, one by one, from the same starting noise, with progress. Knows no page and loads no model itself.

    engine = Engine()
    for event in engine.run(preset, request, stop):       # dictionaries, see `Engine.run`
        ...

Sampling runs in a thread of its own; the generator only reads a queue. Closing the generator (a closed tab) or setting
`stop` ends the sampling within one step. torch and diffusers are loaded by the first run.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import queue
import statistics
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import video
from .pipelines import Loaded, Shelf, explain, free_memory, import_libraries, versions
from .presets import Preset, Refused, Request
from .reuse import Kept

log = logging.getLogger("nag")
LABELS = {"none": "No guidance", "cfg": "CFG", "nag": "NAG", "cfg+nag": "CFG + NAG", "nasa": "NASA (research)", "vsf": "VSF (research)"}
PREVIEW_EVERY = 1 / 8  # seconds
PREVIEW_SHARE = .03    # of a column's time, at most
DEADLINE = 30 * 60     # seconds that one run may take


class Stopped(Exception):
    """Raised inside a pipeline to end it."""


@dataclass
class Column:
    """One way of guiding and what came of it. States: queued, loading, step, decoding, done, stopped, failed."""

    key: str
    total: int
    state: str = "queued"
    step: int = 0
    seconds: float = 0.0           # of the denoising steps alone: text, decoding and previews are the same for all
    steady: float = 0.0            # the same from medians: a step of 20 ms is easily disturbed by a browser next to it; 0: has no time of its own
    together: tuple = ()           # keys of the columns that were drawn in one call, this one's among them; `seconds` is then the call's
    image: Any = None              # PIL image, when done; of a video the middle frame
    frames: list | None = None     # PIL images, of a video
    video: bytes = b""             # the same as MP4, a little later
    reason: str = ""               # when failed
    latents_sha256: str = ""       # of the starting noise
    guided_steps: int = 0          # steps in which NAG was active
    saved: float | None = None     # share of the time that ending NAG early saved, where both kinds of steps were measured
    readings: dict = field(default_factory=dict)   # {"hat": .93}: what the meter sees of the negative prompt's words
    spread: float = 0.0            # standard deviation of the final latents: a burnt picture has a large one
    reused: bool = False           # finished in an earlier run with the same settings; its times are from then
    run: str = ""                  # the run that measured it


@dataclass
class Run:
    """A comparison, running or over."""

    id: str
    preset: Preset
    request: Request
    columns: list[Column]
    device: str = ""
    dtype: str = ""
    hint: str = ""
    over: bool = False
    start: Any = None   # PIL image that the model begins with

    def relative(self, column: Column) -> float | None:
        """Time against the un-guided column, by the medians of their steps; see `across` on when these were measured."""
        plain = next((c for c in self.columns if c.key == "none"), None)
        if plain is None or plain.state != "done" or column.state != "done" or not plain.steady or not column.steady:
            return None
        return column.steady / plain.steady

    def across(self, column: Column) -> bool:
        """Whether `relative` divides times of two runs: the machine may have been busier in one of them."""
        plain = next((c for c in self.columns if c.key == "none"), column)
        return plain.reused != column.reused or plain.run != column.run

    def json(self) -> dict:
        """What can be said about a run: no paths, no host, no user."""
        return {
            "schema": 1, "run": self.id, "preset": self.preset.name, "model": self.preset.model_name, "revision": self.preset.revision,
            "settings": self.request.model_dump(mode="json"), "device": self.device, "dtype": self.dtype,
            "columns": {c.key: {
                "state": c.state, "reused": c.reused, "steps": c.step, "seconds": None if c.together else round(c.seconds, 4),
                **({"together": {"columns": c.together, "seconds": round(c.seconds, 4)}} if c.together else {}),
                "relative_time": _rounded(self.relative(c)),
                "guided_steps": c.guided_steps, **({} if c.saved is None else {"saved_by_early_end": round(c.saved, 4)}),
                "latents_sha256": c.latents_sha256, "latents_std": round(c.spread, 4),
                **_asked(self.request, c.key), **({"reason": c.reason} if c.reason else {}),
                **({"shows": {k: round(v, 4) for k, v in c.readings.items()}} if c.readings else {}),
            } for c in self.columns},
            "hint": self.hint, "versions": versions(),
        }


def _rounded(value):
    return None if value is None else round(value, 3)


def _asked(request: Request, key: str) -> dict:
    """The settings that a column really used."""
    used = {"guidance_scale": request.guidance_scale} if "cfg" in key else {}
    if "nag" in key:
        used |= {name: getattr(request, name) for name in ("nag_scale", "nag_end", "nag_normalisation", "nag_refinement")}
        used |= {"nag_tau": request.nag_tau} if request.nag_normalisation else {}
        used |= {"nag_alpha": request.nag_alpha} if request.nag_refinement else {}
    if key in ("nasa", "vsf"):
        used |= {name: getattr(request, name) for name in (f"{key}_scale", "nag_end")}
    return used


def _identity(run: Run, key: str) -> str:
    """Of everything that decides a column's picture: columns with the same one are the same."""
    request = run.request
    used = {name: getattr(request, name) for name in ("prompt", "seed", "num_inference_steps", "width", "height", "num_frames")}
    if key != "none":
        used["negative_prompt"] = request.negative_prompt
    start = hashlib.sha256(run.start.tobytes()).hexdigest() if run.start is not None else None
    everything = [run.preset.model_dump(mode="json"), key, used, _asked(request, key), start]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _together(columns: list[Column]) -> list[list[Column]]:
    """Which columns can be rows of one call: those without CFG, and those with it, for that is switched for a whole call. In each, the
    guided one is the last. The rivals change attention in ways of their own, and stay alone."""
    shared = [[c for key in keys for c in columns if c.key == key] for keys in (("none", "nag"), ("cfg", "cfg+nag"))]
    return [group for group in shared if group] + [[c] for c in columns if c.key in ("nasa", "vsf")]


def _apart(loaded: Loaded) -> str:
    """Why this model draws its columns one after another, in a sentence, or ""."""
    from . import families

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

    def __init__(self, shelf: Shelf | None = None, previews: bool = True):
        self.shelf, self.lock, self.previews = shelf or Shelf(), threading.Lock(), previews
        self.kept = Kept(*self.KEPT, 3600)  # (identity, drawn with others) -> (column, device, dtype); the lock guards it

    @property
    def busy(self) -> bool:
        return self.lock.locked()

    def run(self, preset: Preset, request: Request, stop: threading.Event | None = None, run_id: str = "run", image=None):
        """Yields `(run, column or None, preview or None)` whenever something changed; the last one has `run.over`.

        `preview` is a small PIL image; `image` the PIL image that an image-to-image or image-to-video preset begins with.
        Settings are what they were when called. Raises `Refused` when the model does not load or has no picture to begin with.
        """
        if preset.image and image is None:
            raise Refused(f"{preset.title} begins with a picture: give it one.")
        stop, events = stop or threading.Event(), queue.Queue()
        run = Run(run_id, preset, request, [Column(key, request.num_inference_steps) for key in request.guidance],
                  start=fitted(image, request.width, request.height) if preset.image else None)

        def work():
            try:
                with self._held(stop):
                    self._sample(run, stop, lambda column, preview=None: events.put((column, preview)))
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
        while not self.lock.acquire(timeout=.1):
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
            run.device, run.dtype = ", ".join(filter(None, (loaded.device, loaded.placement))), loaded.dtype
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
                    coders.append(threading.Thread(target=_encode, args=(run, column, tell), daemon=True))
                    coders[-1].start()
                    if loaded.device == "cpu":  # or the next column would pay for it
                        coders[-1].join()
        for coder in coders:
            coder.join()
        for column in missing:
            if column.state == "done" and (column.video or not column.frames):  # a video that could not be coded is tried again
                key = _identity(run, column.key), bool(column.together)
                self.kept.put(key, (replace(column), run.device, run.dtype), _bytes(column))
        try:
            _judge(loaded.meter if loaded else None, run)
        except Exception:
            log.exception("run %s: the pictures are there, but could not be measured", run.id)
        run.hint = " ".join(filter(None, (run.hint, remark)))

    def _recall(self, run: Run) -> None:
        """Puts the columns that are kept in their places."""
        for place, column in enumerate(run.columns):
            for together in (False, True)[:1 + run.request.batched]:
                if found := self.kept.get((_identity(run, column.key), together)):
                    kept, run.device, run.dtype = found
                    run.columns[place] = replace(kept, reused=True)
                    break

    def _calls(self, loaded, run: Run, missing: list[Column]) -> tuple[list[list[Column]], str]:
        """The columns of each pipeline call, and what there is to say about that."""
        alone = [[column] for column in missing]
        if not run.request.batched or not missing or len(run.columns) == 1:
            return alone, ""
        if all(len(columns) == 1 for columns in _together(run.columns)):
            return alone, "No two of these columns can share a call: no guidance goes with NAG, and CFG with CFG + NAG."
        if reason := _apart(loaded):
            return alone, reason
        return sorted(_together(missing), key=lambda columns: min(map(missing.index, columns))), ""

    def _draw(self, loaded: Loaded, run: Run, columns: list[Column], stop, until, tell) -> bool:
        """Draws the columns of one pipeline call. False where several failed together: one of them may be the cause, or the lack of room for
        all, so each is to be tried alone."""
        request, previews, keys = run.request, _Previews(loaded, run.request, len(columns)), tuple(column.key for column in columns)
        try:
            warm = (request.width, request.height, request.num_frames, keys)
            for column in columns:
                column.state = "step"
                tell(column)
            if warm not in loaded.warm:  # the first call of a size pays for caches that are nobody's guidance
                def one_step(step, latents):
                    if self.previews:
                        previews.draw(latents)
                    raise Stopped

                with contextlib.suppress(Stopped):
                    _call(loaded, run, keys, one_step)
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
                    raise TimeoutError(f"The run took more than {DEADLINE // 60} minutes and was ended.")

            results, watch = _call(loaded, run, keys, on_step)
            for column, frames, sha256, spread in zip(columns, results, watch.sha256, watch.spread(len(columns)), strict=True):
                nag = run.request.attention(column.key) is not None
                column.together, column.seconds, column.latents_sha256, column.spread = keys if len(keys) > 1 else (), watch.seconds, sha256, spread
                if not column.together:  # else the steps' times are of all columns together
                    column.steady, column.saved = watch.steady, watch.saved if "nag" in column.key else None
                column.guided_steps, column.step, column.run = watch.guided if nag else 0, watch.step, run.id
                column.image, column.frames, column.state = frames[len(frames) // 2], frames if len(frames) > 1 else None, "done"
        except Stopped:
            for column in columns:
                column.state = "stopped"
        except Exception as error:
            log.exception("run %s, column %s", run.id, ", ".join(keys))
            again = len(columns) > 1 and not isinstance(error, TimeoutError)
            for column in columns:
                if again:
                    column.state, column.step = "queued", 0
                else:
                    column.state, column.reason = "failed", _why(error, loaded, request)
            return not again
        finally:
            _put_back(loaded)
        return True


def _bytes(column: Column) -> int:
    """What a finished column holds in memory."""
    return len(column.video) + sum(image.width * image.height * len(image.getbands()) for image in column.frames or [column.image])


def _encode(run: Run, column: Column, tell) -> None:
    try:
        column.video = video.encode(column.frames, run.preset.fps or 16)
    except Exception:
        log.exception("run %s, column %s: the frames are there, but could not be made a video", run.id, column.key)
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
    if vae is not None and vae.dtype != loaded.vae_dtype:  # SDXL decodes in float32 and returns to half only on success
        vae.to(loaded.vae_dtype)
    if loaded.device != "cpu":
        free_memory()


class _Watch:
    """Sees every scheduler step of a pipeline call: counts, times, keeps the checksum of the first noise (of each of `rows` pictures) and
    the last latents.

    The clock runs from the first denoiser call to the last step, and stands still while a preview is made.
    """

    def __init__(self, pipe, device: str, on_step, rows: int = 1):
        self.pipe, self.device, self.on_step, self.rows = pipe, device, on_step, rows
        self.step, self.times, self.guided, self.sha256, self.latents = 0, [], 0, [], None
        self.resumed = None

    def begin(self, denoiser, *_):
        if self.resumed is None:
            hook = getattr(denoiser, "_hf_hook", None)
            if type(hook).__name__ == "CpuOffload":  # the weights' way to the GPU is not guidance
                hook.pre_forward(denoiser)
            self._resume()

    def _resume(self):
        self._wait()
        self.resumed = time.perf_counter()

    def _wait(self):
        import torch

        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def stepped(self, step, model_output, timestep, sample, *args, **kwargs):
        if not self.sha256:
            self.sha256 = [hashlib.sha256(one.float().cpu().contiguous().numpy().tobytes()).hexdigest()
                           for one in _rows(sample.detach(), self.rows)]
        result = step(model_output, timestep, sample, *args, **kwargs)
        self.latents = result[0] if isinstance(result, tuple) else result.prev_sample
        self.step += 1
        self._wait()
        self.times.append(time.perf_counter() - self.resumed)
        self.on_step(self.step, self._estimate(timestep, sample, model_output))
        self._resume()
        return result

    def _estimate(self, timestep, sample, model_output):
        """The picture as it would be if it were finished now, where the noise level says how: clearer than the noisy latents."""
        scheduler = self.pipe.scheduler
        kept = getattr(scheduler, "model_outputs", None)  # DPM-Solver keeps its own estimate
        if kept and kept[-1] is not None and getattr(scheduler.config, "algorithm_type", "") == "dpmsolver++":
            return kept[-1].detach()
        if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
            return (sample - scheduler.sigmas[self.step - 1].to(sample) * model_output).detach()
        return self.latents.detach()

    @property
    def seconds(self) -> float:
        return sum(self.times)

    @property
    def steady(self) -> float:
        """Seconds if every step had taken its kind's median: guided steps come first, and cost more than the others."""
        kinds = self.times[:self.guided], self.times[self.guided:]
        return sum(len(times) * statistics.median(times) for times in kinds if times)

    @property
    def saved(self) -> float | None:
        """Share of the time saved by the un-guided steps at the end, if each of them would have taken the guided ones' median."""
        guided, others = self.times[:self.guided], self.times[self.guided:]
        if not guided or not others:
            return None
        full = statistics.median(guided)
        return len(others) * (full - statistics.median(others)) / (len(self.times) * full)

    def spread(self, rows: int) -> list[float]:
        return [float(one.float().std()) for one in _rows(self.latents, rows)]


def _rows(latents, count: int):
    """The latents of each of `count` pictures of one call; a picture may have several rows (one a frame)."""
    if len(latents) % count:
        raise RuntimeError(f"{len(latents)} rows of latents for {count} pictures")
    return latents.split(len(latents) // count)


def _arguments(pipe, run: Run, key: str) -> dict:
    """What a column asks of its pipeline, as arguments of its call."""
    import torch

    request, preset = run.request, run.preset
    known = inspect.signature(pipe.__call__).parameters
    arguments = {
        "prompt": request.prompt, "num_inference_steps": request.num_inference_steps,
        "generator": torch.Generator("cpu").manual_seed(request.seed), **preset.arguments,
    }
    for name, of_request in (("width", "width"), ("height", "height"), ("num_frames", "num_frames"), ("video_length", "num_frames")):
        if name in known:
            arguments[name] = getattr(request, of_request)
    if preset.cfg:
        # Flux and its kin have an embedded guidance_scale, which stays as the preset sets it; their CFG has a name of its own.
        name = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
        arguments[name] = (request.guidance_scale if "cfg" in key else 1.0) + preset.cfg_offset
    if "cfg" in key:
        arguments["negative_prompt"] = request.negative_prompt
    if run.start is not None:
        arguments["image"] = run.start
    return arguments


def _call(loaded: Loaded, run: Run, keys: tuple[str, ...], on_step):
    """Runs the pipeline once, for one column or several, each from a fresh CPU generator of the seed.

    -> (for each column its PIL images: one, or a video's frames; what was watched)
    """
    import torch

    from . import families  # here and not above: these load diffusers, and a page answers before it is there
    from .adapters import Wrapped, placed, replaced
    from .guidance import guide

    pipe, request = loaded.pipe, run.request
    arguments, negative = _arguments(pipe, run, keys[0]), request.negative_prompt
    settings = next(filter(None, map(request.attention, keys)), None)  # the same for all that have any
    if len(keys) > 1:
        arguments |= {name: [arguments[name]] * len(keys) for name in ("prompt", "negative_prompt") if name in arguments}
        arguments["generator"] = [torch.Generator("cpu").manual_seed(request.seed) for _ in keys]
        negative = [negative if request.attention(key) else None for key in keys]
    watch = _Watch(pipe, loaded.device, on_step, len(keys))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if hasattr(pipe, "encode_prompt"):  # before `guide` wraps it, which then asks here for the negative prompt too
            stack.enter_context(replaced(pipe, "encode_prompt", loaded.words.recall))
        for denoiser in families.denoisers_of(pipe):
            stack.callback(families.unwrapped(denoiser).register_forward_pre_hook(watch.begin).remove)
        guidance = None
        if settings is not None:
            guidance = stack.enter_context(guide(pipe, negative, **asdict(settings)))
        stack.enter_context(placed(pipe.scheduler, "step", Wrapped(pipe.scheduler.step, watch.stepped)))
        result = pipe(**arguments)
    if not torch.isfinite(watch.latents).all():
        raise ArithmeticError("not a number")
    if any(getattr(result, "nsfw_content_detected", None) or ()):
        raise Refused("The model's own safety checker blacked this picture out; another seed or other words may pass.")
    if guidance is not None:
        watch.guided = guidance.guided_steps
    return [[result.images[i]] if hasattr(result, "images") else video.frames_of(result, i) for i in range(len(keys))], watch


def _why(error: Exception, loaded: Loaded, request: Request) -> str:
    """What went wrong in a column and what to do, without paths or traces."""
    if isinstance(error, ArithmeticError):
        return f"The numbers left the range of {loaded.dtype}. A lower CFG or NAG scale helps, or a wider dtype in the preset."
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "out of memory" in str(error).lower():
        return f"Out of memory at {request.width} x {request.height}. A smaller size helps; with CFG the batch is twice as large."
    if isinstance(error, NameError) and "ftfy" in str(error):
        return "This pipeline needs one more package on this machine: pip install ftfy."
    if isinstance(error, Refused) or (isinstance(error, (RuntimeError, TimeoutError)) and str(error).startswith(("NAG ", "The run "))):
        return str(error)
    return f"This column failed ({type(error).__name__}); the log has the details under this run's number."


class _Previews:
    """Small pictures of the unfinished latents of a call's columns. Made between two steps, while the clock stands still:
    beside the sampling they would take its time, and more from short columns than from long ones. They are never more than PREVIEW_SHARE
    of the time since the column began: one that is done before that is enough for a preview has none."""

    LATENT_SIDE = 24  # decoding is done at most this large: a preview costs a fraction of a step on any model

    def __init__(self, loaded: Loaded, request: Request, count: int = 1):
        self.loaded, self.request, self.count, self.next = loaded, request, count, 0.0
        self.size = request.width, request.height, request.num_frames, count

    def wait(self) -> None:
        """From now on until the next previews: as long as makes up for them."""
        self.next = time.monotonic() + max(PREVIEW_EVERY, self.loaded.previews.get(self.size, 0) / PREVIEW_SHARE)

    def make(self, latents) -> list:
        """A preview for each column of the call, or None for each where it is too early."""
        if time.monotonic() < self.next:
            return [None] * self.count
        previews = self.draw(latents)
        self.wait()
        return previews

    def draw(self, latents) -> list:
        """Previews at once, whose time is noted."""
        begun = time.monotonic()
        try:
            return [self._decode(self.loaded.pipe, one[:1], self.request) for one in _rows(latents, self.count)]
        except Exception:
            log.debug("no preview", exc_info=True)  # a model whose latents we cannot show is still a model
            return [None] * self.count
        finally:
            self.loaded.previews[self.size] = time.monotonic() - begun

    def _decode(self, pipe, latents, request: Request):
        import torch
        from PIL import Image

        with torch.inference_mode():
            vae, latents = pipe.vae, _middle(pipe, latents, request)  # (1, C, H, W)
            overflows = getattr(vae.config, "force_upcast", False) and vae.dtype == torch.float16
            if overflows or getattr(vae, "_hf_hook", None) is not None:
                # Decoding would overflow, or push an offloaded denoiser off the GPU between two steps.
                return _colours(latents)
            side = max(latents.shape[-2:])
            if side > self.LATENT_SIDE:
                latents = torch.nn.functional.interpolate(latents.float(), scale_factor=self.LATENT_SIDE / side, mode="area")
            try:
                pixels = _pixels(vae, latents)  # (3, H, W)
            except Exception:  # a decoder that wants more than latents
                return _colours(latents)
            pixels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(pixels)


def _middle(pipe, latents, request: Request):
    """A picture's latents, or those of a video's middle frame, (1, C, H, W), whatever form the pipeline keeps them in."""
    channels = getattr(pipe.vae.config, "latent_channels", None) or getattr(pipe.vae.config, "z_dim", None)
    if latents.ndim == 3 and request.num_frames > 1:  # tokens of all frames, (1, F H W, C)
        height, width = (side // pipe.vae_spatial_compression_ratio for side in (request.height, request.width))
        latents = latents.unflatten(1, (-1, height, width)).permute(0, 4, 1, 2, 3)
    elif latents.ndim == 3:
        latents = pipe._unpack_latents(latents, request.height, request.width, pipe.vae_scale_factor)
    if latents.ndim == 5:
        frames = 1 if latents.shape[2] == channels and latents.shape[1] != channels else 2  # CogVideoX has the frames first
        latents = latents.select(frames, latents.shape[frames] // 2)
    return latents


def _pixels(vae, latents):
    """One frame's latents (1, C, H, W), as the denoiser has them, through the decoder -> (3, H, W), -1 to 1."""
    import torch

    one = next(vae.parameters())
    latents = latents.to(one)
    buffers = dict(vae.named_buffers(recurse=False))
    mean, std = (buffers.get(name, getattr(vae.config, name, None)) for name in ("latents_mean", "latents_std"))
    scale = getattr(vae.config, "scaling_factor", None) or 1
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(x).to(one).reshape(1, -1, 1, 1) for x in (mean, std))
        latents = latents * std / scale + mean
    else:
        latents = latents / scale + (getattr(vae.config, "shift_factor", None) or 0)
    of_video = any(isinstance(m, torch.nn.Conv3d) for m in vae.modules())
    pixels = vae.decode(latents.unsqueeze(2) if of_video else latents, return_dict=False)[0][0]
    return pixels[:, 0] if of_video else pixels


def _colours(latents):
    """Three latent channels as colours: no decoder needed."""
    from PIL import Image

    pixels = latents[0, :3].float().cpu()
    pixels = (pixels / pixels.std().clamp_min(1e-6) / 6 + .5).clamp(0, 1)
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


def mean_difference(a, b) -> float:
    """Mean absolute difference of two pictures, or of two lists of frames, 0 to 255."""
    import numpy as np

    if isinstance(a, list):
        return float(np.mean([mean_difference(one, other) for one, other in zip(a, b, strict=False)]))
    return float(np.abs(np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)).mean())


NOTHING, TOO_MUCH = 1.5, 1.6  # of 255; times the spread of the un-guided latents
MANY = 2                      # attributes that nobody asked to change


def _judge(meter, run: Run) -> None:
    """Fills in what the meter (or None) reads, and one sentence when NAG changed nothing, or too much."""
    done = {c.key: c for c in run.columns if c.state == "done"}
    also = []  # what the meter sees changed beyond the negative prompt
    if meter and done:
        named = meter.named_in(run.request.negative_prompt)
        readings = dict(zip(done, meter.read([c.frames or c.image for c in done.values()]), strict=True))
        for key, reading in readings.items():
            done[key].readings = {meter.phrase(pair): reading[pair[0]][pair[1]] for pair in named}
        if "none" in readings and "nag" in readings:
            seen = {key: {name: max(shares, key=shares.get) for name, shares in readings[key].items()} for key in ("none", "nag")}
            also = [name for name, value in seen["none"].items() if value != seen["nag"][name] and name not in dict(named)]
    if "none" not in done or "nag" not in done:
        return
    request, changed = run.request, mean_difference(*(done[key].frames or done[key].image for key in ("none", "nag")))
    whole = request.nag_normalisation and request.nag_refinement
    if request.nag.off:
        run.hint = "NAG is off: scale 1, alpha 0 or end 0 means that nothing is touched."
    elif changed < NOTHING:
        raised = "alpha first, then the scale" if request.nag_refinement else "the scale"
        run.hint = f"NAG changed {changed:.1f} of 255 on average, hardly anything: raise {raised}."
    elif done["nag"].spread > TOO_MUCH * done["none"].spread:
        run.hint = f"NAG pushed hard enough to distort the picture: lower the scale{', alpha or tau' if whole else ', or bound and blend it again'}."
    elif len(also) >= MANY:
        lowered = "alpha, or tau" if whole else "the scale, or bound and blend it again"
        run.hint = f"NAG changed more than it was asked to ({', '.join(also)}): lower {lowered}, to keep more of the picture."
    else:
        run.hint = f"NAG changed {changed:.0f} of 255 on average" + (f", and beyond what was asked: {', '.join(also)}." if also else ".")


def failure(error: Exception, preset: Preset) -> str:
    """A sentence for an error that ended a whole run."""
    return str(error) if isinstance(error, Refused) else explain(error, preset, preset.model)
