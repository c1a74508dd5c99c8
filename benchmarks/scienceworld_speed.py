"""Speed of ScienceWorld: our step against the raw call and the upstream `env.step`, and restoring.

    python benchmarks/scienceworld_speed.py [--json] [--tasks 2] [--rounds 3]

Gold paths of cheap task types, played three ways in turn in one warm JVM: `raw` = the simulator's
step, score and end; `ours` = that plus validity and a fingerprint of the state; `upstream` = the
package's own `env.step`, which also lists the valid actions. Wall-clock seconds: other work on the
machine slows all three, so read the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import psutil

from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.records import Step, Task

TYPES = (
    "find-plant",
    "find-non-living-thing",
    "lifespan-longest-lived-then-shortest-lived",
    "power-component",
    "use-thermometer",
)
GOALS = {
    "ours_over_upstream": (2.0, "x", "at least"),
    "ours_over_raw": (0.5, "x", "at least"),
    "restores_verified": (1.0, "share", "at least"),
    "jvm_megabytes": (600.0, "MB", "at most"),
}
UNITS = {"steps_per_second": "steps/s", "ms": "ms", "seconds": "s"}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def play_raw(env: ScienceWorldEnv, actions: tuple[str, ...]) -> None:
    server = env.simulator.stock.server
    for action in actions:
        server.step(action)
        server.getScore()
        server.getCompleted()


def load_upstream(env: ScienceWorldEnv, task: Task) -> None:
    simplifications = ",".join(task.settings["simplifications"])
    env.simulator.stock.load(task.goal["task"], task.goal["variation"], simplifications)


def play_upstream(env: ScienceWorldEnv, actions: tuple[str, ...]) -> None:
    for action in actions:
        env.simulator.stock.step(action)


def play_ours(env: ScienceWorldEnv, actions: tuple[str, ...]) -> None:
    for action in actions:
        env.step(action)


def recorded(env: ScienceWorldEnv, task: Task, actions: tuple[str, ...]) -> list[Step]:
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", state_key=key))
        text, key = result.text, result.info["state_key"]
    return steps


def measure(per_task: int, rounds: int) -> dict[str, float]:
    env = ScienceWorldEnv()
    try:
        out = {"jvm_start_seconds": timed(lambda: env.simulator)}
        tasks = scienceworld_tasks(TYPES, per_task, env=env)
        start = time.perf_counter()
        gold = {task.id: env.gold_actions(task) for task in tasks}
        out["gold_path_ms"] = 1e3 * (time.perf_counter() - start) / len(tasks)
        walks = [(task, recorded(env, task, gold[task.id])) for task in tasks]  # warms the JVM too

        ways = {"raw": play_raw, "ours": play_ours, "upstream": play_upstream}
        spent = dict.fromkeys(ways, 0.0)
        loads, lists, restores = [], [], []
        verified = 0
        for _ in range(rounds):
            for task, steps in walks:
                for name, play in ways.items():
                    loads.append(timed(lambda task=task: env.reset(task)))
                    if name == "upstream":
                        load_upstream(env, task)
                    spent[name] += timed(lambda p=play, t=task: p(env, gold[t.id]))
                env.reset(task)
                lists.append(timed(env.valid_actions))
                t = len(steps) - 1
                start = time.perf_counter()
                verified += env.restore(task, steps[:t], steps[t].observation).ok
                restores.append((time.perf_counter() - start) / t)
        played = rounds * sum(len(actions) for actions in gold.values())
        for name, seconds in spent.items():
            out[f"{name}_steps_per_second"] = played / seconds
        out["ours_over_upstream"] = spent["upstream"] / spent["ours"]
        out["ours_over_raw"] = spent["raw"] / spent["ours"]
        out["reset_median_ms"] = 1e3 * statistics.median(loads)
        out["valid_actions_median_ms"] = 1e3 * statistics.median(lists)
        out["restore_median_ms_per_replayed_step"] = 1e3 * statistics.median(restores)
        out["restores_verified"] = verified / len(restores)
        out["jvm_megabytes"] = psutil.Process(env.simulator.process.pid).memory_info().rss / 2**20
        return out
    finally:
        env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--tasks", type=int, default=2, help="tasks of each of five types")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = {}
    for name, value in measure(options.tasks, options.rounds).items():
        goal, unit, sense = GOALS.get(name, (None, "", ""))
        if not unit:
            unit = next(u for word, u in UNITS.items() if word in name)
        holds = goal is None or (value >= goal if sense == "at least" else value <= goal)
        rows[name] = {"value": round(value, 4), "goal": goal, "unit": unit, "holds": holds}
        print(f"{name:38} {value:10.2f} {unit:8}" + (f" goal {sense} {goal}" if goal else ""))
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
