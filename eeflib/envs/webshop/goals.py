"""Goals: what a shopper is asked for, built and ordered as in the official environment.

Import `build_goals` and `task_from_goal` from here. The official environment draws from one global
generator without a seed; here all draws come from the catalogue's seed: prices first, then two
price limits per goal (human) or product (synthetic), then a shuffle with seed 233.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from eeflib.envs.webshop.catalogue import Catalogue, Product
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["SHUFFLE_SEED", "build_goals", "task_from_goal"]

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


def _goal(product: Product, **rest: Any) -> dict[str, Any]:
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
        for row in product.instructions:
            attributes = row.get("instruction_attributes")
            text = row.get("instruction")
            if not attributes or not isinstance(text, str):
                continue
            limit, phrase = _price_limit(catalogue.prices[product.asin], rng)
            goals.append(
                _goal(
                    product,
                    instruction_text=text.strip(".") + phrase,
                    attributes=list(attributes),
                    price_upper=limit,
                    goal_options=list(row.get("instruction_options") or ()),
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
        limit, phrase = _price_limit(catalogue.prices[product.asin], rng)
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            wishes = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
            goals.append(
                _goal(
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
    if goal.get("asin") not in catalogue.by_asin:
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
