"""A grid's pictures in a folder, from which the same command goes on after a stop.

OUT/pictures/<identity>.png (and .mp4)    a picture, under a name that says all it depends on
OUT/grid.json                             settings, heads, and what was read in every cell
OUT/grid.png                              the sheet
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..engine.run import Column
from ..errors import Refused
from .grid import Grid, Picture
from .reading import Readings
from .sheet import sheet

KEPT = ("key", "total", "step", "seconds", "steady", "guided_steps", "latents_sha256", "spread")


class Store:
    """Raises `Refused` where the folder cannot be written."""

    def __init__(self, folder: Path, provenance: dict) -> None:
        """provenance: see `nag.engine.provenance`."""
        self.folder, self.provenance = folder, provenance
        try:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"--out {folder} cannot be made: {error.strerror}.") from None

    def path(self, picture: Picture) -> Path:
        everything = json.dumps([picture.identity, self.provenance], sort_keys=True)
        name = hashlib.sha256(everything.encode()).hexdigest()[:24]
        return self.folder / "pictures" / f"{name}.png"

    def load(self, grid: Grid, readings: Readings) -> int:
        """Puts what is there into the grid, with what was read in it -> how many pictures."""
        return sum(self._load(picture, readings) for picture in grid.missing)

    def _load(self, picture: Picture, readings: Readings) -> bool:
        path = self.path(picture)
        try:
            with Image.open(path) as image:
                told = json.loads(image.text["nag"])
                column = Column(state="done", **{name: told[name] for name in KEPT})
                column.image, column.reused = image.convert("RGB"), True
                column.together, reading = tuple(told["together"]), told["reading"]
        except (OSError, KeyError, ValueError, TypeError, AttributeError):
            return False  # not there, or not whole: it is drawn again
        if path.with_suffix(".mp4").exists():
            column.video = path.with_suffix(".mp4").read_bytes()
        if reading is not None:
            readings.known[picture.identity] = reading
        picture.column = column
        return True

    def save(self, picture: Picture, readings: Readings) -> None:
        """Written beside its place first: a picture is there whole or not at all."""
        from PIL.PngImagePlugin import PngInfo

        path, text = self.path(picture), PngInfo()
        told = {name: getattr(picture.column, name) for name in (*KEPT, "together")}
        text.add_text("nag", json.dumps(told | {"reading": readings.reading(picture)}))
        part = path.with_suffix(".part")
        if picture.column.video:
            path.with_suffix(".mp4").write_bytes(picture.column.video)
        picture.column.image.save(part, "PNG", pnginfo=text)
        part.replace(path)

    def finish(self, grid: Grid, readings: Readings, corner: str, extra: dict) -> None:
        """The sheet, and grid.json."""
        sheet(grid, readings, corner).save(self.folder / "grid.png")
        told = told_of(grid, readings, **extra)
        for row, pictures in zip(told["cells"], grid.cells, strict=True):
            for cell, picture in zip(row, pictures, strict=True):
                cell["picture"] = f"pictures/{self.path(picture).name}"
        text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
        (self.folder / "grid.json").write_text(text, encoding="utf-8")


def told_of(grid: Grid, readings: Readings, **extra: Any) -> dict:
    """A grid as JSON has it: settings, heads, and what was read in every cell."""
    return {
        "schema": 1,
        "preset": grid.preset.name,
        "settings": grid.request.model_dump(mode="json"),
        "across": [line.name for line in grid.across],
        "down": [line.name for line in grid.down],
        "cells": [[_cell(picture, readings) for picture in row] for row in grid.cells],
        **extra,
    }


def _cell(picture: Picture, readings: Readings) -> dict:
    """What does not apply is left out."""
    found, column = readings.outcome(picture), picture.column
    return {
        "guidance": picture.key,
        "state": column.state if column else "missing",
        "seconds": _seconds(picture),
        **({"reason": column.reason} if column and column.reason else {}),
        **({} if found is None else {"outcome": found.kind, "share": round(found.share, 4)}),
        **({"instead": found.instead} if found and found.instead else {}),
        **({"changed": list(found.changed)} if found and found.changed else {}),
    }


def _seconds(picture: Picture) -> float | None:
    """Of the steps; None where it was drawn with others, and has no time of its own."""
    if not picture.done or picture.column.together:
        return None
    return round(picture.column.seconds, 4)
