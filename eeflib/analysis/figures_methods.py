"""Figures that compare: methods of a run side by side, and two runs or policies with each other.

Import them from `eeflib.analysis.figures`. Each is pure, table or `Comparison` -> `Figure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from eeflib.analysis import style, svg
from eeflib.analysis.compare import Comparison
from eeflib.analysis.figure import (
    Figure,
    colour,
    nothing,
    percent,
    records,
    stack,
    tally,
)
from eeflib.analysis.markup import cell, clean, escape, table
from eeflib.analysis.style import GROUPS, LABELS
from eeflib.analysis.tables import CHANGES
from eeflib.analysis.taxonomy_rules import KINDS

__all__ = [
    "action_mix",
    "budget",
    "compared",
    "discovered",
    "error_kinds",
    "gained_lost",
    "newly_solved",
    "other_m",
    "simplicity_bias",
]


def newly_solved(changes: pd.DataFrame) -> Figure:
    """Test tasks gained, lost, solved by both or by neither; `tables.newly_solved`."""
    title = "Newly solved tasks"
    if changes.empty:
        return nothing(title, "Two methods evaluated on the same tasks are needed.")
    counts = tally(changes, "method", "change")
    base, rows = str(changes["baseline"].iloc[0]), []
    for method in style.order(counts):
        n = {c: counts[method].get(c, 0) for c in CHANGES}
        net = f"{n['gained'] - n['lost']:+d}".replace("-", "\u2212")
        rows.append([escape(method, 60), *(str(n[c]) for c in CHANGES), net, _change_bar(n)])
    head = ("Method", "\u25b2 gained", "\u25bc lost", "both", "never", "net", "share of tasks")
    note = (
        f"Against {clean(base, 60)}, over all seeds, the last iteration both have. Some of either "
        "is chance: two students of equal skill differ on single tasks, too."
    )
    return Figure(title, table(head, rows, numbers=(1, 2, 3, 4, 5)), note, changes)


def discovered(found: pd.DataFrame, rows: int = 20) -> Figure:
    """Training tasks that exploring solved and the teacher did not: `discoveries`.

    Args:
        rows: tasks listed at most, those solved from the deepest states first.
    """
    title = "What exploration found"
    new = found[found["found"].isin(["s0", "state"])]
    if found.empty:
        return nothing(title, "No exploration is recorded (branches.jsonl).")
    counts = tally(found, "method", "found")
    kinds = ("teacher", "s0", "state", "never")
    summary = [
        [escape(m, 60), *(str(counts[m].get(k, 0)) for k in kinds)] for m in style.order(counts)
    ]
    heads = ("Method", "solved by teacher", "from s\u2080", "\u25b2 only from s\u2096", "never")
    content = table(heads, summary, numbers=(1, 2, 3, 4))
    deepest = new.sort_values(["k", "seed", "task_id"], ascending=[False, True, True]).head(rows)
    listed = [
        [
            f"<code>{escape(r['task_id'], 80)}</code>",
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
    """Per cent of actions of each kind, source by source; from `tables.action_shares`.

    What successes lack and failures hold is what a student cloned from successes never sees. Put
    `tables.learned_actions` below the others to see what newly solved tasks needed.
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
    """What each method spent on exploring and what that brought; `tables.budget`."""
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
    """What fewer states or rollouts would have cost and found; `tables.other_m`."""
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


def compared(comparison: Comparison) -> Figure:
    """Share solved, reward, length and invalid actions of both sides, with paired tests."""
    a, b = comparison.names
    rows = [
        [
            escape(r["meaning"]),
            *(f"{r[c]:.3f}" for c in ("a", "b")),
            f"{r['difference']:+.3f}".replace("-", "\u2212"),
            f"{r['low']:.3f} \u2013 {r['high']:.3f}".replace("-", "\u2212"),
            "< 0.001" if r["p"] < 0.001 else f"{r['p']:.3f}",
            escape(r["test"]),
        ]
        for r in records(comparison.measures)
    ]
    head = ("", escape(a, 60), escape(b, 60), "difference", "95\u202f% interval", "p", "test")
    note = " ".join(["Difference: second minus first.", *comparison.notes])
    content = table(head, rows, numbers=(1, 2, 3, 4, 5))
    return Figure(f"{clean(b, 60)} against {clean(a, 60)}", content, note, comparison.measures)


