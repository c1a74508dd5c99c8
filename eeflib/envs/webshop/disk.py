"""A catalogue on disk: it opens in moments, whatever its size, and processes share it.

Import `build_catalogue` and `open_catalogue` from here. A `DiskCatalogue` gives the same results as
a `Catalogue`, number for number.

The folder holds `products.db` (SQLite: the products, one compressed record each, and the terms of
the index), the arrays of the index as `.npy` files, which are mapped, and `manifest.json`. That is
written last: a folder without one is not a catalogue. Nothing is written after the build.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
from filelock import FileLock, Timeout

from eeflib.envs.webshop.catalogue import Catalogue, CatalogueId, Product, SkippedRow, read_rows
from eeflib.envs.webshop.search import Index, IndexBuilder
from eeflib.errors import DataError
from eeflib.files import write_atomic

log = logging.getLogger(__name__)

FORMAT = 4
"""Version of the folder's layout; another one cannot be opened."""
MANIFEST = "manifest.json"
_DATABASE = "products.db"
_TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE products (number INTEGER PRIMARY KEY, asin BLOB, category BLOB, query BLOB,
        human INTEGER, synthetic INTEGER);
    CREATE TABLE records (number INTEGER PRIMARY KEY, record BLOB);
    CREATE TABLE terms (term BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
    CREATE TABLE made (id TEXT);
"""
"""Texts are bytes, as half of a surrogate pair is no text for SQLite. Nothing is journalled: a
folder takes its place when all of it is on the disk."""
_REMEMBERED = 2_000
"""Products that stay decoded, about 6 kB each."""


class Manifest(msgspec.Struct, frozen=True):
    """What a folder holds; `manifest.json`."""

    format: int
    id: str
    """`Catalogue.id`."""
    seed: int
    products: int
    ranges: int
    """`Catalogue.ranges`."""
    filled: int
    """Products with any searchable term."""
    files: dict[str, tuple[int, str]]
    """Name -> bytes, SHA-256."""
    skipped: list[SkippedRow]
    origin: Any = None
    """What the builder's caller says of where the rows came from."""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _fault(folder: Path, reason: str) -> DataError:
    """The error for a folder that cannot be used."""
    return DataError(
        f"{folder}: {reason}; build the catalogue again (build_catalogue(rows, folder, "
        "replace=True))"
    )


# -- building --------------------------------------------------------------------------------------


def build_catalogue(
    rows: Iterable[Any],
    folder: str | Path,
    *,
    attributes: Mapping[str, Any] | None = None,
    human_instructions: Mapping[str, Any] | None = None,
    seed: int = 0,
    replace: bool = False,
    progress: bool = False,
    origin: Any = None,
) -> DiskCatalogue:
    """Write the catalogue of `rows` to `folder`, and open it.

    The same products, prices, skipped rows and rankings as `Catalogue.from_rows`. All is written
    beside the folder and takes its place at the end: whenever the process is killed, the folder
    holds a whole catalogue or none. Memory: the index (1 GB for 1.18 million products), some
    numbers a product, and what the caller passes as `attributes`.

    Args:
        rows: of the official products file; an iterator is enough.
        attributes: asin -> entry of items_ins_v2.
        human_instructions: asin -> entries of items_human_ins.
        seed: draws the reward prices.
        replace: put it in the place of a catalogue that is already there. Whoever has that one open
            keeps it.
        progress: show a bar for the part after the last row.
        origin: `Manifest.origin`.

    Raises:
        DataError: something is at `folder` already, another process is building there, the disk is
            full, or an argument has another shape.
    """
    folder = Path(folder).absolute()
    work = folder.with_name(f"{folder.name}.building")
    reads = read_rows(rows, attributes, human_instructions, seed)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            _check_place(folder, replace)
            shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
            work.mkdir()
            try:
                _write(work, reads, seed, progress, origin)
                if folder.exists():
                    shutil.rmtree(folder)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise DataError(
            f"{folder}: another process is building this catalogue; wait for it, then open it"
        ) from None
    except (OSError, sqlite3.Error) as exc:
        raise DataError(
            f"{folder}: cannot be written ({getattr(exc, 'strerror', None) or exc}); nothing "
            "half-built is left. Make room or choose another folder, then build again"
        ) from exc
    return open_catalogue(folder)


def _check_place(folder: Path, replace: bool) -> None:
    """Refuse to touch what is no catalogue."""
    if not folder.exists():
        return
    if not replace:
        raise DataError(
            f"{folder} exists already: open it with open_catalogue, or pass replace=True"
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
        raise DataError(f"{folder} is no catalogue and is left alone; choose another folder")


def _write(
    work: Path,
    reads: Iterator[Product | SkippedRow],
    seed: int,
    progress: bool,
    origin: Any,
) -> None:
    """All files of a catalogue, and its manifest when they are on the disk."""
    hashed, skipped, number, ranges = CatalogueId(), list[SkippedRow](), 0, 0
    with (
        TemporaryDirectory(prefix="chunks-", dir=work) as chunks,
        closing(sqlite3.connect(work / _DATABASE)) as db,
    ):
        db.executescript(_TABLES)
        builder = IndexBuilder(Path(chunks))
        for read in reads:
            if isinstance(read, SkippedRow):
                skipped.append(read)
                continue
            texts = map(_bytes, (read.asin, read.category, read.query))
            kinds = bool(read.instructions), bool(read.synthetic_attributes)
            db.execute("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?)", (number, *texts, *kinds))
            db.execute("INSERT INTO records VALUES (?, ?)", (number, _pack(read)))
            ranges += len(read.prices) > 1
            hashed.add(read)
            builder.add(read.asin, read.document)
            number += 1
        db.execute("CREATE UNIQUE INDEX by_asin ON products (asin)")
        db.execute("INSERT INTO made VALUES (?)", (hashed.digest(),))
        terms = sorted((_bytes(term), n) for term, n in builder.terms.items())
        db.executemany("INSERT INTO terms VALUES (?, ?)", terms)
        db.commit()
        index = builder.finish(progress=progress)
        index.save(work)
    files = _sealed(work)
    made = Manifest(
        FORMAT, hashed.digest(), seed, number, ranges, index.filled, files, skipped, origin
    )
    write_atomic(work / MANIFEST, msgspec.json.encode(made).decode())


def _pack(product: Product) -> bytes:
    """A product as a record. Raises DataError: a field holds what JSON cannot."""
    try:
        return zlib.compress(json.dumps(msgspec.to_builtins(product)).encode(), 1)
    except (TypeError, ValueError, RecursionError) as exc:
        raise DataError(f"{product.asin!r} cannot be written as JSON ({exc})") from exc


def _sealed(work: Path) -> dict[str, tuple[int, str]]:
    """`Manifest.files`, when their content has reached the disk."""
    files = {}
    for path in sorted(work.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            files[path.name] = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    return files


# -- opening ---------------------------------------------------------------------------------------


def _read_manifest(folder: Path, verify: bool) -> Manifest:
    """The manifest, after the files were compared with it."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise _fault(folder, f"it has format {version}, this version reads {FORMAT}")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no catalogue is here ({MANIFEST} is missing): build_catalogue(rows, "
            "folder) makes one"
        ) from None
    except (OSError, msgspec.DecodeError) as exc:
        raise _fault(folder, f"{MANIFEST} cannot be read ({exc})") from exc
    for name, (size, sha256) in manifest.files.items():
        try:
            with open(folder / name, "rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    raise _fault(folder, f"{name} has {found:,} bytes instead of {size:,}")
                if verify and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise _fault(folder, f"{name} is damaged: its content has changed")
        except OSError as exc:
            raise _fault(folder, f"{name} cannot be read ({exc.strerror or exc})") from exc
    return manifest


class DiskCatalogue(Catalogue):
    """As `Catalogue`, with the products on disk, where `build_catalogue` left them in `folder`.

    Pickled as the name of its folder.

    Args:
        verify: compare every byte with what was built (seconds), not only the sizes of files.

    Raises:
        DataError: there is none, or it is damaged or of another version; names the file.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = folder = Path(folder).absolute()
        self.manifest = made = _read_manifest(folder, verify)
        self.id, self.seed = made.id, made.seed
        self.ranges, self.skipped = made.ranges, made.skipped
        self._local = threading.local()
        self._product = lru_cache(_REMEMBERED)(self._read)
        try:  # mapped now, so that a catalogue that replaces this one does not get mixed in
            self.index = Index.open(folder, self._term, made.filled)
        except (OSError, ValueError, EOFError) as exc:
            raise _fault(folder, f"an array cannot be read ({exc})") from exc
        self.rows("SELECT id FROM made")

    def __len__(self) -> int:
        return self.manifest.products

    def __getitem__(self, number: int) -> Product:
        return self._product(range(len(self))[number])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_catalogue, (self.folder,)

    def find(self, asin: str) -> Product | None:
        found = self.rows("SELECT number FROM products WHERE asin = ?", str(asin))
        return self[found[0][0]] if found else None

    def numbers_with(self, field: Literal["category", "query"], value: str) -> tuple[int, ...]:
        assert field in ("category", "query")
        sql = f"SELECT number FROM products WHERE {field} = ? ORDER BY number"
        return tuple(n for (n,) in self.rows(sql, value))

    def instructed(self, kind: Literal["human", "synthetic"]) -> Iterator[Product]:
        assert kind in ("human", "synthetic")
        for (number,) in self.rows(f"SELECT number FROM products WHERE {kind} ORDER BY number"):
            yield self[number]

    def _term(self, term: str) -> int | None:
        """The number of a term of the index."""
        found = self.rows("SELECT number FROM terms WHERE term = ?", term)
        return found[0][0] if found else None

    def rows(self, sql: str, *texts: str) -> list[Any]:
        """What a query gives. Each thread of each process has a connection of its own.

        Raises:
            DataError: the file is damaged, or another catalogue is at its place now.
        """
        local = self._local
        try:
            if getattr(local, "process", None) != os.getpid():
                local.db = self._connect()
                local.process = os.getpid()
            return local.db.execute(sql, tuple(map(_bytes, texts))).fetchall()
        except sqlite3.Error as exc:
            raise _fault(self.folder, f"{_DATABASE} is damaged ({exc})") from exc

    def _connect(self) -> sqlite3.Connection:
        address = f"{(self.folder / _DATABASE).as_uri()}?mode=ro&immutable=1"
        db = sqlite3.connect(address, uri=True)
        if db.execute("SELECT id FROM made").fetchall() != [(self.id,)]:
            raise DataError(f"{self.folder}: another catalogue is here by now; open it again")
        return db

    def _read(self, number: int) -> Product:
        found = self.rows(f"SELECT record FROM records WHERE number = {number}")
        try:
            raw = zlib.decompress(found[0][0])
            try:
                return msgspec.json.decode(raw, type=Product)
            except msgspec.DecodeError:  # half a surrogate pair
                return msgspec.convert(json.loads(raw), Product)
        except (IndexError, TypeError, ValueError, zlib.error) as exc:
            reason = f"{_DATABASE}: product {number} is damaged ({exc})"
            raise _fault(self.folder, reason) from exc


open_catalogue = DiskCatalogue
"""Opens the catalogue that `build_catalogue` left in a folder."""
