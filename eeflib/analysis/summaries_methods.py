"""Tables that set methods side by side: tasks gained and lost, what they cost, what they learned.

Owns these tables. Knows nothing about how a table is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from eeflib.analysis import palette
from eeflib.analysis.run import TEACHER
from eeflib.analysis.summaries_recovery import discoveries

__all__ = ["CHANGES", "budget", "learned_actions", "newly_solved"]

CHANGES = ("gained", "lost", "both", "never")
"""What a method did to a task, against another: newly solved, no longer, both solve it, neither."""


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
    for method in palette.order(set(test["method"]) - {baseline}):
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

    A method that does not iterate (iteration 0 only) limits nobody.
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

    To be put below `summaries.training_actions`: what the solutions of newly solved tasks need.

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
    for method in palette.order(branches["method"]):
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
    table["seconds"] = [_number(seconds.get(m)) for m in table["method"]]
    some = table["found"].where(table["found"] > 0)
    more = table["gained"].where(table["gained"] > 0)
    return table.assign(
        steps_per_found=table["steps"] / some,
        usd_per_found=table["cost_usd"] / some,
        steps_per_gained=table["steps"] / more,
    )


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")
