"""The words of the embedded store: categories, product types, attributes, brands, options.

Owns what `lexicon.toml` says, checked, and the words that product ids are made of. Knows nothing
about products. Brands are invented. Each product type has nine attributes of its own, which its
titles tell, and shares eight with its category, which only a Features page tells: so nothing but
the wanted type has the wanted attributes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = [
    "ASIN_HEADS",
    "ASIN_TAILS",
    "BRANDS",
    "BULLETS",
    "CATEGORIES",
    "FILLER",
    "FORMS",
    "OPTION_GROUPS",
    "OPTION_NAMES",
    "OPTION_WORDS",
    "Category",
    "ProductType",
]

_TEXT = files("eeflib.envs.webshop").joinpath("lexicon.toml").read_text("utf-8")
_DATA: Mapping[str, Any] = tomllib.loads(_TEXT)

FORMS: dict[str, str] = {}
"""Attribute -> how a sentence takes it: `is`, `with`, `with a` or `before` (the noun only)."""


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

FILLER: tuple[str, ...] = tuple(_DATA["filler"])

BULLETS: tuple[str, ...] = tuple(_DATA["bullets"])
"""Sentences for an attribute: `{it}`, or `{It}` with a capital."""

_SYLLABLES = tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou")


def _codes(n: int, step: int) -> tuple[str, ...]:
    """n four-letter codes: two syllables each, spread over the alphabet by a fixed stride."""
    size = len(_SYLLABLES)
    picked = [(i * step) % (size * size) for i in range(n)]
    return tuple(_SYLLABLES[p // size] + _SYLLABLES[p % size] for p in picked)


ASIN_HEADS: tuple[str, ...] = tuple("b0" + code for code in _codes(256, 191))
"""First six letters of a product id: few, so that a small vocabulary covers every id."""
ASIN_TAILS: tuple[str, ...] = _codes(64, 757)
"""Last four letters of a product id; head x tail gives 16,384 ids of the official length."""

OPTION_NAMES: frozenset[str] = frozenset(name for name, _ in OPTION_GROUPS.values())

OPTION_WORDS: frozenset[str] = frozenset(
    word
    for name, values in OPTION_GROUPS.values()
    for text in (name, *values)
    for word in text.split()
)
"""Words of option names and values, which shoppers leave out of a search."""
