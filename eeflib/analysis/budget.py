"""From which states do so many simulated steps solve most new tasks? Recorded rollouts answer.

Import `plan_run`, or `plan_budget` for frames. Nothing is simulated: recorded rollouts are put into
the order in which a strategy would have run them, and cut where the budget is spent.

- **Candidates:** rollouts from s0 and from the teacher's states, of tasks that the teacher tried
  and did not solve. Rollouts that a fault ended and states that could not be restored are left out:
  they cost nothing and win nothing.
- **Newly solved:** a task that one of the rollouts before the cut solves.
- **Steps:** the student's actions. The teacher's actions that restore a state are counted apart,
  since an environment that copies its states replays none.
- **Strategies:** see `STRATEGIES`. None knows the outcome of a rollout that it has not run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from eeflib.analysis import frames, tables
from eeflib.analysis.run import Run
from eeflib.errors import DataError
from eeflib.records import episode_rng

COLUMNS: Mapping[str, tuple[str, str]] = {
    "seed": ("int64", "seed of the run"),
    "strategy": ("str", "name in `STRATEGIES`"),
    "budget": ("int64", "simulated steps that may be spent; the last rollout is played out"),
    "tasks": ("int64", "tasks that the teacher did not solve and that have a rollout"),
    "newly_solved": ("float64", "of them solved; mean over the random orders of tasks"),
    "sd": ("float64", "standard deviation of newly_solved over these orders"),
    "steps": ("float64", "steps spent (mean); fewer than the budget where the record ran out"),
    "replayed": ("float64", "the teacher's actions before the states of these rollouts (mean)"),
    "per_1000": ("float64", "1000 * newly_solved / steps; nan if no step was spent"),
}
"""Column -> (dtype, meaning)."""

_State = Sequence[Any]
"""The rollouts from a state, rows with task_id, trajectory_id, t, depth (t / T), length and won."""
_Tasks = Sequence[Sequence[_State]]
"""The states of each task, trajectory by trajectory; s0 is the first state of the first one."""


def _rounds(states: Iterable[_State]) -> list[Any]:
    """A rollout from each of the states, then a second one, ..., as often as recorded."""
    return [r for each in zip_longest(*states) for r in each if r is not None]


def _in_turn(queues: Iterable[Sequence[Any]], left: Collection[str] = ()) -> Iterator[Any]:
    """The first rollout of each queue, then the second, ...; none of tasks in `left` by then."""
    for each in zip_longest(*queues):
        yield from (r for r in each if r is not None and r.task_id not in left)


def _starts(tasks: _Tasks) -> list[list[Any]]:
    return [_rounds(s for s in own if s[0].t == 0) for own in tasks]


def _s0(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """From s0 only, the tasks in turn, solved or not: RFT's way."""
    return _in_turn(_starts(tasks))


