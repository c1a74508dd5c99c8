"""ScienceWorld on the real simulator: episodes, tasks, wires, menus, another JVM."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest
from simulator_play import TYPES, play, record, stock, wander

from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Task


@pytest.fixture(scope="module")
def env(scienceworld: ScienceWorldEnv) -> ScienceWorldEnv:
    return scienceworld


@pytest.fixture(scope="module")
def tasks(env: ScienceWorldEnv) -> list[Task]:
    return scienceworld_tasks(TYPES, 1, "train", seed=3, env=env)


def test_its_steps_are_those_of_the_packages_interface(
    env: ScienceWorldEnv, tasks: list[Task]
) -> None:
    """Texts, scores and ends, also of what the interface answers itself or has no answer to."""
    menu = env.task("grow-plant", 0)
    odd = ["help", " Task ", "nonsense", "objects", "look around", "wait1"]
    for task in (*tasks[1:3], menu):
        gold = list(env.gold_actions(task))
        at = gold.index("0") if "0" in gold else len(gold) // 2
        actions = [
            *gold[:at],
            *(["inventory", "task"] if task is menu else odd),
            *gold[at : at + 3],
        ]
        env.reset(task)
        ours = [env.step(action) for action in actions]
        server = stock(env).server
        names = ",".join(task.settings["simplifications"])
        server.load(task.goal["task"], task.goal["variation"], names, False)
        server.step("look around")
        for action, result in zip(actions, ours, strict=True):
            assert result.text == server.step(action), (task.id, action)
            assert result.info["raw_score"] == server.getScore()
            assert result.terminated == (server.getCompleted() or server.getScore() < 0)
    assert ours[at].text.startswith("Unknown action."), "what cancels a menu"


def test_keys_know_of_wires_which_no_look_tells(env: ScienceWorldEnv) -> None:
    task = env.task("power-component", 4)
    gold = env.gold_actions(task)
    wires = [a for a in gold if a.startswith("connect")][:2]
    start = gold.index(wires[0])

    def keys(*actions: str) -> list[str]:
        env.reset(task)
        for action in gold[:start]:
            env.step(action)
        results = [env.step(action) for action in ("look around", *actions, "look around")]
        assert all(r.info["valid"] for r in results)
        assert results[-1].text == results[0].text, "nothing of it is seen"
        return [r.info["state_key"] for r in results[:-1]]

    bare, one, both = keys(*wires)
    assert len({bare, one, both}) == 3
    assert keys(*reversed(wires))[-1] == both, "the order does not matter"
    assert keys(*wires, "disconnect battery") == [bare, one, both, bare]


def test_wrong_focus_ends_the_episode_unsolved(env: ScienceWorldEnv, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    result = env.step("focus on air")
    assert result.terminated
    assert not result.truncated
    assert result.info["raw_score"] == -1.0
    assert result.reward == result.info["score"] == 0.0
    assert not result.info["won"]
    assert env.valid_actions() == []
    after = env.step("look around")
    assert after.terminated
    assert not after.info["valid"]
    assert after.reward == 0.0


@pytest.mark.parametrize(
    "action", ["reset task", " RESET \t the Task\n", "\x00reset a task", "the reset task an"]
)
def test_agents_cannot_reset_the_task(env: ScienceWorldEnv, tasks: list[Task], action: str) -> None:
    env.reset(tasks[0])
    score = env.step("teleport to greenhouse").info["score"]
    assert "reset task" not in env.valid_actions()
    result = env.step(action)
    assert result.text == "No known action matches that input."
    assert "reset task" in result.info["reason"]
    assert result.info["score"] == score


def test_the_step_limit_counts_actions_not_ticks(env: ScienceWorldEnv, tasks: list[Task]) -> None:
    task = dataclasses.replace(tasks[0], settings={**tasks[0].settings, "max_steps": 4})
    env.reset(task)
    results = [env.step(a) for a in ("wait", "wait", "no such thing", "wait1")]
    assert [r.truncated for r in results] == [False, False, False, True]
    assert [r.info["actions"] for r in results] == [1, 2, 3, 4]
    assert not any(r.terminated for r in results)


def test_a_pending_menu(env: ScienceWorldEnv) -> None:
    task = env.task("grow-plant", 0)
    gold = env.gold_actions(task)
    expert = record(env, task, gold[: gold.index("0") + 1])
    menu = len(expert.steps) - 1  # its observation is the menu, its action the answer
    assert expert.steps[menu].observation.startswith("Ambiguous request: Please enter the number")
    assert expert.last.info["valid"]

    refused = env.restore(task, expert.steps[:menu], expert.steps[menu].observation)
    assert not refused.ok
    assert "menu" in refused.detail
    assert not env.restore(task, expert.steps[:menu]).ok  # nor where its text is not compared
    assert env.restore(task, expert.steps, expert.last.text).ok

    env.reset(task)
    for step in expert.steps[:menu]:
        env.step(step.action)
    assert env.valid_actions()
    assert all(a.isdigit() for a in env.valid_actions())
    assert env.step("task").info["valid"], "the interface answers that, the menu goes on"
    swallowed = env.step("look around")
    assert not swallowed.info["valid"]
    assert "menu" in swallowed.info["reason"]
    assert env.step("look around").info["valid"]


def test_same_actions_same_texts_also_in_another_jvm_which_may_die(
    env: ScienceWorldEnv, tasks: list[Task]
) -> None:
    walks = [(task, wander(env, task, 10)) for task in tasks[1:]]
    recorded = [play(env, *walk) for walk in walks]
    assert [play(env, *walk) for walk in walks] == recorded

    other = ScienceWorldEnv()
    try:
        assert [play(other, *walk) for walk in walks[:2]] == recorded[:2]
        first = other.simulator.process

        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match="JVM"):
            other.step("look around")
        with pytest.raises(EnvironmentFault, match="reset"):
            other.step("look around")
        assert other.reset(walks[0][0]) == recorded[0][0]
        second = other.simulator.process
        assert second.pid != first.pid
    finally:
        other.close()
    assert second.poll() is not None, "close() left a java process"
    other.close()
    assert env.reset(walks[0][0]) == recorded[0][0], "another environment's end is not ours"


def test_easy_with_open_containers_is_what_it_says(env: ScienceWorldEnv) -> None:
    task = env.task("find-non-living-thing", 0, "easy,openContainers")
    assert "openContainers" in task.settings["simplifications"]
    env.reset(task)
    opened = env.step("teleport to kitchen").text + env.step("look around").text
    assert "ERROR" not in opened
    assert "(that is closed)" not in opened
    env.reset(env.task("find-non-living-thing", 0))
    env.step("teleport to kitchen")
    assert "cupboard. The cupboard door is closed" in env.step("look around").text


def test_easy_keeps_wires_where_they_are_needed(env: ScienceWorldEnv) -> None:
    assert "noElectricalAction" in env.task("find-plant", 0).settings["simplifications"]
    assert "noElectricalAction" not in env.task("power-component", 0).settings["simplifications"]
    with pytest.raises(DataError, match="noElectricalAction"):
        env.task("power-component", 0, ["noElectricalAction"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"goal": {"task": "find-plants", "variation": 0}}, "find-plant"),
        ({"goal": {"task": "find-plant", "variation": 300}}, "0 to 299"),
        ({"goal": {"task": "find-plant", "variation": -1}}, "0 to 299"),
        ({"goal": {"task": "find-plant", "variation": "1"}}, r"goal\.variation"),
        ({"goal": {"variation": 1}}, r"goal\.task"),
        ({"settings": {"simplifications": ["openWindows"]}}, "openWindows"),
        ({"settings": {"simplifications": 3}}, "simplifications"),
        ({"settings": {"max_steps": 0}}, "max_steps"),
        ({"env": "webshop"}, "webshop"),
    ],
)
def test_an_unusable_task_is_a_data_error(
    env: ScienceWorldEnv, change: dict[str, object], match: str
) -> None:
    task = env.task("find-plant", 3)
    with pytest.raises(DataError, match=match):
        env.reset(dataclasses.replace(task, **change))
    assert env.reset(task).text
