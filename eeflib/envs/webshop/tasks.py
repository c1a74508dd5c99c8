"""Graded tasks over the embedded catalogue: which wish, how worded, how hard.

Owns the levels and the splits. A level is measured, not intended: a task is put on the page where
the store's own search shows its product, for every query in `reference_queries`.

| level | what it takes |
|---|---|
| easy | the product on page 1, at most one option |
| options | page 1, two options |
| subpage | page 1 with a twin of the same title: only the Features page tells them apart |
| page2 | Next > once, at most one option |
| page3 | Next > twice, at most one option |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.generator import Item, Store
from eeflib.envs.webshop.phrasing import phrase
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["LEVELS", "MIX", "make_tasks", "reference_queries"]

LEVELS = ("easy", "options", "subpage", "page2", "page3")
MIX: Mapping[str, float] = {
    "easy": 0.30, "options": 0.12, "subpage": 0.06, "page2": 0.38, "page3": 0.14,
}  # fmt: skip
"""Default share of each level in every split."""

PAGE = 10
SKILLS = {
    "easy": (),
    "options": ("two options",),
    "subpage": ("sub page", "go back and choose again"),
    "page2": ("next page",),
    "page3": ("next page", "next page again"),
}


def reference_queries(item: Item, *, hidden: bool = False) -> list[str]:
    """The queries a reasonable shopper types for `item`; the first says all that is wished."""
    a, b = item.pair
    full = f"{a} {b} {item.noun}"
    first = f"{full} {item.hidden}" if hidden else full
    return [first, item.noun, f"{a} {item.noun}", f"{b} {item.noun}"]


def _page(catalogue: Catalogue, asin: str, query: str) -> int:
    """The result page (from 1) that shows the product; behind the last page if none does."""
    ranked = [catalogue.products[i].asin for i in catalogue.index.search(query)]
    rank = ranked.index(asin) if asin in ranked else len(ranked) + 10 * PAGE
    return rank // PAGE + 1


def _twins(store: Store) -> dict[str, list[Item]]:
    """Product id -> the other products with the same title, brand and word order aside."""
    groups: dict[tuple[str, frozenset[str]], list[Item]] = defaultdict(list)
    for item in store.items:
        groups[item.noun, frozenset(item.pair)].append(item)
    return {x.asin: [y for y in group if y is not x] for group in groups.values() for x in group}


def _candidates(
    store: Store, catalogue: Catalogue, twins: Mapping[str, Sequence[Item]]
) -> dict[str, list[Item]]:
    """Items by page; only those that no reference query shows earlier than the first one does."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in store.items:
        queries = reference_queries(item, hidden=item.twin)
        page = _page(catalogue, item.asin, queries[0])
        if page > 3 or any(_page(catalogue, item.asin, q) < page for q in queries[1:]):
            continue
        if not item.twin:
            found[f"page{page}"].append(item)
        elif page == 1 and all(_page(catalogue, x.asin, queries[0]) == 1 for x in twins[item.asin]):
            found["subpage"].append(item)
    return found


def _task(
    item: Item, dearest: int, level: str, split: str, number: int, store_seed: int,
    catalogue: Catalogue, max_steps: int, rng: np.random.Generator,
) -> Task:  # fmt: skip
    names = list(item.options)
    n_options = {"options": 2, "subpage": 0}.get(level, int(rng.integers(2)))
    asked = [names[i] for i in sorted(rng.permutation(len(names))[:n_options])]
    options = {n: item.options[n][rng.integers(len(item.options[n]))] for n in asked}
    wanted = [*item.pair, item.hidden] if level == "subpage" else list(item.pair)
    upper = float((dearest // 10 + 1 + int(rng.integers(1, 4))) * 10)
    text = phrase(item.noun, wanted, options, upper, rng)
    product = catalogue.by_asin[item.asin]
    goal = {
        "asin": item.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        "instruction_text": text,
        "attributes": wanted,
        "price_upper": upper,
        "goal_options": list(options.values()),
    }
    return Task(
        id=f"webshop-{split}-{number:04d}",
        env="webshop",
        instruction=text,
        goal=goal,
        seed=store_seed,
        settings={"catalogue": catalogue.id, "max_steps": max_steps},
        split=split,
        extra={"level": level, "skills": list(SKILLS[level])},
    )


def make_tasks(
    store: Store,
    catalogue: Catalogue,
    seed: int,
    counts: Mapping[str, int],
    *,
    mix: Mapping[str, float] = MIX,
    max_steps: int = 14,
) -> list[Task]:
    """Tasks for the splits in `counts` (e.g. {"train": 150, "validation": 50, "test": 200}).

    No product is the target of two tasks, so splits are disjoint by product and by goal hash.

    Raises:
        DataError: the store has too few products of a level; names the level and the numbers.
    """
    rng = np.random.default_rng([seed, 2])
    twins = _twins(store)
    found = _candidates(store, catalogue, twins)
    for items in found.values():
        items[:] = [items[i] for i in rng.permutation(len(items))]
    tasks: list[Task] = []
    for split, total in counts.items():
        raw = {level: mix.get(level, 0.0) * total for level in LEVELS}
        number_of = {level: int(x) for level, x in raw.items()}
        short = total - sum(number_of.values())
        for level in sorted(LEVELS, key=lambda v: number_of[v] - raw[v])[:short]:
            number_of[level] += 1
        drawn: list[Task] = []
        levels = [level for level in LEVELS for _ in range(number_of[level])]
        for number, at in enumerate(rng.permutation(len(levels))):
            level = levels[at]
            source = found["page1" if level in ("easy", "options") else level]
            if not source:
                raise DataError(
                    f"the store has too few products of level {level!r} for {dict(counts)}: ask "
                    "for fewer tasks, more families or another mix"
                )
            item = source.pop()
            # a limit that fits the twins as well: the price on the result page tells nothing
            dearest = max(x.price for x in (item, *twins[item.asin]))
            drawn.append(
                _task(item, dearest, level, split, number, seed, catalogue, max_steps, rng)
            )
        tasks += drawn
    return tasks
