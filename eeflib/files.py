"""Files that survive kills and full disks: JSON lines, text replaced as a whole, a folder's lock.

Import `append_lines`, `read_objects`, `read_records`, `write_atomic` and `RunLock` from here. Run
folders are `eeflib.run`'s.

A killed process loses at most the line it was writing; half of a line is cut off at the next append
and kept in `NAME.torn`, for a person to look at.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
from filelock import FileLock, Timeout

from eeflib.errors import DataError
from eeflib.records import SCHEMA_VERSION, Record, fault

__all__ = [
    "ReadReport",
    "RunLock",
    "SkippedLine",
    "append_lines",
    "encodable",
    "parse_object",
    "read_objects",
    "read_records",
    "repair",
    "write_atomic",
]

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
T = TypeVar("T")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_WRITING = threading.RLock()
"""Threads of this process take turns; of processes only one may write, see `RunLock`."""
_WORKERS_SECONDS = 20.0
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_HELD: dict[tuple[int, Path], tuple[FileLock, int]] = {}
"""(process, folder) -> lock and number of users: a notebook cell run twice must not lock itself
out, while a forked child must not take its parent's lock for its own."""
_TURN = threading.RLock()
_SAID: set[tuple[Path, int, str]] = set()
"""(file, line, fault) of every warning so far: a file read again does not repeat them."""


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
    """Lines that are no record; each is also logged, once in a process."""
    duplicates: int = 0
    """Records whose id was met before in the file; they are passed over."""
    newer: int = 0
    """Records written by a newer version of eeflib: read, but perhaps not in full."""

    def skip(self, file: Path, line: int, reason: str) -> None:
        """Count a line as unreadable, and say so in the log."""
        self.skipped.append(SkippedLine(file, line, reason))
        _say_once(file, line, "skipped", f"{self.skipped[-1]}: line skipped")

    def repeated(self, file: Path, line: int, name: str) -> None:
        """Count a line as a duplicate; the first one of a file is logged."""
        self.duplicates += 1
        _say_once(
            file, 0, "duplicate", f"{file}:{line}: {name!r} occurs twice; each id is counted once"
        )

    def of_schema(self, file: Path, schema: object) -> None:
        """Count a record that a newer eeflib wrote; the first one of a file is logged."""
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            self.newer += 1
            text = (
                f"{file}: written by a newer eeflib (schema {schema}, this one knows "
                f"{SCHEMA_VERSION}): keys it does not know are kept but not used; update eeflib"
            )
            _say_once(file, 0, "newer", text)


def _say_once(file: Path, line: int, fault: str, text: str) -> None:
    key = (file.absolute(), line, fault)
    if key not in _SAID:
        _SAID.add(key)
        log.warning("%s", text)


def read_objects(path: Path, report: ReadReport) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, JSON object) of `path`; what is no object goes to `report`.

    Blank lines are passed over. A last line without an end is read if it is whole.

    Raises:
        DataError: the file cannot be read at all.
    """
    return _each_line(path, report, parse_object)


def _each_line(
    path: Path, report: ReadReport, parse: Callable[[bytes], T]
) -> Iterator[tuple[int, T]]:
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    value = parse(raw)
                except DataError as exc:
                    report.skip(path, number, str(exc))
                else:
                    yield number, value
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object on one line.

    Raises:
        DataError: it is none, or holds what no record can, see `records.fault`.
    """
    value = _parse(raw)
    if found := fault(value):
        raise DataError(f"${found}")
    return value


def _parse(raw: bytes, surrogates: bool = True) -> dict[str, Any]:
    """As `parse_object`, but numbers may be larger than a record holds."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        value = _parse_slowly(raw)
        value = value if surrogates else encodable(value)
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__}, not an object")
    return value


def _parse_slowly(raw: bytes) -> Any:
    """Takes what msgspec refuses (a byte order mark, half a surrogate pair), or says what is wrong.

    Raises:
        DataError: it is no JSON, or holds what no record can.
    """
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        at = f"byte 0x{raw[exc.start]:02x} at position {exc.start}"
        raise DataError(f"not UTF-8: {at}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as exc:
        torn = "" if raw.endswith(b"\n") else "cut off: "
        raise DataError(f"{torn}not JSON: {exc}") from None
    if found := fault(value):
        raise DataError(f"${found}")
    return value


def encodable(value: Any) -> Any:
    """A JSON value with every half of a surrogate pair replaced by U+FFFD.

    Such a half is legal in JSON text, but no data frame, no page and no request can hold it.
    """
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {encodable(k): encodable(v) for k, v in value.items()}
    return [encodable(v) for v in value] if isinstance(value, list) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def read_records(
    path: Path, kind: type[R], report: ReadReport, *, surrogates: bool = True
) -> Iterator[R]:
    """The records of `path`, in order; of records with the same id the first.

    A line that is no such record goes to `report`.

    Args:
        surrogates: False replaces halves of surrogate pairs, see `encodable`.

    Raises:
        DataError: the file cannot be read at all.
    """

    def parse(raw: bytes) -> tuple[R, object]:
        row = _parse(raw, surrogates)
        return kind.from_dict(row), row.get("schema")

    met: set[str] = set()
    for number, (record, schema) in _each_line(path, report, parse):
        name = getattr(record, "id", None)
        if name in met:
            report.repeated(path, number, str(name))
            continue
        if name is not None:
            met.add(name)
        report.of_schema(path, schema)
        report.records += 1
        yield record


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at `path`: at any moment it holds the old text or the new one, never a part.

    Raises:
        DataError: it cannot be written; the old text is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, os.O_TRUNC, text.encode("utf-8", "backslashreplace"))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
        _sync_folder(path.parent)
    except OSError as exc:
        _cannot_write(path, exc, "what was there before is unchanged")


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append `lines` (no line breaks inside) to `path`, and wait until they are on the disk.

    A process that is killed in here may leave some of the lines, and a half one, which the next
    append or opening cuts off.

    Raises:
        DataError: the disk is full or the file cannot be written; nothing of `lines` is kept.
    """
    if not lines:
        return
    data = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
    with _WRITING:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            repair(path)
            size = path.stat().st_size if path.exists() else 0
            try:
                _write_synced(path, os.O_APPEND, data)
            except OSError:
                with suppress(OSError):
                    os.truncate(path, size)
                raise
            if not size:
                _sync_folder(path.parent)
        except OSError as exc:
            _cannot_write(path, exc, "none of the last batch is kept, everything before it is")


