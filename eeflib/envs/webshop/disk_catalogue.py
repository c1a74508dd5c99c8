"""A catalogue that lies on disk: opens in moments, whatever its size, and is shared by processes.

Owns `DiskCatalogue`, which behaves as `Catalogue` does, number for number. Knows nothing about how
it was built (`disk_build`). Nothing is written to the folder.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue, draw_price
from eeflib.envs.webshop.disk_files import SortedTexts, fault, load_array, read_manifest
from eeflib.envs.webshop.disk_products import DiskProducts
from eeflib.envs.webshop.memo import StateMemo
from eeflib.envs.webshop.postings import Postings
from eeflib.envs.webshop.rows import Product, SkippedRow
from eeflib.envs.webshop.search import Index

__all__ = ["DiskCatalogue", "open_catalogue"]

_ARRAYS = (
    "starts", "docs", "codes", "saturations", "peaks", "ranks", "by_rank", "lower_numbers",
    "prices", "price_ranges", "category", "query", "with_human", "with_synthetic",
)  # fmt: skip
_LATER = ("skipped.jsonl", "values.json")
"""Files that are read when they are asked for."""


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
