"""A comparison, running or over, and its columns."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from .loading import versions
from .words import words_of


@dataclass
class Column:
    """One way of guiding and what came of it. States: queued, loading, step, decoding, done, stopped, failed."""

    key: str
    total: int
    state: str = "queued"
    step: int = 0
    seconds: float = (
        0.0  # of the denoising steps alone: text, decoding and previews are the same for all
    )
    steady: float = 0.0  # the same from medians: a step of 20 ms is easily disturbed by a browser next to it; 0: has no time of its own
    together: tuple = ()  # keys of the columns that were drawn in one call, this one's among them; `seconds` is then the call's
    image: Any = None  # PIL image, when done; of a video the middle frame
    frames: list | None = None  # PIL images, of a video
    video: bytes = b""  # the same as MP4, a little later
    reason: str = ""  # when failed
    latents_sha256: str = ""  # of the starting noise
    guided_steps: int = 0  # steps in which NAG was active
    saved: float | None = (
        None  # share of the time that ending NAG early saved, where both kinds of steps were measured
    )
    readings: dict = field(
        default_factory=dict
    )  # {"hat": .93}: what the meter sees of the negative prompt's words
    cut: dict = field(default_factory=dict)  # {"prompt": 3}: words that no text encoder read
    spread: float = 0.0  # standard deviation of the final latents: a burnt picture has a large one
    outcomes: dict = field(default_factory=dict)  # {"hat": Outcome}, beside the un-guided picture
    operations: int = 0  # floating-point operations of all steps, where they could be counted
    peak: int = 0  # bytes of GPU memory that were held at the most
    reused: bool = (
        False  # finished in an earlier run with the same settings; its times are from then
    )
    run: str = ""  # the run that measured it


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
    verdict: dict | None = None  # the same with its next moves, see `engine.verdict.judge`
    over: bool = False
    start: Any = None  # PIL image that the model begins with
    record: Any = None  # nag.XRay that the column with NAG is recorded in

    def relative(self, column: Column) -> float | None:
        """Time against the un-guided column, by the medians of their steps; see `across` on when these were measured."""
        plain = next((c for c in self.columns if c.key == "none"), None)
        if (
            plain is None
            or plain.state != "done"
            or column.state != "done"
            or not plain.steady
            or not column.steady
        ):
            return None
        return column.steady / plain.steady

    def work(self, column: Column) -> float | None:
        """Counted operations against those of the un-guided column."""
        plain = next((c for c in self.columns if c.key == "none"), None)
        if plain is None or not plain.operations or not column.operations:
            return None
        return column.operations / plain.operations

    def across(self, column: Column) -> bool:
        """Whether `relative` divides times of two runs: the machine may have been busier in one of them."""
        plain = next((c for c in self.columns if c.key == "none"), column)
        return plain.reused != column.reused or plain.run != column.run

    def json(self) -> dict:
        """What can be said about a run: no paths, no host, no user."""
        return {
            "schema": 1,
            "run": self.id,
            "preset": self.preset.name,
            "model": self.preset.model_name,
            "revision": self.preset.revision,
            "settings": self.request.model_dump(mode="json"),
            "device": self.device,
            "dtype": self.dtype,
            "columns": {
                c.key: {
                    "state": c.state,
                    "reused": c.reused,
                    "steps": c.step,
                    "seconds": None if c.together else round(c.seconds, 4),
                    **(
                        {"together": {"columns": c.together, "seconds": round(c.seconds, 4)}}
                        if c.together
                        else {}
                    ),
                    "relative_time": _rounded(self.relative(c)),
                    "relative_work": _rounded(self.work(c)),
                    "guided_steps": c.guided_steps,
                    **({} if c.saved is None else {"saved_by_early_end": round(c.saved, 4)}),
                    "latents_sha256": c.latents_sha256,
                    "latents_std": round(c.spread, 4),
                    **METHODS[c.key].used(self.request),
                    **({"reason": c.reason} if c.reason else {}),
                    **(
                        {"shows": {k: round(v, 4) for k, v in c.readings.items()}}
                        if c.readings
                        else {}
                    ),
                }
                for c in self.columns
            },
            "hint": self.hint,
            **({"words": words} if (words := words_of(self)) else {}),
            "versions": versions(),
        }


def _rounded(value):
    return None if value is None else round(value, 3)


def decisive(request: Request, key: str) -> dict:
    """The settings that decide a column's picture; the others leave it as it is."""
    names = ("prompt", "seed", "num_inference_steps", "width", "height", "num_frames")
    used = {name: getattr(request, name) for name in names}
    if key != "none":
        used["negative_prompt"] = request.negative_prompt
    return used | METHODS[key].used(request)


def identity(run: Run, key: str) -> str:
    """Of everything that decides a column's picture: columns with the same one are the same."""
    start = hashlib.sha256(run.start.tobytes()).hexdigest() if run.start is not None else None
    everything = [run.preset.model_dump(mode="json"), key, decisive(run.request, key), start]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def size_of(column: Column) -> int:
    """What a finished column holds in memory."""
    return len(column.video) + sum(
        image.width * image.height * len(image.getbands())
        for image in column.frames or [column.image]
    )
