"""A picture that somebody gives us: looked at before it is decoded, and never trusted."""

from pathlib import Path

from ..errors import Refused

BYTES = 12 * 1024 * 1024
PIXELS = 4096 * 4096
FORMATS = ("PNG", "JPEG", "WEBP")


def load(path, title: str):
    """A PNG, JPEG or WebP file -> PIL image, upright, RGB. `title`: of the preset that wants it. Raises `Refused`."""
    from PIL import Image, ImageOps

    if not path:
        raise Refused(f"{title} begins with a picture: give it one.")
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > BYTES:
            raise Refused(
                f"A picture may have at most {BYTES // 2**20} MB, this one has {size / 2**20:.0f}."
            )
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise Refused(
                    f"A picture may have at most {PIXELS / 1e6:.0f} million pixels, this one has {image.width} x {image.height}."
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except Refused:
        raise
    except Exception:  # whatever a broken or hostile file makes a decoder say
        raise Refused(
            "This file is not a picture that can be read: give a PNG, JPEG or WebP."
        ) from None
