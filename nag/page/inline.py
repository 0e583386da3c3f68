"""Small pictures that travel inside of the page's values."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

PREVIEW_PIXELS = 256


def data_uri(image: Image.Image, side: int = PREVIEW_PIXELS) -> str:
    """A small WebP of a PIL image, for the page only; finished pictures travel as PNG files."""
    image = image.convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
