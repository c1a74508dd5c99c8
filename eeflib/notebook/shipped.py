"""What the notebooks read from the package: `hand_labelled` failures, a `dated_result`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from eeflib import data
from eeflib.analysis.taxonomy import Case
from eeflib.records import Task, Trajectory

__all__ = ["Reading", "dated_result", "hand_labelled"]


class Reading(NamedTuple):
    """A failed episode and what a person said it failed by."""

    case: Case
    kinds: tuple[str, ...]
    """Names of `taxonomy.KINDS`, the main one first."""
    note: str
    """Why, where it is not plain to see."""


def hand_labelled(part: str = "held_out") -> list[Reading]:
    """The failures that were labelled by hand, see `eeflib/data/failures/README.md`.

    Args:
        part: `held_out`, which nobody saw while the rules were written, or `writing`.

    Raises:
        PrerequisiteError: no such part.
    """
    out = []
    for line in data.path("failures", f"{part}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trajectory, task = Trajectory.from_dict(row["trajectory"]), Task.from_dict(row["task"])
        case = Case(0, "teacher", 0, trajectory, task)
        out.append(Reading(case, tuple(row["labels"]), row.get("note", "")))
    return out


def dated_result(name: str) -> dict[str, Any]:
    """A shipped result by its name, such as `demo-8-seeds`, with the `date` it was measured.

    Raises:
        PrerequisiteError: no result of that name is shipped.
    """
    return json.loads(data.path(f"{name}.json").read_text("utf-8"))
