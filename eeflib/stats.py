"""Win rates, rewards, intervals, and two methods on the same tasks.

Import `win_rate`, `paired_difference` and `gained_lost` from here; `paired` and `unpaired` are the
tests for any other measure. Every function is pure.

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


def sd(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); nan below two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean of two or more values."""
    n, mean = len(values), float(np.mean(values))
    half = float(special.stdtrit(n - 1, 0.975)) * sd(values) / math.sqrt(n)
    return mean - half, mean + half


def t_test(values: Sequence[float]) -> float:
    """p of the mean of two or more values being 0; of paired differences: the paired t-test."""
    n, mean, spread = len(values), float(np.mean(values)), sd(values)
    if spread < 1e-12:  # every seed agrees to the digit: no noise to test against
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return float(2 * special.stdtr(n - 1, -abs(mean) / (spread / math.sqrt(n))))


def _bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean."""
    data = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    n, block = len(data), 100  # blocks: all draws at once would not fit for long data
    means = [data[rng.integers(0, n, (block, n))].mean(axis=1) for _ in range(_RESAMPLES // block)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def _permutation(data: tuple[np.ndarray, ...], kind: Any, seed: int) -> float:
    """p of one sample's mean being 0 (`samples`), or of two having one mean (`independent`)."""
    if min(map(len, data)) < 2:
        return 1.0  # one observation has no other arrangement that says more
    from scipy import stats

    def gap(*sides: Any, axis: int = -1) -> Any:
        means = [x.mean(axis=axis) for x in sides]
        return means[0] if len(means) == 1 else means[1] - means[0]

    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"n_resamples": _RESAMPLES, "vectorized": True, "batch": 250}
    found = stats.permutation_test(data, gap, permutation_type=kind, rng=rng, **options)
    return float(found.pvalue)


class Gap(NamedTuple):
    """A difference of means."""

    mean: float
    low: float
    """95 % interval; nan if there is nothing to compute it from."""
    high: float
    p: float
    """Two-sided; nan likewise."""
    test: str


def paired(differences: Iterable[Sequence[float]], *, yes_no: bool, seed: int = 0) -> Gap:
    """The one paired test: is the mean difference more than chance?

    | data | interval | p |
    |---|---|---|
    | several seeds | t interval over the seeds' mean differences | paired t-test over seeds |
    | one seed, yes/no | bootstrap over tasks | McNemar's exact test |
    | one seed, number | bootstrap over tasks | sign-flip permutation test |

    Args:
        differences: per seed one number per task.
        yes_no: whether what is compared is 0 or 1, so that a difference is -1, 0 or 1.
        seed: of the resampling.
    """
    groups = [group for group in differences if len(group)]
    if not groups:
        return Gap(math.nan, math.nan, math.nan, math.nan, "paired")
    means = [float(np.mean(group)) for group in groups]
    if len(means) > 1:
        return Gap(float(np.mean(means)), *t_interval(means), t_test(means), "t over seeds")
    (group,) = groups
    if yes_no:
        p, test = mcnemar(sum(d > 0 for d in group), sum(d < 0 for d in group)), "McNemar"
    else:
        p, test = _permutation((np.asarray(group),), "samples", seed), "sign flips"
    return Gap(means[0], *_bootstrap(group, seed), p, f"{test} over tasks")


def unpaired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Gap:
    """The mean of `second` minus that of `first`, measured on different tasks.

    Args:
        seed: of the resampling: a bootstrap for the interval, a permutation test for p.
    """
    a, b = (np.asarray(x, dtype=float) for x in (first, second))
    if not len(a) or not len(b):
        return Gap(math.nan, math.nan, math.nan, math.nan, "not paired")
    rng = np.random.default_rng(seed)
    draws = [[x[rng.integers(0, len(x), len(x))].mean() for x in (a, b)] for _ in range(_RESAMPLES)]
    low, high = np.quantile([y - x for x, y in draws], [0.025, 0.975])
    p = _permutation((a, b), "independent", seed)
    return Gap(float(b.mean() - a.mean()), float(low), float(high), p, "permutation")


@dataclass(frozen=True)
class Rate:
    """Share of solved tasks with its Wilson interval."""

    wins: int
    n: int
    rate: float
    """wins / n; nan if n is 0."""
    low: float
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
    """Share of solved outcomes; one that ended in an error counts as not solved.

    The interval treats tasks of one seed as independent; see `per_seed` and `sd` for the seeds.
    """
    solved = [o.solved for o in outcomes]
    rate = sum(solved) / len(solved) if solved else math.nan
    return Rate(sum(solved), len(solved), rate, *wilson(sum(solved), len(solved)))


def per_seed(outcomes: Iterable[Evaluation]) -> dict[int, Rate]:
    """The win rate of each seed."""
    return {seed: win_rate(group) for seed, group in by_seed(outcomes).items()}


