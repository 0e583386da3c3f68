"""Shares and differences of shares, with intervals. Plain Python: shown before torch is loaded."""

import math

from ..errors import NAGValueError

Z = 1.959964  # of a 95 % interval


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of the share hits / n, n >= 1 (Wilson 1927)."""
    p = hits / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)
    return max(0.0, low), min(1.0, high)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value of paired yes-or-no outcomes that differ in so many pairs.

    McNemar 1947: without a difference, the side of each differing pair is a coin toss.
    """
    n, least = first_only + second_only, min(first_only, second_only)
    if not n:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_difference(first: list[bool], second: list[bool]) -> tuple[float, float, float]:
    """Share of `first` less share of `second` over the same cases, and its 95 % interval.

    Newcombe 1998, method 10: Wilson's intervals of both shares, with the correlation of the pairs.
    """
    n = len(first)
    if n != len(second) or not n:
        raise NAGValueError(f"Paired outcomes must be equally many, got {n} and {len(second)}.")
    a, b = sum(first), sum(second)
    both = sum(x and y for x, y in zip(first, second, strict=True))
    neither = n - a - b + both
    product = a * (n - a) * b * (n - b)
    covariance = both * neither - (a - both) * (b - both)
    phi = 0.0
    if product:
        corrected = max(covariance - n / 2, 0) if covariance > 0 else covariance
        phi = corrected / math.sqrt(product)
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, n)
    pa, pb = a / n, b / n
    below = (pa - low_a) ** 2 - 2 * phi * (pa - low_a) * (high_b - pb) + (high_b - pb) ** 2
    above = (high_a - pa) ** 2 - 2 * phi * (high_a - pa) * (pb - low_b) + (pb - low_b) ** 2
    return pa - pb, pa - pb - math.sqrt(max(0, below)), pa - pb + math.sqrt(max(0, above))
