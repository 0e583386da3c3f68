"""What a pipeline returns becomes pictures, and frames become a video that every browser plays."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from diffusers.utils import BaseOutput


def pixels_of(result: BaseOutput, index: int = 0) -> np.ndarray:
    """One picture or video of what a pipeline returns as "np" -> array (F, H, W, 3), 0 to 1.

    Pipelines call them images, frames or videos; some give a video as a tensor (F, 3, H, W).
    """
    import numpy as np

    if hasattr(result, "images"):
        return np.asarray(result.images[index])[None]
    video = result.frames if getattr(result, "frames", None) is not None else result.videos
    one = video[index]
    if hasattr(one, "cpu"):
        one = one.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return np.asarray(one)


def pictures(pixels: np.ndarray) -> list:
    """(F, H, W, 3), 0 to 1 -> PIL images, as diffusers makes them."""
    from PIL import Image

    return [Image.fromarray(one) for one in (pixels.clip(0, 1) * 255).round().astype("uint8")]


def encode(frames: list, fps: int) -> bytes:
    """PIL images of one size, with even sides -> H.264 in an MP4.

    A key frame every eight makes stepping backwards quick; the header comes first, so that a
    browser can begin before it has everything.
    """
    import imageio_ffmpeg
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path),
            frames[0].size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,
            quality=None,
            output_params=["-crf", "14", "-g", "8", "-bf", "0", "-movflags", "+faststart"],
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.asarray(frame.convert("RGB")).tobytes())
        writer.close()
        return path.read_bytes()
