"""ScienceWorld tasks as records, and the splits that the literature trains and evaluates on.

Import `scienceworld_tasks`, `make_task` and `subset_tasks` from here. Sources: ScienceWorld's own
splits (as the simulator gives them); Yifan-Song793/ETO (commit a2fc5da), whose lists are in
`scienceworld_eto.json`; WooooDyy/AgentGym (commit b92aabb), agentenv-sciworld, whose rule is
rebuilt here.

| subset | task types | train / validation / test | simplifications | actions |
|---|---|---|---|---|
| `official` | 30 | 3592 / 1796 / 1819 | easy | 100, long types 200 [ours] |
| `eto` | 24 | 1483 / 194 / 211 | easy | 10-120 by type |
| `agentgym` | 23 | official splits of its types | none | 100 |

- ETO's test list is the first ten official test variations of a type. Its train list holds 357
  variations that are official validation, 54 of which are in its own validation list as well: these
  are left out of `eto` validation (140 remain) unless they are asked for. It shares none with test.
- ETO reports the highest score of an episode, AgentGym the last one, in 0-100.
- AgentGym numbers all 4,639 variations of its types in one row (`agentgym_item`). Which numbers it
  trains and evaluates on is part of its data sets, not of its code: the splits here are
  ScienceWorld's.
"""

from __future__ import annotations

import difflib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, Protocol, get_args

import numpy as np

from eeflib.envs.scienceworld_jvm import Simulator, Split
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = [
    "CHEAP_TASKS",
    "DEFAULT_MAX_STEPS",
    "ENV",
    "TaskSpec",
    "agentgym_item",
    "make_task",
    "scienceworld_tasks",
    "subset_choices",
    "subset_tasks",
]

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

Subset = Literal["official", "eto", "agentgym"]
LONG_TYPES = ("inclined-plane-", "mendelian-genetics-")
"""Beginnings of the names of task types with gold paths of up to 180 actions."""
_NOT_IN_AGENTGYM = ("5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2")


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
    tasks = []
    with _simulator(env) as simulator:
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


class _HoldsSimulator(Protocol):
    def borrow(self) -> Simulator: ...


@dataclass(frozen=True)
class Choice:
    """One variation of a subset, and how the subset plays it."""

    name: str
    variation: int
    split: str
    """Of the subset; ScienceWorld's own may differ."""
    simplifications: str
    max_steps: int


def subset_choices(
    subset: Subset,
    split: str,
    simulator: Simulator,
    *,
    types: Sequence[str] | None = None,
    shared: bool = False,
) -> list[Choice]:
    """All variations of a subset's split, type by type. Loads each type once: an episode is lost.

    Args:
        types: only these task types; None: all of the subset.
        split: `train`, `validation` or `test`.
        shared: keep the variations of `eto` validation that are in its train list, too.

    Raises:
        DataError: no such subset or split, or a type that is not in the subset.
    """
    if subset not in get_args(Subset):
        raise DataError(f"unknown subset {subset!r}; choose from {', '.join(get_args(Subset))}")
    if split not in _SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(_SPLITS)}")
    names = list(_eto()) if subset == "eto" else _agentgym_types()
    if subset == "official":
        names = list(simulator.task_sizes)
    if types is not None:
        if unknown := sorted(set(types) - set(names)):
            raise DataError(f"subset {subset!r} has no task type {', '.join(unknown)}")
        names = [name for name in names if name in types]
    if subset == "eto":
        return [
            Choice(name, variation, split, "easy", row["max_steps"])
            for name, row in ((name, _eto()[name]) for name in names)
            for variation in row[split]
            if shared or split == "train" or variation not in row["train"]
        ]
    simplifications = "easy" if subset == "official" else ""
    return [
        Choice(name, variation, split, simplifications, _limit(name, subset))
        for name in names
        for variation in simulator.variations(name, _SPLITS[split])
    ]


def subset_tasks(
    subset: Subset,
    split: str,
    *,
    types: Sequence[str] | None = None,
    per_type: int | None = None,
    seed: int = 0,
    shared: bool = False,
    env: _HoldsSimulator | None = None,
) -> list[Task]:
    """Tasks of a subset as records, 30-100 ms each; `extra["subset"]` names it.

    Args:
        types: only these task types; None: all of the subset.
        per_type: at most that many random variations of each task type; None: all.
        shared: see `subset_choices`.
        env: a `ScienceWorldEnv` whose JVM is used; an episode in it ends. None: a JVM of its own.

    Raises:
        DataError: no such subset or split; `per_type` below 1.
        PrerequisiteError, EnvironmentFault: see `Simulator`.
    """
    if per_type is not None and per_type < 1:
        raise DataError(f"per_type must be at least 1, not {per_type}")
    with _simulator(env) as simulator:
        tasks = []
        choices = subset_choices(subset, split, simulator, types=types, shared=shared)
        for choice in _thinned(choices, per_type, seed):
            task = make_task(
                simulator,
                choice.name,
                choice.variation,
                simplifications=choice.simplifications,
                max_steps=choice.max_steps,
            )
            tasks.append(replace(task, split=split, extra={**task.extra, "subset": subset}))
        return tasks


def agentgym_item(number: int, simulator: Simulator) -> tuple[str, int]:
    """(task type, variation) of AgentGym's item `sciworld_{number}`.

    Raises:
        DataError: no such number.
    """
    left = number
    sizes = simulator.task_sizes
    for name in _agentgym_types() if number >= 0 else ():
        if left < sizes[name]:
            return name, left
        left -= sizes[name]
    total = sum(sizes[name] for name in _agentgym_types())
    raise DataError(f"AgentGym's ScienceWorld items are numbered 0 to {total - 1}, not {number}")


def _agentgym_types() -> list[str]:
    from scienceworld.constants import ID2TASK

    return [name for key, name in ID2TASK.items() if key not in _NOT_IN_AGENTGYM]


def _limit(name: str, subset: Subset) -> int:
    return 200 if subset == "official" and name.startswith(LONG_TYPES) else 100


@cache
def _eto() -> dict[str, dict[str, Any]]:
    file = resources.files("eeflib.envs") / "scienceworld_eto.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    return {
        name: {"max_steps": row["max_steps"]} | {split: _numbers(row[split]) for split in _SPLITS}
        for name, row in rows.items()
    }


def _numbers(ranges: str) -> tuple[int, ...]:
    """`"0-2 5"` -> (0, 1, 2, 5)."""
    ends = [[int(n) for n in part.split("-")] for part in ranges.split()]
    return tuple(n for end in ends for n in range(end[0], end[-1] + 1))


def _thinned(choices: Sequence[Choice], per_type: int | None, seed: int) -> list[Choice]:
    if per_type is None:
        return list(choices)
    by_type: dict[str, list[Choice]] = defaultdict(list)
    for choice in choices:
        by_type[choice.name].append(choice)
    rng = np.random.default_rng(seed)
    return [
        group[i]
        for group in by_type.values()
        for i in sorted(rng.choice(len(group), min(per_type, len(group)), replace=False))
    ]


@contextmanager
def _simulator(env: _HoldsSimulator | None) -> Iterator[Simulator]:
    if env is not None:
        yield env.borrow()
        return
    simulator = Simulator()
    try:
        yield simulator
    finally:
        simulator.close()
