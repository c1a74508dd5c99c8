"""Products, read from rows of the official file, and the catalogue that environments share.

Import `Product` and `Catalogue` from here. A `Catalogue` holds products, their reward prices and
their search index in memory, and has a hash that identifies it. A row that cannot be read gives a
`SkippedRow` with the reason. The same catalogue on disk: `disk`.
Rules: web_agent_site/engine/engine.py of princeton-nlp/WebShop.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from eeflib.envs.webshop.search import Index
from eeflib.errors import DataError
from eeflib.records import canonical_json

__all__ = [
    "Catalogue",
    "CatalogueId",
    "Product",
    "SkippedRow",
    "draw_price",
    "option_value",
    "parse_price",
    "read_rows",
]

DEFAULT_PRICE = 100.0
"""Price of a product without one."""

NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""What the official loader gives a product that the attributes file does not list."""

_NOT_NUMBER = re.compile(r"[^\d.]")

_plain_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows it and the reward judges it."""

    asin: str
    """Id, at most 10 characters."""
    title: str
    description: str = ""
    bullets: tuple[str, ...] = ()
    """The Features page, one line each."""
    price_text: str = f"${DEFAULT_PRICE}"
    """As pages show it: `$20.0` or `$10.0 to $20.0`."""
    prices: tuple[float, ...] = (DEFAULT_PRICE,)
    """One price, or the two ends of a range."""
    category: str = ""
    """Department, e.g. `fashion`."""
    product_category: str = ""
    """Path, parts separated by ` › `."""
    query: str = ""
    """The search that the product was found by; equal queries count as the same type."""
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    """What instruction attributes are matched against; hidden from pages by default."""
    options: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Option name -> values, lower-case, as clickable on the item page."""
    option_images: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    main_image: str = field(default="", compare=False)
    instructions: tuple[dict[str, Any], ...] = field(default=(), hash=False)
    """Human instructions for this product: rows of `items_human_ins.json`."""
    synthetic_instruction: str | None = None
    """Instruction text without options and price, from `items_ins_v2.json`."""
    synthetic_attributes: tuple[str, ...] = ()

    @property
    def document(self) -> str:
        """The text that search sees: title, description, first bullet and options, lower-case."""
        options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in self.options.items())
        first = self.bullets[0] if self.bullets else ""
        return f"{self.title} {self.description} {first} {options}".lower()


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that the loader did not take, and why."""

    row: int
    """Position in the products file, from 0."""
    asin: str
    reason: str


def parse_price(raw: str | None) -> tuple[tuple[float, ...], str]:
    """A `pricing` field -> (one or two prices, the text that pages show).

    What follows each `$` is one price, all but digits and points dropped; a third price is
    ignored; an empty field means $100.0.

    Raises:
        DataError: no `$` or no number in it (`N/A`, `$1.2.3`).
    """
    if not raw:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    if not isinstance(raw, str):
        raise DataError(f"field pricing: {raw!r} is not a text such as '$12.50'")
    try:
        prices = tuple(float(Decimal(_NOT_NUMBER.sub("", part))) for part in raw.split("$")[1:])
    except InvalidOperation:
        prices = ()
    if not prices or not all(map(math.isfinite, prices)):
        raise DataError(f"field pricing: no price in {raw!r}; write it as '$12.50' or '$5 to $9'")
    if len(prices) == 1:
        return prices, f"${prices[0]}"
    return prices[:2], f"${prices[0]} to ${prices[1]}"


def option_value(raw: str) -> str:
    """An option value as it is shown and clicked."""
    return raw.strip().replace("/", " | ").lower()


def read_rows(
    rows: Iterable[Any], attributes: Mapping[str, Any] | None, people: Mapping[str, Any] | None
) -> Iterator[Product | SkippedRow]:
    """Each row as a product, or why it is none; see `Catalogue.from_rows`."""
    attributes, people = attributes or {}, people or {}
    for name, value in (("attributes", attributes), ("human_instructions", people)):
        if not isinstance(value, Mapping):
            raise DataError(f"{name} must map asin -> entry, got {type(value).__name__}")
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(f"products must be a list of rows, not {type(rows).__name__}")
    seen: set[str] = set()
    for number, row in enumerate(rows):
        asin = row.get("asin") if isinstance(row, Mapping) else None
        try:
            _check_asin(asin, seen)
            product = _product(row, attributes.get(row["asin"]), people.get(row["asin"]))
        except DataError as exc:
            yield SkippedRow(number, str(asin), str(exc))
        else:
            seen.add(product.asin)
            yield product


def _check_asin(asin: Any, seen: Container[str]) -> None:
    if not isinstance(asin, str) or not asin:
        raise DataError("field asin: missing or not a text")
    if asin == "nan" or len(asin) > 10:
        raise DataError(f"field asin: {asin[:20]!r} is no product id (at most 10 characters)")
    if asin in seen:
        raise DataError(f"field asin: {asin!r} was listed before")


def _text(row: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = row.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise DataError(f"field {name}: expected text, got {value!r:.60}")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if not isinstance(item, str):
            raise DataError(f"field {name}: expected texts, got {item!r:.60}")
    return tuple(items)


def _options(raw: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, str | None]]:
    """Option groups: names in lower case; values stripped, `/` -> ` | `, in lower case."""
    options: dict[str, tuple[str, ...]] = {}
    images: dict[str, str | None] = {}
    if not raw:
        return options, images
    if not isinstance(raw, Mapping):
        raise DataError(f"field customization_options: expected a mapping, got {raw!r:.60}")
    for name, contents in raw.items():
        if contents is None:
            continue
        if not isinstance(contents, (list, tuple)):
            raise DataError(f"field customization_options[{name!r}]: {contents!r:.60} is no list")
        values = []
        for content in contents:
            if not isinstance(content, Mapping) or not isinstance(content.get("value"), str):
                raise DataError(
                    f"field customization_options[{name!r}]: {content!r:.60} has no value"
                )
            value = option_value(content["value"])
            values.append(value)
            images[value] = content.get("image")
        options[str(name).lower()] = tuple(values)
    return options, images


def _product(row: Mapping[str, Any], entry: Any, human: Any) -> Product:
    """One row -> Product. Raises DataError naming the field."""
    entry = entry if isinstance(entry, Mapping) else None
    prices, price_text = parse_price(row.get("pricing"))
    options, option_images = _options(row.get("customization_options"))
    bullets = row.get("small_description")
    images = row.get("images")
    human = human if isinstance(human, (list, tuple)) else ()
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    if entry is not None and "attributes" in entry:
        attributes = _texts(entry["attributes"], "attributes")
    entry = entry or {}
    instruction = entry.get("instruction")
    return Product(
        asin=row["asin"],
        title=_text(row, "name", required=True),
        description=_text(row, "full_description"),
        bullets=() if bullets is None else _texts(bullets, "small_description"),
        price_text=price_text,
        prices=prices,
        category=_text(row, "category"),
        product_category=_text(row, "product_category"),
        query=_text(row, "query").lower().strip(),
        attributes=attributes,
        options=options,
        option_images=option_images,
        main_image=str(images[0]) if isinstance(images, (list, tuple)) and images else "",
        instructions=tuple(dict(h) for h in human if isinstance(h, Mapping)),
        synthetic_instruction=instruction if isinstance(instruction, str) else None,
        synthetic_attributes=_texts(
            entry.get("instruction_attributes") or (), "instruction_attributes"
        ),
    )


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
        rng = random.Random(seed)
        self.prices: Mapping[str, float] = {
            p.asin: draw_price(p.prices, rng) for p in self.products
        }
        """asin -> price used in rewards: the price, or a uniform draw from the range."""
        self.ranges = sum(len(p.prices) > 1 for p in self.products)
        """Products with a price range: so many draws were made for prices."""
        self.memo: dict[tuple[str, str], tuple[Any, int]] = {}
        """States that environments have been in, see `WebShopEnv.restore`."""

    def __len__(self) -> int:
        return len(self.products)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} products, id={self.id!r})"

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
        return Index.of([p.asin for p in self.products], [p.document for p in self.products])

    @cached_property
    def by_lower_asin(self) -> Mapping[str, str]:
        """Lower-case asin -> asin: links are clicked in lower case."""
        return {asin.lower(): asin for asin in self.by_asin}

    @classmethod
    def from_rows(
        cls,
        products: Iterable[Any],
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
        kept: list[Product] = []
        skipped: list[SkippedRow] = []
        for read in islice(read_rows(products, attributes, human_instructions), limit):
            if isinstance(read, SkippedRow):
                skipped.append(read)
            else:
                kept.append(read)
        return cls(kept, seed=seed, skipped=skipped)


def draw_price(prices: Sequence[float], rng: random.Random) -> float:
    """The reward price of a product: its price, or one drawn from its range."""
    return rng.uniform(prices[0], prices[1]) if len(prices) > 1 else prices[0]
