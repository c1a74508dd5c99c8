"""TextWorldExpress's part of `benchmarks/simulators.py`.

Gold paths of twc and cookingworld, as the games are by default, played three ways in turn, each by
its own object of one warm JVM: `raw` = the simulator's one call for a step, its JSON decoded by
orjson, as the package does; `upstream` = the package's own `env.step` (two calls); `ours` =
`TextWorldEnv.step`. A round is short: there are three for each of ScienceWorld's.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson
import psutil
from parts.stock import stock as stock_of

from eeflib.envs.textworld import DEFAULT_GAMES, TextWorldEnv, textworld_tasks
from eeflib.records import Step, Task

GOALS = {
    "ours_over_upstream": (0.9, "at least"),
    "restores_verified": (1.0, "at least"),
    "jvm_megabytes": (600.0, "at most"),
}
TASKS = 6
"""Of each game."""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def play_raw(game: Any, actions: tuple[str, ...]) -> None:
    step = game.stepJSON
    for action in actions:
        answer = orjson.loads(step(action))
        _ = answer["observation"], answer["score"], answer["tasksuccess"], answer["taskfailure"]


def play_upstream(stock: Any, actions: tuple[str, ...]) -> None:
    for action in actions:
        stock.step(action)


def play_ours(env: TextWorldEnv, actions: tuple[str, ...]) -> None:
    for action in actions:
        env.step(action)


def recorded(env: TextWorldEnv, task: Task, actions: tuple[str, ...]) -> list[Step]:
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", state_key=key))
        text, key = result.text, result.info["state_key"]
    return steps


def measure(rounds: int) -> dict[str, float]:
    with TextWorldEnv() as env:
        out = {"jvm_start_seconds": timed(env.borrow)}
        stock = stock_of(env, "textworld_express.textworld_express", "TextWorldExpressEnv")
        raw = env.simulator.new(env.interface)
        tasks = textworld_tasks(DEFAULT_GAMES, TASKS, env=env)
        start = time.perf_counter()
        gold = {task.id: env.gold_actions(task) for task in tasks}
        out["gold_path_ms"] = 1e3 * (time.perf_counter() - start) / len(tasks)
        walks = [(task, recorded(env, task, gold[task.id])) for task in tasks]

        spent: dict[str, list[float]] = {"raw": [], "upstream": [], "ours": []}
        resets, lists, restores = [], [], []
        verified = 0
        gc.collect()
        for turn in range(3 * rounds + 2):
            for task, steps in walks:
                name, variation = task.goal["game"], task.goal["variation"]
                actions = gold[task.id]
                raw.load(name, "")
                raw.generateNewGameJSON(variation, "train", False)
                stock.reset(seed=variation, gameFold="train", gameName=name, gameParams="")
                resets.append(timed(lambda task=task: env.reset(task)))
                ways: list[tuple[str, Callable[[], None]]] = [
                    ("raw", lambda a=actions: play_raw(raw, a)),
                    ("ours", lambda a=actions: play_ours(env, a)),
                    ("upstream", lambda a=actions: play_upstream(stock, a)),
                ]
                for way, play in ways[turn % 3 :] + ways[: turn % 3]:
                    seconds = timed(play)
                    if turn >= 2:  # the JVM is warm by now
                        spent[way].append(seconds / len(actions))
                env.reset(task)
                lists.append(timed(env.valid_actions))
                t = len(steps) - 1
                start = time.perf_counter()
                verified += env.restore(task, steps[:t], steps[t].observation).ok
                restores.append((time.perf_counter() - start) / t)
        for way, each in spent.items():
            out[f"{way}_steps_per_second"] = 1.0 / statistics.median(each)
        # side by side: the ratio of every playing of a path, then the middle one
        for way in ("raw", "upstream"):
            ratios = [a / b for a, b in zip(spent[way], spent["ours"], strict=True)]
            out[f"ours_over_{way}"] = statistics.median(ratios)
        out["reset_median_ms"] = 1e3 * statistics.median(resets)
        out["valid_actions_median_us"] = 1e6 * statistics.median(lists)
        out["restore_median_us_per_replayed_step"] = 1e6 * statistics.median(restores)
        out["restores_verified"] = verified / len(restores)
        process = psutil.Process(env.simulator.process.pid)
        out["jvm_megabytes"] = process.memory_info().rss / 2**20
        return out
