"""Tables about recovery: one trajectory's curve, the point of no return, what another M had found.

Owns what exploration says beyond single states. Knows nothing about how a table is drawn.
"""

from __future__ import annotations

from math import comb
from typing import Any

import pandas as pd

__all__ = ["discoveries", "other_m", "points_of_no_return", "trajectory_curve"]

_PLACE = ["seed", "method", "iteration"]


def trajectory_curve(states: pd.DataFrame, trajectory_id: str, seed: int) -> pd.DataFrame:
    """The tried states of one trajectory in order.

    Args:
        states: rows of one method and iteration, see `summaries.pick_iteration`.

    Columns: k, t, n, wins, p, low, high.
    """
    rows = states[(states["trajectory_id"] == trajectory_id) & (states["seed"] == seed)]
    rows = rows[rows["n"] > 0].sort_values("t", ignore_index=True)
    return rows[["k", "t", "n", "wins", "p", "low", "high"]]


def points_of_no_return(states: pd.DataFrame) -> pd.DataFrame:
    """Per failed trajectory, where it could last be saved.

    The student won from state k, `t` actions into the trajectory, and from no later state: what
    was done between `t` and `next_t`, the next state tried or the end, lost it. With few rollouts a
    state may be lost by chance.

    Args:
        states: rows of one method and iteration, see `summaries.pick_iteration`.

    Columns: seed, trajectory_id, task_id, level, length, k (-1: won from no state tried), t,
    next_t (both -1 likewise), share (t / length; nan likewise).
    """
    names = ["seed", "trajectory_id", "task_id", "level", "length"]
    tried = states[~states["teacher_solved"] & (states["n"] > 0)].sort_values("t", kind="stable")
    found: dict[tuple[Any, ...], list[int]] = {}  # key -> k, t, next_t
    for *key, k, t, wins in zip(*(tried[c] for c in (*names, "k", "t", "wins")), strict=True):
        last = found.setdefault(tuple(key), [-1, -1, -1])
        if wins:
            last[:] = [k, t, key[-1]]
        elif last[1] >= 0 and last[2] == key[-1] > t > last[1]:
            last[2] = t
    out = [
        [*key, k, t, next_t, t / max(key[-1], 1) if k >= 0 else float("nan")]
        for key, (k, t, next_t) in found.items()
    ]
    frame = pd.DataFrame(out, columns=[*names, "k", "t", "next_t", "share"])
    return frame.sort_values(["seed", "trajectory_id"], ignore_index=True)


