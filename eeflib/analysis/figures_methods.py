"""Figures that set methods side by side: newly solved tasks, simplicity bias, budget, another M.

Owns how these tables are drawn; each figure is pure, table -> `Figure`. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from eeflib.analysis import palette, svg
from eeflib.analysis.figure import Figure, colour, nothing
from eeflib.analysis.figure_parts import Anchor, link, percent, records, stack, tally
from eeflib.analysis.markup import cell, clean, escape, table
from eeflib.analysis.palette import GROUPS, LABELS
from eeflib.analysis.summaries_methods import CHANGES

__all__ = ["budget", "discovered", "newly_solved", "other_m", "simplicity_bias"]


def newly_solved(changes: pd.DataFrame) -> Figure:
    """Test tasks gained, lost, solved by both or by neither; `summaries_methods.newly_solved`."""
    title = "Newly solved tasks"
    if changes.empty:
        return nothing(title, "Two methods evaluated on the same tasks are needed.")
    counts = tally(changes, "method", "change")
    base, rows = str(changes["baseline"].iloc[0]), []
    for method in palette.order(counts):
        n = {c: counts[method].get(c, 0) for c in CHANGES}
        bar = stack(
            [
                (n["both"], "solved by both", colour(GROUPS[0]), 26, ""),
                (n["gained"], "gained", colour(LABELS["beneficial"]), 42, "\u25b2"),
                (n["lost"], "lost", colour(LABELS["harmful"]), 42, "\u25bc"),
                (n["never"], "solved by neither", colour(LABELS["unknown"]), 10, ""),
            ]
        )
        numbers = [str(n[c]) for c in ("gained", "lost", "both", "never")]
        rows.append(
            [
                escape(method, 60),
                *numbers,
                f"{n['gained'] - n['lost']:+d}".replace("-", "\u2212"),
                bar,
            ]
        )
    head = ("Method", "\u25b2 gained", "\u25bc lost", "both", "never", "net", "share of tasks")
    note = (
        f"Against {clean(base, 60)}, over all seeds, the last iteration both have. Some of either "
        "is chance: two students of equal skill differ on single tasks, too."
    )
    return Figure(title, table(head, rows, numbers=(1, 2, 3, 4, 5)), note, changes)


def discovered(found: pd.DataFrame, rows: int = 20, anchor: Anchor | None = None) -> Figure:
    """Training tasks that exploring solved and the teacher did not: `discoveries`.

    Args:
        rows: tasks listed at most, those solved from the deepest states first.
        anchor: where a task leads; its row has seed, method, task_id, trajectory_id and branch_id.
    """
    title = "What exploration found"
    new = found[found["found"].isin(["s0", "state"])]
    if found.empty:
        return nothing(title, "No exploration is recorded (branches.jsonl).")
    counts = tally(found, "method", "found")
    kinds = ("teacher", "s0", "state", "never")
    summary = [
        [escape(m, 60), *(str(counts[m].get(k, 0)) for k in kinds)] for m in palette.order(counts)
    ]
    heads = ("Method", "solved by teacher", "from s\u2080", "\u25b2 only from s\u2096", "never")
    content = table(heads, summary, numbers=(1, 2, 3, 4))
    deepest = new.sort_values(["k", "seed", "task_id"], ascending=[False, True, True]).head(rows)
    listed = [
        [
            link(f"<code>{escape(r['task_id'], 80)}</code>", anchor, r),
            str(r["seed"]),
            escape(r["level"], 30),
            escape(r["method"], 40),
            f"s{r['k']}" + (f", after {r['t']} actions" if r["k"] else ", the start"),
            str(r["iteration"]),
        ]
        for r in records(deepest)
    ]
    if listed:
        head = ("Task", "seed", "level", "method", "first solved from", "iteration")
        content += table(head, listed, numbers=(1, 5))
    more = f" {len(listed)} of {len(new)} are listed." if len(new) > len(listed) else ""
    note = f"Training tasks that were explored.{more}"
    return Figure(title, content, note, found)


def simplicity_bias(shares: pd.DataFrame, focus: str = "EEF") -> Figure:
    """Per cent of actions of each kind, source by source; from `summaries.action_shares`.

    What successes lack and failures hold is what a student cloned from successes never sees. Put
    `summaries_methods.learned_actions` below the others to see what newly solved tasks needed.
    """
    title = "Simplicity bias: what the training data teaches"
    if shares.empty:
        return nothing(title, "Neither trajectories nor training samples are recorded yet.")
    kinds = list(dict.fromkeys(shares["kind"]))
    peak = float(shares["share"].max()) or 1.0
    rows = []
    for source in dict.fromkeys(shares["source"]):
        part = records(shares[shares["source"] == source])
        cells = "".join(_share_cell(r, peak) for r in part)
        hero = ' class="hero"' if source == focus else ""
        total = part[0]["total"]
        rows.append(
            f"<tr{hero}><td>{escape(source, 60)}</td>{cells}{cell(f'{total:,}', number=True)}</tr>"
        )
    heads = "".join(f'<th scope="col">{escape(k, 30)}</th>' for k in kinds)
    content = (
        '<div class="scroll"><table><thead><tr><th scope="col">source</th>'
        f'{heads}<th scope="col" class="num">actions</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    note = (
        "Per cent of the actions of each source. Of a method: the actions that carry loss in its "
        "last iteration's samples; \u201ctasks gained\u201d: what its student did on them."
    )
    return Figure(title, content, note, shares)


def _share_cell(row: Mapping[str, Any], peak: float) -> str:
    text = f"{row['share'] * 100:.1f}" if row["count"] else "&middot;"
    return (
        f'<td class="share" style="--w:{row["share"] / peak * 100:.1f}%" '
        f'title="{row["count"]} of {row["total"]} actions">{text}</td>'
    )


def budget(costs: pd.DataFrame, baseline: str = "") -> Figure:
    """What each method spent on exploring and what that brought; `summaries_methods.budget`."""
    title = "Budget: what was spent, and what it found"
    if costs.empty:
        return nothing(title, "Neither trajectories nor exploration are recorded yet.")
    rows = []
    for r in records(costs):
        sides = [str(r[c]) if r[c] >= 0 else "\u2013" for c in ("gained", "lost")]
        rows.append(
            [
                escape(r["method"], 60),
                *(f"{r[c]:,}" for c in ("rollouts", "steps", "tokens")),
                _money(r["cost_usd"]),
                _figure(r["seconds"]),
                str(r["found"]),
                _figure(r["steps_per_found"]),
                _money(r["usd_per_found"]),
                *sides,
                _figure(r["steps_per_gained"]),
            ]
        )
    head = (
        "Method", "rollouts", "simulated steps", "tokens", "dollars", "seconds a seed",
        "tasks found", "steps a task", "dollars a task", "\u25b2 gained", "\u25bc lost",
        "steps a task gained",
    )  # fmt: skip
    against = f" against {clean(baseline, 60)}" if baseline else ""
    note = (
        "Over all seeds. Found: training tasks that the teacher failed and a rollout solved (the "
        f"teacher's row: tasks it solved). Gained, lost: test tasks{against}. Tokens are those on "
        "record: a student without a tokenizer has none. Evaluation is not counted."
    )
    return Figure(title, table(head, rows, numbers=range(1, 12), kind="kinds"), note, costs)


def other_m(whatif: pd.DataFrame) -> Figure:
    """What fewer states or rollouts would have cost and found; `summaries_recovery.other_m`."""
    title = "What another M would have cost and found"
    if whatif.empty or whatif["M"].max() < 1:
        return nothing(title, "No exploration from expert states is recorded (branches.jsonl).")
    series = []
    attempts = sorted(set(whatif["attempts"]))
    for i, a in enumerate(attempts):
        part, look = whatif[whatif["attempts"] == a], GROUPS[(i + 2) % len(GROUPS)]
        points = tuple(
            svg.Point(m, share, share, share, f"M = {m}, {a} rollouts a state: {percent(share)} "
                      f"of the tasks, {steps:,.0f} simulated steps")
            for m, share, steps in zip(part["M"], part["share"], part["steps"], strict=True)
        )  # fmt: skip
        name = f"{a} rollout{'s' if a > 1 else ''} a state"
        series.append(svg.Series(name, points, colour(look), look.dash, look.marker, False))
    chart = svg.line_chart(
        series,
        x_label="M, expert states per trajectory (0 = exploring from the start only)",
        y_label="share of the teacher's failed tasks that get a solution",
        label=title,
        end_values=False,
        height=280,
    )
    rows = [
        [
            str(r["M"]) + (" (as run)" if r["recorded"] else ""),
            str(r["attempts"]),
            f"{r['rollouts']:,}",
            f"{r['steps']:,.0f}",
            f"{r['found']:.1f}".removesuffix(".0"),
            percent(r["share"]),
            _figure(r["steps"] / r["found"] if r["found"] else float("nan")),
            _money(r["cost_usd"]),
        ]
        for r in records(whatif)
    ]
    head = ("M", "rollouts a state", "rollouts", "simulated steps", "tasks solved", "share",
            "steps a task", "dollars")  # fmt: skip
    note = (
        "Computed from the recorded branches of one iteration: fewer states means those nearest to "
        "equal spacing, fewer rollouts what they find on average. An estimate, but for the plan "
        "that was run; what more states would have found is not on record."
    )
    content = chart + table(head, rows, numbers=range(1, 8))
    return Figure(title, content, note, whatif)


def _figure(value: float) -> str:
    return "\u2013" if value != value else f"{value:,.0f}"


def _money(value: float) -> str:
    return "\u2013" if value != value else f"{value:,.2f}" if value >= 0.01 else f"{value:.4f}"
