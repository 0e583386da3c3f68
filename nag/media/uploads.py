"""A start picture that somebody gives us: looked at before it is decoded, and never trusted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused

if TYPE_CHECKING:
    from PIL import Image

BYTES = 12 * 2**20
PIXELS = 4096 * 4096
MANY_PIXELS = f"A picture may have at most {PIXELS / 1e6:.0f} million pixels"
FORMATS = "PNG", "JPEG", "WebP"
GIVE = f"give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"

log = logging.getLogger("nag")


def look(path: str | Path | None, title: str) -> None:
    """Size, format and pixels of a picture, from its header alone; nothing is decoded.

    `title`: of the preset that begins with a picture. Raises `Refused`.
    """
    with _opened(path, title):
        pass


def load(path: str | Path | None, title: str) -> Image.Image:
    """A file of `FORMATS` -> PIL image: upright, RGB of 8 bits, what is transparent on white.

    `title`: of the preset that begins with a picture. Raises `Refused`.
    """
    with _opened(path, title) as image:
        try:
            return _rgb(_upright(image))
        except Exception:  # whatever a broken or hostile file makes a decoder say
            log.info("a start picture could not be decoded", exc_info=True)
            raise Refused(f"This picture is broken and cannot be read: {GIVE}.") from None


def _opened(path, title: str):
    """A PIL image whose header was read and whose pixels were not."""
    from PIL import Image

    if not path:
        raise Refused(f"{title} begins with a picture: give it one.")
    path = Path(path)
    if not path.is_file():  # also: a device or a pipe, which would be read for ever
        raise Refused(f"There is no picture in {path.name}: {GIVE}.")
    size = path.stat().st_size
    if size > BYTES:
        raise Refused(
            f"A picture may have at most {BYTES // 2**20} MB, this one has {size / 2**20:.0f}."
        )
    if not size:
        raise Refused(f"This file is empty: {GIVE}.")
    try:
        image = Image.open(path, formats=[name.upper() for name in FORMATS])
    except Image.DecompressionBombError:
        raise Refused(f"{MANY_PIXELS}, this one has far more.") from None
    except Exception:
        log.info("a start picture could not be opened", exc_info=True)
        raise Refused(f"This file is not a picture that can be read: {GIVE}.") from None
    if image.width * image.height > PIXELS:
        image.close()
        raise Refused(f"{MANY_PIXELS}, this one has {image.width} x {image.height}.")
    return image


def _upright(image):
    """Turned as EXIF says; where EXIF is broken, as it lies."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        log.info("a start picture's EXIF could not be read", exc_info=True)
        return image


def _rgb(image):
    """RGB of 8 bits; `convert` alone would uncover the colours below what is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = _grey(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _grey(image):
    """16-bit grey -> 8-bit grey with alpha. 65535 is 255 * 257; `convert` would cut off at 255."""
    import numpy
    from PIL import Image

    values = numpy.asarray(image).astype("uint32")
    visible = values != image.info.get("transparency", -1)
    bands = (values + 128) // 257, visible * 255
    return Image.merge("LA", [Image.fromarray(band.astype("uint8")) for band in bands])
