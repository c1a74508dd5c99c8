"""Products, read from rows of the official file, and the catalogue that environments share.

Import `Product` and `Catalogue` from here. A `Catalogue` holds products and their search index in
memory, and has a hash that identifies it. A row that cannot be read gives a `SkippedRow` with the
reason. The same catalogue on disk: `disk`.
Rules: web_agent_site/engine/engine.py of princeton-nlp/WebShop.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Literal

import msgspec

from eeflib.envs.webshop.search import Index
from eeflib.errors import DataError
from eeflib.records import canonical_json

DEFAULT_PRICE = 100.0
"""Price of a product without one."""

NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""What the official loader gives a product that the attributes file does not list."""

_NOT_NUMBER = re.compile(r"[^\d.]")


class Wish(msgspec.Struct, frozen=True):
    """A human instruction: a row of `items_human_ins.json`."""

    instruction: str
    instruction_attributes: tuple[str, ...] = ()
    instruction_options: tuple[str, ...] = ()


class Product(msgspec.Struct, frozen=True):
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
    price: float = DEFAULT_PRICE
    """What rewards count: the price, or a uniform draw from the range."""
    category: str = ""
    """Department, e.g. `fashion`."""
    product_category: str = ""
    """Path, parts separated by ` › `."""
    query: str = ""
    """The search that the product was found by; equal queries count as the same type."""
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    """What instruction attributes are matched against; hidden from pages by default."""
    options: dict[str, tuple[str, ...]] = {}
    """Option name -> values, lower-case, as clickable on the item page."""
    option_images: dict[str, Any] = {}
    main_image: str = ""
    instructions: tuple[Wish, ...] = ()
    synthetic_instruction: str | None = None
    """Instruction text without options and price, from `items_ins_v2.json`."""
    synthetic_attributes: tuple[str, ...] = ()

    @property
    def document(self) -> str:
        """The text that search sees: title, description, first bullet and options, lower-case."""
        options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in self.options.items())
        first = self.bullets[0] if self.bullets else ""
        return f"{self.title} {self.description} {first} {options}".lower()


class SkippedRow(msgspec.Struct, frozen=True):
    """A row that the loader did not take, and why; printable whatever the row holds."""

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
        raise DataError(f"pricing: {raw!r} is not a text such as '$12.50'")
    try:
        prices = tuple(float(Decimal(_NOT_NUMBER.sub("", part))) for part in raw.split("$")[1:])
    except InvalidOperation:
        prices = ()
    if not prices or not all(map(math.isfinite, prices)):
        raise DataError(f"pricing: no price in {raw!r:.60}; write it as '$12.50' or '$5 to $9'")
    if len(prices) == 1:
        return prices, f"${prices[0]}"
    return prices[:2], f"${prices[0]} to ${prices[1]}"


def option_value(raw: str) -> str:
    """An option value as it is shown and clicked."""
    return raw.strip().replace("/", " | ").lower()


class _Value(msgspec.Struct):
    value: str
    image: Any = None


class _Row(msgspec.Struct):
    """What is used of a row of `items_shuffle.json`."""

    name: str
    full_description: str | None = None
    small_description: list[str] | str | None = None
    category: str | None = None
    product_category: str | None = None
    query: str | None = None
    customization_options: dict[str, list[_Value] | None] | None = None
    pricing: Any = None
    images: Any = None


class _Entry(msgspec.Struct):
    """What is used of an entry of `items_ins_v2.json`."""

    attributes: tuple[str, ...] = NO_ATTRIBUTES
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] | None = None


def read_rows(
    rows: Iterable[Any],
    attributes: Mapping[str, Any] | None,
    people: Mapping[str, Any] | None,
    seed: int,
) -> Iterator[Product | SkippedRow]:
    """Each row as a product, or why it is none; see `Catalogue.from_rows`."""
    attributes, people = attributes or {}, people or {}
    for name, value in (("attributes", attributes), ("human_instructions", people)):
        if not isinstance(value, Mapping):
            raise DataError(f"{name} must map asin -> entry, got {type(value).__name__}")
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(f"products must be a list of rows, not {type(rows).__name__}")
    seen, rng = set[str](), random.Random(seed)
    for number, row in enumerate(rows):
        asin = row.get("asin") if isinstance(row, Mapping) else None
        try:
            if not isinstance(asin, str) or not asin:
                raise DataError("asin: missing or not a text")
            if asin == "nan" or len(asin) > 10:
                raise DataError("asin: no product id (at most 10 characters)")
            if asin in seen:
                raise DataError("asin: was listed before")
            product = _product(row, attributes.get(asin), people.get(asin), rng)
        except (DataError, msgspec.ValidationError) as exc:
            yield SkippedRow(number, _printable(f"{asin!s:.20}"), _printable(str(exc)))
        else:
            seen.add(asin)
            yield product


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _product(row: Mapping[str, Any], entry: Any, people: Any, rng: random.Random) -> Product:
    """One row -> Product. Raises DataError or ValidationError, naming the field."""
    options, images = dict[str, tuple[str, ...]](), dict[str, Any]()
    given = row.get("customization_options") or None
    read = msgspec.convert({**row, "customization_options": given}, _Row)
    for name, values in (read.customization_options or {}).items():
        if values is not None:
            options[name.lower()] = tuple(option_value(v.value) for v in values)
            images |= {option_value(v.value): v.image for v in values}
    about = _Entry() if entry is None else msgspec.convert(entry, _Entry)
    wishes = msgspec.convert(people or (), tuple[Wish, ...])
    prices, price_text = parse_price(read.pricing)
    bullets, shown = read.small_description, read.images
    if isinstance(bullets, str):  # an empty one is a line of its own, as officially
        bullets = [bullets]
    return Product(
        asin=row["asin"],
        title=read.name,
        description=read.full_description or "",
        bullets=tuple(bullets or ()),
        price_text=price_text,
        prices=prices,
        price=rng.uniform(*prices) if len(prices) > 1 else prices[0],
        category=read.category or "",
        product_category=read.product_category or "",
        query=(read.query or "").lower().strip(),
        attributes=about.attributes,
        options=options,
        option_images=images,
        main_image=str(shown[0]) if isinstance(shown, list) and shown else "",
        instructions=wishes,
        synthetic_instruction=about.instruction,
        synthetic_attributes=about.instruction_attributes or (),
    )


