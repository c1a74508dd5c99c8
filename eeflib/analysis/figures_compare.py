"""Figures of a comparison of two runs: measures, tasks gained and lost, behaviour, failures.

Owns how a `Comparison` is drawn; each figure is pure. Knows nothing about files.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis import palette, svg
from eeflib.analysis.compare import Comparison
from eeflib.analysis.figure import Figure, colour, nothing
from eeflib.analysis.figure_parts import Anchor, link, records, stack, tally
from eeflib.analysis.markup import clean, escape, table
from eeflib.analysis.palette import GROUPS, LABELS
from eeflib.analysis.summaries_methods import CHANGES
from eeflib.analysis.taxonomy_kinds import KINDS

__all__ = ["action_mix", "compared", "error_kinds", "gained_lost"]


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


def gained_lost(comparison: Comparison, rows: int = 20, anchor: Anchor | None = None) -> Figure:
    """Tasks by what became of them, level by level, and those gained and lost by name.

    Args:
        rows: tasks listed at most, of gained and of lost ones.
        anchor: where a task leads; its row is one of `Comparison.tasks`.
    """
    a, b = (clean(n, 60) for n in comparison.names)
    title = "Gained and lost"
    if not comparison.paired:
        return nothing(title, " ".join(comparison.notes))
    tasks = comparison.tasks
    counts = tally(tasks, "level", "change")
    body = []
    for level in palette.level_order(counts):
        n = {c: counts[level].get(c, 0) for c in CHANGES}
        bar = stack(
            [
                (n["both"], "solved by both", colour(GROUPS[0]), 26, ""),
                (n["gained"], "gained", colour(LABELS["beneficial"]), 42, "\u25b2"),
                (n["lost"], "lost", colour(LABELS["harmful"]), 42, "\u25bc"),
                (n["never"], "solved by neither", colour(LABELS["unknown"]), 10, ""),
            ]
        )
        body.append([escape(level or "no level", 40), *(str(n[c]) for c in CHANGES), bar])
    heads = ("Level", "\u25b2 gained", "\u25bc lost", "both", "never", "share of tasks")
    content = table(heads, body, numbers=(1, 2, 3, 4))
    listed = []
    for change, glyph in (("gained", "\u25b2"), ("lost", "\u25bc")):
        for r in records(comparison.changed(change).head(rows)):
            kind = r["a_kind"] if change == "gained" else r["b_kind"]
            named = KINDS[kind].title if kind in KINDS else "\u2013"
            what = link(f"<code>{escape(r['task_id'], 60)}</code>", anchor, r)
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
        columns = ("", "Task", "instruction", "reward", "failed by")
        content += table(columns, listed, kind="kinds")
    note = (
        f"From {a} to {b}. Failed by: what the failure of the one that did not solve it was about. "
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
