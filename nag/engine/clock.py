"""Counts and times the steps of one pipeline call."""

from __future__ import annotations

import hashlib
import inspect
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .. import private
from ..errors import NAGRuntimeError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, ModelMixin

P = ParamSpec("P")
R = TypeVar("R")
# (steps done, latents that a preview can be made of) after every step
OnStep = Callable[[int, "torch.Tensor"], None]


class StepClock:
    """Sees every scheduler step of a pipeline call that draws `rows` pictures or videos.

    The clock runs from the first denoiser call to the last step, and stands still while `on_step`,
    which makes previews, runs.

    times: seconds of each step. guided: how many of them were, for whoever counts these to set.
    sha256: of the first noise of each row. latents: (rows or rows * frames, ...), the last ones.
    """

    def __init__(
        self, pipe: DiffusionPipeline, device: str, on_step: OnStep | None = None, rows: int = 1
    ) -> None:
        self.pipe, self.device, self.on_step, self.rows = pipe, device, on_step, rows
        self.step, self.times, self.guided, self.sha256, self.latents = 0, [], 0, [], None
        self.started = self.resumed = None

    def begin(self, denoiser: ModelMixin, *_: object) -> None:
        """A forward pre-hook of the denoiser: the first call starts the clock."""
        if self.started is None:
            private.bring_to_gpu(denoiser)  # the weights' way there is not guidance
            self._resume()
            self.started = self.resumed

    def stepped(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Stands around the scheduler's `step`."""
        given = inspect.signature(step).bind(*args, **kwargs).arguments
        sample = given.get("sample", given.get("sample_hat"))
        if not self.sha256:
            self.sha256 = [checksum(row) for row in split_rows(sample.detach(), self.rows)]
        result = step(*args, **kwargs)
        self.latents = result[0]  # of a tuple, or of diffusers' output classes
        self.step += 1
        self._wait()
        self.times.append(time.perf_counter() - self.resumed)
        if self.on_step is not None:
            self.on_step(self.step, self._estimate(sample, given["model_output"]))
        self._resume()
        return result

    def since_start(self) -> float:
        """Seconds since the first denoiser call."""
        self._wait()
        return time.perf_counter() - self.started

    @property
    def seconds(self) -> float:
        return sum(self.times)

    @property
    def steady(self) -> float:
        """Seconds if every step had taken its kind's median: guided steps come first, and cost
        more than the others."""
        kinds = self.times[: self.guided], self.times[self.guided :]
        return sum(len(times) * statistics.median(times) for times in kinds if times)

    @property
    def saved(self) -> float | None:
        """Share of the time saved by the un-guided steps at the end, if each of them would have
        taken the guided ones' median. None where there is one kind of steps."""
        guided, others = self.times[: self.guided], self.times[self.guided :]
        if not guided or not others:
            return None
        full = statistics.median(guided)
        return len(others) * (full - statistics.median(others)) / (len(self.times) * full)

    def spread(self) -> list[float]:
        """The standard deviation of each row's last latents."""
        return [float(row.float().std()) for row in split_rows(self.latents, self.rows)]

    def _resume(self) -> None:
        self._wait()
        self.resumed = time.perf_counter()

    def _wait(self) -> None:
        """A GPU works on while Python goes on: until it is done, no time can be taken."""
        import torch

        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def _estimate(self, sample: torch.Tensor, model_output: torch.Tensor) -> torch.Tensor:
        """The picture as it would be if it were finished now, where the noise level says how:
        clearer than the noisy latents."""
        scheduler = self.pipe.scheduler
        kept = getattr(scheduler, "model_outputs", None)  # DPM-Solver keeps its own estimate
        algorithm = getattr(scheduler.config, "algorithm_type", "")
        if kept and kept[-1] is not None and algorithm == "dpmsolver++":
            return kept[-1].detach()
        if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
            sigma = scheduler.sigmas[scheduler.step_index - 1].to(sample)
            return (sample - sigma * model_output).detach()
        return self.latents.detach()


def checksum(latents: torch.Tensor) -> str:
    """SHA-256 of the values in float32."""
    return hashlib.sha256(latents.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def split_rows(latents: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """The latents of each of `count` pictures of one call; a picture may have several rows (one a
    frame). Raises `NAGRuntimeError` where they cannot be told apart."""
    if len(latents) % count:
        raise NAGRuntimeError(
            f"This pipeline made {len(latents)} rows of latents for {count} pictures of one call, "
            "so nobody can tell whose they are: draw the columns one after another."
        )
    return latents.split(len(latents) // count)
