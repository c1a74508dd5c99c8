"""What the notebooks read from the repository around the package: hand labels, dated results.

Owns where these lie. Knows nothing about what is made of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from eeflib.analysis.taxonomy import Case
from eeflib.errors import PrerequisiteError
from eeflib.records import Task, Trajectory

__all__ = ["Reading", "dated_result", "hand_labelled"]

_ROOT = Path(__file__).parents[2]


class Reading(NamedTuple):
    """A failed episode and what a person said it failed by."""

    case: Case
    kinds: tuple[str, ...]
    """Names of `taxonomy.KINDS`, the main one first."""
    note: str
    """Why, where it is not plain to see."""


def hand_labelled(part: str = "held_out") -> list[Reading]:
    """The failures that were labelled by hand, see `tests/data/failures/README.md`.

    Args:
        part: `held_out`, which nobody saw while the rules were written, or `writing`.

    Raises:
        PrerequisiteError: not there, see `dated_result`.
    """
    out = []
    for line in _newest("tests/data/failures", f"{part}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trajectory, task = Trajectory.from_dict(row["trajectory"]), Task.from_dict(row["task"])
        case = Case(0, "teacher", 0, trajectory, task)
        out.append(Reading(case, tuple(row["labels"]), row.get("note", "")))
    return out


def dated_result(name: str) -> dict[str, Any]:
    """The newest result of that name in `benchmarks/results`, such as `demo-8-seeds`.

    Raises:
        PrerequisiteError: not there; such files come with the repository, not with the package.
    """
    path = _newest("benchmarks/results", f"*-{name}.json")
    return {"date": path.name[:10], **json.loads(path.read_text("utf-8"))}


def _newest(folder: str, pattern: str) -> Path:
    found = sorted((_ROOT / folder).glob(pattern))
    if not found:
        raise PrerequisiteError(
            f"{folder}/{pattern} is missing: it comes with the repository, not with the package; "
            "clone the repository and install from the clone (pip install -e .)"
        )
    return found[-1]
