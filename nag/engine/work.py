"""Counts the arithmetic of a denoiser's step, so that cost can be said without a stopwatch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import private
from ..methods import METHODS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@contextlib.contextmanager
def counted(pipe: DiffusionPipeline) -> Iterator[Callable[[], int]]:
    """-> a function that returns the operations of all denoiser calls since then. Text encoders and
    the decoder, which are the same for every way of guiding, are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    from .. import families

    total, running = 0, []

    def before(*_: object) -> None:
        running.append(FlopCounterMode(display=False, custom_mapping=attention_operations()))
        running[-1].__enter__()

    def after(*_: object) -> None:
        nonlocal total
        counter = running.pop()
        counter.__exit__(None, None, None)
        total += counter.get_total_flops()

    with contextlib.ExitStack() as stack:
        for denoiser in map(families.unwrapped, families.denoisers_of(pipe)):
            stack.callback(denoiser.register_forward_pre_hook(before).remove)
            stack.callback(denoiser.register_forward_hook(after, always_call=True).remove)
        yield lambda: total


def attention_operations() -> dict[Callable, Callable]:
    """Of the kernels of attention, PyTorch's counter does not know that of a processor."""
    from torch.utils.flop_counter import sdpa_flop_count

    return {private.cpu_attention(): lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}


def of_column(known: dict, size: tuple, key: str, guided: int, steps: int) -> int:
    """Operations of a column of which `guided` of `steps` steps were guided, from those of one
    step, known[size, key]. 0 where they are not known."""
    method = METHODS[key]
    each = known.get((size, key), 0)
    if not method.attention or guided == steps:
        return each * steps
    rest = known.get((size, "cfg" if method.cfg else "none"), 0)
    return each * guided + rest * (steps - guided) if each and rest else 0
