"""What `eef demo` costs as a whole, alone or side by side with another version of the library.

    python benchmarks/demo_speed.py [--preset tiny] [--repeat 2] [--json]
    python benchmarks/demo_speed.py --against FOLDER [--python PATH]

Each demo is of one seed, in a fresh folder with two workers. Alone: the medians of seconds, of CPU
seconds and of memory, which is the peak over all processes. With --against, FOLDER is the checkout
of another version: the demos run in turn (A B A B), so that what else the machine does meets both,
and the results are this version's medians as multiples of the other's. The other version runs in
this interpreter unless --python names that of its own environment. Only the command is used, so
any two versions can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parents[1]
SEED = 61
COMMAND = "from eeflib.cli import main; main()"
GOALS: dict[str, tuple[float, str]] = {
    "demo_seconds": (90, "s"),
    "demo_cpu_seconds": (90, "s"),
    "demo_largest_process": (1_000, "MB"),
    "demo_memory": (2_000, "MB"),
}
RATIO_GOAL, RATIO_UNIT = 1.2, "times the other checkout"
Cost = dict[str, float]


class Checkout:
    """A version of the library: a folder, and the interpreter that has what it needs."""

    def __init__(self, folder: Path, python: str) -> None:
        """Exit with a message unless `python` imports the eeflib of `folder`."""
        self.python = python
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}
        code = "import eeflib; print(eeflib.__file__)"
        found = subprocess.run(
            [python, "-P", "-c", code], env=self.environment, capture_output=True, text=True
        )
        if found.returncode or folder not in Path(found.stdout.strip()).resolve().parents:
            sys.exit(f"{python} does not import {folder}/eeflib: {found.stdout}{found.stderr}")

    def demo(self, preset: str) -> Cost:
        """Run the demo in a folder of its own and measure it."""
        with tempfile.TemporaryDirectory() as name:
            args = ["demo", "--preset", preset, "--seeds", "1", "--first-seed", str(SEED),
                    "--run", f"{name}/run", "--processes", "2"]  # fmt: skip
            before, started = os.times(), time.perf_counter()
            process = subprocess.Popen(
                [self.python, "-P", "-c", COMMAND, *args],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            total = largest = 0.0
            while process.poll() is None:
                now, biggest = memory_of_all(process.pid)
                total, largest = max(total, now), max(largest, biggest)
                time.sleep(0.5)
            seconds, after = time.perf_counter() - started, os.times()
        if process.returncode:
            sys.exit(f"the demo of {self.environment['PYTHONPATH']} failed: run it to see why")
        used = after.children_user + after.children_system
        return {
            "demo_seconds": seconds,
            "demo_cpu_seconds": used - before.children_user - before.children_system,
            "demo_largest_process": largest,
            "demo_memory": total,
        }


def memory_of_all(pid: int) -> tuple[float, float]:
    """MB of a process and its descendants now, and of the largest of them.

    In the sum, what they share counts once (Linux).
    """
    total = largest = 0.0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss) / 2**20
            largest = max(largest, info.rss / 2**20)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0, 0.0  # one of them ended while we looked
    return total, largest


def medians(costs: list[Cost]) -> Cost:
    return {key: statistics.median(cost[key] for cost in costs) for key in GOALS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the other one")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--repeat", type=int, default=None, help="default: 1 alone, 2 with another")
    parser.add_argument("--json", action="store_true", help="last line of stdout is one object")
    options = parser.parse_args()
    sides = {"this": Checkout(HERE, sys.executable)}
    if options.against:
        sides["other"] = Checkout(options.against.resolve(), options.python)
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(options.repeat or len(sides)):
        for name, checkout in sides.items():
            costs[name].append(checkout.demo(options.preset))
            shown = {key.removeprefix("demo_"): round(x, 1) for key, x in costs[name][-1].items()}
            print(f"{name}: {shown}", flush=True)
    values = medians(costs["this"])
    goals = {key: (key, goal, unit) for key, (goal, unit) in GOALS.items()}
    if options.against:
        other = medians(costs["other"])
        values = {key: value / other[key] for key, value in values.items()}
        timed = ("demo_seconds", "demo_cpu_seconds")
        goals = {key: (f"{key}_ratio", RATIO_GOAL, RATIO_UNIT) for key in timed}
    rows = {}
    for key, (name, goal, unit) in goals.items():
        value = round(values[key], 3 if options.against else 1)
        rows[name] = {"value": value, "goal": goal, "unit": unit, "holds": value <= goal}
        mark = "ok" if value <= goal else "MISSED"
        print(f"{name:24} {value:10,} {unit}, goal {goal:,} {mark}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
