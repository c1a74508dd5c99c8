"""One file at a time, safe against kills and full disks: JSON lines and atomic replacement.

Owns how a batch of lines is appended whole or not at all, how a damaged file is repaired, how
lines are read with damage reported, and `write_atomic`. Knows nothing about records nor run
folders. The caller makes sure that one process writes a file at a time.

While a batch is being appended, `NAME.pending` beside the file holds the size to go back to. It
outlives the write only if the process was killed, and then the batch is taken back.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from eeflib.errors import DataError

__all__ = ["ReadReport", "SkippedLine", "append_lines", "read_objects", "repair", "write_atomic"]

log = logging.getLogger(__name__)

_WRITING = threading.RLock()
"""Threads of this process take turns; of processes only one may write, see `eeflib.lock`."""


class SkippedLine(NamedTuple):
    """A line that could not be read; `str()` is `FILE:LINE: REASON`."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class ReadReport:
    """What reading a file met; pass one to `read` and look at it afterwards."""

    records: int = 0
    """Records read."""
    skipped: list[SkippedLine] = field(default_factory=list)
    """Lines that are no record; each was also logged as a warning."""
    newer: int = 0
    """Records written by a newer version of eeflib: read, but perhaps not in full."""

    def skip(self, file: Path, line: int, reason: str) -> None:
        """Count a line as unreadable, and say so in the log."""
        self.skipped.append(SkippedLine(file, line, reason))
        log.warning("%s: line skipped", self.skipped[-1])


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path`: at any moment it holds the old text or the new one, never a part.

    Raises:
        DataError: it cannot be written; the old text is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
        _sync_folder(path.parent)
    except OSError as exc:
        _fail(path, exc, "what was there before is unchanged")


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append `lines` (no line breaks inside) to `path`, all of them or none.

    Raises:
        DataError: the disk is full or the file cannot be written; nothing of `lines` is kept.
    """
    if not lines:
        return
    data = "".join(line + "\n" for line in lines).encode()
    with _WRITING:
        try:
            _append(path, data)
        except OSError as exc:
            _fail(path, exc, "none of the last batch is kept, everything before it is")


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    repair(path)  # an earlier append may have been interrupted, in this process or another
    size = path.stat().st_size if path.exists() else 0
    pending = _pending(path)
    _write_synced(pending, os.O_TRUNC, f"{size}\n".encode())
    try:
        _write_synced(path, os.O_APPEND, data)
    except OSError:
        with suppress(OSError):  # if this fails too, the pending note is still there
            os.truncate(path, size)
        raise
    pending.unlink()
    if not size:
        _sync_folder(path.parent)


def repair(path: Path) -> int:
    """Bring `path` back to its last whole batch; return how many bytes were cut off.

    An append that was killed half-way is taken back, then a last line without an end is cut off.
    What is cut goes to `NAME.torn`, for a person to look at.

    Raises:
        DataError: the file cannot be read or written.
    """
    with _WRITING:
        try:
            cut = _take_back(path) + _cut_torn_line(path)
        except OSError as exc:
            _fail(path, exc, "it was being repaired after an interrupted write")
    if cut:
        log.warning(
            "%s: an interrupted write was taken back (%d bytes, see %s)",
            path,
            cut,
            _torn(path).name,
        )
    return cut


def read_objects(path: Path, report: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, JSON object) of `path`; what is no object goes to `report`.

    Blank lines are passed over. A last line without an end is read if it is whole.

    Raises:
        DataError: the file cannot be read at all.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    value = _parse(raw)
                except (ValueError, RecursionError) as exc:
                    torn = "" if raw.endswith(b"\n") else "cut off: "
                    report.skip(path, number, f"{torn}not JSON: {exc}")
                    continue
                if isinstance(value, dict):
                    yield number, value
                else:
                    report.skip(path, number, f"a JSON {type(value).__name__}, not an object")
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def _parse(raw: bytes) -> Any:
    return json.loads(raw, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _pending(path: Path) -> Path:
    return path.with_name(path.name + ".pending")


def _torn(path: Path) -> Path:
    return path.with_name(path.name + ".torn")


def _write_synced(path: Path, flag: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666)
    try:
        view = memoryview(data)
        while view:  # a nearly full disk takes a part, and fails at the next write
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _cut(path: Path, size: int) -> int:
    """Move what stands after `size` bytes to the torn file."""
    with open(path, "r+b") as file:
        file.seek(size)
        rest = file.read()
        if rest:
            _write_synced(_torn(path), os.O_APPEND, rest.rstrip(b"\n") + b"\n")
            file.truncate(size)
            os.fsync(file.fileno())
    return len(rest)


def _take_back(path: Path) -> int:
    """Undo an append that was killed half-way."""
    pending = _pending(path)
    if not pending.exists():
        return 0
    note = pending.read_bytes()
    # without its line end the note itself was cut off, before the file was touched
    whole = note.endswith(b"\n") and note.strip().isdigit()
    cut = _cut(path, int(note)) if whole and path.is_file() else 0
    pending.unlink()
    return cut


def _cut_torn_line(path: Path) -> int:
    if not path.is_file():
        return 0
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read() in (b"", b"\n"):
            return 0
        start, tail = end, b""
        while start and b"\n" not in tail:
            start = max(0, start - (1 << 20))
            file.seek(start)
            tail = file.read(end - start)
        tail = tail[tail.rfind(b"\n") + 1 :]
        try:
            whole = isinstance(_parse(tail), dict)
        except (ValueError, RecursionError):
            whole = False
        if whole:  # no prefix of an object is an object: only the line end is missing
            file.seek(end)
            file.write(b"\n")
            return 0
    return _cut(path, end - len(tail))


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a new name survives a power cut only once its folder is synced
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _fail(path: Path, exc: OSError, state: str) -> NoReturn:
    raise DataError(
        f"{path}: cannot be written ({exc.strerror or exc}); {state}. "
        "Make room or give write permission, then run the same command again: it continues"
    ) from exc
