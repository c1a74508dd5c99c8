"""A catalogue on disk: it opens in moments, whatever its size, and processes share it.

Import `open_catalogue` and `DiskCatalogue` from here. A `DiskCatalogue` gives the same results as a
`Catalogue`, number for number. Nothing is written to the folder; `disk_build` makes it.

The folder: arrays are `.npy` files, opened memory-mapped and read-only, so that all processes of a
machine share one copy of them in the page cache. The manifest is written last: a folder without one
is not a catalogue. Products are one compressed record each, read when they are looked at.

The form of the products was chosen by measurement (1.18 million products of 2.3 kB, microseconds a
product): reading a record from a file costs 1.5, from SQLite 11.5, and finding an asin 4 against 9;
zlib halves the size for 13 a read and 40 a build, higher levels save 3 % more.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import threading
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, overload

import msgspec
import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue, Product, SkippedRow, draw_price
from eeflib.envs.webshop.postings import Postings
from eeflib.envs.webshop.search import Index
from eeflib.envs.webshop.state import StateMemo
from eeflib.errors import DataError
from eeflib.files import write_atomic

__all__ = [
    "MANIFEST",
    "DiskCatalogue",
    "Manifest",
    "load_array",
    "new_array",
    "open_catalogue",
    "pack",
    "seal",
    "text_key",
    "unpack",
    "write_texts",
]

FORMAT = 1
"""Version of the layout; another one cannot be opened."""
MANIFEST = "manifest.json"

_SMALL = 1 << 20
"""Bytes; of larger files, only the two ends are compared when a folder is opened."""
_END = 1 << 16

_REMEMBERED = 2_000
"""Products that stay decoded, about 6 kB each."""
_FIELDS = (
    "asin", "title", "description", "bullets", "price_text", "prices", "category",
    "product_category", "query", "attributes", "options", "option_images", "main_image",
    "instructions", "synthetic_instruction", "synthetic_attributes",
)  # fmt: skip
_Texts = tuple[str, ...]
_RECORD = tuple[
    str, str, str, _Texts, str, tuple[float, ...], str, str, str, _Texts, dict[str, _Texts],
    dict[str, Any], str, tuple[dict[str, Any], ...], Any, _Texts,
]  # fmt: skip
_DECODE = msgspec.json.Decoder(_RECORD).decode
_values = attrgetter(*_FIELDS)
_ARRAYS = (
    "starts", "docs", "codes", "saturations", "peaks", "ranks", "by_rank", "lower_numbers",
    "prices", "price_ranges", "category", "query", "with_human", "with_synthetic",
)  # fmt: skip
_LATER = ("skipped.jsonl", "values.json")
"""Files that are read when they are asked for."""


class FileMark(msgspec.Struct, frozen=True):
    """Size and hashes that show whether a file is complete."""

    bytes: int
    quick: str
    """SHA-256 of a small file, or of both ends of a large one."""
    sha256: str
    """Of all of it; compared on demand."""


class Manifest(msgspec.Struct, frozen=True):
    """What a folder holds; `manifest.json`."""

    format: int
    id: str
    """`Catalogue.id`."""
    seed: int
    products: int
    skipped: int
    terms: int
    postings: int
    filled: int
    """Products with any searchable term."""
    files: dict[str, FileMark]
    check: str = ""
    """SHA-256 of the manifest without this field."""


def fault(folder: Path, reason: str) -> DataError:
    """The error for a folder that cannot be used."""
    return DataError(
        f"{folder}: {reason}; build the catalogue again (build_catalogue(rows, folder, "
        "replace=True))"
    )


def new_array(
    folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
    """An array to fill that is the file `NAME.npy`."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def load_array(folder: Path, name: str) -> np.ndarray:
    """The array `NAME.npy`, mapped, read-only."""
    try:
        # without the class memmap every slice costs three times as much
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as exc:
        raise fault(folder, f"{name}.npy cannot be read ({exc})") from exc


