"""The catalogue that environments share.

Owns `Catalogue`: products, their reward prices and their search index, all in memory, and the hash
that names one. Knows nothing about pages, goals or tasks, nor how a row is read (`rows`). The same
on disk: `disk_catalogue`. Rules: web_agent_site/engine/engine.py of princeton-nlp/WebShop.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from eeflib.envs.webshop.memo import StateMemo
from eeflib.envs.webshop.rows import (
    DEFAULT_PRICE,
    Product,
    SkippedRow,
    option_value,
    parse_price,
    read_row,
)
from eeflib.envs.webshop.search import Index
from eeflib.errors import DataError
from eeflib.records import canonical_json

__all__ = [
    "DEFAULT_PRICE", "Catalogue", "CatalogueId", "Product", "SkippedRow", "draw_price",
    "option_value", "parse_price",
]  # fmt: skip


_plain_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class CatalogueId:
    """The hash of everything that decides how a shop behaves, product by product."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._comma = b""

    def add(self, p: Product, price: float) -> None:
        """Take the next product and its reward price."""
        value = (
            *(p.asin, p.title, p.description, p.bullets, p.price_text, p.category),
            *(p.product_category, p.query, p.attributes, tuple(p.options.items())),
            price,
        )
        try:
            raw = _plain_json(value).encode()  # canonical too, as there is no mapping in it
        except UnicodeEncodeError:
            raw = canonical_json(value).encode()
        self._hash.update(self._comma + raw)
        self._comma = b","

    def digest(self) -> str:
        """16 hex digits: `records.content_hash` of the list of all that was added."""
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()[:16]


class Catalogue:
    """Products, their search index and their reward prices; immutable, shared by environments.

    All in memory: 15 kB a product. `open_catalogue` gives one that lies on disk.

    Args:
        products: N products with distinct asins.
        seed: draws the reward price of products with a price range, one `uniform` each in product
            order, from `random.Random(seed)`: the official draw after `random.seed(seed)`.
        skipped: what a loader left out.

    Raises:
        DataError: two products share an asin.
    """

    def __init__(
        self, products: Iterable[Product], *, seed: int = 0, skipped: Sequence[SkippedRow] = ()
    ) -> None:
        self.products: Sequence[Product] = tuple(products)
        self.seed = seed
        self.skipped: Sequence[SkippedRow] = tuple(skipped)
        by_asin: dict[str, Product] = {}
        for product in self.products:
            if product.asin in by_asin:
                raise DataError(f"asin {product.asin!r} occurs twice in the catalogue; drop one")
            by_asin[product.asin] = product
        self.by_asin: Mapping[str, Product] = by_asin
        self.prices: Mapping[str, float] = self.draw_prices(random.Random(seed))
        self.memo = StateMemo()
        """States that environments have been in, see `WebShopEnv.restore`."""

    def __len__(self) -> int:
        return len(self.products)

    def __repr__(self) -> str:
        return f"Catalogue({len(self)} products, id={self.id!r})"

    def draw_prices(self, rng: random.Random) -> Mapping[str, float]:
        """asin -> price used in rewards: the price, or a uniform draw from the range."""
        return {p.asin: draw_price(p.prices, rng) for p in self.products}

    def numbers_with(self, field: Literal["category", "query"], value: str) -> tuple[int, ...]:
        """Numbers of the products whose `field` is `value`, ascending."""
        return tuple(i for i, p in enumerate(self.products) if getattr(p, field) == value)

    def instructed(self, kind: Literal["human", "synthetic"]) -> Iterator[Product]:
        """The products, in order, that have instructions of this kind: all that goals need."""
        for product in self.products:
            if product.instructions if kind == "human" else product.synthetic_attributes:
                yield product

    @cached_property
    def id(self) -> str:
        """Hash of everything that decides how the shop behaves: products in order, prices."""
        hashed = CatalogueId()
        for product in self.products:
            hashed.add(product, self.prices[product.asin])
        return hashed.digest()

    @cached_property
    def index(self) -> Index:
        """The search index, built at the first search."""
        return Index([p.asin for p in self.products], [p.document for p in self.products])

    @cached_property
    def by_lower_asin(self) -> Mapping[str, str]:
        """Lower-case asin -> asin: links are clicked in lower case."""
        return {asin.lower(): asin for asin in self.by_asin}

    @classmethod
    def from_rows(
        cls,
        products: Sequence[Mapping[str, Any]],
        attributes: Mapping[str, Any] | None = None,
        human_instructions: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        limit: int | None = None,
    ) -> Catalogue:
        """Load official-schema rows: items_shuffle, items_ins_v2, items_human_ins.

        Dropped as officially: asin "nan", asin of more than 10 characters, duplicates. Where the
        official loader raises (a price such as `N/A`, a missing field), the row is skipped. Both
        are listed in `Catalogue.skipped`.

        Raises:
            DataError: the three arguments do not have the shape of the official files.
        """
        attributes, human_instructions = attributes or {}, human_instructions or {}
        for name, value in (("attributes", attributes), ("human_instructions", human_instructions)):
            if not isinstance(value, Mapping):
                raise DataError(f"{name} must map asin -> entry, got {type(value).__name__}")
        if isinstance(products, (str, Mapping)) or not isinstance(products, Sequence):
            raise DataError(f"products must be a list of rows, got {type(products).__name__}")
        kept: dict[str, Product] = {}
        skipped: list[SkippedRow] = []
        for number, row in enumerate(products[:limit]):
            read = read_row(number, row, attributes, human_instructions, kept)
            if isinstance(read, SkippedRow):
                skipped.append(read)
            else:
                kept[read.asin] = read
        return cls(kept.values(), seed=seed, skipped=skipped)


def draw_price(prices: Sequence[float], rng: random.Random) -> float:
    """The reward price of a product: its price, or one drawn from its range."""
    return rng.uniform(prices[0], prices[1]) if len(prices) > 1 else prices[0]
