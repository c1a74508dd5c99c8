"""Run files as light rows: only what the frames show, decoded straight from the line.

Owns which fields of a record the frames need, and reading them fast: a line that does not decode is
handed to the record's own tolerant reader, which reads it after all or says what is wrong with it.
Rows have the records' attribute names, so either can stand for the other. Knows nothing about
frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

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

__all__ = [
    "BRANCHES",
    "EPISODES",
    "SAMPLES",
    "TASKS",
    "BranchRow",
    "Kind",
    "SampleRow",
    "StepRow",
    "TaskRow",
    "TrajectoryRow",
    "UsageRow",
    "read",
]

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
