"""ScienceWorld's tasks and the subsets of the literature, against the simulator's own numbers."""

from __future__ import annotations

from collections import Counter

import pytest

from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.scienceworld_splits import subset_choices, subset_tasks
from eeflib.errors import DataError
from eeflib.records import Task

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def env(scienceworld: ScienceWorldEnv) -> ScienceWorldEnv:
    return scienceworld


def test_all_thirty_types_and_7207_variations_in_three_disjoint_splits(
    env: ScienceWorldEnv,
) -> None:
    chosen = {s: subset_choices(env, "official", s) for s in SPLITS}
    assert [len(chosen[s]) for s in SPLITS] == [3592, 1796, 1819]
    everything = {(c.name, c.variation) for choices in chosen.values() for c in choices}
    assert len(everything) == 7207
    sizes = Counter(name for name, _ in everything)
    assert len(sizes) == 30
    assert sizes == env.task_sizes


def test_eto(env: ScienceWorldEnv) -> None:
    chosen = {s: subset_choices(env, "eto", s) for s in SPLITS}
    assert {s: len(c) for s, c in chosen.items()} == {"train": 1483, "validation": 140, "test": 211}
    keys = {s: {(c.name, c.variation) for c in choices} for s, choices in chosen.items()}
    assert len({c.name for c in chosen["test"]}) == 24
    for name in {c.name for c in chosen["test"]}:  # the published rule of the test list
        official = env.variations(name, "test")
        assert {v for n, v in keys["test"] if n == name} == set(official[:10])
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())), "they share nothing"
    strays = [(n, v) for n, v in keys["train"] if v in env.variations(n, "validation")]
    assert len(strays) == 357
    limits = {c.name: c.max_steps for c in chosen["test"]}
    assert (limits["lifespan-longest-lived"], limits["boil"]) == (10, 100)
    assert {c.simplifications for c in chosen["train"]} == {"easy"}


def test_agentgym(env: ScienceWorldEnv) -> None:
    chosen = [c for s in SPLITS for c in subset_choices(env, "agentgym", s)]
    assert len({c.name for c in chosen}) == 23
    assert len(chosen) == 4639
    assert {(c.simplifications, c.max_steps) for c in chosen} == {("", 100)}


def test_tasks_of_a_subset_are_played_as_it_says(env: ScienceWorldEnv) -> None:
    types = ["find-plant", "power-component"]
    tasks = subset_tasks("eto", "test", types=types, per_type=2, seed=1, env=env)
    assert [t.goal["task"] for t in tasks] == ["find-plant"] * 2 + ["power-component"] * 2
    assert tasks == subset_tasks("eto", "test", types=types, per_type=2, seed=1, env=env)
    find = next(t for t in tasks if t.goal["task"] == "find-plant")
    assert find.settings["max_steps"] == 15
    assert "teleportAction" in find.settings["simplifications"]
    assert (find.split, find.extra["subset"]) == ("test", "eto")
    assert Task.from_dict(find.to_dict()) == find
    (hard,) = subset_tasks("agentgym", "test", types=types[:1], per_type=1, env=env)
    assert hard.settings == {"simplifications": [], "max_steps": 100}
    env.reset(find)
    assert env.step("teleport to kitchen").info["valid"]
    env.reset(hard)
    assert not env.step("teleport to kitchen").info["valid"]
    assert hard.content_hash != find.content_hash


def test_what_is_not_there(env: ScienceWorldEnv) -> None:
    with pytest.raises(DataError, match="official, eto, agentgym"):
        subset_tasks("etto", "test", env=env)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="train, validation, test"):
        subset_tasks("eto", "dev", env=env)
    with pytest.raises(DataError, match="'eto' has no task type mendelian"):
        subset_tasks("eto", "test", types=["mendelian-genetics-known-plant"], env=env)
    with pytest.raises(DataError, match="at least 1"):
        subset_tasks("eto", "test", per_type=0, env=env)
