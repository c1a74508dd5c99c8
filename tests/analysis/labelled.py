"""The hand-labelled failures, read."""

from __future__ import annotations

import json
from typing import NamedTuple

from eeflib import data
from eeflib.analysis.taxonomy import Case
from eeflib.records import Task, Trajectory


class Labelled(NamedTuple):
    case: Case
    labels: tuple[str, ...]
    """The main one first."""


def labelled(part: str) -> list[Labelled]:
    """`writing`: seen while the rules were written; `held_out`: not."""
    out = []
    for line in data.path("failures", f"{part}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trajectory = Trajectory.from_dict(row["trajectory"])
        case = Case(0, "teacher", 0, trajectory, Task.from_dict(row["task"]))
        out.append(Labelled(case, tuple(row["labels"])))
    return out
