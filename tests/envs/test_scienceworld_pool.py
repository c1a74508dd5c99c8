"""ScienceWorld in several JVMs: restores by the hundred, JVMs that die, nothing left behind."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from simulator_play import Expert, Killing, Lent, record

from eeflib.envs.check import check_replays
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.exploration import explore
from eeflib.prompts import get_format
from eeflib.records import Step, Task, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes

GOLD = Path(__file__).parents[1] / "data" / "scienceworld_gold.jsonl"
"""Gold paths of thirteen task types, a line each, as `ScienceWorldEnv.gold_actions` gave them."""
REACT = get_format("react", "scienceworld")


@pytest.fixture(scope="module")
def pair(scienceworld: ScienceWorldEnv) -> Iterator[tuple[ScienceWorldEnv, ScienceWorldEnv]]:
    with ScienceWorldEnv() as other:
        yield scienceworld, other


@pytest.fixture(scope="module")
def recordings(pair: tuple[ScienceWorldEnv, ScienceWorldEnv]) -> list[Expert]:
    """Gold paths with a detour after every third action, as they went in the first JVM."""
    env = pair[0]
    out = []
    for line in GOLD.read_text("utf-8").splitlines():
        row = json.loads(line)
        goal = {"task": row["task"], "variation": row["variation"]}
        settings = {"simplifications": row["simplifications"], "max_steps": 100}
        task = Task(row["task"], "scienceworld", row["task"], goal=goal, settings=settings)
        actions: list[str] = []
        for i, action in enumerate(row["actions"][:18]):
            actions += ["look around"] if i % 3 == 2 and not actions[-1].isdigit() else []
            actions.append(action)
        out.append(record(env, task, actions, menus=False))
    return out


def of_type(recordings: list[Expert], name: str) -> tuple[Task, tuple[Step, ...]]:
    return next((r.task, r.steps) for r in recordings if r.task.id == name)


def test_three_hundred_restores_of_thirteen_types_in_two_jvms(
    pair: tuple[ScienceWorldEnv, ScienceWorldEnv], recordings: list[Expert]
) -> None:
    """By depth in both JVMs, in threads; the other one also jumps back and forth."""

    def by_depth(env: ScienceWorldEnv) -> list[bool]:
        return [
            env.restore(r.task, r.steps[:t], r.steps[t].observation).ok
            for r in recordings
            for t in range(len(r.steps))
        ]

    def jumping(env: ScienceWorldEnv) -> list[bool]:
        return [
            env.restore(r.task, r.steps[:t], r.steps[t].observation).ok
            for r in recordings[::2]
            for t in (len(r.steps) - 1, len(r.steps) // 2, 0)
        ]

    assert len({r.task.goal["task"] for r in recordings}) >= 12
    before = [env.restores.copy() for env in pair]
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(by_depth, pair))
    done.append(jumping(pair[1]))
    here, there = (env.restores - b for env, b in zip(pair, before, strict=True))
    assert sum(map(len, done)) >= 300
    assert all(map(all, done))
    assert here["restored"] + there["restored"] == sum(map(len, done))
    assert here["retried"] == there["retried"] == here["skipped"] == there["skipped"] == 0
    # a recording's first state is a load, all others go on from the one before
    assert here["continued"] == here["restored"] - len(recordings)
    assert here["replayed_steps"] == sum(len(r.steps) - 1 for r in recordings)


def test_going_on_is_only_for_who_stands_on_the_recorded_way(
    pair: tuple[ScienceWorldEnv, ScienceWorldEnv], recordings: list[Expert]
) -> None:
    env = pair[0]
    task, steps = of_type(recordings, "use-thermometer")

    def went_on(t: int) -> bool:
        before = env.restores["continued"]
        assert env.restore(task, steps[:t], steps[t].observation).ok
        return env.restores["continued"] > before

    assert not went_on(3)
    assert went_on(3), "it stands there already"
    env.valid_actions()
    assert went_on(5)
    assert not went_on(4), "there is no way back"
    assert env.step(steps[4].action).text == steps[5].observation
    assert went_on(6), "the student did as the teacher had"
    assert steps[6].action != "inventory"
    env.step("inventory")
    assert not went_on(8), "the student went another way"
    env.reset(task)
    assert not went_on(8), "no restored episode"
    # what is gone on to is compared as well
    wrong = (*steps[:9], dataclasses.replace(steps[9], observation="?"), *steps[10:])
    restored = env.restore(task, wrong[:11], wrong[11].observation)
    assert (restored.ok, restored.first_mismatch) == (False, 9)
    assert not went_on(10)


def test_without_the_flags_mismatches_are_caught_retried_in_a_fresh_jvm_and_counted(
    recordings: list[Expert],
) -> None:
    """Five animals, which stock ScienceWorld lists in any of their 120 orders."""
    task, steps = of_type(recordings, "identify-life-stages-2")
    with ScienceWorldEnv(deterministic=False) as env:
        again = check_replays(env, task, [s.action for s in steps], times=4)
        assert again.refused >= 1  # the chance of none is one in 10^8
        assert again.difference().startswith(f"--- recorded s_{again.first_mismatch}\n+++ replayed")
        pid = env.simulator.process.pid
        tried = 0
        while not env.restores["retried"]:
            restored = env.restore(task, again.steps, again.end)
            assert restored.ok or restored.detail
            tried += 1
        caught = env.restores
        assert caught["restored"] + caught["skipped"] == tried
        assert env.simulator.process.pid != pid
    assert not psutil.pid_exists(pid)


def test_an_episode_whose_jvm_dies_is_run_again_and_failed_only_if_that_happens_twice(
    pair: tuple[ScienceWorldEnv, ScienceWorldEnv],
    recordings: list[Expert],
) -> None:
    gold = {r.task.id: [s.action for s in r.steps] for r in recordings}
    short = sorted((r for r in recordings if len(r.steps) > 3), key=lambda r: len(r.steps))[:2]
    episodes = [Episode(r.task, "gold") for r in short]

    def run(pool: EnvPool, kills: int) -> list[Trajectory]:
        policy = Killing(gold, drop=0.0, insert=0.0, stop_early=0.0)
        policy.jvm, policy.kills = lambda: pool.get(0).simulator.process, kills  # type: ignore[attr-defined]
        return run_episodes(episodes, policy, pool, REACT, actor="teacher", seed=0)

    undisturbed = run(EnvPool(lambda: Lent(pair[0])), 0)
    assert not any(t.error for t in undisturbed)
    with EnvPool(ScienceWorldEnv) as pool:
        assert run(pool, 1) == undisturbed
        assert pool.redone == 1
        del episodes[1]
        assert "EnvironmentFault" in run(pool, 2)[0].error
        assert pool.redone == 2


def test_two_jvms_give_what_one_gives_and_the_report_of_an_exploration_counts(
    pair: tuple[ScienceWorldEnv, ScienceWorldEnv], recordings: list[Expert]
) -> None:
    gold = {r.task.id: [s.action for s in r.steps] for r in recordings}
    teacher = Killing(gold, drop=0.2, insert=0.0, stop_early=0.0, seed=2)
    tasks = [r.task for r in recordings if 3 < len(r.steps) <= 9][:3]
    used: dict[int, set[int]] = {}

    class Watched(Lent):
        def step(self, action):  # type: ignore[no-untyped-def]
            used.setdefault(id(self), set()).add(threading.get_ident())
            return super().step(action)

    def run(parallel: int) -> tuple[list[Trajectory], EnvPool]:
        free = iter(pair)
        used.clear()
        pool = EnvPool(lambda: Watched(next(free), max_parallel=parallel))
        episodes = [Episode(t, "teacher", i) for t in tasks for i in range(2)]
        return run_episodes(episodes, teacher, pool, REACT, actor="teacher", seed=0), pool

    alone, _ = run(1)
    together, pool = run(2)
    assert together == alone
    assert len(used) == 2, "both JVMs were used"
    with pool:
        out = explore(tasks, alone, teacher, pool, REACT, M=2, seed=0, from_s0=False)
    assert out.report.restorations == out.report.verified > 0
    assert out.report.retried == out.report.redone == out.report.skipped == 0

    first = dataclasses.replace(alone[0].steps[0], observation="?")
    spoilt = [dataclasses.replace(alone[0], steps=(first, *alone[0].steps[1:]))]
    pool = EnvPool(lambda: Lent(pair[1]))
    out = explore(tasks[:1], spoilt, teacher, pool, REACT, M=1, seed=0, from_s0=False)
    assert (out.report.verified, out.report.skipped, out.report.retried) == (0, 1, 1)
    assert out.report.to_dict()["retried"] == 1