def repair(path: Path) -> int:
    """Cut off a last line without an end, which a killed write left; return how many bytes.

    It goes to `NAME.torn`. A whole object that only lacks its line end gets one.

    Raises:
        DataError: the file cannot be read or written.
    """
    with _WRITING:
        try:
            cut = _cut_torn_line(path) if path.is_file() else 0
        except OSError as exc:
            _cannot_write(path, exc, "it was being repaired after an interrupted write")
    if cut:
        log.warning("%s: an interrupted write was cut off (%d bytes, see *.torn)", path, cut)
    return cut


def _cut_torn_line(path: Path) -> int:
    with open(path, "r+b") as file:
        end = start = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read() in (b"", b"\n"):
            return 0
        tail = b""
        while start and b"\n" not in tail:
            start = max(0, start - (1 << 20))
            file.seek(start)
            tail = file.read(end - start)
        tail = tail[tail.rfind(b"\n") + 1 :]
        with suppress(DataError):
            parse_object(tail)  # no part of an object is an object: only the line end is missing
            file.seek(end)
            file.write(b"\n")
            return 0
        _write_synced(path.with_name(path.name + ".torn"), os.O_APPEND, tail + b"\n")
        file.truncate(end - len(tail))
        os.fsync(file.fileno())
    return len(tail)


def _write_synced(path: Path, flag: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666)
    try:
        view = memoryview(data)
        while view:  # a nearly full disk takes a part, and fails at the next write
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a new name survives a power cut only once its folder is synced
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _cannot_write(path: Path, exc: OSError, state: str) -> NoReturn:
    raise DataError(
        f"{path}: cannot be written ({exc.strerror or exc}); {state}. "
        "Make room or give write permission, then run the same command again: it continues"
    ) from exc


class RunLock:
    """The lock of one folder, shared by everybody in this process who asks for it.

    One process writes, any number read. The operating system gives the lock back when its holder
    dies, however it dies. Workers of a run (`eeflib.workers`) hold a shared lock on `.workers` for
    as long as they live; a new holder waits until the workers of a killed one are gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key: tuple[int, Path] | None = None

    def acquire(self) -> bool:
        """Take the lock, making the folder if needed; False if this object has it already.

        Raises:
            DataError: another process has it (the message says which), or the folder cannot be
                written.
        """
        with _TURN:
            if self._key is not None and self._key[0] == os.getpid():
                return False
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                key = (os.getpid(), self.folder.resolve())
                lock, users = _HELD.get(key) or (self._take(), 0)
            except Timeout:
                raise DataError(
                    f"{self.folder} is being written by {self._owner()}: wait until that is "
                    "done, stop it, or use another --run DIR"
                ) from None
            except OSError as exc:
                raise DataError(
                    f"{self.folder}: cannot be written ({exc.strerror or exc}); "
                    "use another --run DIR"
                ) from exc
            _HELD[key] = (lock, users + 1)
            self._key = key
            return True

    def release(self) -> None:
        """Give it back, if this object has it; the last user in the process frees the folder."""
        with _TURN:
            key, self._key = self._key, None
            if key is None or key[0] != os.getpid():
                return
            lock, users = _HELD.pop(key)
            if users > 1:
                _HELD[key] = (lock, users - 1)
            else:
                lock.release(force=True)

    def _take(self) -> FileLock:
        lock = FileLock(self.folder / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as exc:
            if isinstance(exc, Timeout) or getattr(exc, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
            log.warning(
                "%s: this file system has no locks; make sure only one process writes this run",
                self.folder,
            )
        try:
            self._wait_for_workers()
        except BaseException:
            lock.release(force=True)
            raise
        since = datetime.now(UTC).isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": platform.node(), "since": since}
        (self.folder / ".lock.owner").write_text(json.dumps(owner))
        return lock

    def _wait_for_workers(self) -> None:
        workers = self.folder / ".workers"
        if not workers.exists():
            return
        try:
            # they notice within a moment; what they are writing must not be repaired meanwhile
            with FileLock(workers, timeout=_WORKERS_SECONDS, thread_local=False):
                pass
        except Timeout:
            raise DataError(
                f"{self.folder} is still being written by worker processes of {self._owner()}, "
                "which is gone: end them, or use another --run DIR"
            ) from None
        except (OSError, NotImplementedError) as exc:
            log.debug("%s: no lock to wait for (%s)", workers, exc)

    def _owner(self) -> str:
        try:
            owner = json.loads((self.folder / ".lock.owner").read_bytes())
            return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