class CatalogueId:
    """The hash of everything that decides how a shop behaves, product by product."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._comma = b""

    def add(self, p: Product) -> None:
        """Take the next product."""
        value = (
            *(p.asin, p.title, p.description, p.bullets, p.price_text, p.category),
            *(p.product_category, p.query, p.attributes, tuple(p.options.items())),
            p.price,
        )
        self._hash.update(self._comma + canonical_json(value, is_plain=True).encode())
        self._comma = b","

    def digest(self) -> str:
        """16 hex digits: `records.content_hash` of the list of all that was added."""
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()[:16]


class Catalogue:
    """A sequence of products with their search index; immutable, shared by environments.

    All in memory: 15 kB a product. `open_catalogue` gives one that lies on disk.

    Args:
        products: N products with distinct asins.
        seed: what the reward prices were drawn from; goals draw on.
        skipped: what a loader left out.

    Raises:
        DataError: two products share an asin.
    """

    skipped: Sequence[SkippedRow]
    """Rows that are no products."""
    ranges: int
    """Products with a price range: so many draws were made for prices."""

    def __init__(
        self, products: Iterable[Product], *, seed: int = 0, skipped: Sequence[SkippedRow] = ()
    ) -> None:
        self._products, self.seed, self.skipped = tuple(products), seed, tuple(skipped)
        self._by_asin = {p.asin: p for p in self._products}
        if len(self._by_asin) < len(self._products):
            raise DataError("an asin occurs twice in the catalogue; drop one")
        self.ranges = sum(len(p.prices) > 1 for p in self._products)

    def __len__(self) -> int:
        return len(self._products)

    def __getitem__(self, number: int) -> Product:
        return self._products[number]

    def __iter__(self) -> Iterator[Product]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} products, id={self.id!r})"

    def find(self, asin: str) -> Product | None:
        """The product with this id."""
        return self._by_asin.get(asin)

    def numbers_with(self, field: Literal["category", "query"], value: str) -> tuple[int, ...]:
        """Numbers of the products whose `field` is `value`, ascending."""
        return tuple(i for i, p in enumerate(self) if getattr(p, field) == value)

    def instructed(self, kind: Literal["human", "synthetic"]) -> Iterator[Product]:
        """The products, in order, that have instructions of this kind: all that goals need."""
        for product in self:
            if product.instructions if kind == "human" else product.synthetic_attributes:
                yield product

    @cached_property
    def id(self) -> str:
        """Hash of everything that decides how the shop behaves: products in order, prices."""
        hashed = CatalogueId()
        for product in self:
            hashed.add(product)
        return hashed.digest()

    @cached_property
    def index(self) -> Index:
        """The search index, built at the first search."""
        return Index.of((p.asin, p.document) for p in self)

    @classmethod
    def from_rows(
        cls,
        products: Iterable[Any],
        attributes: Mapping[str, Any] | None = None,
        human_instructions: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> Catalogue:
        """Load official-schema rows: items_shuffle, items_ins_v2, items_human_ins.

        Dropped as officially: asin "nan", asin of more than 10 characters, duplicates. Where the
        official loader raises (a price such as `N/A`, a missing field, an unusable entry for the
        product in the other files), the row is skipped. Both are listed in `Catalogue.skipped`.

        Args:
            seed: draws the reward price of products with a price range, one `uniform` each in
                product order, from `random.Random(seed)`: the official draw after
                `random.seed(seed)`.

        Raises:
            DataError: the three arguments do not have the shape of the official files.
        """
        kept: list[Product] = []
        skipped: list[SkippedRow] = []
        for read in read_rows(products, attributes, human_instructions, seed):
            if isinstance(read, SkippedRow):
                skipped.append(read)
            else:
                kept.append(read)
        return cls(kept, seed=seed, skipped=skipped)
