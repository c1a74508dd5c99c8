"""One side of a comparison: a run's episodes of one policy, and what each did.

Owns reading them and pairing two sides task by task. Knows nothing about tests.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from eeflib.analysis import frames, taxonomy
from eeflib.analysis.actions import action_kind
from eeflib.analysis.findings import Findings
from eeflib.analysis.run import TEACHER, Run
from eeflib.errors import DataError
from eeflib.records import Evaluation
from eeflib.stats import last_iteration

__all__ = ["EPISODES", "Side", "pair", "read_side"]

EPISODES = (
    "seed", "task_hash", "task_id", "level", "instruction", "trajectory_id", "solved", "reward",
    "length", "invalid", "kind",
)  # fmt: skip
"""Columns of `Side.episodes`: one row per task; `kind` is the main kind of failure, empty if it was
solved or the episode itself is not on record (then `trajectory_id` is empty too)."""


@dataclass
class Side:
    """What one policy of one run did."""

    name: str
    method: str
    episodes: pd.DataFrame
    """See `EPISODES`."""
    actions: pd.DataFrame
    """Share of each kind of action in each episode: index (seed, task_hash), a column a kind."""
    failures: pd.DataFrame
    """Whether a kind of failure was found: the same index, a column a kind."""
    notes: list[str] = field(default_factory=list)

    @property
    def recorded(self) -> bool:
        """Whether episodes are on record, not only their results."""
        return len(self.actions) > 0


def read_side(run: Run | str | Path, method: str | None = None, name: str = "") -> Side:
    """The teacher's trajectories, or a student's test episodes of its last iteration.

    Args:
        method: `teacher` or a method's name; None: the run's focus, else the teacher.

    Raises:
        DataError: no such folder, or nothing of this method in it (names what there is).
    """
    run = run if isinstance(run, Run) else Run(run)
    known = Findings(run)
    method = method or known.focus or TEACHER
    outcomes = _outcomes(run, known, method)
    keys = {(o.seed, o.task_id): o for o in reversed(outcomes)}  # of several attempts the first
    rows, mixes, wrong, notes = [], {}, {}, []
    seen: set[tuple[int, str]] = set()
    double = 0
    who: frames.Who = "teacher" if method == TEACHER else "students"
    for place, e in frames.episodes(run, who):
        o = keys.get((place.seed, e.task_id))
        if o is None or place.method != method or place.iteration != o.iteration:
            continue
        key = (o.seed, o.task_hash)
        if key in seen:  # several attempts at a task: the first counts
            double += 1
            continue
        seen.add(key)
        task = run.task(place.seed, e.task_id)
        diagnosis = taxonomy.diagnose(e, task)
        kinds = Counter(action_kind(s.action, e.env, s.valid) for s in e.steps)
        mixes[key] = {k: n / len(e.steps) for k, n in kinds.items()}
        wrong[key] = dict.fromkeys(diagnosis.kinds if diagnosis else (), 1.0)
        rows.append(_row(o, e.id, e.instruction, diagnosis.primary if diagnosis else ""))
    if double:
        notes.append(f"{name or method}: {double} further attempts at the same tasks are left out.")
    for o in outcomes:
        if (o.seed, o.task_hash) not in seen:
            seen.add((o.seed, o.task_hash))
            rows.append(_row(o, "", "", ""))
    if not mixes:
        file = "trajectories.jsonl" if method == TEACHER else "test_rollouts.jsonl"
        notes.append(
            f"{name or method}: only results are on record, no episodes ({file}), so nothing can "
            "be said about its behaviour."
        )
    return Side(
        name or method,
        method,
        pd.DataFrame(rows, columns=list(EPISODES)),
        _wide(mixes),
        _wide(wrong),
        notes,
    )


def _outcomes(run: Run, known: Findings, method: str) -> list[Evaluation]:
    if method == TEACHER:
        found = run.teacher_outcomes
    else:
        every = [o for o in run.outcomes if o.method == method]
        found = last_iteration([o for o in every if o.split == "test"] or every)
    if not found:
        raise DataError(
            f"{run.path} holds nothing of {method!r}; it has: "
            f"{', '.join(known.methods) or 'no trajectories and no evaluations'}"
        )
    return found


def _row(o: Evaluation, trajectory_id: str, instruction: str, kind: str) -> list[object]:
    about = [o.seed, o.task_hash, o.task_id, o.level, instruction, trajectory_id]
    return [*about, o.solved, o.reward, o.length, o.invalid, kind]


def _wide(rows: dict[tuple[int, str], dict[str, float]]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=["seed", "task_hash"])
    return pd.DataFrame(list(rows.values()), index=index if rows else None).fillna(0.0)


def pair(a: Side, b: Side) -> tuple[pd.DataFrame, bool]:
    """Rows of tasks both sides have, columns of either with `_a` and `_b`; False if there are none.

    Tasks are the same if their content hash is; within the same seed where seeds agree, else across
    seeds for hashes that each side has once.
    """
    left, right = a.episodes, b.episodes
    both = left.merge(right, on=["seed", "task_hash"], suffixes=("_a", "_b"))
    both = both.assign(seed_a=both["seed"], seed_b=both["seed"])
    if both.empty:
        left, right = (x[~x["task_hash"].duplicated(keep=False)] for x in (left, right))
        both = left.merge(right, on="task_hash", suffixes=("_a", "_b"))
        both = both.assign(seed=both["seed_a"] if len(both) else [])
    return both, len(both) > 0
