"""ScienceWorld's part of `benchmarks/simulators.py`.

Recordings of 40 steps of three task types. `restore_5_in_one_pass` verifies the five states one
after another, in order of depth, each going on from the one before. The simulator cannot be copied:
where the student acts in between and leaves the recorded way, every state costs a load and a replay
of its own, which is what `naive` times. Both JVMs are warmed alike first: for its first thousand
steps a JVM keeps a second core busy with compiling. `two_spinning_processes_over_one` is what the
machine gives to any two programs at the same time: it bounds `two_jvms_over_one`.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import psutil
from parts.stock import stock as stock_of

from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.records import Step, Task

TYPES = ("find-plant", "power-component", "use-thermometer")
LENGTH, STATES = 40, 5
WARM = 12
"""Times that each recording is played before anything is timed."""
SPIN = 8_000_000
ENOUGH_SECONDS = 150.0
"""On a busy machine no further round begins after that; there are two at least."""
GOALS = {
    "step_over_raw": (1.1, "at most"),
    "episode_faster_than_stock": (12.0, "at least"),
    "restore_5_in_one_pass_over_naive": (0.6, "at most"),
    "two_jvms_over_one": (1.6, "at least"),
    "restores_verified": (1.0, "at least"),
    "jvm_megabytes": (600.0, "at most"),
}
RATIOS = (
    ("episode_faster_than_stock", "stock_episode", "our_episode"),
    ("restore_5_in_one_pass_over_naive", "pass", "naive"),
    ("two_jvms_over_one", "one_jvm", "two_jvms"),
    ("two_spinning_processes_over_one", "one_spins", "two_spin"),
)
Walk = tuple[Task, list[Step]]


def walk(env: ScienceWorldEnv, task: Task, length: int) -> Walk:
    """A recording of `length` steps: the gold path, slowed down by looking around."""
    gold = list(env.gold_actions(task))
    pauses = max(0, length - len(gold[:-1]))
    actions: list[str] = []
    for i, action in enumerate(gold[:-1]):
        actions += ["look around"] * (pauses * (i + 1) // len(gold) - pauses * i // len(gold))
        actions.append(action)
    actions = (actions + ["inventory"] * length)[:length]
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        steps.append(Step(text, action, "teacher", state_key=key))
        result = env.step(action)
        text, key = result.text, result.info["state_key"]
    return task, steps


def raw_steps(env: ScienceWorldEnv, steps: list[Step]) -> None:
    server = env._server
    for step in steps:
        server.step(step.action)
        server.getScore()
        server.getCompleted()


def our_steps(env: ScienceWorldEnv, steps: list[Step]) -> None:
    for step in steps:
        env.step(step.action)


def stock_episode(stock: Any, task: Task, steps: list[Step]) -> None:
    names = ",".join(task.settings["simplifications"])
    stock.load(task.goal["task"], task.goal["variation"], names)
    stock.reset()
    for step in steps:
        stock.step(step.action)


def our_episode(env: ScienceWorldEnv, task: Task, steps: list[Step]) -> None:
    env.reset(task)
    our_steps(env, steps)


def restore_all(env: ScienceWorldEnv, task: Task, steps: list[Step], *, naive: bool) -> None:
    """The M states in order of depth; naively each with a load and a replay of its own."""
    gap = LENGTH // (STATES + 1)
    env.borrow()  # ends the episode: there is nothing to go on from
    for k in range(1, STATES + 1):
        env.restore(task, steps[: gap * k], steps[gap * k].observation)
        if naive:
            env.borrow()


class Clock:
    """Seconds by name, of one round."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.over_raw: list[float] = []
        """Ours over raw, of each recording: a short while, so that other work blurs few of them."""

    def add(self, name: str, call: Callable[..., object], *args: object, **named: object) -> float:
        start = time.perf_counter()
        call(*args, **named)
        seconds = time.perf_counter() - start
        self.spent[name] += seconds
        return seconds


def play_all(env: ScienceWorldEnv, walks: list[Walk], times: int) -> None:
    for task, steps in walks * times:
        our_episode(env, task, steps)


def spin(turns: int) -> int:
    return sum(range(turns))


def one_round(
    env: ScienceWorldEnv,
    other: ScienceWorldEnv,
    stock: Any,
    walks: list[Walk],
    turn: int,
    threads: Executor,
    processes: Executor,
) -> Clock:
    clock = Clock()
    for task, steps in walks:
        ways = {"raw": raw_steps, "ours": our_steps}
        took = {"raw": 0.0, "ours": 0.0}
        for name in ("raw", "ours", "ours", "raw") if turn % 2 else ("ours", "raw", "raw", "ours"):
            clock.add("load", env.reset, task)
            took[name] += clock.add(name, ways[name], env, steps)
        clock.over_raw.append(took["ours"] / took["raw"])
        clock.add("stock_episode", stock_episode, stock, task, steps)
        clock.add("our_episode", our_episode, env, task, steps)
        clock.add("pass", restore_all, env, task, steps, naive=False)
        clock.add("naive", restore_all, env, task, steps, naive=True)
    both = (env, other)
    clock.add("one_jvm", play_all, both[turn % 2], walks, 4)
    clock.add("two_jvms", lambda: list(threads.map(lambda e: play_all(e, walks, 2), both)))
    clock.add("one_spins", lambda: list(processes.map(spin, [2 * SPIN])))
    clock.add("two_spin", lambda: list(processes.map(spin, [SPIN, SPIN])))
    return clock


def measure(rounds: int) -> dict[str, float]:
    spawn = multiprocessing.get_context("spawn")
    with (
        ScienceWorldEnv() as env,
        ScienceWorldEnv() as other,
        ThreadPoolExecutor(2) as threads,
        ProcessPoolExecutor(2, spawn) as processes,
    ):
        list(processes.map(spin, [1, 1, 1, 1]))
        start = time.perf_counter()
        env.borrow()
        out = {"jvm_start_seconds": time.perf_counter() - start}
        stock = stock_of(env, "scienceworld.scienceworld", "ScienceWorldEnv")
        tasks = scienceworld_tasks(TYPES, 1, env=env, max_steps=10 * LENGTH)
        walks = [walk(env, task, LENGTH) for task in tasks]
        list(threads.map(lambda e: play_all(e, walks, WARM), (env, other)))
        one_round(env, other, stock, walks, 0, threads, processes)
        clocks: list[Clock] = []
        late = start + ENOUGH_SECONDS
        while len(clocks) < rounds and (len(clocks) < 2 or time.perf_counter() < late):
            clocks.append(one_round(env, other, stock, walks, len(clocks), threads, processes))
        out["step_over_raw"] = statistics.median(r for clock in clocks for r in clock.over_raw)
        spent = [clock.spent for clock in clocks]
        for name, over, under in RATIOS:
            out[name] = statistics.median(s[over] / s[under] for s in spent)
        seconds = {name: statistics.median(s[name] for s in spent) for name in spent[0]}
        for name in ("raw", "ours"):
            out[f"{name}_steps_per_second"] = 2 * LENGTH * len(walks) / seconds[name]
        out["load_ms"] = 1e3 * seconds["load"] / (4 * len(walks))
        for name in ("pass", "naive"):
            out[f"restore_5_{name}_ms"] = 1e3 * seconds[name] / len(walks)
        done = env.restores["restored"]
        out["restores_verified"] = done / (done + env.restores["skipped"])
        process = psutil.Process(env.simulator.process.pid)
        out["jvm_megabytes"] = process.memory_info().rss / 2**20
        out["load_per_core"] = os.getloadavg()[0] / (os.cpu_count() or 1)
        return out
