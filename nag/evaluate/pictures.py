"""What became of every picture of an evaluation, one by one, in OUT/pictures.json.

`results.json` has shares; this has what they are shares of, so that pictures can be looked at by
what became of them.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import NAGValueError, Refused
from .plan import Column, Picture

FILE = "pictures.json"
LITTLE = 0.5  # share of the other attributes below which little of a picture was kept
KINDS = "left", "replaced", "gone", "absent"
NAME = re.compile(r"[0-9a-f]{24}\.png")


@dataclass(frozen=True)
class Shown:
    """One picture in one column.

    number: of the picture, the same in every column. kind: as in `nag.media.outcome.Outcome`, ""
    where nothing was read. keep: share of the other attributes that are as without guidance, or
    None where that is not known.
    """

    number: int
    column: str
    picture: Picture
    file: str
    kind: str = ""
    keep: float | None = None

    @property
    def little(self) -> bool:
        return self.keep is not None and self.keep < LITTLE


def write(
    folder: Path,
    columns: list[Column],
    pictures: list[Picture],
    paths: dict[str, list[Path]],
    outcomes: dict[str, dict],
) -> None:
    """outcomes: {column: what `pocket.Asked.outcomes` found}, {} where nothing was read.

    A picture is "absent" where the thing is not there without guidance either.
    """
    lines = []
    for i, picture in enumerate(pictures):
        cells = {
            column.key: {"file": paths[column.key][i].name, **_read(outcomes.get(column.key), i)}
            for column in columns
        }
        about = {"prompt": picture.prompt, "negative": picture.negative, "seed": picture.seed}
        lines.append(json.dumps({**about, "case": picture.case, "columns": cells}))
    text = '{"schema": 1, "pictures": [\n' + ",\n".join(lines) + "\n]}\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def _read(found: dict | None, i: int) -> dict:
    if not found:
        return {}
    if found["shown"][i]:
        kind = "left"
    elif "before" in found and not found["before"][i]:
        kind = "absent"
    else:
        kind = "replaced" if found["replaced"][i] else "gone"
    keep = {"keep": round(float(found["keep"][i]), 3)} if "keep" in found else {}
    return {"outcome": kind, **keep}


class Results:
    """An evaluation's folder, to be looked at. `all` are its pictures, column by column.

    Raises `Refused` where the folder has no results, or they cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        numbers, told = _json(folder, "results.json"), _json(folder, FILE)
        try:
            settings = numbers["settings"]
            self.preset, self.model = str(settings["preset"]), str(settings["model"])
            self.device = str(settings.get("device") or "")
            self.columns = {str(key): dict(one) for key, one in settings["columns"].items()}
            self.all = [one for key in self.columns for one in _column(key, told["pictures"])]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused(f"{folder}: these results cannot be read; {AGAIN}") from None
        if not self.all:
            raise Refused(f"{folder}: these results have no pictures.")
        self.by_place = {(one.number, one.column): one for one in self.all}

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(one.picture.case for one in self.all if one.picture.case))

    def plain(self, column: str) -> str | None:
        """The un-guided column with as many steps, or None."""
        return self.like(column, "none")

    def like(self, column: str, guidance: str) -> str | None:
        """The first column with that guidance and as many steps, or None."""
        steps = self.columns[column]["num_inference_steps"]
        same = (key for key, one in self.columns.items() if one["num_inference_steps"] == steps)
        return next((key for key in same if self.columns[key]["guidance"] == guidance), None)

    def path(self, shown: Shown) -> Path:
        """Its file, which is inside of the folder. Raises `Refused` where it is gone, or a link to
        somewhere else."""
        path = (self.folder / "pictures" / shown.file).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise Refused(f"The picture {shown.file} is no longer in the results.")
        return path


AGAIN = "run the same python -m nag evaluate again: what is drawn is kept, and measured anew."


def _json(folder: Path, name: str) -> dict:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{folder} has no {name}; {AGAIN}") from None
    except (OSError, ValueError):
        raise Refused(f"{folder / name} cannot be read; {AGAIN}") from None


def _column(key: str, told: list[dict]) -> Iterator[Shown]:
    """Raises KeyError, TypeError or ValueError for what `write` does not write."""
    for number, one in enumerate(told):
        cell = one["columns"][key]
        kind, keep = cell.get("outcome", ""), cell.get("keep")
        if not NAME.fullmatch(cell["file"]) or (kind and kind not in KINDS):
            raise NAGValueError(f"{cell['file']} with outcome {kind!r} is none of evaluate's.")
        words = str(one["prompt"]), str(one["negative"]), int(one["seed"]), str(one["case"])
        keep = None if keep is None else float(keep)
        yield Shown(number, key, Picture(*words), cell["file"], kind, keep)
