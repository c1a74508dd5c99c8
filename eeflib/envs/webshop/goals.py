"""Goals: what a shopper is asked for, in the official order, and the published splits of them.

Import `build_goals`, `task_from_goal`, `split_tasks`, `find_split` (published splits) and
`content_split` (one of your own, without leaks) from here. The
official environment draws from one global generator without a seed; here all draws come from the
catalogue's seed: prices first, then two price limits per goal (human) or product (synthetic), then
a shuffle with seed 233.

Published splits (in `official_splits.json`; sources: baseline_models/env.py of
princeton-nlp/WebShop, commit 64fa2a5, and eval_agent/data/webshop of Yifan-Song793/ETO, commit
a2fc5da) are numbers of the 12,087 human goals of the full set in official order. A number means
something else as soon as one product is missing, so goals are joined by what is asked for: a key
of the instruction text without the price limit, recorded for each of the 12,087 places (from
baseline_models/data/human_goals.json). In the complete list the place settles which of two equal
texts is meant; in a subset such as the small set, a text that stands in several splits belongs to
none of them and is reported.

| scheme | test | validation | train |
|---|---|---|---|
| `baseline` | places 0-499 | 500-1499 | 1500-12086 |
| `eto` | 200 goals | - | 1,823 goals (1,824 numbers, 4116 twice) |
| `eto-500` | 500 goals | - | the same |

21 of ETO's 200 test goals are in its train list as well, and 2 more have the text of a train goal
(`drop_leaked` of `split_tasks`). The 500 goals share none with train, 4 a text. ETO trains on 274
of the baseline's test goals. The 11k and 3k training goals of the EEF paper were not published.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from eeflib.envs.webshop.catalogue import Catalogue, Product
from eeflib.errors import DataError
from eeflib.records import Task, content_hash

SHUFFLE_SEED = 233
"""Official seed of the goal order."""

_LIMITS = tuple(10.0 * i for i in range(1, 100))
_NO_LIMIT = 1_000_000


def build_goals(
    catalogue: Catalogue, kind: Literal["human", "synthetic"] = "human"
) -> list[dict[str, Any]]:
    """All goals in official order.

    A goal has asin, category, query, name, product_category, instruction_text, attributes,
    price_upper, goal_options (list for human goals, name -> value for synthetic ones), weight.
    """
    rng = random.Random(catalogue.seed)
    for _ in range(catalogue.ranges):
        rng.random()  # officially the prices are drawn from the same generator before
    goals = _human(catalogue, rng) if kind == "human" else _synthetic(catalogue, rng)
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals


def goal_for(product: Product, **rest: Any) -> dict[str, Any]:
    """A goal that `product` fits, with its instruction and what else `build_goals` lists."""
    return {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
        **rest,
    }


def _price_limit(price: float, rng: random.Random) -> tuple[float, str]:
    """The larger of two of the next four multiples of ten above the price, and its phrase."""
    choices = [limit for limit in _LIMITS if limit > price][:4]
    if len(choices) < 2:
        return _NO_LIMIT, ""
    limit = max(rng.sample(choices, 2))
    return limit, f", and price lower than {limit:.2f} dollars"


def _human(catalogue: Catalogue, rng: random.Random) -> list[dict[str, Any]]:
    goals = []
    for product in catalogue.instructed("human"):
        for wish in product.instructions:
            if wish.instruction_attributes:
                limit, phrase = _price_limit(product.price, rng)
                goals.append(
                    goal_for(
                        product,
                        instruction_text=wish.instruction.strip(".") + phrase,
                        attributes=list(wish.instruction_attributes),
                        price_upper=limit,
                        goal_options=list(wish.instruction_options),
                        weight=1,
                    )
                )
    return goals


def _synthetic(catalogue: Catalogue, rng: random.Random) -> list[dict[str, Any]]:
    goals = []
    for product in catalogue.instructed("synthetic"):
        text, attributes = product.synthetic_instruction, product.synthetic_attributes
        if text is None:
            continue
        limit, phrase = _price_limit(product.price, rng)
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            wishes = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
            goals.append(
                goal_for(
                    product,
                    instruction_text=text + (f" with {wishes}" if wishes else "") + phrase,
                    attributes=list(attributes),
                    price_upper=limit,
                    goal_options=chosen,
                )
            )
    counts = Counter(a for goal in goals for a in goal["attributes"])
    for goal in goals:
        wanted = goal["attributes"]
        goal["weight"] = sum(1.0 / counts[a] for a in wanted) / len(wanted)
    return goals


def task_from_goal(
    goal: Mapping[str, Any],
    catalogue: Catalogue,
    *,
    split: str = "",
    id: str = "",
    max_steps: int = 15,
) -> Task:
    """A task for `WebShopEnv` over `catalogue`; its content hash identifies goal and catalogue.

    Raises:
        DataError: the goal's product is not in the catalogue, or it has no instruction.
    """
    if catalogue.find(goal.get("asin", "")) is None:
        raise DataError(f"goal for {goal.get('asin')!r}: no such product in {catalogue!r}")
    text = goal.get("instruction_text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"goal for {goal['asin']!r}: field instruction_text is missing or empty")
    kept = {key: value for key, value in goal.items() if key != "weight"}
    return Task(
        id=id or f"webshop-{goal['asin']}",
        env="webshop",
        instruction=text.strip(),
        goal=kept,
        seed=catalogue.seed,
        settings={"catalogue": catalogue.id, "max_steps": max_steps},
        split=split,
    )


# -- published splits ------------------------------------------------------------------------------

N_GOALS = 12_087
"""Human goals of the full set."""

SCHEMES = ("baseline", "eto", "eto-500")

_NOT_WORD = re.compile(r"[\W_]+")
_LIMIT_PHRASE = ", and price lower than"
_KEY = 8
_WHOLE = 0.98
"""Share of places that must agree for a list to count as the complete official one."""


def goal_hash(goal: Mapping[str, Any]) -> str:
    """Identity of a goal with everything that decides its reward, the price limit included.

    Equal over processes and catalogues as long as the seed of the price limits is the same. 16 hex
    digits.
    """
    return content_hash({k: v for k, v in goal.items() if k != "weight"})


def text_key(goal: Mapping[str, Any]) -> str:
    """Identity of what is asked for, whatever the price limit: 8 hex digits.

    Letters and digits of the instruction in lower case, up to the price limit.
    """
    text = str(goal.get("instruction_text", "")).lower().split(_LIMIT_PHRASE)[0]
    return hashlib.sha256(_NOT_WORD.sub("", text).encode()).hexdigest()[:_KEY]


@cache
def _data() -> dict[str, Any]:
    file = resources.files("eeflib.envs.webshop") / "official_splits.json"
    return json.loads(file.read_bytes())


def place_keys() -> list[str]:
    """The text key of each place in the official order."""
    text = _data()["keys"]
    return [text[place * _KEY : (place + 1) * _KEY] for place in range(N_GOALS)]


def scheme_places(scheme: str) -> dict[str, Sequence[int]]:
    """Split -> places in the official order, as published (repeats and leaks included).

    Raises:
        DataError: unknown scheme.
    """
    if scheme == "baseline":
        return {"test": range(500), "validation": range(500, 1500), "train": range(1500, N_GOALS)}
    if scheme not in SCHEMES:
        raise DataError(f"no split scheme {scheme!r}; choose from {', '.join(SCHEMES)}")
    test = "eto_test" if scheme == "eto" else "eto_test_500"
    return {"test": tuple(_data()[test]), "train": tuple(_data()["eto_train"])}


@dataclass(frozen=True)
class Split:
    """Which goals belong where, by their positions in the list that was given."""

    positions: dict[str, list[int]]
    """Split -> positions, in the order of the published list; each at most once."""
    places: dict[int, int]
    """Position -> place in the official order, where it is certain."""
    unknown: list[int]
    """Positions of goals that are not among the official ones."""
    ambiguous: list[int]
    """Positions of goals whose text stands in several splits, so that the split is ambiguous."""
    complete: bool
    """The list is the complete official one."""


def find_split(goals: Sequence[Mapping[str, Any]], scheme: str = "baseline") -> Split:
    """Find each goal in the published lists.

    Raises:
        DataError: no goal is an official one (other data, or synthetic goals), or an unknown
            scheme.
    """
    lists, known = scheme_places(scheme), defaultdict[str, list[int]](list)
    for place, key in enumerate(place_keys()):
        known[key].append(place)
    keys = [text_key(goal) for goal in goals]
    agree = sum(n in known.get(key, ()) for n, key in enumerate(keys))
    complete = len(goals) == N_GOALS and agree >= _WHOLE * N_GOALS
    rank = {name: {p: n for n, p in reversed(list(enumerate(lists[name])))} for name in lists}
    places: dict[int, int] = {}
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in lists}  # (rank, position)
    unknown, ambiguous = list[int](), list[int]()
    for position, key in enumerate(keys):
        candidates = [position] if complete else known.get(key, [])
        if len(candidates) == 1:
            places[position] = candidates[0]
        kinds = {tuple(name for name in lists if p in rank[name]) for p in candidates}
        if len(kinds) != 1:
            (ambiguous if kinds else unknown).append(position)
            continue
        for name in kinds.pop():
            found[name].append((rank[name][candidates[0]], position))
    if len(unknown) == len(goals):
        raise DataError(
            f"none of these {len(goals)} goals is an official human goal: splits by published "
            "lists need official data (load_official with human=True)"
        )
    positions = {name: [position for _, position in sorted(found[name])] for name in lists}
    return Split(positions, places, unknown, ambiguous, complete)


def split_tasks(
    goals: Sequence[Mapping[str, Any]],
    catalogue: Catalogue,
    scheme: str = "baseline",
    *,
    drop_leaked: bool = False,
    max_steps: int = 15,
) -> dict[str, list[Task]]:
    """Split -> its goals as tasks for `WebShopEnv`, in the order of the published list.

    `Task.split` is set; `extra` holds `goal_hash`, `scheme`, and `official_index` where it is
    certain. Ids number the goals of the list that was given.

    Args:
        drop_leaked: take goals that are also in `test` out of the other splits; as published they
            stay in both.

    Raises:
        DataError: see `find_split`, which also reports what could not be assigned, and
            `task_from_goal`.
    """
    found, out = find_split(goals, scheme), dict[str, list[Task]]()
    leaked = set(found.positions["test"]) if drop_leaked else set()
    for name, positions in found.positions.items():
        out[name] = []
        for i in positions:
            if i in leaked and name != "test":
                continue
            task = task_from_goal(
                goals[i], catalogue, split=name, id=f"webshop-{name}-{i:05d}", max_steps=max_steps
            )
            task.extra.update(goal_hash=goal_hash(goals[i]), scheme=scheme)
            if i in found.places:
                task.extra["official_index"] = found.places[i]
            out[name].append(task)
    return out


def content_split(
    goals: Sequence[Mapping[str, Any]], test: int = 500, seed: int = 0
) -> dict[str, list[int]]:
    """Positions of the `test` and `train` goals: no product and no text stands in both.

    Goals of one product, or that ask for the same, stay together. At most `test` test goals; fewer
    where no further group fits.

    Raises:
        DataError: no group fits, or nothing is left to train on.
    """
    parent: dict[Any, Any] = {}

    def root(name: Any) -> Any:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for goal in goals:
        parent[root(("text", text_key(goal)))] = root(("product", goal["asin"]))
    groups = defaultdict[Any, list[int]](list)
    for i, goal in enumerate(goals):
        groups[root(("product", goal["asin"]))].append(i)
    found: dict[str, list[int]] = {"test": [], "train": []}
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    for group in order:
        found["test" if len(found["test"]) + len(group) <= test else "train"] += group
    if not all(found.values()):
        raise DataError(f"{len(goals)} goals in {len(order)} groups cannot give {test} test goals")
    return found
