"""JSON files of any size, entry by entry, in bounded memory.

Owns reading: where an entry ends, where a damaged file stops being readable. Knows nothing about
what the entries mean. Memory: one piece of 1 MiB and the largest entry.

The standard library's scanner does the parsing, fed piece by piece: 104 MB per CPU second on
official-schema rows, against 58 for ijson's C backend and 49 for `json.load` of the whole file,
and it knows where the fault is.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm.auto import tqdm

from eeflib.errors import DataError, PrerequisiteError

__all__ = ["Fault", "OnError", "StreamReport", "iter_entries", "iter_products"]

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
        # a large entry doubles the window, so that it is not scanned anew for every piece
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
