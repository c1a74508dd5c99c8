"""Wishes for which the listing that looks right is not the right one.

Owns which products the levels `twins`, `back` and `price` can use, and for which wish: the first
one or two listings whose title says all that a title can say must be wrong, in the store's own
ranking. Knows nothing about wording, splits or the other levels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.generator import Item, Store
from eeflib.envs.webshop.reward import is_close, normalize_color
from eeflib.envs.webshop.search import TOP_K

__all__ = [
    "DETOURS",
    "DETOUR_LEVELS",
    "PAGE",
    "Wish",
    "WishFinder",
    "limits",
    "ranked",
    "same_titles",
]

PAGE = 10
"""Results on a page."""
DETOURS = 2
"""Wrong listings at most that look right and are ranked above the product, in these levels."""
DETOUR_LEVELS = ("twins", "back", "price")


@dataclass(frozen=True)
class Wish:
    """What a task asks for, so that it is as hard as its level says."""

    item: Item
    attributes: tuple[str, ...]
    options: Mapping[str, str]
    limits: tuple[int, ...]
    """Price limits that may be asked for, in dollars."""

    @property
    def asin(self) -> str:
        return self.item.asin


def ranked(catalogue: Catalogue, query: str) -> list[str]:
    """Product ids of the results of `query`, best first."""
    return [catalogue.products[i].asin for i in catalogue.index.search(query)]


def same_titles(store: Store) -> dict[str, list[Item]]:
    """Product id -> the other products with the same title, brand and word order aside."""
    groups: dict[tuple[str, frozenset[str]], list[Item]] = defaultdict(list)
    for item in store.items:
        groups[item.noun, frozenset(item.pair)].append(item)
    return {x.asin: [y for y in group if y is not x] for group in groups.values() for x in group}


class WishFinder:
    """Finds the wishes of `DETOUR_LEVELS`. `rng` draws which options are asked."""

    def __init__(self, store: Store, catalogue: Catalogue, rng: np.random.Generator) -> None:
        self.catalogue, self.rng = catalogue, rng
        self.items = {item.asin: item for item in store.items}
        self.twins = same_titles(store)

    def wishes(self, level: str) -> list[Wish]:
        """One wish per product that `level` can use, in a random order."""
        make = {"twins": self._twin, "back": self._back, "price": self._price}[level]
        found = [w for item in self.items.values() if (w := next(make(item), None)) is not None]
        return [found[i] for i in self.rng.permutation(len(found))]

    def _fitting(
        self, query: str, noun: str, attributes: Sequence[str], shown: int = PAGE
    ) -> list[Item]:
        """Those of the first `shown` results whose title says all of it, best first."""
        found = (self.items[a] for a in ranked(self.catalogue, query)[:shown])
        return [x for x in found if x.noun == noun and set(attributes) <= set(x.pair)]

    def _above(self, item: Item, attribute: str) -> list[Item]:
        """Fitting listings above `item` for a wish of one attribute; empty if not 1 or 2."""
        fitting = self._fitting(f"{attribute} {item.noun}", item.noun, [attribute])
        above = fitting[: fitting.index(item)] if item in fitting else []
        return above if len(above) <= DETOURS else []

    def _twin(self, item: Item) -> Iterator[Wish]:
        full = " ".join([*item.pair, item.noun])
        fitting = self._fitting(full, item.noun, item.pair)
        if item not in fitting or item is fitting[0]:
            return
        # naming the third attribute in the search must not spare the way back
        said = self._fitting(f"{full} {item.hidden}", item.noun, item.pair, TOP_K)
        if said[:1] != [item]:
            dearest = max(x.price for x in (item, *self.twins[item.asin]))
            yield Wish(item, (*item.pair, item.hidden), {}, limits(dearest))

    def _back(self, item: Item) -> Iterator[Wish]:
        asked = [(name, v) for name, group in item.options.items() for v in group]
        for attribute in item.pair:
            above = self._above(item, attribute)
            if not above:
                continue
            for i in self.rng.permutation(len(asked)):
                options = dict([asked[i]])
                if any(_offers(x, options) for x in above):
                    continue
                # nor must naming the option in the search spare the way back
                query = " ".join([attribute, item.noun, *options.values()])
                said = self._fitting(query, item.noun, [attribute], TOP_K)
                if said and not _offers(said[0], options):
                    dearest = max(x.price for x in (item, *above))
                    yield Wish(item, (attribute,), options, limits(dearest))

    def _price(self, item: Item) -> Iterator[Wish]:
        if item.twin:
            return
        for attribute in item.pair:
            above = self._above(item, attribute)
            least = min((x.price for x in above), default=0)
            below = tuple(x for x in limits(item.price, (0, 1, 2)) if x < least)
            if not below:
                continue
            # an option that the dear ones have as well, even for who searches it, or none
            said = {
                v: self._fitting(f"{attribute} {item.noun} {v}", item.noun, [attribute], TOP_K)
                for group in item.options.values()
                for v in group
            }
            shared = [
                {name: v}
                for name, group in item.options.items()
                for v in group
                if all(_offers(x, {name: v}) for x in above)
                and all(x in above for x in said[v][:1])
            ]
            choices: list[dict[str, str]] = [{}, *shared]
            options = choices[self.rng.integers(len(choices))]
            yield Wish(item, (attribute,), options, below)


def _offers(item: Item, options: Mapping[str, str]) -> bool:
    """Whether choosing among the item's options can meet the wish, as the reward counts it."""
    return all(
        any(_passes(v, wanted) for v in item.options[name]) for name, wanted in options.items()
    )


@cache
def _passes(value: str, wanted: str) -> bool:
    """Whether a chosen value counts as the wanted one: `pack of 1` does for `pack of 2`."""
    return is_close(normalize_color(value), normalize_color(wanted))


def limits(dearest: int, tens: Sequence[int] = (1, 2, 3)) -> tuple[int, ...]:
    """Round price limits above a price of `dearest` dollars: the next ten and `tens` more tens."""
    return tuple((dearest // 10 + 1 + more) * 10 for more in tens)
