"""What an evaluation says: outcomes, win rates, rewards, intervals.

Owns the `Outcome` record and the statistics over lists of outcomes; every function is pure. Knows
nothing about files, models, environments or how an outcome came about.

All intervals are 95 % and two-sided, see `eeflib.intervals`. Win rates get Wilson's. Means over
seeds get Student's t interval over the per-seed values, because tasks of one seed share one trained
student and are not independent evidence about the method. Two methods are compared in
`eeflib.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eeflib.errors import DataError
from eeflib.intervals import bootstrap, t_interval, wilson
from eeflib.records import Record, Task, Trajectory

__all__ = [
    "Mean",
    "Outcome",
    "Pooled",
    "Rate",
    "by_seed",
    "last_iteration",
    "mean_reward",
    "outcomes_from",
    "pooled",
    "win_rate",
]


@dataclass(frozen=True)
class Outcome(Record):
    """How one method did on one task: one line of `evaluations.jsonl`."""

    method: str
    """Name of the method, e.g. `EEF`."""
    seed: int
    """Seed of the run the student was trained in."""
    iteration: int
    """Fine-tuning iteration of the student, 0 = behaviour cloning."""
    task_id: str
    task_hash: str
    """`Task.content_hash`: what makes two methods comparable."""
    split: str
    """`train`, `validation` or `test`."""
    level: str
    """Difficulty level of the task; empty if it has none."""
    reward: float
    """R in [0, 1]."""
    threshold: float = 1.0
    """Reward from which on the task is solved."""
    length: int = 0
    """Number of actions."""
    invalid: int = 0
    """Number of actions that parser or environment did not understand."""
    error: str = ""
    """A fault that ended the rollout; such an outcome counts as not solved."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions."""

    @property
    def solved(self) -> bool:
        """R reached the threshold; "done" is not "solved"."""
        return not self.error and self.reward >= self.threshold - 1e-9


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


def outcomes_from(
    trajectories: Iterable[Trajectory],
    tasks: Iterable[Task],
    method: str,
    seed: int,
    iteration: int,
) -> list[Outcome]:
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
            Outcome(
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


def last_iteration(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of the highest iteration of each method and seed: the reported ones."""
    outcomes = list(outcomes)
    last: dict[tuple[str, int], int] = {}
    for o in outcomes:
        last[o.method, o.seed] = max(o.iteration, last.get((o.method, o.seed), o.iteration))
    return [o for o in outcomes if o.iteration == last[o.method, o.seed]]


def by_seed(outcomes: Iterable[Outcome]) -> dict[int, list[Outcome]]:
    """Outcomes by seed, seeds ascending."""
    out: dict[int, list[Outcome]] = {}
    for o in outcomes:
        out.setdefault(o.seed, []).append(o)
    return dict(sorted(out.items()))


def win_rate(outcomes: Iterable[Outcome]) -> Rate:
    """Share of solved outcomes; one that ended in an error counts as not solved."""
    solved = [o.solved for o in outcomes]
    low, high = wilson(sum(solved), len(solved))
    rate = sum(solved) / len(solved) if solved else math.nan
    return Rate(sum(solved), len(solved), rate, low, high)


def mean_reward(outcomes: Iterable[Outcome], *, seed: int = 0) -> Mean:
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


def pooled(outcomes: Iterable[Outcome]) -> Pooled:
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
