"""Graded tasks over the embedded catalogue: which wish, in which words, how hard.

Import `embedded_shop` (a store, its tasks, environments over it, in one call) or `make_tasks` from
here; `eeflib.world` adds a teacher. A level is measured, not intended: it follows from where the
store's own search shows the product, for every query that a reasonable shopper types. What each
level takes and how many products it has is in docs/webshop.md, which the tests hold against
`SKILLS` and `count_products`. For `twins`, `back` and `price` the first listings whose title shows
all that a title can show must be wrong, in the store's own ranking, and of those that look right on
the page at most one in five is right: a lucky pick does not pass for a skill.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from eeflib.envs.webshop.catalogue import Catalogue, Product
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import goal_for
from eeflib.envs.webshop.reward import is_close, normalize_color
from eeflib.envs.webshop.search import TOP_K
from eeflib.envs.webshop.shop import Item, Store, generate_store, phrase
from eeflib.errors import DataError
from eeflib.records import Task, episode_rng, split_order

PAGE = 10
"""Results on a page."""
DETOURS = 3
"""Wrong listings at most that look right and are ranked above the product, in `DETOUR_LEVELS`."""
LOOKALIKES = 4
"""Wrong listings at least that look right on the page, for each that is right, in these levels."""
DETOUR_LEVELS = ("twins", "back", "price")

LEVELS = (
    "easy", "options", "subpage", "page2", "page3", "options3", "twins", "back", "price",
)  # fmt: skip
MIX: Mapping[str, float] = {
    "easy": 0.22, "options": 0.16, "subpage": 0.04, "page2": 0.19, "page3": 0.10,
    "options3": 0.13, "twins": 0.05, "back": 0.05, "price": 0.06,
}  # fmt: skip
"""Default share of each level in every split: as much of the scarce ones as 400 tasks allow."""
MIXES: Mapping[str, Mapping[str, float]] = {
    "default": MIX,
    "large": {
        "easy": 0.26,
        "options": 0.17,
        "subpage": 0.03,
        "page2": 0.20,
        "page3": 0.10,
        "options3": 0.14,
        "twins": 0.03,
        "back": 0.03,
        "price": 0.04,
    },
    "paging": {"easy": 0.30, "options": 0.12, "subpage": 0.06, "page2": 0.38, "page3": 0.14},
}
"""Shares by name (`large` is for 600 tasks); a level's own name stands for that level only."""
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


def ranked(catalogue: Catalogue, query: str, shown: int = TOP_K) -> list[str]:
    """Product ids of the first results of `query`, best first."""
    return [catalogue[i].asin for i in catalogue.index.search(query)[:shown]]


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
        found = (self.items[a] for a in ranked(self.catalogue, query, shown))
        return [x for x in found if x.noun == noun and set(attributes) <= set(x.pair)]

    def _rivals(self, item: Item, attributes: Sequence[str], above: int = DETOURS) -> list[Item]:
        """The listings that look as right as `item`, best first; none if 0 or too many are above.

        Args:
            above: how many are too many, less one.
        """
        fitting = self._fitting(" ".join([*attributes, item.noun]), item.noun, attributes)
        if item not in fitting[1 : above + 1]:
            return []
        return [x for x in fitting if x is not item]

    def _twin(self, item: Item) -> Iterator[Wish]:
        rivals = self._rivals(item, item.pair)
        if not _rare(False for _ in rivals):
            return
        # naming the third attribute in the search must not spare the way back
        full = " ".join([*item.pair, item.noun, item.hidden])
        if item in self._fitting(full, item.noun, item.pair, TOP_K)[1 : DETOURS + 1]:
            dearest = max(x.price for x in (item, *self.twins[item.asin]))
            yield Wish(item, (*item.pair, item.hidden), {}, limits(dearest))

    def _back(self, item: Item) -> Iterator[Wish]:
        groups = [[(name, v) for v in values] for name, values in item.options.items()]
        some = itertools.chain(*(itertools.combinations(groups, n) for n in (2, 3)))
        asked = [chosen for names in some for chosen in itertools.product(*names)]
        for attribute in item.pair:
            rivals = self._rivals(item, [attribute], DETOURS + 1)  # which cost two actions each
            order = self.rng.permutation(len(asked))  # drawn in any case: others follow
            if not rivals:
                continue
            for i in order:
                options = dict(asked[i])
                if _offers(rivals[0], options):
                    continue
                if not _rare(_offers(x, options) for x in rivals):
                    continue
                # nor must naming the options in the search spare the way back
                query = " ".join([attribute, item.noun, *options.values()])
                found = self._fitting(query, item.noun, [attribute], TOP_K)
                if found and not _offers(found[0], options):
                    dearest = max(x.price for x in (item, *rivals))
                    yield Wish(item, (attribute,), options, limits(dearest))

    def _price(self, item: Item) -> Iterator[Wish]:
        if item.twin:
            return
        for attribute in item.pair:
            rivals = self._rivals(item, [attribute], PAGE)  # prices are seen without a detour
            below = tuple(
                limit
                for limit in limits(item.price, (0, 1, 2), 5 if item.price < 60 else 10)
                if rivals and rivals[0].price > limit and _rare(x.price <= limit for x in rivals)
            )
            if not below:
                continue
            # an option that the dear ones have as well, even for who searches it, or none
            found = {
                v: self._fitting(f"{attribute} {item.noun} {v}", item.noun, [attribute], TOP_K)
                for group in item.options.values()
                for v in group
            }
            shared = [
                {name: v}
                for name, group in item.options.items()
                for v in group
                if all(_offers(x, {name: v}) for x in rivals)
                and all(x.price > max(below) for x in found[v][:1])
            ]
            choices: list[dict[str, str]] = [{}, *shared]
            options = choices[self.rng.integers(len(choices))]
            yield Wish(item, (attribute,), options, below)


