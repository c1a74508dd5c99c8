"""TextWorldExpress on the real simulator: episodes, tasks, and the JVM that its games share."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest
from simulator_play import SMALL, UNKNOWN, Killing, play, stock, wander

from eeflib.envs import simulated
from eeflib.envs.textworld import GAMES, TextWorldEnv, textworld_tasks
from eeflib.errors import DataError, EnvironmentFault
from eeflib.prompts import get_format
from eeflib.records import Task, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes


@pytest.fixture
def env(textworld: TextWorldEnv) -> TextWorldEnv:
    return textworld


@pytest.fixture
def twc(env: TextWorldEnv) -> Task:
    return env.task("twc", 7, SMALL["twc"])


@pytest.fixture
def alone(env: TextWorldEnv, twc: Task) -> Iterator[None]:
    """No JVM runs before the test, nor after it."""
    env.close()
    yield
    running = simulated._SHARED.get(TextWorldEnv.title)
    assert running is None or not running.alive


def test_it_says_what_the_package_says(
    env: TextWorldEnv,
) -> None:
    tasks = textworld_tasks(GAMES, 2, seed=3, env=env)  # as the games are by default
    theirs = stock(env)
    assert set(theirs.getGameNames()) == {*GAMES, "sorting"}
    splits = theirs.getValidSeedsTrain(), theirs.getValidSeedsDev(), theirs.getValidSeedsTest()
    for split, seeds in zip(("train", "validation", "test"), splits, strict=True):
        assert list(env.variations("twc", split)) == seeds
    for task in tasks:
        actions = ["Look around", "", "take the moon", " inventory\n", *wander(env, task, 12)]
        seen, info = theirs.reset(
            seed=task.goal["variation"], gameFold="train", gameName=task.goal["game"], gameParams=""
        )
        assert env.reset(task).text == seen
        assert task.instruction == info["taskDescription"].strip()
        for action in actions:
            seen, _, done, info = theirs.step(action)
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
        task = env.task("cookingworld", variation, SMALL["cookingworld"])
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


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"goal": {"game": "cookingwurld", "variation": 0}}, "cookingworld"),
        ({"goal": {"game": "sorting", "variation": 0}}, "no game 'sorting'"),
        ({"goal": {"game": ["twc"], "variation": 0}}, r"goal\.game"),
        ({"goal": {"game": "twc", "variation": 1000}}, r"0 to 999 \(train\)"),
        ({"goal": {"game": "twc", "variation": -1}}, r"20000 to 20999 \(test\)"),
        ({"settings": {"params": {"numRooms": 3}}}, r"'textworld-twc-00007'.*numLocations"),
        ({"settings": {"params": {"numLocations": 4}}}, "less than 3"),
        ({"settings": {"params": {"numLocations": 10**12}}}, "small integer"),
        ({"settings": {"params": {"numLocations": "one"}}}, r"settings\.params\.numLocations"),
        ({"settings": {"params": {"a=1, b": 1}}}, "no name of a parameter"),
        ({"settings": {"params": {"numItemsToPutAway": 0}}}, "at least 1"),
        ({"settings": {"params": [1]}}, "object"),
    ],
)
def test_an_unusable_task_is_a_data_error(
    env: TextWorldEnv, twc: Task, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        env.reset(dataclasses.replace(twc, **change))
    assert env.reset(twc).text
    with pytest.raises(DataError, match="coin"):
        textworld_tasks(["twc"], 1, env=env, params={"coin": {}})


def test_same_actions_same_texts_and_same_gold_paths_in_another_jvm(env: TextWorldEnv) -> None:
    tasks = textworld_tasks(GAMES, 2, seed=3, env=env)
    walks = [(task, wander(env, task, 15)) for task in tasks]
    recorded = [play(env, *walk) for walk in walks]
    # the package's own paths of twc and coin differ from call to call
    gold = [env.gold_actions(task) for task in tasks]
    before = env.simulator.process
    env.close()
    with TextWorldEnv() as other:
        # in another order, so that nothing is left over from the game before
        assert [play(other, *walk) for walk in reversed(walks)] == recorded[::-1]
        assert [other.gold_actions(task) for task in tasks] == gold
        assert other.simulator.process is not before


def shown(env: TextWorldEnv, task: Task, actions: list[str]) -> Iterator[object]:
    yield env.reset(task)
    for action in actions:
        yield env.step(action), env.valid_actions()


def test_games_side_by_side_in_one_jvm_do_not_touch_each_other(env: TextWorldEnv) -> None:
    tasks = textworld_tasks(GAMES, 2, seed=3, env=env)  # as the games are by default
    envs = [TextWorldEnv() for _ in range(3)]
    for task in tasks:
        walks = [wander(env, task, 12, seed=i) for i in range(3)]
        alone = [list(shown(env, task, walk)) for walk in walks]
        in_turn = zip_longest(*(shown(e, task, w) for e, w in zip(envs, walks, strict=True)))
        assert list(in_turn) == list(zip_longest(*alone)), task.id
    for other in envs:
        other.close()


def test_a_failure_of_the_simulator_costs_its_own_episode_only(
    env: TextWorldEnv, twc: Task
) -> None:
    other = TextWorldEnv()
    first = env.reset(twc)
    assert other.reset(twc) == first
    with pytest.raises(EnvironmentFault, match="NullPointer") as caught:
        other._call("stepJSON", None)
    assert "reset" in str(caught.value)
    assert env.step("look around").text == first.text
    assert other.reset(twc) == first
    other.close()


def test_all_share_one_jvm_and_not_their_games_and_the_last_one_ends_it(
    twc: Task, alone: None
) -> None:
    envs = [TextWorldEnv() for _ in range(3)]
    first = [e.reset(twc) for e in envs]
    process = envs[0].simulator.process
    take = next(a for a in envs[0].valid_actions() if a.startswith("take "))
    envs[0].step(take)
    assert take not in envs[0].valid_actions()
    assert take in envs[1].valid_actions()
    assert first[0] == first[1] == first[2]

    envs[0].close()
    envs[0].close()
    assert envs[1].step(take).info["valid"], "another environment's end is not ours"
    assert envs[0].reset(twc) == first[0]
    assert {e.simulator.process for e in envs} == {process}

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for broken in envs[:2]:
        with pytest.raises(EnvironmentFault, match="JVM"):
            broken.step("look around")
        with pytest.raises(EnvironmentFault, match="reset"):
            broken.step("look around")
    assert [e.reset(twc) for e in envs] == first
    again = envs[0].simulator.process
    assert again.pid != process.pid
    for each in envs:
        assert again.poll() is None
        each.close()
    assert again.poll() is not None, "the last close() left a java process"


def test_when_the_shared_jvm_dies_all_its_running_episodes_are_run_again() -> None:
    env = TextWorldEnv()
    tasks = textworld_tasks(["twc"], 6, env=env, params={"twc": SMALL["twc"]})
    gold = {task.id: env.gold_actions(task) for task in tasks}
    running = sum(len(path) > 2 for path in gold.values())
    assert running >= 3
    env.close()
    with EnvPool(TextWorldEnv) as pool:

        def run(kills: int) -> list[Trajectory]:
            policy = Killing(gold, drop=0.0, insert=0.0, stop_early=0.0)
            policy.kills = kills
            policy.jvm = lambda: simulated._SHARED[TextWorldEnv.title].process
            episodes = [Episode(task, "gold") for task in tasks]
            fmt = get_format("react", "textworld")
            return run_episodes(episodes, policy, pool, fmt, actor="teacher", seed=0)

        undisturbed = run(0)
        assert all(t.solved for t in undisturbed)
        assert run(1) == undisturbed
        assert pool.redone == running
        twice = run(2)
        assert sum("EnvironmentFault" in t.error for t in twice) == running, "twice is on record"
        assert run(0) == undisturbed
