"""Run files as rows, and the columns of every data frame with their types and meanings.

Import `COLUMNS` to look up what a column means. `read` decodes the lines of a run's files into
light rows that hold only what the frames need and have the records' attribute names. A line that
does not decode goes to the record's own tolerant reader, which reads it after all or says what is
wrong with it.

`seed` with `task_id`, `trajectory_id`, `branch_id` or `sample_id` names a row (branches and
samples: with `method` and `iteration` too); ids alone repeat from seed to seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import pandas as pd

from eeflib.analysis.run import Place, Run, encodable
from eeflib.errors import DataError
from eeflib.files import ReadReport, parse_object
from eeflib.records import (
    Actor,
    Branch,
    Finite,
    Int64,
    Label,
    Record,
    Reward,
    Sample,
    Task,
    Trajectory,
)

__all__ = ["BRANCHES", "COLUMNS", "EPISODES", "SAMPLES", "TASKS", "Table", "read"]

_CHUNK = 20_000

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
        "kind": ("str", "kind of action, see eeflib.analysis.taxonomy_rules"),
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


def _array(values: list[Any], dtype: Any) -> Any:
    return pd.array(values, dtype=dtype)


class Table:
    """Rows in the order of `COLUMNS`, turned into columns a chunk at a time to save memory."""

    def __init__(self, name: str) -> None:
        self.types = {column: dtype for column, (dtype, _) in COLUMNS[name].items()}
        self.rows: list[tuple[Any, ...]] = []
        self.parts: list[pd.DataFrame] = []

    def add(self, row: tuple[Any, ...]) -> None:
        """One more row, a value per column."""
        self.rows.append(row)
        if len(self.rows) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.types)
        # Lists, not tuples: pandas turns a tuple of strings into an array of the longest's width.
        pairs = zip(self.types.items(), columns, strict=True)
        arrays = {name: _array(list(values), dtype) for (name, dtype), values in pairs}
        self.parts.append(pd.DataFrame(arrays))
        self.rows = []

    def frame(self) -> pd.DataFrame:
        """All rows added so far."""
        if self.rows or not self.parts:
            self._flush()
        return self.parts[0] if len(self.parts) == 1 else pd.concat(self.parts, ignore_index=True)


T = TypeVar("T")


class UsageRow(msgspec.Struct, gc=False):
    prompt_tokens: Int64 = 0
    completion_tokens: Int64 = 0
    cost_usd: Finite | None = None


class StepRow(msgspec.Struct, gc=False):
    observation: str
    action: str
    actor: Actor
    thought: str = ""
    valid: bool = True
    reason: str = ""
    reward: Reward = 0.0
    score: Finite | None = None
    usage: UsageRow | None = None


class _Line(msgspec.Struct, gc=False, kw_only=True):
    schema: int = 1


class TaskRow(_Line, kw_only=True):
    id: str
    env: str
    instruction: str
    goal: dict[str, Any] = msgspec.field(default_factory=dict)
    seed: Int64 = 0
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    split: str = ""
    threshold: Finite = 1.0
    level: str | int | None = None
    task_type: str | int | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class TrajectoryRow(_Line, kw_only=True):
    id: str
    task_id: str
    env: str
    instruction: str
    policy: str
    steps: list[StepRow]
    final_observation: str
    reward: Reward
    terminated: bool
    truncated: bool
    threshold: Finite = 1.0
    seed: Int64 = 0
    error: str = ""
    reward_info: Any = None

    @property
    def extra(self) -> dict[str, Any]:
        """What is needed of a record's `extra`."""
        return {} if self.reward_info is None else {"reward_info": self.reward_info}


class MoveRow(msgspec.Struct, gc=False):
    """A step without its words."""

    observation: str
    action: str
    actor: Actor
    valid: bool = True
    reward: Reward = 0.0
    usage: UsageRow | None = None


class RolloutRow(msgspec.Struct, gc=False, kw_only=True):
    id: str
    task_id: str
    env: str
    steps: list[MoveRow]
    reward: Reward
    terminated: bool
    truncated: bool
    threshold: Finite = 1.0
    seed: Int64 = 0
    error: str = ""


class BranchRow(_Line, kw_only=True):
    id: str
    task_id: str
    k: Int64
    t: Int64
    attempt: Int64
    teacher_id: str | None = None
    rollout: RolloutRow | None = None
    restore_mismatch: str = ""
    iteration: Int64 = 0


class SampleRow(_Line, kw_only=True):
    id: str
    task_id: str
    env: str
    kind: str
    steps: list[MoveRow]
    trained: list[bool]
    labels: list[Label]
    start: Int64 = 0
    source: str = ""

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.trained) == len(self.labels):
            raise ValueError("not one flag and label per step")  # the record says it in full


class Kind(Generic[T]):
    """How the lines of one kind of file are read."""

    def __init__(self, row: type[T], record: type[Record]) -> None:
        self.decoder = msgspec.json.Decoder(row)
        self.record = record


TASKS = Kind(TaskRow, Task)
EPISODES = Kind(TrajectoryRow, Trajectory)
BRANCHES = Kind(BranchRow, Branch)
SAMPLES = Kind(SampleRow, Sample)


def read(run: Run, name: str, kind: Kind[T], resolve: bool = True) -> Iterator[tuple[Place, T]]:
    """The rows of every file `name` of the run, streamed; what cannot be read is noted in the run.

    Raises:
        DataError: a file cannot be read at all.
    """
    for path, place in run.files(name, resolve=resolve):
        report = ReadReport()
        met: set[str] = set()
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    row: Any = _row(line, kind, path, number, report)
                    if row is None:
                        continue
                    if row.id in met:
                        report.repeated(path, number, row.id)
                    else:
                        met.add(row.id)
                        yield place, row
        except OSError as exc:
            raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
        run.note_report(path, report)


def _row(line: bytes, kind: Kind[T], path: Path, number: int, report: ReadReport) -> T | None:
    try:
        row = kind.decoder.decode(line.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _tolerantly(line, kind, path, number, report)
    report.of_schema(path, getattr(row, "schema", 1))
    return row


def _tolerantly(
    line: bytes, kind: Kind[T], path: Path, number: int, report: ReadReport
) -> T | None:
    """A record in place of a row; None if the line is blank or no record."""
    if not line.strip():
        return None
    try:
        data = encodable(parse_object(line))
        record: Any = kind.record.from_dict(data)
    except DataError as exc:
        report.skip(path, number, str(exc))
        return None
    report.of_schema(path, data.get("schema"))
    return record