def discoveries(branches: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """Per seed, method and training task that was explored: what first solved it.

    Columns: seed, method, task_id, level, found (`teacher`, `s0`, `state` or `never`); iteration,
    k, t, branch_id, trajectory_id of the branch (where there is none -1, texts empty).
    """
    names = ["seed", "method", "task_id"]
    rows = ["iteration", "k", "t", "attempt", "branch_id", "trajectory_id"]
    explored = branches[[*names]].drop_duplicates()
    won = branches[branches["won"]].sort_values(rows[:4]).drop_duplicates(names)
    known = trajectories.groupby(["seed", "task_id"], as_index=False).agg(
        level=("level", "first"), taught=("solved", "any")
    )
    table = explored.merge(won[[*names, *rows]], on=names, how="left")
    table = table.merge(known, on=["seed", "task_id"], how="left")
    table["taught"] = table["taught"].eq(True)
    table["found"] = [
        "teacher" if taught else "never" if pd.isna(k) else "s0" if k == 0 else "state"
        for taught, k in zip(table["taught"], table["k"], strict=True)
    ]
    numbers = {c: table[c].fillna(-1).astype("int64") for c in ("iteration", "k", "t")}
    texts = {c: table[c].fillna("") for c in ("level", "branch_id", "trajectory_id")}
    table = table.assign(**numbers, **texts)
    return table[
        [*names, "level", "found", "iteration", "k", "t", "branch_id", "trajectory_id"]
    ].sort_values(names, ignore_index=True)


def other_m(branches: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """What exploring fewer states, or each state less often, would have cost and found.

    Of the recorded states of each trajectory those m are kept that lie nearest to m equally spaced
    ones, s0 always; of n recorded rollouts a state, what `attempts` of them find on average. What
    more states than recorded would have found, no record can tell. A plan with another M might
    choose states in between: the numbers are an estimate, exact for the recorded M.

    Args:
        branches: rows of one method and iteration, see `summaries.pick_iteration`.
        trajectories: the teacher's.

    Columns: M, attempts, rollouts, steps (the students' actions), cost_usd, found (tasks that the
    teacher failed and a rollout solves), share (of the tasks the teacher failed), recorded (the
    plan that was run).
    """
    failed = trajectories.loc[~trajectories["solved"], ["seed", "task_id"]].drop_duplicates()
    tried = branches[branches["restored"] & (branches["fault"] == "")]
    keys = ["seed", "task_id", "trajectory_id", "k"]
    counts = (
        tried.assign(trajectory_id=tried["trajectory_id"].fillna(""))
        .groupby([*keys, "t"], as_index=False)
        .agg(
            n=("won", "size"),
            wins=("won", "sum"),
            steps=("length", "sum"),
            usd=("cost_usd", "sum"),
        )
    )
    named = zip(trajectories["seed"], trajectories["trajectory_id"], strict=True)
    lengths = dict(zip(named, trajectories["length"], strict=True))
    priced = bool(tried["cost_usd"].notna().any())
    most, deepest = int(counts["n"].max()) if len(counts) else 0, _deepest(counts)
    rows = []
    for m in range(deepest + 1):
        kept = _keep(counts, lengths, m)
        for attempts in range(1, most + 1):
            part = kept.assign(a=kept["n"].clip(upper=attempts))
            ratio = part["a"] / part["n"]
            missed = part.assign(miss=_misses(part)).groupby(["seed", "task_id"])["miss"].prod()
            reached = failed.merge(missed.rename("miss").reset_index(), on=["seed", "task_id"])
            found = float((1 - reached["miss"]).sum())
            recorded = m == deepest and attempts == most
            rows.append(
                [m, attempts, int(part["a"].sum()), float((part["steps"] * ratio).sum()),
                 float((part["usd"] * ratio).sum()) if priced else float("nan"), found,
                 found / len(failed) if len(failed) else float("nan"), recorded]
            )  # fmt: skip
    names = ["M", "attempts", "rollouts", "steps", "cost_usd", "found", "share", "recorded"]
    return pd.DataFrame(rows, columns=names)


def _deepest(counts: pd.DataFrame) -> int:
    return int(counts["k"].max()) if len(counts) else -1


def _keep(counts: pd.DataFrame, lengths: dict[tuple[int, str], int], m: int) -> pd.DataFrame:
    """The rows of s0 and of the m states of each trajectory nearest to equal spacing."""
    paths: dict[tuple[int, str], dict[int, int]] = {}
    kept = []
    columns = (counts[c] for c in ("seed", "trajectory_id", "k", "t"))
    for row, (seed, trajectory_id, k, t) in enumerate(zip(*columns, strict=True)):
        if k == 0:
            kept.append(row)
        else:
            paths.setdefault((seed, trajectory_id), {})[t] = row
    for key, left in paths.items():
        length = lengths.get(key, max(left) + 1)
        for j in range(1, m + 1):
            if left:
                near = length * j / (m + 1)
                kept.append(left.pop(min(left, key=lambda t: (abs(t - near), t))))
    return counts.iloc[kept]


def _misses(part: pd.DataFrame) -> list[float]:
    """Probability that `a` of a state's n rollouts, drawn without repeating, hold no win."""
    return [
        comb(n - wins, a) / comb(n, a)
        for n, wins, a in zip(part["n"], part["wins"], part["a"], strict=True)
    ]
