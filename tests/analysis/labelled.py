"""The hand-labelled failures, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from eeflib.analysis.taxonomy import Case
from eeflib.records import Task, Trajectory

FOLDER = Path(__file__).parents[1] / "data" / "failures"


class Labelled(NamedTuple):
    case: Case
    labels: tuple[str, ...]
    """The main one first."""


def labelled(part: str) -> list[Labelled]:
    """`writing`: seen while the rules were written; `held_out`: not."""
    out = []
    for line in (FOLDER / f"{part}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trajectory = Trajectory.from_dict(row["trajectory"])
        case = Case(0, "teacher", 0, trajectory, Task.from_dict(row["task"]))
        out.append(Labelled(case, tuple(row["labels"])))
    return out
