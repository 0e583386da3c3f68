"""Preset files: what one may say, reading them, and `resolve`, which makes a complete request of
any subset of settings, for the page, the API and the command line alike.

Everything that arrives is checked here and in `request.py`, before a model is touched, and refused
in a sentence that names the field, the value and the range. Nothing here knows of diffusers.
"""

import difflib
import functools
import json
import logging
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import Refused
from .home import HOME, PRESETS
from .methods import METHODS
from .request import (
    DEFAULT,
    RANGED,
    SETTINGS,
    Request,
    Text,
    Whole,
    between,
    limits_of,
    quoted,
    what_is_wrong,
)

log = logging.getLogger("nag")
FOLDER = PRESETS
WEIGHTS = (".safetensors", ".gguf")


def needed(weights_gb: float) -> float:
    """Free GPU memory for so many GB of weights: with what is computed beside them, and what a
    driver keeps."""
    return 1.05 * weights_gb + 3


class PromptPair(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: Text
    negative_prompt: Text
    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] | None = None  # one that shows the point


class Preset(BaseModel):
    """A file of presets/: a model, how to load and call it, settings known to work, and why.

    Adding a model is adding a file. It may have any setting of `Request`, for this model's default,
    and has the fields below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    version: Annotated[Literal[1], Field(alias="schema")]
    title: str
    model: str  # repository on the hub, or a folder relative to this project
    revision: str | None = None  # a commit of the repository
    # "fp16" where there are half-precision files beside the full ones; another set of weights
    variant: str | None = None
    weights: str | None = None  # one file in place of the model's own, `with_model` sets it
    pipeline: str = "DiffusionPipeline"  # diffusers class; the default reads model_index.json
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = "auto"
    vae_dtype: Literal["float32", "float16", "bfloat16"] | None = None  # where it is another one
    size_gb: Annotated[float, Field(ge=0)] = 0  # all weights in memory at that dtype
    # of them, the largest part alone: what model offload needs at once
    largest_gb: Annotated[float, Field(ge=0)] = 0
    download_gb: Annotated[float, Field(ge=0)] = 0  # what is fetched; 0: as much as `size_gb`
    licence: str = ""  # of the weights: SPDX in lower case, or the name its owners give it
    gated: bool = False  # that licence must be accepted on the model's page
    scheduler: dict[str, Any] | None = None  # {"class": name, **configuration overrides}
    lora: dict[str, str] | None = None  # {"model", "revision", "weight_name"}, needs peft
    arguments: dict[str, Any] = {}  # further constant arguments of the pipeline call
    cfg: bool = True  # the pipeline takes a negative prompt; False: columns with CFG are refused
    # added to guidance_scale: -1 for pipelines that compute cond + scale * (cond - uncond)
    cfg_offset: float = 0
    image: bool = False  # the pipeline starts from a picture of the user's
    fps: Annotated[int, Field(ge=0)] = 0  # frames a second of a video; 0: a picture
    frames: Annotated[int, Field(ge=1)] = 1  # num_frames is a multiple of this many, plus 1
    multiple: Annotated[int, Field(ge=1)] = 8  # width and height are multiples of this many pixels
    # narrower than Request's, for the sliders and the validator
    ranges: dict[Literal[RANGED], tuple[float, float]] = {}
    # most prompts of one call; 0: any number. 1 where a picture depends on how many there are
    batch: Annotated[int, Field(ge=0)] = 0
    # largest width * height * num_frames * steps * denoiser calls; 0: four times the defaults
    cap: Annotated[float, Field(ge=0)] = 0
    meter: str | None = None  # folder of a classifier that reads the pictures
    prompts: tuple[PromptPair, ...] = ()
    settings: dict[str, Any]  # defaults for Request; stands flat in the file
    look_for: str = ""
    source: str = ""

    @property
    def name(self) -> str:
        return self.settings["preset"]

    def default(self, name: str) -> Any:
        """What a setting of `Request` is where this preset is newly chosen."""
        return self.settings.get(name, Request.model_fields[name].default)

    @property
    def local(self) -> bool:
        """Whether the weights are a folder on this machine."""
        return (HOME / self.model).is_dir()

    @property
    def shipped(self) -> bool:
        """Whether the weights ship with this project."""
        return self.local and not Path(self.model).is_absolute() and not self.weights

    @property
    def model_name(self) -> str:
        """The model as it may be shown to anyone: a folder's name without its path."""
        return Path(self.model).name if Path(self.model).is_absolute() else self.model

    @property
    def fetched_gb(self) -> float:
        """Size of the files: more than in memory where they are stored in float32."""
        return self.download_gb or self.size_gb

    @property
    def size(self) -> str:
        """Of its weights in memory, as people read it: "34 GB", "60 MB", or "" where unknown."""
        if not self.size_gb:
            return ""
        return f"{self.size_gb:g} GB" if self.size_gb >= 1 else f"{1000 * self.size_gb:.0f} MB"

    @property
    def memory(self) -> str:
        """What a GPU must have for this model, in one sentence."""
        if not self.size_gb:
            return ""
        whole, least = (
            math.ceil(needed(self.size_gb)),
            math.ceil(needed(self.largest_gb or self.size_gb)),
        )
        offload = f"; with less, model offload, down to {least} GB" if least < whole else ""
        return f"{self.size_gb:g} GB of weights: a GPU with {whole} GB free{offload}." + (
            " Long videos need more." if self.fps else ""
        )

    def with_model(self, model: str) -> "Preset":
        """This preset's settings with another model: a folder, a repository on the hub, or one file
        with weights, for which the preset's own model gives all else. Raises `Refused`."""
        folder = Path(model).expanduser()
        if folder.is_file() or folder.suffix in WEIGHTS:
            return self._with_file(folder)
        model = str(folder.resolve()) if folder.is_dir() else model
        name = Path(model).name
        return self.model_copy(
            update={
                "model": model,
                "title": f"{name} (settings of {self.title})",
                "revision": None,
                "variant": None,
                "meter": None,
                "lora": None,
                "licence": "",
                "scheduler": None,
                "download_gb": 0,
                "pipeline": "DiffusionPipeline",
            }
        )

    def _with_file(self, file: Path) -> "Preset":
        if not file.is_file():
            raise Refused(f"There is no file {file}.")
        if file.suffix not in WEIGHTS:
            raise Refused(
                f"{file.name} is none of {', '.join(WEIGHTS)}: other files may hold code that runs "
                "while they are read, and are not loaded."
            )
        title = f"{file.name} (settings of {self.title})"
        return self.model_copy(
            update={"weights": str(file.resolve()), "title": title, "meter": None, "licence": ""}
        )

    def range(self, field: str) -> tuple[float, float]:
        """Lowest and highest value of a setting for this model."""
        if field in self.ranges:
            return self.ranges[field]
        if field == "num_frames":  # an image model, unless its file says otherwise
            return 1, 1
        return limits_of(field)


