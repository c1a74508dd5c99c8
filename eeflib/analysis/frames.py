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

from eeflib.analysis.rules import NOT_KNOWN, Usual, usual
from eeflib.analysis.run import TEACHER, Run, Who
from eeflib.analysis.taxonomy import action_kind
from eeflib.records import Evaluation, Step, Task
from eeflib.states import state_names
from eeflib.stats import wilson

_PLACE = ["seed", "method", "iteration"]
_NAMED = ["seed", "trajectory_id", "task_id", "method", "iteration"]
_CHUNK = 20_000
"""Rows turned into columns at a time: fewer Python objects are alive at once."""

_COMMON = {
    "seed": ("int64", "seed of the run"),
    "task_id": ("str", "joins tasks"),
    "trajectory_id": ("str", "joins trajectories"),
    "method": ("str", "method that explored or trained"),
    "iteration": ("int64", "fine-tuning iteration, from 1; 0 = before any"),
    "env": ("str", "environment"),
    "level": ("str", "difficulty level of the task; empty if it has none"),
    "task_type": ("str", "kind of task; empty if it has none"),
    "split": ("str", "of the task: train, validation or test"),
    "task_hash": ("str", "content hash of the task: equal hash, equal task"),
    "reward": ("float64", "R in [0, 1]; nan if there is none: neither solved nor failed"),
    "solved": ("bool", "R reached the threshold, no error"),
    "length": ("int64", "number of actions"),
    "invalid": ("int64", "actions not understood"),
    "error": ("str", "fault that ended it; empty if none"),
    "prompt_tokens": ("int64", "tokens read"),
    "completion_tokens": ("int64", "tokens written"),
    "cost_usd": ("float64", "dollars; nan if unknown"),
}


def _columns(names: str, **own: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """The columns `names` in order, those of `own` as said there, the others as everywhere."""
    return {name: own.get(name) or _COMMON[name] for name in names.split()}


COLUMNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "tasks": _columns(
        "seed task_id task_hash env instruction split level task_type threshold",
        task_id=("str", "id within the seed"),
        instruction=("str", "what the agent is asked to do"),
        threshold=("float64", "reward from which on it is solved"),
    ),
    "trajectories": _columns(
        "seed trajectory_id task_id method iteration env level task_type split policy reward "
        "solved length invalid terminated truncated error prompt_tokens completion_tokens cost_usd "
        "asked",
        trajectory_id=("str", "id within the seed"),
        asked=("str", "the instruction"),
        method=("str", "`teacher`, or the method whose student acted"),
        iteration=("int64", "of the student; 0 for the teacher"),
        policy=("str", "name of the policy that acted"),
        terminated=("bool", "the environment ended it"),
        truncated=("bool", "a limit ended it"),
    ),
    "steps": _columns(
        "seed trajectory_id task_id method iteration t actor kind action thought observation state "
        "valid reason reward score",
        t=("int64", "index of the action, from 0"),
        actor=("str", "teacher, student or human"),
        kind=("str", "kind of action, see eeflib.analysis.taxonomy"),
        action=("str", "action handed to the environment"),
        thought=("str", "reasoning before it"),
        observation=("str", "text of s_t"),
        state=("str", "name of s_t, the same on all the teacher's trajectories through it"),
        valid=("bool", "understood by parser and environment"),
        reason=("str", "why not valid"),
        reward=("float64", "reward of this step"),
        score=("float64", "running score; nan where there is none"),
    ),
    "branches": _columns(
        "seed method iteration branch_id task_id trajectory_id k t attempt restored mismatch fault "
        "won reward length invalid prompt_tokens completion_tokens cost_usd",
        branch_id=("str", "id within seed, method and iteration"),
        trajectory_id=("str", "teacher trajectory of the state; nan for s0"),
        k=("int64", "0 for s0, else the expert state's number"),
        t=("int64", "teacher actions before the state"),
        attempt=("int64", "rollout number at this state, from 0"),
        restored=("bool", "the state was restored and verified"),
        mismatch=("str", "why it was not"),
        fault=("str", "fault of provider or environment that ended it; empty if none"),
        won=("bool", "the student solved the task from here"),
        length=("int64", "the student's own actions"),
    ),
    "states": _columns(
        "seed method iteration trajectory_id task_id level teacher_solved length k t state n wins "
        "p low high status",
        teacher_solved=("bool", "whether the teacher's trajectory succeeded"),
        length=("int64", "T of the teacher's trajectory"),
        k=("int64", "0 for s0, else the expert state's number; -1: explored from others only"),
        t=("int64", "teacher actions before the state; -1 if untried"),
        state=("str", "joins steps; empty if untried"),
        n=("int64", "student rollouts from here that no fault ended"),
        wins=("int64", "of them solved"),
        p=("float64", "wins / n; nan if n is 0"),
        low=("float64", "Wilson interval of p"),
        high=("float64", "Wilson interval of p"),
        status=("str", "tried, unrestorable, faulted or untried"),
    ),
    "samples": _columns(
        "seed method iteration sample_id task_id kind source start length trained trained_teacher "
        "trained_kinds",
        sample_id=("str", "id within seed, method and iteration"),
        kind=("str", "positive, s0, recovery, expert or all; chosen or rejected of a pair"),
        source=("str", "id of the branch or trajectory it came from"),
        start=("int64", "index of the important state"),
        trained=("int64", "actions that are trained"),
        trained_teacher=("int64", "of the trained ones, the teacher's"),
        trained_kinds=("str", "kinds of the trained actions in order, joined by |"),
    ),
    "evaluations": _columns(
        "seed method iteration task_id task_hash split level reward solved length invalid error"
    ),
    "failures": _columns(
        "seed trajectory_id task_id method iteration env level task_type policy kind primary rule "
        "t text",
        policy=("str", "name of the policy that acted"),
        kind=("str", "kind of failure, see eeflib.analysis.taxonomy"),
        primary=("bool", "the one the failure is counted as; exactly one per trajectory"),
        rule=("str", "name of the rule that assigned it"),
        t=("int64", "step that shows it; T for the end"),
        text=("str", "what was seen or done there"),
    ),
}
"""Frame -> column -> (dtype, meaning)."""


