"""Files that survive kills and full disks: JSON lines, text replaced as a whole, locked folders.

Import `RunFolder` to read and write the records of a run, `append_lines`, `read_objects`,
`read_records`, `write_atomic` and `RunLock` for other files.

A killed process loses at most the line it was writing; half of a line is cut off at the next append
and kept in `NAME.torn`, for a person to look at.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Self, TypeVar

import msgspec
from filelock import FileLock, Timeout

from eeflib.errors import DataError
from eeflib.records import SCHEMA_VERSION, Record, canonical_json, content_hash, fault, plain

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
T = TypeVar("T")

MANIFEST = "manifest.json"
DECIDES = "decides.json"
_NAME = re.compile(r"[\w+~-][\w.+~-]*(/[\w+~-][\w.+~-]*)*")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TURN = threading.RLock()
"""Threads of this process take turns; of processes only one may write, see `RunLock`."""
_WORKERS_SECONDS = 20.0
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
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
    return _each_line(path, report, lambda raw: _checked(parse_object(raw)))


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
        if quick := kind.from_line(raw):
            return quick
        row = parse_object(raw, surrogates)
        return kind.from_dict(row), row.get("schema")

    met: set[str] = set()
    for line, (record, schema) in _each_line(path, report, parse):
        name = getattr(record, "id", None)
        if name in met:
            report.duplicates += 1
            text = f"{path}:{line}: {name!r} occurs twice; each id is counted once"
            _say_once(path, 0, "duplicate", text)
            continue
        if name is not None:
            met.add(name)
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            report.newer += 1
            text = f"{path}: written by a newer eeflib (schema {schema}); update to use it all"
            _say_once(path, 0, "newer", text)
        report.records += 1
        yield record


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


def parse_object(raw: bytes, surrogates: bool = True) -> dict[str, Any]:
    """The JSON object on one line; DataError if it is none."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        value = _parse_slowly(raw)
        value = value if surrogates else encodable(value)
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__}, not an object")
    return value


def _parse_slowly(raw: bytes) -> Any:
    """Takes what msgspec refuses (a byte order mark, half a surrogate pair), or says why not."""
    try:
        return _checked(json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant))
    except UnicodeDecodeError as exc:
        at = f"byte 0x{raw[exc.start]:02x} at position {exc.start}"
        raise DataError(f"not UTF-8: {at}; save the file as UTF-8") from None
    except (ValueError, RecursionError) as exc:
        torn = "" if raw.endswith(b"\n") else "cut off: "
        raise DataError(f"{torn}not JSON: {exc}") from None


def _checked(value: T) -> T:
    """`value`; DataError if it holds what no record can, see `records.fault`."""
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


def write_atomic(path: Path, text: str | bytes) -> None:
    """Replace the file at `path`: at any moment it holds the old text or the new one, never a part.

    Raises:
        DataError: it cannot be written; the old text is still there.
    """
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, "wb", data)
            os.replace(temporary, path)
        finally:
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                left.unlink(missing_ok=True)  # also of a process that was killed while it wrote
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
    with _TURN:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            repair(path)
            size = path.stat().st_size if path.exists() else 0
            try:
                _write_synced(path, "ab", data)
            except OSError:
                with suppress(OSError):
                    os.truncate(path, size)
                raise
        except OSError as exc:
            _cannot_write(path, exc, "none of the last batch is kept, everything before it is")


def repair(path: Path) -> None:
    """Cut off a last line without an end, which a killed write left; it goes to `NAME.torn`.

    A whole object that only lacks its line end gets one.

    Raises:
        DataError: the file cannot be read or written.
    """
    if not path.is_file():
        return
    try:
        with _TURN, open(path, "r+b") as file:
            end = start = file.seek(0, os.SEEK_END)
            tail = b""
            while start and b"\n" not in tail:
                start = max(0, start - (1 << 20) if tail else start - 1)
                file.seek(start)
                tail = file.read(end - start)
            tail = tail[tail.rfind(b"\n") + 1 :]
            if not tail:
                return
            try:
                # no part of an object is one: only the line end is missing
                _checked(parse_object(tail))
                file.write(b"\n")
            except DataError:
                _write_synced(path.with_name(path.name + ".torn"), "ab", tail + b"\n")
                file.truncate(end - len(tail))
                text = "%s: an interrupted write was cut off (%d bytes, see *.torn)"
                log.warning(text, path, len(tail))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        _cannot_write(path, exc, "it was being repaired after an interrupted write")


