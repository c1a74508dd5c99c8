"""Playing ScienceWorld in tests: recordings, random walks."""

from __future__ import annotations

import dataclasses

import numpy as np

from eeflib.envs.base import StepResult
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.records import Step, Task

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


class Lent(ScienceWorldEnv):
    """Works in the JVM of another environment, which it neither ends nor replaces."""

    def __init__(self, owner: ScienceWorldEnv, *, max_parallel: int = 1) -> None:
        super().__init__(max_parallel=max_parallel)
        self._simulator = owner.borrow()

    def close(self) -> None:
        self._end_episode()

    def _renew(self) -> None:
        pass
