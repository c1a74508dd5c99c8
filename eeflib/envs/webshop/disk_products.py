"""Products on disk: one compressed record each, read when it is looked at.

Owns the record and `DiskProducts`, a sequence of products. Knows nothing about search.

Chosen by measurement (1.18 million products of 2.3 kB, microseconds a product): reading a record
from a file costs 1.5, from SQLite 11.5, and finding an asin 4 against 9; zlib halves the size for
13 a read and 40 a build, higher levels save 3 % more.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, overload

import msgspec

from eeflib.envs.webshop.disk_files import fault, load_array
from eeflib.envs.webshop.rows import Product
from eeflib.errors import DataError

__all__ = ["DiskProducts", "pack", "unpack"]

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
