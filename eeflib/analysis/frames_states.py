"""One row per explored state: how often it was tried, how often won, and with what certainty.

Import `states` from here. Which states are the same is `eeflib.states.state_names`' to say; the
rules that make labels of the counts are in `eeflib.states` too.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis.frames_read import COLUMNS
from eeflib.stats import wilson

__all__ = ["states"]

_PLACE = ["seed", "method", "iteration"]


def states(branches: pd.DataFrame, trajectories: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, method, iteration, teacher trajectory, state), from the three frames.

    As `eeflib.states.state_outcomes` counts: rollouts from the same state are pooled, whichever
    trajectory they are filed under, and a rollout that a fault ended is no try. A state that was
    explored only from other trajectories of the task has k = -1.
    States between 0 and the last one explored that have no branch at all are `untried`.
    """
    known = trajectories[["seed", "trajectory_id", "task_id", "level", "solved", "length"]]
    known = known.rename(columns={"solved": "teacher_solved"})
    starts = known[["seed", "trajectory_id", "task_id"]].assign(t=0)
    starts["state"] = starts["task_id"] + "@0"  # also of a trajectory that has no step
    passed = pd.concat(
        [starts, steps.loc[steps["t"] > 0, [*starts.columns]]], ignore_index=True
    ).drop(columns="task_id")
    filed = branches.assign(counted=branches["restored"] & (branches["fault"] == ""))
    initial = filed[filed["t"] == 0].assign(k=0)
    initial = initial.assign(state=initial["task_id"] + "@0")
    later = filed[filed["t"] > 0].merge(passed, on=["seed", "trajectory_id", "t"])
    numbers = later.groupby([*_PLACE, "trajectory_id", "t"], as_index=False)["k"].min()
    counts = (
        pd.concat([initial, later], ignore_index=True)
        .groupby([*_PLACE, "state"], as_index=False)
        .agg(n=("counted", "sum"), wins=("won", "sum"), restored=("restored", "any"))
    )
    rows = counts.merge(passed, on=["seed", "state"]).merge(known, on=["seed", "trajectory_id"])
    rows = rows.merge(numbers, on=[*_PLACE, "trajectory_id", "t"], how="left")
    rows["k"] = rows["k"].fillna(-1).astype("int64").where(rows["t"] > 0, 0)
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
    return out.sort_values([*_PLACE, "task_id", "trajectory_id", "k", "t"], ignore_index=True)


def _untried(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    key = [*_PLACE, "trajectory_id"]
    rows = rows[rows["k"] >= 0]
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
    frame = frame.assign(n=0, wins=0, t=-1, state="", status="untried")
    return frame.merge(known, on=["seed", "trajectory_id"])
