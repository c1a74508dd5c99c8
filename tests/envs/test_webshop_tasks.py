"""The embedded store and its default tasks: reproducible, solvable, as hard as said, not leaked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import pytest

from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop import shop as words
from eeflib.envs.webshop.reward import is_close, normalize_color, purchase_reward
from eeflib.envs.webshop.shop import Item, Store, generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper
from eeflib.prompts import get_format
from eeflib.records import Task, Trajectory
from eeflib.rollout import Episode, run_episodes

COUNTS = {"train": 60, "validation": 20, "test": 80}
SEEDS = (11, 12)


@dataclass(frozen=True)
class Shop:
    store: Store
    catalogue: Catalogue
    tasks: list[Task]

    @property
    def items(self) -> dict[str, Item]:
        return {item.asin: item for item in self.store.items}

    def of(self, level: str) -> list[Task]:
        found = [t for t in self.tasks if t.extra["level"] == level]
        assert found, level
        return found


@cache
def shop(seed: int) -> Shop:
    store = generate_store(seed)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=seed)
    return Shop(store, catalogue, make_tasks(store, catalogue, seed, COUNTS))


def expert() -> ScriptedShopper:
    return ScriptedShopper(FLAWLESS, options=words.OPTION_VALUES)


def play(tasks: list[Task], catalogue: Catalogue, policy: ScriptedShopper) -> list[Trajectory]:
    return run_episodes(
        [Episode(t, "teacher") for t in tasks],
        policy,
        lambda: WebShopEnv(catalogue),
        get_format("react", "webshop"),
        actor="teacher",
        seed=0,
    )


FACTS = """
import json, sys
from eeflib.envs.webshop import Catalogue
from eeflib.envs.webshop.shop import generate_store
from eeflib.envs.webshop.tasks import make_tasks
store = generate_store(int(sys.argv[1]))
catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=int(sys.argv[1]))
tasks = make_tasks(store, catalogue, int(sys.argv[1]), json.loads(sys.argv[2]))
print(json.dumps([catalogue.id, [t.to_dict() for t in tasks]]))
"""


def test_a_seed_gives_the_same_store_and_tasks_in_every_process():
    args = [sys.executable, "-c", FACTS, str(SEEDS[0]), json.dumps(COUNTS)]
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(args, capture_output=True, text=True, check=True, env=env)
    s = shop(SEEDS[0])
    assert json.loads(done.stdout) == [
        s.catalogue.id,
        json.loads(json.dumps([t.to_dict() for t in s.tasks])),
    ]
    assert generate_store(SEEDS[0]) == s.store


def test_another_seed_gives_another_store():
    a, b = shop(SEEDS[0]), shop(SEEDS[1])
    assert a.catalogue.id != b.catalogue.id
    assert not {t.content_hash for t in a.tasks} & {t.content_hash for t in b.tasks}
    ours, theirs = ({r["name"] for r in s.store.rows} for s in (a, b))
    assert len(ours & theirs) < 0.2 * len(ours)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_store_is_as_large_and_varied_as_promised(seed):
    s = shop(seed)
    assert len(s.catalogue) == len(s.store.items) >= 1000
    assert not s.catalogue.skipped
    assert len({p.category for p in s.catalogue}) >= 8
    assert len({item.asin for item in s.store.items}) == len(s.store.items)


@pytest.mark.parametrize("families", [0, -1, 49])
def test_a_store_that_cannot_be_is_refused(families):
    with pytest.raises(DataError, match=f"families is {families}; a store has 1 to 48"):
        generate_store(1, families=families)


TYPES = tuple(t for c in words.CATEGORIES for t in c.types)


def same(a: str, b: str) -> bool:
    """Whether the reward takes one for the other."""
    a, b = normalize_color(a), normalize_color(b)
    return is_close(a, b) or is_close(b, a)


def test_no_two_attributes_of_the_store_pass_for_one_another():
    attributes = [
        a for c in words.CATEGORIES for own in (c.shared, *(t.attributes for t in c.types))
        for a in own
    ]  # fmt: skip
    assert len(attributes) == len(set(attributes)) == 12 * (8 + 4 * 9)
    close = [(a, b) for a, b in combinations(attributes, 2) if is_close(a, b) or is_close(b, a)]
    assert not close


def test_no_two_option_values_of_a_product_pass_for_one_another():
    for kind in TYPES:
        values = [v for group in kind.options.values() for v in group]
        assert not [(a, b) for a, b in combinations(values, 2) if same(a, b)], kind.noun
        assert 2 <= len(kind.options) <= 3


def test_words_of_attributes_options_nouns_and_brands_are_told_apart():
    attributes = {w for a in words.FORMS for w in a.split()}
    nouns = {t.noun for t in TYPES}
    brands = {b.lower() for b in words.BRANDS}
    options = {
        w for name, vs in words.OPTION_VALUES.items() for t in (name, *vs) for w in t.split()
    }
    groups = [attributes, options, nouns, brands]
    assert not any(a & b for a, b in combinations(groups, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_listing_of_another_type_is_worth_the_full_reward(seed):
    """However it is configured: a type is part of the wish."""
    s = shop(seed)
    tasks = make_tasks(s.store, s.catalogue, seed, COUNTS)[:60]
    for task in tasks:
        target = s.items[task.goal["asin"]]
        goal = {**task.goal, "goal_options": []}  # as if every option could be met
        others = [x for x in s.store.items if x.noun != target.noun]
        near = [x for x in others if x.category == target.category or x.asin[-1] == target.asin[-1]]
        for other in near:
            product = s.catalogue.find(other.asin)
            assert product is not None
            reward = purchase_reward(product, goal, price=1.0, options={})
            assert reward.value < 1.0, (task.instruction, product.title)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shopper_without_mistakes_solves_every_task(seed):
    s = shop(seed)
    played = play(s.tasks, s.catalogue, expert())
    unsolved = [
        (t.id, t.extra["level"], p.reward)
        for t, p in zip(s.tasks, played, strict=True)
        if not p.solved
    ]
    assert not unsolved
    assert all(p.reward == 1.0 for p in played)
    for task, p in zip(s.tasks, played, strict=True):
        assert p.actions.count("click[Next >]") == {"page2": 1, "page3": 2}.get(
            task.extra["level"], 0
        )
        assert all(step.valid for step in p.steps)
        assert p.length <= task.settings["max_steps"] - 2  # room for a detour


class Spy:
    """A shopper that keeps what it was shown."""

    def __init__(self, shopper: ScriptedShopper) -> None:
        self.shopper, self.seen = shopper, []
        self.name, self.wants_admissible = shopper.name, True
        self.forget: Callable = shopper.forget

    def act(self, conversations, *, rng):
        self.seen += conversations
        return self.shopper.act(conversations, rng=rng)


def test_what_is_shown_does_not_depend_on_the_goal():
    s = shop(SEEDS[0])
    tasks = s.tasks[:40]
    strangers = [
        replace(a, goal={**b.goal}) for a, b in zip(tasks, [*tasks[1:], tasks[0]], strict=True)
    ]
    spies = [Spy(expert()), Spy(expert())]
    ends = [play(ts, s.catalogue, spy) for ts, spy in zip((tasks, strangers), spies, strict=True)]
    assert spies[0].seen == spies[1].seen
    assert len(spies[0].seen) > 3 * len(tasks)
    assert all(p.reward == 1 for p in ends[0])
    assert all(p.reward < 1 for p in ends[1])  # the goals did differ
