"""Single steps of `benchmarks/webshop.py`: their speed, restoring, search, over 1,000 products.

    python webshop_steps.py JOB

The last line of output is one JSON object. JOB is written: catalogue, action scripts and our own
observations, for the official environment to run.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals, task_from_goal
from eeflib.envs.webshop.pages import WebShopState
from eeflib.records import Step, Task

INSTRUCTED = 400
"""Products with a human instruction."""


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def kind_of(action: str, env: WebShopEnv) -> str:
    if action.startswith("search"):
        return "search"
    name = action[6:-1]
    if name in ("next >", "< prev"):
        return "next" if env.state.page == "results" else "prev"
    if name == "buy now":
        return "buy"
    if name in ("description", "features"):
        return "sub"
    return "item" if env.state.page == "results" else "option"


def scripts(catalogue: Catalogue, goals: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """n shoppers: search, look at pages and products, choose options, buy."""
    env, rng, out = WebShopEnv(catalogue, strict=True), random.Random(0), []
    for number, goal in enumerate(goals[:n]):
        env.reset(task_from_goal(goal, catalogue))
        steps: list[tuple[str, str]] = []

        def act(action: str, steps: list[tuple[str, str]] = steps) -> None:
            steps.append((kind_of(action, env), action))
            env.step(action)

        act(f"search[{goal['instruction_text']}]")
        act("click[next >]")
        act("click[< prev]")
        asins = [a for a in env.valid_actions() if a.startswith("click[b0")]
        act(rng.choice(asins))
        act("click[description]")
        act("click[< prev]")
        for values in catalogue.find(env.state.asin).options.values():  # type: ignore[union-attr]
            act(f"click[{rng.choice(values)}]")
        act("click[features]")
        act("click[< prev]")
        act("click[buy now]")
        out.append({"goal": number, "steps": steps})
    return out


def play(env: WebShopEnv, tasks: list[Task], plans: list[dict[str, Any]]) -> dict[str, Any]:
    """As the official driver does: CPU seconds, observations and rewards."""
    kinds: dict[str, list[float]] = {}
    texts, rewards = [], []
    for plan in plans:
        kinds.setdefault("reset", []).append(seconds(partial(env.reset, tasks[plan["goal"]])))
        texts.append(env.text)
        rewards.append(0.0)
        for kind, action in plan["steps"]:
            start = time.thread_time()
            result = env.step(action)
            kinds.setdefault(kind, []).append(time.thread_time() - start)
            texts.append(result.text)
            rewards.append(result.reward)
    return {"kinds": kinds, "texts": texts, "rewards": rewards}


def walk(env: WebShopEnv, task: Task, rng: random.Random) -> list[Step]:
    """One random episode, 13 actions without a purchase."""
    steps, text, key = [], env.reset(task).text, env.state_key
    while len(steps) < 13:
        action = rng.choice([a for a in env.valid_actions() if a != "click[buy now]"])
        if "<text>" in action or rng.random() < 0.1:
            words = task.instruction.split()
            action = f"search[{' '.join(rng.sample(words, min(4, len(words))))}]"
        result = env.step(action)
        steps.append(Step(text, action, "student", state_key=key))
        text, key = result.text, env.state_key
    return steps


def measure_steps(job_file: str) -> dict[str, Any]:
    from bulk_products import bulk_attributes, bulk_instruction, bulk_rows

    rows = list(bulk_rows(1_000, seed=1))
    attributes = {row["asin"]: bulk_attributes(row["asin"]) for row in rows}
    people = {row["asin"]: [bulk_instruction(row)] for row in rows[:INSTRUCTED]}
    catalogue = Catalogue.from_rows(rows, attributes, people, seed=7)
    goals = build_goals(catalogue)
    tasks = [task_from_goal(goal, catalogue, max_steps=100) for goal in goals]
    plans = scripts(catalogue, goals, 100)
    fresh = Catalogue.from_rows(rows, attributes, people, seed=7)
    start = time.thread_time()
    fresh.index.scored("warm")
    index_s = time.thread_time() - start
    nouns = WebShopEnv(fresh, strict=True).nouns  # spaCy, where it is installed
    for title in {*(p.title for p in fresh), *(g["name"] for g in goals)}:
        nouns(title)
    ours = {"included": play(WebShopEnv(fresh, strict=True), tasks, plans)}
    known = {
        query: fresh.index.search(query)
        for query in (s[1][7:-1].lower() for plan in plans for s in plan["steps"][:1])
    }

    class Recorded(WebShopEnv):
        def ranking(self, state: WebShopState) -> tuple[int, ...]:
            return known[state.query]

    ours["excluded"] = play(Recorded(fresh, strict=True), tasks, plans)
    rankings = {q: [fresh[i].asin for i in found] for q, found in known.items()}
    job = {
        "products": rows, "attributes": attributes, "human_instructions": people, "seed": 7,
        "scripts": plans, "rankings": rankings, "ours": ours,
    }  # fmt: skip
    Path(job_file).write_text(json.dumps(job), "utf-8")
    return {
        **step_figures(ours["included"]),
        **other_figures(fresh, tasks),
        "index_1000_s": index_s,
    }


def step_figures(ours: dict[str, Any]) -> dict[str, float]:
    kinds = ours["kinds"]
    every = [s for kind, spent in kinds.items() if kind != "reset" for s in spent]
    clicks = [s for kind, spent in kinds.items() if kind not in ("reset", "search") for s in spent]
    return {
        "step_ms": 1e3 * sum(every) / len(every),
        "click_ms": 1e3 * sum(clicks) / len(clicks),
        "steps_per_second": len(every) / sum(every),
        **{f"{kind}_ms": 1e3 * sum(spent) / len(spent) for kind, spent in kinds.items()},
    }


def other_figures(catalogue: Catalogue, tasks: list[Task]) -> dict[str, float]:
    """Search, restoring and making an environment."""
    env, rng = WebShopEnv(catalogue, max_steps=99), random.Random(0)
    walks = [(task, walk(env, task, rng)) for task in rng.choices(tasks, k=200)]
    queries = {s.action[7:-1].lower() for _, steps in walks for s in steps if s.action[0] == "s"}
    return {
        "new_search_median_ms": 1e3
        * median(seconds(partial(catalogue.index.scored, q)) for q in queries),
        "restore_13_steps_ms": 1e3 * median(seconds(partial(env.restore, t, s)) for t, s in walks),
        "start_128_ms": 1e3 * seconds(lambda: [WebShopEnv(catalogue) for _ in range(128)]),
    }


if __name__ == "__main__":
    print(json.dumps(measure_steps(sys.argv[1])))
