"""Playing TextWorldExpress in tests: recordings, random walks, small games."""

from __future__ import annotations

import dataclasses

import numpy as np

from eeflib.envs.base import StepResult
from eeflib.envs.textworld import TextWorldEnv
from eeflib.records import Step, Task

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
