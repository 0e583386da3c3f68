"""Rooms in files: a picture, all of it in a ZIP, one page that works offline."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

from ..explore import inside
from ..explore.sheet import described, sheet
from ..home import ASSETS
from . import cells
from .grid_value import LARGE, GridValue
from .report import filled
from .rooms import template
from .xray_value import recorded

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.run import Run
    from ..request import Request
    from ..xray import XRay


def grid_png(shown: GridValue) -> bytes:
    """A grid as one picture."""
    return _png(sheet(shown.grid, shown.readings, shown.corner))


def grid_zip(shown: GridValue) -> bytes:
    """The sheet, the page, every picture, and what made them."""
    rows, files = [], {"grid.png": grid_png(shown), "grid.html": grid_page(shown)}
    for y, row in enumerate(shown.grid.cells):
        for x, picture in enumerate(row):
            if not picture.done:
                continue
            name = f"{y + 1:02}-{x + 1:02}.png"
            files[name] = _png(picture.column.image)
            made = picture.request.model_dump(mode="json")
            rows.append({**made, "file": name, "guidance": picture.key})
    about = {"corner": shown.corner, "preset": shown.grid.preset.name, "cells": rows}
    return _zip(files | {"grid.json": _json(about)})


def grid_page(shown: GridValue) -> bytes:
    """A grid as one HTML page, with larger pictures than on the page itself."""
    grid = shown.grid
    large = GridValue(shown.name, grid, shown.readings, shown.corner, LARGE)
    return page(shown.name, "grid", large.value(), grid.request, described(grid))


def xray_png(xray: XRay, run: Run, there: Request) -> bytes:
    """What tau cuts, as one picture. there: the settings at which the recording is read."""
    return _png(inside.heat_map(inside.told_of(xray, run.preset, run.request, there)))


def xray_zip(xray: XRay, run: Run, there: Request) -> bytes:
    """The recording, the numbers, the pictures and the page."""
    files = {
        "xray.png": xray_png(xray, run, there),
        "xray.html": xray_page(xray, run, there),
        "xray.json": _json(inside.told_of(xray, run.preset, run.request, there)),
        inside.PICTURE: _png(run.columns[0].image),
        inside.FILE: inside.packed(xray, run),
    }
    return _zip(files)


def xray_page(xray: XRay, run: Run, there: Request) -> bytes:
    """An X-ray as one HTML page, in which scale, tau and alpha still move."""
    request = run.request
    words = f"{run.preset.title}: “{request.prompt}” not “{request.negative_prompt}”"
    title = f"{words}, seed {request.seed}"
    return page("xray", "xray", recorded(xray, run), there, title, knobs=True)


def page(
    room: str, script: str, value: dict, request: Request, title: str, knobs: bool = False
) -> bytes:
    """A room as one HTML page that asks nothing of any server, in UTF-8.

    value: what the browser is told. knobs: with sliders for scale, tau and alpha.
    """
    sheets = [ASSETS / "bench" / "bench.css", *sorted((ASSETS / "rooms").glob("*.css"))]
    told = {"value": value, "settings": request.model_dump(mode="json"), "title": title}
    text = filled(
        "rooms",
        told | {"room": room, "knobs": knobs},
        CSS="\n".join(one.read_text("utf-8") for one in sheets),
        HTML=template(room, example=False),
        JS=cells.script("rooms", "base", script),
    )
    return text.encode()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _json(value: dict) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
