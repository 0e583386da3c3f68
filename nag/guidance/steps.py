"""Counting the scheduler's steps, and when `end` has come."""

import copy

from ..patch import Wrapped


class CountingMethod(Wrapped):
    """A scheduler's method that also reports its calls, and those of the scheduler's copies."""

    def __init__(self, original, report):
        super().__init__(
            original, lambda method, *args, **kwargs: (report(), method(*args, **kwargs))[1]
        )
        self.report = report

    def __deepcopy__(self, memo):
        return CountingMethod(copy.deepcopy(self.original, memo), self.report)


def count_step(guidance):
    """A step is what follows a denoiser call, however many schedulers take it (Cosmos steps twice in one round)."""
    guidance.stepped = True
    guidance.step += guidance.called
    guidance.guided_steps += guidance.fresh
    guidance.called = guidance.fresh = False


def start_schedule(guidance):
    guidance.schedule_start = guidance.step


def active(pipe, guidance) -> bool:
    if (
        guidance.settings.end >= 1
    ):  # to the last call: some pipelines run the denoiser once more, to remember what they made
        return True
    scheduler = pipe.scheduler
    steps = getattr(
        pipe, "_num_timesteps", None
    )  # where the pipeline says so: image-to-image and refiners run a part of them
    if steps is None:
        steps = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)
    return guidance.step - guidance.schedule_start < guidance.settings.end * steps
