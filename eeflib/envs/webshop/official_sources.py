"""The three official files, read together, entry by entry, in bounded memory.

Import `open_sources` and `iter_products` from here. Rules: `load_products` of
princeton-nlp/WebShop, commit 64fa2a5. With human goals, products take only `attributes` from the
attributes file; with synthetic goals also the instruction.

Memory: one piece of 1 MiB and the largest entry. The standard library's scanner does the parsing,
fed piece by piece: 104 MB per CPU second on official-schema rows, against 58 for ijson's C backend
and 49 for `json.load` of the whole file, and it knows where the fault is.
"""

from __future__ import annotations

import codecs
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm.auto import tqdm

from eeflib.envs.webshop.download import Size, file_of
from eeflib.errors import DataError, PrerequisiteError

__all__ = [
    "LeftOut",
    "OnError",
    "Sources",
    "StreamReport",
    "iter_entries",
    "iter_products",
    "open_sources",
    "source_names",
]

log = logging.getLogger(__name__)

OnError = Literal["raise", "report"]

_PIECE = 1 << 20
_LARGEST = 64 << 20
"""Characters of one entry; more means that a bracket is missing somewhere."""
_BLANKS = re.compile(r"[ \t\n\r]*")
_DECODE = json.JSONDecoder().raw_decode


class Fault(NamedTuple):
    """Where a file stops being readable."""

    file: Path
    offset: int
    """Bytes before the fault."""
    entry: int
    """Number of the entry it is in, from 0: so many were read before it."""
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.file}: byte {self.offset:,}, entry {self.entry}: {self.reason}; the "
            f"{self.entry} entries before it are readable, so the file is damaged or cut off: "
            "fetch it again (python -m eeflib.envs.webshop.download)"
        )


@dataclass
class StreamReport:
    """What reading a file met; pass one in and look at it afterwards."""

    entries: int = 0
    fault: Fault | None = None
    """None: read to the end."""


