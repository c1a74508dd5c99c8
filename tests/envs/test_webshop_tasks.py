"""The embedded store and its default tasks: reproducible, solvable, as hard as said, not leaked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import pytest

from eeflib.config import PRESETS
from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop import shop as words
from eeflib.envs.webshop.reward import is_close, normalize_color, purchase_reward
from eeflib.envs.webshop.shop import Item, Store, generate_store
from eeflib.envs.webshop.tasks import FIRST_LEVELS, make_tasks
from eeflib.errors import DataError
from eeflib.policies.scripted import ScriptedShopper, Skill
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
    return ScriptedShopper(
        Skill(floor=0, ceiling=0),
        option_words=words.OPTION_WORDS,
        option_names=words.OPTION_NAMES,
    )


def play(tasks: list[Task], catalogue: Catalogue, policy: ScriptedShopper) -> list[Trajectory]:
    return run_episodes(
        [Episode(t, "teacher") for t in tasks],
        policy,
        lambda: WebShopEnv(catalogue),
        get_format("react", "webshop"),
        actor="teacher",
        seed=0,
    )


def wanted_words(s: Shop, task: Task) -> str:
    """All that the task wishes of the product, as a search."""
    item = s.items[task.goal["asin"]]
    hidden = f" {item.hidden}" if task.extra["level"] == "subpage" else ""
    return f"{' '.join(item.pair)} {item.noun}{hidden}"


def listed(page: str) -> list[str]:
    return [p for p in page.split(" [SEP] ") if re.fullmatch(r"B[A-Z0-9]{9}", p)]


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
    groups = [attributes, words.OPTION_WORDS, nouns, brands]
    assert not any(a & b for a, b in combinations(groups, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_listing_of_another_type_is_worth_the_full_reward(seed):
    """However it is configured: a type is part of the wish."""
    s = shop(seed)
    tasks = make_tasks(s.store, s.catalogue, seed, COUNTS, mix="all")[:60]
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
def test_prices_and_texts_vary_with_the_type(seed):
    s = shop(seed)
    prices: dict[str, list[int]] = {}
    for item in s.store.items:
        prices.setdefault(item.noun, []).append(item.price)
    for kind in TYPES:
        low, high = kind.prices
        assert low <= min(prices[kind.noun]) <= max(prices[kind.noun]) <= high
        assert len(set(prices[kind.noun])) > 8
    assert max(prices["crackers"]) < min(prices["sofa"])
    descriptions = Counter(r["full_description"] for r in s.store.rows)
    assert max(descriptions.values()) < 0.02 * len(s.store.rows)
    for row in s.store.rows:
        assert len(row["small_description"]) == 4
        assert len(set(row["small_description"])) == 4


def walk_to_page(env: WebShopEnv, task: Task, query: str, page: int) -> str:
    env.reset(task)
    text = env.step(f"search[{query}]").text
    for _ in range(page - 1):
        assert "Next >" in text
        text = env.step("click[Next >]").text
    assert f"Page {page} " in text
    return text


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", FIRST_LEVELS)
def test_a_level_says_on_which_page_the_product_is(seed, level):
    s = shop(seed)
    env = WebShopEnv(s.catalogue)
    page = {"page2": 2, "page3": 3}.get(level, 1)
    for task in s.of(level):
        asin, query = task.goal["asin"], wanted_words(s, task)
        assert asin in listed(walk_to_page(env, task, query, page))
        noun = s.items[asin].noun
        for less in (query, noun, *(f"{a} {noun}" for a in s.items[asin].pair)):
            for earlier in range(1, page):
                assert asin not in listed(walk_to_page(env, task, less, earlier)), (task.id, less)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_level_says_how_many_options_are_asked_for(seed):
    asked = {
        level: Counter(len(t.goal["goal_options"]) for t in shop(seed).of(level))
        for level in FIRST_LEVELS
    }
    assert set(asked["options"]) == {2}
    assert set(asked["subpage"]) == {0}
    for level in ("easy", "page2", "page3"):
        assert set(asked[level]) <= {0, 1}
    assert set(asked["easy"]) == {0, 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_twins_differ_for_this_wish_in_their_features_page_only(seed):
    s = shop(seed)
    env = WebShopEnv(s.catalogue)
    for task in s.of("subpage"):
        item = s.items[task.goal["asin"]]
        twins = [
            x
            for x in s.store.items
            if x.noun == item.noun and set(x.pair) == set(item.pair) and x.asin != item.asin
        ]
        assert twins
        page = listed(walk_to_page(env, task, wanted_words(s, task), 1))
        for x in (item, *twins):
            assert x.asin in page
            texts = {}
            for sub in ("Features", "Description", "Reviews", "Attributes"):
                walk_to_page(env, task, wanted_words(s, task), 1)
                shown = env.step(f"click[{x.asin}]").text
                assert x.price <= task.goal["price_upper"]
                assert (item.hidden in shown.replace(task.instruction, "").lower()) is False
                if f"click[{sub.lower()}]" in env.valid_actions():
                    texts[sub] = env.step(f"click[{sub}]").text.replace(task.instruction, "")
            assert (item.hidden in texts["Features"].lower()) is (x is item)
            assert item.hidden not in texts["Description"].lower()
            walk_to_page(env, task, wanted_words(s, task), 1)
            env.step(f"click[{x.asin}]")
            reward = env.step("click[Buy Now]").reward
            assert (reward == 1.0) is (x is item), (task.id, x)


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_share_neither_product_nor_content(seed):
    tasks = shop(seed).tasks
    assert Counter(t.split for t in tasks) == COUNTS
    assert len({t.id for t in tasks}) == len(tasks)
    assert len({t.goal["asin"] for t in tasks}) == len(tasks)
    assert len({t.content_hash for t in tasks}) == len(tasks)
    assert len({t.instruction for t in tasks}) == len(tasks)


def test_every_split_has_the_same_mix_of_levels():
    tasks = shop(SEEDS[0]).tasks
    for level in FIRST_LEVELS:
        shares = [
            sum(t.extra["level"] == level for t in tasks if t.split == split) / n
            for split, n in COUNTS.items()
        ]
        assert max(shares) - min(shares) <= 0.05, level


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


def test_a_forgotten_wish_costs_the_win():
    s = shop(SEEDS[0])
    env = WebShopEnv(s.catalogue)
    for task in s.of("options")[:8]:
        (path,) = play([task], s.catalogue, expert())
        chosen = [a for a in path.actions if a[6:-1] in task.goal["goal_options"]]
        assert len(chosen) == 2
        for left_out in chosen:
            env.reset(task)
            for action in path.actions:
                if action != left_out:
                    result = env.step(action)
            assert result.terminated
            assert 0 < result.reward < 1


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


def test_neither_instruction_nor_prompt_holds_the_answer():
    s = shop(SEEDS[0])
    for task in s.tasks:
        assert task.goal["asin"].lower() not in task.instruction.lower()
        assert not re.search(r"b0[a-z]{8}", task.instruction.lower())
    spy = Spy(expert())
    play(s.tasks[:40], s.catalogue, spy)
    for c in spy.seen:
        text = " ".join(m.content for m in c.messages)
        assert "goal" not in text.lower()
        assert "Your score" not in text
        asin = s.tasks[int(c.task_id.rsplit("-", 1)[1])].goal["asin"]
        if len(c.messages) == 2:  # system and first page: nothing has been searched
            assert asin not in text


@pytest.mark.parametrize("seed", SEEDS)
def test_an_instruction_says_all_that_is_wanted(seed):
    s = shop(seed)
    for task in s.tasks:
        goal = task.goal
        for wish in (*goal["attributes"], s.items[goal["asin"]].noun, *goal["goal_options"]):
            assert wish in task.instruction, task
        assert task.instruction.endswith(f"price lower than {goal['price_upper']:.2f} dollars")
        assert s.items[goal["asin"]].price < goal["price_upper"]


def test_too_many_tasks_are_refused_with_the_level_and_what_to_do():
    s = shop(SEEDS[0])
    with pytest.raises(DataError, match=r"too few products of level 'page3' .*5000.*fewer"):
        make_tasks(s.store, s.catalogue, 1, {"train": 5000}, mix={"page3": 1.0})
    few = generate_store(1, families=1)
    catalogue = Catalogue.from_rows(few.rows, few.attributes, seed=1)
    with pytest.raises(DataError, match="ask for fewer tasks, more families or another mix"):
        make_tasks(few, catalogue, 1, {"train": 60})


@pytest.mark.parametrize("seed", [1000, 1001, 3, 4])
def test_every_preset_finds_enough_products(seed):
    store = generate_store(seed)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=seed)
    largest = max((c.counts for c in PRESETS.values()), key=lambda c: sum(c.values()))
    tasks = make_tasks(store, catalogue, seed, largest)
    assert Counter(t.split for t in tasks) == largest
