"""A run as DataFrames: tasks, trajectories, steps, branches, states, samples, evaluations.

Import `load`: it reads a run once and keeps what was asked for. `COLUMNS` documents every column.
An empty run gives empty frames with the same columns.

`seed` with `task_id`, `trajectory_id`, `branch_id` or `sample_id` names a row (branches and
samples: with `method` and `iteration` too); ids alone repeat from seed to seed.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from eeflib.analysis.run import TEACHER, Run, Who
from eeflib.analysis.taxonomy import action_kind
from eeflib.records import Evaluation, Step, Task
from eeflib.states import state_names
from eeflib.stats import wilson

__all__ = [
    "COLUMNS",
    "Frames",
    "Who",
    "branches",
    "evaluations",
    "load",
    "samples",
    "states",
    "steps",
    "tasks",
    "trajectories",
]

_PLACE = ["seed", "method", "iteration"]
_CHUNK = 20_000
"""Rows turned into columns at a time: fewer Python objects are alive at once."""

_WHERE = {
    "seed": ("int64", "seed of the run"),
    "method": ("str", "method that explored or trained"),
    "iteration": ("int64", "fine-tuning iteration, from 1; 0 = before any"),
}

COLUMNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "tasks": {
        "seed": ("int64", "seed of the run"),
        "task_id": ("str", "id within the seed"),
        "task_hash": ("str", "content hash: equal hash, equal task"),
        "env": ("str", "environment"),
        "instruction": ("str", "what the agent is asked to do"),
        "split": ("str", "train, validation or test"),
        "level": ("str", "difficulty level; empty if the task has none"),
        "task_type": ("str", "kind of task; empty if the task has none"),
        "threshold": ("float64", "reward from which on it is solved"),
    },
    "trajectories": {
        "seed": ("int64", "seed of the run"),
        "trajectory_id": ("str", "id within the seed"),
        "task_id": ("str", "joins tasks"),
        "method": ("str", "`teacher`, or the method whose student acted"),
        "iteration": ("int64", "of the student; 0 for the teacher"),
        "env": ("str", "environment"),
        "level": ("str", "of the task"),
        "task_type": ("str", "of the task"),
        "split": ("str", "of the task"),
        "policy": ("str", "name of the policy that acted"),
        "reward": ("float64", "R in [0, 1]"),
        "solved": ("bool", "R reached the threshold"),
        "length": ("int64", "T, number of actions"),
        "invalid": ("int64", "actions not understood"),
        "terminated": ("bool", "the environment ended it"),
        "truncated": ("bool", "a limit ended it"),
        "error": ("str", "fault that ended it; empty if none"),
        "prompt_tokens": ("int64", "tokens read"),
        "completion_tokens": ("int64", "tokens written"),
        "cost_usd": ("float64", "dollars; nan if unknown"),
    },
    "steps": {
        "seed": ("int64", "seed of the run"),
        "trajectory_id": ("str", "joins trajectories"),
        "task_id": ("str", "joins tasks"),
        "method": ("str", "of the trajectory"),
        "iteration": ("int64", "of the trajectory"),
        "t": ("int64", "index of the action, from 0"),
        "actor": ("str", "teacher, student or human"),
        "kind": ("str", "kind of action, see eeflib.analysis.taxonomy"),
        "action": ("str", "action handed to the environment"),
        "thought": ("str", "reasoning before it"),
        "observation": ("str", "text of s_t"),
        "state": ("str", "name of s_t, the same on all the teacher's trajectories through it"),
        "valid": ("bool", "understood by parser and environment"),
        "reason": ("str", "why not valid"),
        "reward": ("float64", "reward of this step"),
        "score": ("float64", "running score; nan where there is none"),
    },
    "branches": {
        **_WHERE,
        "branch_id": ("str", "id within seed, method and iteration"),
        "task_id": ("str", "joins tasks"),
        "trajectory_id": ("str", "teacher trajectory of the state; nan for s0"),
        "k": ("int64", "0 for s0, else the expert state's number"),
        "t": ("int64", "teacher actions before the state"),
        "attempt": ("int64", "rollout number at this state, from 0"),
        "restored": ("bool", "the state was restored and verified"),
        "mismatch": ("str", "why it was not"),
        "fault": ("str", "fault of provider or environment that ended it; empty if none"),
        "won": ("bool", "the student solved the task from here"),
        "reward": ("float64", "R of the rollout; nan if not restored"),
        "length": ("int64", "the student's own actions"),
        "invalid": ("int64", "of them not understood"),
        "prompt_tokens": ("int64", "tokens read"),
        "completion_tokens": ("int64", "tokens written"),
        "cost_usd": ("float64", "dollars; nan if unknown"),
    },
    "states": {
        **_WHERE,
        "trajectory_id": ("str", "joins trajectories"),
        "task_id": ("str", "joins tasks"),
        "level": ("str", "of the task"),
        "teacher_solved": ("bool", "whether the teacher's trajectory succeeded"),
        "length": ("int64", "T of the teacher's trajectory"),
        "k": ("int64", "0 for s0, else the expert state's number; -1: explored from others only"),
        "t": ("int64", "teacher actions before the state; -1 if untried"),
        "state": ("str", "joins steps; empty if untried"),
        "n": ("int64", "student rollouts from here that no fault ended"),
        "wins": ("int64", "of them solved"),
        "p": ("float64", "wins / n; nan if n is 0"),
        "low": ("float64", "Wilson interval of p"),
        "high": ("float64", "Wilson interval of p"),
        "status": ("str", "tried, unrestorable, faulted or untried"),
    },
    "samples": {
        **_WHERE,
        "sample_id": ("str", "id within seed, method and iteration"),
        "task_id": ("str", "joins tasks"),
        "kind": ("str", "positive, s0, recovery or all"),
        "source": ("str", "id of the branch or trajectory it came from"),
        "start": ("int64", "index of the important state"),
        "length": ("int64", "actions in the sequence"),
        "trained": ("int64", "of them trained"),
        "trained_teacher": ("int64", "of the trained ones, the teacher's"),
        "trained_kinds": ("str", "kinds of the trained actions in order, joined by |"),
    },
    "evaluations": {
        **_WHERE,
        "task_id": ("str", "joins tasks"),
        "task_hash": ("str", "content hash of the task"),
        "split": ("str", "of the task"),
        "level": ("str", "of the task"),
        "reward": ("float64", "R in [0, 1]"),
        "solved": ("bool", "R reached the threshold, no error"),
        "length": ("int64", "actions"),
        "invalid": ("int64", "of them not understood"),
        "error": ("str", "fault that ended it; empty if none"),
    },
    "failures": {
        "seed": ("int64", "seed of the run"),
        "trajectory_id": ("str", "joins trajectories"),
        "task_id": ("str", "joins tasks"),
        "method": ("str", "of the trajectory"),
        "iteration": ("int64", "of the trajectory"),
        "env": ("str", "environment"),
        "level": ("str", "of the task"),
        "task_type": ("str", "of the task"),
        "kind": ("str", "kind of failure, see eeflib.analysis.taxonomy"),
        "primary": ("bool", "the one the failure is counted as; exactly one per trajectory"),
        "rule": ("str", "name of the rule that assigned it"),
        "t": ("int64", "step that shows it; T for the end"),
        "text": ("str", "what was seen or done there"),
    },
}
"""Frame -> column -> (dtype, meaning)."""


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
        return tasks(self.run)

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
        from eeflib.analysis import taxonomy

        return taxonomy.failures(
            taxonomy.Case(*place, episode, self.run.task(place.seed, episode.task_id))
            for place, episode in self.run.episodes("teacher")
            if not episode.solved
        )

    @cached_property
    def _taught(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _episodes(self.run, "teacher")

    @cached_property
    def _tested(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _episodes(self.run, "students")


def tasks(run: Run) -> pd.DataFrame:
    """One row per task and seed."""
    rows = (
        (
            seed,
            t.id,
            t.content_hash,
            t.env,
            t.instruction,
            t.split,
            *_level_and_type(t),
            t.threshold,
        )
        for seed, group in run.tasks.items()
        for t in group
    )
    return _frame("tasks", rows)


def trajectories(run: Run, who: Who = "teacher") -> pd.DataFrame:
    """One row per trajectory: the teacher's, the students' test episodes, or both."""
    return _episodes(run, who)[0]


def steps(run: Run, who: Who = "teacher") -> pd.DataFrame:
    """One row per action of a trajectory."""
    return _episodes(run, who)[1]


def branches(run: Run) -> pd.DataFrame:
    """One row per exploration rollout, or per state that could not be restored."""

    def rows() -> Iterator[Sequence[Any]]:
        for place, b in run.branches():
            r = b.rollout
            own = r.steps if r else ()
            state = (b.id, b.task_id, b.teacher_id, b.k, b.t, b.attempt)
            result = (b.restored, b.restore_mismatch, r.error if r else "", b.won)
            yield (*place, *state, *result, r.reward if r else None, *_counts(own), *_usage(own))

    return _frame("branches", rows())


def samples(run: Run) -> pd.DataFrame:
    """One row per training sequence."""

    def rows() -> Iterator[Sequence[Any]]:
        for place, s in run.samples():
            trained = [step for step, on in zip(s.steps, s.trained, strict=True) if on]
            taught = sum(step.actor == "teacher" for step in trained)
            kinds = "|".join(_kind(x.action, s.env, x.valid) for x in trained)
            named = (*place, s.id, s.task_id, s.kind, s.source, s.start)
            yield (*named, len(s.steps), len(trained), taught, kinds)

    return _frame("samples", rows())


def evaluations(outcomes: Iterable[Evaluation]) -> pd.DataFrame:
    """One row per outcome."""
    names = list(COLUMNS["evaluations"])
    return _frame("evaluations", ([getattr(o, name) for name in names] for o in outcomes))


def _episodes(run: Run, who: Who) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trajectories and their steps, read together."""
    known: list[Sequence[Any]] = []
    passed: dict[int, dict[tuple[str, int], str]] = defaultdict(dict)

    def rows() -> Iterator[Sequence[Any]]:
        for place, e in run.episodes(who):
            seed, method, iteration = place
            task = run.task(seed, e.task_id)
            about = (e.env, *_level_and_type(task), task.split if task else "", e.policy)
            ended = (e.terminated, e.truncated, e.error)
            named = (seed, e.id, e.task_id, method, iteration)
            result = (e.reward, e.solved, *_counts(e.steps))
            known.append((*named, *about, *result, *ended, *_usage(e.steps)))
            names = state_names(e, passed[seed]) if method == TEACHER else itertools.repeat("")
            for t, (s, state) in enumerate(zip(e.steps, names, strict=False)):
                kind = _kind(s.action, e.env, s.valid)
                seen = (s.thought, s.observation, state)
                outcome = (s.valid, s.reason, s.reward, s.score)
                yield (*named, t, s.actor, kind, s.action, *seen, *outcome)

    moves = _frame("steps", rows())
    return _frame("trajectories", known), moves


