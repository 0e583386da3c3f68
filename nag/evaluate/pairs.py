"""A file of prompts, each with a negative prompt and a yes-or-no question of its own.

As NegGenBench has them (arXiv 2508.10931): what stands in the negative is a part of what the prompt
describes, and the question asks whether the picture shows it.
"""

import csv
import io
import json
from pathlib import Path

from ..errors import Refused
from ..request import check_text
from .plan import HELD_OUT, Picture

# name of ours -> others that are read too; "missing_element" is NegGenBench's
NAMES = {
    "prompt": ("prompt", "caption"),
    "negative": ("negative", "negative_prompt", "missing_element"),
    "question": ("question",),
}
FORM = (
    "a JSON file is a list of objects (or has one under one name), a TSV or CSV file has a first "
    "line of names; each row has prompt, negative and, if you like, question"
)
ASKED = "Is there any {} in this picture?"


def pairs_in(path: Path, count: int | None = None) -> list[Picture]:
    """The pictures that a file asks for; with a count above its rows they come again, on other
    seeds. Raises `Refused` for a file that cannot be read whole."""
    try:
        rows = _rows(path)
    except Refused:
        raise
    except OSError as error:
        raise Refused(f"--pairs {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Refused(f"--pairs {path} is not UTF-8 text.") from None
    except (ValueError, csv.Error):
        raise Refused(f"--pairs {path} is not as it should be: {FORM}.") from None
    if not rows:
        raise Refused(f"--pairs {path} has no rows: {FORM}.")
    read = [_words(row, number, path) for number, row in enumerate(rows, 1)]
    return [
        Picture(prompt, negative, HELD_OUT + i, question=question)
        for i in range(len(read) if count is None else count)
        for prompt, negative, question in [read[i % len(read)]]
    ]


def _rows(path: Path) -> list[dict]:
    text, kind = path.read_text(encoding="utf-8-sig"), path.suffix.lower()
    if kind == ".json":
        rows = json.loads(text)
        if isinstance(rows, dict):
            lists = [value for value in rows.values() if isinstance(value, list)]
            rows = lists[0] if len(lists) == 1 else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Refused(f"--pairs {path} is not as it should be: {FORM}.")
        return rows
    if kind in (".tsv", ".csv"):
        delimiter = "\t" if kind == ".tsv" else ","
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        if any(None in row for row in rows):
            raise Refused(
                f"--pairs {path}: a line has more fields than the first; text with a comma or a "
                'tab in it stands between quotation marks ("...").'
            )
        return rows
    raise Refused(f"--pairs {path} ends in none of .json, .tsv, .csv: {FORM}.")


def _words(row: dict, number: int, path: Path) -> tuple[str, str, str]:
    """prompt, negative, question of one row."""
    found = {}
    for name, others in NAMES.items():
        value = next((row[one] for one in others if row.get(one) not in (None, "")), None)
        if value is None and name != "question":
            raise Refused(f"--pairs {path}: row {number} has no {name}: {FORM}.")
        try:
            found[name] = " ".join(check_text(value).split()) if value is not None else ""
        except ValueError as error:
            raise Refused(f"--pairs {path}: the {name} of row {number} {error}.") from None
    return found["prompt"], found["negative"], found["question"] or ASKED.format(found["negative"])
