"""The settings inside a picture or video: written as text, and read again.

`parameters` is the line of AUTOMATIC1111's web UI, which many tools read; `nag` is our own JSON,
with the schema of a preset file's settings. What is read is only ever handed to the validator.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import Refused
from ..methods import METHODS
from ..presets import Preset
from ..request import Request
from .readers import A1111, LONGEST, a1111, comfyui, ours, pasted, tried

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

NOTHING = "This picture carries no settings: a PNG saved here does, and most of A1111 and ComfyUI."


def texts(preset: Preset, request: Request, column: str) -> dict[str, str]:
    """What the finished picture of a column is labelled with."""
    used = METHODS[column].used(request)
    settings = request.model_dump(mode="json", exclude={"fresh", "batched"})
    record = {"schema": 1, "column": column, "model": preset.model_name, "settings": settings}
    values = {"num_inference_steps": request.num_inference_steps, "seed": request.seed} | used
    line = [
        f"{name}: {all_digits(values[field])}" for name, field in A1111.items() if field in values
    ]
    line += [f"Size: {request.width}x{request.height}", f"Model: {preset.model_name}"]
    words = f"{request.prompt}\nNegative prompt: {request.negative_prompt}"
    return {
        "parameters": f"{words}\n{', '.join(line)}, Guidance: {column}",
        "nag": json.dumps(record, ensure_ascii=False),
    }


def video_tags(preset: Preset, request: Request, column: str) -> dict[str, str]:
    """The same as tags of an MP4: what players show as a comment, and our JSON."""
    found = texts(preset, request, column)
    return {"comment": found["parameters"], "description": found["nag"]}


def all_digits(value: float) -> str:
    """A number that reads back as itself, without an exponent: 4, 0.1234567, 0.00001."""
    if isinstance(value, int):
        return str(value)
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def png_info(preset: Preset, request: Request, column: str) -> PngInfo:
    """Pillow's `pnginfo` of such texts; UTF-8 throughout."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts(preset, request, column).items():
        info.add_itxt(name, text)
    return info


def settings_in(found: dict) -> dict:
    """A picture's texts by name, or {"pasted": text} -> settings for the validator.

    Raises `Refused` where there are none.
    """
    if isinstance(found.get("pasted"), str):
        return pasted(found["pasted"])
    found = {k: v for k, v in found.items() if isinstance(v, str) and len(v) <= LONGEST}
    for name, reader in (("nag", ours), ("parameters", a1111), ("prompt", comfyui)):
        if name in found and (settings := tried(reader, found[name])):
            return settings
    raise Refused(NOTHING)
