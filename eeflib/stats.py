"""Win rates, rewards, intervals, and two methods on the same tasks.

Import `win_rate`, `pooled`, `paired_difference` and `gained_lost` from here. Every function is
pure.

All intervals are 95 % and two-sided, all p-values two-sided. One win rate has Wilson's interval.
Means over seeds have Student's t interval over the per-seed values, because tasks of one seed share
one trained student and are not independent evidence about a method. Two methods are compared seed
by seed: a paired t-test over seeds, McNemar's exact test inside one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from eeflib.errors import DataError
from eeflib.records import Evaluation, Task, Trajectory

__all__ = [
    "GainedLost",
    "Mean",
    "Paired",
    "PairedDifference",
    "bootstrap",
    "by_seed",
    "evaluations_from",
    "gained_lost",
    "last_iteration",
    "mcnemar",
    "mean_reward",
    "paired",
    "paired_difference",
    "permutation",
    "pooled",
    "t_interval",
    "t_test",
    "wilson",
    "win_rate",
]

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


def permutation(data: tuple[np.ndarray, ...], kind: Any, seed: int) -> float:
    """p of the mean of one sample being 0, or of two samples having one mean, by rearranging.

    Args:
        kind: `samples` (signs are flipped) or `independent`, see `scipy.stats.permutation_test`.
        seed: of the rearrangements.
    """
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


class Paired(NamedTuple):
    """A mean difference on the same tasks."""

    mean: float
    low: float
    """95 % interval."""
    high: float
    p: float
    """Two-sided."""
    test: str


def paired(differences: Sequence[Sequence[float]], *, yes_no: bool, seed: int) -> Paired:
    """The one paired test: is the mean difference more than chance?

    | data | interval | p |
    |---|---|---|
    | several seeds | t interval over the seeds' mean differences | paired t-test over seeds |
    | one seed, yes/no | bootstrap over tasks | McNemar's exact test |
    | one seed, number | bootstrap over tasks | sign-flip permutation test |

    Args:
        differences: per seed one number per task; at least one seed, none empty.
        yes_no: whether what is compared is 0 or 1, so that a difference is -1, 0 or 1.
        seed: of the resampling.
    """
    means = [float(np.mean(group)) for group in differences]
    if len(means) > 1:
        return Paired(float(np.mean(means)), *t_interval(means), t_test(means), "t over seeds")
    (group,) = differences
    low, high = bootstrap(group, seed)
    if yes_no:
        p, test = mcnemar(sum(d > 0 for d in group), sum(d < 0 for d in group)), "McNemar"
    else:
        p, test = permutation((np.asarray(group),), "samples", seed), "sign flips"
    return Paired(means[0], low, high, p, f"{test} over tasks")


@dataclass(frozen=True)
class Rate:
    """Share of solved tasks with its Wilson interval."""

    wins: int
    n: int
    rate: float
    """wins / n; nan if n is 0."""
    low: float
    high: float


@dataclass(frozen=True)
class Mean:
    """A mean with its interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of units the interval is over."""
    basis: str
    """`seeds` (t interval over per-seed means) or `tasks` (percentile bootstrap)."""


@dataclass(frozen=True)
class Pooled:
    """The win rate of one method over its seeds."""

    rate: Rate
    """All outcomes in one pot, Wilson interval; treats tasks of one seed as independent."""
    per_seed: dict[int, Rate]
    mean: float
    """Mean of the per-seed rates."""
    sd: float
    """Sample standard deviation (n - 1) of the per-seed rates; nan below two seeds."""
    low: float
    """t interval over seeds, cut to [0, 1]; with one seed, that seed's Wilson interval."""
    high: float


def evaluations_from(
    trajectories: Iterable[Trajectory],
    tasks: Iterable[Task],
    method: str,
    seed: int,
    iteration: int,
) -> list[Evaluation]:
    """One outcome per trajectory, in order.

    Raises:
        DataError: a trajectory belongs to none of `tasks`.
    """
    known = {task.id: task for task in tasks}
    out = []
    for trajectory in trajectories:
        task = known.get(trajectory.task_id)
        if task is None:
            raise DataError(
                f"trajectory {trajectory.id!r} belongs to task {trajectory.task_id!r}, which is "
                f"not among the {len(known)} tasks given; pass the tasks it was rolled out on"
            )
        out.append(
            Evaluation(
                method=method,
                seed=seed,
                iteration=iteration,
                task_id=task.id,
                task_hash=task.content_hash,
                split=task.split,
                level=str(task.extra.get("level", "")),
                reward=trajectory.reward,
                threshold=task.threshold,
                length=trajectory.length,
                invalid=sum(not step.valid for step in trajectory.steps),
                error=trajectory.error,
            )
        )
    return out


