"""The embedded store: its words, its products, and the wording of wishes. Everything is seeded.

Import `generate_store` and `phrase` from here; `tasks` makes the tasks. A store is rows of the
official `items_shuffle.json` schema plus the attribute file, read by the same loader as official
data. Words come from `lexicon.toml` (categories, product types, attributes, brands, options);
brands are invented.

Each product type has nine attributes of its own, which its titles show, and shares eight with its
category, which only a Features page shows: so nothing but the wanted type has the wanted
attributes.

A wish is hard for the reasons that make one hard in a real store. Some listings of a family are
*sponsored*: their description repeats the words people search for ("Often searched together: ..."),
without having those properties, and so they rank first. The one product that has both attributes in
its title is then on page 2 or 3, behind listings that share one of them. *Twins*, five of them,
share a title and differ in one property that only the Features page shows.

`phrase` words an instruction from its parts (articles, the kind of word an attribute is). It never
sees a product, so it cannot leak one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from typing import Any

import numpy as np

from eeflib.errors import DataError

_DATA: Mapping[str, Any] = tomllib.loads(
    files("eeflib.envs.webshop").joinpath("lexicon.toml").read_text("utf-8")
)

FORMS: dict[str, str] = {}
"""Attribute -> how a sentence takes it: `is`, `with`, `with a` or `before` (the noun only)."""

FILLER: tuple[str, ...] = tuple(_DATA["filler"])
BULLETS: tuple[str, ...] = tuple(_DATA["bullets"])
"""Sentences for an attribute: `{it}`, or `{It}` with a capital."""
_SYLLABLES = tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou")
OPENINGS: tuple[str, ...] = tuple(_DATA["openings"])
"""Beginnings of an instruction, for `{wish}`."""
_PLURAL, _MASS = frozenset(_DATA["plural"]), frozenset(_DATA["mass"])
OPTION_WORDING: Mapping[str, tuple[str, ...]] = {
    name: tuple(wordings) for name, wordings in _DATA["option_wording"].items()
}
"""Option name -> how a sentence takes a value, for `{value}`."""
_SPOKEN_AS_CONSONANT = ("uv ", "univers", "utensil", "one ")
_ANY_OPTION = ("with {name} {value}", "in {name} {value}")
SIZE = 35
"""Products of a family."""
TWINS = 4
"""Products that repeat the pair of another one: five share a title, so that a lucky pick among them
is right one time in five."""
TWIN_PAIRS = (4, 1)
"""Pairs of a family that are repeated so: in families that start on page 1, where tasks need them,
and in others. The rest of its products carry different pairs, out of 36."""
MOST_VALUES = 4
"""Values of an option group that a product comes in, at most."""
LAYOUTS = ((0, 9), (11, 17), (11, 17), (20, 22))
"""Sponsored listings (low, high) in a family: the others start on page 1, 2, 2, 3."""


@dataclass(frozen=True)
class ProductType:
    """A family of products: what a shopper calls it, and where the store files it."""

    noun: str
    path: tuple[str, ...]
    """Department, branch and type, as `product_category` has them."""
    attributes: tuple[str, ...]
    """Nine, of this type alone."""
    options: Mapping[str, tuple[str, ...]]
    """Two or three groups: name -> values."""
    prices: tuple[int, int]
    """Dollars, from and to."""


@dataclass(frozen=True)
class Category:
    name: str
    """Official-style category word (`fashion`, `garden`, ...)."""
    types: tuple[ProductType, ...]
    shared: tuple[str, ...]
    """Attributes that any of its types may have."""
    sentences: tuple[str, ...]
    """What its descriptions say besides."""


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _attributes(text: str) -> tuple[str, ...]:
    """Attributes without the mark that says how a sentence takes them, which goes to `FORMS`."""
    found = []
    for marked in _split(text):
        for mark, form in (
            ("with an ", "with a"), ("with a ", "with a"), ("with ", "with"), ("^", "before"),
            ("", "is"),
        ):  # fmt: skip
            if marked.startswith(mark):
                found.append(marked.removeprefix(mark))
                FORMS[found[-1]] = form
                break
    return tuple(found)


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, values = text.split(": ")
    return name, tuple(_split(values))


OPTION_GROUPS = {key: _group(text) for key, text in _DATA["options"].items()}
"""Key in the file -> (name that the shop shows, values)."""
OPTION_VALUES: Mapping[str, tuple[str, ...]] = {
    name: tuple(v for key, values in OPTION_GROUPS.values() if key == name for v in values)
    for name, _ in OPTION_GROUPS.values()
}
"""Name that the shop shows -> all values that any group of that name has."""


def _type(data: Mapping[str, Any], root: str) -> ProductType:
    low, high = data["prices"]
    return ProductType(
        data["noun"],
        (root, data["branch"], data["noun"].title()),
        _attributes(data["attributes"]),
        dict(OPTION_GROUPS[key] for key in data["options"]),
        (low, high),
    )


CATEGORIES: tuple[Category, ...] = tuple(
    Category(
        c["name"],
        tuple(_type(t, c["root"]) for t in c["types"]),
        _attributes(c["shared"]),
        tuple(c["sentences"]),
    )
    for c in _DATA["categories"]
)

BRANDS: tuple[str, ...] = tuple(_split(_DATA["brands"]))


def _codes(n: int, step: int) -> tuple[str, ...]:
    """n four-letter codes: two syllables each, spread over the alphabet by a fixed stride."""
    size = len(_SYLLABLES)
    picked = [(i * step) % (size * size) for i in range(n)]
    return tuple(_SYLLABLES[p // size] + _SYLLABLES[p % size] for p in picked)


ASIN_HEADS: tuple[str, ...] = tuple("b0" + code for code in _codes(256, 191))
"""First six letters of a product id: few, so that a small vocabulary covers every id."""
ASIN_TAILS: tuple[str, ...] = _codes(64, 757)
"""Last four letters of a product id; head x tail gives 16,384 ids of the official length."""


def _list(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    first = ", ".join(words[:-1])
    return f"{first} and {words[-1]}" if first else words[-1]


def _a(text: str) -> str:
    """`text` behind its indefinite article."""
    vowel = text[0] in "aeiou" and not text.startswith(_SPOKEN_AS_CONSONANT)
    return f"{'an' if vowel else 'a'} {text}"


def _option(name: str, value: str, rng: np.random.Generator) -> str:
    wording = OPTION_WORDING.get(name, _ANY_OPTION)
    text = wording[rng.integers(len(wording))]
    return text.replace("a {value}", _a(value)).format(name=name, value=value)


def phrase(
    noun: str,
    attributes: Sequence[str],
    options: Mapping[str, str],
    price_upper: float | None,
    rng: np.random.Generator,
) -> str:
    """One readable instruction; the price limit is worded as the official goals word it.

    Args:
        noun: the product type, e.g. "slippers".
        attributes: wanted attributes, in any order (shuffled here); what the lexicon does not know
            goes behind "with".
        options: wanted option values by option name.
        price_upper: dollars, None for no limit.
    """
    shuffled = [attributes[i] for i in rng.permutation(len(attributes))]
    forms = {a: FORMS.get(a, "with") for a in shuffled}
    before = [a for a in shuffled if forms[a] == "before"]
    adjectives = [a for a in shuffled if forms[a] == "is"]
    if adjectives and len(before) < 2 and rng.random() < 0.5:
        before.insert(0, adjectives.pop(0))
    things = [_a(a) if forms[a] == "with a" else a for a in shuffled if "with" in forms[a]]
    wish = " ".join([*before, noun])
    if noun not in _PLURAL | _MASS:
        wish = _a(wish)
    elif rng.random() < 0.3:
        wish = f"some {wish}"
    wordings = [_option(name, value, rng) for name, value in options.items()]
    if wordings and rng.random() < 0.5 and not (things and wordings[0].startswith("with")):
        wish += f" {wordings.pop(0)}"
    if adjectives:
        verb = "are" if noun in _PLURAL else "is"
        clauses = (f" that {verb} ", " which must be ", f" that {verb} also " if before else ", ")
        wish += clauses[rng.integers(len(clauses))] + _list(adjectives)
    if things:
        wish += f"{',' if adjectives else ''} with {_list(things)}"
    wish += "".join(f", {w}" for w in wordings)
    text = OPENINGS[rng.integers(len(OPENINGS))].format(wish=wish)
    if price_upper is not None:
        text += f", and price lower than {price_upper:.2f} dollars"
    return text


@dataclass(frozen=True)
class Item:
    """What the generator knows of a product; the shop shows it only through its pages."""

    asin: str
    noun: str
    category: str
    pair: tuple[str, str]
    """The two attributes in the title."""
    hidden: str
    """The attribute that only a later bullet (Features page) names."""
    options: dict[str, tuple[str, ...]]
    price: int
    """Dollars."""
    sponsored: bool
    twin: bool
    """Shares its pair with other items of the family."""


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
    repeated = TWIN_PAIRS[n_sponsored > LAYOUTS[0][1]]
    n_pairs = SIZE - TWINS * repeated
    picked = [pairs[i] for i in rng.permutation(len(pairs))[:n_pairs]]
    twin_of = rng.choice(n_pairs, size=repeated, replace=False).tolist()
    single = [i for i in range(n_pairs) if i not in twin_of]
    sponsored = set(rng.choice(single, size=n_sponsored, replace=False).tolist())
    hidden_of = {i: rng.permutation(len(category.shared))[: TWINS + 1] for i in twin_of}
    items: list[Item] = []
    for i in range(SIZE):
        source, copy = i, 0
        if i >= n_pairs:
            source, copy = twin_of[(i - n_pairs) // TWINS], (i - n_pairs) % TWINS + 1
        if source in hidden_of:  # each of them has another hidden attribute
            hidden = category.shared[hidden_of[source][copy]]
        else:
            hidden = category.shared[rng.integers(len(category.shared))]
        a, b = picked[source]
        items.append(
            Item(
                asin=asins[i],
                noun=kind.noun,
                category=category.name,
                pair=(a, b) if rng.random() < 0.5 else (b, a),
                hidden=hidden,
                options={name: _some(rng, values, 2) for name, values in kind.options.items()},
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
    bullet = sentence.format(it=item.hidden, It=item.hidden.capitalize())
    bullets = [about[1], bullet, about[2], filler[1]]
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
