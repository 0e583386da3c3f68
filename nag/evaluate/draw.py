"""Draws the pictures that are not there yet, each under a name that says all it depends on.

    OUT/pictures/<hash>.png     a picture; a video's frames stand side by side. Its text says how it
                                was made and in how many seconds.

What is measured later is measured on these files, so that an evaluation that was interrupted, or
spread over processes, and one that was not, see the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import loading
from ..engine.call import NotFinite, Row, call_pipeline
from ..engine.provenance import provenance
from ..engine.verdict import mean_difference
from ..errors import Refused, out_of_memory
from ..media import video
from ..presets import Preset
from .plan import Column, Picture

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.loading import Loaded


class Painter:
    """Draws for one preset into one folder; the model is loaded when a picture is missing."""

    def __init__(
        self, preset: Preset, folder: Path, loader: Callable[[Preset], Loaded] = loading.load
    ) -> None:
        self.preset, self.folder, self.loader = preset, folder / "pictures", loader
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def loaded(self) -> Loaded:
        return self.loader(self.preset)

    @functools.cached_property
    def identity(self) -> dict:
        """Model, machine and code: the same for every picture."""
        return provenance(self.preset)

    def path(self, column: Column, picture: Picture) -> Path:
        asked = {"prompt": picture.prompt, "seed": picture.seed, **column.settings}
        if column.guidance != "none":
            asked["negative_prompt"] = picture.negative
        text = json.dumps([self.identity, asked], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.png"

    def missing(self, column: Column, pictures: list[Picture]) -> int:
        return sum(not self.path(column, picture).exists() for picture in pictures)

    def draw(self, column: Column, pictures: list[Picture]) -> None:
        """Draws one batch, all of it: what a picture is like may depend on its batch in the last
        bit. Raises `Refused`.
        """
        rows = [
            Row(column.guidance, picture.prompt, picture.negative, picture.seed)
            for picture in pictures
        ]
        try:
            drawn = call_pipeline(self.loaded, column.request, rows)
        except NotFinite:
            raise Refused(
                f'Column "{column.key}": the numbers left the range of {self.loaded.dtype}. '
                "Lower its scale, or leave it out."
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise Refused(
                f"Out of memory at --batch {len(pictures)}: choose a smaller one. "
                "Finished pictures are kept."
            ) from error
        seconds = drawn.seconds / len(pictures)
        for picture, pixels, black in zip(pictures, drawn.pixels, drawn.blacked_out, strict=True):
            remarks = {"blacked_out": True} if black else {}
            texts = [picture.prompt, *([picture.negative] if column.guidance != "none" else [])]
            if cut := {text: n for text in texts if (n := self.loaded.cut.of(text))}:
                remarks["cut"] = cut  # words at the end of a text that no text encoder read
            self._save(self.path(column, picture), column, picture, pixels, seconds, **remarks)

    def _save(
        self, path: Path, column: Column, picture: Picture, frames, seconds: float, **remarks
    ) -> None:
        import numpy as np
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        made = {
            **column.settings,
            "prompt": picture.prompt,
            "negative_prompt": picture.negative,
            "seed": picture.seed,
            "model": self.preset.model_name,
            "revision": self.preset.revision,
            "frames": len(frames),
            "seconds": round(seconds, 5),
            **remarks,
        }
        text.add_text("nag-evaluate", json.dumps(made))
        image = Image.fromarray(np.concatenate(list(map(np.asarray, video.pictures(frames))), 1))
        # no other process sees half a picture
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        image.save(unfinished, "png", pnginfo=text, compress_level=1)
        os.replace(unfinished, path)


def read(path: Path) -> tuple[list[Image.Image], dict]:
    """-> a picture's frames as PIL images (one, or a video's), and what its file says of how it was
    made.
    """
    from PIL import Image

    with Image.open(path) as image:
        made = json.loads(image.text["nag-evaluate"])
        width = image.width // made["frames"]
        return [
            image.crop((i * width, 0, (i + 1) * width, image.height)) for i in range(made["frames"])
        ], made


def motion(paths: list[Path]) -> float:
    """How much a video's frame differs from the one before it: mean of all values and videos, 0 to
    255.
    """
    return sum(mean_difference(frames[:-1], frames[1:]) for frames, _ in map(read, paths)) / len(
        paths
    )
