"""TextWorldExpress tasks: what is one, what is not, and the splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from textworld_play import SMALL

from eeflib.envs.textworld import DEFAULT_GAMES, GAMES, Machine, TextWorldEnv, textworld_tasks
from eeflib.errors import DataError
from eeflib.records import Task


@pytest.fixture(scope="module")
def env() -> Iterator[TextWorldEnv]:
    with TextWorldEnv(machine=Machine()) as env:
        yield env


@pytest.fixture
def twc(env: TextWorldEnv) -> Task:
    return env.task("twc", 7, params=SMALL["twc"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"goal": {"game": "cookingwurld", "variation": 0}}, "cookingworld"),
        ({"goal": {"game": "sorting", "variation": 0}}, "side by side"),
        ({"goal": {"game": ["twc"], "variation": 0}}, r"goal\.game"),
        ({"goal": {"variation": 1}}, r"goal\.game"),
        ({"goal": {"game": "twc", "variation": 1000}}, r"0 to 999 \(train\)"),
        ({"goal": {"game": "twc", "variation": -1}}, r"20000 to 20999 \(test\)"),
        ({"goal": {"game": "twc", "variation": "1"}}, r"goal\.variation"),
        ({"settings": {"params": {"numRooms": 3}}}, r"'textworld-twc-00007'.*numLocations"),
        ({"settings": {"params": {"numLocations": 4}}}, "less than 3"),
        ({"settings": {"params": {"numLocations": 10**12}}}, "small integer"),
        ({"settings": {"params": {"numLocations": "one"}}}, r"settings\.params\.numLocations"),
        ({"settings": {"params": {"a=1, b": 1}}}, "no name of a parameter"),
        ({"settings": {"params": {"numItemsToPutAway": 0}}}, "at least 1"),
        ({"settings": {"params": [1]}}, "object"),
        ({"settings": {"max_steps": 0}}, "max_steps"),
        ({"env": "webshop"}, "webshop"),
    ],
)
def test_an_unusable_task_is_a_data_error(
    env: TextWorldEnv, twc: Task, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        env.reset(dataclasses.replace(twc, **change))
    assert env.reset(twc).text


def test_sampled_tasks_are_of_the_packages_own_splits(env: TextWorldEnv) -> None:
    assert env.machine.simulator is not None
    stock = env.machine.simulator.stock
    official = {
        "train": stock.getValidSeedsTrain(),
        "validation": stock.getValidSeedsDev(),
        "test": stock.getValidSeedsTest(),
    }
    drawn = {s: textworld_tasks(DEFAULT_GAMES, 3, s, env=env, params=SMALL) for s in official}
    for split, own in drawn.items():
        assert {t.goal["variation"] for t in own} <= set(official[split])
        assert {t.split for t in own} == {split}
        assert [t.goal["game"] for t in own] == ["twc"] * 3 + ["cookingworld"] * 3
        # what is drawn last is still playable: the fold exists
        assert env.reset(own[-1]).text
    everything = [t for own in drawn.values() for t in own]
    assert len({t.id for t in everything}) == len({t.content_hash for t in everything}) == 18
    assert all(Task.from_dict(t.to_dict()) == t for t in everything)
    # what else is asked for does not matter, the seed does
    alone = textworld_tasks(["cookingworld"], 3, env=env, params={"cookingworld": SMALL[GAMES[1]]})
    assert alone == drawn["train"][3:]
    assert textworld_tasks(["twc"], 3, seed=1, env=env) != textworld_tasks(["twc"], 3, env=env)
    with pytest.raises(DataError, match="train, validation, test"):
        textworld_tasks(["twc"], 1, "dev", env=env)
    with pytest.raises(DataError, match="twc"):
        textworld_tasks(["twcc"], 1, env=env)
    with pytest.raises(DataError, match="coin"):
        textworld_tasks(["twc"], 1, env=env, params={"coin": {}})
