"""X-ray: how far each layer and step pushes the picture, and what tau cuts of it."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gradio as gr

from ...errors import NAGRuntimeError, NAGValueError, Refused
from ...presets import resolve
from ...request import Value
from ..controls import INPUTS, PRESETS
from ..inline import data_uri

if TYPE_CHECKING:
    from ...engine.run import Run
    from ...xray import XRay
    from ..zero_gpu import LentEngine

SIDE = 512  # px of the picture under the map
PATCHES = 256  # of a layer and step that the browser gets; of more, evenly spaced ones


class XRayRoom:
    """Draws the column with NAG once, recorded. engine: see `nag.engine.engine`."""

    def __init__(self, engine: LentEngine) -> None:
        self.engine, self.stops = engine, {}

    def draw(self, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values: the run's steps, then the recording. Raises `Refused`."""
        from ...xray import XRay

        raw = dict(zip(INPUTS, values, strict=True))
        preset, asked = resolve(raw | {"guidance": ["nag"], "fresh": True}, PRESETS)
        if preset.image:
            raise Refused(f"{preset.title} begins with a picture, which cannot be recorded yet.")
        if asked.nag.off:
            raise Refused("NAG is off at scale 1, alpha 0 or until 0: there is nothing to record.")
        stop = self.stops[request.session_hash] = threading.Event()
        run_id = uuid.uuid4().hex[:12]
        yield {"state": "running", "step": 0, "total": asked.num_inference_steps}
        events = self.engine.run(preset, asked, stop, run_id, None, XRay())
        with contextlib.closing(events):
            for run, column, _ in events:  # noqa: B007
                if column is not None and column.state == "step":
                    yield {"state": "running", "step": column.step, "total": column.total}
        self.stops.pop(request.session_hash, None)
        column = run.columns[0]
        if column.state == "stopped":
            yield {"state": "empty"}
        elif column.state != "done":
            raise NAGRuntimeError(column.reason)
        else:
            yield recorded(run.record, run)

    def halt(self, request: gr.Request) -> None:
        """Stops within a step."""
        if stop := self.stops.pop(request.session_hash, None):
            stop.set()


def recorded(xray: XRay, run: Run) -> dict:
    """A recording as the browser draws it: of every layer and step, numbers of its patches."""
    request, column = run.request, run.columns[0]
    frames = request.num_frames
    titles = short_names(xray.layers)
    layers = [_layer(xray, i, titles[i], request, frames) for i in range(len(xray.layers))]
    return {
        "state": "done",
        "picture": data_uri(column.image, SIDE),
        "made": {n: getattr(request, n) for n in ("nag_scale", "nag_tau", "nag_alpha", "seed")},
        "width": request.width,
        "height": request.height,
        "scales": list(xray.scales),
        "steps": xray.steps,
        "bytes": xray.nbytes,
        "layers": layers,
        "whole": all(layer["whole"] for layer in layers),
    }


def _layer(xray, index: int, title: str, request, frames: int) -> dict:
    """One layer: its grid, and for each step half-precision numbers (patches, scales + 2)."""
    from ...xray import grid_of

    found = [xray.cell(index, step) for step in range(xray.steps)]
    count = next(len(cell) for cell in found if cell is not None)
    try:
        grid = grid_of(count, request.width, request.height, frames)
    except NAGValueError:
        grid = None
    kept, shape = _spaced(count, grid)
    numbers = [
        None
        if cell is None
        else base64.b64encode(cell[kept].half().contiguous().numpy().tobytes()).decode()
        for cell in found
    ]
    about = {"name": xray.layers[index], "short": title, "grid": shape, "count": count}
    return about | {"whole": len(kept) == count, "numbers": numbers}


def _spaced(count: int, grid: tuple[int, int, int] | None):
    """Which patches the browser gets, and their (rows, columns): of a video the middle frame's."""
    import torch

    if grid is None:
        kept = torch.arange(0, count, max(1, count // PATCHES))
        return kept, None
    frames, rows, columns = grid
    apart = 1
    while (rows // apart) * (columns // apart) > PATCHES:
        apart += 1
    down = torch.arange(apart // 2, rows, apart)[: max(1, rows // apart)]
    across = torch.arange(apart // 2, columns, apart)[: max(1, columns // apart)]
    places = (frames // 2) * rows * columns + down[:, None] * columns + across
    return places.flatten(), [len(down), len(across)]


def short_names(layers: list[str]) -> list[str]:
    """Names of layers as headings: "down 1.0", "middle 0", "block 12". Numbers in which all end
    alike are left out."""
    numbers = [re.findall(r"\d+", name) for name in layers]
    while min(map(len, numbers)) > 1 and len({one[-1] for one in numbers}) == 1:
        numbers = [one[:-1] for one in numbers]
    return [
        f"{_kind(name)} {'.'.join(one)}".strip() for name, one in zip(layers, numbers, strict=True)
    ]


def _kind(name: str) -> str:
    words = {"down": "down", "mid": "middle", "up_": "up", "single": "single"}
    return next((word for part, word in words.items() if part in name), "block")