def mean_reward(outcomes: Iterable[Evaluation]) -> float:
    """Mean of the seeds' mean rewards R; nan if there are no outcomes."""
    means = [np.mean([o.reward for o in group]) for group in by_seed(outcomes).values()]
    return float(np.mean(means)) if means else math.nan


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
    low: float
    high: float
    p: float
    """Two-sided: paired t-test over seeds; McNemar's exact test if there is one seed."""
    gained: int
    """Tasks of all seeds solved by a, not by b."""
    lost: int
    """Solved by b, not by a."""
    unpaired: tuple[int, ...] = ()
    """Seeds that only one of the two methods has; left out."""

    @property
    def n(self) -> int:
        """Number of seeds compared."""
        return len(self.seeds)

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds; nan below two."""
        return sd(self.differences)

    @property
    def basis(self) -> str:
        """What interval and p are over: `seeds` or, with a single seed, `tasks`."""
        return "seeds" if self.n > 1 else "tasks"

    @property
    def better(self) -> int:
        """Number of seeds in which a has the higher win rate."""
        return sum(d > 0 for d in self.differences)


class TaskKey(NamedTuple):
    """A task of a run with several seeds: ids may repeat from seed to seed."""

    seed: int
    task_id: str
    level: str


class GainedLost(NamedTuple):
    """What `other` solves that `base` does not, and the reverse."""

    gained: tuple[TaskKey, ...]
    lost: tuple[TaskKey, ...]
    both: tuple[TaskKey, ...]
    never: tuple[TaskKey, ...]
    """Solved by neither of the two."""


def paired_difference(a: Iterable[Evaluation], b: Iterable[Evaluation]) -> PairedDifference:
    """Win rate of `a` minus that of `b`, seed by seed, on the same tasks.

    Args:
        a: outcomes of one method, one iteration per seed (see `last_iteration`).
        b: likewise.

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
    groups = [
        [int(x.solved) - int(y.solved) for x, y in _matched(s, a_seeds[s], b_seeds[s])]
        for s in seeds
    ]
    found = paired(groups, yes_no=True)
    return PairedDifference(
        a=a_name,
        b=b_name,
        seeds=seeds,
        differences=tuple(float(np.mean(group)) for group in groups),
        mean=found.mean,
        low=found.low,
        high=found.high,
        p=found.p,
        gained=sum(group.count(1) for group in groups),
        lost=sum(group.count(-1) for group in groups),
        unpaired=tuple(sorted(a_seeds.keys() ^ b_seeds.keys())),
    )


def gained_lost(base: Iterable[Evaluation], other: Iterable[Evaluation]) -> GainedLost:
    """Which tasks `other` solves and `base` does not, and the reverse; over common seeds.

    Raises:
        DataError: in a common seed the two were not evaluated on the same tasks.
    """
    base_seeds, other_seeds = by_seed(base), by_seed(other)
    kinds: dict[tuple[bool, bool], list[TaskKey]] = {}
    for seed in base_seeds.keys() & other_seeds.keys():
        for old, new in _matched(seed, base_seeds[seed], other_seeds[seed]):
            key = TaskKey(seed, new.task_id, new.level)
            kinds.setdefault((old.solved, new.solved), []).append(key)
    order = ((False, True), (True, False), (True, True), (False, False))
    return GainedLost(*(tuple(sorted(kinds.get(kind, []))) for kind in order))


def _method(groups: Mapping[int, Sequence[Evaluation]]) -> str:
    names = sorted({o.method for group in groups.values() for o in group})
    if len(names) > 1:
        raise DataError(f"outcomes of several methods in one list: {names}; pass one at a time")
    return names[0] if names else "(no outcomes)"


def _matched(
    seed: int, a: Sequence[Evaluation], b: Sequence[Evaluation]
) -> list[tuple[Evaluation, Evaluation]]:
    """Pairs of outcomes on the same task, in the order of `a`."""
    left, right = ({o.task_hash: o for o in group} for group in (a, b))
    for group, table in ((a, left), (b, right)):
        if len(table) < len(group):
            seen = sorted({o.iteration for o in group})
            raise DataError(
                f"{group[0].method}, seed {seed}: {len(group)} outcomes on {len(table)} tasks "
                f"(iterations {seen}); pass one iteration, see last_iteration()"
            )
    if left.keys() != right.keys():
        only_a, only_b = len(left.keys() - right.keys()), len(right.keys() - left.keys())
        raise DataError(
            f"seed {seed}: {a[0].method} and {b[0].method} were not evaluated on the same tasks "
            f"({only_a} only in the first, {only_b} only in the second, by task_hash); evaluate "
            "both on the same task file"
        )
    return [(o, right[h]) for h, o in left.items()]
