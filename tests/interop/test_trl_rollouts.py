"""A student of eeflib as trl's `rollout_func`: what is played, trained and rewarded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import eeflib as eef
from eeflib.errors import DataError, EnvironmentFault
from eeflib.prompts import parse_reply

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trl.md").read_text("utf-8")
PROGRAM = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)[0]


@pytest.fixture(scope="module")
def world() -> eef.World:
    return eef.webshop(train=2, test=2, mix="options")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> eef.Student:
    """That of EEF in the shipped run."""
    return eef.example_run(tmp_path_factory.mktemp("shipped")).student("EEF", iteration=1)


def trainer_of(student: eef.Student, seed: int = 3) -> SimpleNamespace:
    """As much of a GRPOTrainer as the function asks."""
    return SimpleNamespace(args=SimpleNamespace(seed=seed), model=student.model)


def actions_of(student: eef.Student, ids: list[int], mask: list[int]) -> list[str]:
    """What the trained tokens say, an action per unbroken stretch of them."""
    edges = np.flatnonzero(np.diff([0, *mask, 0]))
    parts = [ids[a:b] for a, b in edges.reshape(-1, 2)]
    assert all(part[-1] in student.chat.stop_ids for part in parts), "the end of a turn is trained"
    return [student.chat.decode(part[:-1]) for part in parts]


def test_each_prompt_is_played_and_the_students_words_alone_are_trained(world, student):
    tasks = {task.id: task for task in world.split("train")}
    prompts = [name for name in tasks for _ in range(3)]
    play = eef.interop.trl_rollouts(world, student)
    student.model.train()
    out = play(prompts, trainer_of(student))
    assert student.model.training, "trl asks the model which mode it is in"
    assert {len(out[k]) for k in ("prompt_ids", "completion_ids", "env_mask", "reward")} == {6}
    played = []
    for i, name in enumerate(prompts):
        ids, mask = out["completion_ids"][i], out["env_mask"][i]
        assert len(ids) == len(mask)
        assert mask[0] == 1, "the prompt ends where the student begins"
        shown = student.chat.decode(out["prompt_ids"][i])
        assert tasks[name].instruction.split()[0] in shown
        actions = [
            parse_reply(text, thoughts=False).action for text in actions_of(student, ids, mask)
        ]
        shop = world.make_env()
        shop.reset(tasks[name])
        results = [shop.step(action) for action in actions]
        assert out["reward"][i] == results[-1].reward
        played.append(actions)
    assert len({tuple(actions) for actions in played[:3]}) > 1, "rollouts of a group differ"


def test_a_seed_decides_and_every_call_draws_anew(world, student):
    prompts = [world.split("train")[0].id] * 2

    def two_calls(seed: int) -> list[list[int]]:
        play = eef.interop.trl_rollouts(world, student)
        calls = [play(prompts, trainer_of(student, seed)) for _ in range(2)]
        return [ids for out in calls for ids in out["completion_ids"]]

    first = two_calls(3)
    assert first == two_calls(3)
    assert first[:2] != first[2:]
    assert first != two_calls(4)


def test_an_episode_that_fails_has_no_reward(world, student):
    made = iter(range(100))

    def make_env():
        env, number = world.make_env(), next(made)

        def broken(action):
            raise EnvironmentFault("the shop burned down")

        if number == 0:
            env.step = broken
        return env

    prompts = [world.split("train")[0].id] * 3
    play = eef.interop.trl_rollouts(replace(world, make_env=make_env), student)
    out = play(prompts, trainer_of(student))
    assert out["reward"].count(None) == 1
    assert all(out["completion_ids"])
    assert eef.interop.trl_reward(**out, prompts=prompts) == out["reward"]


def test_what_cannot_be_played_or_trained_is_said(world, student):
    play = eef.interop.trl_rollouts(world, student)
    with pytest.raises(
        DataError, match=r"'nobody' is no task's id .* trl_dataset\(world, ids=True\)"
    ):
        play(["nobody"], trainer_of(student))
    with pytest.raises(DataError, match="engine batch does not sample the weights that trl trains"):
        eef.interop.trl_rollouts(world, eef.Student("tiny", mode="generate", engine="batch"))
    short = eef.Student("tiny", max_length=40)
    play = eef.interop.trl_rollouts(world, short)
    with pytest.raises(DataError, match=r"none of 1 rollouts can be trained on; .* longer"):
        play([world.split("train")[0].id], trainer_of(short))


@pytest.mark.slow
def test_the_pages_program_trains(student, tmp_path, monkeypatch, capsys):
    student.save(tmp_path / "my-clone")
    program = PROGRAM.replace("train=24, test=24", "train=2, test=2, mix='page2'")
    program = program.replace("max_steps=4", "max_steps=1, logging_steps=1, use_cpu=True")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(program, names)
    log = names["trainer"].state.log_history[0]
    assert log["grad_norm"] > 0
    assert 0 <= log["reward"] <= 1
    before, after = (eef.Student(str(tmp_path / name)).fingerprint for name in ("my-clone", "grpo"))
    assert before != after
    assert "n=2" in capsys.readouterr().out
