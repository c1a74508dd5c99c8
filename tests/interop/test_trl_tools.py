"""The class for trl's `environment_factory`: in trl's calling convention, and in a step of GRPO."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.utils import get_json_schema

import eeflib as eef
from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.envs.textworld import TextWorldEnv, textworld_tasks
from eeflib.envs.webshop import WebShopEnv
from eeflib.errors import ActionError, DataError, PrerequisiteError
from eeflib.interop.verbs import VERBS
from eeflib.rollout import step_limit

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trl.md").read_text("utf-8")
_, PROGRAM, BY_HAND = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def solved() -> tuple[eef.World, list[eef.Trajectory]]:
    """Three tasks that the teacher solves in three steps, and how; two tasks for testing."""
    shop = eef.webshop(train=60, test=2, mix="easy")
    tries = [t for t in eef.collect(shop) if t.solved and len(t.steps) == 3][:3]
    names = {t.task_id for t in tries}
    tasks = [t for t in shop.tasks if t.id in names or t.split == "test"]
    return replace(shop, tasks=tuple(tasks)), tries


@pytest.fixture(scope="module")
def world(solved) -> eef.World:
    return solved[0]


@pytest.fixture(scope="module")
def tries(solved) -> list[eef.Trajectory]:
    assert len(solved[1]) == 3
    return solved[1]


@pytest.fixture
def episode(world):
    return eef.interop.trl_tools(world)()


def call_of(verbs, action: str) -> tuple[str, dict[str, str]]:
    """The tool call that writes `action`; verbs with more words come first."""
    for name, (template, _) in sorted(verbs.items(), key=lambda v: v[1][0] == "{number}"):
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(template))
        if match := re.fullmatch(pattern, action):
            return name, match.groupdict()
    raise AssertionError(f"no tool writes {action!r}")


def as_calls(env: str, actions: list[str]):
    return [call_of(VERBS[env], action) for action in actions]


def tools_of(cls: type) -> set[str]:
    """As trl finds them: every public method but two."""
    names = {name for name, _ in inspect.getmembers(cls, predicate=inspect.isfunction)}
    return {name for name in names if not name.startswith("_")} - {"reset", "get_reward"}


def test_a_played_episode_has_the_shops_pages_and_reward(world, tries, episode):
    for trajectory in tries:
        text = episode.reset(task_id=trajectory.task_id, prompt="of the row", other=1)
        assert episode.get_reward() == 0.0
        actions = [step.action for step in trajectory.steps]
        for step, (name, arguments) in zip(
            trajectory.steps, as_calls("webshop", actions), strict=True
        ):
            assert text == step.observation
            text = getattr(episode, name)(**arguments)
        assert text == trajectory.final_observation
        assert episode.get_reward() == trajectory.reward
    assert {t.reward for t in tries} == {1.0}


@pytest.mark.parametrize("env", VERBS)
def test_trl_finds_typed_documented_tools_and_nothing_else(world, env):
    cls = eef.interop.trl_tools(replace(world, env=env))
    assert tools_of(cls) == set(VERBS[env])
    for name in VERBS[env]:
        schema = get_json_schema(getattr(cls, name))["function"]
        assert schema["name"] == name
        assert schema["description"]
        properties = schema["parameters"]["properties"]
        for argument in properties.values():
            assert argument["type"] == "string"
            assert argument["description"]
        assert schema["parameters"].get("required", []) == list(properties)


def test_scienceworlds_own_solutions_can_be_called():
    rows = (ROOT / "tests" / "data" / "scienceworld_gold.jsonl").read_text("utf-8").splitlines()
    actions = {action for row in rows for action in json.loads(row)["actions"]}
    calls = as_calls("scienceworld", sorted(actions))
    assert len({name for name, _ in calls}) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "draw", "kind"),
    [
        (ScienceWorldEnv, scienceworld_tasks, "chemistry-mix-paint-secondary-color"),
        (TextWorldEnv, textworld_tasks, "twc"),
    ],
)
def test_a_simulators_gold_path_earns_its_reward(world, make, draw, kind):
    with make() as simulator:
        (task,) = tasks = draw([kind], 1, env=simulator)
        actions = simulator.gold_actions(task)
        first = simulator.reset(task)
        results = [simulator.step(action) for action in actions]
        same = replace(world, env=task.env, tasks=tuple(tasks), make_env=lambda: simulator)
        episode = eef.interop.trl_tools(same)()
        assert episode.reset(task_id=task.id) == first.text
        for (name, arguments), result in zip(as_calls(task.env, actions), results, strict=True):
            assert getattr(episode, name)(**arguments) == result.text
        assert episode.get_reward() == results[-1].reward == 1.0


def test_what_comes_to_nothing_is_told_and_costs_a_step(world, episode):
    task = world.tasks[0]
    first = episode.reset(task_id=task.id)
    for call, reason in (
        (lambda: episode.click(""), "1 to 1000 characters"),
        (lambda: episode.search("x" * 10_000_000), "1 to 1000 characters"),
        (lambda: episode.click("no such button"), "nothing here is called 'no such button'"),
        (lambda: episode.click(5), "nothing here is called '5'"),
    ):
        with pytest.raises(ActionError, match=reason) as told:
            call()
        assert len(str(told.value)) < 300
    with pytest.raises(TypeError, match="value"):
        episode.click(button="Buy Now")
    for _ in range(step_limit(task) - 4):
        episode.search("lamp")
    with pytest.raises(ActionError, match="episode is over"):
        episode.search("lamp")
    assert episode.get_reward() == 0.0
    assert episode.reset(task_id=task.id) == first


def test_a_call_after_the_purchase_changes_nothing(tries, episode):
    bought = tries[0]
    episode.reset(task_id=bought.task_id)
    for name, arguments in as_calls("webshop", [step.action for step in bought.steps]):
        getattr(episode, name)(**arguments)
    for _ in range(2):
        with pytest.raises(ActionError, match="episode is over"):
            episode.click("Buy Now")
    assert episode.get_reward() == bought.reward


def test_an_unknown_task_names_the_column(episode):
    for columns in ({"task_id": "webshop-train-9999"}, {"task_id": ["a"]}, {"id": "a"}, {}):
        with pytest.raises(DataError, match="column task_id must name one of the 5 tasks"):
            episode.reset(**columns)


def test_the_data_set_has_a_row_per_task_of_the_split(world):
    rows = eef.interop.trl_dataset(world, "test")
    tasks = world.split("test")
    assert rows["task_id"] == [task.id for task in tasks]
    for row, task in zip(rows, tasks, strict=True):
        system, user = row["prompt"]
        assert (system["role"], user["role"]) == ("system", "user")
        assert user["content"] == f"Instruction: {task.instruction}\n"
        assert "search[" not in system["content"]
    with pytest.raises(DataError, match="no tasks in split 'valid'"):
        eef.interop.trl_dataset(world, "valid")


def test_an_environment_without_known_verbs_takes_its_own(world):
    other = replace(world, env="elsewhere")
    with pytest.raises(DataError, match="pass verbs="):
        eef.interop.trl_tools(other)
    cls = eef.interop.trl_tools(other, {"look": ("search[{keywords}]", "Look for it.")})
    assert tools_of(cls) == {"look"}
    episode = cls()
    episode.reset(task_id=world.tasks[0].id)
    assert "Page 1" in episode.look("lamp")


@pytest.mark.parametrize("version", [None, "0.29.1", "1.15.0", "2.0.0"])
def test_another_trl_is_refused_with_the_version_needed(world, monkeypatch, version):
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    needed = "not installed" if version is None else f"{version} is installed, 1.16 or newer"
    for make in (eef.interop.trl_tools, eef.interop.trl_dataset):
        with pytest.raises(
            PrerequisiteError, match=rf"trl .*{needed}.*pip install 'eeflib\[trl\]'"
        ):
            make(world)


def test_the_pages_grpo_step_calls_the_tools_and_learns(world, tries, tmp_path, monkeypatch):
    from tool_student import save_tool_student, transcript

    prompts = {row["task_id"]: row["prompt"] for row in eef.interop.trl_dataset(world)}
    cls = eef.interop.trl_tools(world)
    tools = [getattr(cls(), name) for name in sorted(tools_of(cls))]
    chats = [transcript(t, prompts[t.task_id]) for t in tries]
    save_tool_student(tmp_path / "student", chats, tools, steps=70, seed=0)

    played = {}
    reset, step = WebShopEnv.reset, WebShopEnv.step
    monkeypatch.setattr(
        WebShopEnv, "reset", lambda self, task: (played.update({self: []}), reset(self, task))[1]
    )
    monkeypatch.setattr(
        WebShopEnv,
        "step",
        lambda self, action: (played[self].append(action), step(self, action))[1],
    )
    monkeypatch.setattr(eef, "webshop", lambda **_: world)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(PROGRAM.replace("Qwen/Qwen3-0.6B", "student"), names)
    monkeypatch.undo()

    trainer, log = names["trainer"], names["trainer"].state.log_history[0]
    rewards = [episode.get_reward() for episode in trainer.environments]
    actions = [played[episode._env] for episode in trainer.environments]
    assert len(rewards) == 8
    assert any(
        any(a.startswith("search[") for a in some) and any(a.startswith("click[") for a in some)
        for some in actions
    )
    task = trainer.environments[0]._env._task
    for reward, some in zip(rewards, actions, strict=True):
        shop = world.make_env()
        shop.reset(task)
        results = [shop.step(action) for action in some]
        assert reward == (results[-1].reward if results else 0.0)
    assert len(set(rewards)) > 1
    assert log["rewards/WebshopTools/mean"] == pytest.approx(sum(rewards) / 8)
    assert log["grad_norm"] > 0


def test_the_pages_rollout_by_hand(world, capsys):
    exec(BY_HAND, {"eef": eef, "world": world})
    pages = capsys.readouterr().out
    assert world.tasks[0].instruction in pages
    assert pages.endswith("0.0\n")
