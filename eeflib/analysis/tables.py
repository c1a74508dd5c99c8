"""Small tables behind the figures: data frame -> the numbers that are drawn.

Import from here every aggregation that a figure or a section of the report shows: win rates,
recovery, actions, costs, outcomes. A figure and a page that use the same table cannot disagree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import comb
from typing import Any

import pandas as pd

from eeflib.analysis import style
from eeflib.analysis.run import TEACHER
from eeflib.analysis.taxonomy import KINDS, WEBSHOP_KINDS
from eeflib.stats import Rate, wilson


def _rates(counts: pd.DataFrame, share: str = "rate") -> pd.DataFrame:
    """`counts` with the columns `share` (wins / n), low and high (Wilson)."""
    bounds = [wilson(*pair) for pair in zip(counts["wins"], counts["n"], strict=True)]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    return counts.assign(**{share: counts["wins"] / counts["n"]}, low=low, high=high)


def only_test(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Of test tasks, or all if there are none of these."""
    test = evaluations[evaluations["split"] == "test"]
    return evaluations if test.empty else test


def win_rates(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Win rate per method and iteration on test tasks (on whatever split there is, without any).

    Columns: method, iteration, seeds, n, wins, rate, low, high (see `eeflib.stats.Rate`), reward
    (mean).
    """
    names = ["method", "iteration", "seeds", "n", "wins", "rate", "low", "high", "reward"]
    test, rows = only_test(evaluations), []
    for method in style.order(test["method"]):
        for iteration, own in test[test["method"] == method].groupby("iteration"):
            seeds = own.groupby("seed")
            row = asdict(Rate.of(group.tolist() for _, group in seeds["solved"]))
            row |= {"method": method, "iteration": iteration}
            rows.append(row | {"reward": seeds["reward"].mean().mean()})
    return pd.DataFrame(rows, columns=names)


def courses(rates: pd.DataFrame) -> pd.DataFrame:
    """`win_rates`, with cloning as iteration 0 of the methods that iterate and have no other."""
    start = rates[(rates["iteration"] == 0) & (rates["method"].map(style.family) == "sft")].head(1)
    iterated = rates.groupby("method")["iteration"].agg(["min", "max"])
    missing = iterated.index[(iterated["min"] > 0) & (iterated["max"] > 0)]
    added = [start.assign(method=method) for method in missing]
    return pd.concat([*added, rates], ignore_index=True) if added and len(start) else rates


def pick_iteration(states: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first iteration that explored expert states: the cloned student's.

    It is EEF's, or where EEF has none that of the first method that explored them.

    Args:
        states: `frames.states` or `frames.branches`.
    """
    deep = states[states["k"] > 0]
    methods = style.order(deep["method"])
    method = "EEF" if "EEF" in methods else (methods or [""])[0]
    deep = deep[deep["method"] == method]
    first = deep["iteration"].min() if len(deep) else -1
    return states[(states["method"] == method) & (states["iteration"] == first)]


def tried_states(states: pd.DataFrame, trajectory_id: str, seed: int) -> pd.DataFrame:
    """The states of one of the teacher's trajectories that were tried, in their order."""
    own = (states["trajectory_id"] == trajectory_id) & (states["seed"] == seed)
    return states[own & (states["n"] > 0)].sort_values("t", ignore_index=True)


def recovery_curve(states: pd.DataFrame) -> pd.DataFrame:
    """How often the student solves the task from state k of the teacher's failures, per level.

    Args:
        states: rows of one method and iteration, see `pick_iteration`.

    Columns: group (`all` or a level), k, states, n, wins, p, low, high (Wilson over rollouts).
    """
    # Several trajectories pass through a state (all of a task's through s0): it counts once.
    tried = states[(states["n"] > 0) & ~states["teacher_solved"] & (states["k"] >= 0)]
    tried = tried.drop_duplicates(["seed", "state"])
    levels = style.level_order(set(tried["level"]) - {""})
    groups = {name: tried[tried["level"] == name] for name in levels if len(levels) > 1}
    counts = {
        name: part.groupby("k").agg(states=("n", "size"), n=("n", "sum"), wins=("wins", "sum"))
        for name, part in {"all": tried, **groups}.items()
    }
    return _rates(pd.concat(counts, names=["group"]).reset_index(), "p")


def tally(data: pd.DataFrame, group: str, kind: str, kinds: Iterable[str]) -> pd.DataFrame:
    """How often each of the kinds occurs in each group, in reading order: a column for each kind.

    A column `count` of the data says how often its row counts.
    """
    sizes = data["count"] if "count" in data else pd.Series(1, data.index, dtype="int64")
    sums = sizes.groupby([data[group], data[kind]]).sum().unstack(fill_value=0)
    order = {"level": style.level_order, "method": style.order}.get(group, dict.fromkeys)
    sums = sums.reindex(index=list(order(data[group])), columns=list(kinds), fill_value=0)
    return sums.rename_axis(index=group, columns=None).reset_index()


def first_won(states: pd.DataFrame) -> pd.DataFrame:
    """Tasks that the teacher failed: first won from `s0`, from `a later state`, from `none`.

    Columns: seed, task_id, level, where.
    """
    failed = states[~states["teacher_solved"]]
    won = failed["wins"] > 0
    marked = failed.assign(s0=won & (failed["k"] == 0), deep=won & (failed["t"] > 0))
    keys = ["seed", "task_id", "level"]
    tasks = marked.groupby(keys, as_index=False)[["s0", "deep"]].any()
    where = tasks["deep"].map({True: "a later state", False: "none"}).mask(tasks["s0"], "s0")
    return tasks[keys].assign(where=where)


def reachable(states: pd.DataFrame) -> pd.DataFrame:
    """Per level, how many tasks got at least one solution, and from where; teacher failures only.

    Columns: level, tasks, from_s0 (solved from s0), only_deeper (only from an expert state), never.
    """
    rows = first_won(states)
    counts = tally(rows, "level", "where", ("s0", "a later state", "none"))
    counts.columns = pd.Index(["level", "from_s0", "only_deeper", "never"])
    counts.insert(1, "tasks", counts.iloc[:, 1:].sum(axis=1))
    return counts


def recovery_map(states: pd.DataFrame, rows: int | None = 40) -> pd.DataFrame:
    """One row per failed teacher trajectory, ordered by its last recoverable state, deepest first.

    Trajectories with an expert state that was won come first, then those won from s0 only.

    Columns: seed, trajectory_id, task_id, level, length, last (last k won, -1 if none), and per k a
    column `s0`, `s1`, ... holding `w/n`, the state's status where it was not tried, or an empty
    string where the trajectory has no such state.
    """
    keys = ["seed", "trajectory_id", "task_id", "level", "length"]
    failed = states[~states["teacher_solved"] & (states["k"] >= 0)]
    counts = failed["wins"].astype("str") + "/" + failed["n"].astype("str")
    cells = failed.assign(
        cell=counts.where(failed["n"] > 0, failed["status"]),
        won=failed["k"].where(failed["wins"] > 0, -1),
    )
    last = cells.groupby(keys)["won"].max().rename("last")
    wide = (
        cells.drop_duplicates([*keys, "k"], keep="last").set_index([*keys, "k"])["cell"].unstack()
    )
    wide = wide.reindex(columns=range(int(failed["k"].max()) + 1 if len(failed) else 0))
    frame = last.to_frame().join(wide.fillna("").rename(columns="s{}".format)).reset_index()
    order = ["last", "seed", "task_id", "trajectory_id"]
    frame = frame.sort_values(order, ascending=[False, True, True, True], ignore_index=True)
    return frame.head(rows) if rows else frame


def training_actions(
    steps: pd.DataFrame, trajectories: pd.DataFrame, samples: pd.DataFrame
) -> pd.DataFrame:
    """Actions by kind: in the teacher's successes, in its failures, and trained on by each method.

    Of a method the last iteration's samples count, of a pair the chosen one. Columns: source, kind,
    count.
    """
    solved = steps.merge(
        rated(trajectories)[["seed", "trajectory_id", "solved"]], on=["seed", "trajectory_id"]
    )
    parts = [
        solved.loc[solved["solved"], ["kind"]].assign(source="teacher successes"),
        solved.loc[~solved["solved"], ["kind"]].assign(source="teacher failures"),
    ]
    if len(samples):
        last = samples.groupby(["seed", "method"])["iteration"].transform("max")
        final = samples[(samples["iteration"] == last) & (samples["trained"] > 0)]
        final = final[final["kind"] != "rejected"]
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
    fixed = ["teacher successes", "teacher failures"]
    sources = list(dict.fromkeys(actions["source"]))
    order = [s for s in fixed if s in sources] + style.order(s for s in sources if s not in fixed)
    kind = actions["kind"].where(actions["kind"].isin(keep), "other kinds")
    counts = actions["count"].groupby([actions["source"], kind]).sum()
    full = pd.MultiIndex.from_product([order, listed], names=names[:2])
    table = counts.reindex(full, fill_value=0).reset_index()
    total = table.groupby("source")["count"].transform("sum")
    return table.assign(total=total, share=table["count"] / total)


def rated(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Those whose reward is known: the others are neither solved nor failed."""
    return trajectories[trajectories["reward"].notna()]


def by_group(trajectories: pd.DataFrame, by: str = "level") -> pd.DataFrame:
    """Outcomes per group of tasks; `by` is `level`, `task_type` or any other column.

    Columns: group, n, wins, rate, low, high (Wilson), reward, length, invalid (means), errors.
    """
    names = ["group", "n", "wins", "rate", "low", "high", "reward", "length", "invalid", "errors"]
    means: dict[str, Any] = {c: (c, "mean") for c in ("reward", "length", "invalid")}
    counts = (
        rated(trajectories)
        .assign(fault=lambda rows: rows["error"] != "")
        .groupby(by)
        .agg(n=("solved", "size"), wins=("solved", "sum"), errors=("fault", "sum"), **means)
    )
    counts = counts.loc[style.level_order(counts.index)].rename_axis("group").reset_index()
    return _rates(counts)[names]


def fair(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Those that can be judged: the reward is known and no fault ended them."""
    known = rated(trajectories)
    return known[known["error"] == ""]


def shared_tasks(trajectories: pd.DataFrame) -> dict[tuple[int, str], str]:
    """(seed, task id) -> the id under which the first model has the same task, where they differ.

    Ids are the models' own, or made by the import. Tasks are the same where the instruction is, if
    every model that has it has it under one id only: else it does not tell tasks apart.
    """
    keys = ["seed", "env", "asked"]
    ids = trajectories[[*keys, "policy", "task_id"]].drop_duplicates()
    counted = ids.groupby([*keys, "policy"])["task_id"].transform("size")
    single = counted.groupby([ids[k] for k in keys]).transform("max") == 1
    ids = ids[single & (ids["asked"] != "")]
    first = ids.groupby(keys)["task_id"].transform("first")
    rows = ids.assign(first=first)[first != ids["task_id"]]
    return {(s, task): one for s, task, one in rows[["seed", "task_id", "first"]].to_numpy()}


def by_model(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Best episode of each model on each task that all of them tried; see `shared_tasks`.

    Columns: seed, task_id, policy, solved, reward, solvers (the models that solved the task, in
    order of their first episode; `none of them`).
    """
    rows, shared = fair(trajectories), shared_tasks(trajectories)
    pairs = zip(rows["seed"], rows["task_id"], strict=True)
    rows = rows.assign(task_id=[shared.get(pair, pair[1]) for pair in pairs])
    keys = ["seed", "task_id"]
    order = list(trajectories["policy"].drop_duplicates())
    best = rows.groupby([*keys, "policy"], as_index=False, sort=False).agg(
        solved=("solved", "any"), reward=("reward", "max")
    )
    best = best[best.groupby(keys)["policy"].transform("size") == len(order)]
    won = best[best["solved"]].groupby(keys)["policy"].agg(set).to_dict()
    named = [
        ", ".join(p for p in order if p in won.get(pair, ())) or "none of them"
        for pair in zip(best["seed"], best["task_id"], strict=True)
    ]
    return best.assign(solvers=named).reset_index(drop=True)


def teachers(trajectories: pd.DataFrame) -> pd.DataFrame:
    """What each teacher solved, what it adds to those before it, and what that cost.

    Columns: policy, episodes, faults, wins, n, rate, low, high (of episodes that can be judged),
    newly solved (tasks that none of the teachers above solved), both (tasks that one of them solved
    too), dollars, dollars a solved task, dollars a newly solved one; nan where no price is known.
    """
    rows, known, shared = [], set[tuple[Any, ...]](), shared_tasks(trajectories)
    for policy, of in trajectories.groupby("policy", sort=False):
        judged = fair(of)
        solved = judged[judged["solved"].astype(bool)]
        pairs = zip(solved["seed"], solved["task_id"], strict=True)
        won = {(pair[0], shared.get(pair, pair[1])) for pair in pairs}
        dollars = of["cost_usd"].sum(min_count=len(of))
        rows.append(
            {
                "policy": policy,
                "episodes": len(of),
                "faults": int((of["error"] != "").sum()),
                "wins": len(solved),
                "n": len(judged),
                "newly solved": len(won - known),
                "both": len(won & known),
                "dollars": dollars,
                "dollars a solved": dollars / len(won) if won else math.nan,
                "dollars a newly solved": dollars / len(won - known) if won - known else math.nan,
            }
        )
        known |= won
    return _rates(pd.DataFrame(rows)) if rows else pd.DataFrame()


def length_bins(trajectories: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Episodes by number of actions. Columns: low, high (both included), solved, failed."""
    trajectories = fair(trajectories)
    if trajectories.empty:
        return pd.DataFrame(columns=["low", "high", "solved", "failed"])
    first, last = int(trajectories["length"].min()), int(trajectories["length"].max())
    width = max(1, math.ceil((last - first + 1) / bins))
    low = range(first, last + 1, width)
    high = [min(at + width - 1, last) for at in low]
    return _bins(trajectories, (trajectories["length"] - first) // width, low, high)


def _bins(
    trajectories: pd.DataFrame, at: pd.Series[int], low: Sequence[float], high: Sequence[float]
) -> pd.DataFrame:
    """Solved and failed episodes of each bin; `at` is the bin of each episode."""
    table = pd.DataFrame({"low": low, "high": high})
    for name, some in (("solved", trajectories["solved"]), ("failed", ~trajectories["solved"])):
        table[name] = at[some].value_counts().reindex(table.index, fill_value=0)
    return table


def reward_bins(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Episodes by reward: exactly 0, ten equal steps up to below 1, exactly 1.

    Columns: low, high, solved, failed, span (`low~high` of the rewards, to four digits). Rewards
    outside [0, 1] count at the nearer end.
    """
    trajectories = fair(trajectories)
    if trajectories.empty:
        return pd.DataFrame(columns=["low", "high", "solved", "failed", "span"])
    reward = trajectories["reward"].clip(0, 1).round(4)
    at = (reward * 10 + 1e-9).astype("int64") + 1
    at = at.where(reward > 0, 0).where(reward < 1, 11)
    edges = [i / 10 for i in range(11)]
    inner = [f"{max(low, 1e-4):.4f}~{low + 0.0999:.4f}" for low in edges[:-1]]
    bins = _bins(trajectories, at, [0.0, *edges], [0.0, *edges[1:], 1.0])
    return bins.assign(span=["0~0", *inner, "1~1"])


def steps_to_failure(failures: pd.DataFrame, kinds: int = 4) -> pd.DataFrame:
    """How many actions it took until the main kind of a failure showed, kind by kind.

    Columns: kind (`all`, then the most frequent ones), t, n (failures that showed by t), total,
    share (n / total), low, high (Wilson).
    """
    names = ["kind", "t", "n", "total", "share", "low", "high"]
    main = failures[failures["primary"]]
    common = set(main["kind"].value_counts().index[:kinds])
    last = int(main["t"].max()) if len(main) else -1
    rows = []
    for kind in ["all", *(k for k in KINDS if k in common)]:
        times = main["t"] if kind == "all" else main.loc[main["kind"] == kind, "t"]
        for t in range(0, last + 1, max(1, (last + 1) // 40)):
            n, total = int((times <= t).sum()), len(times)
            rows.append([kind, t, n, total, n / total, *wilson(n, total)])
    return pd.DataFrame(rows, columns=names)


def discoveries(branches: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """Per seed, method and training task that was explored: what first solved it.

    Columns: seed, method, task_id, level, found (`teacher`, `s0`, `state` or `never`); iteration,
    k, t, branch_id, trajectory_id of the branch (where there is none -1, texts empty).
    """
    names = ["seed", "method", "task_id"]
    rows = ["iteration", "k", "t", "attempt", "branch_id", "trajectory_id"]
    explored = branches[names].drop_duplicates()
    won = branches[branches["won"]].sort_values(rows[:4]).drop_duplicates(names)
    known = trajectories.groupby(["seed", "task_id"], as_index=False).agg(
        level=("level", "first"), taught=("solved", "any")
    )
    table = explored.merge(won[[*names, *rows]], on=names, how="left")
    table = table.merge(known, on=["seed", "task_id"], how="left")
    found = table["k"].map(lambda k: "never" if pd.isna(k) else "state" if k else "s0")
    table["found"] = found.mask(table["taught"].eq(True), "teacher")
    for c in ("iteration", "k", "t"):
        table[c] = table[c].fillna(-1).astype("int64")
    for c in ("level", "branch_id", "trajectory_id"):
        table[c] = table[c].fillna("")
    return table[[*names, "level", "found", *rows[:3], *rows[4:]]].sort_values(
        names, ignore_index=True
    )


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
    failed = rated(trajectories)
    failed = failed.loc[~failed["solved"], ["seed", "task_id"]].drop_duplicates()
    tried = branches[branches["restored"] & (branches["fault"] == "")]
    counts = (
        tried.assign(trajectory_id=tried["trajectory_id"].fillna(""))
        .groupby(["seed", "task_id", "trajectory_id", "k", "t"], as_index=False)
        .agg(
            n=("won", "size"), wins=("won", "sum"), steps=("length", "sum"), usd=("cost_usd", "sum")
        )
    )
    priced = bool(tried["cost_usd"].notna().any())
    most, deepest = (int(counts[c].max()) if len(counts) else -1 for c in ("n", "k"))
    rows = []
    for m, attempts in itertools.product(range(deepest + 1), range(1, most + 1)):
        part = _keep(counts, trajectories, m)
        part = part.assign(a=part["n"].clip(upper=attempts))
        share = part["a"] / part["n"]
        triples = zip(part["n"], part["wins"], part["a"], strict=True)
        # the chance that `a` of a state's n rollouts, drawn without repeating, hold no win
        part["miss"] = [comb(n - w, a) / comb(n, a) for n, w, a in triples]
        missed = part.groupby(["seed", "task_id"], as_index=False)["miss"].prod()
        found = float((1 - failed.merge(missed, on=["seed", "task_id"])["miss"]).sum())
        usd = float((part["usd"] * share).sum()) if priced else math.nan
        steps, of_failed = float((part["steps"] * share).sum()), found / (len(failed) or math.nan)
        recorded = m == deepest and attempts == most
        rows.append([m, attempts, int(part["a"].sum()), steps, usd, found, of_failed, recorded])
    names = ["M", "attempts", "rollouts", "steps", "cost_usd", "found", "share", "recorded"]
    return pd.DataFrame(rows, columns=names)


def _keep(counts: pd.DataFrame, trajectories: pd.DataFrame, m: int) -> pd.DataFrame:
    """The rows of s0 and of the m states of each trajectory nearest to equal spacing."""
    keys = ["seed", "trajectory_id"]
    lengths = trajectories.set_index(keys)["length"].to_dict()
    kept = list(counts.index[counts["k"] == 0])
    for key, path in counts[counts["k"] > 0].groupby(keys)["t"]:
        left = {t: at for at, t in path.items()}
        length = lengths.get(key, max(left) + 1)
        for j in range(1, min(m, len(left)) + 1):
            near = length * j / (m + 1)
            kept.append(left.pop(min(left, key=lambda t: (abs(t - near), t))))
    return counts.loc[kept]


_CHANGE = {
    (False, True): "gained",
    (True, False): "lost",
    (True, True): "both",
    (False, False): "never",
}
CHANGES = tuple(_CHANGE.values())
"""A task against another method: solved now, no longer solved, solved by both, by neither."""


def changes(old: pd.Series[bool], new: pd.Series[bool]) -> list[str]:
    """One of `CHANGES` for each task that was solved or not, `old`, and is now, `new`."""
    return [_CHANGE[bool(a), bool(b)] for a, b in zip(old, new, strict=True)]


def newly_solved(evaluations: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Per method and test task: gained, lost, solved by both or by neither, against `baseline`.

    Of each method and seed the last iteration counts; where the other of the two ended at an
    earlier one, that one. Tasks are paired by content hash; those that only one of the two was
    evaluated on are left out.

    Columns: seed, task_id, task_hash, level, method, baseline, change (see `CHANGES`).
    """
    names = ["seed", "task_id", "task_hash", "level", "method", "baseline", "change"]
    test = only_test(evaluations)
    base = test[test["method"] == baseline]
    out = [pd.DataFrame(columns=names)]
    for method in style.order(set(test["method"]) - {baseline}):
        own = test[test["method"] == method]
        old = last(base, own)[["seed", "task_hash", "solved"]]
        pairs = last(own, base).merge(old, on=["seed", "task_hash"])
        change = changes(pairs["solved_y"], pairs["solved_x"])
        out.append(pairs.assign(baseline=baseline, change=change)[names])
    return pd.concat(out[1:] or out, ignore_index=True)


def last(rows: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Per seed the last iteration of `rows` that is no later than the last of `other`.

    An ablation may run fewer iterations, a killed run may have finished fewer. A method that does
    not iterate (iteration 0 only) sets no limit.
    """
    limit = rows["seed"].map(other.groupby("seed")["iteration"].max()).fillna(0)
    allowed = (limit == 0) | (rows["iteration"] <= limit)
    allowed |= ~allowed.groupby(rows["seed"]).transform("any")
    rows = rows[allowed]
    return rows[rows["iteration"] == rows.groupby("seed")["iteration"].transform("max")]


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
        spent = _spent(trajectories)
        rows.append([TEACHER, *spent, int(trajectories["solved"].sum()), -1, -1])
    for method in style.order(branches["method"]):
        mine = first[(first["method"] == method) & first["found"].isin(["s0", "state"])]
        change = changes.loc[changes["method"] == method, "change"].value_counts()
        sides = [int(change.get(c, 0)) if len(change) else -1 for c in ("gained", "lost")]
        own = branches[(branches["method"] == method) & branches["restored"]]
        rows.append([method, *_spent(own), len(mine), *sides])
    names = ["method", "seeds", "rollouts", "steps", "tokens", "cost_usd", "found"]
    table = pd.DataFrame(rows, columns=[*names, "gained", "lost"])
    seconds = {m: row.get("seconds") for m, row in (reported or {}).items()}
    some = table["found"].where(table["found"] > 0)
    more = table["gained"].where(table["gained"] > 0)
    return table.assign(
        seconds=[number(seconds.get(m)) for m in table["method"]],
        steps_per_found=table["steps"] / some,
        usd_per_found=table["cost_usd"] / some,
        steps_per_gained=table["steps"] / more,
    )


def _spent(rows: pd.DataFrame) -> list[Any]:
    """Seeds, rollouts, steps, tokens and dollars of episodes."""
    tokens = rows["prompt_tokens"].sum() + rows["completion_tokens"].sum()
    usd = rows["cost_usd"].sum(min_count=1)
    return [rows["seed"].nunique(), len(rows), int(rows["length"].sum()), int(tokens), usd]


def number(value: Any) -> float:
    """A value read from JSON as a float; nan if it is no number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")
