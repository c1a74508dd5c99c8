"""Small tables behind the figures: data frame -> the numbers that are drawn.

Import from here every aggregation that a figure or a section of the report shows: win rates,
recovery, actions, costs, outcomes. A figure and a page that use the same table cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from math import comb
from typing import Any

import pandas as pd

from eeflib.analysis import style
from eeflib.analysis.run import TEACHER
from eeflib.analysis.taxonomy_rules import KINDS, WEBSHOP_KINDS
from eeflib.stats import wilson

__all__ = [
    "CHANGES",
    "action_shares",
    "budget",
    "by_group",
    "courses",
    "discoveries",
    "learned_actions",
    "length_bins",
    "newly_solved",
    "other_m",
    "pick_iteration",
    "reachable",
    "recovery_curve",
    "recovery_map",
    "reward_bins",
    "steps_to_failure",
    "training_actions",
    "trajectory_curve",
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
    position = {m: i for i, m in enumerate(style.order(frame["method"]))}
    return frame.sort_values(
        ["method", "iteration"],
        key=lambda c: c.map(position) if c.name == "method" else c,
        ignore_index=True,
    )


def courses(rates: pd.DataFrame) -> pd.DataFrame:
    """`win_rates`, with cloning as iteration 0 of the methods that iterate and have no other."""
    start = rates[(rates["iteration"] == 0) & (rates["method"].map(style.family) == "sft")].head(1)
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
        methods = style.order(deep["method"])
        method = "EEF" if "EEF" in methods else (methods[0] if methods else "")
    deep = deep[deep["method"] == method]
    first = deep["iteration"].min() if len(deep) else -1
    return states[(states["method"] == method) & (states["iteration"] == first)]


def recovery_curve(states: pd.DataFrame) -> pd.DataFrame:
    """How often the student solves the task from state k of the teacher's failures, per level.

    Args:
        states: rows of one method and iteration, see `pick_iteration`.

    Columns: group (`all` or a level), k, states, n, wins, p, low, high (Wilson over rollouts).
    """
    rows = []
    tried = states[(states["n"] > 0) & ~states["teacher_solved"]]
    # Several trajectories pass through a state (all of a task's through s0): it counts once.
    tried = tried[tried["k"] >= 0].drop_duplicates(["seed", "state"])
    levels = style.level_order(set(tried["level"]) - {""})
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
        for level in style.level_order(task["level"])
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
    sources += style.order(s for s in counts if s not in fixed)
    rows = []
    for source in sources:
        total = sum(counts[source].values())
        for kind, count in counts[source].items():
            rows.append([source, kind, count, total, count / total if total else math.nan])
    return pd.DataFrame(rows, columns=names)


def by_group(trajectories: pd.DataFrame, by: str = "level") -> pd.DataFrame:
    """Outcomes per group of tasks; `by` is `level`, `task_type` or any other column.

    Columns: group, n, wins, rate, low, high (Wilson), reward, length, invalid (means), errors.
    """
    names = ["group", "n", "wins", "rate", "low", "high", "reward", "length", "invalid", "errors"]
    rows = []
    for name in style.level_order(set(trajectories[by])):
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
    """How many actions it took until the main kind of a failure showed, kind by kind.

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


_PLACE = ["seed", "method", "iteration"]


def trajectory_curve(states: pd.DataFrame, trajectory_id: str, seed: int) -> pd.DataFrame:
    """The tried states of one trajectory in order.

    Args:
        states: rows of one method and iteration, see `tables.pick_iteration`.

    Columns: k, t, n, wins, p, low, high.
    """
    rows = states[(states["trajectory_id"] == trajectory_id) & (states["seed"] == seed)]
    rows = rows[rows["n"] > 0].sort_values("t", ignore_index=True)
    return rows[["k", "t", "n", "wins", "p", "low", "high"]]


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
        branches: rows of one method and iteration, see `tables.pick_iteration`.
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


CHANGES = ("gained", "lost", "both", "never")
"""A task against another method: solved now, no longer solved, solved by both, by neither."""


