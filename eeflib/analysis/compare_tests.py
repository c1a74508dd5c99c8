"""Is a difference between two sets of episodes more than chance? Paired where it can be.

Import `paired_test` and `unpaired_test` from here, for a measure (a number per episode). The paired
test is `eeflib.stats.paired`; what is not paired gets a bootstrap of both sides and a permutation
test.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from eeflib.stats import paired, permutation

__all__ = ["Difference", "adjusted", "paired_test", "unpaired_test"]

_RESAMPLES = 2000


class Difference(NamedTuple):
    """The second side minus the first."""

    first: float
    """Mean of the first side."""
    second: float
    difference: float
    low: float
    """95 % interval of the difference; nan if there is nothing to compute it from."""
    high: float
    p: float
    """Two-sided; nan likewise."""
    n: int
    """Pairs, or episodes of both sides."""
    test: str


def paired_test(
    first: pd.Series[float], second: pd.Series[float], seeds: pd.Series[int], *, seed: int = 0
) -> Difference:
    """Two measures of the same tasks, row by row; `seeds` says which seed a row is of.

    Args:
        seed: of the resampling.
    """
    a, b = (np.asarray(x, dtype=float) for x in (first, second))
    if not len(a):
        return _nothing("paired")
    groups = [list(group) for _, group in pd.Series(b - a).groupby(np.asarray(seeds))]
    yes_no = set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}
    found = paired(groups, yes_no=yes_no, seed=seed)
    means = (float(a.mean()), float(b.mean()))
    return Difference(*means, found.mean, found.low, found.high, found.p, len(a), found.test)


def unpaired_test(
    first: pd.Series[float], second: pd.Series[float], *, seed: int = 0
) -> Difference:
    """Two measures of different tasks; `seed` of the resampling."""
    a, b = (np.asarray(x, dtype=float) for x in (first, second))
    if not len(a) or not len(b):
        return _nothing("not paired")
    rng = np.random.default_rng(seed)
    draws = [[x[rng.integers(0, len(x), len(x))].mean() for x in (a, b)] for _ in range(_RESAMPLES)]
    low, high = np.quantile([y - x for x, y in draws], [0.025, 0.975])
    means = (float(a.mean()), float(b.mean()))
    p = permutation((a, b), "independent", seed)
    total = len(a) + len(b)
    gap = means[1] - means[0]
    return Difference(*means, gap, float(low), float(high), p, total, "permutation")


def _nothing(test: str) -> Difference:
    nan = float("nan")
    return Difference(nan, nan, nan, nan, nan, nan, 0, test)


def adjusted(p: pd.Series[float]) -> pd.Series[float]:
    """p values of several measures at once, by Benjamini and Hochberg; nan stays."""
    from scipy import stats

    known = p.dropna()
    out = p.astype("float64").copy()
    if len(known):
        out.loc[known.index] = stats.false_discovery_control(known.to_numpy())
    return out
