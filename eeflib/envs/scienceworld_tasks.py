"""ScienceWorld tasks as records: names, simplifications, official splits.

Owns what a valid ScienceWorld `Task` is and how to make them. Knows nothing about episodes.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eeflib.envs.scienceworld_jvm import Simulator, Split
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["CHEAP_TASKS", "DEFAULT_MAX_STEPS", "ENV", "TaskSpec", "make_task", "scienceworld_tasks"]

ENV = "scienceworld"

CHEAP_TASKS = (
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
    "chemistry-mix-paint-secondary-color",
    "power-component",
    "use-thermometer",
)
"""Task types whose gold paths are short (1-21 actions) and whose steps are quick (5-20 ms)."""

DEFAULT_MAX_STEPS = 40
"""Actions per episode where a task sets no limit: above the cheap tasks' gold paths with room for
detours."""

_SIMPLIFICATIONS = (
    "teleportAction",
    "openContainers",
    "openDoors",
    "selfWateringFlowerPots",
    "noElectricalAction",
)
_ELECTRICAL = ("power-component", "conductivity")
_SPLITS: dict[str, Split] = {"train": "train", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class TaskSpec:
    """What the simulator needs to load a task."""

    name: str
    variation: int
    simplifications: tuple[str, ...]
    max_steps: int

    @property
    def simplification_text(self) -> str:
        return ",".join(self.simplifications)

    @classmethod
    def read(cls, task: Task, max_steps: int) -> TaskSpec:
        """The specification in a record; `max_steps` where the record sets none.

        Raises:
            DataError: another environment's task, or a field that is missing or unusable.
        """
        where = f"task {task.id!r}"
        if task.env != ENV:
            raise DataError(f"{where} belongs to environment {task.env!r}, not to {ENV!r}")
        name, variation = task.goal.get("task"), task.goal.get("variation")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: goal.task must be a ScienceWorld task name, not {name!r}")
        if not isinstance(variation, int) or isinstance(variation, bool):
            raise DataError(f"{where}: goal.variation must be an integer, not {variation!r}")
        limit = task.settings.get("max_steps", max_steps)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise DataError(
                f"{where}: settings.max_steps must be a positive integer, not {limit!r}"
            )
        wanted = task.settings.get("simplifications", "easy")
        return cls(name, variation, simplification_names(wanted, name, where), limit)

    def check(self, sizes: dict[str, int], where: str) -> None:
        """Raise DataError unless `sizes` (variations per task name) has this task and variation.

        The simulator itself answers a wrong variation with an error text as observation.
        """
        if self.name not in sizes:
            near = difflib.get_close_matches(self.name, sizes, n=3) or sorted(sizes)
            raise DataError(
                f"{where}: ScienceWorld has no task {self.name!r}; did you mean {', '.join(near)}?"
            )
        if not 0 <= self.variation < sizes[self.name]:
            raise DataError(
                f"{where}: {self.name} has variations 0 to {sizes[self.name] - 1}, "
                f"not {self.variation}"
            )


def simplification_names(value: Any, task_name: str, where: str = "task") -> tuple[str, ...]:
    """The simplifications to load a task with, spelled out, in the simulator's order.

    Args:
        value: a comma-separated text or a sequence of names. `easy` stands for what the simulator
            means by it: teleportAction, openDoors, selfWateringFlowerPots and, except for tasks
            about electricity, noElectricalAction; it does not open containers. The simulator takes
            `easy` only alone (with another name it loads nothing), hence the list.

    Raises:
        DataError: an unknown name, or noElectricalAction for a task about electricity.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(p, str) for p in parts):
        raise DataError(f"{where}: settings.simplifications must be a list of names, not {value!r}")
    wanted = {p.strip() for p in parts} - {""}
    electrical = any(word in task_name for word in _ELECTRICAL)
    if "easy" in wanted:
        wanted = (wanted - {"easy"}) | {"teleportAction", "openDoors", "selfWateringFlowerPots"}
        wanted |= set() if electrical else {"noElectricalAction"}
    if unknown := wanted - set(_SIMPLIFICATIONS):
        raise DataError(
            f"{where}: unknown simplification {', '.join(sorted(unknown))}; "
            f"choose from easy, {', '.join(_SIMPLIFICATIONS)}"
        )
    if electrical and "noElectricalAction" in wanted:
        raise DataError(f"{where}: {task_name} cannot be solved with noElectricalAction; drop it")
    return tuple(s for s in _SIMPLIFICATIONS if s in wanted)


