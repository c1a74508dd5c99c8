"""Small tables behind the figures: frame -> the numbers that are drawn.

Owns every aggregation that a figure or a section of the report shows, so that a plot and a page
cannot disagree. Knows nothing about how a table is drawn.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from eeflib.analysis import palette
from eeflib.analysis.actions import WEBSHOP_KINDS
from eeflib.stats import wilson

__all__ = [
    "action_shares",
    "courses",
    "pick_iteration",
    "reachable",
    "recovery_curve",
    "recovery_map",
    "training_actions",
    "win_rates",
]


def win_rates(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Win rate per method and iteration on test tasks (on whatever split there is, without any).

    Columns: method, iteration, seeds, n, wins, rate, low, high (wins of n over all seeds, Wilson),
    sd (sample standard deviation of the per-seed rates; nan with one seed), reward (mean).
    """
    names = ["method", "iteration", "seeds", "n", "wins", "rate", "low", "high", "sd", "reward"]
    rows = []
    test = evaluations[evaluations["split"] == "test"]
    for (method, iteration), group in (evaluations if test.empty else test).groupby(
        ["method", "iteration"]
    ):
        rates = group.groupby("seed")["solved"].mean()
        wins, n = int(group["solved"].sum()), len(group)
        counts = [method, iteration, len(rates), n, wins, wins / n, *wilson(wins, n)]
        rows.append([*counts, float(rates.std(ddof=1)), float(group["reward"].mean())])
    frame = pd.DataFrame(rows, columns=names)
    position = {m: i for i, m in enumerate(palette.order(frame["method"]))}
    return frame.sort_values(
        ["method", "iteration"],
        key=lambda c: c.map(position) if c.name == "method" else c,
        ignore_index=True,
    )


def courses(rates: pd.DataFrame) -> pd.DataFrame:
    """`win_rates`, with cloning as iteration 0 of the methods that iterate and have no other."""
    start = rates[(rates["iteration"] == 0) & (rates["method"].map(palette.family) == "sft")].head(
        1
    )
    iterated = rates.groupby("method")["iteration"].agg(["min", "max"])
    missing = iterated.index[(iterated["min"] > 0) & (iterated["max"] > 0)]
    added = [start.assign(method=method) for method in missing]
    return pd.concat([*added, rates], ignore_index=True) if added and len(start) else rates


def pick_iteration(states: pd.DataFrame, method: str | None = None) -> pd.DataFrame:
    """The rows of the first iteration that explored expert states: the cloned student's.

    Args:
        states: `frames.states` or `frames.branches`.
        method: whose; by default `EEF` if it is there, else the first that has expert states.
    """
    deep = states[states["k"] > 0]
    if method is None:
        methods = palette.order(deep["method"])
        method = "EEF" if "EEF" in methods else (methods[0] if methods else "")
    deep = deep[deep["method"] == method]
    first = deep["iteration"].min() if len(deep) else -1
    return states[(states["method"] == method) & (states["iteration"] == first)]


def recovery_curve(states: pd.DataFrame, *, failed_only: bool = True) -> pd.DataFrame:
    """How often the student solves the task from state k, over all trajectories and per level.

    Args:
        states: rows of one method and iteration, see `pick_iteration`.
        failed_only: only trajectories in which the teacher failed.

    Columns: group (`all` or a level), k, states, n, wins, p, low, high (Wilson over rollouts).
    """
    rows = []
    tried = states[(states["n"] > 0) & ~(states["teacher_solved"] & failed_only)]
    # Several trajectories pass through a state (all of a task's through s0): it counts once.
    tried = tried[tried["k"] >= 0].drop_duplicates(["seed", "state"])
    levels = palette.level_order(set(tried["level"]) - {""})
    for group in ["all", *levels] if len(levels) > 1 else ["all"]:
        part = tried if group == "all" else tried[tried["level"] == group]
        for k, at in part.groupby("k"):
            n, wins = int(at["n"].sum()), int(at["wins"].sum())
            rows.append([group, k, len(at), n, wins, wins / n, *wilson(wins, n)])
    return pd.DataFrame(rows, columns=["group", "k", "states", "n", "wins", "p", "low", "high"])


def reachable(states: pd.DataFrame) -> pd.DataFrame:
    """Per level, how many tasks got at least one solution, and from where; teacher failures only.

    Columns: level, tasks, from_s0 (solved from s0), only_deeper (only from an expert state), never.
    """
    failed = states[~states["teacher_solved"]]
    won = failed["wins"] > 0
    table = failed.assign(s0=won & (failed["k"] == 0), deep=won & (failed["t"] > 0))
    task = table.groupby(["level", "seed", "task_id"], as_index=False)[["s0", "deep"]].any()
    rows = [
        [
            level,
            len(group),
            int(group["s0"].sum()),
            int((group["deep"] & ~group["s0"]).sum()),
            int((~group["deep"] & ~group["s0"]).sum()),
        ]
        for level in palette.level_order(task["level"])
        for group in [task[task["level"] == level]]
    ]
    return pd.DataFrame(rows, columns=["level", "tasks", "from_s0", "only_deeper", "never"])


