"""Counts and times the steps of one pipeline call."""

import hashlib
import statistics
import time

from .. import private
from ..errors import NAGRuntimeError


class StepClock:
    """Sees every scheduler step of a pipeline call: counts, times, keeps the checksum of the first noise (of each of `rows` pictures) and
    the last latents.

    The clock runs from the first denoiser call to the last step, and stands still while a preview is made.
    """

    def __init__(self, pipe, device: str, on_step, rows: int = 1):
        self.pipe, self.device, self.on_step, self.rows = pipe, device, on_step, rows
        self.step, self.times, self.guided, self.sha256, self.latents = 0, [], 0, [], None
        self.resumed = None

    def begin(self, denoiser, *_):
        if self.resumed is None:
            private.bring_to_gpu(denoiser)  # the weights' way there is not guidance
            self._resume()

    def _resume(self):
        self._wait()
        self.resumed = time.perf_counter()

    def _wait(self):
        import torch

        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def stepped(self, step, model_output, timestep, sample, *args, **kwargs):
        if not self.sha256:
            self.sha256 = [
                hashlib.sha256(one.float().cpu().contiguous().numpy().tobytes()).hexdigest()
                for one in split_rows(sample.detach(), self.rows)
            ]
        result = step(model_output, timestep, sample, *args, **kwargs)
        self.latents = result[0] if isinstance(result, tuple) else result.prev_sample
        self.step += 1
        self._wait()
        self.times.append(time.perf_counter() - self.resumed)
        self.on_step(self.step, self._estimate(timestep, sample, model_output))
        self._resume()
        return result

    def _estimate(self, timestep, sample, model_output):
        """The picture as it would be if it were finished now, where the noise level says how: clearer than the noisy latents."""
        scheduler = self.pipe.scheduler
        kept = getattr(scheduler, "model_outputs", None)  # DPM-Solver keeps its own estimate
        if (
            kept
            and kept[-1] is not None
            and getattr(scheduler.config, "algorithm_type", "") == "dpmsolver++"
        ):
            return kept[-1].detach()
        if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
            return (sample - scheduler.sigmas[self.step - 1].to(sample) * model_output).detach()
        return self.latents.detach()

    @property
    def seconds(self) -> float:
        return sum(self.times)

    @property
    def steady(self) -> float:
        """Seconds if every step had taken its kind's median: guided steps come first, and cost more than the others."""
        kinds = self.times[: self.guided], self.times[self.guided :]
        return sum(len(times) * statistics.median(times) for times in kinds if times)

    @property
    def saved(self) -> float | None:
        """Share of the time saved by the un-guided steps at the end, if each of them would have taken the guided ones' median."""
        guided, others = self.times[: self.guided], self.times[self.guided :]
        if not guided or not others:
            return None
        full = statistics.median(guided)
        return len(others) * (full - statistics.median(others)) / (len(self.times) * full)

    def spread(self, rows: int) -> list[float]:
        return [float(one.float().std()) for one in split_rows(self.latents, rows)]


def split_rows(latents, count: int):
    """The latents of each of `count` pictures of one call; a picture may have several rows (one a frame)."""
    if len(latents) % count:
        raise NAGRuntimeError(
            f"This pipeline made {len(latents)} rows of latents for {count} pictures of one call, "
            "so nobody can tell whose they are: draw the columns one after another."
        )
    return latents.split(len(latents) // count)
