"""What the browser is told of an X-ray: numbers of patches, from which it computes the rest."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from ..engine.run import decisive
from ..errors import NAGValueError
from ..explore.inside import short_names
from .inline import data_uri

if TYPE_CHECKING:
    from ..engine.run import Run
    from ..request import Request
    from ..xray import XRay

SIDE = 512  # px of the picture under the map
PATCHES = 256  # of a frame, layer and step that the browser gets; of more, evenly spaced ones
FRAMES = 8  # of a video that the browser gets; of more, evenly spaced ones


def recorded(xray: XRay, run: Run) -> dict:
    """A recording as the browser draws it: of every layer and step, numbers of its patches."""
    request, column = run.request, run.columns[0]
    titles = short_names(xray.layers)
    most = FRAMES if column.frames else 1
    layers = [_layer(xray, i, titles[i], request, most) for i in range(len(xray.layers))]
    frames = next((layer["frames"] for layer in layers if len(layer["frames"]) > 1), [])
    return {
        "state": "done",
        "picture": data_uri(column.image, SIDE),
        "frames": [_frame(column.frames, part) for part in frames] if column.frames else [],
        "made": {"preset": run.preset.name, **decisive(request, "nag")},
        "ranges": {name: run.preset.range(name) for name in ("nag_tau", "nag_alpha")},
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


def _layer(xray: XRay, index: int, title: str, request: Request, most: int) -> dict:
    """One layer: its grid, and for each step half-precision numbers (patches, scales + 2). most:
    frames."""
    from ..xray import placed

    found = [xray.cell(index, step) for step in range(xray.steps)]
    count = next(len(cell) for cell in found if cell is not None)
    try:
        grid = placed(count, request.width, request.height, request.num_frames)
    except NAGValueError:
        grid = None
    kept, shape, frames = _spaced(count, grid, most)
    numbers = [
        None
        if cell is None
        else base64.b64encode(cell[kept].half().contiguous().numpy().tobytes()).decode()
        for cell in found
    ]
    about = {"name": xray.layers[index], "short": title, "grid": shape, "frames": frames}
    return about | {"whole": len(kept) == count, "numbers": numbers}


def _spaced(count: int, grid: tuple[int, int, int] | None, most: int):
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
    at = torch.linspace(0, frames - 1, min(frames, most)).round().long()
    at = at if most > 1 else torch.tensor([frames // 2])
    # (frames, rows, columns)
    places = (at[:, None, None] * rows + down[:, None]) * columns + across
    parts = [float(i) / max(1, frames - 1) for i in at]
    return places.flatten(), [len(down), len(across)], parts