def text_key(text: str) -> bytes:
    """What texts are ordered by; the order of the texts themselves, code point by code point."""
    return text.encode("utf-8", "surrogatepass")


def _head(key: bytes) -> int:
    """The first eight bytes as a number of the same order."""
    return int.from_bytes(key[:8].ljust(8, b"\0"), "big")


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write `texts`, ascending by `text_key`, for `SortedTexts`."""
    keys = [text_key(text) for text in texts]
    offsets = new_array(folder, f"{name}_offsets", (len(keys) + 1,), np.int64)
    offsets[0] = 0
    np.cumsum([len(key) for key in keys], out=offsets[1:])
    heads = new_array(folder, f"{name}_heads", (len(keys),), np.uint64)
    heads[:] = np.fromiter(map(_head, keys), np.uint64, len(keys))
    (folder / f"{name}.bin").write_bytes(b"".join(keys))


class SortedTexts:
    """Texts on disk, found by bisection: eight bytes of each in an array, then the rest."""

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = load_array(folder, f"{name}_offsets")
        self._heads = load_array(folder, f"{name}_heads")
        with open(folder / f"{name}.bin", "rb") as file:
            empty = not os.fstat(file.fileno()).st_size  # which cannot be mapped
            self._blob = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._heads)

    def __getitem__(self, number: int) -> str:
        return self._key(number).decode("utf-8", "surrogatepass")

    def _key(self, number: int) -> bytes:
        return self._blob[int(self._offsets[number]) : int(self._offsets[number + 1])]

    def find(self, text: str) -> int | None:
        """The number of `text`, or None."""
        key = text_key(text)
        head = np.uint64(_head(key))
        low = int(np.searchsorted(self._heads, head, "left"))
        high = int(np.searchsorted(self._heads, head, "right"))
        at = bisect_left(range(high), key, low, high, key=self._key)
        return at if at < high and self._key(at) == key else None


def seal(folder: Path, **facts: int | str) -> Manifest:
    """Write the manifest of a folder whose other files are complete, and all of it to the disk."""
    files = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        files[path.name] = _mark(path)
    manifest = msgspec.convert({**facts, "format": FORMAT, "files": files}, Manifest)
    manifest = msgspec.structs.replace(manifest, check=_check(manifest))
    write_atomic(folder / MANIFEST, msgspec.json.encode(manifest).decode())
    return manifest


def _check(manifest: Manifest) -> str:
    return hashlib.sha256(
        msgspec.json.encode(msgspec.structs.replace(manifest, check=""))
    ).hexdigest()


def read_manifest(folder: Path, *, whole: bool = False) -> Manifest:
    """The manifest, after the files were compared with it.

    Args:
        whole: compare every byte (seconds for a large catalogue), not only sizes and ends.

    Raises:
        DataError: the folder is missing, half-built, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no catalogue is here ({MANIFEST} is missing): build_catalogue(rows, "
            "folder) makes one"
        ) from None
    except (OSError, msgspec.DecodeError) as exc:
        raise fault(folder, f"{MANIFEST} cannot be read ({exc})") from exc
    if manifest.format != FORMAT:
        raise fault(folder, f"it has format {manifest.format}, this version reads {FORMAT}")
    if manifest.check != _check(manifest):
        raise fault(folder, f"{MANIFEST} is damaged: its content has changed")
    for name, mark in manifest.files.items():
        _compare(folder / name, mark, whole)
    return manifest


def _compare(path: Path, mark: FileMark, whole: bool) -> None:
    try:
        size = path.stat().st_size
        if size != mark.bytes:
            raise fault(path.parent, f"{path.name} has {size:,} bytes instead of {mark.bytes:,}")
        good = _quick(path) == mark.quick and (not whole or _sha256(path) == mark.sha256)
    except OSError as exc:
        raise fault(path.parent, f"{path.name} cannot be read ({exc.strerror or exc})") from exc
    if not good:
        raise fault(path.parent, f"{path.name} is damaged: its content has changed")


