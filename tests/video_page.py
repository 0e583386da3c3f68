"""The page with one more preset, a folder with a tiny random video pipeline: `python
tests/video_page.py FOLDER PORT`. For tests/test_video.py."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import app
from nag import presets
from nag.engine.engine import Engine


def preset(folder: str, **more) -> presets.Preset:
    """Settings for a tiny random video pipeline in a folder."""
    return presets.parse(
        "tiny-video",
        json.dumps(
            {
                "schema": 1,
                "title": "Tiny video",
                "model": folder,
                "dtype": "float32",
                "multiple": 16,
                "fps": 8,
                "ranges": {
                    "width": [32, 128],
                    "height": [32, 128],
                    "num_frames": [5, 33],
                    "num_inference_steps": [1, 8],
                },
                "arguments": {"max_sequence_length": 24},
                "prompt": "a pirate turns her head",
                "negative_prompt": "glasses",
                "seed": 3,
                "num_inference_steps": 3,
                "guidance_scale": 4.0,
                "nag_scale": 8.0,
                "nag_alpha": 0.7,
                "width": 96,
                "height": 64,
                "num_frames": 17,
                "prompts": [],
                "look_for": "Random weights: nothing to see but that it moves.",
                **more,
            }
        ),
    )


if __name__ == "__main__":
    app.PRESETS["tiny-video"] = preset(sys.argv[1])
    app.launch(app.build(Engine(), "tiny-video"), "127.0.0.1", int(sys.argv[2]))