def _rare(right: Iterable[bool]) -> bool:
    """Whether there are `LOOKALIKES` wrong ones for each right one.

    Args:
        right: of each listing that looks as right as the wished one; that one is right as well.
    """
    rivals = list(right)
    return rivals.count(False) >= LOOKALIKES * (1 + rivals.count(True))


def _offers(item: Item, options: Mapping[str, str]) -> bool:
    """Whether choosing among the item's options can meet the wish, as the reward counts it."""
    return all(_offered(item.options[name], wanted) for name, wanted in options.items())


@cache
def _offered(values: tuple[str, ...], wanted: str) -> bool:
    """Whether one of the values counts as the wanted one: `pack of 1` does for `pack of 2`."""
    return any(is_close(normalize_color(v), normalize_color(wanted)) for v in values)


def limits(dearest: int, more: Sequence[int] = (1, 2, 3), step: int = 10) -> tuple[int, ...]:
    """Round price limits above `dearest` dollars: the next multiple of `step`, and `more` on it."""
    return tuple((dearest // step + 1 + n) * step for n in more)


def reference_queries(item: Item, *, hidden: bool = False) -> list[str]:
    """The queries a reasonable shopper types for `item`; the first says all that is wished."""
    a, b = item.pair
    full = f"{a} {b} {item.noun}"
    first = f"{full} {item.hidden}" if hidden else full
    return [first, item.noun, f"{a} {item.noun}", f"{b} {item.noun}"]


def _page(catalogue: Catalogue, number: int, query: str) -> int:
    """The result page (from 1) that shows the product; behind the last page if none does."""
    place = catalogue.index.place(query, number)
    return (TOP_K + 10 * PAGE if place is None else place) // PAGE + 1


def _candidates(
    store: Store, catalogue: Catalogue, twins: Mapping[str, Sequence[Item]]
) -> dict[str, list[Any]]:
    """Items by page; only those that no reference query shows earlier than the first one does."""
    found: dict[str, list[Item]] = defaultdict(list)
    numbers = {product.asin: number for number, product in enumerate(catalogue)}
    for item in store.items:
        queries, number = reference_queries(item, hidden=item.twin), numbers[item.asin]
        page = _page(catalogue, number, queries[0])
        if page > 3 or any(_page(catalogue, number, q) < page for q in queries[1:]):
            continue
        if not item.twin:
            found[f"page{page}"].append(item)
            if page == 1 and len(item.options) > 2:
                found["options3"].append(item)
        elif page == 1:
            alike = {item.asin, *(x.asin for x in twins[item.asin])}
            plain = " ".join([*item.pair, item.noun])
            pages = [ranked(catalogue, q, PAGE) for q in (queries[0], plain)]
            orders = [[a for a in shown if a in alike] for shown in pages]
            if all(len(alike) == len(o) and o.index(item.asin) <= DETOURS for o in orders):
                found["subpage"].append(item)
    return found


_KEPT: WeakKeyDictionary[Catalogue, dict[Any, dict[str, list[Any]]]] = WeakKeyDictionary()
"""Pools of the catalogues in memory: they take seconds, and many lists of tasks are made of one."""


def _pools(
    store: Store, catalogue: Catalogue, seed: int, detours: tuple[str, ...]
) -> dict[str, list[Any]]:
    """Level -> the items or wishes that its tasks can be made of."""
    kept = _KEPT.setdefault(catalogue, {})
    if "items" not in kept:
        kept["items"] = _candidates(store, catalogue, same_titles(store))
    if (seed, detours) not in kept:
        finder = WishFinder(store, catalogue, np.random.default_rng([seed, 3]))
        kept[seed, detours] = {level: finder.wishes(level) for level in detours}
    return kept["items"] | kept[seed, detours]


def _goal(product: Product, wish: Wish, rng: np.random.Generator) -> dict[str, Any]:
    upper = float(wish.limits[rng.integers(len(wish.limits))])
    text = phrase(wish.item.noun, wish.attributes, wish.options, upper, rng)
    return goal_for(
        product,
        instruction_text=text,
        attributes=list(wish.attributes),
        price_upper=upper,
        goal_options=list(wish.options.values()),
    )


def _scarce(pools: Mapping[str, Sequence[Any]]) -> dict[str, set[str]]:
    """Per pool the products that a smaller pool holds as well: they are taken last."""
    smaller: set[str] = set()
    out = {}
    for name in sorted(pools, key=lambda n: len(pools[n])):
        out[name] = set(smaller)
        smaller |= {x.asin for x in pools[name]}
    return out


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
    # a limit that fits the twins as well: the price on the result page excludes none
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
    max_steps: int = 20,
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
    by_asin = {product.asin: product for product in catalogue}
    twins = same_titles(store)
    detours = tuple(level for level in DETOUR_LEVELS if shares.get(level))
    pools = _pools(store, catalogue, seed, detours)
    scarce = _scarce(pools)
    shuffled = np.random.default_rng([seed, 2]).permutation(len(store.items))
    place = {store.items[i].asin: at / len(store.items) for at, i in enumerate(shuffled)}
    used: set[str] = set()
    tasks: list[Task] = []
    for split in split_order(counts):
        rng = episode_rng(seed, "webshop", split)
        start = _PLACES.get(split, float(rng.random()))
        near = {asin: (abs(at - start), at) for asin, at in place.items()}
        left = {
            name: iter(sorted(pool, key=lambda x: (x.asin in scarce[name], near[x.asin])))
            for name, pool in pools.items()
        }
        for number, level in enumerate(_level_order(shares, counts[split])):
            wish = _next(left.get(_POOLS.get(level, level), iter(())), used, level, counts)
            if isinstance(wish, Item):
                wish = _wish(wish, twins[wish.asin], level, rng)
            goal = _goal(by_asin[wish.asin], wish, rng)
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


@dataclass(frozen=True)
class EmbeddedShop:
    """A store and what can be bought in it."""

    catalogue: Catalogue
    """1,680 products, shared by all environments."""
    tasks: tuple[Task, ...]
    """Of all splits; `task.split` and `task.extra["level"]` distinguish them."""

    def make_env(self, **options: Any) -> WebShopEnv:
        """An environment for any of the tasks, in microseconds; `options` are `WebShopEnv`'s."""
        return WebShopEnv(self.catalogue, **options)


@lru_cache(maxsize=2)
def _stocked(seed: int) -> tuple[Store, Catalogue]:
    store = generate_store(seed)
    return store, Catalogue.from_rows(store.rows, store.attributes, seed=seed)


def embedded_catalogue(seed: int) -> Catalogue:
    """The store of `embedded_shop`, without tasks; a fraction of a second."""
    return _stocked(seed)[1]


def embedded_shop(
    seed: int, counts: Mapping[str, int], *, mix: Mapping[str, float] | str = MIX
) -> EmbeddedShop:
    """The embedded WebShop of `seed`, the same everywhere; takes a few seconds.

    Args:
        seed: of the products and the tasks.
        counts: tasks per split, such as {"train": 120, "test": 150}.
        mix: share of each level, see `make_tasks`.

    Raises:
        DataError: the store has too few products for so many tasks.
    """
    store, catalogue = _stocked(seed)
    return EmbeddedShop(catalogue, tuple(make_tasks(store, catalogue, seed, counts, mix=mix)))
