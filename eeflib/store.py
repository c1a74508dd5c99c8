"""The run folder: append-only JSON lines, a manifest beside them, resume, one writer at a time.

Owns the folder's layout, what a run may be continued with, phase markers, the lock. Knows nothing
about what the records mean.

    RUN/manifest.json           what made the run; says that the folder is a run
    RUN/NAME.jsonl              records, a whole one per line
    RUN/timings.jsonl           measured times of those records: the one file that differs between
                                two runs of the same configuration
    RUN/phases/NAME.json        a finished phase and its summary
    RUN/seed-0/EEF/iter-1/...   the same again, see `RunFolder.sub`

A run is continued by opening it with the same configuration: finished phases are passed over
(`phase_done`), finished records too (`done_ids`), a half-written batch was never there.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from eeflib.errors import DataError
from eeflib.jsonl import ReadReport, append_lines, read_objects, repair, write_atomic
from eeflib.lock import RunLock
from eeflib.manifest import MANIFEST, check_same, make_manifest, read_manifest
from eeflib.records import SCHEMA_VERSION, Record, canonical_json, plain

__all__ = ["ReadReport", "RunFolder", "open_run"]

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

_FRESH = ".eeflib-fresh"
_NAME = re.compile(r"[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*")


def open_run(
    path: Path | str,
    config: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (),
    fresh: bool = False,
    stable: bool = True,
) -> RunFolder:
    """Start the run in `path`, or continue it if it was made with the same `config` and `seeds`.

    Takes the run's lock and repairs what a killed process left half-written.

    Args:
        path: the run folder; made if it is missing.
        config: JSON values (nested dicts allowed) that decide the run's results.
        seeds: seeds of the run.
        fresh: delete what is there and start over.
        stable: leave measured times out of the records (they go to `timings.jsonl`), so that two
            runs of the same configuration write the same bytes.

    Raises:
        DataError: another process writes the run; it was made with another configuration (the
            message names the keys that differ); the folder holds something else, or cannot be
            written.
    """
    run = RunFolder(path, stable=stable, lock=RunLock(Path(path)))
    manifest = make_manifest(config, seeds)
    try:
        run._lock.acquire()
        if fresh or (run.path / _FRESH).exists():
            _wipe(run.path)
        if (run.path / MANIFEST).exists():
            check_same(run.path, manifest)
        elif any(not p.name.startswith(".") for p in run.path.iterdir()):
            raise DataError(
                f"{run.path} is not empty and holds no {MANIFEST}, so it is not a run folder: "
                "name an empty or new one with --run DIR"
            )
        else:
            run.write_atomic(MANIFEST, manifest)
        for file in sorted(run.path.rglob("*.jsonl")):
            repair(file)
    except BaseException:
        run.close()
        raise
    return run


class RunFolder:
    """A run folder, or a folder inside one. Reading needs no lock; the first write takes it.

    `RunFolder(path)` opens what is there, for reading or for adding to it by hand; `open_run` is
    the way to start and continue a run. As a context manager it gives the lock back at the end.
    """

    def __init__(
        self, path: Path | str, *, stable: bool = True, lock: RunLock | None = None
    ) -> None:
        """No file is touched yet.

        Args:
            path: the folder.
            stable: see `open_run`.
            lock: the run's lock; None: that of the nearest folder upwards with a manifest.
        """
        self.path = Path(path)
        self.stable = stable
        if lock is None:
            above = (p for p in (self.path, *self.path.parents) if (p / MANIFEST).exists())
            lock = RunLock(next(above, self.path))
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; a later write takes it again."""
        self._lock.release()

    def sub(self, name: str) -> RunFolder:
        """The folder `name` (such as `seed-0/EEF/iter-1`) inside this one, under the same lock."""
        return RunFolder(self.path / _checked(name), stable=self.stable, lock=self._lock)

    @property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest.

        Raises:
            DataError: missing or unreadable.
        """
        return read_manifest(self._lock.folder)

    def file(self, name: str) -> Path:
        """Path of the record file `name`: `trajectories` -> PATH/trajectories.jsonl."""
        return self.path / f"{_checked(name.removesuffix('.jsonl'))}.jsonl"

    def exists(self, name: str) -> bool:
        """Whether there is a record file `name`."""
        return self.file(name).exists()

    def append(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> int:
        """Add records to the file `name`, all of them or none; return how many.

        Raises:
            DataError: a value that JSON cannot hold, a full disk, another process writing.
        """
        lines, timings = self._lines(name, records)
        self._lock.acquire()
        append_lines(self.file(name), lines)
        append_lines(self.file("timings"), timings)
        return len(lines)

    def rewrite(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> int:
        """Replace the file `name` by these records, atomically; return how many.

        Raises:
            DataError: as for `append`; the old file is then unchanged.
        """
        lines, timings = self._lines(name, records)
        self._lock.acquire()
        repair(self.file(name))  # else what a killed append left would be taken from the new file
        write_atomic(self.file(name), "".join(line + "\n" for line in lines))
        append_lines(self.file("timings"), timings)
        return len(lines)

    @overload
    def read(self, name: str, kind: type[R], report: ReadReport | None = None) -> Iterator[R]: ...

    @overload
    def read(
        self, name: str, kind: type[dict[str, Any]] = dict, report: ReadReport | None = None
    ) -> Iterator[dict[str, Any]]: ...

    def read(self, name: str, kind: type = dict, report: ReadReport | None = None) -> Iterator[Any]:
        """The records of the file `name`, in the order written.

        A line that is no such record is logged with file and line number, counted in `report`, and
        passed over.

        Args:
            name: as for `append`.
            kind: a record class, or `dict` for the JSON objects as they are.
            report: filled while reading.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        path = self.file(name)
        if not path.exists():
            raise DataError(
                f"{path} does not exist: run the step that writes {path.name} first, "
                "or name another run folder"
            )
        return _read(path, kind, ReadReport() if report is None else report)

    def done_ids(self, name: str) -> set[str]:
        """Ids of the records in the file `name`: what need not be done again.

        Takes the lock and repairs the file first, so that no half-written batch counts.
        """
        self._lock.acquire()
        repair(self.file(name))
        if not self.exists(name):
            return set()
        return {row["id"] for row in self.read(name) if isinstance(row.get("id"), str)}

    def write_atomic(self, name: str, value: str | Mapping[str, Any] | Sequence[Any]) -> Path:
        """Write text as it is, anything else as JSON, to PATH/`name`: whole or not at all.

        Raises:
            DataError: as for `append`.
        """
        path = self.path / _checked(name)
        if path.suffix == ".jsonl":
            raise DataError(f"{path}: record files are written by append and rewrite")
        if not isinstance(value, str):
            value = json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        self._lock.acquire()
        write_atomic(path, value)
        return path

    def timing(self, name: str, seconds: float, **facts: Any) -> None:
        """Note how long something took, in `timings.jsonl`."""
        self._lock.acquire()
        row = {"name": name, "seconds": round(seconds, 3), **facts}
        append_lines(self.file("timings"), [canonical_json(row)])

    def mark_done(self, name: str, summary: Mapping[str, Any] | None = None) -> None:
        """Phase `name` is finished and all its files are written; call it last."""
        self.write_atomic(f"phases/{name}.json", {"phase": name, "summary": summary or {}})

    def phase_done(self, name: str) -> bool:
        """Whether `mark_done(name)` was called, in this process or an earlier one."""
        return self.phase_summary(name) is not None

    def phase_summary(self, name: str) -> dict[str, Any] | None:
        """The summary given to `mark_done`, or None if the phase is not finished."""
        path = self.path / "phases" / f"{_checked(name)}.json"
        try:
            content = json.loads(path.read_bytes())
            return dict(content["summary"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.warning("%s: unreadable (%s), so the phase counts as not finished", path, exc)
            return None

    def _lines(
        self, name: str, records: Iterable[Record | Mapping[str, Any]]
    ) -> tuple[list[str], list[str]]:
        """Lines for the file and lines for the timings; checked before anything is written."""
        lines, timings = [], []
        for number, record in enumerate(records):
            seconds = 0.0
            try:
                if isinstance(record, Record):
                    row = record.to_dict(timing=not self.stable)
                    seconds = record.timing_seconds() if self.stable else 0.0
                else:
                    row = dict(record)
                lines.append(canonical_json(row))
            except DataError as exc:
                raise DataError(
                    f"{self.file(name)}: record {number} ({_id(record)}) not written: {exc}"
                ) from exc
            if seconds:
                took = {"file": name, "id": _id(record), "seconds": round(seconds, 3)}
                timings.append(canonical_json(took))
        return lines, timings


def _read(path: Path, kind: type, report: ReadReport) -> Iterator[Any]:
    for number, row in read_objects(path, report):
        schema = row.get("schema")
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            if not report.newer:
                log.warning(
                    "%s: written by a newer eeflib (schema %d, this one knows %d): keys it does "
                    "not know are kept but not used; update eeflib",
                    path,
                    schema,
                    SCHEMA_VERSION,
                )
            report.newer += 1
        try:
            record = kind.from_dict(row) if issubclass(kind, Record) else row
        except DataError as exc:
            report.skip(path, number, str(exc))
            continue
        report.records += 1
        yield record


def _id(record: Any) -> str:
    value = record.get("id") if isinstance(record, Mapping) else getattr(record, "id", "")
    return value if isinstance(value, str) else ""


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} is no name for a file in a run folder: use letters, digits and . _ + -, "
            "with / between folders"
        )
    return name


def _wipe(folder: Path) -> None:
    """Delete a run's files, but only a run's; if killed half-way, the next opening goes on."""
    marker = folder / _FRESH
    try:
        if not marker.exists():
            if not any(not p.name.startswith(".") for p in folder.iterdir()):
                return
            read_manifest(folder)
            marker.touch()
        for item in folder.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif not item.name.startswith("."):
                item.unlink()
        marker.unlink()
    except OSError as exc:
        raise DataError(f"{folder}: cannot be emptied ({exc}); delete it by hand") from exc
