"""The unfinished file of a download and the note beside it.

Owns `NAME.part` and `NAME.part.json`: what has arrived, and what it is a part of (address, ETag,
Last-Modified, length). Knows nothing about connections.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from eeflib.errors import DataError
from eeflib.files import write_atomic

__all__ = ["Part"]


class Part:
    """What has arrived of the file at `url`; appended to, or thrown away."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> dict[str, Any] | None:
        """What this is a part of: etag, modified, length; None if that cannot be told."""
        if not self.size():
            return None
        try:
            known = json.loads(self.note.read_bytes())
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) and known.get("url") == self.url else None

    def tail(self, n: int) -> bytes:
        """The last n bytes."""
        if not n:
            return b""
        with open(self.path, "rb") as file:
            file.seek(-n, os.SEEK_END)
            return file.read()

    def start(self, *, etag: str | None, modified: str | None, length: int | None) -> None:
        """Empty it and say what is coming, before the first byte of it is written."""
        self.forget()
        known = {"url": self.url, "etag": etag, "modified": modified, "length": length}
        write_atomic(self.note, json.dumps(known))

    def forget(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def check_room(self, missing: int) -> None:
        """Raise DataError if the disk cannot take `missing` more bytes."""
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise DataError(
                f"{self.path.parent}: the disk is too full: {missing:,} bytes are still to come "
                f"and {free:,} are free; what has arrived is kept. Make room, then run the same "
                "again: it continues"
            )

    def __enter__(self) -> Part:
        """Open for appending; every byte that `write` took survives a kill of the process."""
        try:
            self._file = open(self.path, "ab", buffering=0)
        except OSError as exc:
            raise self._fault(exc) from exc
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append; raises DataError when the disk is full, with what fitted kept."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as exc:
            raise self._fault(exc) from exc

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise self._fault(exc) from exc

    def _fault(self, exc: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({exc.strerror or exc}); what has arrived is kept. "
            "Make room, or choose another folder, then run the same again: it continues"
        )
