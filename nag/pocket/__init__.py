"""How the models in assets/ are made: `python -m nag.pocket STAGE`.

`data` renders people and `clips` what they do, `loop` trains, `train` has the teachers and their
4-step students; the video model has no teacher but the portrait, whose pictures `warp` moves.
Beside their models stand `vae`, `text`, `motion_words` (the video's text encoder), `reader` (the
classifier), `portrait`, `joint`, `video` and `second` (the portrait's second generation). `export`
writes pipelines, `film` the moving picture.
"""

from ..home import ASSETS

SHIPPED = ASSETS / "pocket-portrait"  # what a run has not trained itself is taken from here

# checkpoints of a training run that can be assembled to a pipeline
DENOISERS = (
    "second",
    "student",
    "control",
    "unet",
    "joint-student",
    "joint-control",
    "joint",
    "video-student",
)
