"""What follows a guided layer's attention calls, as one kernel on a GPU.

`steer` is the formula behind cross-attention; with log-sum-exps it also merges what `nag.kernels`
gave for the image and for each text, and is all that follows the three calls of joint attention.
`in_torch` says the same in PyTorch, and is what the kernel is checked against before it is used.
"""

import logging

import torch

from . import kernels
from .formula import normalized_attention_guidance
from .kernels import Answer
from .segments import IMAGE, NEGATIVE, POSITIVE, Segments
from .settings import NAGSettings

log = logging.getLogger(__name__)
DEVICES = ("cuda",)
CODES = {IMAGE: 0, POSITIVE: 1, NEGATIVE: 2}

# kind of device -> what does `steer` there; None where there is no Triton, or it is wrong
launchers: dict = {}


def at_hand(z: torch.Tensor) -> bool:
    """Whether there is a kernel where this tensor is."""
    return launchers.get(z.device.type) is not None


def able(z: torch.Tensor) -> bool:
    """Whether `steer` may be used for attention outputs like this. It has no gradients."""
    return at_hand(z) and not (z.requires_grad and torch.is_grad_enabled())


def labels_of(at: Segments, device: torch.device) -> torch.Tensor:
    """(N,) int8: what every token of a sequence is, in `CODES`. Made once for a layout."""
    if torch.compiler.is_compiling():
        return _labels(at, device)
    if device not in at.labels:
        at.labels[device] = _labels(at, device)
    return at.labels[device]


def _labels(at: Segments, device: torch.device) -> torch.Tensor:
    parts = [
        torch.full((length,), CODES[label], dtype=torch.int8, device=device)
        for _, length, label in at.labelled
    ]
    return torch.cat(parts)


def steer(
    positive: torch.Tensor | Answer | None,
    negative: torch.Tensor | Answer | None,
    rows: slice,
    settings: NAGSettings,
    image: Answer | None = None,
    at: Segments | None = None,
) -> torch.Tensor:
    """Guided attention output (B, H, N, D) in (B, N, H, D) memory, in the dtype of its parts.

    positive, negative: without `image` outputs of the same image queries, (B, H, N, D) and of the
        conditional `rows` alone; with it answers (output, log-sum-exp) of the queries
        `at.asking_positive` and `at.asking_negative` to the text alone, or None where there is no
        such text.
    image: the answer of all queries to the image. at: where they stand. Image tokens are guided,
        each text's are its own merged answer, of unconditional rows zeros for the negative text.
    """
    if image is None:
        return launchers[positive.device.type](positive, negative, rows, settings)
    positive = positive or _nothing(image, slice(None), at.asking_positive)
    negative = negative or _nothing(image, rows, at.asking_negative)
    device = image[0].device
    labels = labels_of(at, device)
    return launchers[device.type](positive, negative, rows, settings, image, at, labels)


def _nothing(image: Answer, rows: slice, queries: tuple[int, int]) -> Answer:
    """The answer of no keys: it weighs nothing."""
    out, lse = (part[rows].narrow(2, *queries) for part in image)
    return out, torch.full_like(lse, float("-inf"))


def in_torch(
    positive: torch.Tensor | Answer,
    negative: torch.Tensor | Answer,
    rows: slice,
    settings: NAGSettings,
    image: Answer | None = None,
    at: Segments | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """`steer` by the functions that it is made of."""
    if image is not None:
        dtype = image[0].dtype
        positive = _merged(image, positive, at.asking_positive)
        negative = _merged([part[rows] for part in image], negative, at.asking_negative)
    else:
        dtype = positive.dtype
    out = positive.float().clone()
    out[rows] = normalized_attention_guidance(
        out[rows], negative.float(), settings.scale, settings.tau, settings.alpha, dim=(1, 3)
    )
    if image is not None:
        text, other = (labels == CODES[label] for label in (POSITIVE, NEGATIVE))
        out = torch.where(text[:, None], positive, out)
        own = torch.zeros_like(out)
        own[rows] = negative
        out = torch.where(other[:, None], own, out)
    return out.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def _merged(image: Answer, text: Answer, queries: tuple[int, int]) -> torch.Tensor:
    """What all queries get of the image and these of a text too, (B, H, N, D) in float32."""
    out = image[0].float().clone()
    out.narrow(2, *queries).copy_(kernels.merge([part.narrow(2, *queries) for part in image], text))
    return out


def prepare(device: torch.device | str) -> None:
    """Decides, once in a process, whether `steer` runs on this kind of device: on a GPU with a
    Triton whose kernel gives what `in_torch` does. Else there is one line in the log, and guided
    layers do without."""
    device = torch.device(device)
    if device.type not in DEVICES or device.type in launchers:
        return
    launchers[device.type], why = None, ""
    try:
        from .triton_kernel import steer as by_triton

        off = _error(by_triton, device)
        why = "" if off < 1e-5 else f"it is off by {off:.2g}"
    except Exception as error:  # whatever a compiler may raise, on whatever machine
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if why:
        log.warning("NAG goes without its fused kernel, and is slower on this GPU: %s", why)
    else:
        launchers[device.type] = by_triton


@torch.no_grad()
def _error(by_triton, device: torch.device) -> float:
    """How far the kernel is off on small tensors, at the most."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    rows, settings = slice(1, 3), NAGSettings(5.0, 2.0, 0.5)
    image, positive = ((random(3, 5, 7, 24), random(3, 5, 7)) for _ in range(2))
    negative = random(2, 5, 5, 24), random(2, 5, 5)  # of the tokens behind the positive text
    outputs = positive[0], random(2, 5, 7, 24)
    pieces = [(0, 2, POSITIVE), (2, 2, IMAGE), (4, 1, NEGATIVE), (5, 2, IMAGE)]
    at = Segments(pieces)
    labels = labels_of(at, device)

    def both(step):
        merged = step(positive, negative, rows, settings, image, at, labels)
        return merged, step(*outputs, rows, settings)

    expected, off = both(in_torch), []
    for _ in range(2):  # from the second time on it is launched by its compiled object
        off += [float((a - b).abs().max()) for a, b in zip(both(by_triton), expected, strict=True)]
    return max(off)
