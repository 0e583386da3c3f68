"""Counting the scheduler's steps, and when `end` has come."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from .. import private
from ..errors import NAGRuntimeError
from ..patch import Wrapped
from .state import Progress

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class CountingMethod(Wrapped):
    """A scheduler's method that also reports its calls, and those of the scheduler's copies."""

    def __init__(self, original: Callable, report: Callable[[], None]) -> None:
        def reported(method: Callable, *args: object, **kwargs: object) -> object:
            report()
            return method(*args, **kwargs)

        super().__init__(original, reported)
        self.report = report

    def __deepcopy__(self, memo: dict) -> CountingMethod:
        return CountingMethod(copy.deepcopy(self.original, memo), self.report)


class StepCounter:
    """Counts steps, and writes them into `progress`. nothing_guided: makes the error to raise.

    A step is what follows a denoiser call, however many schedulers take it: Cosmos steps twice in
    one round, and LTX-2 has a scheduler for the sound.
    """

    def __init__(self, progress: Progress, nothing_guided: Callable[[], Exception]) -> None:
        self.progress, self.nothing_guided = progress, nothing_guided
        self.stepped = False  # in the running pipeline call, whoever made the denoiser's calls
        self.denoised = False  # a denoiser call since the picture began
        self.found = self.missed = False  # as in `prompt_looked_for`, since `guide` was entered
        self.closed = False  # `guide` was left: copies of the scheduler may go on stepping
        self._schedule_start = 0  # the step at which the schedule was last set
        self._first_timestep = None  # of the picture's guided calls
        self._next_step()

    def _next_step(self) -> None:
        self._calls = 0  # of the denoiser, since the last step
        self._guided = self._found = self._missed = False

    def restart(self) -> None:
        """Another picture begins."""
        self.progress.step = self._schedule_start = 0
        self.denoised = False
        self._first_timestep = None
        self._next_step()

    def denoiser_called(self) -> int:
        """Gives which call since the last step it is, counted from 0."""
        self.denoised = True
        self._calls += 1
        return self._calls - 1

    def denoiser_guided(self, timestep: torch.Tensor | float | None) -> None:
        """The same call turned out to have guided rows. timestep: the denoiser's argument.

        Raises NAGRuntimeError where the loop went on to another timestep and nothing was counted.
        """
        if self.progress.settings.end < 1 and not self.progress.step and timestep is not None:
            now = float(torch.as_tensor(timestep).flatten()[0])  # looked at in the first step only
            if self._first_timestep not in (None, now):
                raise NAGRuntimeError(
                    "NAG counts the steps of pipe.scheduler, which did not step between two "
                    f"timesteps, so end={self.progress.settings.end:g} would never come: step "
                    "pipe.scheduler, or leave end at 1."
                )
            self._first_timestep = now
        self.progress.guided_calls += 1
        self._guided = True

    def prompt_looked_for(self, found: bool) -> None:
        """The same call was to be guided; found: whether it shows the prompt."""
        self._found |= found
        self._missed |= not found
        self.found |= found
        self.missed |= not found

    def check_something_guided(self) -> None:
        """Raises NAGRuntimeError where `guide` is left and nothing was guided that was to be:
        also in a loop of one's own, whatever makes its steps."""
        unseen = self.stepped or (self.missed and not self.found)
        if unseen and not self.progress.guided_calls:
            raise self.nothing_guided()

    def scheduler_stepped(self) -> None:
        """Raises NAGRuntimeError where a step that was to be guided was not."""
        if self.closed:
            return
        if self._missed and not self._found:
            raise self.nothing_guided()
        self.stepped = True
        self.progress.step += self._calls > 0
        self.progress.guided_steps += self._guided
        self._next_step()

    def schedule_set(self) -> None:
        """Pipelines that go chunk by chunk set it for each."""
        self._schedule_start = self.progress.step

    def active(self, pipe: DiffusionPipeline, running: bool = True) -> bool:
        """Whether `end` is still to come. At 1 that holds to the last call: some pipelines run the
        denoiser once more after the last step, to remember what they made. running: whether a call
        of the pipeline does, for in a loop of one's own it announces the steps of the last one."""
        end = self.progress.settings.end
        if end >= 1:
            return True
        # image-to-image and refiners run a part of the schedule, and say so
        steps = private.announced_steps(pipe) if running else None
        if steps is None:
            begin = getattr(pipe.scheduler, "begin_index", None) or 0
            steps = len(pipe.scheduler.timesteps) - begin
        # .28 of 25 steps are 7, though in binary they come out a little larger
        return self.progress.step - self._schedule_start < end * steps - 1e-9
