"""Solutions by task, in memory and, if a file is given, in it.

Owns the cache: one JSON object a line, append-only. Knows nothing about simulators: a key is a
tuple of values, whose names are the fields of a line, beside `actions`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from eeflib.files import append_lines

__all__ = ["GoldFile", "Key"]

Key = tuple[str | int, ...]

_log = logging.getLogger(__name__)


class GoldFile:
    """Gold paths that were computed before.

    A line of the file that cannot be read is reported with file and line number, and its path is
    computed again when it is needed.

    Args:
        fields: the names of a key's values.
    """

    def __init__(self, path: Path | None, fields: Sequence[str]) -> None:
        self._path = path
        self._fields = tuple(fields)
        self._paths: dict[Key, tuple[str, ...]] | None = None

    def get(self, key: Key) -> tuple[str, ...] | None:
        """The path of `key`, if it is known."""
        if self._paths is None:
            self._paths = self._read()
        return self._paths.get(key)

    def put(self, key: Key, actions: Sequence[str]) -> tuple[str, ...]:
        """Keep a path, which is returned.

        Raises:
            DataError: the file cannot be written.
        """
        if self.get(key) is None and self._path is not None:
            row = {**dict(zip(self._fields, key, strict=True)), "actions": list(actions)}
            append_lines(self._path, [json.dumps(row, ensure_ascii=False)])
        assert self._paths is not None, "get has read the file"
        self._paths[key] = tuple(actions)
        return self._paths[key]

    def _read(self) -> dict[Key, tuple[str, ...]]:
        paths: dict[Key, tuple[str, ...]] = {}
        if self._path is None or not self._path.exists():
            return paths
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
                key = tuple(row[name] for name in self._fields)
                if not row["actions"] or not all(isinstance(a, str) for a in row["actions"]):
                    raise ValueError("actions must be a list of texts")
                paths[key] = tuple(row["actions"])
            except (ValueError, KeyError, TypeError) as exc:
                _log.warning("%s, line %d: skipped (%s)", self._path, number, exc)
        return paths