def _mark(path: Path) -> FileMark:
    return FileMark(path.stat().st_size, _quick(path), _sha256(path))


def _quick(path: Path) -> str:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SMALL:
            return hashlib.sha256(file.read()).hexdigest()
        ends = hashlib.sha256(file.read(_END))
        file.seek(-_END, os.SEEK_END)
        ends.update(file.read())
        return ends.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def pack(product: Product) -> bytes:
    """A product as a record.

    Raises:
        DataError: a field holds what JSON cannot.
    """
    values = _values(product)
    loose = (*product.option_images.values(), product.synthetic_instruction)
    try:
        if not product.instructions and all(v is None or type(v) is str for v in loose):
            try:
                return zlib.compress(msgspec.json.encode(values), 1)  # ten times quicker
            except UnicodeEncodeError:  # half of a surrogate pair
                pass
        return zlib.compress(json.dumps(values).encode(), 1)
    except (TypeError, ValueError, RecursionError) as exc:
        raise DataError(f"cannot be written as JSON ({exc})") from exc


def unpack(record: bytes) -> Product:
    """The product of a record.

    Raises:
        ValueError: it is none.
    """
    try:
        raw = zlib.decompress(record)
    except zlib.error as exc:
        raise ValueError(str(exc)) from exc
    try:
        values = _DECODE(raw)
    except msgspec.DecodeError:
        values = msgspec.convert(json.loads(raw), _RECORD)
    return Product(*values)