def _frame(name: str, rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A frame of `COLUMNS` from rows with a value per column."""
    types: dict[str, Any] = {column: dtype for column, (dtype, _) in COLUMNS[name].items()}
    rows = iter(rows)
    parts: list[pd.DataFrame] = []
    while (chunk := list(itertools.islice(rows, _CHUNK))) or not parts:
        columns = zip(*chunk, strict=True) if chunk else [()] * len(types)
        # Lists, not tuples: pandas turns a tuple of strings into an array of the longest's width.
        named = zip(types.items(), columns, strict=True)
        parts.append(pd.DataFrame({c: pd.array(list(values), dtype=d) for (c, d), values in named}))
    return pd.concat(parts, ignore_index=True)


_kind = lru_cache(maxsize=100_000)(action_kind)


def _level_and_type(task: Task | None) -> tuple[str, str]:
    """Level and type, empty if it has none."""
    notes = [task.extra.get(name) if task else None for name in ("level", "task_type")]
    level, task_type = ("" if note is None else str(note) for note in notes)
    return level, task_type


def _counts(steps: Sequence[Step]) -> tuple[int, int]:
    """Actions, and those that were not understood."""
    return len(steps), sum(not s.valid for s in steps)


def _usage(steps: Sequence[Step]) -> tuple[int, int, float | None]:
    """Tokens read and written, and dollars; None if unknown."""
    used = [s.usage for s in steps if s.usage is not None]
    known = [u.cost_usd for u in used if u.cost_usd is not None]
    read, written = sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used)
    return read, written, sum(known) if known else None


def states(branches: pd.DataFrame, trajectories: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, method, iteration, teacher trajectory, state), from the three frames.

    As `eeflib.states.state_outcomes` counts: rollouts from the same state are pooled, whichever
    trajectory they are filed under, and a rollout that a fault ended is no try. A state that was
    explored only from other trajectories of the task has k = -1.
    States between 0 and the last one explored that have no branch at all are `untried`.
    """
    known = trajectories[["seed", "trajectory_id", "task_id", "level", "solved", "length"]]
    known = known.rename(columns={"solved": "teacher_solved"})
    starts = known[["seed", "trajectory_id"]].assign(t=0, state=known["task_id"] + "@0")
    # A state has the same task and t on every trajectory through it.
    near = steps["task_id"].isin(branches["task_id"]) & steps["t"].isin(branches["t"])
    later = steps.loc[near & (steps["t"] > 0), [*starts.columns]]
    passed = pd.concat([starts, later], ignore_index=True)
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
