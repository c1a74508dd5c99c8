"""The splits of ScienceWorld that the literature trains and evaluates on.

Import `subset_tasks` from here. Sources: ScienceWorld's own splits (as the simulator gives them);
Yifan-Song793/ETO (commit a2fc5da), whose lists are in `scienceworld_eto.json`; WooooDyy/AgentGym
(commit b92aabb), agentenv-sciworld, whose rule is rebuilt here.

| subset | task types | train / validation / test | simplifications | actions |
|---|---|---|---|---|
| `official` | 30 | 3592 / 1796 / 1819 | easy | 100, long types 200 [ours] |
| `eto` | 24 | 1483 / 140 / 211 | easy | 10-120 by type |
| `agentgym` | 23 | official splits of its types | none | 100 |

- ETO's test list is the first ten official test variations of a type. Its train list holds 357
  variations that are official validation, 54 of which are in its own validation list of 194 as
  well: these are left out of `eto` validation. It shares none with test.
- ETO reports the highest score of an episode, AgentGym the last one, in 0-100.
- Which of the 4,639 variations of its types AgentGym trains and evaluates on is part of its data
  sets, not of its code: the splits here are ScienceWorld's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.simulated import SPLITS, check_draw
from eeflib.errors import DataError
from eeflib.records import Task

Subset = Literal["official", "eto", "agentgym"]
LONG_TYPES = ("inclined-plane-", "mendelian-genetics-")
"""Beginnings of the names of task types with gold paths of up to 180 actions."""
_NOT_IN_AGENTGYM = ("5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2")


class Choice(NamedTuple):
    """One variation of a subset, and how the subset plays it."""

    name: str
    variation: int
    simplifications: str
    max_steps: int


def subset_choices(
    env: ScienceWorldEnv,
    subset: Subset,
    split: str,
    types: Sequence[str] | None = None,
) -> list[Choice]:
    """All variations of a subset's split, type by type. Loads each type once: an episode is lost.

    Args:
        split: `train`, `validation` or `test`, of the subset; ScienceWorld's own may differ.
        types: only these task types; None: all of the subset.

    Raises:
        DataError: no such subset or split, or a type that is not in the subset.
    """
    if subset not in get_args(Subset):
        raise DataError(f"unknown subset {subset!r}; choose from {', '.join(get_args(Subset))}")
    check_draw(split, None)
    eto = _eto() if subset == "eto" else {}
    names = list(eto or (env.task_sizes if subset == "official" else _agentgym_types()))
    if unknown := sorted(set(types or ()) - set(names)):
        raise DataError(f"subset {subset!r} has no task type {', '.join(unknown)}")
    choices = []
    for name in names if types is None else [n for n in names if n in types]:
        long = subset == "official" and name.startswith(LONG_TYPES)
        limit = eto[name]["max_steps"] if eto else 200 if long else 100
        variations = eto[name][split] if eto else env.variations(name, split)
        if eto and split != "train":
            variations = [v for v in variations if v not in eto[name]["train"]]
        simplifications = "" if subset == "agentgym" else "easy"
        choices += [Choice(name, v, simplifications, limit) for v in variations]
    return choices


def subset_tasks(
    subset: Subset,
    split: str,
    *,
    types: Sequence[str] | None = None,
    per_type: int | None = None,
    seed: int = 0,
    env: ScienceWorldEnv | None = None,
) -> list[Task]:
    """Tasks of a subset as records, 30-100 ms each; `extra["subset"]` names it.

    Args:
        types: only these task types; None: all of the subset.
        per_type: at most that many random variations of each task type; None: all.
        env: whose JVM is used; an episode in it ends. None: a JVM of its own.

    Raises:
        DataError: no such subset or split; `per_type` below 1.
        PrerequisiteError, EnvironmentFault: see `ScienceWorldEnv.reset`.
    """
    check_draw(split, per_type)
    with ScienceWorldEnv() if env is None else nullcontext(env) as env:
        rng, tasks = np.random.default_rng(seed), []
        for _, each in groupby(
            subset_choices(env, subset, split, types), key=lambda choice: choice.name
        ):
            group = list(each)
            if per_type is not None:
                drawn = rng.choice(len(group), min(per_type, len(group)), replace=False)
                group = [group[i] for i in sorted(drawn)]
            for name, variation, simplifications, limit in group:
                task = env.task(name, variation, simplifications, max_steps=limit)
                tasks.append(replace(task, split=split, extra={**task.extra, "subset": subset}))
        return tasks


def _agentgym_types() -> list[str]:
    from scienceworld.constants import ID2TASK

    return [name for key, name in ID2TASK.items() if key not in _NOT_IN_AGENTGYM]


@cache
def _eto() -> dict[str, dict[str, Any]]:
    file = resources.files("eeflib.envs") / "scienceworld_eto.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    return {
        name: {"max_steps": row["max_steps"]} | {split: _numbers(row[split]) for split in SPLITS}
        for name, row in rows.items()
    }


def _numbers(ranges: str) -> tuple[int, ...]:
    """`"0-2 5"` -> (0, 1, 2, 5)."""
    ends = [[int(n) for n in part.split("-")] for part in ranges.split()]
    return tuple(n for end in ends for n in range(end[0], end[-1] + 1))
