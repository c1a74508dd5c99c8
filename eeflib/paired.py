"""Two methods on the same tasks: paired differences, tasks gained and lost.

Owns the pairing and its statistics; every function is pure. Knows nothing about files, models,
environments or how an outcome came about.

Two methods are compared seed by seed: a paired t-test over seeds, McNemar's exact test inside one
seed. Intervals are 95 % and two-sided, see `eeflib.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eeflib.errors import DataError
from eeflib.evaluate import Outcome, by_seed
from eeflib.intervals import bootstrap, mcnemar, t_interval, t_test

__all__ = [
    "GainedLost",
    "PairedDifference",
    "TaskKey",
    "WithinSeed",
    "gained_lost",
    "paired_difference",
]


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
    a: Iterable[Outcome], b: Iterable[Outcome], *, seed: int = 0
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
    mean = float(np.mean(differences))
    if len(seeds) == 1:
        sd, low, high = math.nan, within[0].low, within[0].high
        p, basis = within[0].p, "tasks"
    else:
        sd = float(np.std(differences, ddof=1))
        low, high = t_interval(differences)
        p, basis = t_test(differences), "seeds"
    return PairedDifference(
        a=a_name,
        b=b_name,
        seeds=seeds,
        differences=differences,
        mean=mean,
        sd=sd,
        low=low,
        high=high,
        p=p,
        basis=basis,
        better=sum(d > 0 for d in differences),
        within=within,
        unpaired=tuple(sorted(a_seeds.keys() ^ b_seeds.keys())),
    )


def gained_lost(base: Iterable[Outcome], other: Iterable[Outcome]) -> GainedLost:
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


def _method(groups: Mapping[int, Sequence[Outcome]]) -> str:
    names = sorted({o.method for group in groups.values() for o in group})
    if len(names) > 1:
        raise DataError(f"outcomes of several methods in one list: {names}; pass one at a time")
    return names[0] if names else "(no outcomes)"


def _matched(
    seed: int, a: Sequence[Outcome], b: Sequence[Outcome]
) -> list[tuple[Outcome, Outcome]]:
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


def _within(seed: int, a: Sequence[Outcome], b: Sequence[Outcome], rng_seed: int) -> WithinSeed:
    pairs = _matched(seed, a, b)
    differences = [int(x.solved) - int(y.solved) for x, y in pairs]
    gained, lost = differences.count(1), differences.count(-1)
    low, high = bootstrap(differences, rng_seed)
    return WithinSeed(
        seed=seed,
        n=len(pairs),
        gained=gained,
        lost=lost,
        difference=(gained - lost) / len(pairs),
        low=low,
        high=high,
        p=mcnemar(gained, lost),
    )