def changes_by_level(counts: Mapping[str, Mapping[str, int]]) -> str:
    """A table, level -> how many tasks were gained, lost, solved by both or by neither."""
    rows = []
    for level in style.level_order(counts):
        n = {c: counts[level].get(c, 0) for c in CHANGES}
        rows.append(
            [escape(level or "no level", 40), *(str(n[c]) for c in CHANGES), _change_bar(n)]
        )
    head = ("Level", "\u25b2 gained", "\u25bc lost", "both", "never", "share of tasks")
    return table(head, rows, numbers=(1, 2, 3, 4))


def _change_bar(n: Mapping[str, int]) -> str:
    return stack(
        [
            (n["both"], "solved by both", colour(GROUPS[0]), 26, ""),
            (n["gained"], "gained", colour(LABELS["beneficial"]), 42, "\u25b2"),
            (n["lost"], "lost", colour(LABELS["harmful"]), 42, "\u25bc"),
            (n["never"], "solved by neither", colour(LABELS["unknown"]), 10, ""),
        ]
    )


def gained_lost(comparison: Comparison, rows: int = 20) -> Figure:
    """Tasks gained, lost, solved by both or neither per level, then the changed tasks by name.

    Args:
        rows: tasks listed at most, of gained and of lost ones.
    """
    a, b = (clean(n, 60) for n in comparison.names)
    title = "Gained and lost"
    if not comparison.paired:
        return nothing(title, " ".join(comparison.notes))
    tasks = comparison.tasks
    content = changes_by_level(tally(tasks, "level", "change"))
    listed = []
    for change, glyph in (("gained", "\u25b2"), ("lost", "\u25bc")):
        for r in records(comparison.changed(change).head(rows)):
            kind = r["a_kind"] if change == "gained" else r["b_kind"]
            named = KINDS[kind].title if kind in KINDS else "\u2013"
            what = f"<code>{escape(r['task_id'], 60)}</code>"
            listed.append(
                [
                    f"{glyph} {change}",
                    what,
                    escape(r["instruction"], 120),
                    f"{r['a_reward']:.2f} \u2192 {r['b_reward']:.2f}",
                    escape(named),
                ]
            )
    if listed:
        columns = ("", "Task", "instruction", "reward", "kind of failure")
        content += table(columns, listed, kind="kinds")
    note = (
        f"From {a} to {b}. Kind of failure: of the side that did not solve the task. "
        "Some of either is chance."
    )
    return Figure(title, content, note, tasks)


def action_mix(comparison: Comparison) -> Figure:
    """Change in the share of each kind of action in an episode."""
    title = "Change in what is done"
    return _differences(
        comparison, comparison.actions, title, "share of an episode's actions, percentage points"
    )


def error_kinds(comparison: Comparison) -> Figure:
    """Change in the share of episodes that fail in each way."""
    title = "Change in what goes wrong"
    rows = comparison.errors
    named = rows.assign(kind=[KINDS[k].title if k in KINDS else k for k in rows["kind"]])
    return _differences(comparison, named, title, "share of episodes, percentage points")


def _differences(comparison: Comparison, rows: pd.DataFrame, title: str, unit: str) -> Figure:
    if rows.empty:
        why = " ".join(comparison.notes) or "No episode of both sides is on record."
        return nothing(title, why)
    a, b = (clean(n, 60) for n in comparison.names)
    lines = []
    for r in records(rows):
        sure = r["q"] < 0.05
        up = r["difference"] > 0
        ink = GROUPS[0] if not sure else LABELS["beneficial"] if up else LABELS["harmful"]
        glyph = "" if not sure else "\u25b2 " if up else "\u25bc "
        note = (
            f"{r['kind']}: {100 * r['a']:.1f} % to {100 * r['b']:.1f} %, q = {r['q']:.3f} "
            f"({r['test']})"
        )
        lines.append(
            svg.Row(
                f"{glyph}{clean(r['kind'], 24)}",
                (),
                r["difference"],
                r["low"],
                r["high"],
                colour(ink),
                note,
            )
        )
    chart = svg.interval_chart(lines, x_label=f"difference in {unit}", label=title, step=30)
    n = int(rows["n"].iloc[0])
    note = (
        f"{b} minus {a}, {n} {'pairs' if comparison.paired else 'episodes, not paired'}. Bars are "
        "95 % intervals; \u25b2 \u25bc mark differences beyond chance at a false-discovery rate of "
        "5 % (Benjamini\u2013Hochberg)."
    )
    return Figure(title, chart, note, rows)
