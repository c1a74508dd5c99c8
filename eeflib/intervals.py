"""Intervals and tests over plain numbers: Wilson, Student's t, McNemar, bootstrap.

Owns the formulas. Knows nothing about records, methods or files. All intervals are 95 % and
two-sided, all p-values two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from eeflib.errors import DataError

__all__ = ["bootstrap", "mcnemar", "t_interval", "t_test", "wilson"]

_Z = float(special.ndtri(0.975))
_RESAMPLES = 2000


def wilson(wins: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of wins out of n; (0, 1) if n is 0."""
    if not 0 <= wins <= n:
        raise DataError(f"{wins} wins out of {n} is not a count; check how outcomes were grouped")
    if n == 0:
        return 0.0, 1.0
    p, z2 = wins / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and n wins the bound is exactly 0 or 1; rounding would leave 1e-17.
    low = 0.0 if wins == 0 else max(0.0, centre - half)
    high = 1.0 if wins == n else min(1.0, centre + half)
    return low, high


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: p of a fair coin splitting the discordant pairs this unevenly."""
    n = gained + lost
    if n == 0:
        return 1.0
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), n, 0.5)))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean of two or more values."""
    n = len(values)
    half = float(special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    mean = float(np.mean(values))
    return mean - half, mean + half


def t_test(values: Sequence[float]) -> float:
    """p of the mean of two or more values being 0; of paired differences: the paired t-test."""
    n, mean, sd = len(values), float(np.mean(values)), float(np.std(values, ddof=1))
    if sd < 1e-12:  # every seed agrees to the digit: no noise to test against
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return float(2 * special.stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))


def bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one or more values; `seed` of the resampling."""
    data = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    n, block = len(data), 100  # blocks: all draws at once would not fit for long data
    means = [data[rng.integers(0, n, (block, n))].mean(axis=1) for _ in range(_RESAMPLES // block)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
