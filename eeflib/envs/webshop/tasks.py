"""Graded tasks over the embedded catalogue: which wish, how worded, how hard.

Owns the levels and the splits. A level is measured, not intended: a task is put where the store's
own search shows its product, for every query that a reasonable shopper types. What the levels ask
for and how many products each has is in `LEVELS`, `SKILLS`, `count_products` and docs/webshop.md.

| level | what it takes |
|---|---|
| easy | the product on page 1, at most one option |
| options | page 1, two options |
| options3 | page 1, three options |
| subpage | page 1 with a twin of the same title: only the Features page tells them apart |
| page2 | Next > once, at most one option |
| page3 | Next > twice, at most one option |
| twins | subpage, and the wrong twin is ranked first: read its Features, go back, take the other |
| back | the one or two best-ranked fitting titles lack a wanted option value: go back |
| price | the one or two best-ranked fitting titles are too dear |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue, Product
from eeflib.envs.webshop.generator import Item, Store
from eeflib.envs.webshop.phrasing import phrase
from eeflib.envs.webshop.wishes import (
    DETOUR_LEVELS,
    PAGE,
    Wish,
    WishFinder,
    limits,
    ranked,
    same_titles,
)
from eeflib.errors import DataError
from eeflib.records import Task, episode_rng, split_order

__all__ = [
    "FIRST_LEVELS",
    "LEVELS",
    "MIX",
    "MIXES",
    "SKILLS",
    "count_products",
    "make_tasks",
    "reference_queries",
]

FIRST_LEVELS = ("easy", "options", "subpage", "page2", "page3")
"""Levels of the default mix."""
LEVELS = (*FIRST_LEVELS, "options3", "twins", "back", "price")
MIX: Mapping[str, float] = {
    "easy": 0.30, "options": 0.12, "subpage": 0.06, "page2": 0.38, "page3": 0.14,
}  # fmt: skip
"""Default share of each level in every split."""
MIXES: Mapping[str, Mapping[str, float]] = {
    "default": MIX,
    "all": {
        "easy": 0.18, "options": 0.10, "subpage": 0.04, "page2": 0.23, "page3": 0.10,
        "options3": 0.08, "twins": 0.07, "back": 0.07, "price": 0.13,
    },
}  # fmt: skip
"""Shares by name; a level's own name stands for that level only."""

SKILLS = {
    "easy": (),
    "options": ("two options",),
    "subpage": ("sub page", "go back and choose again"),
    "page2": ("next page",),
    "page3": ("next page", "next page again"),
    "options3": ("three options",),
    "twins": ("sub page", "go back and choose again"),
    "back": ("go back and choose again",),
    "price": ("price limit",),
}


_ASKED = {"options": 2, "options3": 3, "subpage": 0}
"""Options that a task of a level asks for; none or one on the others."""


_POOLS = {"easy": "page1", "options": "page1"}
"""What a level's products are kept under, where that is not its name."""
_PLACES = {"train": 0.0, "validation": 0.5, "test": 1.0}
"""Where in the shuffled list of products a split begins to take; other splits: at random."""


def reference_queries(item: Item, *, hidden: bool = False) -> list[str]:
    """The queries a reasonable shopper types for `item`; the first says all that is wished."""
    a, b = item.pair
    full = f"{a} {b} {item.noun}"
    first = f"{full} {item.hidden}" if hidden else full
    return [first, item.noun, f"{a} {item.noun}", f"{b} {item.noun}"]


def _page(catalogue: Catalogue, asin: str, query: str) -> int:
    """The result page (from 1) that shows the product; behind the last page if none does."""
    found = ranked(catalogue, query)
    rank = found.index(asin) if asin in found else len(found) + 10 * PAGE
    return rank // PAGE + 1


