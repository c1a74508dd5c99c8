"""Files that eeflib ships: the tiny student, hand-labelled failures, trajectories of others.

`path("tiny")` is the path of one of them, in a checkout and however eeflib was installed.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from eeflib.errors import PrerequisiteError

__all__ = ["path"]


def path(*parts: str) -> Path:
    """The shipped file or folder of that name, e.g. `path("failures", "held_out.jsonl")`.

    Raises:
        PrerequisiteError: it is not there, so the installation is incomplete.
    """
    found = Path(str(resources.files(__name__).joinpath(*parts)))
    if not found.exists():
        raise PrerequisiteError(
            f"eeflib's data file {'/'.join(parts)} is missing (looked in {found}): reinstall eeflib"
        )
    return found
