"""Playing the simulators in tests: recordings, random walks, the packages' own environments."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np

from eeflib.envs.base import StepResult
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.simulated import SimulatedEnv
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.records import Step, Task

TYPES = (
    "find-plant",
    "lifespan-longest-lived-then-shortest-lived",
    "chemistry-mix-paint-secondary-color",
    "power-component",
    "use-thermometer",
)
SMALL = {
    "twc": {"numLocations": 1, "numItemsToPutAway": 2},
    "cookingworld": {"numLocations": 2, "numIngredients": 1, "includeDoors": 0},
}
UNKNOWN = "Unknown action: I'm not sure what you mean."


@dataclasses.dataclass(frozen=True)
class Expert:
    """A path as it was recorded."""

    task: Task
    steps: tuple[Step, ...]
    last: StepResult


def record(env: SimulatedEnv, task: Task, actions: Sequence[str], *, menus: bool = True) -> Expert:
    """Up to the end; without `menus` to the first one at most."""
    first = env.reset(task)
    text, key, steps = first.text, first.info["state_key"], []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", reward=result.reward, state_key=key))
        text, key = result.text, result.info["state_key"]
        menu = text.startswith("Ambiguous request: Please enter")
        if result.terminated or (menu and not menus):
            break
    return Expert(task, tuple(steps), result)


def wander(env: SimulatedEnv, task: Task, length: int, seed: int = 7) -> list[str]:
    """Random admissible actions, none that ends a ScienceWorld episode by a wrong focus."""
    rng = np.random.default_rng(seed)
    env.reset(task)
    actions: list[str] = []
    while len(actions) < length:
        choices = [a for a in env.valid_actions() if not a.startswith("focus")]
        if not choices:
            break
        actions.append(choices[rng.integers(len(choices))])
        env.step(actions[-1])
    return actions


def play(env: SimulatedEnv, task: Task, actions: Sequence[str]) -> list[object]:
    return [env.reset(task), *(env.step(a) for a in actions)]


class Lent(ScienceWorldEnv):
    """Works in the JVM of another environment, which it neither ends nor replaces."""

    def __init__(self, owner: ScienceWorldEnv, *, max_parallel: int = 1) -> None:
        super().__init__(max_parallel=max_parallel)
        owner._call("getTaskNames")
        self._simulator, self._server = owner._simulator, owner._server
        self._simulator.join(self)

    def _renew(self) -> None:
        pass


class Killing(NoisyGoldTeacher):
    """Ends the JVM that `jvm` gives when the first episode comes to its third question, `kills`
    times. It inserts nothing at random and asks for no list of actions (up to 0.4 s)."""

    wants_admissible = False
    jvm: Callable[[], subprocess.Popen[bytes]]
    kills = 0

    def act(self, conversations, *, rng):  # type: ignore[no-untyped-def]
        replies = sum(m.role == "assistant" for m in conversations[0].messages)
        if self.kills and replies == 2:
            self.kills -= 1
            process = self.jvm()
            process.kill()
            process.wait()
        return super().act(conversations, rng=rng)


STOCK = {
    "scienceworld": ("scienceworld.scienceworld", "ScienceWorldEnv"),
    "textworld": ("textworld_express.textworld_express", "TextWorldExpressEnv"),
}


def stock(env: SimulatedEnv) -> Any:
    """The published package's own environment, in the JVM of `env`."""
    module, name = STOCK[env.name]
    package = importlib.import_module(module)
    jvm = env.borrow()
    launched = jvm.gateway.gateway_parameters.port, jvm.process
    kind = type("Stock", (getattr(package, name),), {"__del__": lambda self: None})
    with mock.patch.object(package, "launch_gateway", return_value=launched):
        return kind(envStepLimit=10**6)
