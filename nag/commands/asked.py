"""What is to be drawn, for the commands that draw: words of the command line become a request."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import presets
from ..errors import Refused
from ..media import uploads
from ..presets import Preset
from ..request import DEFAULT, Request

if TYPE_CHECKING:
    from PIL import Image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default=DEFAULT, help="a file of presets/, without .json")
    parser.add_argument("--prompt")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="pairs",
        help='any other setting, e.g. --set nag_scale=6 --set \'guidance=["none","nag"]\'',
    )
    parser.add_argument(
        "--model",
        help="a local folder, a repository on the hub, or one .safetensors or .gguf file, in place "
        "of the preset's own model",
    )
    parser.add_argument(
        "--image",
        type=Path,
        help="the picture that an editing or image-to-video preset begins with",
    )


def asked(options: argparse.Namespace) -> tuple[Preset, Request, Image.Image | None]:
    """-> the preset, the request, and the PIL image that it begins with, or None.

    Raises `Refused`.
    """
    preset, request = settings_of(options)
    if options.image and not preset.image:
        raise Refused(f"{preset.title} takes no picture: leave --image out.")
    if options.image and not options.image.is_file():
        raise Refused(f"--image {options.image} is no file.")
    return preset, request, uploads.load(options.image, preset.title) if preset.image else None


def settings_of(options: argparse.Namespace) -> tuple[Preset, Request]:
    """-> the preset and the request, whatever it begins with. Raises `Refused`."""
    known = dict(presets.load_all())
    if options.model and options.preset in known:
        known[options.preset] = known[options.preset].with_model(options.model)
    return presets.resolve(_settings(options), known)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings as an API client would send them."""
    raw = {"preset": options.preset}
    for pair in options.pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Refused(f"--set wants KEY=VALUE, got {pair!r}.")
        if key == "preset":  # it would leave --model and --preset aside
            raise Refused(f"--set gives settings of a preset; name it by --preset {value}.")
        raw[key] = _value(value)
    for key in ("prompt", "negative_prompt", "seed"):
        if getattr(options, key) is not None:
            raw[key] = getattr(options, key)
    return raw


def _value(text: str) -> str | float | bool | list | dict | None:
    """JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
