"""How a shopper words a wish: instruction text from its parts.

Owns the sentence patterns of the embedded tasks: `phrase` for the first five levels, whose wording
is fixed because results rest on it, and `phrase_wish` for the later ones, which minds articles and
what kind of word an attribute is. Knows nothing about catalogues: it never sees a product, so it
cannot leak one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["OPENINGS", "WISH_OPENINGS", "phrase", "phrase_wish"]

_JOIN_AFTER = (
    "{noun} that is {attrs}",
    "{noun}, {attrs}",
    "{noun} with {attrs}",
    "{noun} described as {attrs}",
    "{noun} which must be {attrs}",
)
_JOIN_BEFORE = ("{first} {noun} with {rest}", "{first} {noun} that is also {rest}")

OPENINGS = (
    "i need {wish}",
    "i am looking for {wish}",
    "find me {wish}",
    "please help me buy {wish}",
    "i would like {wish}",
    "can you get me {wish}",
    "show me {wish}",
    "my sister wants {wish}",
    "i want to order {wish}",
    "we ran out, so i need new {wish}",
    "shopping for {wish}",
    "get {wish}",
)

_OPTION_PHRASES = (", in {value}", ", {name} {value}", ", with {name} {value}", ", {value}")


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


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
        attributes: wanted attributes, in any order (shuffled here).
        options: wanted option values by option name.
        price_upper: dollars, None for no limit.
    """
    attrs = [attributes[i] for i in rng.permutation(len(attributes))]
    if len(attrs) >= 2 and rng.random() < 0.4:
        pattern = _JOIN_BEFORE[rng.integers(len(_JOIN_BEFORE))]
        wish = pattern.format(first=attrs[0], noun=noun, rest=_and(attrs[1:]))
    else:
        pattern = _JOIN_AFTER[rng.integers(len(_JOIN_AFTER))]
        wish = pattern.format(noun=noun, attrs=_and(attrs))
    for name, value in options.items():
        wording = _OPTION_PHRASES[rng.integers(len(_OPTION_PHRASES))]
        wish += wording.format(name=name, value=value)
    text = OPENINGS[rng.integers(len(OPENINGS))].format(wish=wish)
    if price_upper is not None:
        text += f", and price lower than {price_upper:.2f} dollars"
    return text


WISH_OPENINGS = (
    *OPENINGS[:9],
    "i am shopping for {wish}",
    "looking for {wish}",
    "we need {wish}",
    "we would like {wish}",
    "i want to buy {wish}",
    "can you find me {wish}",
    "please show me {wish}",
    "help me find {wish}",
    "my sister is looking for {wish}",
    "we are out, so get us {wish}",
    "i must order {wish}",
)
"""Openings of `phrase_wish`."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PLURAL = _words("slippers sandals headphones crackers blocks markers")
_MASS = _words("moisturizer sunscreen shampoo conditioner granola coffee tea")
_ADJECTIVES = _words(
    """
    resistant washable drying free enriched hydrating safe approved cancelling proof charging
    lasting plated stick coated ready sealed stable woven watering mounted tolerant saving
    upholstered farmed based friendly flavored certified roasted packed picked lightweight shaped
    toxic powered controlled sized infused bound plush tested
    """
)
"""Last words of attributes that can stand after "that is"."""
_COUNTABLE = _words(
    """
    sole waist pocket collar blend assistant microphone port lid handle shape base frame back height
    drawer seat window grip clip pouch bar bag bin filter release top chest mat tip cover closure
    shell marker weave cut fit
    """
)
"""Last words of attributes that take an article after "with"."""
_BEFORE_NOUN = frozenset(
    """
    long sleeve, fleece inner, tea tree, sensitive skin, anti frizz, high speed, stainless steel,
    cast iron, solid teak, heavy gauge, recycled plastic, solid wood, engineered oak, faux leather,
    high density, low sugar, reduced sodium, fair trade, whole grain, rip stop, no pull, step in,
    easy scoop, dry erase, down alternative, egyptian cotton, bamboo rayon, hotel quality
    """.replace("\n   ", "").strip().split(", ")
)  # fmt: skip
"""Attributes that only read well in front of the noun."""

_OPTION_WORDING = {
    "color": ("in {value}", "in the color {value}", "in {value} color"),
    "size": ("in size {value}", "in the {value} size", "in a {value}"),
    "pack": ("in a {value}", "as a {value}"),
    "age": ("for the {value} age", "for {value} age"),
    "style": ("in the {value} style", "in {value} style"),
    "flavor": ("in the {value} flavor", "with {value} flavor"),
    "fit": ("in the {value} fit", "with a {value} fit"),
    "finish": ("with a {value} finish", "in a {value} finish"),
    "capacity": ("with a {value} capacity", "with a capacity of {value}"),
    "width": ("with a {value} width", "with a width of {value}"),
    "volume": ("with a volume of {value}", "in the {value} volume"),
    "ruling": ("with {value} ruling", "in the {value} ruling"),
    "bed size": ("in {value} bed size", "in the bed size {value}"),
}
_ANY_OPTION = ("with {name} {value}", "in {name} {value}")


def _list(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return _and([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _a(text: str) -> str:
    """`text` behind its indefinite article."""
    vowel = text[0] in "aeiou" and not text.startswith(("uv ", "usb "))
    return f"{'an' if vowel or text.startswith('x-') else 'a'} {text}"


def _option(name: str, value: str, rng: np.random.Generator) -> str:
    wording = _OPTION_WORDING.get(name, _ANY_OPTION)
    text = wording[rng.integers(len(wording))]
    if " a {value}" in text:
        return text.replace("a {value}", _a(value)).format(name=name, value=value)
    return text.format(name=name, value=value)


def phrase_wish(
    noun: str,
    attributes: Sequence[str],
    options: Mapping[str, str],
    price_upper: float,
    rng: np.random.Generator,
) -> str:
    """One readable instruction with articles, the price limit worded as in `phrase`.

    Args:
        noun: the product type, e.g. "slippers".
        attributes: wanted attributes, in any order (shuffled here); what is not known from the
            embedded lexicon goes behind "with".
        options: wanted option values by option name.
        price_upper: dollars.
    """
    shuffled = [attributes[i] for i in rng.permutation(len(attributes))]
    is_adjective = [a.split()[-1] in _ADJECTIVES for a in shuffled]
    before = [a for a in shuffled if a in _BEFORE_NOUN]
    adjectives = [a for a, yes in zip(shuffled, is_adjective, strict=True) if yes]
    if adjectives and len(before) < 2 and rng.random() < 0.5:
        before.insert(0, adjectives.pop(0))
    things = [
        _a(a) if a.split()[-1] in _COUNTABLE else a
        for a, yes in zip(shuffled, is_adjective, strict=True)
        if not yes and a not in _BEFORE_NOUN
    ]
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
    text = WISH_OPENINGS[rng.integers(len(WISH_OPENINGS))].format(wish=wish)
    return f"{text}, and price lower than {price_upper:.2f} dollars"