def newly_solved(evaluations: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Per method and test task: gained, lost, solved by both or by neither, against `baseline`.

    Of each method and seed the last iteration counts; where the other of the two ended at an
    earlier one, that one. Tasks are paired by content hash; those that only one of the two was
    evaluated on are left out.

    Columns: seed, task_id, task_hash, level, method, baseline, change (see `CHANGES`).
    """
    names = ["seed", "task_id", "task_hash", "level", "method", "baseline", "change"]
    test = evaluations[evaluations["split"] == "test"]
    test = evaluations if test.empty else test
    base = test[test["method"] == baseline]
    out = []
    for method in style.order(set(test["method"]) - {baseline}):
        own = test[test["method"] == method]
        a, b = _last(own, base), _last(base, own)
        pairs = a.merge(b[["seed", "task_hash", "solved"]], on=["seed", "task_hash"])
        for new, old, *about in zip(
            pairs["solved_x"],
            pairs["solved_y"],
            *(pairs[c] for c in names[:4]),
            strict=True,
        ):
            change = ("both" if new else "lost") if old else "gained" if new else "never"
            out.append([*about, method, baseline, change])
    return pd.DataFrame(out, columns=names)


def _last(rows: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Per seed the last iteration of `rows` that is no later than the last of `other`.

    A method that does not iterate (iteration 0 only) sets no limit.
    """
    limits = other.groupby("seed")["iteration"].max().to_dict()
    parts = []
    for seed, group in rows.groupby("seed"):
        limit = limits.get(seed, 0)
        allowed = group[group["iteration"] <= limit] if limit else group
        allowed = group if allowed.empty else allowed
        parts.append(allowed[allowed["iteration"] == allowed["iteration"].max()])
    return pd.concat(parts) if parts else rows


def learned_actions(
    rollouts: pd.DataFrame, rollout_steps: pd.DataFrame, changes: pd.DataFrame, method: str
) -> pd.DataFrame:
    """Actions by kind in the student's solved test episodes: of tasks gained, of tasks both solve.

    To be put below `tables.training_actions`: what the solutions of newly solved tasks need.

    Args:
        rollouts, rollout_steps: the students' test episodes (`frames.load(run).rollouts`, ...).
        changes: from `newly_solved`.

    Columns: source, kind, count.
    """
    own = rollouts[(rollouts["method"] == method) & rollouts["solved"]]
    last = own.groupby("seed")["iteration"].transform("max")
    own = own[own["iteration"] == last]
    mine = changes[(changes["method"] == method) & changes["change"].isin(["gained", "both"])]
    parts = own.merge(mine[["seed", "task_id", "change"]], on=["seed", "task_id"])
    keys = ["seed", "trajectory_id", "method", "iteration"]
    steps = rollout_steps.merge(parts[[*keys, "change"]], on=keys)
    base = str(mine["baseline"].iloc[0]) if len(mine) else ""
    names = {"gained": f"{method}, tasks gained", "both": f"{method}, tasks {base} solves too"}
    rows = steps.assign(source=steps["change"].map(names))
    return rows.groupby(["source", "kind"], as_index=False).size().rename(columns={"size": "count"})


def budget(
    trajectories: pd.DataFrame,
    branches: pd.DataFrame,
    changes: pd.DataFrame,
    reported: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """What each method spent on exploring, over all seeds, and what that brought.

    Args:
        trajectories: the teacher's.
        changes: from `newly_solved`; tells the tasks gained and lost.
        reported: method -> its row of `summary.json`, for `seconds` (per seed).

    Columns: method, seeds, rollouts, steps, tokens, cost_usd (nan if unknown), seconds (per seed;
    nan if unknown), found (training tasks that the teacher failed and a rollout solved; of the
    teacher: tasks solved), gained, lost (test tasks against the baseline; -1 if unknown),
    steps_per_found, usd_per_found, steps_per_gained (nan where nothing was).
    """
    first = discoveries(branches, trajectories)
    rows = []
    if len(trajectories):
        tokens = int(trajectories[["prompt_tokens", "completion_tokens"]].to_numpy().sum())
        usd = trajectories["cost_usd"].sum(min_count=1)
        steps, found = int(trajectories["length"].sum()), int(trajectories["solved"].sum())
        seeds = trajectories["seed"].nunique()
        rows.append([TEACHER, seeds, len(trajectories), steps, tokens, usd, found, -1, -1])
    for method in style.order(branches["method"]):
        own = branches[(branches["method"] == method) & branches["restored"]]
        mine = first[(first["method"] == method) & first["found"].isin(["s0", "state"])]
        change = changes.loc[changes["method"] == method, "change"].value_counts()
        known = len(change) > 0
        tokens = int(own[["prompt_tokens", "completion_tokens"]].to_numpy().sum())
        usd = own["cost_usd"].sum(min_count=1)
        counts = [own["seed"].nunique(), len(own), int(own["length"].sum()), tokens, usd, len(mine)]
        sides = [int(change.get(c, 0)) if known else -1 for c in ("gained", "lost")]
        rows.append([method, *counts, *sides])
    names = [
        "method",
        "seeds",
        "rollouts",
        "steps",
        "tokens",
        "cost_usd",
        "found",
        "gained",
        "lost",
    ]
    table = pd.DataFrame(rows, columns=names)
    seconds = {m: row.get("seconds") for m, row in (reported or {}).items()}
    table["seconds"] = [number(seconds.get(m)) for m in table["method"]]
    some = table["found"].where(table["found"] > 0)
    more = table["gained"].where(table["gained"] > 0)
    return table.assign(
        steps_per_found=table["steps"] / some,
        usd_per_found=table["cost_usd"] / some,
        steps_per_gained=table["steps"] / more,
    )


def number(value: Any) -> float:
    """A value read from JSON as a float; nan if it is no number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")
