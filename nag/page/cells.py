"""What the bench in the browser is told: a run as plain values, previews as data URIs, finished pictures as files."""

import base64
import io
import json
from pathlib import Path

from ..engine.run import Column, Run
from ..methods import METHODS

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PREVIEW_PIXELS = 256


def data_uri(image, side: int = PREVIEW_PIXELS) -> str:
    """A small WebP of a PIL image, for the page only; finished pictures travel as PNG files."""
    image = image.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def label(run: Run, key: str) -> str:
    method = METHODS[key]
    strength = f" {getattr(run.request, method.scale):g}" if method.scale else ""
    return method.name + strength + (" (research)" if method.research else "")


def cell(
    run: Run,
    column: Column,
    preview: str = "",
    image: dict | None = None,
    video: dict | None = None,
) -> dict:
    """One column as the bench draws it. `image` and `video` are Gradio FileData, `preview` a data URI."""
    relative, method = run.relative(column), METHODS[column.key]
    speed = ""
    if column.together and column.state == "done":
        speed = f"together in {column.seconds:.2f} s, {len(column.together)} columns"
    elif column.seconds and column.state == "done":
        rate = column.step / column.seconds
        speed = (
            f"{column.seconds:.2f} s, {rate:.1f} it/s"
            if rate >= 1
            else f"{column.seconds:.1f} s, {1 / rate:.1f} s/it"
        )
    plain = next((c for c in run.columns if c.key == "none"), None)
    meters = []
    for name, share in column.readings.items():
        before = plain.readings.get(name) if plain is not None and plain is not column else None
        text = f"{share:.0%}" if before is None else f"{before:.0%} → {share:.0%}"
        meters.append({"name": name, "share": share, "text": text.replace("%", " %")})
    cost = "" if relative is None else f"{'≈ ' if run.across(column) else ''}{relative:.2f}× time"
    switches = (
        ("no normalisation", run.request.nag_normalisation),
        ("no refinement", run.request.nag_refinement),
    )
    remarks = [word for word, on in switches if not on and method.attention == "nag"]
    if (
        column.state == "done"
        and run.request.attention(column.key)
        and column.guided_steps < column.step
    ):
        saves = (
            "" if column.saved is None else f", saves {max(0, column.saved):.0%}".replace("%", " %")
        )
        remarks.append(
            f"{method.attention.upper()} active in {column.guided_steps} of {column.step} steps{saves}"
        )
    if column.reused:
        remarks.append("kept from an earlier run")
    return {
        "key": column.key,
        "label": label(run, column.key),
        "state": column.state,
        "step": column.step,
        "total": max(column.total, column.step),
        "speed": speed,
        "cost": cost,
        "remark": ", ".join(remarks),
        "preview": preview,
        "image": image,
        "video": video,
        "reason": column.reason,
        "meters": meters,
    }


def value(
    run: Run,
    previews: dict[str, str],
    images: dict[str, dict],
    hint: str | None = None,
    videos: dict | None = None,
) -> dict:
    """The bench's whole value. previews, images and videos by column."""
    return {
        "cells": [
            cell(
                run,
                c,
                "" if c.key in images else previews.get(c.key, ""),
                images.get(c.key),
                (videos or {}).get(c.key),
            )
            for c in run.columns
        ],
        "hint": run.hint if hint is None else hint,
        "aspect": run.request.width / run.request.height,
        "frames": run.request.num_frames,
        "fps": run.preset.fps or 16,
    }


def shipped(name: str) -> dict:
    """The result shown before anything was run: made by the shipped weights, kept in assets/results."""
    folder = ASSETS / "results" / name
    if not (folder / "bench.json").exists():
        return {"cells": [], "hint": "Press Compare."}
    shown = json.loads((folder / "bench.json").read_text("utf-8"))
    for one in shown["cells"]:
        one["preview"], one["image"], film = (
            _data(folder / f"{one['key']}.png", "image/png"),
            None,
            folder / f"{one['key']}.mp4",
        )
        one["video"] = {"url": _data(film, "video/mp4")} if film.exists() else None
    return shown


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
