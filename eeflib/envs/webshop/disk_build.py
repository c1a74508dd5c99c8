"""Builds the disk form of a catalogue from rows, once, in bounded memory.

Import `build_catalogue` from here. It fills a folder beside the target and then renames it, so that
the target holds a whole catalogue or is as it was before, whenever the process is killed. Memory: a
set of asins, the distinct terms, some numbers a product (`postings`), and what the caller passes as
`attributes`.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from eeflib.envs.webshop.catalogue import CatalogueId, Product, SkippedRow, draw_price, read_row
from eeflib.envs.webshop.disk_catalogue import (
    MANIFEST,
    Manifest,
    new_array,
    pack,
    seal,
    text_key,
    write_texts,
)
from eeflib.envs.webshop.index_writer import IndexFacts, IndexWriter
from eeflib.errors import DataError

__all__ = ["build_catalogue"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildReport:
    """What was built."""

    folder: Path
    id: str
    """`Catalogue.id`."""
    products: int
    skipped: int
    """Rows left out; `Catalogue.skipped` lists them."""
    terms: int
    postings: int
    bytes: int
    """Size of the folder."""
    seconds: float


def build_catalogue(
    rows: Iterable[Any],
    folder: str | Path,
    *,
    attributes: Mapping[str, Any] | None = None,
    human_instructions: Mapping[str, Any] | None = None,
    seed: int = 0,
    limit: int | None = None,
    replace: bool = False,
    progress: bool | Literal["index"] = False,
    process: bool | None = None,
    last: Callable[[Path], None] | None = None,
) -> BuildReport:
    """Write the catalogue of `rows` to `folder`, for `open_catalogue`.

    The same products, prices, skipped rows and rankings as `Catalogue.from_rows`. A build that was
    killed leaves nothing at `folder`; the next one starts from the beginning.

    Args:
        rows: of the official products file; an iterator is enough.
        attributes: asin -> entry of items_ins_v2; only looked up.
        human_instructions: asin -> entries of items_human_ins; only looked up.
        seed: draws the reward prices.
        limit: only so many rows.
        replace: put it in the place of a catalogue that is already there. Whoever has that one open
            keeps it.
        progress: show progress bars; `index`: only for what follows the rows, which show their own.
        process: see `IndexWriter`.
        last: gets the finished folder before it takes its place, to add a note of the caller's.

    Raises:
        DataError: something is at `folder` already, another process is building there, the disk is
            full, the rows cannot be read, or an argument has another shape.
    """
    folder, start = Path(folder).absolute(), time.monotonic()
    attributes = {} if attributes is None else attributes
    people = {} if human_instructions is None else human_instructions
    for name, value in (("attributes", attributes), ("human_instructions", people)):
        if not hasattr(value, "get"):
            raise DataError(f"{name} must map asin -> entry, got {type(value).__name__}")
    if isinstance(rows, (str, bytes, Mapping)):
        raise DataError(f"rows must be a list or an iterator of rows, got {type(rows).__name__}")
    work, old = (folder.with_name(f"{folder.name}{end}") for end in (".building", ".old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _sole_builder(folder):
            _clear(folder, work, old, replace)
            work.mkdir()
            try:
                with IndexWriter(work, process=process) as index:
                    build = _Build(work, index, attributes, people, seed)
                    shown = _shown(islice(rows, limit), rows, progress is True)
                    manifest = build.run(shown, progress=bool(progress))
                if last is not None:
                    last(work)
                if folder.exists():
                    folder.rename(old)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
    except OSError as exc:
        raise DataError(
            f"{folder}: cannot be written ({exc.strerror or exc}); nothing half-built is left. "
            "Make room or choose another folder, then build again"
        ) from exc
    size = sum(mark.bytes for mark in manifest.files.values())
    return BuildReport(
        folder, manifest.id, manifest.products, manifest.skipped, manifest.terms,
        manifest.postings, size, time.monotonic() - start,
    )  # fmt: skip


@contextmanager
def _sole_builder(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise DataError(
            f"{folder}: another process is building this catalogue; wait for it, then open it"
        ) from None


def _clear(folder: Path, work: Path, old: Path, replace: bool) -> None:
    """Undo what a killed build left; refuse to touch what is no catalogue."""
    if work.exists():
        log.warning("%s: a build was interrupted here; it starts again", work)
        shutil.rmtree(work)
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:  # killed between the two renames of a replacement
            old.rename(folder)
    if not folder.exists():
        return
    if not replace:
        raise DataError(
            f"{folder} exists already: open it with open_catalogue, or pass replace=True"
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
        raise DataError(f"{folder} is no catalogue and is left alone; choose another folder")


def _shown(rows: Iterable[Any], whole: Iterable[Any], progress: bool) -> Iterable[Any]:
    if not progress:
        return rows
    total = len(whole) if isinstance(whole, Sized) else None
    return tqdm(rows, total=total, unit="row", desc="catalogue", unit_scale=True)


def _read(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows; an error in reading them is distinguished from one in writing."""
    try:
        yield from rows
    except OSError as exc:
        raise DataError(f"the rows cannot be read ({exc}); check the files they come from") from exc


