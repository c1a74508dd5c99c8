"""Official WebShop data as a catalogue and its goals.

Owns which files belong together, what of them is used and what is left out. Knows nothing about
where the files come from (`download`), nor about splits. Rules: `load_products` and `get_goals` of
princeton-nlp/WebShop, commit 64fa2a5.

With human goals, products take only `attributes` from the attributes file; with synthetic goals
also the instruction. Goals exist only for products that are loaded, so the small set has the few
hundred human goals of its own products, in an order of their own (see `splits`).
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eeflib.envs.webshop.catalogue import Catalogue, Product, SkippedRow
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals
from eeflib.envs.webshop.nouns import Nouns, best_nouns, word_nouns
from eeflib.envs.webshop.official_files import Size, file_of
from eeflib.envs.webshop.official_stream import (
    OnError,
    StreamReport,
    iter_entries,
    iter_products,
)
from eeflib.errors import DataError, PrerequisiteError

__all__ = ["LeftOut", "Official", "Sources", "load_official", "open_sources"]

log = logging.getLogger(__name__)

_BATCH = 2_000


class LeftOut(NamedTuple):
    """Something in the files that is not used, and why; `str()` is one line."""

    file: str
    place: str
    """`row 17` of the products, or an asin."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.reason}"


@dataclass(frozen=True)
class Official:
    """Everything that was loaded."""

    catalogue: Catalogue
    goals: tuple[dict[str, Any], ...]
    """In official order (seed 233)."""
    kind: Literal["human", "synthetic"]
    size: Size
    strict: bool
    """Whether environments keep the official quirks."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows, entries and instructions that are not used."""
    limit: int | None = None
    """Rows of the products file that were read; None: all."""

    @property
    def seed(self) -> int:
        """Seed of prices and price limits."""
        return self.catalogue.seed

    @property
    def nouns(self) -> Nouns:
        """Nouns of the title score, as `env` takes them; loads spaCy if strict and installed."""
        return best_nouns() if self.strict else word_nouns

    def env(self, **options: Any) -> WebShopEnv:
        """An environment over the catalogue; `options` are those of `WebShopEnv`."""
        return WebShopEnv(self.catalogue, **{"strict": self.strict, **options})

    def summary(self) -> str:
        """One paragraph for reports: what was loaded, what was left out, which nouns are used."""
        part = f", first {self.limit:,} rows" if self.limit is not None else ""
        return (
            f"official WebShop data ({self.size} set{part}): {len(self.catalogue):,} products, "
            f"{len(self.goals):,} {self.kind} goals, {len(self.left_out):,} entries left out; "
            f"seed {self.seed}, strict {self.strict}, title nouns {self.nouns.__name__}"
        )


@dataclass
class Sources:
    """The files opened; `rows` runs once, then `left_out` and the reports are complete."""

    rows: Iterator[Any]
    """Rows of the products file, streamed."""
    attributes: dict[str, dict[str, Any]]
    """asin -> entry of the attributes file, what is not needed dropped."""
    instructions: dict[str, list[dict[str, Any]]]
    """asin -> human instructions."""
    products_file: str
    left_out: list[LeftOut]


