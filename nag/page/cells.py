"""What the bench in the browser is told: a run as plain values, previews as data URIs, finished
pictures as files."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.run import Column, Run, decisive
from ..home import ASSETS
from ..methods import METHODS
from ..preset_text import short
from ..presets import Preset
from ..request import Request
from .cards import card
from .link import compact, query

if TYPE_CHECKING:
    from ..presets import PromptPair

KNOBS = ("nag_scale", "nag_tau", "nag_alpha", "nag_end", "num_inference_steps", "guidance_scale")
SCRIPTS = (
    *("base", "cells", "stage", "zoom", "film", "verdict", "visit", "differ", "knobs"),
    *("keep", "open", "away", "keys"),
)
SHOWN = {  # of the settings that made a picture, what its caption says
    "guidance_scale": "scale",
    "nag_scale": "scale",
    "nasa_scale": "scale",
    "ong_scale": "scale",
    "vsf_scale": "scale",
    "vsf_bias": "bias",
    "negpip_scale": "scale",
    "nag_tau": "tau",
    "nag_alpha": "alpha",
    "nag_end": "until",
}


def bench_html() -> str:
    return (ASSETS / "bench" / "bench.html").read_text("utf-8")


def bench_script() -> str:
    """The bench's scripts as one."""
    return script("bench", *SCRIPTS)


def script(folder: str, *names: str) -> str:
    """Scripts of assets/<folder>/ behind what all parts of the page share: one scope, in this
    order."""
    from .controls import INPUTS

    files = [ASSETS / "page" / "shared.js", *(ASSETS / folder / f"{name}.js" for name in names)]
    known = f"const NAMES = {json.dumps(INPUTS)};"
    return "\n".join([known, *(file.read_text("utf-8") for file in files)])


def caption(request: Request, key: str) -> list[list[str]]:
    """[[setting, its name in a caption, its value], ...] of what made a column's picture."""
    made = decisive(request, key)
    both = "guidance_scale" in made and "nag_scale" in made
    words = SHOWN | ({"guidance_scale": "CFG"} if both else {})
    parts = [
        [name, word, compact(made[name]).removeprefix("0") or "0"]
        for name, word in words.items()
        if name in made and not (name == "nag_end" and made[name] == 1)
    ]
    if made.get("nag_normalisation") is False:
        parts.append(["nag_normalisation", "no normalisation", ""])
    if made.get("nag_refinement") is False:
        parts.append(["nag_refinement", "no refinement", ""])
    return parts


def label(run: Run, key: str) -> str:
    """A column's name with its settings, in one line."""
    return " ".join(
        [METHODS[key].name, *(f"{w} {v}".rstrip() for _, w, v in caption(run.request, key))]
    )


def cost(run: Run, column: Column) -> dict | None:
    """What a column costs against no guidance, from one source: the operations counted of this
    model at these settings; where they could not be counted, times of this run."""
    if column.state != "done":
        return None
    if (ratio := run.work(column)) is not None:
        return {"text": f"{ratio:.2f}".rstrip("0").rstrip(".") + "×", "unit": "work"}
    ratio = None if run.across(column) else run.relative(column)
    if ratio is None:
        return None
    same = column.key != "none" and abs(ratio - 1) < 0.15  # the noise of steps this short
    return {"text": "about the same" if same else f"{ratio:.1f}×", "unit": "time"}


def note(run: Run, column: Column) -> str:
    """Seed, steps, seconds: the small print under a picture."""
    request, done = run.request, column.state == "done"
    parts = [f"seed {request.seed}, {request.num_inference_steps} steps"]
    if done and column.together:
        what = "columns" if column.seed is None else "seeds"
        parts.append(f"together in {column.seconds:.2f} s, {len(column.together)} {what}")
    elif done and column.seconds:
        parts.append(f"{column.seconds:.2f} s{' on the processor' if run.device == 'cpu' else ''}")
    if done and request.attention(column.key) and column.guided_steps < column.step:
        parts.append(f"guided in {column.guided_steps} of {column.step}")
    if column.reused:
        parts.append("kept from an earlier run")
    return " · ".join(parts)


def meters(column: Column) -> list[dict]:
    """What the meter reads of the unwanted words: share, what became of it, that in words, and what
    else has changed that nobody asked to change ("gone +2, 0 %")."""
    rows = []
    for thing, share in column.readings.items():
        found = column.outcomes.get(thing)
        kind = found.kind if found else ""
        words = {
            "left": "still there",
            "gone": "gone",
            "replaced": found and f"now {found.instead}",
        }
        changed = list(found.changed) if kind in ("gone", "replaced") else []
        more = f" +{len(changed)}" if changed else ""
        # the word first: "0 % gone" reads as if nothing were
        became = f"{words[kind]}{more}, " if kind in words else ""
        text = f"{became}{share:.0%}".replace("%", " %")
        rows.append(
            {"name": thing, "share": share, "outcome": kind, "text": text, "changed": changed}
        )
    return rows


