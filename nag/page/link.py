"""Settings as an address and a caption have them."""

import json
from urllib.parse import quote, urlencode

from ..media.metadata import all_digits
from ..presets import Preset, resolve
from ..request import Request, Value

WORDS = ("preset", "prompt", "negative_prompt")


def compact(value: Value) -> str:
    """A setting as short as a caption has it: 0.85, 10, true."""
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)


def exact(value: Value) -> str:
    """The same with all digits, as an address has it: another digit is another picture."""
    if isinstance(value, float):
        return all_digits(value)
    return json.dumps(value, ensure_ascii=False)


def query(preset: Preset, request: Request) -> str:
    """The address of these settings, without those that are the preset's own."""
    _, plain = resolve({"preset": preset.name}, {preset.name: preset})
    own = plain.model_dump(mode="json") | {"preset": "", "fresh": request.fresh}
    differing = {
        name: value if name in WORDS else exact(value)
        for name, value in request.model_dump(mode="json").items()
        if value != own[name]
    }
    return urlencode(differing, quote_via=quote)