def last_iteration(outcomes: Iterable[Evaluation]) -> list[Evaluation]:
    """The outcomes of the highest iteration of each method and seed: the reported ones."""
    outcomes = list(outcomes)
    last: dict[tuple[str, int], int] = {}
    for o in outcomes:
        last[o.method, o.seed] = max(o.iteration, last.get((o.method, o.seed), o.iteration))
    return [o for o in outcomes if o.iteration == last[o.method, o.seed]]


def by_seed(outcomes: Iterable[Evaluation]) -> dict[int, list[Evaluation]]:
    """Outcomes by seed, seeds ascending."""
    out: dict[int, list[Evaluation]] = {}
    for o in outcomes:
        out.setdefault(o.seed, []).append(o)
    return dict(sorted(out.items()))


def win_rate(outcomes: Iterable[Evaluation]) -> Rate:
    """Share of solved outcomes; one that ended in an error counts as not solved."""
    solved = [o.solved for o in outcomes]
    low, high = wilson(sum(solved), len(solved))
    rate = sum(solved) / len(solved) if solved else math.nan
    return Rate(sum(solved), len(solved), rate, low, high)


def mean_reward(outcomes: Iterable[Evaluation], *, seed: int = 0) -> Mean:
    """Mean reward R; over seeds if there are several, else over tasks.

    Args:
        outcomes: of one method and iteration.
        seed: of the bootstrap's resampling.
    """
    groups = [[o.reward for o in group] for group in by_seed(outcomes).values()]
    if not groups:
        return Mean(math.nan, 0.0, 1.0, 0, "tasks")
    if len(groups) == 1:
        low, high = bootstrap(groups[0], seed)
        return Mean(float(np.mean(groups[0])), low, high, len(groups[0]), "tasks")
    means = [float(np.mean(group)) for group in groups]
    low, high = t_interval(means)
    return Mean(float(np.mean(means)), max(0.0, low), min(1.0, high), len(means), "seeds")


def pooled(outcomes: Iterable[Evaluation]) -> Pooled:
    """The win rate over all seeds: pooled, per seed, mean and spread of the seeds."""
    outcomes = list(outcomes)
    per_seed = {seed: win_rate(group) for seed, group in by_seed(outcomes).items()}
    rate = win_rate(outcomes)
    rates = [r.rate for r in per_seed.values()]
    if len(rates) < 2:
        return Pooled(rate, per_seed, rate.rate, math.nan, rate.low, rate.high)
    low, high = t_interval(rates)
    mean, sd = float(np.mean(rates)), float(np.std(rates, ddof=1))
    return Pooled(rate, per_seed, mean, sd, max(0.0, low), min(1.0, high))


@dataclass(frozen=True)
class WithinSeed:
    """Two methods on the tasks of one seed."""

    seed: int
    n: int
    gained: int
    """Solved by a, not by b."""
    lost: int
    """Solved by b, not by a."""
    difference: float
    """(gained - lost) / n."""
    low: float
    """Percentile bootstrap over tasks."""
    high: float
    p: float
    """McNemar's exact test, two-sided."""


@dataclass(frozen=True)
class PairedDifference:
    """Win rate of a minus win rate of b, on the same tasks."""

    a: str
    b: str
    seeds: tuple[int, ...]
    """Seeds that both methods have."""
    differences: tuple[float, ...]
    """Per seed of `seeds`."""
    mean: float
    sd: float
    """Sample standard deviation; nan below two seeds."""
    low: float
    high: float
    p: float
    """Two-sided: paired t-test over seeds; McNemar's exact test if there is one seed."""
    basis: str
    """What interval and p are over: `seeds` or, with a single seed, `tasks`."""
    better: int
    """Number of seeds in which a has the higher win rate."""
    within: tuple[WithinSeed, ...]
    unpaired: tuple[int, ...] = ()
    """Seeds that only one of the two methods has; left out."""

    @property
    def n(self) -> int:
        """Number of seeds compared."""
        return len(self.seeds)


class TaskKey(NamedTuple):
    """A task of a run with several seeds: ids may repeat from seed to seed."""

    seed: int
    task_id: str
    level: str


@dataclass(frozen=True)
class GainedLost:
    """What `other` solves that `base` does not, and the reverse."""

    gained: tuple[TaskKey, ...]
    lost: tuple[TaskKey, ...]
    both: tuple[TaskKey, ...]
    never: tuple[TaskKey, ...]
    """Solved by neither of the two."""


