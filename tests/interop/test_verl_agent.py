"""WebShop in verl-agent's loop: groups play one task, wins are told as there, splits are ours."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import embedded_shop
from eeflib.envs.webshop.goals import text_key
from eeflib.envs.webshop.official import SOURCES
from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.errors import DataError
from eeflib.interop.verl_agent import WON, build_webshop_envs
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper
from eeflib.prompts import get_format
from eeflib.rollout import Episode, run_episodes

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
MAX_STEPS = 15


@pytest.fixture(scope="module")
def shop() -> Any:
    return embedded_shop(3, {"train": 8, "test": 5}, mix="easy")


@pytest.fixture(scope="module")
def solutions(shop) -> dict[str, list[str]]:
    """Instruction -> actions that win, from the shop's scripted shopper without faults."""
    shopper = ScriptedShopper(FLAWLESS, options=OPTION_VALUES)
    episodes = [Episode(task, "teacher") for task in shop.tasks]
    played = run_episodes(
        episodes, shopper, shop.make_env, get_format("react", "webshop"), actor="teacher", seed=0
    )
    assert all(t.solved for t in played)
    return {
        task.instruction: [step.action.lower() for step in t.steps]  # as webshop_projection does
        for task, t in zip(shop.tasks, played, strict=True)
    }


def shown(text: str) -> str:
    """The task, as verl-agent's environment manager takes it from the first observation."""
    parts = text.split(" [SEP] ")
    assert parts[1] == "Instruction:"
    return parts[2]


def offered(info: dict[str, Any]) -> list[str]:
    """As verl-agent lists actions in its prompt."""
    actions = info["available_actions"]
    assert set(actions) == {"has_search_bar", "clickables"}
    search = ["search[<your query>]"] if actions["has_search_bar"] else []
    return search + [f"click[{name}]" for name in actions["clickables"]]


def test_two_groups_of_three_play_the_shops_solutions(shop, solutions):
    envs = build_webshop_envs(5, 2, 3, {"num_cpus": 0.1}, True, None, shop=shop)
    texts, infos = envs.reset()
    tasks = [shown(text) for text in texts]
    assert tasks == [tasks[0]] * 3 + [tasks[3]] * 3
    assert tasks[0] != tasks[3]
    assert [info["won"] for info in infos] == [False] * 6
    assert offered(infos[0]) == ["search[<your query>]", "click[search]"]
    over, rewards, wins = [False] * 6, [0.0] * 6, [False] * 6
    for step in range(MAX_STEPS):
        actions = []
        for i, task in enumerate(tasks):
            wanted = solutions[task][step:]
            # one of each group does nothing that the shop knows
            actions.append("buy it" if i % 3 == 2 else wanted[0] if wanted else "click[buy now]")
            if not over[i] and actions[i].startswith("click"):
                assert actions[i] in offered(infos[i])
        texts, gained, dones, infos = envs.step(actions)
        for i in range(6):
            if not over[i]:  # verl-agent counts until the first done
                rewards[i] += gained[i]
                wins[i] = infos[i]["won"]
                assert tasks[i] in texts[i] or dones[i]
            over[i] = over[i] or dones[i]
    assert wins == [True, True, False] * 2
    assert rewards == [WON, WON, 0.0] * 2
    assert over == wins
    assert {info["task_score"] for info in infos} == {0.0}  # nothing is bought twice
    envs.close()


def test_what_is_no_action_changes_nothing(shop):
    envs = build_webshop_envs(0, 1, 5, shop=shop)
    before, _ = envs.reset()
    odd = ["", "think first", "click[no such button]", "x" * 100_000, "click[" + "a" * 100_000]
    texts, rewards, dones, infos = envs.step(odd)
    assert texts == before
    assert rewards == [0.0] * 5
    assert not any(dones)
    assert [info["won"] for info in infos] == [False] * 5
    texts, _, dones, infos = envs.step(["search[" + "soft slippers " * 5_000 + "]"] * 5)
    assert "Page 1 (Total results: " in texts[0]  # a long search is a search
    assert not any(dones)
    assert not infos[0]["available_actions"]["has_search_bar"]


