"""Speed and memory of sampling a student, against the loop that everybody writes first.

    python benchmarks/engine.py [--json] [--parts tiny states smollm2 memory]

"Naive" plays one episode at a time and calls `model.generate` with the whole prompt for every
reply. Both sides play the same tasks greedily, to the same number of steps, in this very run; a
ratio is of turns per second. CPU seconds of one thread, so that a busy machine does not count; for
vLLM, which works in other processes, wall-clock seconds of both sides. Its row is left out where
`EEFLIB_VLLM_PYTHON` names no interpreter.

`states`: tokens that a forward pass computed while exploring 5 states of each of the teacher's
trajectories, over the prompt tokens of all replies, which is what the naive loop computes.
`memory`: the most that a process held while it explored with SmolLM2 and 16 environments.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import eeflib as eef
from eeflib.exploration import plan_exploration
from eeflib.policies import server
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.policies.engines import EnginePolicy
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.policies.loading import load_student, served
from eeflib.records import Task, Usage
from eeflib.rollout import Episode, run_episodes

GOALS = {
    "tiny_over_naive": (8.0, "x"),
    "explored_prompt_tokens_over_naive": (0.2, "of naive"),
    "smollm2_over_naive": (2.5, "x"),
    "smollm2_vllm_over_naive": (4.0, "x"),
    "smollm2_explore_peak_gb": (3.0, "GB"),
}
AT_MOST = {"explored_prompt_tokens_over_naive", "smollm2_explore_peak_gb"}
SEED = 61


class Naive:
    """One conversation after the other, the whole prompt each time."""

    name = "naive"
    wants_admissible = False

    def __init__(self, model: Any, chat: Any, max_new: int) -> None:
        self.model, self.chat, self.max_new = model, chat, max_new

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        out = []
        for prompt in self.chat.prompts([c.messages for c in conversations]):
            ids = torch.from_numpy(prompt)[None]
            with torch.inference_mode():
                found = self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=self.max_new,
                    eos_token_id=sorted(self.chat.stop_ids),
                    pad_token_id=0,
                )[0, len(prompt) :]
            out.append(Reply(self.chat.decode(found.tolist()), Usage(len(prompt), len(found))))
        return out

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept."""


def short(task: Task, steps: int) -> Task:
    return replace(task, settings={**task.settings, "max_steps": steps})


def play(
    world: Any, tasks: Sequence[Task], policy: Policy, fmt: Any, batch: int
) -> tuple[float, float]:
    """Turns per CPU second and per wall-clock second."""
    cpu, wall = time.process_time(), time.perf_counter()
    episodes = [Episode(task, "speed") for task in tasks]
    played = run_episodes(
        episodes, policy, world.make_env, fmt, actor="student", seed=SEED, batch_size=batch
    )
    turns = sum(t.length for t in played)
    return turns / (time.process_time() - cpu), turns / (time.perf_counter() - wall)


def against_naive(
    name: str, *, episodes: int, naive: int, steps: int, max_new: int, with_vllm: bool = False
) -> dict[str, float]:
    student, world = eef.Student(name), eef.webshop(seed=SEED, train=episodes, test=0)
    model, tokenizer = load_student(name, dtype=torch.float32)
    fmt = student.format("webshop")
    settings = {"name": name, "greedy": True, "max_new_tokens": max_new}
    mine = HuggingFacePolicy(model, tokenizer, **settings)
    plain = Naive(model, mine.tokens, max_new)
    tasks = [short(task, steps) for task in world.split("train")]
    play(world, [short(tasks[0], 1)], plain, fmt, 1)  # warm
    slow_cpu, slow_wall = play(world, tasks[:naive], plain, fmt, 1)
    fast_cpu, _ = play(world, tasks, mine, fmt, episodes)
    print(f"{name}: {fast_cpu:.2f} turns per CPU second, naive {slow_cpu:.2f}")
    out = {f"{name}_over_naive": fast_cpu / slow_cpu}
    if with_vllm:
        engine = server.serve(served(name)[0], mine.tokens)
        there = EnginePolicy(engine, mine.tokens, **settings)
        play(world, [short(tasks[0], 1)], there, fmt, 1)
        _, fast_wall = play(world, tasks, there, fmt, episodes)
        server.release()
        print(f"{name}: {fast_wall:.2f} turns per second by vLLM, naive {slow_wall:.2f}")
        out[f"{name}_vllm_over_naive"] = fast_wall / slow_wall
    return out


def states(tasks: int) -> dict[str, float]:
    student, world = eef.Student("tiny"), eef.webshop(seed=SEED, train=tasks, test=0)
    tries = eef.collect(world, progress=False)
    policy = student.policy()
    assert isinstance(policy, HuggingFacePolicy)
    computed = 0
    encode = policy.decoder._encode

    def counting(chunks: dict[int, np.ndarray]) -> Any:
        nonlocal computed
        computed += sum(map(len, chunks.values()))
        return encode(chunks)

    policy.decoder._encode = counting  # type: ignore[method-assign]
    found = eef.explore(world, tries, policy_as(student, policy), M=5, progress=False)
    steps = [s for b in found if b.rollout is not None for s in b.rollout.steps]
    asked = sum(s.usage.prompt_tokens for s in steps if s.usage is not None)
    print(f"states: {computed} tokens computed, {asked} prompt tokens in {len(steps)} replies")
    return {"explored_prompt_tokens_over_naive": computed / asked}


def policy_as(student: Any, policy: Policy) -> Any:
    """`student`, sampled by this very policy."""
    student.policy = lambda *, greedy=False: policy
    return student


def explored(environments: int) -> dict[str, float]:
    """Explore with SmolLM2 in this process."""
    student = eef.Student("smollm2", max_new_tokens=24, lockstep=environments)
    world = eef.webshop(seed=SEED, train=12, test=0)
    tries = eef.collect(world, progress=False)
    plan = plan_exploration(world.split("train"), tries, M=5, from_s0=False)
    episodes = [
        replace(e, task=short(e.task, len(e.prefix) + 2)) for group in plan for e, _ in group
    ][:environments]
    played = run_episodes(
        episodes,
        student.policy(),
        world.make_env,
        student.format("webshop"),
        actor="student",
        seed=SEED,
        batch_size=environments,
    )
    assert len(played) == environments
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"smollm2_explore_peak_gb": peak}


def memory() -> dict[str, float]:
    """`explored` in a process of its own."""
    command = [sys.executable, __file__, "--json", "--parts", "explored"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    return {name: row["value"] for name, row in rows.items()}


def main() -> None:
    vllm = bool(os.environ.get(server.PYTHON))
    smollm2 = {"episodes": 16, "naive": 3, "steps": 4, "max_new": 24}
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "tiny": lambda: against_naive("tiny", episodes=64, naive=8, steps=8, max_new=16),
        "states": lambda: states(24),
        "smollm2": lambda: against_naive("smollm2", **smollm2, with_vllm=vllm),
        "memory": memory,
        "explored": lambda: explored(16),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line of stdout is one object")
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts)[:-1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for part in args.parts:
        for name, value in parts[part]().items():
            goal, unit = GOALS[name]
            holds = value <= goal if name in AT_MOST else value >= goal
            rows[name] = {"value": round(value, 3), "goal": goal, "unit": unit, "holds": holds}
            print(f"{name}: {value:.3g} {unit} (goal {goal:g})", flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
