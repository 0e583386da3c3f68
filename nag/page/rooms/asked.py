"""What a room was asked for: the page's fields, and the picture that a model begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...media import uploads
from ...presets import Preset, resolve
from ...request import Request, Value
from ..controls import INPUTS, PRESETS
from ..files import FOLDER
from ..handlers import looked_at

if TYPE_CHECKING:
    from PIL import Image


class Asked(NamedTuple):
    """picture: the path of the start picture, or None."""

    preset: Preset
    request: Request
    picture: str | None

    @property
    def start(self) -> Image.Image | None:
        """The start picture, decoded. Raises `Refused`."""
        if self.picture is None:
            return None
        return uploads.load(FOLDER.uploaded(self.picture), self.preset.title)


def fields(values: tuple) -> dict[str, Value]:
    """The values of `INPUTS` by name; a start picture's path may stand behind them."""
    return dict(zip(INPUTS, values[: len(INPUTS)], strict=True))


def asked(values: tuple, **instead: Value) -> Asked:
    """instead: settings in place of the page's. Raises `Refused`."""
    picture = values[len(INPUTS)] if len(values) > len(INPUTS) else None
    preset, request = resolve(fields(values) | instead, PRESETS)
    return Asked(preset, request, looked_at(preset, picture))
