"""Adaptive projected guidance: a rival that changes CFG, and not attention.

A pipeline makes its prediction of two, u + s (c - u). Here CFG's own prediction u is replaced by
c - d, where d is the difference c - u as APG wants it; what the pipeline then makes of the two is
c + (s - 1) d, which is APG (arXiv 2410.02416, algorithm 1), whichever pipeline it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from .. import families
from ..errors import NAGRuntimeError
from ..patch import Wrapped, set_attribute, wrap_call

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

P = ParamSpec("P")
R = TypeVar("R")
# as published for SDXL, whose latents have 4 x 128 x 128 numbers
ETA, MOMENTUM, RADIUS, NUMBERS = 0.0, -0.5, 15.0, 4 * 128 * 128


class Projection:
    """Stands around every call of one pipeline's denoiser while it draws `pictures` at once.

    cfg_first: whether CFG's rows stand before the prompt's, where both are in one call. changed:
    how many predictions were.
    """

    def __init__(self, pictures: int, cfg_first: bool = True) -> None:
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

        self.pictures, self.cfg_first = pictures, cfg_first
        self.momentum = MomentumBuffer(MOMENTUM)
        self.prompts: torch.Tensor | None = None  # prediction, where CFG's follows in another call
        self.changed = 0

    def away(self, prompts: torch.Tensor, cfgs: torch.Tensor) -> torch.Tensor:
        """c - d of two predictions (B, ...), in float32, rounded to theirs."""
        from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

        # ours: the norm of a picture of fewer numbers is smaller by their square root
        radius = RADIUS * math.sqrt(prompts[0].numel() / NUMBERS)
        self.changed += 1
        c, u = prompts.float(), cfgs.float()
        # as c + scale d with a scale of -1
        return normalized_guidance(c, u, -1.0, self.momentum, ETA, radius, True).to(cfgs.dtype)

    def __call__(self, forward: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        result = forward(*args, **kwargs)
        out = result[0] if isinstance(result, tuple) else getattr(result, "sample", None)
        rows = len(out) if isinstance(out, torch.Tensor) else 0
        if rows == 2 * self.pictures:  # both in one call
            u, c = out.chunk(2) if self.cfg_first else out.chunk(2)[::-1]
            pair = [self.away(c, u), c]
            changed = torch.cat(pair if self.cfg_first else pair[::-1])
        elif rows == self.pictures and self.prompts is None:  # diffusers runs the prompt first
            self.prompts = out
            return result
        elif rows == self.pictures:
            changed, self.prompts = self.away(self.prompts, out), None
        else:
            raise NAGRuntimeError(
                f"Adaptive projected guidance wants one prediction of the prompt and one of CFG "
                f"for each picture, and the denoiser made {rows or 'no tensor'} for "
                f"{self.pictures}: leave this column out."
            )
        if isinstance(result, tuple):
            return (changed, *result[1:])
        result.sample = changed
        return result

    def stepped(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Stands around the scheduler's `step`, after which the prompt comes first again."""
        self.prompts = None
        return step(*args, **kwargs)


@contextlib.contextmanager
def projected_cfg(pipe: DiffusionPipeline, pictures: int) -> Iterator[Projection]:
    """Within this context, which is one call of `pipe` with CFG that draws so many pictures, CFG is
    adaptive projected guidance (arXiv 2410.02416) with the published settings for SDXL.

    On the denoiser's own predictions, as in diffusers' `AdaptiveProjectedGuidance`, whose function
    does it; the paper projects predicted pictures. Raises NAGRuntimeError for a denoiser that makes
    another number of predictions, and on exit where CFG was never run.
    """
    cfg_first = not (families.supports(pipe)[0] and families.find(pipe).cfg_order[0])
    projection = Projection(pictures, cfg_first)
    with contextlib.ExitStack() as stack:
        for denoiser in families.denoisers_of(pipe):
            stack.enter_context(wrap_call(denoiser, projection))
        step = Wrapped(pipe.scheduler.step, projection.stepped)
        stack.enter_context(set_attribute(pipe.scheduler, "step", step))
        yield projection
        if not projection.changed:
            raise NAGRuntimeError(
                "Adaptive projected guidance changed nothing, for the pipeline ran without CFG: "
                "give a guidance scale above 1."
            )
