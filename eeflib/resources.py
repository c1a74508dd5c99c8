"""Where the data that eeflib ships lies: the checkout's `data/`, or the installed copy of it."""

from __future__ import annotations

import sys
from pathlib import Path

from eeflib.errors import PrerequisiteError

__all__ = ["data_path"]


def data_path(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. `data_path("tiny")`.

    Raises:
        PrerequisiteError: not there; names the places looked at.
    """
    roots = (Path(__file__).parent.parent / "data", Path(sys.prefix) / "share" / "eeflib" / "data")
    for root in roots:
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    looked = " and ".join(str(r) for r in roots)
    raise PrerequisiteError(
        f"eeflib's data file {'/'.join(parts)} is missing (looked in {looked}): reinstall eeflib, "
        "or run from a complete checkout"
    )