def _write_synced(path: Path, mode: Literal["ab", "wb"], data: bytes) -> None:
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
        self._lock: FileLock | None = None

    def acquire(self) -> bool:
        """Take the lock, making the folder if needed; False if this object has it already.

        Raises:
            DataError: another process has it (the message says which), or the folder cannot be
                written.
        """
        with _TURN:
            if self._lock is not None and self._lock.is_locked:  # not so in a forked child
                return False
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._take()
            except Timeout as exc:
                workers = exc.lock_file.endswith(".workers")
                whose = f"worker processes of {self._owner()}, which is gone" if workers else ""
                raise DataError(
                    f"{self.folder} is being written by {whose or self._owner()}: wait until that "
                    "is done, stop it, or use another --run DIR"
                ) from None
            except OSError as exc:
                raise DataError(
                    f"{self.folder}: cannot be written ({exc.strerror or exc}); "
                    "use another --run DIR"
                ) from exc
            return True

    def release(self) -> None:
        """Give it back, if this object has it; the last user in the process frees the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _take(self) -> None:
        folder = self.folder.resolve()
        # one object for the process counts its users: a cell run twice must not lock itself out
        lock = FileLock(folder / ".lock", timeout=0, thread_local=False, is_singleton=True)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as exc:
            if isinstance(exc, Timeout) or getattr(exc, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
            text = "this file system has no locks; make sure only one process writes this run"
            _say_once(self.folder, 0, "no locks", f"{self.folder}: {text}")
            return
        try:
            if lock.lock_counter == 1:
                if (folder / ".workers").exists():
                    # they notice within a moment; what they write must not be repaired meanwhile
                    with FileLock(folder / ".workers", timeout=_WORKERS_SECONDS):
                        pass
                since = datetime.now(UTC).isoformat(timespec="seconds")
                owner = f"process {os.getpid()} on {platform.node()} (since {since})"
                (folder / ".lock.owner").write_text(owner)
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def _owner(self) -> str:
        try:
            return (self.folder / ".lock.owner").read_text("utf-8")
        except (OSError, ValueError):
            return "another process"


class RunFolder:
    """A run folder, or a folder inside one. Reading needs no lock; the first write takes it.

    As a context manager it gives the lock back at the end. Runs are started by `eeflib.run`.
    """

    def __init__(self, path: Path | str, *, lock: RunLock | None = None) -> None:
        """No file is touched yet; `lock` None: that of the nearest folder up with a manifest."""
        self.path = Path(path)
        if lock is None:
            above = (p for p in (self.path, *self.path.parents) if (p / MANIFEST).exists())
            lock = RunLock(next(above, self.path))
        self.lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; a later write takes it again."""
        self.lock.release()

    def sub(self, name: str) -> RunFolder:
        """The folder `name` (such as `seed-0/EEF/iter-1`) inside this one, under the same lock."""
        return RunFolder(self.path / _named(name), lock=self.lock)

    def step_folder(self, name: str, decides: Mapping[str, Any]) -> RunFolder:
        """The folder of a step that was, or will be, done with exactly these arguments.

        It is `sub(name)` as long as nothing was done there with other arguments, else the first
        part of `name` gets 6 hex digits of the arguments' hash: EEF~3f2a9c/iter-1. So a step called
        with other arguments never finds the old records. A new folder notes `decides`: JSON values
        such as method, iteration, M, seed and the student's hash.

        Raises:
            DataError: `decides` holds what JSON cannot; what is noted in a folder is unreadable.
        """
        wanted = plain(decides, path="decides")
        folder = self.sub(name)
        begun = any(p.is_file() and p.name[0] != "." for p in folder.path.glob("*"))
        if begun and folder.decides != wanted:
            first, slash, rest = name.partition("/")
            folder = self.sub(f"{first}~{content_hash(wanted)[:6]}{slash}{rest}")
        if folder.decides is None:
            folder.write_json(DECIDES, wanted)
        return folder

    @property
    def decides(self) -> Any:
        """The arguments that decided what this step's folder holds; None if it does not say."""
        try:
            return json.loads((self.path / DECIDES).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise DataError(
                f"{self.path / DECIDES}: unreadable ({exc}), so nobody knows how {self.path} was "
                "made: restore the file, or delete the folder"
            ) from exc

    def file(self, name: str) -> Path:
        """Path of the record file `name`: `trajectories` -> PATH/trajectories.jsonl."""
        return self.path / f"{_named(name.removesuffix('.jsonl'))}.jsonl"

    def exists(self, name: str) -> bool:
        """Whether there is a record file `name`."""
        return self.file(name).exists()

    def append(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> int:
        """Add records to the file `name`; return how many. Killed in here, it may add only some.

        Raises:
            DataError: a value that JSON cannot hold, a full disk (none of them is added then),
                another process writing.
        """
        lines = self._lines(name, records)
        self.lock.acquire()
        append_lines(self.file(name), lines)
        return len(lines)

    def rewrite(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> None:
        """Replace the file `name` by these records, atomically.

        Raises:
            DataError: as for `append`; the old file is then unchanged.
        """
        lines = self._lines(name, records)
        self.lock.acquire()
        write_atomic(self.file(name), "".join(line + "\n" for line in lines))

    def read(
        self, name: str, kind: type[Any] = dict, report: ReadReport | None = None
    ) -> Iterator[Any]:
        """The records of the file `name`, in the order written; of several with one id the first.

        A line that is no such record is logged with file and line number, counted in `report`, and
        passed over. `kind` is a record class, or `dict` for the JSON objects as they are.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        path = self.file(name)
        if not path.exists():
            raise DataError(
                f"{path} does not exist: run the step that writes {path.name} first, "
                "or name another run folder"
            )
        report = ReadReport() if report is None else report
        if issubclass(kind, Record):
            return read_records(path, kind, report)
        return (row for _, row in read_objects(path, report))

    def found(self, name: str, kind: type[T]) -> list[T]:
        """The records of the file `name`; none if there is no such file yet."""
        return list(self.read(name, kind)) if self.exists(name) else []

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value to PATH/`name`: whole or not at all. Raises as `append`."""
        path = self.path / _named(name)
        text = json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        self.lock.acquire()
        write_atomic(path, text)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long the block took, in `timings.jsonl`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - started, 3)
            self.append("timings", [{"name": name, "seconds": seconds}])

    def mark_done(
        self, name: str, summary: Mapping[str, Any] | None = None, *, files: Sequence[str] = ()
    ) -> None:
        """Phase `name` is finished and all its files are written; call it last.

        `phase` returns the summary later. The `files` are watched from now on: names of record
        files (`branches`), or paths with a suffix (`model/adapter_model.safetensors`).

        Raises:
            DataError: as for `append`; a file of `files` is missing.
        """
        seen = {file: _seal(self._watched(file)) for file in files}
        missing = [str(self._watched(f)) for f, state in seen.items() if state["sha256"] is None]
        if missing:
            raise DataError(f"phase {name} did not write {', '.join(missing)}: run it again")
        marker = {"phase": name, "summary": summary or {}, "files": seen}
        self.write_json(f"phases/{name}.json", marker)

    def phase(self, name: str) -> dict[str, Any] | None:
        """The summary that `mark_done(name, ...)` noted, or None if the phase is not finished.

        Raises:
            DataError: a file of the phase was changed, cut or deleted since: its records must
                neither be used nor quietly be made again.
        """
        path = self.path / "phases" / f"{_named(name)}.json"
        try:
            marker = json.loads(path.read_bytes())
            summary, seen = dict(marker["summary"]), dict(marker["files"])
            then = {file: (state["sha256"], state.get("bytes")) for file, state in seen.items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.warning("%s: unreadable (%s), so the phase counts as not finished", path, exc)
            return None
        for file, (before, size) in then.items():
            if _sha256(self._watched(file), size) != before:
                raise DataError(
                    f"{self._watched(file)} was changed or cut since `{name}` finished: restore "
                    f"the file, or delete {self.path} to do it again"
                )
        return summary

    def _watched(self, file: str) -> Path:
        return self.path / _named(file) if Path(file).suffix else self.file(file)

    def _lines(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> list[str]:
        """Checked before anything is written; measured times are left out."""
        lines = []
        for number, record in enumerate(records):
            row = record if isinstance(record, Mapping) else vars(record)
            try:
                out = plain(row) if isinstance(record, Mapping) else record.to_dict(timing=False)
                lines.append(canonical_json(out, is_plain=True))
            except DataError as exc:
                which = f"record {number} ({row.get('id', '')})"
                raise DataError(f"{self.file(name)}: {which} not written: {exc}") from exc
        return lines


def _seal(path: Path) -> dict[str, Any]:
    """What a file holds; records may be added to it later, anything else may not."""
    size = path.stat().st_size if path.suffix == ".jsonl" and path.is_file() else None
    return {"sha256": _sha256(path, size), **({} if size is None else {"bytes": size})}


def _sha256(path: Path, size: int | None = None) -> str | None:
    """Of the whole file, or its first `size` bytes; nothing has a reason to reorder its lines."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = path.stat().st_size if size is None else size
        while left and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} is no name for a file in a run folder: use letters, digits and . _ + - ~, "
            "with / between folders"
        )
    return name