def open_sources(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    on_error: OnError = "raise",
    limit: int | None = None,
) -> Sources:
    """Read the two smaller files and start on the products.

    For builders that take rows one by one. Memory: the attributes of all products (1.18 million:
    under 1 GB), never the products.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged, see `on_error` of `iter_products`.
    """
    folder, left_out = Path(folder), list[LeftOut]()
    if size not in ("small", "full"):
        raise DataError(f"size must be 'small' or 'full', not {size!r}")
    products, attributes = file_of(size, "products").name, file_of(size, "attributes").name
    people = file_of("human", "instructions").name
    wanted = [products, attributes, *([people] if human else [])]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise PrerequisiteError(
            f"{folder}: {', '.join(missing)} missing: fetch them with "
            f"python -m eeflib.envs.webshop.download {folder} --set {size}"
        )

    def entries(name: str) -> Iterator[tuple[str, Any]]:
        report = StreamReport()
        yield from iter_entries(folder / name, on_error=on_error, report=report)
        if report.fault:
            left_out.append(_cut(name, report))

    def rows() -> Iterator[Any]:
        report = StreamReport()
        stream = iter_products(folder / products, on_error=on_error, report=report)
        for _, row in itertools.islice(stream, limit):
            yield row
        if report.fault:
            left_out.append(_cut(products, report))

    kept = {asin: _entry(attributes, asin, e, human, left_out) for asin, e in entries(attributes)}
    instructions = {
        asin: _instructions(people, asin, wishes, left_out)
        for asin, wishes in (entries(people) if human else ())
    }
    return Sources(rows(), kept, instructions, products, left_out)


def load_official(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    strict: bool = True,
    seed: int = 0,
    on_error: OnError = "raise",
    limit: int | None = None,
    catalogue: Catalogue | None = None,
) -> Official:
    """The official data in `folder`, as `download` leaves it.

    Args:
        size: `small` or `full`; the full set in memory takes many GB, see `catalogue`.
        human: goals with human instructions; else synthetic ones.
        strict: environments of `Official.env` keep the official quirks.
        seed: draws prices and price limits, which officially nobody seeds.
        on_error: `raise` at damaged JSON, or `report` it and use what comes before it. Single
            unusable rows and entries are always left out and listed in `Official.left_out`.
        limit: only so many rows of the products file (officially 100, 1,000 or 100,000).
        catalogue: one that was built from the same files and seed, e.g. opened from disk; then
            nothing is read.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged or of another shape, or no product or goal is left.
    """
    left_out: list[LeftOut] = []
    if catalogue is None:
        sources = open_sources(folder, size=size, human=human, on_error=on_error, limit=limit)
        catalogue = _catalogue(sources, seed)
        left_out = sources.left_out
    elif catalogue.seed != seed:
        raise DataError(f"the catalogue has seed {catalogue.seed}, asked for is {seed}")
    left_out += [
        LeftOut(file_of(size, "products").name, f"row {s.row}", f"{s.asin}: {s.reason}")
        for s in catalogue.skipped
    ]
    kind: Literal["human", "synthetic"] = "human" if human else "synthetic"
    goals = build_goals(catalogue, kind)
    if not goals:
        raise DataError(
            f"{folder}: no {kind} goals for its {len(catalogue)} products ({len(left_out)} entries "
            "left out); do the files belong together?"
        )
    found = Official(catalogue, tuple(goals), kind, size, strict, tuple(left_out), limit)
    for item in left_out[:5]:
        log.warning("left out: %s", item)
    if len(left_out) > 5:
        log.warning("left out: %d more, see Official.left_out", len(left_out) - 5)
    return found


def _catalogue(sources: Sources, seed: int) -> Catalogue:
    """All rows as products; rows that cannot be used are listed, as `Catalogue.from_rows` does."""
    kept: dict[str, Product] = {}
    skipped: list[SkippedRow] = []
    start = 0
    while batch := list(itertools.islice(sources.rows, _BATCH)):
        part = Catalogue.from_rows(batch, sources.attributes, sources.instructions, seed=seed)
        bad = {s.row for s in part.skipped}
        found = [SkippedRow(start + s.row, s.asin, s.reason) for s in part.skipped]
        numbers = (i for i in range(len(batch)) if i not in bad)
        for number, product in zip(numbers, part.products, strict=True):
            if product.asin in kept:
                reason = f"field asin: {product.asin!r} was listed before"
                found.append(SkippedRow(start + number, product.asin, reason))
            else:
                kept[product.asin] = product
        skipped += sorted(found, key=lambda s: s.row)
        start += len(batch)
    return Catalogue(kept.values(), seed=seed, skipped=skipped)


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
