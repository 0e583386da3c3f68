"""X-ray: how far each layer and step pushes the picture, and what tau cuts of it."""

from __future__ import annotations

import base64
import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gradio as gr

from ...errors import NAGRuntimeError, NAGValueError
from ...explore.inside import check, filled, short_names
from ...request import Value
from ..inline import data_uri
from .asked import asked as asked_for

if TYPE_CHECKING:
    from ...engine.run import Run
    from ...request import Request
    from ...xray import XRay
    from ..zero_gpu import LentEngine

SIDE = 512  # px of the picture under the map
PATCHES = 256  # of a frame, layer and step that the browser gets; of more, evenly spaced ones
FRAMES = 8  # of a video, the same


class XRayRoom:
    """Draws the column with NAG once, recorded. engine: see `nag.engine.engine`."""

    def __init__(self, engine: LentEngine) -> None:
        self.engine, self.stops = engine, {}

    def draw(self, request: gr.Request, *values: Value) -> Iterator[dict]:
        """The room's values: the run's steps, then the recording. Raises `Refused`."""
        from ...xray import XRay

        found = asked_for(values, guidance=["nag"], fresh=True)
        preset, asked, start = found.preset, found.request, found.start
        check(asked)
        stop = self.stops[request.session_hash] = threading.Event()
        run_id = uuid.uuid4().hex[:12]
        yield {"state": "running", "step": 0, "total": asked.num_inference_steps}
        events = self.engine.run(preset, asked, stop, run_id, start, XRay())
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
            filled(run.record)
            yield recorded(run.record, run)

    def halt(self, request: gr.Request) -> None:
        """Stops within a step."""
        if stop := self.stops.pop(request.session_hash, None):
            stop.set()


def recorded(xray: XRay, run: Run) -> dict:
    """A recording as the browser draws it: of every layer and step, numbers of its patches."""
    request, column = run.request, run.columns[0]
    titles = short_names(xray.layers)
    layers = [_layer(xray, i, titles[i], request) for i in range(len(xray.layers))]
    frames = next((layer["frames"] for layer in layers if len(layer["frames"]) > 1), [])
    return {
        "state": "done",
        "picture": data_uri(column.image, SIDE),
        "frames": [_frame(column.frames, part) for part in frames] if column.frames else [],
        "made": {n: getattr(request, n) for n in ("nag_scale", "nag_tau", "nag_alpha", "seed")},
        "width": request.width,
        "height": request.height,
        "scales": list(xray.scales),
        "steps": xray.steps,
        "bytes": xray.nbytes,
        "layers": layers,
        "whole": all(layer["whole"] for layer in layers),
    }


def _frame(frames: list, part: float) -> dict:
    """part: 0 for the first frame of a video, 1 for its last."""
    number = round(part * (len(frames) - 1))
    return {"number": number + 1, "of": len(frames), "picture": data_uri(frames[number], SIDE)}


def _layer(xray: XRay, index: int, title: str, request: Request) -> dict:
    """One layer: its grid, and for each step half-precision numbers (patches, scales + 2)."""
    from ...xray import placed

    found = [xray.cell(index, step) for step in range(xray.steps)]
    count = next(len(cell) for cell in found if cell is not None)
    try:
        grid = placed(count, request.width, request.height, request.num_frames)
    except NAGValueError:
        grid = None
    kept, shape, frames = _spaced(count, grid)
    numbers = [
        None
        if cell is None
        else base64.b64encode(cell[kept].half().contiguous().numpy().tobytes()).decode()
        for cell in found
    ]
    about = {"name": xray.layers[index], "short": title, "grid": shape, "frames": frames}
    return about | {"whole": len(kept) == count, "numbers": numbers}


def _spaced(count: int, grid: tuple[int, int, int] | None):
    """Which patches the browser gets, frame by frame, the (rows, columns) of a frame, and which
    frames, from 0 for the first to 1 for the last. Of many, evenly spaced ones."""
    import torch

    if grid is None:
        return torch.arange(0, count, max(1, count // PATCHES)), None, [0.0]
    frames, rows, columns = grid
    apart = 1
    while (rows // apart) * (columns // apart) > PATCHES:
        apart += 1
    down = torch.arange(apart // 2, rows, apart)[: max(1, rows // apart)]
    across = torch.arange(apart // 2, columns, apart)[: max(1, columns // apart)]
    at = torch.linspace(0, frames - 1, min(frames, FRAMES)).round().long()
    # (frames, rows, columns)
    places = (at[:, None, None] * rows + down[:, None]) * columns + across
    parts = [float(i) / max(1, frames - 1) for i in at]
    return places.flatten(), [len(down), len(across)], parts