class DiskProducts(Sequence[Product]):
    """The products of a folder, by number.

    The records are read, not mapped: what has been looked at does not stay in memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = load_array(folder, "product_offsets")
        # open as long as the catalogue is
        self._file = open(folder / "products.bin", "rb", buffering=0)  # noqa: SIM115
        self._turn = threading.Lock()
        self._get = lru_cache(_REMEMBERED)(self._read)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, number: int) -> Product: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Product]: ...
    def __getitem__(self, number: int | slice) -> Product | Sequence[Product]:
        if isinstance(number, slice):
            return [self._get(i) for i in range(*number.indices(len(self)))]
        n = len(self)
        if not -n <= number < n:
            raise IndexError(f"product {number} of {n}")
        return self._get(int(number) % n)

    def __iter__(self) -> Iterator[Product]:
        return map(self._read, range(len(self)))  # past the memory, which it would only sweep

    def _read(self, number: int) -> Product:
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        try:
            return unpack(self._bytes(start, end - start))
        except (ValueError, OSError) as exc:
            raise fault(self._folder, f"products.bin: product {number} is damaged ({exc})") from exc

    def _bytes(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, start)
        with self._turn:
            self._file.seek(start)
            return self._file.read(size) or b""


def open_catalogue(folder: str | Path, *, verify: bool = False) -> DiskCatalogue:
    """The catalogue that `build_catalogue` left in `folder`.

    Args:
        verify: compare every byte with what was built (seconds), not only sizes and ends of files.

    Raises:
        DataError: there is none, or it is damaged or of another version; names the file.
    """
    return DiskCatalogue(Path(folder), verify=verify)


class DiskCatalogue(Catalogue):
    """As `Catalogue`, with the products on disk; pickled as the name of its folder."""

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self.folder = folder = folder.absolute()
        self.manifest = read_manifest(folder, whole=verify)
        self.seed = self.manifest.seed
        self.memo = StateMemo()
        # All is opened now, so that a catalogue that replaces this one does not get mixed in.
        self._arrays = {name: load_array(folder, name) for name in _ARRAYS}
        self._asins, self._terms = SortedTexts(folder, "asins"), SortedTexts(folder, "terms")
        self._lower = SortedTexts(folder, "lower")
        self._files = {name: open(folder / name, "rb") for name in _LATER}  # noqa: SIM115
        self.products = DiskProducts(folder)
        self.by_asin = _ByAsin(self)
        self.prices = _Prices(self, self._arrays["prices"])
        if not len(self.products) == len(self._asins) == self.manifest.products:
            raise fault(folder, "its files do not belong together")

    def __reduce__(self) -> tuple[Any, ...]:
        return open_catalogue, (self.folder,)

    @property
    def id(self) -> str:
        return self.manifest.id

    @cached_property
    def skipped(self) -> Sequence[SkippedRow]:  # type: ignore[override]
        lines = self._later("skipped.jsonl").splitlines()
        return tuple(SkippedRow(*json.loads(line)) for line in lines)

    @cached_property
    def index(self) -> Index:
        names = ("starts", "docs", "codes", "saturations", "peaks", "ranks")
        arrays = {name: self._arrays[name] for name in names}
        return Index.over(Postings(self._terms.find, self.manifest.filled, **arrays))

    @cached_property
    def by_lower_asin(self) -> Mapping[str, str]:
        return _ByLowerAsin(self, self._lower, self._arrays["lower_numbers"])

    def number_of(self, asin: object) -> int | None:
        """The number of the product `asin`, or None."""
        rank = self._asins.find(asin) if isinstance(asin, str) else None
        return None if rank is None else int(self._arrays["by_rank"][rank])

    def asin_of(self, number: int) -> str:
        """The asin of a product, without reading the product."""
        return self._asins[int(self._arrays["ranks"][number])]

    def draw_prices(self, rng: random.Random) -> Mapping[str, float]:
        values = np.array(self._arrays["prices"])
        for number, low, high in self._arrays["price_ranges"].tolist():
            values[int(number)] = draw_price((low, high), rng)
        return _Prices(self, values)

    def numbers_with(self, field: Literal["category", "query"], value: str) -> tuple[int, ...]:
        at = self._values[field].get(value)
        if at is None:
            return ()
        return tuple(np.flatnonzero(self._arrays[field] == at).tolist())

    @cached_property
    def _values(self) -> dict[str, dict[str, int]]:
        """Field -> value -> its number."""
        raw = json.loads(self._later("values.json"))
        return {name: {v: i for i, v in enumerate(values)} for name, values in raw.items()}

    def instructed(self, kind: Literal["human", "synthetic"]) -> Iterator[Product]:
        for number in self._arrays[f"with_{kind}"].tolist():
            yield self.products[number]

    def _later(self, name: str) -> bytes:
        file = self._files[name]
        file.seek(0)
        return file.read()


class _Table(Mapping[str, Any]):
    """asin -> something, in the order of the products."""

    def __init__(self, catalogue: DiskCatalogue) -> None:
        self._catalogue = catalogue

    def _number(self, asin: object) -> int:
        number = self._catalogue.number_of(asin)
        if number is None:
            raise KeyError(asin)
        return number

    def __contains__(self, asin: object) -> bool:
        return self._catalogue.number_of(asin) is not None

    def __len__(self) -> int:
        return self._catalogue.manifest.products

    def __iter__(self) -> Iterator[str]:
        return map(self._catalogue.asin_of, range(len(self)))


class _ByAsin(_Table):
    def __getitem__(self, asin: str) -> Product:
        return self._catalogue.products[self._number(asin)]


class _Prices(_Table):
    def __init__(self, catalogue: DiskCatalogue, values: np.ndarray) -> None:
        super().__init__(catalogue)
        self._values = values

    def __getitem__(self, asin: str) -> float:
        return float(self._values[self._number(asin)])


class _ByLowerAsin(Mapping[str, str]):
    def __init__(self, catalogue: DiskCatalogue, texts: SortedTexts, numbers: np.ndarray) -> None:
        self._catalogue, self._texts, self._numbers = catalogue, texts, numbers

    def __getitem__(self, lower: str) -> str:
        at = self._texts.find(lower)
        if at is None:
            raise KeyError(lower)
        return self._catalogue.asin_of(int(self._numbers[at]))

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return map(self._texts.__getitem__, range(len(self)))
