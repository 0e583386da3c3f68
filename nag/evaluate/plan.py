"""The words of a command line become columns and pictures.

Everything that can be refused is refused here, before a model is loaded.
"""

import csv
import io
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

from .. import presets
from ..errors import Refused
from ..methods import METHODS, SWITCHES
from ..presets import Preset
from ..request import Request, check_text
from .cases import CASES, CONTROLS, IRRELEVANT

ABLATIONS = {
    "no normalisation": ("nag_tau",),
    "no refinement": ("nag_alpha",),
    "neither": ("nag_tau", "nag_alpha"),
}  # what is not used then
HELD_OUT, TUNING = 10_000, 50_000  # first seeds


@dataclass(frozen=True)
class Column:
    """One way of guiding, at one number of steps, with all its settings."""

    key: str
    guidance: str
    request: Request  # checked; its words and its seed are each picture's
    ablation: str = ""

    @property
    def steps(self) -> int:
        return self.request.num_inference_steps

    @property
    def settings(self) -> dict:
        """What this column depends on, beside the picture's words and seed."""
        every = ("num_inference_steps", "width", "height", "num_frames")
        used = {name: getattr(self.request, name) for name in every}
        return {"guidance": self.guidance, **used, **METHODS[self.guidance].used(self.request)}

    @property
    def scale(self) -> float | None:
        """How strong this kind of guidance is, in its own unit."""
        return self.settings.get(METHODS[self.guidance].scale)

    @property
    def strangeness(self) -> tuple[int, float]:
        """How far it is from its preset's own settings: how many are others, and the scale."""
        preset = presets.load_all().get(self.request.preset)
        own = {} if preset is None else preset.settings
        others = sum(value != own.get(name, value) for name, value in self.settings.items())
        wanted = own.get(METHODS[self.guidance].scale)
        return others, abs((self.scale or 0.0) - (wanted or 0.0))


@dataclass(frozen=True)
class Picture:
    """What is drawn once in every column.

    case: a key of `cases.CASES`, or "". control: one of `cases.CONTROLS` where the negative prompt
    has nothing to do, else "". question: whether what the negative names is there, or "".
    """

    prompt: str
    negative: str
    seed: int
    case: str = ""
    control: str = ""
    question: str = ""


def preset_of(name: str, model: str | None, captions: bool) -> Preset:
    known = dict(presets.load_all())
    preset, _ = presets.resolve({"preset": name}, known)
    if model:
        # the meter stays: it reads pictures of pocket data, whichever model drew them
        preset = preset.with_model(model).model_copy(update={"meter": preset.meter})
    if preset.image:
        raise Refused(
            f"{preset.title} begins with a picture, and an evaluation has none to give it."
        )
    if not captions and not preset.meter:
        raise Refused(
            f"{preset.title} has no classifier that reads its pictures: give --prompts FILE with "
            "captions and --negative TEXT."
        )
    return preset


def kinds_of(words: list[str] | None, preset: Preset) -> list[str]:
    if words is None:
        return ["none", "cfg", "nag"] if preset.cfg else ["none", "nag"]
    kinds = list(dict.fromkeys(kind for word in words for kind in word.split(",") if kind))
    unknown = [kind for kind in kinds if kind not in METHODS]
    if unknown or not kinds:
        raise Refused(
            f"--guidance is out of {', '.join(METHODS)}; got {', '.join(unknown) or 'nothing'}."
        )
    return kinds


def sweep_of(pairs: list[str], kinds: list[str]) -> dict[str, list[float]]:
    sweep = {}
    known = sorted({name for method in METHODS.values() for name in method.settings})
    for pair in pairs:
        name, _, values = pair.partition("=")
        if name not in known:
            raise Refused(
                f"--sweep wants SETTING=VALUE,VALUE with a setting out of {', '.join(known)}; "
                f"got {pair!r}."
            )
        try:
            sweep[name] = list(dict.fromkeys(float(value) for value in values.split(",")))
        except ValueError:
            raise Refused(
                f"--sweep {name} wants numbers with commas between them, got {values!r}."
            ) from None
        if not any(name in METHODS[kind].settings for kind in kinds):
            raise Refused(f"--sweep {name} changes none of the columns {', '.join(kinds)}.")
    return sweep


