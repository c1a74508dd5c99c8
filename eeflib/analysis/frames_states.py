"""One row per explored state: how often it was tried, how often won, and with what certainty.

Owns the counting of rollouts per state. Knows nothing about files; the rules that make labels of
the counts are `eeflib.selection`'.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis.frames_read import COLUMNS
from eeflib.stats import wilson

__all__ = ["states"]

_PLACE = ["seed", "method", "iteration"]


def states(branches: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, method, iteration, teacher trajectory, k), from the two frames.

    State k = 0 is the task's s0; its rollouts count for every teacher trajectory of the task. As in
    `eeflib.selection`, a rollout that a fault ended is no try.
    States between 0 and the last one explored that have no branch at all are `untried`.
    """
    known = trajectories[["seed", "trajectory_id", "task_id", "level", "solved", "length"]]
    known = known.rename(columns={"solved": "teacher_solved"})
    branches = branches.assign(counted=branches["restored"] & (branches["fault"] == ""))
    counts = {
        "n": ("counted", "sum"),
        "wins": ("won", "sum"),
        "t": ("t", "first"),
        "restored": ("restored", "any"),
    }
    initial = branches[branches["k"] == 0]
    initial = initial.groupby([*_PLACE, "task_id", "k"], as_index=False).agg(**counts)
    later = branches[branches["k"] > 0]
    later = later.groupby([*_PLACE, "task_id", "trajectory_id", "k"], as_index=False).agg(**counts)
    rows = pd.concat(
        [
            initial.merge(known, on=["seed", "task_id"]),
            later.merge(known, on=["seed", "task_id", "trajectory_id"]),
        ],
        ignore_index=True,
    )
    rows["status"] = [
        "tried" if n else "faulted" if restored else "unrestorable"
        for n, restored in zip(rows["n"], rows["restored"], strict=True)
    ]
    rows = pd.concat([rows, _untried(rows, known)], ignore_index=True)
    pairs = list(zip(rows["wins"].astype(int), rows["n"].astype(int), strict=True))
    bounds = {pair: wilson(*pair) for pair in set(pairs)}
    rows["p"] = rows["wins"].astype("float64") / rows["n"].astype("float64").where(rows["n"] > 0)
    rows["low"] = [bounds[pair][0] for pair in pairs]
    rows["high"] = [bounds[pair][1] for pair in pairs]
    types = {column: dtype for column, (dtype, _) in COLUMNS["states"].items()}
    out = rows[list(types)].astype(types)
    return out.sort_values([*_PLACE, "task_id", "trajectory_id", "k"], ignore_index=True)


def _untried(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    key = [*_PLACE, "trajectory_id"]
    counts = rows.groupby(key)["k"].agg(["max", "nunique"])
    gaps = counts.index[counts["nunique"] <= counts["max"]]
    if gaps.empty:
        return rows.iloc[:0]
    some = rows.set_index(key).loc[gaps, "k"]
    missing = [
        {**dict(zip(key, group, strict=True)), "k": k}
        for group, ks in some.groupby(level=key)
        for k in range(max(ks))
        if k not in set(ks)
    ]
    frame = pd.DataFrame(missing, columns=[*key, "k"])
    frame = frame.assign(n=0, wins=0, t=-1, status="untried")
    return frame.merge(known, on=["seed", "trajectory_id"])
