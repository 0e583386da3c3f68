"""A comparison's settings as the text of a preset file, which presets/ accepts as it is."""

import json
import re
from pathlib import Path

from .errors import Refused
from .presets import Preset, parse
from .request import Request, Value

PASSING = ("preset", "batched", "fresh")  # how a run is made, not what it shows


def name_of(preset: Preset, request: Request) -> str:
    """A file's name without its ending: pocket-portrait-portrait-of-a-spy-not-hat."""
    words = f"{preset.name} {request.prompt[:40]} not {request.negative_prompt[:24]}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def text_of(preset: Preset, request: Request, look_for: str = "") -> str:
    """The preset with these settings as its own, in JSON.

    look_for: what was seen with them. Raises `Refused` for a model that is a folder or a file of
    this machine: the preset would work here alone, and tell where that is.
    """
    if Path(preset.model).is_absolute() or preset.weights:
        raise Refused(
            f"{preset.title} is a model of this machine alone, so no preset of it would work "
            "elsewhere. Copy the settings or the link instead."
        )
    facts = preset.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    own, asked = facts.pop("settings"), request.model_dump(mode="json", exclude=set(PASSING))
    settings = {k: v for k, v in asked.items() if k in own or v != default(k)}
    pair = {n: asked[n] for n in ("prompt", "negative_prompt", "seed")}
    words = pair["prompt"], pair["negative_prompt"]
    others = [
        one for one in facts.get("prompts", []) if (one["prompt"], one["negative_prompt"]) != words
    ]
    facts |= {
        "title": f"{preset.title}: {short(words[0])} − {short(words[1])}",
        "prompts": [pair, *others],
        "look_for": look_for,
        "source": f"Settings of a comparison, on the preset {preset.name}.",
    }
    text = json.dumps({"schema": 1} | facts | settings, indent=2, ensure_ascii=False) + "\n"
    parse(name_of(preset, request), text)
    return text


def default(name: str) -> Value:
    """What a request has where nothing is said, as JSON has it."""
    value = Request.model_fields[name].default
    return list(value) if isinstance(value, tuple) else value


def short(text: str) -> str:
    """Words as a part of a title."""
    return text if len(text) <= 24 else text[:23].rstrip(" ,") + "…"
