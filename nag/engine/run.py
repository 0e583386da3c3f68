"""A comparison, running or over, and its columns."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from .words import words_of

if TYPE_CHECKING:
    from PIL import Image

    from ..media.video import Sound
    from ..xray import XRay

OVER = ("done", "stopped", "failed")  # states that are the last


@dataclass
class Column:
    """One way of guiding and what came of it.

    state: "queued", "loading", "step", "decoding", or one of `OVER`.
    seconds: of the denoising steps alone: text, decoding and previews are the same for all.
    steady: the same from medians, for a step of 20 ms is easily disturbed by a browser next to it;
        0 where the column has no time of its own.
    together: keys of the columns that were drawn in one call, this one's among them; `seconds` are
        then the call's.
    guided_steps: steps in which attention was guided.
    saved: share of the time that ending guidance early saved, where both kinds of steps were seen.
    spread: standard deviation of the final latents: a burnt picture has a large one.
    readings: {"hat": 0.93}, what the meter sees of the negative prompt's words.
    cut: {"prompt": 3}, words that no text encoder read.
    operations: floating-point operations of all steps, where they could be counted.
    reused: finished in an earlier run with the same settings; its times are from then.
    run: the id of the run that measured it.
    seed: its own, where the columns of a run are one way of guiding on several seeds.
    """

    key: str
    total: int
    state: str = "queued"
    step: int = 0
    seconds: float = 0.0
    steady: float = 0.0
    together: tuple[str, ...] = ()
    image: Image.Image | None = None  # when done; of a video the middle frame
    frames: list[Image.Image] | None = None  # of a video
    sound: Sound | None = None  # until it is in the video
    sounds: bool = False  # whether the video has it
    video: bytes = b""  # the same as MP4, a little later
    reason: str = ""  # when failed
    latents_sha256: str = ""  # of the starting noise
    guided_steps: int = 0
    saved: float | None = None
    readings: dict[str, float] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    spread: float = 0.0
    outcomes: dict = field(default_factory=dict)  # {"hat": Outcome}, beside the un-guided picture
    operations: int = 0
    peak: int = 0  # bytes of GPU memory held at the most, weights among them; 0: not measured
    reused: bool = False
    run: str = ""
    seed: int | None = None


@dataclass
class Run:
    """A comparison, running or over.

    start: the picture that the model begins with. record: the nag.XRay in which the column with
    NAG is recorded.
    """

    id: str
    preset: Preset
    request: Request
    columns: list[Column]
    device: str = ""
    dtype: str = ""
    hint: str = ""
    verdict: dict | None = None  # the same with its next moves, see `engine.verdict.judge`
    over: bool = False
    start: Image.Image | None = None
    record: XRay | None = None

    def relative(self, column: Column) -> float | None:
        """This column's time for the steps over the un-guided one's, by the medians of a step. None
        where either has no time of its own. The two may be from different runs: see `across`."""
        plain = next((c for c in self.columns if c.key == "none"), None)
        both = [plain, column]
        if any(c is None or c.state != "done" or not c.steady for c in both):
            return None
        return column.steady / plain.steady

    def work(self, column: Column) -> float | None:
        """Counted operations against those of the un-guided column."""
        plain = next((c for c in self.columns if c.key == "none"), None)
        if plain is None or not plain.operations or not column.operations:
            return None
        return column.operations / plain.operations

    def across(self, column: Column) -> bool:
        """Whether `relative` divides times of two runs: the machine may have been busier in one of
        them."""
        plain = next((c for c in self.columns if c.key == "none"), column)
        return plain.reused != column.reused or plain.run != column.run

    def json(self) -> dict[str, Any]:
        """What can be said about a run: no paths, no host, no user."""
        words = words_of(self)
        return {
            "schema": 1,
            "run": self.id,
            "preset": self.preset.name,
            "model": self.preset.model_name,
            "revision": self.preset.revision,
            "settings": self.request.model_dump(mode="json"),
            "device": self.device,
            "dtype": self.dtype,
            "columns": {column.key: self._column(column) for column in self.columns},
            "hint": self.hint,
            **({"words": words} if words else {}),
            "versions": versions(),
        }

    def _column(self, column: Column) -> dict[str, Any]:
        """One column of `json`; what does not apply is left out."""
        told = {
            "state": column.state,
            "reused": column.reused,
            "steps": column.step,
            "seconds": None if column.together else round(column.seconds, 4),
            "relative_time": _rounded(self.relative(column)),
            "relative_work": _rounded(self.work(column)),
            "guided_steps": column.guided_steps,
            "latents_sha256": column.latents_sha256,
            "latents_std": round(column.spread, 4),
            **METHODS[column.key].used(self.request),
        }
        if column.together:
            seconds = round(column.seconds, 4)
            told["together"] = {"columns": column.together, "seconds": seconds}
        if column.saved is not None:
            told["saved_by_early_end"] = round(column.saved, 4)
        if column.reason:
            told["reason"] = column.reason
        if column.peak:
            told["peak_gpu_bytes"] = column.peak
        if column.readings:
            told["shows"] = {name: round(share, 4) for name, share in column.readings.items()}
        return told


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def decisive(request: Request, key: str) -> dict[str, Any]:
    """The settings that decide a column's picture; the others leave it as it is."""
    names = ("prompt", "seed", "num_inference_steps", "width", "height", "num_frames")
    used = {name: getattr(request, name) for name in names}
    if key != "none":
        used["negative_prompt"] = request.negative_prompt
    return used | METHODS[key].used(request)


def identity(run: Run, key: str, seed: int | None = None) -> str:
    """Of everything that decides a column's picture: columns with the same one are the same.

    seed: another than the request's.
    """
    start = hashlib.sha256(run.start.tobytes()).hexdigest() if run.start is not None else None
    made = decisive(run.request, key) | ({} if seed is None else {"seed": seed})
    everything = [run.preset.model_dump(mode="json"), key, made, start]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def size_of(column: Column) -> int:
    """Bytes that a finished column holds in memory."""
    images = column.frames or [column.image]
    pixels = (image.width * image.height * len(image.getbands()) for image in images)
    return len(column.video) + sum(pixels)


@functools.cache
def versions() -> dict[str, str]:
    """Of the installed packages that decide what a picture looks like, and of the page's."""
    found = {}
    for name in ("torch", "diffusers", "transformers", "gradio"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
