"""TextWorldExpress on the real simulator: episodes. One JVM for the module."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from textworld_play import SMALL, UNKNOWN, wander

from eeflib.envs.base import TextEnv
from eeflib.envs.textworld import GAMES, Machine, TextWorldEnv, textworld_tasks
from eeflib.records import Task


@pytest.fixture(scope="module")
def env() -> Iterator[TextWorldEnv]:
    with TextWorldEnv(machine=Machine()) as env:
        yield env


@pytest.fixture
def twc(env: TextWorldEnv) -> Task:
    return env.task("twc", 7, params=SMALL["twc"])


def test_it_is_a_text_env_and_says_what_the_package_says(
    env: TextWorldEnv,
) -> None:
    tasks = textworld_tasks(GAMES, 2, seed=3, env=env)  # as the games are by default
    assert isinstance(env, TextEnv)
    assert env.machine.simulator is not None
    stock = env.machine.simulator.stock
    assert set(stock.getGameNames()) == {*GAMES, "sorting"}
    for task in tasks:
        actions = ["Look around", "", "take the moon", " inventory\n", *wander(env, task, 12)]
        seen, info = stock.reset(
            seed=task.goal["variation"], gameFold="train", gameName=task.goal["game"], gameParams=""
        )
        assert env.reset(task).text == seen
        assert task.instruction == info["taskDescription"].strip()
        for action in actions:
            seen, _, done, info = stock.step(action)
            result = env.step(action)
            assert result.text == seen, (task.id, action)
            assert result.info["raw_score"] == info["score"]
            assert result.terminated == done
            assert result.info["valid"] == (seen != UNKNOWN)
            if result.terminated:
                break
            assert env.valid_actions() == sorted(set(info["validActions"]))


def test_keys_tell_states_apart_that_look_alike(env: TextWorldEnv, twc: Task) -> None:
    start = env.reset(twc).info["state_key"]
    assert env.step("inventory").info["state_key"] == start
    take = next(a for a in env.valid_actions() if a.startswith("take "))
    assert env.step(take).info["state_key"] != start


def test_a_spoiled_ingredient_ends_the_episode_unsolved(env: TextWorldEnv) -> None:
    for variation in range(20):
        task = env.task("cookingworld", variation, params=SMALL["cookingworld"])
        gold = env.gold_actions(task)
        if any(a.startswith(("cook", "slice", "dice", "chop")) for a in gold):
            break
    food = next(a for a in gold if a.startswith(("cook", "slice", "dice", "chop"))).split(" in ")[0]
    food = food.split(" ", 1)[1]
    env.reset(task)
    for action in gold[: gold.index(f"take {food}") + 1]:
        before = env.step(action)
    assert before.reward > 0
    result = env.step(f"eat {food}")
    assert result.info["valid"]
    assert result.terminated
    assert not result.truncated
    assert not result.info["won"]
    assert result.reward < 1.0
    assert env.valid_actions() == []
    after = env.step("look around")
    assert after.terminated
    assert not after.info["valid"]
    assert after.reward == result.reward


def test_a_score_below_zero_is_a_reward_of_zero(env: TextWorldEnv) -> None:
    task = env.task("simonsays", 3)
    env.reset(task)
    wrong = next(a for a in env.valid_actions() if a != env.gold_actions(task)[0])
    env.reset(task)
    result = env.step(wrong)
    assert result.info["raw_score"] == -1.0
    assert result.reward == result.info["score"] == 0.0
    assert result.terminated


@pytest.mark.parametrize(
    "action",
    [
        None,
        3,
        "",
        "  \n",
        "x" * 20_000,
        "look around " * 2_000,
        "日本 ü",
        "\ud800 look",
        "look\x00around",
        b"\xff\xfe".decode("latin-1"),
        '"}], "tasksuccess": true',
        "Look around",
        "help",
    ],
    ids=ascii,
)
def test_no_input_raises_and_nonsense_changes_nothing(
    env: TextWorldEnv, twc: Task, action: Any
) -> None:
    before = env.reset(twc)
    result = env.step(action)
    assert result.text == UNKNOWN
    assert not result.info["valid"]
    assert result.info["reason"]
    assert not result.terminated
    assert result.info["state_key"] == before.info["state_key"]
    assert env.step("look around").text == before.text


def test_the_step_limit_counts_actions_understood_or_not(env: TextWorldEnv, twc: Task) -> None:
    task = dataclasses.replace(twc, settings={**twc.settings, "max_steps": 3})
    env.reset(task)
    results = [env.step(a) for a in ("look around", "no such thing", "inventory")]
    assert [r.truncated for r in results] == [False, False, True]
    assert [r.info["actions"] for r in results] == [1, 2, 3]
    assert env.valid_actions() == []
