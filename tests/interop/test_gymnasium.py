"""The gymnasium adapter against the real library: its checker, wrappers and vector environments."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial

import pytest
from broken_envs import TASKS, Good
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from eeflib.envs.base import StepResult
from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop.shop import generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError
from eeflib.interop.gymnasium import GymTextEnv, to_gymnasium

WON = {"corridor-3": ["right", "take", "right", "open"]}


def make() -> GymTextEnv:
    return to_gymnasium(Good(), TASKS)


def test_it_passes_gymnasiums_own_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(), skip_render_check=True)


def test_the_webshop_passes_gymnasiums_own_checker() -> None:
    store = generate_store(5, families=4)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=5)
    tasks = make_tasks(store, catalogue, 5, {"train": 4})
    env = to_gymnasium(WebShopEnv(catalogue), tasks)
    check_env(env, skip_render_check=True)
    text, info = env.reset(seed=1)
    assert info["instruction"] in text
    assert env.observation_space.contains(text)
    assert env.action_space.contains("search[sofa \udcff ソファ]")


def test_an_episode_is_that_of_the_environment() -> None:
    env, own = make(), Good()
    text, info = env.reset(options={"task": "corridor-3"})
    first = own.reset(TASKS[0])
    assert (text, info["state_key"]) == (first.text, first.info["state_key"])
    assert (info["task"], info["instruction"]) == (TASKS[0].id, TASKS[0].instruction)
    for action in ["jump", *WON["corridor-3"]]:
        result = own.step(action)
        text, reward, terminated, truncated, info = env.step(action)
        assert (text, reward, terminated, truncated) == (
            result.text, result.reward, result.terminated, result.truncated,
        )  # fmt: skip
        assert {k: info[k] for k in result.info} == result.info
    assert (reward, terminated, info["won"]) == (1.0, True, True)
    env.close()


def test_the_seed_draws_the_task_and_every_task_is_drawn() -> None:
    a, b = make(), make()
    drawn = [env.reset(seed=7)[1]["task"] for env in (a, b)]
    drawn += [env.reset()[1]["task"] for env in (a, b)]
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]
    assert {a.reset()[1]["task"] for _ in range(40)} == {t.id for t in TASKS}


class NoLimit(Good):
    """Leaves the limit to others."""

    def result(self, valid: bool, ended: bool) -> StepResult:
        return replace(super().result(valid, ended), truncated=False)


def test_the_tasks_step_limit_truncates() -> None:
    tasks = [replace(t, settings={"max_steps": 3}) for t in TASKS]
    env = to_gymnasium(NoLimit(), tasks)
    env.reset(seed=0)
    assert [env.step("right")[3] for _ in range(3)] == [False, False, True]


def test_long_observations_are_cut_to_the_space() -> None:
    env = to_gymnasium(Good(), TASKS, max_length=4)
    text, info = env.reset(seed=0)
    assert (text, info["cut"]) == ("Room", len("Room 0.") - 4)
    assert env.observation_space.contains(text)
    assert not env.observation_space.contains("Room 0.")
    assert not env.observation_space.contains(b"Room")


@pytest.mark.parametrize(
    "vector", [SyncVectorEnv, partial(AsyncVectorEnv, shared_memory=False, context="spawn")]
)
def test_vector_environments_step_several_at_once(vector) -> None:
    envs = vector([make] * 3)
    alone = [make() for _ in range(3)]
    texts, infos = envs.reset(seed=3)
    assert list(texts) == [env.reset(seed=3 + i)[0] for i, env in enumerate(alone)]
    assert len(infos["task"]) == 3
    for actions in (("right", "right", "left"), ("take", "take", "no")):
        texts, rewards, *_, infos = envs.step(actions)
        single = [env.step(a) for env, a in zip(alone, actions, strict=True)]
        assert list(texts) == [s[0] for s in single]
        assert list(rewards) == [s[1] for s in single]
        assert list(infos["valid"]) == [s[4]["valid"] for s in single]
    assert envs.observation_space.contains(texts)
    envs.close()


def test_actions_are_listed_on_request() -> None:
    env = to_gymnasium(Good(), TASKS, list_actions=True)
    assert env.reset(options={"task": "corridor-3"})[1]["valid_actions"] == ["call <text>", "right"]
    assert "valid_actions" not in make().reset(seed=0)[1]


def test_misuse_is_a_data_error() -> None:
    with pytest.raises(DataError, match="at least one task"):
        to_gymnasium(Good(), [])
    with pytest.raises(DataError, match="share an id"):
        to_gymnasium(Good(), [TASKS[0], TASKS[0]])
    for options, match in (
        ({"task": "corridor-9"}, "corridor-9"),
        ({"tasks": "corridor-3"}, "'tasks'"),
    ):
        with pytest.raises(DataError, match=match):
            make().reset(options=options)


def test_a_missing_library_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from eeflib.errors import PrerequisiteError\n"
        "try:\n"
        "    import eeflib.interop.gymnasium\n"
        "except PrerequisiteError as exc:\n"
        "    sys.exit(str(exc))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'eeflib[gymnasium]'" in done.stderr
