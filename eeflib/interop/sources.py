"""Rows of files that others wrote, in bounded memory: JSON, JSON lines, parquet, Inspect logs.

Import `files_of` and `rows_of`: what `eeflib.interop.read` reads. A file may be gzipped, have a
byte order mark, end in the middle, or hold bytes that are not UTF-8; whatever is no row goes to the
report with its place, and reading goes on where it can.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from eeflib.errors import DataError, PrerequisiteError
from eeflib.files import MANIFEST, encodable, parse_object
from eeflib.records import fault

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
"""(place, row)."""

_CHUNK = 1 << 20
LIMIT = 64 << 20
"""Bytes of one line, or of one entry of an array; longer ones are skipped."""

_INFLATED, _RATIO = 256 << 20, 400
"""A packed file that grows beyond both is a bomb; episodes shrink by a factor of 5 to 100."""
_REASONS = 100
"""Reasons told apart in a report."""
_KINDS = {".json", ".jsonl", ".ndjson", ".gz", ".parquet", ".eval"}
_BROKEN = "\ufdd0"
"""Stands where bytes were no text; not a character, so no text holds it."""
_HALVES = re.compile("[\udc80-\udcff]")
_BLANK = b" \t\r\n"


@dataclass
class Noted:
    """How often something was met, and where first."""

    count: int = 0
    first: str = ""
    """FILE:LINE, or FILE[INDEX] of an array's entry, with details where there are any."""


@dataclass
class ImportReport:
    """What reading met; `str()` is for people."""

    files: int = 0
    read: int = 0
    """Episodes read."""
    formats: Counter[str] = field(default_factory=Counter)
    """Of them, by format."""
    faults: int = 0
    """Of them, ended by a fault of the harness (`error` is set)."""
    unrated: int = 0
    """Of them, without a reward."""
    skipped: dict[str, Noted] = field(default_factory=dict)
    """What is no episode, by reason."""
    noted: dict[str, Noted] = field(default_factory=dict)
    """What was changed or assumed in episodes that were read."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Keys of the first row that no reader knows -> where it is."""

    def skip(self, reason: str, place: str, detail: str = "") -> None:
        """Count something that is not read."""
        self._count(self.skipped, reason, f"{place} ({detail})" if detail else place)

    def note(self, what: str, place: str) -> None:
        """Count something that the reader decided."""
        self._count(self.noted, what, place)

    @staticmethod
    def _count(into: dict[str, Noted], what: str, place: str) -> None:
        if len(into) >= _REASONS:
            what = "further reasons"
        found = into.setdefault(what, Noted(first=place))
        found.count += 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        tables = {
            name: {what: vars(found) for what, found in getattr(self, name).items()}
            for name in ("skipped", "noted")
        }
        counts = {n: getattr(self, n) for n in ("files", "read", "faults", "unrated")}
        return {**counts, "formats": dict(self.formats), **tables}

    def __str__(self) -> str:
        by = ", ".join(f"{n} {name}" for name, n in self.formats.most_common())
        skipped = sum(found.count for found in self.skipped.values())
        lines = [
            f"{self.read} episodes read from {self.files} files{f' ({by})' if by else ''}, "
            f"{skipped} skipped; {self.unrated} without a reward, {self.faults} ended by a fault"
        ]
        for title, table in (("skipped", self.skipped), ("noted", self.noted)):
            lines += [f"  {title} {n.count} x {what}: {n.first}" for what, n in table.items()]
        return "\n".join(lines)


class Unreadable(Exception):
    """The rest of a file cannot be read; the message says why."""