def make_task(
    simulator: Simulator,
    name: str,
    variation: int,
    *,
    split: str = "",
    simplifications: str | Sequence[str] = "easy",
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Task:
    """One task as a record. The simulator loads it for its description: an episode is lost.

    Args:
        split: `train`, `validation` or `test`; checked against the official split. Empty: looked
            up.

    Raises:
        DataError: unknown task or simplification, variation out of range or of another split.
    """
    draft = Task(
        id=f"{ENV}-{name}-{variation:04d}" if isinstance(variation, int) else f"{ENV}-{name}",
        env=ENV,
        instruction="",
        goal={"task": name, "variation": variation},
        settings={"simplifications": simplifications, "max_steps": max_steps},
    )
    spec = TaskSpec.read(draft, max_steps)
    spec.check(simulator.task_sizes, f"task {draft.id!r}")
    of = (s for s in _SPLITS if variation in simulator.variations(name, _SPLITS[s]))
    official = next(of, "")
    if split and split != official:
        raise DataError(f"{name} variation {variation} is of split {official!r}, not {split!r}")
    simulator.load(name, variation, spec.simplification_text)
    return Task(
        id=draft.id,
        env=ENV,
        instruction=str(simulator.call("getTaskDescription")).strip(),
        goal=draft.goal,
        settings={"simplifications": list(spec.simplifications), "max_steps": max_steps},
        split=official,
        extra={"task_type": name},
    )


def scienceworld_tasks(
    task_names: Sequence[str] = CHEAP_TASKS,
    per_task: int = 4,
    split: str = "train",
    seed: int = 0,
    *,
    env: _HoldsSimulator | None = None,
    simplifications: str | Sequence[str] = "easy",
    max_steps: int = DEFAULT_MAX_STEPS,
) -> list[Task]:
    """At most `per_task` random variations of each task type, type by type, in the order drawn.

    Which variations of a type are drawn depends on `seed`, `split` and the type, not on the other
    types asked for; a larger number begins with the same ones. The simulator writes the
    instructions, 30-100 ms a task.

    Args:
        split: `train`, `validation` or `test`, as ScienceWorld defines them (50/25/25 % of a type's
            variations).
        env: a `ScienceWorldEnv` whose JVM is used; an episode in it ends. None: a JVM is started
            and stopped, 2-5 s.

    Raises:
        DataError: unknown task, split or simplification; `per_task` below 1.
        PrerequisiteError, EnvironmentFault: see `Simulator`.
    """
    if split not in _SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(_SPLITS)}")
    if per_task < 1:
        raise DataError(f"per_task must be at least 1, not {per_task}")
    simulator = Simulator() if env is None else env.borrow()
    try:
        tasks = []
        for name in dict.fromkeys(task_names):
            TaskSpec(name, 0, (), max_steps).check(simulator.task_sizes, "task_names")
            pool = simulator.variations(name, _SPLITS[split])
            rng = np.random.default_rng([seed, zlib.crc32(f"{split}/{name}".encode())])
            for i in rng.permutation(len(pool))[:per_task]:
                task = make_task(
                    simulator,
                    name,
                    pool[i],
                    split=split,
                    simplifications=simplifications,
                    max_steps=max_steps,
                )
                tasks.append(task)
        return tasks
    finally:
        if env is None:
            simulator.close()


class _HoldsSimulator(Protocol):
    def borrow(self) -> Simulator: ...
