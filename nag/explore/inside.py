"""`python -m nag xray`: how far NAG pushes attention inside a model, and how much tau cuts of it.

    python -m nag xray --out out                  a run with NAG, recorded
    python -m nag xray --at nag_tau=4 --out out   the same recording, read at another tau

The second draws nothing: tau and alpha act on what was recorded, and R at another scale lies
between those that were. That is exact for the first guided layer of the first step; behind it the
model would have seen another picture, so it is an estimate there.

OUT/xray.json      shares, means and what is suggested, for every layer and step
OUT/xray.png       the shares as a picture
OUT/recording.safetensors and picture.png
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import NAGRuntimeError, Refused
from ..media.lettering import INK, PALE, PAPER, fit, font, wrap, write
from ..presets import Preset, resolve
from ..request import Request

if TYPE_CHECKING:
    from ..engine.run import Run
    from ..xray import XRay

READ = ("nag_scale", "nag_tau", "nag_alpha")  # what can be moved without a run
EXACT = "the first layer of the first step; behind it, an estimate"
FILE, PICTURE = "recording.safetensors", "picture.png"
COLD, HOT = (238, 240, 246), (23, 47, 158)  # of no patch cut, of all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `xray`, beside those that name a preset and its settings."""
    parser.add_argument(
        "--at",
        nargs="+",
        default=[],
        metavar="SETTING=VALUE",
        help=f"read the recording at another {', '.join(READ)}, without a run",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for xray.json, xray.png and the recording"
    )


def run(
    options: argparse.Namespace,
    preset: Preset,
    request: Request,
    image: Image.Image | None = None,
    also: Callable | None = None,
) -> int:
    """Prints a table. also: what else is written, called with the options, the recording, preset,
    request, and the request at which it is read. Raises `Refused`."""
    there = at(options.at, preset, request)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {options.out} cannot be made: {error.strerror}.") from None
    xray, drawn = recalled(options.out, preset, request, image), False
    if xray is None:
        xray, drawn = record(options.out, preset, request, image), True
    told = told_of(xray, preset, request, there)
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    (options.out / "xray.json").write_text(text, encoding="utf-8")
    heat_map(told).save(options.out / "xray.png")
    if also is not None:
        also(options, xray, preset, request, there)
    print("Recorded now." if drawn else "Read from the recording that is there; nothing drawn.")
    print("\n".join(table(told)))
    return 0


def at(pairs: list[str], preset: Preset, request: Request) -> Request:
    """The request with SETTING=VALUE pairs of `READ`. Raises `Refused`."""
    moved = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in READ:
            raise Refused(f"--at moves {', '.join(READ)} without a run; got {pair!r}.")
        try:
            moved[name] = float(value)
        except ValueError:
            raise Refused(f"--at {name} wants a number, got {value!r}.") from None
    return resolve({**request.model_dump(), **moved}, {preset.name: preset})[1]


def check(request: Request) -> None:
    """Raises `Refused` where NAG does nothing that could be recorded."""
    if request.nag.off:
        raise Refused("NAG is off at scale 1, alpha 0 or until 0: there is nothing to record.")


def recording_of(run: Run) -> XRay:
    """What a run of `only_nag` has recorded. Raises `NAGRuntimeError` where it did not come to its
    end, or no attention was guided in it."""
    (column,) = run.columns
    if column.state != "done":
        raise NAGRuntimeError(column.reason or "The run was stopped.")
    if not run.record.recorded:
        raise NAGRuntimeError("Nothing was recorded: no layer of this run was guided.")
    return run.record


def only_nag(request: Request) -> Request:
    """The request of a run that is recorded."""
    return request.model_copy(update={"guidance": ("nag",), "fresh": True, "batched": False})


def record(
    folder: Path, preset: Preset, request: Request, image: Image.Image | None = None
) -> XRay:
    """Draws the column with NAG and keeps the recording. Raises `Refused`, `NAGRuntimeError`."""
    from ..engine.engine import Engine
    from ..xray import XRay

    check(request)
    *_, (run, _, _) = Engine(previews=False).run(
        preset, only_nag(request), image=image, record=XRay()
    )
    xray = recording_of(run)
    run.columns[0].image.save(folder / PICTURE)
    path = folder / FILE
    path.with_suffix(".part").write_bytes(packed(xray, run))
    path.with_suffix(".part").replace(path)  # it is there whole or not at all
    return xray


