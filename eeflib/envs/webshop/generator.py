"""The embedded catalogue: a seeded store whose search results make some wishes hard.

Owns which products exist and how they are described; `tasks.py` makes the instructions. Output is
rows of the official `items_shuffle.json` schema plus the attribute file, read by the same loader
as official data.

What makes a wish hard is what makes it hard in a real store. Some listings of a family are
*sponsored*: their description repeats the words people search for ("Often searched together: ..."),
without having those properties, and so they rank first. The one product that has both attributes in
its title is then on page 2 or 3, behind listings that share one of them. *Twins* share a title and
differ in one property that only the Features page tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from eeflib.envs.webshop.lexicon import (
    ASIN_HEADS,
    ASIN_TAILS,
    BRANDS,
    BULLETS,
    CATEGORIES,
    FILLER,
    Category,
    ProductType,
)
from eeflib.errors import DataError

__all__ = ["Item", "Store", "generate_store"]

SIZE = 35
"""Products of a family."""
TWINS = (8, 3)
"""Products of a family that repeat the pair of another one: in families that start on page 1, where
tasks need them, and in others. The rest carry different pairs, out of 36."""
MOST_VALUES = 4
"""Values of an option group that a product comes in, at most."""
LAYOUTS = ((0, 9), (11, 17), (11, 17), (20, 22))
"""Sponsored listings (low, high) in a family: the others start on page 1, 2, 2, 3."""


@dataclass(frozen=True)
class Item:
    """What the generator knows of a product; the shop shows it only through its pages."""

    asin: str
    noun: str
    category: str
    pair: tuple[str, str]
    """The two attributes in the title."""
    hidden: str
    """The attribute that only a later bullet (Features page) tells."""
    options: dict[str, tuple[str, ...]]
    price: int
    """Dollars."""
    sponsored: bool
    twin: bool
    """Shares its pair with another item of the family."""


@dataclass(frozen=True)
class Store:
    items: tuple[Item, ...]
    rows: list[dict[str, Any]]
    """Products in the official schema."""
    attributes: dict[str, dict[str, Any]]
    """Product id -> {"attributes": [...]}, as in the official `items_ins_v2.json`."""


def _price(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    """Dollars: as many products below the geometric middle of the bounds as above it."""
    return round(float(np.exp(rng.uniform(*np.log(bounds)))))


def _some(rng: np.random.Generator, values: Sequence[str], low: int) -> tuple[str, ...]:
    n = int(rng.integers(low, min(len(values), MOST_VALUES) + 1)) if len(values) > low else low
    return tuple(values[i] for i in rng.choice(len(values), size=n, replace=False))


def _stuffing(noun: str, pool: Sequence[str], rng: np.random.Generator) -> str:
    """Search words without the properties: an attribute's two words never stand side by side."""
    words = [a.split() for a in pool]
    order = rng.permutation(len(words))
    first = ", ".join(words[i][1] for i in order)
    second = ", ".join(words[i][0] for i in order)
    return (
        f"Often searched together: {noun}, {first}; {noun}, {second}. "
        f"See also: {first}; {second}; {noun}."
    )


def _family(
    category: Category,
    kind: ProductType,
    asins: list[str],
    n_sponsored: int,
    rng: np.random.Generator,
) -> list[Item]:
    pool = [kind.attributes[i] for i in rng.permutation(len(kind.attributes))]
    pairs = list(combinations(pool, 2))
    n_pairs = SIZE - TWINS[n_sponsored > LAYOUTS[0][1]]
    picked = [pairs[i] for i in rng.permutation(len(pairs))[:n_pairs]]
    twin_of = rng.choice(n_pairs, size=SIZE - n_pairs, replace=False).tolist()
    single = [i for i in range(n_pairs) if i not in twin_of]
    sponsored = set(rng.choice(single, size=n_sponsored, replace=False).tolist())
    items: list[Item] = []
    for i in range(SIZE):
        source = twin_of[i - n_pairs] if i >= n_pairs else i
        hidden = category.shared[rng.integers(len(category.shared))]
        if i >= n_pairs:
            others = [a for a in category.shared if a != items[source].hidden]
            hidden = others[rng.integers(len(others))]
        a, b = picked[source]
        items.append(
            Item(
                asin=asins[i],
                noun=kind.noun,
                category=category.name,
                pair=(a, b) if rng.random() < 0.5 else (b, a),
                hidden=hidden,
                options={name: _some(rng, values, 3) for name, values in kind.options.items()},
                price=_price(kind.prices, rng),
                sponsored=i in sponsored,
                twin=i >= n_pairs or i in twin_of,
            )
        )
    return items


def _row(
    item: Item, category: Category, kind: ProductType, rng: np.random.Generator
) -> dict[str, Any]:
    brand = BRANDS[rng.integers(len(BRANDS))]
    filler = [FILLER[i] for i in rng.permutation(len(FILLER))]
    about = [category.sentences[i] for i in rng.permutation(len(category.sentences))]
    text = _stuffing(item.noun, kind.attributes, rng) if item.sponsored else filler[0]
    sentence = BULLETS[rng.integers(len(BULLETS))]
    told = sentence.format(it=item.hidden, It=item.hidden.capitalize())
    bullets = [about[1], told, about[2], filler[1]]
    return {
        "asin": item.asin,
        "name": f"{brand} {item.pair[0]} {item.pair[1]} {item.noun}".title(),
        "category": item.category,
        "query": item.noun,
        "product_category": " \u203a ".join(kind.path),
        "full_description": f"{about[0]} {text}",
        "small_description": [bullets[i] for i in rng.permutation(len(bullets))],
        "pricing": f"${item.price}",
        "customization_options": {
            name: [{"value": v, "image": None} for v in values]
            for name, values in item.options.items()
        },
        "images": [],
    }


def generate_store(seed: int, *, families: int = 48) -> Store:
    """The store of `seed`: `families` x 35 products in up to 12 categories (default 1,680).

    Two calls with the same arguments give equal stores.

    Raises:
        DataError: `families` is not in 1..48.
    """
    if not 1 <= families <= 4 * len(CATEGORIES):
        raise DataError(f"families is {families}; a store has 1 to {4 * len(CATEGORIES)} of them")
    rng = np.random.default_rng([seed, 1])
    kinds = [(c, t) for j in range(4) for c in CATEGORIES for t in c.types[j : j + 1]][:families]
    numbers = rng.choice(len(ASIN_HEADS) * len(ASIN_TAILS), size=families * SIZE, replace=False)
    asins = [
        (ASIN_HEADS[n // len(ASIN_TAILS)] + ASIN_TAILS[n % len(ASIN_TAILS)]).upper()
        for n in numbers
    ]
    layouts = [LAYOUTS[i % len(LAYOUTS)] for i in rng.permutation(families)]
    items: list[Item] = []
    rows: list[dict[str, Any]] = []
    for f, (category, kind) in enumerate(kinds):
        low, high = layouts[f]
        n_sponsored = int(rng.integers(low, high + 1))
        family = _family(category, kind, asins[f * SIZE : (f + 1) * SIZE], n_sponsored, rng)
        items += family
        rows += [_row(item, category, kind, rng) for item in family]
    order = rng.permutation(len(rows))
    items = [items[i] for i in order]
    rows = [rows[i] for i in order]
    attributes = {i.asin: {"attributes": [*i.pair, i.hidden]} for i in items}
    return Store(tuple(items), rows, attributes)
