"""The official reward: how well a purchase fits a goal, with every part of it.

Owns the reward and its text rules. Knows nothing about pages or states.
Source: web_agent_site/engine/goal.py and normalize.py of princeton-nlp/WebShop; the token set
ratio is difflib's, as there, behind a rapidfuzz filter that cannot change a decision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from rapidfuzz.fuzz import token_set_ratio as _upper_bound

from eeflib.envs.webshop.catalogue import Product
from eeflib.envs.webshop.nouns import Nouns, word_nouns

__all__ = [
    "COLOURS",
    "MATCH_ABOVE",
    "Reward",
    "is_close",
    "normalize_color",
    "purchase_reward",
    "size_pattern",
    "token_set_ratio",
]

MATCH_ABOVE = 85
"""A token set ratio above this is a match."""

_COLOUR_WORDS = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze
    brown burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas
    coffee cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso
    fuchsia gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki
    lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha
    multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple
    rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash
    sunflower tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
COLOURS = tuple(_COLOUR_WORDS.split())
"""The official colour words, in the order in which they are looked for."""

_SIZE_WORDS = """
    xx-large|3x-large|4x-large|5x-large|x-large|x-small|medium|large|small|queen|twin|full|king|
    one size|pack
"""
_SIZE_SHAPES = r"""
    (.*)neck(.*)sleeve
    (.*) women \| (.*) men
    (.*)w x(.*)l
    (.*)w by (.*)l
    (.*)w x(.*)h
    (.*)wide
    (.*)x-wide
    (.*)narrow
    (.*)petite
    (.*)inch
    (.*)plus
    (.*)mm
    women(.*)
    (.*)x(.*)
    (.*)ft
    (.*)feet
    (.*)meter
    (.*)yards
    (.*)\*(.*)
    (.*)\-(.*)
    (\d+)"$
    (\d+)f$
    (\d+)m$
    (\d+)cm$
    (\d+)g$
"""
_SIZES = tuple(
    re.compile(text.strip())
    for text in [*_SIZE_WORDS.split("|"), *_SIZE_SHAPES.strip().splitlines()]
)


_NON_WORD = re.compile(r"\W")
_LATIN_1 = re.compile(r"[\x80-\xff]")


@dataclass(frozen=True)
class Reward:
    """The reward of a purchase and what it is made of."""

    value: float
    """In [0, 1]."""
    attribute_matches: int
    option_matches: int
    info: dict[str, Any] = field(default_factory=dict)
    """r_type, query_match, category_match, title_score, r_att, w_att, r_price, w_price and, where
    the goal names options, r_option, w_option; names as in the official environment."""


def normalize_color(value: Any) -> Any:
    """The first colour word that `value` contains, else `value`.

    Official goals of synthetic instructions pass (name, value) pairs through this; a pair
    "contains" a colour only as a whole element, and is otherwise kept.
    """
    return next((colour for colour in COLOURS if colour in value), value)


def size_pattern(value: str) -> str:
    """The official class of a size value: a pattern, `numeric_size` or `not_matched`."""
    hit = next((p.pattern for p in _SIZES if p.search(value)), None)
    if hit is not None:
        return hit
    return "numeric_size" if value.replace(".", "", 1).isdigit() else "not_matched"


def _plain(text: str) -> str:
    """Latin-1 supplement dropped, other non-word characters blank, lower case: thefuzz's way."""
    return _NON_WORD.sub(" ", _LATIN_1.sub("", text)).lower().strip()


def _same(a: str, b: str) -> int:
    return round(100 * SequenceMatcher(None, a, b).ratio()) if a and b else 0


def token_set_ratio(a: str, b: str) -> int:
    """Similarity of two texts as sets of words, 0 to 100, as the official environment has it.

    The shared words are compared with the words of either side, and these with one another; the
    best of the three counts (thefuzz 0.19 over difflib).
    """
    left, right = set(_plain(a).split()), set(_plain(b).split())
    if not left or not right:
        return 0
    shared = " ".join(sorted(left & right))
    ours = f"{shared} {' '.join(sorted(left - right))}".strip()
    theirs = f"{shared} {' '.join(sorted(right - left))}".strip()
    return max(_same(shared, ours), _same(shared, theirs), _same(ours, theirs))


@lru_cache(maxsize=100_000)
def is_close(a: str, b: str) -> bool:
    """Whether the token set ratio is above `MATCH_ABOVE`.

    rapidfuzz finds the longest common subsequence, difflib a common subsequence: the first is
    never below the second and rules out nearly all pairs in a microsecond.
    """
    if round(_upper_bound(_plain(a), _plain(b))) <= MATCH_ABOVE:
        return False
    return token_set_ratio(a, b) > MATCH_ABOVE


def _type_part(product: Product, goal: Mapping[str, Any], nouns: Nouns) -> dict[str, Any]:
    wanted = nouns(goal["name"])
    shared = len(set(nouns(product.title)) & set(wanted))
    title_score = shared / len(wanted) if wanted else 0.2
    ours, theirs = (
        {part.strip() for part in path.split("›")}
        for path in (product.product_category, goal["product_category"])
    )
    query_match = product.query == goal["query"]
    category_match = len(ours & theirs) >= 2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def _attribute_matches(product: Product, wanted: Sequence[str]) -> int:
    texts = (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
    return sum(
        any(is_close(have, want) for have in product.attributes) or any(want in t for t in texts)
        for want in wanted
    )


def _option_matches(chosen: Sequence[str], wanted: Any) -> int:
    pairs = wanted.items() if isinstance(wanted, Mapping) else wanted
    have = [normalize_color(value) for value in chosen]
    want = [str(normalize_color(tuple(w) if isinstance(w, list) else w)) for w in pairs]
    return sum(any(is_close(h, w) for h in have) for w in want)


def purchase_reward(
    product: Product,
    goal: Mapping[str, Any],
    price: float,
    options: Mapping[str, str],
    nouns: Nouns = word_nouns,
) -> Reward:
    """The reward for buying `product` with `options` (name -> value) at `price`.

    r_type * (attribute matches + option matches + price ok) / (attributes + options + 1). Where
    the official code raises (no price limit), the price counts as ok and `r_price` is None.
    """
    wanted, wanted_options = goal["attributes"], goal["goal_options"]
    parts = len(wanted) + len(wanted_options) + 1
    attributes = _attribute_matches(product, wanted)
    chosen = _option_matches(list(options.values()), wanted_options)
    price_ok = price <= goal["price_upper"] if goal["price_upper"] > 0 else None
    info = _type_part(product, goal, nouns)
    value = (attributes + chosen + (price_ok is not False)) / parts * info["r_type"]
    info["r_att"] = attributes / len(wanted) if wanted else 1.0
    info["w_att"] = len(wanted) / parts
    if wanted_options:
        info["r_option"] = chosen / len(wanted_options)
        info["w_option"] = len(wanted_options) / parts
    info["r_price"] = price_ok
    info["w_price"] = 1 / parts
    return Reward(value, attributes, chosen, info)
