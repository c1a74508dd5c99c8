"""Win rates, rewards, intervals, and two methods on the same tasks.

Import `win_rate`, `paired_difference` and `gained_lost` from here; `paired` and `unpaired` are the
tests for any other measure; `sample` and `caution` say in words what they rest on. Every function
is pure.

All intervals are 95 % and two-sided, all p-values two-sided. The unit is the seed: tasks of one
seed share one trained student and are not independent evidence about a method. So intervals come
from a bootstrap over seeds, then over the tasks inside each, and p from flipping the signs of the
seeds' differences. Where there is one seed, or none (recorded trajectories), both are over tasks:
Wilson's interval of a rate, McNemar's exact test of a pair. That says nothing about other seeds.
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
_EXACT = 2**16
"""Arrangements of seeds up to which all are tried: the signs of 16 seeds."""
FEW_SEEDS = 6
"""Below it no p-value over seeds can reach 0.05."""


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


def sample(seeds: int, n: int) -> str:
    """What n outcomes are: `3 seeds x 150 tasks`; `3 seeds, 448 tasks`; `150 tasks of one seed`."""
    if seeds < 2:
        return f"{n} tasks of one seed"
    return f"{seeds} seeds, {n} tasks" if n % seeds else f"{seeds} seeds x {n // seeds} tasks"


def caution(seeds: int) -> str:
    """What so few seeds cannot show; empty from `FEW_SEEDS` on."""
    if seeds < 2:
        return "one seed: nothing is known of how other training seeds differ"
    least = f"{seeds} seeds: a preview; their p cannot be below {2 / 2**seeds:.2g}"
    return least if seeds < FEW_SEEDS else ""


def _draws(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Bootstrapped means: as many groups drawn as there are, then values inside each of them."""

    def means(group: np.ndarray) -> np.ndarray:
        n, block = len(group), 100  # blocks: all draws at once would not fit for long data
        drawn = (group[rng.integers(0, n, (block, n))].mean(1) for _ in range(_RESAMPLES // block))
        return np.concatenate([*drawn])

    pools = [means(group) for group in groups]
    if len(pools) == 1:
        return pools[0]
    size = (5 * _RESAMPLES, len(pools))
    chosen, inside = rng.integers(0, len(pools), size), rng.integers(0, _RESAMPLES, size)
    out: np.ndarray = np.stack(pools)[chosen, inside].mean(axis=1)
    return out


def _bounds(draws: np.ndarray, units: int) -> tuple[float, float]:
    """Quantiles that cover 95 %, wider the fewer `units` were resampled.

    A plain percentile interval is too narrow for few of them: the spread lacks a factor of
    sqrt(n / (n - 1)), its shape the tails of Student's t (Hesterberg 2015, "expanded percentile").
    """
    if units < 2:
        return math.nan, math.nan
    widened = math.sqrt(units / (units - 1)) * special.stdtrit(units - 1, 0.975)
    low, high = np.quantile(draws, special.ndtr([-widened, widened]))
    return float(low), float(high)


def _interval(groups: Sequence[np.ndarray], yes_no: bool, rng: Any) -> tuple[float, float]:
    """Of the mean of the groups' means, of which each is a seed; of one group over its values."""
    first, n = float(groups[0][0]), sum(map(len, groups))
    if yes_no and all((group == first).all() for group in groups):
        # nothing varies, so that resampling sees no doubt: so many tasks may hide another outcome
        hidden = wilson(0, n)[1]
        return max(-1.0, first - hidden), min(1.0, first + hidden)
    return _bounds(_draws(groups, rng), len(groups) if len(groups) > 1 else n)


def _permutation(data: tuple[Any, ...], kind: Any, most: int, rng: np.random.Generator) -> float:
    """p of one sample's mean being 0 (`samples`), or of two having one mean (`independent`).

    All arrangements are tried if there are at most `most`, else so many random ones.
    """
    if min(map(len, data)) < 2:
        return 1.0  # one observation has no other arrangement that says more
    from scipy import stats

    def gap(*sides: Any, axis: int = -1) -> Any:
        means = [x.mean(axis=axis) for x in sides]
        return means[0] if len(means) == 1 else means[1] - means[0]

    options: dict[str, Any] = {"n_resamples": most, "vectorized": True, "batch": 250}
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

    | data | interval: a bootstrap over | p |
    |---|---|---|
    | several seeds | seeds, then tasks | sign flips over seeds, all of them up to 16 seeds |
    | one seed, yes/no | tasks | McNemar's exact test |
    | one seed, number | tasks | sign flips over tasks |

    Args:
        differences: per seed one number per task.
        yes_no: whether what is compared is 0 or 1, so that a difference is -1, 0 or 1.
        seed: of the resampling.
    """
    groups = [np.asarray(group, dtype=float) for group in differences if len(group)]
    if not groups:
        return Gap(math.nan, math.nan, math.nan, math.nan, "paired")
    rng = np.random.default_rng(seed)
    means = np.array([group.mean() for group in groups])
    interval = _interval(groups, yes_no, rng)
    if len(groups) > 1:
        p, test = _permutation((means,), "samples", _EXACT, rng), "sign flips over seeds"
    elif yes_no:
        p = mcnemar(int((groups[0] > 0).sum()), int((groups[0] < 0).sum()))
        test = "McNemar over tasks"
    else:
        p, test = _permutation((groups[0],), "samples", _RESAMPLES, rng), "sign flips over tasks"
    return Gap(float(means.mean()), *interval, p, test)


def unpaired(
    first: Iterable[Sequence[float]], second: Iterable[Sequence[float]], *, seed: int = 0
) -> Gap:
    """The mean of `second` minus that of `first`, measured on different tasks.

    With several seeds on both sides over seeds, else over tasks: a bootstrap for the interval, a
    permutation test for p.

    Args:
        first, second: per seed one number per task.
        seed: of the resampling.
    """
    sides = [[np.asarray(g, dtype=float) for g in groups if len(g)] for groups in (first, second)]
    if not all(sides):
        return Gap(math.nan, math.nan, math.nan, math.nan, "not paired")
    rng = np.random.default_rng(seed)
    if over_seeds := min(map(len, sides)) > 1:
        a, b = (np.array([g.mean() for g in groups]) for groups in sides)
    else:
        a, b = map(np.concatenate, sides)
        sides = [[a], [b]]
    low, high = _bounds(_draws(sides[1], rng) - _draws(sides[0], rng), min(len(a), len(b)))
    p = _permutation((a, b), "independent", _EXACT if over_seeds else _RESAMPLES, rng)
    test = f"permutation of {'seeds' if over_seeds else 'tasks'}"
    return Gap(float(b.mean() - a.mean()), low, high, p, test)


@dataclass(frozen=True)
class Rate:
    """Share of solved tasks with its interval."""

    wins: int
    n: int
    """Tasks of all seeds."""
    rate: float
    """Mean of the seeds' shares of solved tasks; nan if n is 0."""
    low: float
    """Several seeds: a bootstrap over seeds, then tasks. One: Wilson's interval over tasks."""
    high: float
    seeds: int = 1

    @classmethod
    def of(cls, groups: Iterable[Sequence[bool]]) -> Rate:
        """Of the outcomes of each seed."""
        arrays = [np.asarray(group, dtype=float) for group in groups if len(group)]
        wins, n = int(sum(x.sum() for x in arrays)), sum(map(len, arrays))
        rate = float(np.mean([x.mean() for x in arrays])) if arrays else math.nan
        if len(arrays) < 2:
            return cls(wins, n, rate, *wilson(wins, n))
        low, high = _interval(arrays, True, np.random.default_rng(0))
        return cls(wins, n, rate, max(0.0, low), high, len(arrays))


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
    return Rate.of([o.solved for o in group] for group in by_seed(outcomes).values())


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
    """Two-sided: sign flips over seeds; McNemar's exact test over tasks if there is one seed."""
    tasks: int
    """Pairs compared, of all seeds."""
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
        tasks=sum(map(len, groups)),
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