def recovery_map(states: pd.DataFrame, rows: int | None = 40) -> pd.DataFrame:
    """One row per failed teacher trajectory, ordered by its last recoverable state, deepest first.

    Trajectories with an expert state that was won come first, then those won from s0 only.

    Columns: seed, trajectory_id, task_id, level, length, last (last k won, -1 if none), and per k a
    column `s0`, `s1`, ... holding `w/n`, the state's status where it was not tried, or an empty
    string where the trajectory has no such state.
    """
    keys = ["seed", "trajectory_id", "task_id", "level", "length"]
    failed = states[~states["teacher_solved"] & (states["k"] >= 0)]
    width = int(failed["k"].max()) + 1 if len(failed) else 0
    names = [f"s{k}" for k in range(width)]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    columns = (failed[c] for c in (*keys, "k", "n", "wins", "status"))
    for *key, k, n, wins, status in zip(*columns, strict=True):
        row = found.get(tuple(key))
        if row is None:
            row = {**dict(zip(keys, key, strict=True)), "last": -1, **dict.fromkeys(names, "")}
            found[tuple(key)] = row
        row[f"s{k}"] = f"{wins}/{n}" if n else status
        if wins:
            row["last"] = max(row["last"], k)
    frame = pd.DataFrame(list(found.values()), columns=[*keys, "last", *names])
    order = ["last", "seed", "task_id", "trajectory_id"]
    frame = frame.sort_values(order, ascending=[False, True, True, True])
    return frame.head(rows).reset_index(drop=True) if rows else frame.reset_index(drop=True)


def training_actions(
    steps: pd.DataFrame, trajectories: pd.DataFrame, samples: pd.DataFrame
) -> pd.DataFrame:
    """Actions by kind: in the teacher's successes, in its failures, and trained on by each method.

    Of a method the last iteration's samples count. Columns: source, kind, count.
    """
    solved = steps.merge(
        trajectories[["seed", "trajectory_id", "solved"]], on=["seed", "trajectory_id"]
    )
    parts = [
        solved.loc[solved["solved"], ["kind"]].assign(source="teacher successes"),
        solved.loc[~solved["solved"], ["kind"]].assign(source="teacher failures"),
    ]
    if len(samples):
        last = samples.groupby(["seed", "method"])["iteration"].transform("max")
        final = samples[(samples["iteration"] == last) & (samples["trained"] > 0)]
        kinds = final["trained_kinds"].str.split("|").explode()
        parts.append(pd.DataFrame({"kind": kinds, "source": final["method"].loc[kinds.index]}))
    rows = pd.concat(parts, ignore_index=True)
    return rows.groupby(["source", "kind"], as_index=False).size().rename(columns={"size": "count"})


def action_shares(actions: pd.DataFrame, kinds: int = 10) -> pd.DataFrame:
    """Share of each kind of action per source, from `training_actions`.

    Kinds beyond the `kinds` most frequent ones are summed up as `other kinds`.

    Columns: source, kind, count, total, share; sources and kinds in reading order, zeros included.
    """
    names = ["source", "kind", "count", "total", "share"]
    if actions.empty:
        return pd.DataFrame(columns=names)
    frequent = actions.groupby("kind")["count"].sum().sort_values(ascending=False, kind="stable")
    known = [k for k in WEBSHOP_KINDS if k in frequent.index]
    listed = [*known, *(k for k in frequent.index if k not in known)]
    keep = [k for k in listed if k in set(known) | set(frequent.index[:kinds])]
    listed = [*keep, "other kinds"] if len(keep) < len(frequent) else keep
    counts: dict[str, dict[str, int]] = {}
    for source, kind, count in zip(
        actions["source"], actions["kind"], actions["count"], strict=True
    ):
        row = counts.setdefault(source, dict.fromkeys(listed, 0))
        row[kind if kind in row else "other kinds"] += int(count)
    fixed = ["teacher successes", "teacher failures"]
    sources = [s for s in fixed if s in counts]
    sources += palette.order(s for s in counts if s not in fixed)
    rows = []
    for source in sources:
        total = sum(counts[source].values())
        for kind, count in counts[source].items():
            rows.append([source, kind, count, total, count / total if total else math.nan])
    return pd.DataFrame(rows, columns=names)
