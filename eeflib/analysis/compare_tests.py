"""Is a difference between two sets of episodes more than chance? Paired where it can be.

Owns the choice of test and interval for a measure (a number per episode); the formulas are
`eeflib.stats`' and scipy's. Knows nothing about runs or what a measure means.

| data | interval | p |
|---|---|---|
| paired, several seeds | t interval over the seeds' mean differences | paired t-test over seeds |
| paired, one seed, yes/no | bootstrap over tasks | McNemar's exact test |
| paired, one seed, number | bootstrap over tasks | sign-flip permutation test |
| not paired | bootstrap of both sides | permutation test |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eeflib.stats import bootstrap, mcnemar, t_interval, t_test

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
    d, n = b - a, len(a)
    if not n:
        return _nothing("paired")
    means = (float(a.mean()), float(b.mean()))
    by_seed = pd.Series(d).groupby(np.asarray(seeds)).mean()
    if len(by_seed) > 1:
        values = by_seed.to_list()
        mean = float(np.mean(values))
        return Difference(*means, mean, *t_interval(values), t_test(values), n, "t over seeds")
    low, high = bootstrap(d.tolist(), seed)
    if set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}:
        p, test = mcnemar(int((d > 0).sum()), int((d < 0).sum())), "McNemar over tasks"
    else:
        p, test = _permutation((d,), "samples", seed), "sign flips over tasks"
    return Difference(*means, float(d.mean()), low, high, p, n, test)


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
    p = _permutation((a, b), "independent", seed)
    total = len(a) + len(b)
    gap = means[1] - means[0]
    return Difference(*means, gap, float(low), float(high), p, total, "permutation")


def _nothing(test: str) -> Difference:
    nan = float("nan")
    return Difference(nan, nan, nan, nan, nan, nan, 0, test)


def _permutation(data: tuple[Any, ...], kind: Any, seed: int) -> float:
    if min(map(len, data)) < 2:
        return 1.0  # one observation has no other arrangement that says more
    from scipy import stats

    def gap(*sides: Any, axis: int = -1) -> Any:
        means = [x.mean(axis=axis) for x in sides]
        return means[0] if len(means) == 1 else means[1] - means[0]

    result = stats.permutation_test(
        data,
        gap,
        permutation_type=kind,
        n_resamples=_RESAMPLES,
        vectorized=True,
        batch=250,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def adjusted(p: pd.Series[float]) -> pd.Series[float]:
    """p values of several measures at once, by Benjamini and Hochberg; nan stays."""
    from scipy import stats

    known = p.dropna()
    out = p.astype("float64").copy()
    if len(known):
        out.loc[known.index] = stats.false_discovery_control(known.to_numpy())
    return out
