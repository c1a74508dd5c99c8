"""The analyst's room: a run as frames, figures and a viewer. Reads a run, changes nothing.

`eef.analysis.Findings`, `eef.analysis.taxonomy` and the other names of `__all__` are loaded when
they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "Annotations",
    "Collection",
    "Findings",
    "Key",
    "budget",
    "labels",
    "tables",
    "taxonomy",
]

_HOME = {
    "Annotations": "annotations",
    "Collection": "collection",
    "Findings": "findings",
    "Key": "annotations",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"eeflib.analysis has no {name!r}; see eeflib.analysis.__all__")
    module = importlib.import_module(f"eeflib.analysis.{_HOME.get(name, name)}")
    value = globals()[name] = getattr(module, name) if name in _HOME else module
    return value
