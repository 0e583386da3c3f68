"""How the models in assets/ are made: `python -m nag.pocket STAGE`."""

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
    "video",
)
