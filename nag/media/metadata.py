"""The settings inside a picture: written as text, read from our own and from other tools' PNGs.

`parameters` is the line of AUTOMATIC1111's web UI, which many tools read; `nag` is our own JSON,
with the schema of a preset file's settings. What is read is only ever handed to the validator.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..errors import Refused
from ..methods import METHODS
from ..presets import Preset
from ..request import Request

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

LONGEST = 100_000  # characters of one text chunk that are looked at
A1111 = {  # their names of what we can take over
    "Steps": "num_inference_steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "NAG scale": "nag_scale",
    "NAG tau": "nag_tau",
    "NAG alpha": "nag_alpha",
    "NAG until": "nag_end",
}
NOTHING = "This picture carries no settings: a PNG saved here does, and most of A1111 and ComfyUI."


def texts(preset: Preset, request: Request, column: str) -> dict[str, str]:
    """What the finished picture of a column is labelled with."""
    used = METHODS[column].used(request)
    settings = request.model_dump(mode="json", exclude={"fresh", "batched"})
    record = {"schema": 1, "column": column, "model": preset.model_name, "settings": settings}
    values = {"num_inference_steps": request.num_inference_steps, "seed": request.seed} | used
    line = [f"{name}: {values[field]:g}" for name, field in A1111.items() if field in values]
    line += [f"Size: {request.width}x{request.height}", f"Model: {preset.model_name}"]
    words = f"{request.prompt}\nNegative prompt: {request.negative_prompt}"
    return {
        "parameters": f"{words}\n{', '.join(line)}, Guidance: {column}",
        "nag": json.dumps(record, ensure_ascii=False),
    }


def png_info(preset: Preset, request: Request, column: str) -> PngInfo:
    """Pillow's `pnginfo` of such texts; UTF-8 throughout."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts(preset, request, column).items():
        info.add_itxt(name, text)
    return info


def settings_in(found: dict) -> dict:
    """A picture's text chunks -> settings for the validator. Raises `Refused` without any."""
    found = {k: v for k, v in found.items() if isinstance(v, str) and len(v) <= LONGEST}
    readers = (("nag", _ours), ("parameters", _a1111), ("prompt", _comfyui))
    for name, reader in readers:
        if name in found and (settings := _tried(reader, found[name])):
            return settings
    raise Refused(NOTHING)


def _tried(reader, text: str) -> dict:
    try:
        return reader(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # not what its name says


def _ours(text: str) -> dict:
    return dict(json.loads(text)["settings"])


def _a1111(text: str) -> dict:
    """Words, a line "Negative prompt: ...", then "Steps: 4, Seed: 1, ...": what can be read."""
    words, _, last = text.rpartition("\n")
    if not re.match(r"Steps: \d+", last):
        words, last = text, ""
    prompt, _, negative = words.partition("\nNegative prompt:")
    settings = {"prompt": prompt.strip(), "negative_prompt": negative.strip()}
    for name, value in re.findall(r"([A-Z][A-Za-z ]*): (-?[\d.]+)(?:,|$)", last):
        if name in A1111:
            settings[A1111[name]] = json.loads(value)
    return settings


def _comfyui(text: str) -> dict:
    """A graph's first sampler: its seed, steps and scale, and the texts that lead to it."""
    nodes = json.loads(text)
    sampler = next(n["inputs"] for n in nodes.values() if {"seed", "positive"} <= set(n["inputs"]))
    names = {"seed": "seed", "steps": "num_inference_steps", "cfg": "guidance_scale"}
    settings = {
        ours: sampler[theirs]
        for theirs, ours in names.items()
        if isinstance(sampler.get(theirs), (int, float))
    }
    for theirs, ours in (("positive", "prompt"), ("negative", "negative_prompt")):
        words = nodes[str(sampler[theirs][0])]["inputs"].get("text")
        if isinstance(words, str):
            settings[ours] = words
    return settings
