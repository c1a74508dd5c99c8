"""A run as DataFrames: tasks, trajectories, steps, branches, states, samples, evaluations.

Import `load`: it reads a run once and keeps what was asked for. `COLUMNS` documents every column.
An empty run gives empty frames with the same columns.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from eeflib.analysis import frames_read as rows
from eeflib.analysis.frames_read import COLUMNS, Table
from eeflib.analysis.run import TEACHER, Place, Run
from eeflib.analysis.taxonomy_rules import action_kind
from eeflib.records import Evaluation, content_hash, solved
from eeflib.states import state_names
from eeflib.stats import wilson

__all__ = [
    "COLUMNS",
    "Frames",
    "Who",
    "branches",
    "episodes",
    "evaluations",
    "load",
    "samples",
    "states",
    "steps",
    "tasks",
    "trajectories",
]

_PLACE = ["seed", "method", "iteration"]


def states(branches: pd.DataFrame, trajectories: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, method, iteration, teacher trajectory, state), from the three frames.

    As `eeflib.states.state_outcomes` counts: rollouts from the same state are pooled, whichever
    trajectory they are filed under, and a rollout that a fault ended is no try. A state that was
    explored only from other trajectories of the task has k = -1.
    States between 0 and the last one explored that have no branch at all are `untried`.
    """
    known = trajectories[["seed", "trajectory_id", "task_id", "level", "solved", "length"]]
    known = known.rename(columns={"solved": "teacher_solved"})
    starts = known[["seed", "trajectory_id", "task_id"]].assign(t=0)
    starts["state"] = starts["task_id"] + "@0"  # also of a trajectory that has no step
    passed = pd.concat(
        [starts, steps.loc[steps["t"] > 0, [*starts.columns]]], ignore_index=True
    ).drop(columns="task_id")
    filed = branches.assign(counted=branches["restored"] & (branches["fault"] == ""))
    initial = filed[filed["t"] == 0].assign(k=0)
    initial = initial.assign(state=initial["task_id"] + "@0")
    later = filed[filed["t"] > 0].merge(passed, on=["seed", "trajectory_id", "t"])
    numbers = later.groupby([*_PLACE, "trajectory_id", "t"], as_index=False)["k"].min()
    counts = (
        pd.concat([initial, later], ignore_index=True)
        .groupby([*_PLACE, "state"], as_index=False)
        .agg(n=("counted", "sum"), wins=("won", "sum"), restored=("restored", "any"))
    )
    rows = counts.merge(passed, on=["seed", "state"]).merge(known, on=["seed", "trajectory_id"])
    rows = rows.merge(numbers, on=[*_PLACE, "trajectory_id", "t"], how="left")
    rows["k"] = rows["k"].fillna(-1).astype("int64").where(rows["t"] > 0, 0)
    rows["status"] = [
        "tried" if n else "faulted" if restored else "unrestorable"
        for n, restored in zip(rows["n"], rows["restored"], strict=True)
    ]
    rows = pd.concat([rows, _untried(rows, known)], ignore_index=True)
    pairs = list(zip(rows["wins"].astype(int), rows["n"].astype(int), strict=True))
    bounds = {pair: wilson(*pair) for pair in set(pairs)}
    rows["p"] = rows["wins"].astype("float64") / rows["n"].astype("float64").where(rows["n"] > 0)
    rows["low"] = [bounds[pair][0] for pair in pairs]
    rows["high"] = [bounds[pair][1] for pair in pairs]
    types = {column: dtype for column, (dtype, _) in COLUMNS["states"].items()}
    out = rows[list(types)].astype(types)
    return out.sort_values([*_PLACE, "task_id", "trajectory_id", "k", "t"], ignore_index=True)


