"""Shares with intervals, and the Frechet distance with one. Nothing here knows of pictures."""

import math

import torch

RESAMPLES = 400


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of the share hits / n (Wilson 1927)."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def of_mean(values) -> tuple[float, float]:
    """95 % interval of the mean of values (n,), by their standard error."""
    values = torch.as_tensor(values, dtype=torch.float64)
    half = 1.959964 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()) - half, float(values.mean()) + half


class Frechet:
    """Distance of rows to the reference rows (m, k): |mean difference|^2 + tr(A + B - 2 (B^1/2 A
    B^1/2)^1/2), in float64.

    It is biased: fewer rows seem farther away. Compare distances of equally many rows only.
    """

    def __init__(self, references):
        self.mean, B = _moments(references.double())
        values, vectors = torch.linalg.eigh(B)
        self.root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.mT
        self.trace = B.trace()

    def __call__(self, rows):
        """(..., n, k) -> (...)"""
        mean, A = _moments(rows.double())
        cross = torch.linalg.eigvalsh(self.root @ A @ self.root).clamp_min(0).sqrt().sum(-1)
        return (
            (mean - self.mean).square().sum(-1)
            + A.diagonal(dim1=-2, dim2=-1).sum(-1)
            + self.trace
            - 2 * cross
        )

    def resampled(self, rows):
        """Distances of resamples (with replacement) of the rows (n, k) -> (RESAMPLES,)"""
        index = torch.randint(
            len(rows), (RESAMPLES, len(rows)), generator=torch.Generator().manual_seed(0)
        )
        return torch.cat([self(rows[part]) for part in index.split(50)])


def around(value: float, resampled) -> tuple[float, float]:
    """95 % bootstrap interval of a Frechet distance.

    A resample repeats rows and so seems farther away than its original: the spread of the resamples
    is laid around the value itself. What it says is how much the distance of as many other pictures
    would differ.
    """
    low, middle, high = torch.quantile(
        resampled, torch.tensor([0.025, 0.5, 0.975], dtype=resampled.dtype)
    ).tolist()
    return max(0.0, value + low - middle), value + high - middle


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
