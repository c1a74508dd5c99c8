"""TextWorldExpress: gold paths, and restoring what they and noisy ones recorded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from textworld_play import SMALL, Expert, play, record, wander

from eeflib.envs.textworld import DEFAULT_GAMES, GAMES, Machine, TextWorldEnv, textworld_tasks
from eeflib.errors import EnvironmentFault
from eeflib.exploration import expert_states
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Task
from eeflib.rollout import Episode, run_episodes


@pytest.fixture(scope="module")
def env() -> Iterator[TextWorldEnv]:
    with TextWorldEnv(machine=Machine()) as env:
        yield env


@pytest.fixture(scope="module")
def tasks(env: TextWorldEnv) -> list[Task]:
    """Two of each game, as the games are by default."""
    return textworld_tasks(GAMES, 2, "train", seed=3, env=env)


@pytest.fixture(scope="module")
def experts(env: TextWorldEnv, tasks: list[Task]) -> list[Expert]:
    return [record(env, task, env.gold_actions(task)) for task in tasks]


def test_gold_paths_solve_every_game_at_their_last_action(experts: list[Expert]) -> None:
    assert {e.task.goal["game"] for e in experts} == set(GAMES)
    for expert in experts:
        assert expert.last.terminated
        assert expert.last.info["won"]
        assert expert.last.reward == expert.last.info["score"] == 1.0
        assert max((s.reward for s in expert.steps[:-1]), default=0.0) < 1.0


def test_same_actions_same_texts_and_same_gold_paths_in_another_jvm(
    env: TextWorldEnv, tasks: list[Task], experts: list[Expert]
) -> None:
    walks = [(task, wander(env, task, 15)) for task in tasks]
    recorded = [play(env, *walk) for walk in walks]
    with TextWorldEnv() as other:
        # in another order, so that nothing is left over from the game before
        assert [play(other, *walk) for walk in reversed(walks)] == recorded[::-1]
        for expert in experts:  # the package's own paths of twc and coin differ from call to call
            assert other.gold_actions(expert.task) == tuple(s.action for s in expert.steps)


def test_a_hundred_expert_states_restore_and_lead_on_to_the_same_end(
    env: TextWorldEnv, experts: list[Expert]
) -> None:
    verified = 0
    for expert in experts:
        for t in range(1, len(expert.steps)):
            restored = env.restore(expert.task, expert.steps[:t], expert.steps[t].observation)
            assert restored.ok, (expert.task.id, t, restored)
            assert restored.text == expert.steps[t].observation
            verified += 1
            if t % 5 == 0 or t == len(expert.steps) - 1:
                for step in expert.steps[t:]:
                    result = env.step(step.action)
                assert result == expert.last
    assert verified >= 100


@pytest.mark.parametrize("what", ["first text", "middle text", "expected", "state_key", "action"])
def test_a_recording_that_does_not_match_is_not_restored(
    env: TextWorldEnv, experts: list[Expert], what: str
) -> None:
    expert = next(e for e in experts if len(e.steps) > 7)
    steps, expected, at = list(expert.steps[:6]), expert.steps[6].observation, 3
    if what == "first text":
        at = 0
    if what.endswith("text"):
        steps[at] = dataclasses.replace(steps[at], observation=steps[at].observation + ".")
    elif what == "expected":
        at, expected = 6, expected.replace(" ", "  ", 1)
    elif what == "state_key":
        steps[at] = dataclasses.replace(steps[at], state_key="0" * 16)
    else:
        at = 1
        steps[0] = dataclasses.replace(steps[0], action="inventory")
    restored = env.restore(expert.task, steps, expected)
    assert not restored.ok
    assert restored.first_mismatch == at
    assert restored.detail
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step("look around")


def test_gold_paths_are_kept_in_a_file(
    env: TextWorldEnv, tasks: list[Task], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gold.jsonl"
    with TextWorldEnv(machine=env.machine, gold_file=path) as writer:
        expected = [writer.gold_actions(task) for task in tasks[:3]]
    path.write_text('{"game": "twc"}\nnot json\n' + path.read_text())
    reader = TextWorldEnv(gold_file=path)
    with caplog.at_level(logging.WARNING):
        assert [reader.gold_actions(task) for task in tasks[:3]] == expected
    assert reader.machine.simulator is None, "a known path needs no JVM"
    assert "line 1" in caplog.text
    assert "line 2" in caplog.text


def test_a_noisy_teacher_wins_some_and_every_state_of_its_failures_restores(
    env: TextWorldEnv,
) -> None:
    tasks = textworld_tasks(DEFAULT_GAMES, 15, seed=5, env=env, params=SMALL, max_steps=25)
    gold = {t.id: env.gold_actions(t) for t in tasks}
    trajectories = run_episodes(
        [Episode(task, "teacher") for task in tasks],
        NoisyGoldTeacher(gold, seed=1),
        lambda: TextWorldEnv(machine=env.machine),  # all at once, in one JVM
        get_format("react", "textworld"),
        actor="teacher",
        seed=0,
    )
    assert not any(t.error for t in trajectories)
    assert 0.2 <= sum(t.solved for t in trajectories) / len(trajectories) <= 0.8
    failures = [t for t in trajectories if not t.solved]
    assert {t.task_id.split("-")[1] for t in failures} == set(DEFAULT_GAMES)
    assert max(s.reward for t in failures for s in t.steps) > 0, "some got somewhere"
    by_id = {task.id: task for task in tasks}
    restored = 0
    for failure in failures:
        for state in expert_states(failure, 5):
            expected = failure.observation(state.t)
            result = env.restore(by_id[failure.task_id], failure.steps[: state.t], expected)
            assert result.ok, (failure.id, state, result)
            restored += 1
    assert restored >= 40
