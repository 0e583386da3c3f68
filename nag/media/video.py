"""What a pipeline returns becomes pictures, and frames become a video that every browser plays."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline
    from diffusers.utils import BaseOutput
    from PIL import Image


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


class Sound(NamedTuple):
    """samples: array (channels, N), -1 to 1. rate: of them, a second."""

    samples: np.ndarray
    rate: int


def sound_of(pipe: DiffusionPipeline, result: BaseOutput, index: int = 0) -> Sound | None:
    """What one video of a pipeline sounds like, where the model makes sound (LTX-2)."""
    import numpy as np

    audio = getattr(result, "audio", None)
    config = getattr(getattr(pipe, "vocoder", None), "config", None)
    rate = getattr(config, "output_sampling_rate", None)
    if audio is None or not rate:
        return None
    one = audio[index]
    samples = one.detach().float().cpu().numpy() if hasattr(one, "cpu") else np.asarray(one)
    return Sound(np.atleast_2d(samples), int(rate))


def encode(
    frames: list, fps: int, texts: dict[str, str] | None = None, sound: Sound | None = None
) -> bytes:
    """PIL images of one size, with even sides -> H.264 in an MP4, with AAC where there is sound.

    A key frame every eight makes stepping backwards quick; the header comes first, so that a
    browser can begin before it has everything. texts: tags that ffmpeg knows, such as "comment".
    """
    import imageio_ffmpeg
    import numpy as np

    tags = [
        word for name, text in (texts or {}).items() for word in ("-metadata", name + "=" + text)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        heard = _wav(Path(folder) / "sound.wav", sound) if sound else None
        writer = imageio_ffmpeg.write_frames(
            str(path),
            frames[0].size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,
            quality=None,
            audio_path=heard,
            audio_codec="aac" if heard else None,
            output_params=["-crf", "14", "-g", "8", "-bf", "0", "-movflags", "+faststart", *tags],
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.asarray(frame.convert("RGB")).tobytes())
        writer.close()
        return path.read_bytes()


def decode(path: Path) -> Iterator[Image.Image]:
    """The frames of a video file -> PIL images, RGB."""
    import imageio_ffmpeg
    from PIL import Image

    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["source_size"]
    for frame in reader:
        yield Image.frombytes("RGB", size, frame)


def without_tags(mp4: bytes) -> bytes:
    """The video without what `encode` was given as texts: their box (moov/udta) becomes an empty
    one of the same length, so that every offset in the file stays true."""
    at, end = 0, len(mp4)
    for kind in (b"moov", b"udta"):
        while at + 8 <= end and mp4[at + 4 : at + 8] != kind:
            at += max(8, int.from_bytes(mp4[at : at + 4], "big"))
        if at + 8 > end:
            return mp4
        at, end = at + 8, at + int.from_bytes(mp4[at : at + 4], "big")
    return mp4[: at - 4] + b"free" + bytes(end - at) + mp4[end:]


def _wav(path: Path, sound: Sound) -> str:
    """Written as 16 bits a sample -> where."""
    import numpy as np

    whole = (np.clip(sound.samples, -1, 1) * 32767).round().astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(whole))
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.ascontiguousarray(whole.T).tobytes())
    return str(path)