def load(run: Run | str | Path) -> Frames:
    """The frames of a run; see `Frames`."""
    return Frames(run)


class Frames:
    """The frames of one run, each read once; `run.problems` says what could not be read."""

    def __init__(self, run: Run | str | Path) -> None:
        """Nothing is read before it is asked for.

        Args:
            run: the run or its folder.

        Raises:
            DataError: there is no such folder.
        """
        self.run = Run.of(run)

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row per task and seed."""
        rows = (
            (s, t.id, t.content_hash, t.env, t.instruction, t.split, *_about(t), t.threshold)
            for s, group in self.run.tasks.items()
            for t in group
        )
        return _frame("tasks", rows)

    @property
    def trajectories(self) -> pd.DataFrame:
        """One row per trajectory of the teacher."""
        return self._taught[0]

    @property
    def steps(self) -> pd.DataFrame:
        """One row per action of the teacher's trajectories."""
        return self._taught[1]

    @property
    def rollouts(self) -> pd.DataFrame:
        """The students' test episodes; columns as `trajectories`."""
        return self._tested[0]

    @property
    def rollout_steps(self) -> pd.DataFrame:
        """Of the students' test episodes; columns as `steps`."""
        return self._tested[1]

    @cached_property
    def branches(self) -> pd.DataFrame:
        """One row per exploration rollout, or per state that could not be restored."""

        def rows() -> Iterator[Sequence[Any]]:
            for place, b in self.run.branches():
                r = b.rollout
                own = r.steps if r else ()
                state = (b.id, b.task_id, b.teacher_id, b.k, b.t, b.attempt)
                result = (b.restored, b.restore_mismatch, r.error if r else "", b.won)
                reward = r.reward if r else None
                yield (*place, *state, *result, reward, *_counts(own), *_usage(own))

        return _frame("branches", rows())

    @cached_property
    def states(self) -> pd.DataFrame:
        """Of every method and iteration that explored, see `tables.pick_iteration`."""
        return states(self.branches, self.trajectories, self.steps)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per training sequence."""

        def rows() -> Iterator[Sequence[Any]]:
            for place, s in self.run.samples():
                trained = [step for step, on in zip(s.steps, s.trained, strict=True) if on]
                taught = sum(step.actor == "teacher" for step in trained)
                kinds = "|".join(_kind(x.action, s.env, x.valid) for x in trained)
                named = (*place, s.id, s.task_id, s.kind, s.source, s.start)
                yield (*named, len(s.steps), len(trained), taught, kinds)

        return _frame("samples", rows())

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        return evaluations(self.run.outcomes)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Why the teacher's failed trajectories failed, see `eeflib.analysis.taxonomy`."""
        from eeflib.analysis import taxonomy

        known = self.usual
        return taxonomy.failures(
            taxonomy.Case(
                *place, e, self.run.task(place.seed, e.task_id), known.get(e.env, NOT_KNOWN)
            )
            for place, e in self.run.episodes("teacher")
            if not e.solved
        )

    @cached_property
    def usual(self) -> dict[str, Usual]:
        """Environment -> how long the teacher's trajectories in it are."""
        lengths = self.trajectories[["env", "length", "solved", "terminated"]]
        return usual(lengths.itertuples(index=False, name=None))

    @cached_property
    def _taught(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _episodes(self.run, "teacher")

    @cached_property
    def _tested(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return _episodes(self.run, "students")


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
            about = (e.env, *_about(task), task.split if task else "", e.policy)
            ended = (e.terminated, e.truncated, e.error)
            named = (seed, e.id, e.task_id, method, iteration)
            result = (e.reward if e.rated else None, e.solved, *_counts(e.steps))
            known.append((*named, *about, *result, *ended, *_usage(e.steps), e.instruction))
            names = state_names(e, passed[seed]) if method == TEACHER else itertools.repeat("")
            for t, (s, state) in enumerate(zip(e.steps, names, strict=False)):
                kind = _kind(s.action, e.env, s.valid)
                seen = (s.thought, s.observation, state)
                yield (t, s.actor, kind, s.action, *seen, s.valid, s.reason, s.reward, s.score)

    moves = _frame("steps", rows(), len(_NAMED))
    found = _frame("trajectories", known)
    # What names a step is that of its trajectory: cheaper to repeat than to convert once a step.
    names = found.loc[found.index.repeat(found["length"]), _NAMED].reset_index(drop=True)
    return found, pd.concat([names, moves], axis=1)


def _frame(name: str, rows: Iterable[Sequence[Any]], skip: int = 0) -> pd.DataFrame:
    """A frame of `COLUMNS`, without the first `skip`, from rows with a value per column."""
    columns_of = itertools.islice(COLUMNS[name].items(), skip, None)
    types: dict[str, Any] = {column: dtype for column, (dtype, _) in columns_of}
    rows = iter(rows)
    parts: list[pd.DataFrame] = []
    while (chunk := list(itertools.islice(rows, _CHUNK))) or not parts:
        columns = zip(*chunk, strict=True) if chunk else [()] * len(types)
        # Lists, not tuples: pandas turns a tuple of strings into an array of the longest's width.
        named = zip(types.items(), columns, strict=True)
        parts.append(pd.DataFrame({c: pd.array(list(values), dtype=d) for (c, d), values in named}))
    return pd.concat(parts, ignore_index=True)


_kind = lru_cache(maxsize=100_000)(action_kind)


def _about(task: Task | None) -> tuple[str, str]:
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
    rows["status"] = "tried"
    rows.loc[rows["n"] == 0, "status"] = rows["restored"].map(
        {True: "faulted", False: "unrestorable"}
    )
    rows = pd.concat([rows, _untried(rows, known)], ignore_index=True)
    bounds = [_bounds(*pair) for pair in zip(rows["wins"], rows["n"], strict=True)]
    rows[["low", "high"]] = pd.DataFrame(bounds, rows.index, ["low", "high"])
    rows["p"] = rows["wins"].astype("float64") / rows["n"].astype("float64").where(rows["n"] > 0)
    types = {column: dtype for column, (dtype, _) in COLUMNS["states"].items()}
    out = rows[list(types)].astype(types)
    return out.sort_values([*_PLACE, "task_id", "trajectory_id", "k", "t"], ignore_index=True)


_bounds = lru_cache(maxsize=10_000)(wilson)


def _untried(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The states between s0 and the last one explored that have no branch at all."""
    key = [*_PLACE, "trajectory_id"]
    there = rows[rows["k"] >= 0].groupby(key)["k"].agg(["max", set])
    there["k"] = [sorted(set(range(most)) - ks) for most, ks in there.to_numpy()]
    missing = there["k"].explode().dropna().astype("int64").reset_index()
    missing = missing.assign(n=0, wins=0, t=-1, state="", status="untried")
    return missing.merge(known, on=["seed", "trajectory_id"])
