"""Joint attention with every key attended once: `GuidedAttention.joint` for much less time.

Both texts go with the image. Attended in two passes, its keys, which are nearly all, are attended
twice. Here all queries attend them once, each text's own are attended beside, and what belongs
together is merged by log-sum-exps (`nag/kernels.py`). The two forms are equal up to rounding.
"""

from collections.abc import Callable

import torch

from . import fused, kernels
from .segments import IMAGE, NEGATIVE, POSITIVE, Inputs, Segments, portions, put, take
from .settings import NAGSettings


def in_portions(
    inputs: Inputs, at: Segments, rows: slice, scale: float | None, steer: Callable
) -> torch.Tensor:
    """For a CPU: queries in portions, whose answers stay in its cache, and of every query only what
    somebody reads. Returns (B, H, N, D).

    steer: (z_positive, z_negative of `rows`, rows) -> the image's answer, guided.
    """
    out, every = inputs.output(), slice(0, len(inputs.query))
    keys = {label: inputs.seen(at.only(label)) for label in (IMAGE, POSITIVE, NEGATIVE)}

    def answer(label, query, which):
        """What the keys of one label say to queries of some rows, with its log-sum-exp."""
        seen = keys[label].of_rows(which)
        return kernels.attend(Inputs(query[which], seen.key, seen.value, seen.mask), scale)

    texts = [piece for piece in at.labelled if piece[2] != IMAGE]
    if len(inputs.query[rows]) == len(inputs.query):
        calls = [(texts, every)]  # in one: kernels are slower with few queries
    else:
        calls = [([text], rows if text[2] == NEGATIVE else every) for text in texts]
    for some, which in calls:
        query = take(inputs.query, [text[:2] for text in some])
        of_image = kernels.split(answer(IMAGE, query, which), [text[1] for text in some])
        for (start, length, label), part in zip(some, of_image, strict=True):
            of_text = answer(label, inputs.query.narrow(2, start, length), which)
            put(out[which], [(start, length)], kernels.merge(part, of_text))
    for piece in portions(at.image, out.device):
        query = take(inputs.query, [piece])
        of_image = answer(IMAGE, query, every)
        z_positive = kernels.merge(of_image, answer(POSITIVE, query, every))
        of_image = [part[rows] for part in of_image]
        z_negative = kernels.merge(of_image, answer(NEGATIVE, query, rows))
        put(out, [piece], steer(z_positive, z_negative, rows))
    return out


def in_three_calls(
    inputs: Inputs, at: Segments, rows: slice, scale: float | None, settings: NAGSettings
) -> torch.Tensor:
    """For a GPU: three calls and one kernel. A call's queries are one piece of the sequence, from
    the first token that needs it to the last: what the other text's tokens between them get is
    computed and never read, which takes less time than to cut and to join. Returns (B, H, N, D)."""
    conditional = inputs.of_rows(rows)
    of_image = kernels.attend(inputs.seen(at.image), scale)
    positive = kernels.attend(inputs.seen(at.positive, [at.asking_positive]), scale)
    negative = kernels.attend(conditional.seen(at.negative, [at.asking_negative]), scale)
    return fused.steer(positive, negative, rows, settings, of_image, at)
