"""How a shopper words a wish: instruction text from its parts.

Owns the sentence patterns of the embedded tasks; minds articles and what kind of word an attribute
is. Knows nothing about catalogues: it never sees a product, so it cannot leak one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eeflib.envs.webshop.lexicon import FORMS

__all__ = ["OPENINGS", "OPTION_WORDING", "phrase"]

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

_PLURAL = frozenset(["slippers", "sandals", "headphones", "crackers", "blocks", "markers"])
_MASS = frozenset(
    ["moisturizer", "sunscreen", "shampoo", "conditioner", "granola", "coffee", "tea"]
)

OPTION_WORDING: Mapping[str, tuple[str, ...]] = {
    "color": ("in {value}", "in the color {value}", "in {value} color"),
    "size": ("in size {value}", "in the {value} size"),
    "fit": ("in a {value} fit", "with a {value} fit"),
    "container": ("in a {value}", "in the {value} container"),
    "skin type": ("for {value} skin", "for the skin type {value}"),
    "hair type": ("for {value} hair", "for the hair type {value}"),
    "scent": ("with {value} scent", "in the {value} scent"),
    "bundle": ("as a {value}", "in the {value} bundle"),
    "edition": ("in the {value} edition", "in {value} edition"),
    "connection": ("with a {value} connection", "with {value} connection"),
    "duty": ("for {value} duty",),
    "finish": ("with a {value} finish", "in a {value} finish"),
    "form": ("in a {value} form", "in the {value} form"),
    "flavor": ("in the {value} flavor", "with {value} flavor"),
    "portion": ("in a {value} portion", "in the {value} portion"),
    "weight": ("in the {value} weight", "with {value} weight"),
    "age": ("for the {value} age", "for {value} age"),
    "theme": ("with a {value} theme", "in the {value} theme"),
    "pattern": ("in a {value} pattern", "with a {value} pattern"),
    "ruling": ("with {value} ruling", "in the {value} ruling"),
    "assortment": ("in the {value} assortment", "in a {value} assortment"),
    "bed size": ("in {value} bed size", "in the bed size {value}"),
}
_SPOKEN_AS_CONSONANT = ("uv ", "univers", "utensil", "one ")
_ANY_OPTION = ("with {name} {value}", "in {name} {value}")


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