def _candidates(
    store: Store, catalogue: Catalogue, twins: Mapping[str, Sequence[Item]]
) -> dict[str, list[Any]]:
    """Items by page; only those that no reference query shows earlier than the first one does."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in store.items:
        queries = reference_queries(item, hidden=item.twin)
        page = _page(catalogue, item.asin, queries[0])
        if page > 3 or any(_page(catalogue, item.asin, q) < page for q in queries[1:]):
            continue
        if not item.twin:
            found[f"page{page}"].append(item)
            if page == 1 and len(item.options) > 2:
                found["options3"].append(item)
        elif page == 1 and all(_page(catalogue, x.asin, queries[0]) == 1 for x in twins[item.asin]):
            found["subpage"].append(item)
    return found


def _goal(product: Product, wish: Wish, rng: np.random.Generator) -> dict[str, Any]:
    upper = float(wish.limits[rng.integers(len(wish.limits))])
    text = phrase(wish.item.noun, wish.attributes, wish.options, upper, rng)
    return {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        "instruction_text": text,
        "attributes": list(wish.attributes),
        "price_upper": upper,
        "goal_options": list(wish.options.values()),
    }


def _scarce(pools: Mapping[str, Sequence[Any]]) -> dict[str, set[str]]:
    """Per pool the products that a smaller pool holds as well: they are taken last."""
    smaller: set[str] = set()
    out = {}
    for name in sorted(pools, key=lambda n: len(pools[n])):
        out[name] = set(smaller)
        smaller |= {x.asin for x in pools[name]}
    return out


def _nearest_first(
    pool: Sequence[Any], near: Mapping[str, tuple[float, float]], scarce: set[str]
) -> Iterator[Any]:
    return iter(sorted(pool, key=lambda x: (x.asin in scarce, near[x.asin])))


def _next(pool: Iterator[Any], used: set[str], level: str, counts: Mapping[str, int]) -> Any:
    """Take the next of `pool` (items or wishes) whose product is not yet a target."""
    for candidate in pool:
        if candidate.asin not in used:
            used.add(candidate.asin)
            return candidate
    raise DataError(
        f"the store has too few products of level {level!r} for {dict(counts)}: ask "
        "for fewer tasks, more families or another mix"
    )


def _level_order(shares: Mapping[str, float], total: int) -> list[str]:
    """A level per task: each time the one that is furthest behind its share.

    So every beginning has the shares as nearly as whole tasks can, and a longer list begins with
    the shorter one.
    """
    given = dict.fromkeys((level for level in LEVELS if shares.get(level)), 0)
    out = []
    for n in range(1, total + 1):
        level = max(given, key=lambda v: shares[v] * n - given[v])
        given[level] += 1
        out.append(level)
    return out


def _wish(item: Item, twins: Sequence[Item], level: str, rng: np.random.Generator) -> Wish:
    """What a task asks for whose level lies in where the product is, or in how many options."""
    names = list(item.options)
    n_options = _ASKED.get(level, int(rng.integers(2)))
    asked = [names[i] for i in sorted(rng.permutation(len(names))[:n_options])]
    options = {n: item.options[n][rng.integers(len(item.options[n]))] for n in asked}
    wanted = (*item.pair, item.hidden) if level == "subpage" else item.pair
    # a limit that fits the twins as well: the price on the result page tells nothing
    return Wish(item, wanted, options, limits(max(x.price for x in (item, *twins))))


def _shares(mix: Mapping[str, float] | str) -> Mapping[str, float]:
    if isinstance(mix, str):
        if mix not in MIXES and mix not in LEVELS:
            names = ", ".join([*MIXES, *LEVELS])
            raise DataError(f"no mix or level is called {mix!r}; choose one of {names}")
        return MIXES.get(mix) or {mix: 1.0}
    unknown = [level for level in mix if level not in LEVELS]
    if unknown or abs(sum(mix.values()) - 1) > 1e-6 or min(mix.values()) < 0:
        raise DataError(
            f"mix {dict(mix)} is none: it gives shares that add up to 1 to some of the levels "
            f"{', '.join(LEVELS)}"
        )
    return mix


def make_tasks(
    store: Store,
    catalogue: Catalogue,
    seed: int,
    counts: Mapping[str, int],
    *,
    mix: Mapping[str, float] | str = MIX,
    max_steps: int = 14,
) -> list[Task]:
    """Tasks for the splits in `counts` (e.g. {"train": 150, "validation": 50, "test": 200}).

    No product is the target of two tasks, so splits are disjoint by product and by goal hash. The
    splits come in the order train, validation, test, others by name, whatever the order in
    `counts`. Each has a random stream of its own and takes products from a place of its own in one
    shuffled list (train from the start, test from the end, validation from the middle): a split is
    the same whichever other splits there are and however large they are, and a larger one begins
    with the tasks of a smaller one. Only where the splits together use up most of a level's
    products do they meet; then the later split leaves out what an earlier one has.

    Args:
        store: what the generator made, and `catalogue`, the same products loaded.
        seed: which products, options and words are drawn.
        counts: tasks per split.
        mix: share of each level (adding up to 1), a name in `MIXES`, or one level's name.
        max_steps: actions after which an episode ends.

    Raises:
        DataError: the store has too few products of a level (names it and the numbers), or `mix`
            is none.
    """
    shares = _shares(mix)
    twins = same_titles(store)
    pools: dict[str, list[Any]] = {**_candidates(store, catalogue, twins)}
    finder = WishFinder(store, catalogue, np.random.default_rng([seed, 3]))
    pools |= {level: finder.wishes(level) for level in DETOUR_LEVELS if shares.get(level)}
    scarce = _scarce(pools)
    shuffled = np.random.default_rng([seed, 2]).permutation(len(store.items))
    place = {store.items[i].asin: at / len(store.items) for at, i in enumerate(shuffled)}
    used: set[str] = set()
    tasks: list[Task] = []
    for split in split_order(counts):
        rng = episode_rng(seed, "webshop", split)
        start = _PLACES.get(split, float(rng.random()))
        near = {asin: (abs(at - start), at) for asin, at in place.items()}
        left = {name: _nearest_first(pool, near, scarce[name]) for name, pool in pools.items()}
        for number, level in enumerate(_level_order(shares, counts[split])):
            wish = _next(left.get(_POOLS.get(level, level), iter(())), used, level, counts)
            if isinstance(wish, Item):
                wish = _wish(wish, twins[wish.asin], level, rng)
            goal = _goal(catalogue.by_asin[wish.asin], wish, rng)
            tasks.append(
                Task(
                    id=f"webshop-{split}-{number:04d}",
                    env="webshop",
                    instruction=goal["instruction_text"],
                    goal=goal,
                    seed=seed,
                    settings={"catalogue": catalogue.id, "max_steps": max_steps},
                    split=split,
                    extra={"level": level, "skills": list(SKILLS[level])},
                )
            )
    return tasks


def count_products(store: Store, catalogue: Catalogue) -> dict[str, int]:
    """How many products each level could use if it were the only one, so tasks at most.

    Levels share products (`easy`, `options` and `options3` theirs), so a mix gets fewer.
    """
    found = _candidates(store, catalogue, same_titles(store))
    finder = WishFinder(store, catalogue, np.random.default_rng(0))
    found |= {level: finder.wishes(level) for level in DETOUR_LEVELS}
    return {level: len(found[_POOLS.get(level, level)]) for level in LEVELS}
