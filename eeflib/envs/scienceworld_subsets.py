"""Which ScienceWorld tasks the literature trains and evaluates on, as named splits.

Owns the published lists and rules. Knows nothing about episodes or models. Sources: ScienceWorld's
own splits (as the simulator gives them); Yifan-Song793/ETO (commit a2fc5da), whose lists are in
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

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, Protocol, get_args

import numpy as np

from eeflib.envs.scienceworld_jvm import Simulator, Split
from eeflib.envs.scienceworld_tasks import make_task
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["LONG_TYPES", "Choice", "Subset", "agentgym_item", "subset_choices", "subset_tasks"]

Subset = Literal["official", "eto", "agentgym"]

LONG_TYPES = ("inclined-plane-", "mendelian-genetics-")
"""Beginnings of the names of task types with gold paths of up to 180 actions."""

_SPLITS: dict[str, Split] = {"train": "train", "validation": "dev", "test": "test"}
_NOT_IN_AGENTGYM = ("5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2")


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


class _HoldsSimulator(Protocol):
    def borrow(self) -> Simulator: ...
