"""Frames become an H.264 file that every browser plays and steps through frame by frame."""

import tempfile
from pathlib import Path


def frames_of(result, index: int = 0) -> list:
    """One video of a pipeline's output -> PIL images. Pipelines give PIL images, or (F, H, W, 3)
    floats from 0 to 1."""
    import numpy as np
    from PIL import Image

    video = getattr(result, "frames", None)
    video = result.videos[index] if video is None else video[index]
    if len(video) and isinstance(video[0], Image.Image):
        return list(video)
    if hasattr(video, "cpu"):  # (F, 3, H, W)
        video = video.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return [
        Image.fromarray(frame)
        for frame in (np.asarray(video).clip(0, 1) * 255).round().astype("uint8")
    ]


def encode(frames: list, fps: int) -> bytes:
    """PIL images of one size, with even sides -> MP4. A key frame every eight makes stepping
    backwards quick; the header comes first, so that a browser can begin before it has everything.
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