def _s0_stop(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """As `s0`, but a task is left once it is solved: what stopping alone is worth."""
    return _in_turn(_starts(tasks), solved)


def _all(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """Every state once, task by task, then all of them again, solved or not: the paper's order."""
    return iter(_rounds(s for own in tasks for s in own))


def _equal(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """The tasks in turn, each until it is solved: s0, then always the state whose t / T is farthest
    from those tried, so that these lie evenly at any time; then the same order again."""

    def spread(own: Sequence[_State]) -> list[_State]:
        first, *later = sorted(own, key=lambda s: s[0].depth)
        tried = [first]
        while later:
            gaps = [min(abs(s[0].depth - x[0].depth) for x in tried) for s in later]
            tried.append(later.pop(gaps.index(max(gaps))))
        return tried

    return _in_turn([_rounds(spread(own)) for own in tasks], solved)


def _bisection(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """The trajectories in turn, each until its task is solved: the middle state; where that is lost
    the teacher's mistake may lie before it, so the earlier half in the same way, then the later."""

    def halves(path: Sequence[_State]) -> list[_State]:
        at = len(path) // 2
        return [path[at], *halves(path[:at]), *halves(path[at + 1 :])] if path else []

    paths = [list(p) for own in tasks for _, p in groupby(own, lambda s: s[0].trajectory_id)]
    return _in_turn([_rounds(halves(path)) for path in paths], solved)


def _entropy(tasks: _Tasks, solved: set[str], rng: np.random.Generator) -> Iterator[Any]:
    """The states with the most uncertain outcome, of tasks that are not solved.

    A single state has too few rollouts to know its win rate by. So states are pooled by depth: s0,
    and those in the same fifth of their trajectory, (i - 1) / 5 < t / T <= i / 5. The win rate of a
    pool is Beta(1 + won, 1 + lost), by the rollouts that this strategy has run. Next comes the pool
    whose mean is nearest to 1/2, where the entropy of an outcome is highest: its rollouts tell
    most, and where most are lost they are the most promising, too. A pool that was not tried has
    the mean 1/2. The seed decides among equal pools. In a pool each state comes once before any
    comes twice.
    """
    pools: dict[int, list[_State]] = defaultdict(list)
    for state in (s for own in tasks for s in own):
        pools[math.ceil(5 * state[0].depth)].append(state)
    queues = {pool: _in_turn(pools[pool], solved) for pool in sorted(pools)}
    counts = {pool: [1, 1] for pool in queues}  # lost and won, with the prior's one of each
    while queues:
        means = {pool: won / (lost + won) for pool, (lost, won) in counts.items()}
        pool = min(queues, key=lambda p: (abs(means[p] - 0.5), rng.random()))
        if (rollout := next(queues[pool], None)) is None:  # none is left of an unsolved task
            del queues[pool]
            continue
        counts[pool][rollout.won] += 1
        yield rollout


Strategy = Callable[[_Tasks, set[str], np.random.Generator], Iterator[Any]]
"""(tasks, ids of the tasks solved by then, random numbers) -> rollouts in the order of running."""

STRATEGIES: Mapping[str, Strategy] = {
    "s0": _s0, "s0-stop": _s0_stop, "all": _all, "equal": _equal, "bisection": _bisection,
    "entropy": _entropy,
}  # fmt: skip
"""Name -> strategy; the docstring of each says its rule."""


def plan_budget(
    branches: pd.DataFrame,
    trajectories: pd.DataFrame,
    budgets: Iterable[int],
    *,
    strategies: Iterable[str] = tuple(STRATEGIES),
    orders: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """What each strategy would have newly solved with each budget, seed by seed of the run.

    Args:
        branches: rows of `frames.branches`, of one student in each seed; an id is counted once.
        trajectories: the teacher's, `frames.trajectories`. Tasks without a known reward are left
            out.
        budgets: simulated steps.
        strategies: names in `STRATEGIES`.
        orders: random orders of the tasks, and of the rollouts of each state, that are averaged;
            all strategies and budgets get the same ones.
        seed: of these orders and of ties. The same arguments give the same frame.

    Returns:
        The columns of `COLUMNS`, budgets ascending; no row for a seed without candidates.

    Raises:
        DataError: an unknown strategy; a budget, or `orders`, that is no whole number above 0.
    """
    names, limits = list(dict.fromkeys(strategies)), list(budgets)
    if unknown := [name for name in names if name not in STRATEGIES]:
        raise DataError(f"unknown strategy {unknown[0]!r}; choose from {', '.join(STRATEGIES)}")
    if wrong := [n for n in (*limits, orders) if not isinstance(n, Integral) or n < 1]:
        raise DataError(f"budgets and orders must be whole numbers above 0, not {wrong[0]!r}")
    limits, rows = sorted(set(limits)), []
    for of_seed, tasks in _candidates(branches, trajectories) if limits else ():
        courses: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for order in range(orders):
            rng = episode_rng(seed, order)
            mixed = [
                [[state[j] for j in rng.permutation(len(state))] for state in tasks[i]]
                for i in rng.permutation(len(tasks))
            ]
            for name in names:
                solved = set[str]()
                picks = STRATEGIES[name](mixed, solved, episode_rng(seed, order, name))
                courses[name].append(_cut(picks, solved, limits))
        for name in names:
            for limit, each in zip(limits, np.stack(courses[name], axis=1), strict=True):
                new, steps, replayed = each.mean(axis=0)
                rate = 1000 * new / steps if steps else math.nan
                known = (of_seed, name, limit, len(tasks))
                rows.append([*known, new, each[:, 0].std(), steps, replayed, rate])
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({column: dtype for column, (dtype, _) in COLUMNS.items()})


def plan_run(
    run: Run | str | PathLike[str], budgets: Iterable[int], **options: Any
) -> pd.DataFrame:
    """`plan_budget` for every seed of a run, with the rollouts of its first iteration.

    Those of all methods are taken together, since their student is the same there, the clone: a
    run with EEF and RFTxk has k rollouts from each s0. Steps with other arguments (METHOD~HASH) are
    left out.

    Args:
        run: the run or its folder.
        options: as for `plan_budget`.

    Raises:
        DataError: as `plan_budget`; there is no such folder.
    """
    found = frames.load(Run.of(run))
    first = (found.branches["iteration"] <= 1) & ~found.branches["method"].str.contains("~")
    return plan_budget(found.branches[first], found.trajectories, budgets, **options)


def _candidates(
    branches: pd.DataFrame, trajectories: pd.DataFrame
) -> Iterator[tuple[int, list[list[list[Any]]]]]:
    """Per seed the tasks that the teacher tried and did not solve, as `_Tasks`."""
    tried = tables.rated(trajectories).groupby(["seed", "task_id"], as_index=False)
    failed = tried.agg(solved=("solved", "any"), first=("trajectory_id", "min"))
    rows = branches[branches["restored"] & (branches["fault"] == "")]
    rows = rows.drop_duplicates(["seed", "branch_id"])
    rows = rows.merge(failed[~failed["solved"]], on=["seed", "task_id"])
    rows["trajectory_id"] = rows["trajectory_id"].fillna(rows["first"])  # s0 has none
    lengths = trajectories[["seed", "trajectory_id", "length"]].rename(columns={"length": "T"})
    rows = rows.merge(lengths, on=["seed", "trajectory_id"], how="left")
    rows["depth"] = rows["t"] / rows["T"].fillna(0).clip(lower=rows["t"] + 1)
    names = ["seed", "task_id", "trajectory_id", "t", "attempt", "branch_id"]
    ordered = rows.sort_values(names)[[*names, "depth", "length", "won"]]
    for seed, of_seed in groupby(ordered.itertuples(index=False), lambda r: r.seed):
        tasks = []
        for _, own in groupby(of_seed, lambda r: r.task_id):
            tasks.append([list(of) for _, of in groupby(own, lambda r: (r.trajectory_id, r.t))])
        yield seed, tasks


def _cut(picks: Iterable[Any], solved: set[str], limits: Sequence[int]) -> np.ndarray:
    """Tasks solved, steps, and actions replayed, up to the rollout that reaches each limit.

    `solved` grows while rollouts are taken from `picks`; that is how a strategy hears of it.
    """
    course = [(0, 0, 0)]
    for rollout in picks:
        if rollout.won:
            solved.add(rollout.task_id)
        course.append((len(solved), course[-1][1] + rollout.length, course[-1][2] + rollout.t))
        if course[-1][1] >= limits[-1]:
            break
    table = np.array(course, dtype=float)
    reached = np.searchsorted(table[:, 1], limits)
    return table[np.minimum(reached, len(table) - 1)]
