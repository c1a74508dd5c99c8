"""The three official files opened together, for whoever makes a catalogue of them.

Owns which files belong together, what of an entry is used and what is left out. Knows nothing about
catalogues. Rules: `load_products` of princeton-nlp/WebShop, commit 64fa2a5. With human goals,
products take only `attributes` from the attributes file; with synthetic goals also the instruction.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eeflib.envs.webshop.official_files import Size, file_of
from eeflib.envs.webshop.official_stream import (
    OnError,
    StreamReport,
    iter_entries,
    iter_products,
)
from eeflib.errors import DataError, PrerequisiteError

__all__ = ["LeftOut", "Sources", "open_sources", "source_names"]


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