def parse(name: str, text: str) -> Preset:
    """A preset file's text, checked: the settings stand flat in it, and must be valid for it."""
    try:
        content = json.loads(text)
        settings = {"preset": name} | {key: content.pop(key) for key in SETTINGS if key in content}
        preset = Preset(**content, settings=settings)
        _check({}, preset)
    except ValidationError as error:
        raise Refused(f"presets/{name}.json: {what_is_wrong(error)}") from None
    except Refused as error:
        raise Refused(f"presets/{name}.json: {error}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"presets/{name}.json is not a preset: {error}") from None
    return preset


def read(path: Path) -> Preset:
    """A preset file. Raises `Refused` with its name where it cannot be read or is no preset."""
    try:
        return parse(path.stem, path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise Refused(f"presets/{path.name} is not a preset: it is not text in UTF-8.") from None
    except OSError as error:
        raise Refused(f"presets/{path.name} cannot be read: {error.strerror}.") from None


@functools.cache
def load_all() -> dict[str, Preset]:
    """All presets by name, the default first, those that ship with weights before the others,
    pictures before videos.

    A hidden file, such as macOS leaves behind, and one that is no preset are named in the log and
    left out. Raises `Refused` where the default is such a file.
    """
    presets = {}
    for path in sorted(FOLDER.glob("*.json")):
        if path.name.startswith("."):
            log.warning("presets/%s is a hidden file: it is not read as a preset.", path.name)
            continue
        try:
            presets[path.stem] = read(path)
        except Refused as error:
            if path.stem == DEFAULT:
                raise
            log.error("%s It is left out.", error)
    if DEFAULT not in presets:
        raise Refused(f"presets/{DEFAULT}.json is missing: it is what the page opens with.")
    return dict(sorted(presets.items(), key=_order))


def _order(item: tuple[str, Preset]) -> tuple:
    name, preset = item
    return name != DEFAULT, not preset.shipped, bool(preset.fps), name


def resolve(raw: object, presets: dict[str, Preset] | None = None) -> tuple[Preset, Request]:
    """Any subset of the schema -> (its preset, the complete request). Raises `Refused`."""
    presets = presets or load_all()
    if not isinstance(raw, dict):
        raise Refused(f"Settings must be one JSON object, got {quoted(raw)}.")
    name = raw.get("preset", next(iter(presets)))
    if not isinstance(name, str) or name not in presets:
        near = (
            difflib.get_close_matches(name[:100], presets, 4, 0)
            if isinstance(name, str)
            else list(presets)[:4]
        )
        raise Refused(
            f"preset must be one of the {len(presets)} there are, such as {', '.join(near)}; "
            f"got {quoted(name)}."
        )
    return presets[name], _check(raw, presets[name])


def _check(raw: dict, preset: Preset) -> Request:
    """The preset's settings with `raw` in place of some, valid for its model. Raises `Refused`."""
    try:
        request = Request(**{**preset.settings, **{str(k): v for k, v in raw.items()}})
    except ValidationError as error:
        raise Refused(what_is_wrong(error)) from None
    _check_ranges(request, preset)
    _check_steps_of_sizes(request, preset)
    if not preset.cfg and any(METHODS[column].cfg for column in request.guidance):
        without = ", ".join(key for key, method in METHODS.items() if not method.cfg)
        raise Refused(
            f"guidance must be out of {without} for {preset.title}, whose pipeline takes no "
            "negative prompt."
        )
    if raw:
        _check_work(request, preset)
    return request


def _check_ranges(request: Request, preset: Preset) -> None:
    for field in dict.fromkeys((*preset.ranges, "num_frames")):
        low, high = preset.range(field)
        if not low <= getattr(request, field) <= high:
            limits = f"{low:g}" if low == high else between(low, high)
            raise Refused(
                f"{field} must be {limits} for {preset.title}, got {getattr(request, field)}."
            )


def _check_steps_of_sizes(request: Request, preset: Preset) -> None:
    """Widths, heights and numbers of frames come in multiples."""
    for field in ("width", "height"):
        if getattr(request, field) % preset.multiple:
            raise Refused(
                f"{field} must be a multiple of {preset.multiple} for {preset.title}, "
                f"got {getattr(request, field)}."
            )
    if over := (request.num_frames - 1) % preset.frames:
        lower = request.num_frames - over
        raise Refused(
            f"num_frames must be a multiple of {preset.frames} plus 1 for {preset.title}, "
            f"like {lower} or {lower + preset.frames}, got {request.num_frames}."
        )


def _check_work(request: Request, preset: Preset) -> None:
    cost, cap = work(request), preset.cap or 4 * work(_check({}, preset))
    if cost > cap:
        frames = f", num_frames ({request.num_frames})" if preset.fps else ""
        raise Refused(
            f"This asks for {cost / cap:.1f} times the most work that {preset.title} allows: "
            f"lower width x height ({request.width} x {request.height}), "
            f"num_inference_steps ({request.num_inference_steps}){frames} or the number of columns."
        )


def work(request: Request) -> float:
    """Pixels to be denoised: size x frames x steps x denoiser calls."""
    calls = sum(1 + METHODS[column].cfg for column in request.guidance)
    return request.width * request.height * request.num_frames * request.num_inference_steps * calls