def columns_of(
    preset: Preset,
    kinds: list[str],
    steps: list[int],
    sweep: dict[str, list[float]],
    ablate: bool = False,
) -> list[Column]:
    """Every combination of guidance, the swept settings that change it, and steps.

    Raises `Refused`, as `presets.resolve` says it.
    """
    if ablate and "nag" not in kinds:
        raise Refused(
            '--ablate takes NAG apart, and there is no column "nag": add it to --guidance.'
        )
    steps = list(dict.fromkeys(steps)) or [preset.settings["num_inference_steps"]]
    columns = []
    for count, kind in itertools.product(steps, kinds):
        for ablation in ["", *(ABLATIONS if ablate and kind == "nag" else ())]:
            swept = [
                name
                for name in sweep
                if name in METHODS[kind].settings and name not in ABLATIONS.get(ablation, ())
            ]
            for values in itertools.product(*(sweep[name] for name in swept)):
                chosen = dict(zip(swept, values, strict=True))
                words = [
                    kind,
                    *filter(None, [ablation]),
                    *(f"{name}={value:g}" for name, value in chosen.items()),
                ]
                words += [f"steps={count}"] if len(steps) > 1 else []
                off = {SWITCHES[name]: False for name in ABLATIONS.get(ablation, ())}
                raw = {
                    "preset": preset.name,
                    "num_inference_steps": count,
                    "guidance": [kind],
                    **chosen,
                    **off,
                }
                _, request = presets.resolve(raw, {preset.name: preset})
                columns.append(Column(" ".join(words), kind, request, ablation))
    return columns


def captions_in(path: Path) -> list[str]:
    """Captions of a file: COCO's JSON, a TSV or CSV with a column `caption`, or one caption a line.
    Raises `Refused` for a file that cannot be read whole, and for a caption that is no prompt."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        match path.suffix.lower():
            case ".json":
                found = [note["caption"] for note in json.loads(text)["annotations"]]
            case ".tsv" | ".csv" as kind:
                found = _column_of(text, "\t" if kind == ".tsv" else ",", path)
            case _:
                found = text.split("\n")  # not `splitlines`, which cuts at other characters too
    except Refused:
        raise
    except OSError as error:
        raise Refused(f"--prompts {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Refused(f"--prompts {path} is not UTF-8 text.") from None
    except (ValueError, KeyError, TypeError):
        raise Refused(
            f'--prompts {path}: a JSON file must be {{"annotations": [{{"caption": ...}}, ...]}}, '
            'a TSV or CSV file must have a column named "caption", and any other file one caption '
            "a line."
        ) from None
    found = [_caption(caption, i, path) for i, caption in enumerate(found, 1)]
    found = [caption for caption in found if caption]
    if not found:
        raise Refused(f"--prompts {path} has no captions.")
    return found


def _column_of(text: str, delimiter: str, path: Path) -> list[str]:
    """The column `caption`; between quotation marks there may be line breaks. Raises KeyError
    where there is none, `Refused` where a line would lose words."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    try:
        for row in rows:
            if None in row:
                raise Refused(
                    f"--prompts {path}: line {rows.line_num} has more fields than the first; a "
                    'caption with a comma or a tab in it stands between quotation marks ("...").'
                )
            if row["caption"] is None:
                raise Refused(f"--prompts {path}: line {rows.line_num} has no caption.")
            found.append(row["caption"])
    except csv.Error:
        raise Refused(
            f"--prompts {path}: in line {rows.reader.line_num} is a quotation mark that is not "
            'closed, or text behind it; one inside of a quoted caption is written twice ("").'
        ) from None
    return found


def _caption(caption, number: int, path: Path) -> str:
    """A caption in one line, with one space between its words. Raises `Refused`."""
    try:
        if isinstance(caption, str):
            caption = " ".join(caption.split())
        return check_text(caption)
    except ValueError as error:
        raise Refused(f"--prompts {path}: caption {number} {error}.") from None


def of_captions(captions: list[str], negative: str, count: int) -> list[Picture]:
    """`count` pictures; with fewer captions than that they come again, on other seeds."""
    return [Picture(captions[i % len(captions)], negative, HELD_OUT + i) for i in range(count)]


def of_cases(names: list[str], count: int, tuning: bool = False) -> list[Picture]:
    """`count` pictures in all, turn by turn of the cases and of their roles."""
    from ..pocket.data import with_article

    pictures = []
    for i in range(count):
        turn, name = i // len(names), names[i % len(names)]
        _, value, *roles = CASES[name]
        role = with_article(roles[not tuning][turn % len(roles[not tuning])])
        prompt = f"a drawing of {role}" if tuning else f"portrait of {role}"
        pictures.append(Picture(prompt, value, (TUNING if tuning else HELD_OUT) + i, name))
    return pictures


def controls_of(pictures: list[Picture]) -> list[Picture]:
    """A quarter of the pictures again, at least one of each case, under negatives that are idle: a
    word for what is not there, of pairs the next one that is another's, and none."""
    count = max(len({picture.case for picture in pictures}), len(pictures) // 4)
    found = []
    for kind in CONTROLS:
        for place, picture in enumerate(pictures[:count]):
            words = _irrelevant(pictures, place) if kind == "irrelevant" else ""
            if words is not None:
                found.append(replace(picture, negative=words, control=kind))
    return found


def _irrelevant(pictures: list[Picture], place: int) -> str | None:
    here = pictures[place]
    if here.case:
        return IRRELEVANT[here.case]
    others = [one.negative for one in pictures[place + 1 :] + pictures[:place]]
    mine = f"{here.prompt} {here.negative}".lower()
    return next((other for other in others if other.lower() not in mine), None)
