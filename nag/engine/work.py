"""Counts the arithmetic of a denoiser's step, so that cost can be said without a stopwatch."""

import contextlib


def attention_operations() -> dict:
    """Of the kernels of attention, PyTorch's counter does not know that of a processor."""
    import torch
    from torch.utils.flop_counter import sdpa_flop_count

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return {kernel: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}


@contextlib.contextmanager
def counted(pipe):
    """-> a function that returns the operations of all denoiser calls since then. Text encoders and
    the decoder, which are the same for every way of guiding, are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    from .. import families

    total, running = 0, []

    def before(*_):
        running.append(FlopCounterMode(display=False, custom_mapping=attention_operations()))
        running[-1].__enter__()

    def after(*_):
        nonlocal total
        counter = running.pop()
        counter.__exit__(None, None, None)
        total += counter.get_total_flops()

    with contextlib.ExitStack() as stack:
        for denoiser in map(families.unwrapped, families.denoisers_of(pipe)):
            stack.callback(denoiser.register_forward_pre_hook(before).remove)
            stack.callback(denoiser.register_forward_hook(after, always_call=True).remove)
        yield lambda: total


def of_column(known: dict, size: tuple, key: str, guided: int, steps: int) -> int:
    """Operations of a column of which `guided` of `steps` steps were guided, from those of one
    step, known[size, key]. 0 where they are not known."""
    plain = {"nag": "none", "cfg+nag": "cfg", "nasa": "none", "vsf": "none"}.get(key, key)
    each, rest = known.get((size, key), 0), known.get((size, plain), 0)
    if plain == key or guided == steps:
        return each * steps
    return each * guided + rest * (steps - guided) if each and rest else 0