def files_of(path: Path, report: ImportReport) -> Iterator[tuple[Path, str]]:
    """(file, name to show) of a file, or of all in a folder, in order; of a run its trajectories.

    Raises:
        DataError: there is nothing at `path`.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        yield path, path.name
        return
    whole = path.resolve().name
    runs: list[Path] = []
    for file in sorted(path.rglob("*")):
        shown = f"{whole}/{file.relative_to(path).as_posix()}"
        if not file.is_file() or any(p.startswith(".") for p in file.relative_to(path).parts):
            continue
        if (file.parent / MANIFEST).is_file():
            runs.append(file.parent)
        if any(run in file.parents for run in runs):
            if file.name != "trajectories.jsonl":
                report.skip("a file of a run that holds no teacher's trajectories", shown)
                continue
        elif file.suffix not in _KINDS:
            report.skip(f"not a data file by its name ({file.suffix or 'no suffix'})", shown)
            continue
        yield file, shown


def rows_of(file: Path, name: str, report: ImportReport) -> Rows:
    """(place, row) of everything in a file that is a JSON object, or a row of a table.

    Raises:
        PrerequisiteError: reading it takes a package that is not installed; the message names it.
    """
    report.files += 1
    read = 0
    try:
        with open(file, "rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            kind = _parquet if magic == b"PAR1" else _inspect if magic == b"PK\x03\x04" else _json
            for place, row in kind(raw, name, report):
                read += 1
                if found := fault(row):
                    report.skip("holds what no record can", place, f"${found}")
                else:
                    yield place, row
    except Unreadable as exc:
        reason, _, detail = str(exc).partition(": ")
        report.skip(reason, name, detail)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as exc:
        report.skip(
            "the packed file is damaged or cut off; what came before was read", name, _one(exc)
        )
    except OSError as exc:
        report.skip("cannot be opened", name, exc.strerror or str(exc))


def _one(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]


class _Stream:
    """The bytes of a file, or of what is gzipped in it; refuses bombs."""

    def __init__(self, raw: BinaryIO) -> None:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self.raw = raw
        self.inner: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        self.packed = packed
        self.broken = False
        """Whether something so far was no text."""
        self.since = 0
        """Bytes since the last entry of an array."""
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")

    def rewind(self) -> None:
        self.inner.seek(0)

    def readline(self) -> tuple[bytes, bool]:
        """(the next line, whether it is whole): of one that is too long, the beginning."""
        line = self._checked(self.inner.readline(LIMIT))
        if len(line) < LIMIT or line.endswith(b"\n"):
            return line, True
        while (more := self._checked(self.inner.readline(1 << 20))) and not more.endswith(b"\n"):
            pass
        return line[:100], False

    def read(self, n: int) -> bytes:
        """For ijson: bytes that are UTF-8 for certain, with `_BROKEN` where they were not."""
        while data := self._checked(self.inner.read(n)):  # n may be 0: ijson asks for the type
            self.since += len(data)
            if self.since > LIMIT + _CHUNK:
                raise Unreadable(
                    f"an entry of more than {LIMIT >> 20} MB; what follows it in the file is not "
                    "read"
                )
            text = self._decoder.decode(data)
            if "\0" in text or (not text.isascii() and _HALVES.search(text)):
                self.broken = True
                text = _HALVES.sub(_BROKEN, text.replace("\0", _BROKEN))
            if text:  # else it was the first bytes of a character
                return text.encode()
        return b""

    def start(self, n: int) -> bytes:
        """The first `n` bytes; reading goes on from the beginning."""
        head = self.inner.read(n)
        self.rewind()
        return head

    def _checked(self, data: bytes) -> bytes:
        if self.packed and self.inner.tell() > max(_INFLATED, _RATIO * self.raw.tell()):
            raise Unreadable(
                f"unpacks to more than {_RATIO} times its size: unpack it yourself if that is meant"
            )
        return data


def _json(raw: BinaryIO, name: str, report: ImportReport) -> Rows:
    stream = _Stream(raw)
    head = stream.start(4096)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("UTF-16: save the file as UTF-8")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip(_BLANK)
    if not text:
        raise Unreadable("an empty file" if len(head) < 4096 else "begins with 4 KB of blanks")
    if text[:1] == b"[":
        yield from _array(stream, name, report)
        return
    first, whole = stream.readline()
    while whole and first and not first.removeprefix(codecs.BOM_UTF8).strip():
        first, whole = stream.readline()
    try:
        _object(first)
    except DataError:  # not a line of its own: perhaps one object over many lines
        stream.rewind()
        data = stream.inner.read(LIMIT + 1) if whole else b""
        if whole and len(data) <= LIMIT:
            try:
                yield name, _object(data)
                return
            except DataError:
                pass
        del data
    stream.rewind()
    yield from _lines(stream, name, report)


def _lines(stream: _Stream, name: str, report: ImportReport) -> Rows:
    number = 0
    while True:
        line, whole = stream.readline()
        if not line:
            return
        number += 1
        place = f"{name}:{number}"
        if not whole:
            report.skip(f"a line of more than {LIMIT >> 20} MB", place)
        elif line.strip():
            try:
                yield place, _object(line)
            except DataError as exc:
                reason, _, detail = str(exc).partition(": ")
                report.skip("NUL bytes in it" if b"\0" in line else reason, place, detail[:200])


def _array(stream: _Stream, name: str, report: ImportReport) -> Rows:
    import ijson

    at = 0

    def entries() -> Iterator[Any]:
        try:
            # it copies what it has of a long text with every chunk, so these are large
            yield from ijson.items(stream, "item", use_float=True, buf_size=_CHUNK)
        except ijson.JSONError as exc:
            wrong = _one(exc)
        else:
            return
        stream.rewind()
        data = stream.inner.read(LIMIT + 1)
        rest = _leniently(data) if len(data) <= LIMIT else None
        if isinstance(rest, list):
            yield from rest[at:]
        else:
            report.skip("cut off, or no JSON, from here on", f"{name}[{at}]", wrong)

    for row in entries():
        stream.since = 0
        place = f"{name}[{at}]"
        at += 1
        if stream.broken and _holds(row, _BROKEN):
            report.skip("bytes in it that are not UTF-8 text", place)
        elif isinstance(row, dict):
            yield place, row
        else:
            report.skip("an entry that is no object", place, type(row).__name__)


def _object(line: bytes) -> Row:
    try:
        return parse_object(line, surrogates=False)
    except DataError:
        if isinstance(row := _leniently(line), dict):
            return row
        raise


def _leniently(data: bytes) -> Any:
    """What Python writes and reads though it is no JSON: NaN (here null), raw control characters.

    None if it is not even that, or holds NUL.
    """
    try:
        if b"\0" not in data:
            text = data.decode("utf-8-sig")
            return encodable(json.loads(text, strict=False, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        pass
    return None


def _holds(value: Any, sign: str) -> bool:
    if isinstance(value, str):
        return sign in value
    if isinstance(value, dict):
        return any(_holds(k, sign) or _holds(v, sign) for k, v in value.items())
    return isinstance(value, list) and any(_holds(v, sign) for v in value)


def _parquet(raw: BinaryIO, name: str, _: ImportReport) -> Rows:
    try:
        from pyarrow import parquet
    except ImportError:
        raise PrerequisiteError(
            f"{name} is a parquet file, which takes pyarrow to read: "
            "run `pip install 'eeflib[parquet]'`"
        ) from None
    at = 0
    try:
        for batch in parquet.ParquetFile(raw).iter_batches(batch_size=32):
            for row in batch.to_pylist():
                yield f"{name}[{at}]", as_json(row)
                at += 1
    except (ValueError, OSError) as exc:  # what pyarrow's errors are
        raise Unreadable(f"not a whole parquet file: after row {at}: {_one(exc)}") from None


def _inspect(raw: BinaryIO, name: str, _: ImportReport) -> Rows:
    """Samples of an Inspect log, as rows with `messages`, `scores` and the log's `eval`."""
    with zipfile.ZipFile(raw) as packed:
        held = packed.infolist()
        if not any(item.filename == "header.json" for item in held):
            raise Unreadable("a zip file, but no Inspect log: unpack it and name the files in it")
        for item in held:
            if item.file_size > max(_INFLATED, _RATIO * item.compress_size):
                raise Unreadable(f"unpacks to more than {_RATIO} times its size: {item.filename}")
    try:
        from inspect_ai import log
    except ImportError:
        raise PrerequisiteError(
            f"{name} is an Inspect log, which takes inspect_ai to read: "
            "run `pip install 'eeflib[inspect]'`"
        ) from None
    try:
        head = log.read_eval_log(raw.name, header_only=True).eval
        about = head.model_dump(mode="json", include={"task", "model", "created", "run_id"})
        for one in log.read_eval_log_sample_summaries(raw.name):
            sample = log.read_eval_log_sample(
                raw.name, one.id, one.epoch, resolve_attachments=True
            ).model_dump(mode="json", exclude={"events", "timelines", "store"})
            yield f"{name}[{one.id}/{one.epoch}]", as_json({**sample, "eval": about})
    except (ValueError, OSError, LookupError, RuntimeError) as exc:
        raise Unreadable(f"not a whole Inspect log: {_one(exc)}") from None


def as_json(value: Any) -> Any:
    """A value of a table as JSON has it: times as text, what is no number as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, (str, int)) else str(value)


def short_json(value: Any) -> str:
    """JSON on one line, as an action or a fault is shown."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