def iter_products(
    path: str | Path,
    *,
    on_error: OnError = "raise",
    report: StreamReport | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON array, such as `items_shuffle.json`, with their positions from 0.

    Args:
        on_error: what to do about damaged JSON, after everything before it was yielded: raise, or
            end there, log it and note it in `report`.
        progress: show how much of the file is read.

    Raises:
        PrerequisiteError: there is no such file.
        DataError: the file cannot be read, or is damaged (byte offset and entry are named).
    """
    for number, (_, row) in enumerate(_entries(Path(path), "[", on_error, report, progress)):
        yield number, row


def iter_entries(
    path: str | Path,
    *,
    on_error: OnError = "raise",
    report: StreamReport | None = None,
    progress: bool = False,
) -> Iterator[tuple[str, Any]]:
    """The (key, value) pairs of a JSON object, such as `items_ins_v2.json`; as `iter_products`."""
    yield from _entries(Path(path), "{", on_error, report, progress)


def _entries(
    path: Path, opening: str, on_error: OnError, report: StreamReport | None, progress: bool
) -> Iterator[tuple[str, Any]]:
    report = report if report is not None else StreamReport()
    try:
        with _Reader(path) as reader, _bar(path, progress) as bar:
            try:
                for pair in _walk(reader, opening):
                    report.entries += 1
                    if reader.start != bar.n:
                        bar.update(reader.start - bar.n)
                    yield pair
                bar.update((bar.total or 0) - bar.n)
            except _Broken as exc:
                report.fault = Fault(path, exc.offset, report.entries, exc.reason)
    except FileNotFoundError as exc:
        raise PrerequisiteError(
            f"{path} is missing: python -m eeflib.envs.webshop.download {path.parent} fetches it"
        ) from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if report.fault is not None:
        if on_error == "raise":
            raise DataError(str(report.fault))
        log.warning("%s", report.fault)


def _bar(path: Path, progress: bool) -> Any:
    return tqdm(
        total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=not progress
    )


def _walk(reader: _Reader, opening: str) -> Iterator[tuple[str, Any]]:
    closing = "]" if opening == "[" else "}"
    reader.expect(opening)
    if reader.peek() == closing:
        reader.expect(closing)
    else:
        while True:
            key = ""
            if opening == "{":
                if reader.peek() != '"':
                    raise reader.broken(f"expected a key, found {reader.peek()!r}")
                key = reader.value()
                reader.expect(":")
            yield key, reader.value()
            if reader.peek() == closing:
                reader.expect(closing)
                break
            reader.expect(",")
    if reader.peek():
        raise reader.broken("text after the end of the JSON")


class _Broken(Exception):
    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


class _Reader:
    """A window over a UTF-8 file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Reader:
        self.file = open(self.path, "rb")
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at = "", 0
        self.start = 0  # bytes before the window
        self.ended = ""  # why there is no more
        if self.file.read(3) == codecs.BOM_UTF8:
            self.start = 3
        self.file.seek(self.start)
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def broken(self, reason: str, at: int | None = None) -> _Broken:
        before = self.text[: self.at if at is None else at]
        return _Broken(self.start + len(before.encode()), reason)

    def _more(self) -> bool:
        """Widen the window; False at the end of what can be decoded."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        self.start += len(self.text[: self.at].encode())
        # a large entry doubles the window, so that it is not scanned again for every piece
        piece = self.file.read(max(_PIECE, len(rest)))
        try:
            fresh = self.decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as exc:
            fresh = exc.object[: exc.start].decode()
            self.ended = f"not UTF-8: {exc.reason}"
        else:
            self.ended = "" if piece else "the file ends in the middle"
        self.text, self.at = rest + fresh, 0
        return bool(fresh) or not self.ended

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            found = _BLANKS.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                if self.ended.startswith("not UTF-8"):
                    raise self.broken(self.ended)
                return ""

    def expect(self, sign: str) -> None:
        found = self.peek()
        if found != sign:
            reason = f"expected {sign!r}, found {found!r}" if found else self.ended
            raise self.broken(reason)
        self.at += 1

    def value(self) -> Any:
        """The value that starts here."""
        if not self.peek():
            raise self.broken(self.ended)
        while True:
            try:
                value, end = _DECODE(self.text, self.at)
            except json.JSONDecodeError as exc:
                # only what stands at the edge of the window may be whole in a wider one
                edge = exc.pos > len(self.text) - 16 or exc.msg.startswith("Unterminated")
                if edge and len(self.text) - self.at > _LARGEST:
                    raise self.broken("an entry over 64 MB: a bracket or quote is missing") from exc
                if edge and self._more():
                    continue
                reason = self.ended if edge and self.ended else exc.msg
                raise self.broken(reason, len(self.text) if edge else exc.pos) from exc
            except RecursionError as exc:
                raise self.broken("brackets nested too deeply") from exc
            width = end - self.at
            at_edge = len(self.text) - end < 4 and not isinstance(value, (dict, list, str))
            if at_edge and self._more():  # what looks like 1 may be the start of 1e-9
                continue
            self.at += width
            return value


class LeftOut(NamedTuple):
    """Something in the files that is not used, and why; `str()` is one line."""

    file: str
    place: str
    """`row 17` of the products, or an asin."""
    reason: str

    def __str__(self) -> str:
        text = f"{self.file}: {self.place}: {self.reason}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Sources:
    """The files opened; `rows` runs once, then `left_out` and the reports are complete."""

    rows: Iterator[Any]
    """Rows of the products file, streamed."""
    attributes: dict[str, dict[str, Any]]
    """asin -> entry of the attributes file, what is not needed dropped."""
    instructions: dict[str, list[dict[str, Any]]]
    """asin -> human instructions."""
    left_out: list[LeftOut]


def source_names(size: Size, human: bool) -> list[str]:
    """Names of the files of products, attributes and, for human goals, instructions.

    Raises:
        DataError: no such size.
    """
    if size not in ("small", "full"):
        raise DataError(f"size must be 'small' or 'full', not {size!r}")
    files = [file_of(size, "products"), file_of(size, "attributes")]
    return [f.name for f in (*files, *([file_of("human", "instructions")] if human else []))]


def open_sources(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    on_error: OnError = "raise",
    limit: int | None = None,
    progress: bool = False,
) -> Sources:
    """Read the two smaller files and start on the products.

    For builders that take rows one by one. Memory: the attributes of all products (1.18 million:
    under 1 GB), never the products. `progress` shows a bar for each file.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged, see `on_error` of `iter_products`.
    """
    folder, left_out = Path(folder), list[LeftOut]()
    products, attributes, *people = wanted = source_names(size, human)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise PrerequisiteError(
            f"{folder}: {', '.join(missing)} missing: fetch them with "
            f"python -m eeflib.envs.webshop.download {folder} --set {size}"
        )

    def entries(name: str) -> Iterator[tuple[str, Any]]:
        report = StreamReport()
        path = folder / name
        yield from iter_entries(path, on_error=on_error, report=report, progress=progress)
        if report.fault:
            left_out.append(_cut(name, report))

    def rows() -> Iterator[Any]:
        report = StreamReport()
        path = folder / products
        stream = iter_products(path, on_error=on_error, report=report, progress=progress)
        for _, row in itertools.islice(stream, limit):
            yield row
        if report.fault:
            left_out.append(_cut(products, report))

    kept = {asin: _entry(attributes, asin, e, human, left_out) for asin, e in entries(attributes)}
    instructions = {
        asin: _instructions(name, asin, wishes, left_out)
        for name in people
        for asin, wishes in entries(name)
    }
    return Sources(rows(), kept, instructions, left_out)


def _cut(name: str, report: StreamReport) -> LeftOut:
    assert report.fault is not None
    return LeftOut(name, f"from byte {report.fault.offset:,} on", report.fault.reason)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _entry(
    name: str, asin: str, entry: Any, human: bool, left_out: list[LeftOut]
) -> dict[str, Any]:
    """An entry of the attributes file; unusable fields dropped, attribute texts shared."""
    if not isinstance(entry, Mapping):
        left_out.append(LeftOut(name, asin, f"an object is expected, got {entry!r:.60}"))
        return {}
    out: dict[str, Any] = {}
    fields = ("attributes",) if human else ("attributes", "instruction_attributes")
    for field in fields:
        value = entry.get(field)
        if value is None:
            continue
        if _strings(value):
            out[field] = [sys.intern(v) for v in value]
        else:
            left_out.append(
                LeftOut(name, asin, f"field {field}: expected texts, got {value!r:.60}")
            )
    text = entry.get("instruction")
    if not human and isinstance(text, str):
        out["instruction"] = text
    elif not human and text is not None:
        left_out.append(LeftOut(name, asin, f"field instruction: expected text, got {text!r:.60}"))
    return out


def _instructions(name: str, asin: str, rows: Any, left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """The human instructions of a product that the official loader could use."""
    if not isinstance(rows, list):
        left_out.append(LeftOut(name, asin, f"a list is expected, got {rows!r:.60}"))
        return []
    kept = []
    for number, row in enumerate(rows):
        fault = _fault(row)
        if fault:
            left_out.append(LeftOut(name, f"{asin}, instruction {number}", fault))
        else:
            kept.append(row)
    return kept


def _fault(row: Any) -> str:
    """What is wrong with a human instruction; one without attributes is fine, and no goal."""
    if not isinstance(row, Mapping):
        return f"an object is expected, got {row!r:.60}"
    if not isinstance(row.get("instruction"), str):
        return f"field instruction: expected text, got {row.get('instruction')!r:.60}"
    for field in ("instruction_attributes", "instruction_options"):
        if not _strings(row.get(field)):
            return f"field {field}: expected texts, got {row.get(field)!r:.60}"
    return ""