def paired_difference(
    a: Iterable[Evaluation], b: Iterable[Evaluation], *, seed: int = 0
) -> PairedDifference:
    """Win rate of `a` minus that of `b`, seed by seed, on the same tasks.

    Args:
        a: outcomes of one method, one iteration per seed (see `last_iteration`).
        b: likewise.
        seed: of the bootstrap's resampling.

    Raises:
        DataError: no common seed; in a common seed the task hashes differ, or one repeats.
    """
    a_seeds, b_seeds = by_seed(a), by_seed(b)
    a_name, b_name = _method(a_seeds), _method(b_seeds)
    seeds = tuple(s for s in a_seeds if s in b_seeds)
    if not seeds:
        raise DataError(
            f"{a_name} (seeds {list(a_seeds)}) and {b_name} (seeds {list(b_seeds)}) have no seed "
            "in common: evaluate both in the same run"
        )
    within = tuple(_within(s, a_seeds[s], b_seeds[s], seed) for s in seeds)
    differences = tuple(w.difference for w in within)
    found = paired([_differences(s, a_seeds[s], b_seeds[s]) for s in seeds], yes_no=True, seed=seed)
    return PairedDifference(
        a=a_name,
        b=b_name,
        seeds=seeds,
        differences=differences,
        mean=found.mean,
        sd=float(np.std(differences, ddof=1)) if len(seeds) > 1 else math.nan,
        low=found.low,
        high=found.high,
        p=found.p,
        basis="seeds" if len(seeds) > 1 else "tasks",
        better=sum(d > 0 for d in differences),
        within=within,
        unpaired=tuple(sorted(a_seeds.keys() ^ b_seeds.keys())),
    )


def gained_lost(base: Iterable[Evaluation], other: Iterable[Evaluation]) -> GainedLost:
    """Which tasks `other` solves and `base` does not, and the reverse; over common seeds.

    Raises:
        DataError: in a common seed the two were not evaluated on the same tasks.
    """
    base_seeds, other_seeds = by_seed(base), by_seed(other)
    kinds: dict[tuple[bool, bool], list[TaskKey]] = {}
    for seed, group in base_seeds.items():
        if seed not in other_seeds:
            continue
        for old, new in _matched(seed, group, other_seeds[seed]):
            key = TaskKey(seed, new.task_id, new.level)
            kinds.setdefault((old.solved, new.solved), []).append(key)

    def pick(old: bool, new: bool) -> tuple[TaskKey, ...]:
        return tuple(sorted(kinds.get((old, new), [])))

    return GainedLost(pick(False, True), pick(True, False), pick(True, True), pick(False, False))


def _method(groups: Mapping[int, Sequence[Evaluation]]) -> str:
    names = sorted({o.method for group in groups.values() for o in group})
    if len(names) > 1:
        raise DataError(f"outcomes of several methods in one list: {names}; pass one at a time")
    return names[0] if names else "(no outcomes)"


def _matched(
    seed: int, a: Sequence[Evaluation], b: Sequence[Evaluation]
) -> list[tuple[Evaluation, Evaluation]]:
    """Pairs of outcomes on the same task, in the order of `a`."""
    tables = []
    for group in (a, b):
        table = {o.task_hash: o for o in group}
        if len(table) < len(group):
            seen = sorted({o.iteration for o in group})
            raise DataError(
                f"{group[0].method}, seed {seed}: {len(group)} outcomes on {len(table)} tasks "
                f"(iterations {seen}); pass one iteration, see last_iteration()"
            )
        tables.append(table)
    left, right = tables
    if left.keys() != right.keys():
        only_a, only_b = len(left.keys() - right.keys()), len(right.keys() - left.keys())
        raise DataError(
            f"seed {seed}: {a[0].method} and {b[0].method} were not evaluated on the same tasks "
            f"({only_a} only in the first, {only_b} only in the second, by task_hash); evaluate "
            "both on the same task file"
        )
    return [(o, right[h]) for h, o in left.items()]


def _differences(seed: int, a: Sequence[Evaluation], b: Sequence[Evaluation]) -> list[int]:
    return [int(x.solved) - int(y.solved) for x, y in _matched(seed, a, b)]


def _within(
    seed: int, a: Sequence[Evaluation], b: Sequence[Evaluation], rng_seed: int
) -> WithinSeed:
    differences = _differences(seed, a, b)
    found = paired([differences], yes_no=True, seed=rng_seed)
    return WithinSeed(
        seed=seed,
        n=len(differences),
        gained=differences.count(1),
        lost=differences.count(-1),
        difference=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
    )