def file_name(run: Run, column: Column) -> str:
    """portrait-of-a-cowboy_not-hat_17_nag, without a suffix."""
    request = run.request
    words = (slug(request.prompt, 40), "not-" + slug(request.negative_prompt, 24))
    return "_".join((*words, str(request.seed), column.key.replace("+", "-")))


def slug(text: str, length: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:length].strip("-") or "nothing"


def cell(
    run: Run,
    column: Column,
    preview: str = "",
    image: dict | None = None,
    video: dict | None = None,
) -> dict:
    """One column as the bench draws it. `image` and `video` are Gradio FileData, `preview` a data
    URI."""
    return {
        "key": column.key,
        "name": METHODS[column.key].name,
        "set": caption(run.request, column.key),
        "made": {"preset": run.preset.name} | decisive(run.request, column.key),
        "state": column.state,
        "step": column.step,
        "total": max(column.total, column.step),
        "seconds": column.seconds,
        # whether that is the time of drawing this column now, and it alone
        "alone": column.state == "done" and not column.reused and not column.together,
        "cost": cost(run, column),
        "peak": f"{column.peak / 1e9:.1f} GB" if column.peak else "",
        "note": note(run, column),
        "meters": meters(column),
        "reason": column.reason,
        "file": file_name(run, column),
        "preview": preview,
        "image": image,
        "video": video,
        "sounds": column.sounds,
    }


def value(
    run: Run, previews: dict, images: dict, hint: str | None = None, videos: dict | None = None
) -> dict:
    """The bench's whole value. previews, images and videos by column."""
    request, videos = run.request, videos or {}
    shown = [
        cell(
            run,
            column,
            "" if column.key in images else previews.get(column.key, ""),
            images.get(column.key),
            videos.get(column.key),
        )
        for column in run.columns
    ]
    return about(run.preset) | {
        "run": run.id,
        "cells": shown,
        "verdict": run.verdict if run.over else None,
        "hint": run.hint if hint is None else hint,
        "over": run.over,
        "request": request.model_dump(mode="json", exclude={"fresh", "batched"}),
        "link": query(run.preset, request),
        "aspect": request.width / request.height,
        "frames": request.num_frames,
        "fps": run.preset.fps or 16,
        "device": run.device,
    }


def about(preset: Preset) -> dict:
    """What the bench knows of a preset, whatever was run."""
    return {
        "preset": preset.name,
        "title": preset.title,
        "local": preset.local,
        "shipped": preset.shipped,
        "space": os.environ.get("SPACE_ID", ""),  # of Hugging Face: owner/name
        "look_for": preset.look_for,
        # of Vote, which draws these; with a picture to begin with, words go with that picture
        "examples": bool(preset.prompts) and not preset.image,
        "chips": [chip(pair, preset) for pair in preset.prompts],
        "card": card(preset),
    }


def chip(pair: PromptPair, preset: Preset) -> dict:
    """An example: words, and the seed that shows the point."""
    words = re.sub(r"^(a )?portrait of (an? )?", "", pair.prompt.rstrip("."), flags=re.I)
    seed = preset.settings["seed"] if pair.seed is None else pair.seed
    return {
        "label": f"{short(words)} − {short(pair.negative_prompt.rstrip('.').lower())}",
        "set": {n: preset.default(n) for n in KNOBS}
        | {"prompt": pair.prompt, "negative_prompt": pair.negative_prompt, "seed": seed},
    }


def shipped(preset: str) -> dict:
    """The sample of a preset, drawn by the shipped weights and kept in assets/results; its columns
    without pictures where there is none."""
    from .controls import PRESETS

    known, folder = PRESETS[preset], ASSETS / "results" / preset
    if not (folder / "bench.json").exists():
        return about(known) | {"cells": [], "hint": "", "over": True, "sample": True}
    shown = about(known) | json.loads((folder / "bench.json").read_text("utf-8")) | {"sample": True}
    for one in shown["cells"]:
        film = folder / f"{one['key']}.mp4"
        one["preview"] = _data(folder / f"{one['key']}.png", "image/png")
        one["video"] = {"url": _data(film, "video/mp4")} if film.exists() else None
    return shown


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