class _Build:
    """One build: rows in, files out."""

    def __init__(
        self,
        work: Path,
        index: IndexWriter,
        attributes: Mapping[str, Any],
        people: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.work, self.attributes, self.people, self.seed = work, attributes, people, seed
        self.rng = random.Random(seed)
        self.asins: dict[str, int] = {}
        self.sizes, self.prices = array("q"), array("d")
        self.ranges: list[tuple[int, float, float]] = []
        self.values: dict[str, dict[str, int]] = {"category": {}, "query": {}}
        self.numbers = {name: array("i") for name in self.values}
        self.instructed = {kind: array("i") for kind in ("human", "synthetic")}
        self.id = CatalogueId()
        self.skipped = 0
        self.index = index

    def run(self, rows: Iterable[Any], *, progress: bool = False) -> Manifest:
        """Read all rows, then write everything else; gives the manifest."""
        with (
            open(self.work / "products.bin", "wb", buffering=1 << 20) as products,
            open(self.work / "skipped.jsonl", "w", encoding="ascii") as skipped,
        ):
            for number, row in enumerate(_read(rows)):
                read = read_row(number, row, self.attributes, self.people, self.asins)
                if not isinstance(read, SkippedRow):
                    try:
                        products.write(self._take(read))
                        continue
                    except DataError as exc:
                        read = SkippedRow(number, read.asin, str(exc))
                self.skipped += 1
                skipped.write(json.dumps([read.row, read.asin, read.reason]) + "\n")
        with tqdm(total=3, desc="search index", unit="part", disable=not progress) as bar:
            built = self._write_index()
            bar.update()
            self._write_tables()
            bar.update()
            manifest = seal(
                self.work,
                id=self.id.digest(),
                seed=self.seed,
                products=len(self.asins),
                skipped=self.skipped,
                **built._asdict(),
            )
            bar.update()
        return manifest

    def _take(self, product: Product) -> bytes:
        """Note everything about the next product; its record."""
        record = pack(product)
        number = self.asins[product.asin] = len(self.asins)
        self.sizes.append(len(record))
        price = draw_price(product.prices, self.rng)
        self.prices.append(price)
        if len(product.prices) > 1:
            self.ranges.append((number, product.prices[0], product.prices[1]))
        for name, values in self.values.items():
            value = getattr(product, name)
            self.numbers[name].append(values.setdefault(value, len(values)))
        if product.instructions:
            self.instructed["human"].append(number)
        if product.synthetic_attributes:
            self.instructed["synthetic"].append(number)
        self.id.add(product, price)
        self.index.add(product.document)
        return record

    def _write_index(self) -> IndexFacts:
        by_rank = sorted(self.asins, key=text_key)
        write_texts(self.work, "asins", by_rank)
        order = np.fromiter(map(self.asins.__getitem__, by_rank), np.int32, len(by_rank))
        np.save(self.work / "by_rank.npy", order, allow_pickle=False)
        return self.index.finish()

    def _write_tables(self) -> None:
        offsets = new_array(self.work, "product_offsets", (len(self.sizes) + 1,), np.int64)
        offsets[0] = 0
        np.cumsum(np.frombuffer(self.sizes, np.int64), out=offsets[1:])
        tables: dict[str, Any] = {
            "prices": np.array(self.prices, np.float64),
            "price_ranges": np.array(self.ranges, np.float64).reshape(-1, 3),
            **{name: np.array(found, np.int32) for name, found in self.numbers.items()},
            **{f"with_{k}": np.array(found, np.int32) for k, found in self.instructed.items()},
        }
        lower = {asin.lower(): number for asin, number in self.asins.items()}  # the last one wins
        names = sorted(lower, key=text_key)
        write_texts(self.work, "lower", names)
        tables["lower_numbers"] = np.fromiter(map(lower.__getitem__, names), np.int32, len(names))
        for name, table in tables.items():
            np.save(self.work / f"{name}.npy", table, allow_pickle=False)
        values = {name: list(found) for name, found in self.values.items()}
        (self.work / "values.json").write_text(json.dumps(values), encoding="ascii")
