"""Catalogues on disk in `benchmarks/webshop.py`, each measurement in a process of its own.

    python webshop_large.py generate FOLDER N | build FOLDER | open FOLDER | search FOLDER
                            | environments FOLDER

The last line of output is one JSON object. FOLDER holds files of the official schema, written by
`generate`, and the catalogue that `load_official` builds from them: what is measured is what a user
of the official full set does, parsing included.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import task_from_goal
from eeflib.envs.webshop.official import SOURCES, Official, load_official

PER_INSTRUCTION = 98
"""Products for one human instruction; officially 1,181,436 for 12,087."""
QUERIES = 400


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status: memory is measured on Linux only")


def cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def load(folder: str) -> Official:
    return load_official(folder, size="full", progress=False)


def write(path: Path, brackets: str, items: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for n, item in enumerate(items):
            file.write(("," if n else brackets[0]) + item)
        file.write(brackets[1])


def measure_generate(folder: str, products: str) -> dict[str, Any]:
    """Write the three files; not part of what has a goal."""
    from bulk_products import bulk_attributes, bulk_instruction, bulk_rows

    start, target, n, people = time.perf_counter(), Path(folder), int(products), {}
    target.mkdir(parents=True, exist_ok=True)
    asins: list[str] = []

    def rows() -> Iterable[str]:
        for number, row in enumerate(bulk_rows(n)):
            asins.append(row["asin"])
            if number % PER_INSTRUCTION == 0:
                people[row["asin"]] = [bulk_instruction(row)]
            yield json.dumps(row)

    write(target / SOURCES["full"][0].name, "[]", rows())
    entries = (f"{json.dumps(asin)}: {json.dumps(bulk_attributes(asin))}" for asin in asins)
    write(target / SOURCES["full"][1].name, "{}", entries)
    (target / SOURCES["full"][2].name).write_text(json.dumps(people))
    size = sum(path.stat().st_size for path in target.glob("*.json"))
    return {"s": time.perf_counter() - start, "cpu_s": cpu_s(), "files_mb": size / 1e6}


def measure_build(folder: str) -> dict[str, Any]:
    for made in Path(folder).glob("catalogue-*"):
        shutil.rmtree(made)
    used, start = cpu_s(), time.perf_counter()
    official = load(folder)
    spent = time.perf_counter() - start
    index = official.catalogue.index
    return {
        "s": spent,
        "cpu_s": cpu_s() - used,
        "peak_mb": memory_mb("VmHWM"),
        "disk_mb": sum(size for size, _ in official.catalogue.manifest.files.values()) / 1e6,
        "terms": len(index.starts) - 1,
        "postings": len(index.docs),
    }


def measure_open(folder: str) -> dict[str, Any]:
    """What a second start takes: everything loaded, its goals made, an environment there."""
    base, start = memory_mb("VmRSS"), time.perf_counter()
    official = load(folder)
    env = official.env(strict=False)
    env.catalogue.index  # noqa: B018
    open_s = time.perf_counter() - start
    rng = random.Random(1)
    for goal in rng.sample(official.goals, min(50, len(official.goals))):
        task = task_from_goal(goal, official.catalogue, max_steps=100)
        env.reset(task)
        env.step(f"search[{task.instruction}]")
        for _ in range(8):
            stay = ("click[buy now]", "click[back to search]")
            env.step(rng.choice([a for a in env.valid_actions() if a not in stay]))
    return {
        "open_s": open_s,
        "goals": len(official.goals),
        "rss_mb": memory_mb("VmHWM"),
        "rss_before_opening_mb": base,
    }


def measure_search(folder: str) -> dict[str, Any]:
    """Whole instructions, as agents type them, and four words of a title."""
    official, out = load(folder), {}
    goals = random.Random(2).sample(official.goals, min(QUERIES, len(official.goals)))
    index = official.catalogue.index
    queries = {
        "": [goal["instruction_text"] for goal in goals],
        "short_": [" ".join(goal["name"].lower().split()[-4:]) for goal in goals],
    }
    for name, texts in queries.items():
        for round_ in ("first_", ""):
            spent, cpu = [], []
            for text in texts:
                start, used = time.perf_counter(), time.thread_time()
                index.scored(text)
                spent.append(1e3 * (time.perf_counter() - start))
                cpu.append(1e3 * (time.thread_time() - used))
            out[f"{name}{round_}median_ms"] = median(spent)
            out[f"{name}{round_}p95_ms"] = sorted(spent)[int(0.95 * len(spent))]
            out[f"{name}{round_}cpu_median_ms"] = median(cpu)
    out["queries"] = len(goals)
    return out


def measure_environments(folder: str) -> dict[str, Any]:
    """Memory of 1,000 environments, each in the middle of an episode, above that of one."""
    official = load(folder)
    catalogue = official.catalogue
    tasks = [task_from_goal(goal, catalogue) for goal in official.goals[:QUERIES]]

    def play_one(number: int) -> WebShopEnv:
        env, task = WebShopEnv(catalogue), tasks[number % len(tasks)]
        env.reset(task)
        env.step(f"search[{task.instruction}]")
        env.step("click[next >]")
        env.step([a for a in env.valid_actions() if a.startswith("click[b0")][number % 10])
        env.step("click[description]" if number % 2 else "click[< prev]")
        return env

    for number in range(len(tasks)):  # pages of the index and products that all of them share
        play_one(number)
    kept = [play_one(0)]
    before = memory_mb("VmRSS")
    kept += [play_one(number) for number in range(1, 1_000)]
    return {"envs_1000_extra_mb": memory_mb("VmRSS") - before}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "generate": measure_generate,
    "build": measure_build,
    "open": measure_open,
    "search": measure_search,
    "environments": measure_environments,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
