"""A visitor's GPU time on a ZeroGPU Space: asked for by what a run will take, and never for the
models that ship."""

from __future__ import annotations

import contextlib
import html
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import gradio as gr
from PIL import Image

from ..engine import zero_gpu
from ..engine.engine import Engine, Event
from ..engine.run import OVER
from ..errors import NAGRuntimeError, Refused
from ..presets import Preset, work
from ..request import Request
from .controls import PRESETS
from .painting import Shown

if TYPE_CHECKING:
    from ..xray import XRay

T = TypeVar("T")

try:  # before torch touches CUDA
    import spaces
except ImportError:
    spaces = None

# Seconds for a pixel of one denoiser call and a GB of the largest part, before anything was
# measured: twice the slowest of six models on an H200, SDXL with 63 ms a step at 1024 x 1024.
GUESS = 2.5e-8
BESIDE = 8  # seconds beside the steps: words, a first step to warm up, the decoder
MARGIN = 1.3  # on what was measured
LEAST, MOST = 10, 300  # seconds; the platform lends a GPU for no longer than 300


class Platform(Protocol):
    """What is used of the package `spaces`."""

    def GPU(self, duration: Callable[..., int]) -> Callable[[Callable], Callable]:
        """A decorator: what is called has a GPU for so many seconds, told by its arguments."""


class GPUTime:
    """How long a run will take, learnt from those before it, and the runs that are lent a GPU."""

    def __init__(self, module: Platform | None = None) -> None:
        self.spaces = module or (spaces if zero_gpu.on_zero_gpu() else None)
        self.rates = {}  # preset -> seconds for a pixel of one denoiser call

    def seconds(self, preset: Preset, request: Request, *_: object) -> int:
        """To be asked for, which the platform counts against a visitor's quota."""
        return self.seconds_of(preset, work(request))

    def seconds_of(self, preset: Preset, pixels: float) -> int:
        """The same of so many pixels of denoiser calls."""
        guess = GUESS * (preset.largest_gb or preset.size_gb or 1)
        steps = self.rates.get(preset.name, guess) * pixels
        return math.ceil(min(MOST, max(LEAST, BESIDE + MARGIN * steps)))

    def learn(self, preset: Preset, request: Request, run: dict) -> None:
        """From the account of a finished run: the slowest so far counts."""
        columns = run["columns"].values()
        if any(c["state"] != "done" or c["reused"] or not c["seconds"] for c in columns):
            return
        rate = sum(column["seconds"] for column in columns) / work(request)
        self.rates[preset.name] = max(rate, self.rates.get(preset.name, 0))

    def lent(self, draw: Callable[..., Iterator[Shown]]) -> Callable[..., Iterator[Shown]]:
        """`draw(preset, request, ...)` in a process that holds a GPU, where that is needed."""
        if self.spaces is None:
            return draw
        with_gpu = self.spaces.GPU(duration=self.seconds)(draw)

        def chosen(preset: Preset, request: Request, *more) -> Iterator[Shown]:
            if preset.shipped:
                yield from draw(preset, request, *more)
                return
            check_offered(preset)
            yield from self._told(with_gpu(preset, request, *more), preset, request)

        return chosen

    def _told(self, values: Iterator[Shown], preset: Preset, request: Request) -> Iterator[Shown]:
        """The values. What was measured is learnt."""
        shown = None
        for shown in in_sentences(values):
            yield shown
        if shown is not None and "settings" in shown.run:
            self.learn(preset, request, shown.run)


class LentEngine:
    """`Engine`, as the rooms use it: without previews, and each of its runs in a process that holds
    a GPU, where that is needed. What is recorded there comes back in the last event's run."""

    def __init__(self, engine: Engine, gpu: GPUTime) -> None:
        self.engine, self.gpu = engine, gpu
        self.with_gpu = gpu.spaces and gpu.spaces.GPU(duration=self._seconds)(self._run)

    def run(
        self,
        preset: Preset,
        request: Request,
        stop: threading.Event | None = None,
        run_id: str = "run",
        image: Image.Image | None = None,
        record: XRay | None = None,
        seeds: Sequence[int] = (),
    ) -> Iterator[Event]:
        """See `Engine.run`. Raises NAGRuntimeError where no GPU is lent."""
        if self.with_gpu is None or preset.shipped:
            more = image, record, seeds
            yield from self.engine.run(preset, request, stop, run_id, *more, previews=False)
            return
        check_offered(preset)
        events = in_sentences(self.with_gpu(preset, request, run_id, image, record, seeds))
        with contextlib.closing(events):  # which ends the other process
            for run, column, preview in events:
                if stop is None or not stop.is_set():  # that process does not see it
                    yield run, column, preview
                    continue
                for one in run.columns:
                    one.state = one.state if one.state in OVER else "stopped"
                run.over = True
                yield run, None, None
                return
        if not seeds:
            self.gpu.learn(preset, request, run.json())

    def _seconds(self, preset: Preset, request: Request, run_id, image, record, seeds) -> int:
        return self.gpu.seconds_of(preset, work(request) * max(1, len(seeds)))

    def _run(
        self, preset: Preset, request: Request, run_id, image, record, seeds
    ) -> Iterator[Event]:
        stop = threading.Event()  # the caller's does not reach another process
        yield from self.engine.run(
            preset, request, stop, run_id, image, record, seeds, previews=False
        )


def in_sentences(values: Iterator[T]) -> Iterator[T]:
    """The values; a refusal of the platform as a sentence."""
    try:
        yield from values
    except gr.Error as error:
        raise NAGRuntimeError(refusal(error)) from None
    finally:
        values.close()


def check_offered(preset: Preset) -> None:
    """Raises `Refused` for a preset that this Space did not load when it started."""
    offered = zero_gpu.chosen()
    if preset.name not in offered:
        here = f"{', '.join(offered)} and the pocket presets" if offered else "the pocket presets"
        raise Refused(
            f"{preset.title} is not loaded on this Space, which has {here}. Duplicate the Space "
            f"and set its variable NAG_PRESETS to {preset.name}."
        )


def refusal(error: gr.Error) -> str:
    """What the platform says of its queue or a quota, without its HTML."""
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", str(error.message))).split())
    return f"No GPU was lent: {text} The pocket presets need none."


def preload(engine: Engine) -> None:
    """Loads the models that NAG_PRESETS names, on a ZeroGPU Space. Raises `Refused`."""
    if not zero_gpu.on_zero_gpu():
        return
    for name in zero_gpu.chosen():
        if name not in PRESETS:
            raise Refused(f"NAG_PRESETS names {name!r}, which is no preset.")
        engine.shelf.get(PRESETS[name])
