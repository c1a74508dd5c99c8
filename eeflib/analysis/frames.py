"""A run as DataFrames: tasks, trajectories, steps, branches, states, samples, evaluations.

Owns the columns (`COLUMNS` documents each) and the joins between them: `seed` with `task_id`,
`trajectory_id`, `branch_id` or `sample_id` names a row; ids alone repeat from seed to seed. An
empty run gives empty frames with the same columns. Knows nothing about figures or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from eeflib.analysis.actions import action_kind
from eeflib.analysis.run import Place, Run
from eeflib.evaluate import Outcome
from eeflib.intervals import wilson
from eeflib.records import Branch, Sample, Task, Trajectory

__all__ = [
    "COLUMNS",
    "branches",
    "evaluations",
    "samples",
    "states",
    "steps",
    "tasks",
    "trajectories",
]

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
        "instruction": ("str", "what the agent is told"),
        "split": ("str", "train, validation or test"),
        "level": ("str", "difficulty level; empty if the task has none"),
        "threshold": ("float64", "reward from which on it is solved"),
    },
    "trajectories": {
        "seed": ("int64", "seed of the run"),
        "trajectory_id": ("str", "id within the seed"),
        "task_id": ("str", "joins tasks"),
        "env": ("str", "environment"),
        "level": ("str", "of the task"),
        "split": ("str", "of the task"),
        "policy": ("str", "name of the teacher"),
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
        "t": ("int64", "index of the action, from 0"),
        "actor": ("str", "teacher, student or human"),
        "kind": ("str", "kind of action, see eeflib.analysis.actions"),
        "action": ("str", "action handed to the environment"),
        "thought": ("str", "reasoning before it"),
        "observation": ("str", "text of s_t"),
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
    },
    "states": {
        **_WHERE,
        "trajectory_id": ("str", "joins trajectories"),
        "task_id": ("str", "joins tasks"),
        "level": ("str", "of the task"),
        "teacher_solved": ("bool", "whether the teacher's trajectory succeeded"),
        "length": ("int64", "T of the teacher's trajectory"),
        "k": ("int64", "0 for s0, else the expert state's number"),
        "t": ("int64", "teacher actions before the state; -1 if untried"),
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
}
"""Frame -> column -> (dtype, meaning)."""


def tasks(run: Run) -> pd.DataFrame:
    """One row per task and seed."""
    return _frame("tasks", (_task(seed, t) for seed, group in run.tasks.items() for t in group))


def trajectories(run: Run) -> pd.DataFrame:
    """One row per teacher trajectory."""
    known = {(seed, t.id): t for seed, group in run.tasks.items() for t in group}
    return _frame(
        "trajectories",
        (
            _trajectory(seed, t, known.get((seed, t.task_id)))
            for seed, group in run.trajectories.items()
            for t in group
        ),
    )


def steps(run: Run) -> pd.DataFrame:
    """One row per action of a teacher trajectory."""
    rows = (
        {
            "seed": seed,
            "trajectory_id": trajectory.id,
            "task_id": trajectory.task_id,
            "t": t,
            "actor": step.actor,
            "kind": action_kind(step.action, trajectory.env, step.valid),
            "action": step.action,
            "thought": step.thought,
            "observation": step.observation,
            "valid": step.valid,
            "reason": step.reason,
            "reward": step.reward,
            "score": step.score,
        }
        for seed, group in run.trajectories.items()
        for trajectory in group
        for t, step in enumerate(trajectory.steps)
    )
    return _frame("steps", rows)


def branches(run: Run) -> pd.DataFrame:
    """One row per exploration rollout, or per state that could not be restored."""
    return _frame("branches", (_branch(place, b) for place, b in run.branches()))


def samples(run: Run) -> pd.DataFrame:
    """One row per training sequence."""
    return _frame("samples", (_sample(place, s) for place, s in run.samples()))


def evaluations(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """One row per outcome."""
    names = [c for c in COLUMNS["evaluations"] if c != "solved"]
    rows = ({**{c: getattr(o, c) for c in names}, "solved": o.solved} for o in outcomes)
    return _frame("evaluations", rows)


def states(branches: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, method, iteration, teacher trajectory, k), from the two frames.

    State k = 0 is the task's s0; its rollouts count for every teacher trajectory of the task. As in
    `eeflib.outcomes`, a rollout that a fault ended is no try.
    States between 0 and the last one explored that have no branch at all are `untried`.
    """
    place = ["seed", "method", "iteration"]
    known = trajectories[["seed", "trajectory_id", "task_id", "level", "solved", "length"]]
    known = known.rename(columns={"solved": "teacher_solved"})
    branches = branches.assign(counted=branches["restored"] & (branches["fault"] == ""))
    counts = {
        "n": ("counted", "sum"),
        "wins": ("won", "sum"),
        "t": ("t", "first"),
        "restored": ("restored", "any"),
    }
    initial = branches[branches["k"] == 0]
    initial = initial.groupby([*place, "task_id", "k"], as_index=False).agg(**counts)
    later = branches[branches["k"] > 0]
    later = later.groupby([*place, "task_id", "trajectory_id", "k"], as_index=False).agg(**counts)
    rows = pd.concat(
        [
            initial.merge(known, on=["seed", "task_id"]),
            later.merge(known, on=["seed", "task_id", "trajectory_id"]),
        ],
        ignore_index=True,
    )
    rows["status"] = [
        "tried" if n else "faulted" if restored else "unrestorable"
        for n, restored in zip(rows["n"], rows["restored"], strict=True)
    ]
    rows = pd.concat([rows, _untried(rows, known, place)], ignore_index=True)
    bounds = [wilson(int(w), int(n)) for w, n in zip(rows["wins"], rows["n"], strict=True)]
    rows["p"] = rows["wins"].astype("float64") / rows["n"].astype("float64").where(rows["n"] > 0)
    rows["low"] = [b[0] for b in bounds]
    rows["high"] = [b[1] for b in bounds]
    out = _typed("states", rows)
    return out.sort_values([*place, "task_id", "trajectory_id", "k"], ignore_index=True)


