"""ScienceWorld tasks: simplifications, what is no task, the official splits."""

from __future__ import annotations

import dataclasses

import pytest

from eeflib.envs.scienceworld import CHEAP_TASKS, ScienceWorldEnv, scienceworld_tasks
from eeflib.errors import DataError
from eeflib.records import Task


@pytest.fixture(scope="module")
def env(scienceworld: ScienceWorldEnv) -> ScienceWorldEnv:
    return scienceworld


def test_easy_with_open_containers_is_what_it_says(env: ScienceWorldEnv) -> None:
    task = env.task("find-non-living-thing", 0, simplifications="easy,openContainers")
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
        env.task("power-component", 0, simplifications=["noElectricalAction"])


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


def test_sampled_tasks_are_of_the_official_splits(env: ScienceWorldEnv) -> None:
    names = ("find-plant", "power-component")
    drawn = {s: scienceworld_tasks(names, 3, s, env=env) for s in ("train", "validation", "test")}
    variations = {s: {t.goal["variation"] for t in ts[:3]} for s, ts in drawn.items()}
    assert max(variations["train"]) < 150 <= min(variations["validation"])
    assert max(variations["validation"]) < 225 <= min(variations["test"])
    assert {t.split for t in drawn["test"]} == {"test"}
    everything = [t for ts in drawn.values() for t in ts]
    assert len({t.id for t in everything}) == len({t.content_hash for t in everything}) == 18
    assert all(Task.from_dict(t.to_dict()) == t for t in everything)
    # what else is asked for does not matter, the seed does
    alone = scienceworld_tasks(["power-component"], 3, "train", env=env)
    assert alone == drawn["train"][3:]
    assert scienceworld_tasks(["find-plant"], 3, seed=1, env=env) != drawn["train"][:3]
    with pytest.raises(DataError, match="train, validation, test"):
        scienceworld_tasks(names, 1, "dev", env=env)
    with pytest.raises(DataError, match="find-plant"):
        scienceworld_tasks(["find-plan"], 1, env=env)
    with pytest.raises(DataError, match="'train'"):
        env.task("find-plant", 0, split="test")
    assert len(CHEAP_TASKS) >= 6
    assert set(CHEAP_TASKS) <= set(env.simulator.task_sizes)
