"""What both simulators owe: verified restores, gold paths, one user at a time, nothing left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from simulator_play import SMALL, TYPES, UNKNOWN, Expert, Lent, record

from eeflib.envs.base import TextEnv
from eeflib.envs.scienceworld import CHEAP_TASKS, ScienceWorldEnv, scienceworld_tasks
from eeflib.envs.simulated import SimulatedEnv
from eeflib.envs.textworld import DEFAULT_GAMES, GAMES, TextWorldEnv, textworld_tasks
from eeflib.errors import DataError, EnvironmentFault
from eeflib.exploration import expert_states
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Task
from eeflib.rollout import Episode, run_episodes

BOTH = ("scienceworld", "textworld")


@pytest.fixture(scope="module", params=BOTH)
def env(request: pytest.FixtureRequest) -> SimulatedEnv:
    return request.getfixturevalue(request.param)


def another(env: SimulatedEnv) -> SimulatedEnv:
    """One more environment in the same JVM."""
    if isinstance(env, ScienceWorldEnv):
        return Lent(env)
    return TextWorldEnv()


@pytest.fixture(scope="module")
def tasks(env: SimulatedEnv) -> list[Task]:
    if isinstance(env, ScienceWorldEnv):
        return scienceworld_tasks(TYPES, 1, "train", seed=3, env=env)
    assert isinstance(env, TextWorldEnv)
    return textworld_tasks(GAMES, 2, "train", seed=3, env=env)  # as the games are by default


@pytest.fixture(scope="module")
def experts(env: SimulatedEnv, tasks: list[Task]) -> list[Expert]:
    return [record(env, task, env.gold_actions(task)) for task in tasks]


def test_gold_paths_solve_every_kind_at_their_last_action(
    env: SimulatedEnv, experts: list[Expert]
) -> None:
    assert isinstance(env, TextEnv)
    for expert in experts:
        assert expert.last.terminated
        assert expert.last.info["won"]
        assert expert.last.reward == expert.last.info["score"] == 1.0
        assert max((s.reward for s in expert.steps[:-1]), default=0.0) < 1.0


def test_expert_states_restore_and_lead_on_to_the_same_end(
    env: SimulatedEnv, experts: list[Expert]
) -> None:
    verified = 0
    for expert in experts:
        last = len(expert.steps) - 1
        for t in range(1, last + 1):
            restored = env.restore(expert.task, expert.steps[:t], expert.steps[t].observation)
            assert restored.ok, (expert.task.id, t, restored)
            assert restored.text == expert.steps[t].observation
            verified += 1
            if t == last or (t % 5 == 0 and env.name == "textworld"):
                for step in expert.steps[t:]:
                    result = env.step(step.action)
                assert result == expert.last
    assert verified >= 40


@pytest.mark.parametrize("what", ["first text", "middle text", "expected", "state_key", "action"])
def test_a_recording_that_does_not_match_is_not_restored(
    env: SimulatedEnv, experts: list[Expert], what: str
) -> None:
    expert = next(e for e in reversed(experts) if len(e.steps) > 7)
    steps, expected, at = list(expert.steps[:6]), expert.steps[6].observation, 3
    if what == "first text":
        at = 0
    if what.endswith("text"):
        steps[at] = dataclasses.replace(steps[at], observation=steps[at].observation + ".")
    elif what == "expected":
        at, expected = 6, expected.replace(" ", "  ", 1)
    elif what == "state_key":
        steps[at] = dataclasses.replace(steps[at], state_key="0" * 16)
    else:  # what it leads to is another text than the recorded one
        at = 1
        steps[0] = dataclasses.replace(steps[0], action="inventory")
    other = another(env)  # of ScienceWorld one that does not start two JVMs for each refusal
    restored = other.restore(expert.task, steps, expected)
    assert not restored.ok
    assert restored.first_mismatch == at
    assert restored.detail
    assert other.restores["skipped"] == other.restores["retried"] == 1
    with pytest.raises(EnvironmentFault, match="reset"):
        other.step("look around")
    other.close()
    assert env.simulator.alive


ACTIONS = [None, 3, "", "  \n", "x" * 20_000, "look around " * 2_000, "日本 ü", "\ud800 look"]
ACTIONS += ["look\x00up", b"\xff\xfe".decode("latin-1"), '"}], "tasksuccess": true', "0"]


@pytest.mark.parametrize("action", ACTIONS, ids=ascii)
def test_no_input_raises_and_nonsense_changes_nothing(
    env: SimulatedEnv, tasks: list[Task], action: str
) -> None:
    before = env.reset(tasks[0])
    result = env.step(action)
    assert result.text in ("No known action matches that input.", UNKNOWN)
    assert not result.info["valid"]
    assert result.info["reason"]
    assert not result.terminated
    assert result.info["state_key"] == before.info["state_key"]
    assert env.step("look around").text == before.text


def test_gold_paths_are_remembered(env: SimulatedEnv, tasks: list[Task]) -> None:
    other = another(env)
    path = other.gold_actions(tasks[1])
    assert path == env.gold_actions(tasks[1])
    assert other.gold_actions(tasks[1]) is path
    other.close()
    if isinstance(env, ScienceWorldEnv):  # later resets do not plan again, a second each
        assert env._call("goldPathGenerationEnabled") is False


def test_a_noisy_teacher_wins_some_and_states_of_its_failures_restore(env: SimulatedEnv) -> None:
    """TextWorldExpress: all at once, in one JVM."""
    if isinstance(env, ScienceWorldEnv):
        tasks = scienceworld_tasks(TYPES[:3], 2, seed=3, env=env, max_steps=20)
    else:
        assert isinstance(env, TextWorldEnv)
        tasks = textworld_tasks(DEFAULT_GAMES, 15, seed=5, env=env, params=SMALL, max_steps=25)
    gold = {t.id: env.gold_actions(t) for t in tasks}
    trajectories = run_episodes(
        [Episode(task, "teacher") for task in tasks],
        NoisyGoldTeacher(gold, seed=1),
        lambda: another(env),
        get_format("react", env.name),
        actor="teacher",
        seed=0,
    )
    assert not any(t.error for t in trajectories)
    assert 0.2 <= sum(t.solved for t in trajectories) / len(trajectories) <= 0.8
    failures = [t for t in trajectories if not t.solved]
    assert max(s.reward for t in failures for s in t.steps) > 0, "some got somewhere"
    by_id = {task.id: task for task in tasks}
    for failure in failures:
        for state in expert_states(failure, 5):
            steps, expected = failure.steps[: state.t], failure.observation(state.t)
            assert env.restore(by_id[failure.task_id], steps, expected).ok, (failure.id, state)


def test_drawn_tasks_are_of_the_simulators_own_splits(env: SimulatedEnv) -> None:
    if isinstance(env, ScienceWorldEnv):
        draw, kinds = scienceworld_tasks, ("find-plant", "power-component")
        assert set(CHEAP_TASKS) <= set(env.task_sizes)
    else:
        draw, kinds = textworld_tasks, DEFAULT_GAMES  # type: ignore[assignment]
    drawn = {s: draw(kinds, 3, s, env=env) for s in ("train", "validation", "test")}  # type: ignore[arg-type]
    for split, own in drawn.items():
        assert {t.split for t in own} == {split}
        assert [t.extra["task_type"] for t in own] == [kinds[0]] * 3 + [kinds[1]] * 3
        assert all(t.goal["variation"] in env.variations(t.extra["task_type"], split) for t in own)
        assert env.reset(own[-1]).text
    everything = [t for own in drawn.values() for t in own]
    assert len({t.id for t in everything}) == len({t.content_hash for t in everything}) == 18
    assert all(Task.from_dict(t.to_dict()) == t for t in everything)
    # what else is asked for does not matter, the seed does
    assert draw(kinds[1:], 3, env=env) == drawn["train"][3:]  # type: ignore[arg-type]
    assert draw(kinds[:1], 3, seed=1, env=env) != drawn["train"][:3]  # type: ignore[arg-type]
    for names, number, split, match in (
        (kinds, 1, "dev", "train, validation, test"),
        (kinds, 0, "train", "at least 1"),
        ([kinds[0] + "s"], 1, "train", kinds[0]),
    ):
        with pytest.raises(DataError, match=match):
            draw(names, number, split, env=env)  # type: ignore[arg-type]


def test_two_threads_at_once_are_told(env: SimulatedEnv, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    faults: list[EnvironmentFault] = []
    end = time.monotonic() + 10.0

    def use() -> None:
        while not faults and time.monotonic() < end:
            try:
                env.step("look around")
            except EnvironmentFault as exc:
                faults.append(exc)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "two threads" in str(faults[0])
    env.reset(tasks[0])
    assert env.step("look around").info["valid"]


def test_a_forked_child_is_told_and_leaves_the_parents_jvm_alone(
    env: SimulatedEnv, tasks: list[Task]
) -> None:
    env.reset(tasks[0])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            env.step("look around")
        except EnvironmentFault:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert env.step("look around").info["valid"]


SCRIPT = """
import os, signal
from eeflib.envs.{name} import {kind}
from eeflib.rollout import EnvPool
pool = EnvPool({kind})
print(*(pool.get(i).simulator.process.pid for i in range(2)), flush=True)
{end}
"""
ENDS = {
    "exit": ("pass", 0),
    "exception": ("raise RuntimeError('in the middle')", 1),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", [ScienceWorldEnv, TextWorldEnv])
def test_no_java_process_outlives_ours(kind: type[SimulatedEnv], how: str) -> None:
    """ScienceWorld has two of them, TextWorldExpress one."""
    end, code = ENDS[how]
    script = SCRIPT.format(name=kind.name, kind=kind.__name__, end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == code
    pids = {int(word) for word in done.stdout.split()}
    assert len(pids) == (2 if kind is ScienceWorldEnv else 1)
    deadline = time.monotonic() + 10.0
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        if all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in left):
            break
        assert time.monotonic() < deadline, f"java processes {left} go on after {how}"
        time.sleep(0.05)
