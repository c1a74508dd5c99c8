"""Tables about outcomes: by task type, by length, by reward, by the step that failed it.

Owns these aggregations. Knows nothing about how a table is drawn.
"""

from __future__ import annotations

import math

import pandas as pd

from eeflib.analysis import palette
from eeflib.analysis.taxonomy_kinds import KINDS
from eeflib.stats import wilson

__all__ = ["by_group", "length_bins", "reward_bins", "steps_to_failure"]


def by_group(trajectories: pd.DataFrame, by: str = "level") -> pd.DataFrame:
    """Evaluation per group of tasks; `by` is `level`, `task_type` or any other column.

    Columns: group, n, wins, rate, low, high (Wilson), reward, length, invalid (means), errors.
    """
    names = ["group", "n", "wins", "rate", "low", "high", "reward", "length", "invalid", "errors"]
    rows = []
    for name in palette.level_order(set(trajectories[by])):
        part = trajectories[trajectories[by] == name]
        n, wins = len(part), int(part["solved"].sum())
        means = [float(part[c].mean()) for c in ("reward", "length", "invalid")]
        errors = int((part["error"] != "").sum())
        rows.append([name, n, wins, wins / n, *wilson(wins, n), *means, errors])
    return pd.DataFrame(rows, columns=names)


def length_bins(trajectories: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Episodes by number of actions. Columns: low, high (both included), solved, failed."""
    names = ["low", "high", "solved", "failed"]
    if trajectories.empty:
        return pd.DataFrame(columns=names)
    first, last = int(trajectories["length"].min()), int(trajectories["length"].max())
    width = max(1, math.ceil((last - first + 1) / bins))
    at = (trajectories["length"] - first) // width
    rows = []
    for i in range((last - first) // width + 1):
        part = trajectories.loc[at == i, "solved"]
        low = first + i * width
        rows.append([low, min(low + width - 1, last), int(part.sum()), int((~part).sum())])
    return pd.DataFrame(rows, columns=names)


def reward_bins(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Episodes by reward: exactly 0, ten equal steps up to below 1, exactly 1.

    Columns: low, high, solved, failed. Rewards outside [0, 1] count at the nearer end.
    """
    names = ["low", "high", "solved", "failed"]
    if trajectories.empty:
        return pd.DataFrame(columns=names)
    reward = trajectories["reward"].clip(0, 1)
    at = (reward * 10 + 1e-9).astype("int64") + 1
    at = at.where(reward > 0, 0).where(reward < 1, 11)
    rows = []
    for i in range(12):
        part = trajectories.loc[at == i, "solved"]
        low, high = (0.0, 0.0) if i == 0 else (1.0, 1.0) if i == 11 else ((i - 1) / 10, i / 10)
        rows.append([low, high, int(part.sum()), int((~part).sum())])
    return pd.DataFrame(rows, columns=names)


def steps_to_failure(failures: pd.DataFrame, kinds: int = 4) -> pd.DataFrame:
    """How many actions it took until the main matter of a failure showed, kind by kind.

    Columns: kind (`all`, then the most frequent ones), t, n (failures that showed by t), total,
    share (n / total), low, high (Wilson).
    """
    names = ["kind", "t", "n", "total", "share", "low", "high"]
    main = failures[failures["primary"]]
    common = list(main["kind"].value_counts(sort=True).index[:kinds])
    rows = []
    last = int(main["t"].max()) if len(main) else -1
    times = range(0, last + 1, max(1, (last + 1) // 40))
    for kind in ["all", *(k for k in KINDS if k in common)] if len(main) else []:
        part = main if kind == "all" else main[main["kind"] == kind]
        for t in times:
            n, total = int((part["t"] <= t).sum()), len(part)
            rows.append([kind, t, n, total, n / total, *wilson(n, total)])
    return pd.DataFrame(rows, columns=names)