def _untried(rows: pd.DataFrame, known: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    key = [*place, "trajectory_id"]
    missing = []
    for group, ks in rows.groupby(key)["k"]:
        have = set(ks)
        values = dict(zip(key, group, strict=True))
        missing += [{**values, "k": k} for k in range(max(have)) if k not in have]
    frame = pd.DataFrame(missing, columns=[*key, "k"])
    if frame.empty:
        return rows.iloc[:0]
    frame = frame.assign(n=0, wins=0, t=-1, status="untried")
    return frame.merge(known, on=["seed", "trajectory_id"])


def _frame(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    return _typed(name, pd.DataFrame.from_records(list(rows), columns=list(COLUMNS[name])))


def _typed(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    dtypes = {column: dtype for column, (dtype, _) in COLUMNS[name].items()}
    return frame[list(dtypes)].astype(dtypes)


def _task(seed: int, task: Task) -> dict[str, Any]:
    return {
        "seed": seed,
        "task_id": task.id,
        "task_hash": task.content_hash,
        "env": task.env,
        "instruction": task.instruction,
        "split": task.split,
        "level": str(task.extra.get("level", "")),
        "threshold": task.threshold,
    }


def _trajectory(seed: int, t: Trajectory, task: Task | None) -> dict[str, Any]:
    usage = t.usage
    return {
        "seed": seed,
        "trajectory_id": t.id,
        "task_id": t.task_id,
        "env": t.env,
        "level": str(task.extra.get("level", "")) if task else "",
        "split": task.split if task else "",
        "policy": t.policy,
        "reward": t.reward,
        "solved": t.solved,
        "length": t.length,
        "invalid": sum(not s.valid for s in t.steps),
        "terminated": t.terminated,
        "truncated": t.truncated,
        "error": t.error,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
    }


def _branch(place: Place, b: Branch) -> dict[str, Any]:
    steps = b.rollout.steps if b.rollout else ()
    return {
        **place._asdict(),
        "branch_id": b.id,
        "task_id": b.task_id,
        "trajectory_id": b.teacher_id,
        "k": b.k,
        "t": b.t,
        "attempt": b.attempt,
        "restored": b.restored,
        "mismatch": b.restore_mismatch,
        "fault": b.rollout.error if b.rollout else "",
        "won": b.won,
        "reward": b.rollout.reward if b.rollout else None,
        "length": len(steps),
        "invalid": sum(not s.valid for s in steps),
    }


def _sample(place: Place, s: Sample) -> dict[str, Any]:
    trained = [step for step, on in zip(s.steps, s.trained, strict=False) if on]
    return {
        **place._asdict(),
        "sample_id": s.id,
        "task_id": s.task_id,
        "kind": s.kind,
        "source": s.source,
        "start": s.start,
        "length": len(s.steps),
        "trained": len(trained),
        "trained_teacher": sum(step.actor == "teacher" for step in trained),
        "trained_kinds": "|".join(action_kind(x.action, s.env, x.valid) for x in trained),
    }