def _untried(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    key = [*_PLACE, "trajectory_id"]
    rows = rows[rows["k"] >= 0]
    counts = rows.groupby(key)["k"].agg(["max", "nunique"])
    gaps = counts.index[counts["nunique"] <= counts["max"]]
    if gaps.empty:
        return rows.iloc[:0]
    some = rows.set_index(key).loc[gaps, "k"]
    missing = [
        {**dict(zip(key, group, strict=True)), "k": k}
        for group, ks in some.groupby(level=key)
        for k in range(max(ks))
        if k not in set(ks)
    ]
    frame = pd.DataFrame(missing, columns=[*key, "k"])
    frame = frame.assign(n=0, wins=0, t=-1, state="", status="untried")
    return frame.merge(known, on=["seed", "trajectory_id"])


Who = Literal["teacher", "students", "all"]
"""Whose episodes: the teacher's recorded trajectories, the students' test episodes, or both."""

_kind = lru_cache(maxsize=100_000)(action_kind)


def load(run: Run | str | Path) -> Frames:
    """The frames of a run; nothing is read before it is asked for.

    Raises:
        DataError: there is no such folder.
    """
    return Frames(run if isinstance(run, Run) else Run(run))


class Frames:
    """The frames of one run, each read once; `run.problems` says what could not be read."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def tasks(self) -> pd.DataFrame:
        return self._tasks[0]

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """The teacher's."""
        return self._taught[0]

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Of the teacher's trajectories."""
        return self._taught[1]

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """The students' test episodes; columns as `trajectories`."""
        return self._tested[0]

    @cached_property
    def rollout_steps(self) -> pd.DataFrame:
        """Of the students' test episodes; columns as `steps`."""
        return self._tested[1]

    @cached_property
    def branches(self) -> pd.DataFrame:
        return branches(self.run)

    @cached_property
    def states(self) -> pd.DataFrame:
        """Of every method and iteration that explored, see `tables.pick_iteration`."""
        return states(self.branches, self.trajectories, self.steps)

    @cached_property
    def samples(self) -> pd.DataFrame:
        return samples(self.run)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        return evaluations(self.run.outcomes)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Why the teacher's failed trajectories failed, see `eeflib.analysis.taxonomy`."""
        return self._failures("teacher")

    @cached_property
    def _tasks(self) -> tuple[pd.DataFrame, _Known]:
        return _read_tasks(self.run)

    @cached_property
    def _taught(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _read_episodes(self.run, "teacher", self._tasks[1])

    @cached_property
    def _tested(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _read_episodes(self.run, "students", self._tasks[1])

    def _failures(self, who: Who) -> pd.DataFrame:
        from eeflib.analysis import taxonomy

        return taxonomy.failures(
            taxonomy.Case(place.seed, place.method, place.iteration, episode, task)
            for place, episode in episodes(self.run, who)
            if not _solved(episode)
            for task in [self.run.task(place.seed, episode.task_id)]
        )


def tasks(run: Run) -> pd.DataFrame:
    """One row per task and seed."""
    return _read_tasks(run)[0]


def trajectories(run: Run, who: Who = "teacher") -> pd.DataFrame:
    """One row per trajectory: the teacher's, the students' test episodes, or both."""
    known = _read_tasks(run)[1]
    return _read_episodes(run, who, known, steps=False)[0]


def steps(run: Run, who: Who = "teacher") -> pd.DataFrame:
    """One row per action of a trajectory."""
    return _read_episodes(run, who, {})[1]


def branches(run: Run) -> pd.DataFrame:
    """One row per exploration rollout, or per state that could not be restored."""
    table = Table("branches")
    for place, b in rows.read(run, "branches.jsonl", rows.BRANCHES):
        r = b.rollout
        own = r.steps if r else ()
        iteration = place.iteration if place.iteration >= 0 else b.iteration
        table.add(
            (
                *place[:2],
                iteration,
                b.id,
                b.task_id,
                b.teacher_id,
                b.k,
                b.t,
                b.attempt,
                r is not None,
                b.restore_mismatch,
                r.error if r else "",
                r is not None and _solved(r),
                r.reward if r else None,
                len(own),
                sum(not s.valid for s in own),
                *_usage(own),
            )
        )
    return table.frame()


def samples(run: Run) -> pd.DataFrame:
    """One row per training sequence."""
    table = Table("samples")
    for place, s in rows.read(run, "samples.jsonl", rows.SAMPLES):
        trained = [step for step, on in zip(s.steps, s.trained, strict=True) if on]
        table.add(
            (
                *place[:2],
                max(place.iteration, 0),
                s.id,
                s.task_id,
                s.kind,
                s.source,
                s.start,
                len(s.steps),
                len(trained),
                sum(step.actor == "teacher" for step in trained),
                "|".join(_kind(x.action, s.env, x.valid) for x in trained),
            )
        )
    return table.frame()


def evaluations(outcomes: Iterable[Evaluation]) -> pd.DataFrame:
    """One row per outcome."""
    table = Table("evaluations")
    for o in outcomes:
        table.add(tuple(getattr(o, name) for name in COLUMNS["evaluations"]))
    return table.frame()


class _About(NamedTuple):
    """What a trajectory's row repeats of its task."""

    level: str = ""
    task_type: str = ""
    split: str = ""


_Known = dict[tuple[int, str], _About]


def _read_tasks(run: Run) -> tuple[pd.DataFrame, _Known]:
    table, known = Table("tasks"), {}
    for place, t in rows.read(run, "tasks.jsonl", rows.TASKS, resolve=False):
        if place.method:
            continue
        about = _About(_note(t, "level"), _note(t, "task_type"), t.split)
        known[place.seed, t.id] = about
        what = content_hash([t.env, t.instruction, t.goal, t.settings, t.seed])
        named = (place.seed, t.id, what, t.env, t.instruction, t.split)
        table.add((*named, about.level, about.task_type, t.threshold))
    return table.frame(), known


def _note(task: Any, name: str) -> str:
    """A task's key that is no field of it: beside the fields in a row, in `extra` in a record."""
    value = getattr(task, name, None)
    value = task.extra.get(name) if value is None else value
    return "" if value is None else str(value)


def episodes(run: Run, who: Who = "all") -> Iterator[tuple[Place, Any]]:
    """The episodes as rows with the attributes of a `Trajectory`, streamed."""
    if who != "students":
        for place, row in rows.read(run, "trajectories.jsonl", rows.EPISODES, resolve=False):
            if not place.method:  # a method's folder may hold rollouts of its own
                yield Place(place.seed, TEACHER, 0), row
    if who != "teacher":
        for place, row in rows.read(run, "test_rollouts.jsonl", rows.EPISODES):
            yield place._replace(iteration=max(place.iteration, 0)), row


def _read_episodes(
    run: Run, who: Who, known: _Known, *, steps: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    table, moves = Table("trajectories"), Table("steps")
    nothing = _About()
    passed: dict[int, dict[tuple[str, ...], str]] = defaultdict(dict)
    for (seed, method, iteration), e in episodes(run, who):
        about = known.get((seed, e.task_id), nothing)
        table.add(
            (
                seed,
                e.id,
                e.task_id,
                method,
                iteration,
                e.env,
                *about,
                e.policy,
                e.reward,
                _solved(e),
                len(e.steps),
                sum(not s.valid for s in e.steps),
                e.terminated,
                e.truncated,
                e.error,
                *_usage(e.steps),
            )
        )
        if not steps:
            continue
        names = state_names(e, passed[seed]) if method == TEACHER else itertools.repeat("")
        for t, (s, state) in enumerate(zip(e.steps, names, strict=False)):
            kind = _kind(s.action, e.env, s.valid)
            named = (seed, e.id, e.task_id, method, iteration, t, s.actor, kind, s.action)
            seen = (s.thought, s.observation, state)
            moves.add((*named, *seen, s.valid, s.reason, s.reward, s.score))
    return table.frame(), moves.frame()


def _solved(episode: Any) -> bool:
    """As `Trajectory.solved`, also for a row."""
    return solved(episode.reward, episode.threshold, episode.error)


def _usage(steps: Sequence[Any]) -> tuple[int, int, float | None]:
    used = [s.usage for s in steps if s.usage is not None]
    known = [u.cost_usd for u in used if u.cost_usd is not None]
    read, written = sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used)
    return read, written, sum(known) if known else None