def _made(run: Run) -> str:
    from ..engine.provenance import provenance
    from ..engine.run import identity

    everything = [identity(run, "nag"), provenance(run.preset)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def packed(xray: XRay, run: Run) -> bytes:
    """A recording as a safetensors file: <layer>.<step> is (N, S + 2) in half precision."""
    from safetensors.torch import save

    about = {"made": _made(run), "scales": xray.scales, "layers": xray.layers}
    texts = {name: json.dumps(value) for name, value in about.items()}
    cells = {f"{layer}.{step}": cell.contiguous() for (layer, step), cell in xray.recorded.items()}
    return save(cells, metadata=texts)


def recalled(
    folder: Path, preset: Preset, request: Request, image: Image.Image | None = None
) -> XRay | None:
    """The recording of the same settings that is there, or None."""
    from safetensors import SafetensorError, safe_open

    from ..engine.engine import fitted
    from ..engine.run import Run
    from ..xray import XRay

    start = fitted(image, request.width, request.height) if preset.image else None
    made = _made(Run("xray", preset, only_nag(request), [], start=start))
    try:
        with safe_open(folder / FILE, "pt") as file:
            about = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            if about.get("made") != made:
                return None
            names = file.keys()  # a file of tensors is no mapping
            cells = {tuple(map(int, name.split("."))): file.get_tensor(name) for name in names}
        xray = XRay(scales=tuple(about["scales"]), layers=about["layers"], cells=cells)
        xray.steps = 1 + max(step for _, step in cells)
    except (OSError, KeyError, ValueError, TypeError, SafetensorError):
        return None  # not there, or not whole: it is recorded again
    return xray


def told_of(xray: XRay, preset: Preset, request: Request, there: Request) -> dict:
    """All that a recording says, as JSON has it. there: the settings at which it is read."""
    scale, tau, alpha = there.nag_scale, there.nag_tau, there.nag_alpha
    suggested = xray.suggest(scale)
    exact = all(getattr(there, name) == getattr(request, name) for name in READ)
    return {
        "schema": 1,
        "preset": preset.name,
        "recorded": request.model_dump(mode="json"),
        "read": {name: getattr(there, name) for name in READ},
        "exact": "every step" if exact else EXACT,
        "layers": xray.layers,
        "short": short_names(xray.layers),
        "steps": xray.steps,
        "clipped": _rows(xray.clipped(scale, tau)),
        "mean_ratio": _rows(xray.mean_ratio(scale)),
        "mean_change": _rows(xray.mean_change(scale, tau, alpha)),
        "suggested": {"nag_tau": round(suggested[0], 2), "nag_alpha": round(suggested[1], 2)},
        "bytes": xray.nbytes,
    }


def _rows(of) -> list[list[float | None]]:
    """(L, K) as lists; None where nothing was guided."""
    return [[None if x != x else round(x, 4) for x in row] for row in of.tolist()]


def table(told: dict) -> list[str]:
    """Lines for a terminal: the share that tau cuts, in percent."""
    read, wide = told["read"], max(map(len, told["short"]))
    lines = [
        f"Patches that tau {read['nag_tau']:g} cuts at scale {read['nag_scale']:g}, in percent "
        f"(exact for {told['exact']}):",
        " " * wide + "".join(f"{f'step {k + 1}':>8}" for k in range(told["steps"])),
    ]
    for name, row in zip(told["short"], told["clipped"], strict=True):
        shown = ("" if share is None else f"{100 * share:.0f}" for share in row)
        lines.append(f"{name:{wide}}" + "".join(f"{text:>8}" for text in shown))
    suggested = told["suggested"]
    lines.append(
        f"To begin with at this scale: tau {suggested['nag_tau']:g}, which leaves nine patches in "
        f"ten as they are, and alpha {suggested['nag_alpha']:g}, at which nine in ten change by at "
        "most their own size."
    )
    return lines


def heat_map(told: dict) -> Image.Image:
    """The shares that tau cuts as a picture: layers down, steps across."""
    letter, high, gap = 15, 34, 3
    names = [fit(name, 220, letter) for name in told["short"]]
    left = 24 + int(max(font(letter).getlength(name) for name in names)) + 12
    wide = max(64, min(150, 900 // max(1, told["steps"])))
    width = left + told["steps"] * (wide + gap) + 21
    read = told["read"]
    title = (
        f"Patches that tau {read['nag_tau']:g} cuts at scale {read['nag_scale']:g}, in percent: "
        f"“{told['recorded']['prompt']}” not “{told['recorded']['negative_prompt']}”, "
        f"seed {told['recorded']['seed']}"
    )
    heading = wrap(title, width - 48, letter)
    top = 24 + 22 * len(heading) + 12
    page = Image.new("RGB", (width, top + len(names) * (high + gap) + 48), PAPER)
    for i, line in enumerate(heading):
        write(page, (24, 24 + 22 * i), line, letter)
    for y, (name, row) in enumerate(zip(names, told["clipped"], strict=True)):
        at_y = top + y * (high + gap)
        write(page, (left - 12, at_y + high / 2), name, letter, PALE, "rm")
        for x, share in enumerate(row):
            if share is None:
                continue
            at_x = left + x * (wide + gap)
            colour = tuple(round(a + share * (b - a)) for a, b in zip(COLD, HOT, strict=True))
            page.paste(colour, (at_x, at_y, at_x + wide, at_y + high))
            middle = at_x + wide / 2, at_y + high / 2
            write(page, middle, f"{100 * share:.0f}", letter, PAPER if share > 0.4 else INK, "mm")
    for x in range(told["steps"]):
        under = left + x * (wide + gap) + wide / 2, top + len(names) * (high + gap) + 8
        write(page, under, f"step {x + 1}" if wide > 60 else str(x + 1), letter, PALE, "ma")
    return page


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
