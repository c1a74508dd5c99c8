"""How a shopper words a wish: instruction text from its parts.

Owns the sentence patterns of the embedded tasks. Knows nothing about catalogues: it never sees a
product, so it cannot leak one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["OPENINGS", "phrase"]

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
