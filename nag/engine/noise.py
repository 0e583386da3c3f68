"""One seed, one noise, whatever the dtype; and in float32 one picture, whatever the device."""

import contextlib
import types
from collections.abc import Iterator


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Within this context diffusers draws in float32 what it is asked for in any other precision,
    and casts it. Left alone it draws other numbers: seed 17 in bfloat16, which a GPU takes by
    itself, would be another picture than seed 17 on a processor.

    The generators are the processor's, so the device makes no difference. All noise of pipelines,
    schedulers and decoders comes out of one function of diffusers, which looks for `torch.randn` in
    its own module: there another one is put for a while, and only there.
    """
    import torch
    from diffusers.utils import torch_utils

    from ..patch import set_attribute

    def randn(*size, dtype: torch.dtype | None = None, **options) -> torch.Tensor:
        if dtype is None or not dtype.is_floating_point:
            return torch.randn(*size, dtype=dtype, **options)
        return torch.randn(*size, dtype=torch.float32, **options).to(dtype)

    drawing = types.ModuleType("torch")
    vars(drawing).update(vars(torch) | {"randn": randn})
    with set_attribute(torch_utils, "torch", drawing):
        yield


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within this context convolutions in float32 are computed in float32. PyTorch lets cuDNN round
    what they multiply to ten bits, and a GPU's picture would not be the processor's."""
    import torch

    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before
