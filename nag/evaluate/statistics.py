"""Means and the Frechet distance with intervals, alone and paired. Nothing here knows of pictures.

Shares have theirs from `nag.explore.counting`.
"""

import math
from collections.abc import Sequence

import torch

from ..explore.counting import Z

RESAMPLES = 400


def of_mean(values: torch.Tensor | Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of values (n,), by their standard error."""
    values = torch.as_tensor(values, dtype=torch.float64)
    half = Z * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


class Frechet:
    """Distance of rows to the reference rows (m, k): |mean difference|^2 + tr(A + B - 2 (B^1/2 A
    B^1/2)^1/2), in float64.

    It is biased: fewer rows seem farther away. Compare distances of equally many rows only.
    """

    def __init__(self, references: torch.Tensor) -> None:
        self.mean, B = _moments(references.double())
        values, vectors = torch.linalg.eigh(B)
        self.root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.mT
        self.trace = B.trace()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., n, k) -> (...)"""
        mean, A = _moments(rows.double())
        cross = torch.linalg.eigvalsh(self.root @ A @ self.root).clamp_min(0).sqrt().sum(-1)
        return (
            (mean - self.mean).square().sum(-1)
            + A.diagonal(dim1=-2, dim2=-1).sum(-1)
            + self.trace
            - 2 * cross
        )

    def resampled(self, rows: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Distances of resamples (with replacement) of the rows (n, k) -> (RESAMPLES,)

        index: (RESAMPLES, n), which rows; drawn from a fixed seed if not given.
        """
        index = resamples([len(rows)]) if index is None else index
        return torch.cat([self(rows[part]) for part in index.split(50)])


def resamples(sizes: list[int]) -> torch.Tensor:
    """(RESAMPLES, n) indices of rows, drawn with replacement within each of the strata that follow
    one another in these sizes; the same for the same sizes."""
    generator, parts, start = torch.Generator().manual_seed(0), [], 0
    for size in sizes:
        parts.append(start + torch.randint(size, (RESAMPLES, size), generator=generator))
        start += size
    return torch.cat(parts, 1)


def paired_mean(
    first: torch.Tensor, second: torch.Tensor, strata: list[str]
) -> tuple[float, float, float]:
    """Mean of `first` less that of `second`, (n,) of the same pictures, and its 95 % interval.

    By a bootstrap of the differences, resampled within each of the strata (n,), such as the prompt.
    """
    difference = first.double() - second.double()
    order = sorted(range(len(strata)), key=strata.__getitem__)
    index = resamples([strata.count(one) for one in sorted(set(strata))])
    means = difference[order][index].mean(1)
    return (float(difference.mean()), *_ends(means)[::2])


def paired_frechet(
    distances: list[Frechet], first: list, second: list
) -> tuple[float, float, float]:
    """Mean distance of `first` less that of `second`, and its 95 % interval.

    first, second: for each of the distances the rows (n, k) of the same pictures. Both are
    resampled alike, so what is common to them cancels.
    """
    values, spread = [], []
    for frechet, one, other in zip(distances, first, second, strict=True):
        index = resamples([len(one)])
        values.append(float(frechet(one) - frechet(other)))
        spread.append(frechet.resampled(one, index) - frechet.resampled(other, index))
    value, (low, middle, high) = sum(values) / len(values), _ends(torch.stack(spread).mean(0))
    return value, value + low - middle, value + high - middle


def around(value: float, resampled: torch.Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of a Frechet distance.

    A resample repeats rows and so seems farther away than its original: the spread of the resamples
    is laid around the value itself. What it says is how much the distance of as many other pictures
    would differ.
    """
    low, middle, high = _ends(resampled)
    return max(0.0, value + low - middle), value + high - middle


def _ends(resampled: torch.Tensor) -> list[float]:
    """The 2.5 %, 50 % and 97.5 % quantiles."""
    wanted = torch.tensor([0.025, 0.5, 0.975], dtype=resampled.dtype)
    return torch.quantile(resampled, wanted).tolist()


def _moments(rows):
    mean = rows.mean(-2)
    centred = rows - mean.unsqueeze(-2)
    return mean, centred.mT @ centred / (rows.shape[-2] - 1)


def at_same_rate(rate: float, curve: list[tuple[float, dict]]) -> dict:
    """Where a curve of (attribute rate, {metric: value}) is at `rate`, by straight lines between
    its points.

    {"lowest_rate": r} or {"highest_rate": r} where the curve never comes there.
    """
    curve = sorted(curve, key=lambda point: point[0])
    rates = [point[0] for point in curve]
    if rate < rates[0]:
        return {"lowest_rate": rates[0]}
    if rate > rates[-1]:
        return {"highest_rate": rates[-1]}
    for (low, left), (high, right) in zip(curve, curve[1:] or curve, strict=False):
        if low <= rate <= high:
            share = (rate - low) / (high - low) if high > low else 0.0
            return {
                name: (1 - share) * left[name] + share * right[name]
                for name in left
                if name in right
            }
    raise AssertionError("a rate within the curve lies between two of its points")