def test_a_wrong_purchase_is_a_loss_with_a_score(shop):
    envs = build_webshop_envs(0, 1, 1, is_train=False, shop=shop)
    (text,), _ = envs.reset()
    envs.step([f"search[{shown(text)}]"])
    _, _, _, (info,) = envs.step(["click[next >]"])
    product = next(a for a in offered(info) if a.startswith("click[b0"))
    envs.step([product])
    (page,), rewards, dones, (info,) = envs.step(["click[buy now]"])
    assert (rewards, dones, info["won"]) == ([0.0], [True], False)
    assert 0 < info["task_score"] < 1
    again = envs.step(["click[back to search]"])
    assert again[:3] == ([page], [0.0], [True])


def test_seeds_draw_tasks_and_splits_stay_apart(shop):
    def tasks(seed: int, train: bool) -> list[list[str]]:
        envs = build_webshop_envs(seed, 4, 1, is_train=train, shop=shop)
        return [[shown(text) for text in envs.reset()[0]] for _ in range(6)]

    assert tasks(1, True) == tasks(1, True) != tasks(2, True)
    rounds = tasks(1, True)
    assert all(len(set(drawn)) == 4 for drawn in rounds)
    played = {task for drawn in rounds for task in drawn}
    assert played <= {t.instruction for t in shop.tasks if t.split == "train"}
    assert {task for drawn in tasks(1001, False) for task in drawn} == {
        t.instruction for t in shop.tasks if t.split == "test"
    }


def test_official_files_are_split_by_content(tmp_path):
    """`env_kwargs` as verl-agent's `make_envs` passes them."""
    rows = json.loads(gzip.decompress((VECTORS / "catalogue.json.gz").read_bytes()))
    for source, part in zip(
        SOURCES["small"], ("products", "attributes", "human_instructions"), strict=True
    ):
        (tmp_path / source.name).write_text(json.dumps(rows[part]), "utf-8")
    file, attributes = (str(tmp_path / source.name) for source in SOURCES["small"][:2])
    kwargs = {
        **{"observation_mode": "text", "num_products": None, "human_goals": False},
        **{"file_path": file, "attr_path": attributes},
    }
    envs = build_webshop_envs(0, 16, 2, {"num_cpus": 0.1}, True, kwargs)
    validation = build_webshop_envs(1000, 128, 1, {"num_cpus": 0.1}, False, kwargs)
    assert envs.envs[0].catalogue is validation.envs[0].catalogue
    assert len(validation.tasks) <= 500 < len(envs.tasks)
    for same in (lambda task: task.goal["asin"], lambda task: text_key(task.goal)):
        assert not {same(t) for t in envs.tasks} & {same(t) for t in validation.tasks}
    texts, _ = validation.reset()
    assert len(texts) == 128
    assert validation.step([f"search[{shown(texts[0])}]"] * 128)[2] == [False] * 128


def test_mistakes_are_told(shop):
    for arguments, message in (
        ({"env_num": 9, "group_n": 1}, "the train split has 8 tasks"),
        ({"env_num": 0, "group_n": 1}, "at least 1"),
        ({"env_num": 2, "group_n": 3, "is_train": False}, "validation plays each task once"),
        ({"env_num": 1, "group_n": 1, "env_kwargs": {"seed": 1}}, "env_kwargs has 'seed'"),
        ({"env_num": 1, "group_n": 1, "env_kwargs": {"observation_mode": "html"}}, "'text'"),
    ):
        with pytest.raises(DataError, match=message):
            build_webshop_envs(0, **arguments, shop=shop)
    envs = build_webshop_envs(0, 2, 2, shop=shop)
    envs.reset()
    with pytest.raises(DataError, match="expected 4 actions, got 2"):
        envs.step(["search[a]"] * 2)
    envs.close()
    envs.close()
