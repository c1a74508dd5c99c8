"""Figures of outcomes: by task type, length, reward, iteration, and by what went wrong.

Owns how these tables are drawn; each figure is pure, table -> `Figure`. Knows nothing about files.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis import palette, summaries, svg, taxonomy
from eeflib.analysis import summaries_outcomes as tables
from eeflib.analysis.figure import Figure, colour, nothing
from eeflib.analysis.figure_parts import percent, records
from eeflib.analysis.labels import Agreement
from eeflib.analysis.markup import clean, escape, table
from eeflib.analysis.palette import GROUPS, LABELS
from eeflib.analysis.svg_bars import Bar, Part, Share, bar_chart, share_chart
from eeflib.analysis.taxonomy_kinds import KINDS
from eeflib.stats import wilson

__all__ = [
    "failure_agreement",
    "failure_kinds",
    "lengths",
    "outcome_by_type",
    "rewards",
    "steps_to_failure",
    "win_rates",
]

GROUPS_SHOWN = 6
"""Groups of tasks that get a column of their own."""
_NO_EPISODES = "No trajectory is recorded yet (trajectories.jsonl)."
_NO_FAILURES = "No failed trajectory is recorded: there is nothing to explain."
_PARTS = (
    Part("solved", colour(LABELS["beneficial"]), "\u25b2"),
    Part("failed", colour(LABELS["harmful"]), "\u25bc", hatched=True),
)


def outcome_by_type(trajectories: pd.DataFrame, by: str = "level") -> Figure:
    """Share solved per level, task type, environment or any other column, with its interval."""
    title = f"Solved, by {by.replace('_', ' ')}"
    if trajectories.empty:
        return nothing(title, _NO_EPISODES)
    rows = tables.by_group(trajectories, by)
    looks = palette.group_looks(rows["group"])
    shares = [
        Share(
            clean(r["group"], 44) or f"no {by}",
            r["rate"],
            r["low"],
            r["high"],
            colour(looks[r["group"]]),
            f"{r['wins']} of {r['n']}",
            f"{r['group']}: {r['wins']} of {r['n']} solved, 95 % interval {percent(r['low'])} to "
            f"{percent(r['high'])}; mean reward {r['reward']:.2f}, {r['length']:.1f} actions",
        )
        for r in records(rows)
    ]
    chart = share_chart(shares, x_label="share of trajectories solved", label=title)
    return Figure(title, chart, "Bars are 95 % Wilson intervals.", rows)


def lengths(trajectories: pd.DataFrame) -> Figure:
    """How many actions solved and failed trajectories took."""
    title = "Length of trajectories"
    if trajectories.empty:
        return nothing(title, _NO_EPISODES)
    rows = tables.length_bins(trajectories)
    bars = [
        Bar(
            str(low) if low == high else f"{low}\u2013{high}",
            (solved, failed),
            f"{low} to {high} actions: {solved} solved, {failed} failed",
        )
        for low, high, solved, failed in rows.itertuples(index=False, name=None)
    ]
    chart = bar_chart(bars, _PARTS, x_label="actions", y_label="trajectories", label=title)
    means = trajectories.groupby("solved")["length"].median()
    said = [
        f"{'solved' if solved else 'failed'} {means[solved]:g}"
        for solved in (True, False)
        if solved in means.index
    ]
    return Figure(title, chart, f"Median number of actions: {', '.join(said)}.", rows)


def rewards(trajectories: pd.DataFrame) -> Figure:
    """How near failures came: trajectories by final reward."""
    title = "Final reward"
    if trajectories.empty:
        return nothing(title, _NO_EPISODES)
    rows = tables.reward_bins(trajectories)
    bars = [
        Bar(
            f"{low:g}" if low == high else f"\u2026{high:g}",
            (solved, failed),
            f"reward {low:g}{'' if low == high else f' to below {high:g}'}: {solved} solved, "
            f"{failed} failed",
        )
        for low, high, solved, failed in rows.itertuples(index=False, name=None)
    ]
    chart = bar_chart(bars, _PARTS, x_label="reward R", y_label="trajectories", label=title)
    failed = trajectories[~trajectories["solved"]]
    note = "The first bar is a reward of exactly 0, the last of exactly 1."
    if len(failed):
        some = int((failed["reward"] > 0).sum())
        note += f" {some} of {len(failed)} failures earned something."
    return Figure(title, chart, note, rows)


def steps_to_failure(failures: pd.DataFrame) -> Figure:
    """After how many actions the main matter of a failure shows, by kind; from `failures`."""
    title = "How soon failures show"
    rows = tables.steps_to_failure(failures)
    if rows.empty:
        return nothing(title, _NO_FAILURES)
    series = []
    for kind, look in zip(dict.fromkeys(rows["kind"]), GROUPS, strict=False):
        part = rows[rows["kind"] == kind]
        name = "all" if kind == "all" else KINDS[kind].title
        points = tuple(
            svg.Point(t, share, lo, hi, f"{name}: {n} of {total} show by action {t}")
            for t, n, total, share, lo, hi in zip(
                *(part[c] for c in ("t", "n", "total", "share", "low", "high")), strict=True
            )
        )
        band = kind == "all"
        series.append(svg.Series(name, points, colour(look), look.dash, look.marker, band))
    chart = svg.line_chart(
        series,
        x_label="actions before it",
        y_label="share of failures whose main matter has shown",
        label=title,
        end_values=False,
        height=320,
    )
    note = (
        "The step that shows a failure is that of its evidence: the purchase, the focus, the first "
        "action of a loop, or the end."
    )
    return Figure(title, chart, note, rows)


def win_rates(evaluations: pd.DataFrame) -> Figure:
    """Win rate per fine-tuning iteration and method with its band; from `frames.evaluations`."""
    title = "Win rate per iteration"
    rows = summaries.courses(summaries.win_rates(evaluations))
    if rows.empty:
        return nothing(title, "No evaluation is recorded yet (evaluations.jsonl).")
    series = []
    for method, look in palette.method_looks(rows["method"]).items():
        part = rows[rows["method"] == method]
        points = tuple(
            svg.Point(i, r, lo, hi, f"{method}, iteration {i}: {percent(r)} ({w} of {n})")
            for i, r, lo, hi, w, n in zip(
                *(part[c] for c in ("iteration", "rate", "low", "high", "wins", "n")), strict=True
            )
        )
        series.append(svg.Series(method, points, colour(look), look.dash, look.marker))
    chart = svg.line_chart(
        series,
        x_label="fine-tuning iteration (0 = cloning the teacher's successes)",
        y_label="win rate on held-out tasks",
        label="Win rate per fine-tuning iteration by method",
    )
    note = (
        "Bands are 95 % Wilson intervals over evaluations. The last iteration is the one reported, "
        "not the best one. A method with one iteration is drawn across."
    )
    return Figure(title, chart, note, rows)


def failure_kinds(failures: pd.DataFrame, by: str = "level") -> Figure:
    """Kinds of failure: count, share with its interval, and per group of tasks."""
    title = "Kinds of failure"
    if failures.empty:
        return nothing(title, _NO_FAILURES)
    rows = taxonomy.counts(failures.assign(all="all"), "all")
    sizes = failures.loc[failures["primary"], by].value_counts()
    groups = [g for g in palette.level_order(sizes.index[:GROUPS_SHOWN]) if g]
    parts = taxonomy.counts(failures, by).set_index(["group", "kind"])["n"].to_dict()
    rows = rows.sort_values("n", ascending=False, kind="stable")
    total, covered = int(rows["total"].iloc[0]), taxonomy.coverage(failures)
    body = []
    for kind, n, either, share in zip(
        *(rows[c] for c in ("kind", "n", "any", "share")), strict=True
    ):
        what = KINDS[kind]
        low, high = wilson(n, total)
        strip = svg.interval_strip(share, low, high, colour(LABELS["harmful"]))
        name = f'<span title="{escape(what.meaning)}">{what.glyph} {escape(what.title)}</span>'
        spread = [str(parts.get((g, kind), 0) or "\u00b7") for g in groups] if groups[1:] else []
        body.append([name, str(n), percent(share), strip, str(either), *spread])
    several = [escape(g, 20) for g in groups] if groups[1:] else []
    head = ("Kind", "main", "share", "0 to 100\u202f%", "found in", *several)
    numbers = (1, 2, 4, *range(5, 5 + len(several)))
    low, high = covered.interval
    note = (
        f"{total} failed episodes, each counted once under its main kind; \u201cfound in\u201d "
        "also counts side matters. Whiskers are 95 % Wilson intervals. A cause is named for "
        f"{percent(covered.share)} ({percent(low)} to {percent(high)}), how it ended for another "
        f"{percent(covered.end / total)}."
    )
    if len(sizes) > GROUPS_SHOWN:
        note += f" Columns: the {GROUPS_SHOWN} of {len(sizes)} groups with most failures."
    return Figure(title, table(head, body, numbers=numbers, kind="kinds"), note, rows)


def failure_agreement(found: Agreement, first: str = "rules", second: str = "model") -> Figure:
    """Two labellings of the same failures against each other; from `labels.agreement`."""
    title = f"{first} and {second} on the same failures"
    if not found.n:
        return nothing(title, "No failure was labelled by both.")
    names = list(found.table.index)
    head = "".join(
        f'<th scope="col" class="num" title="{escape(KINDS[k].title)}">{KINDS[k].glyph}</th>'
        for k in names
    )
    body = []
    for row in names:
        cells = "".join(
            f'<td class="num{" won" if row == column else ""}" '
            f'style="--p:{100 * n / found.n:.0f}%">{n or "&middot;"}</td>'
            for column in names
            for n in [int(found.table.loc[row, column])]
        )
        body.append(f"<tr><td>{KINDS[row].glyph} {escape(KINDS[row].title)}</td>{cells}</tr>")
    content = (
        f'<div class="scroll"><table class="map"><thead><tr><th>{escape(first)} (rows), '
        f"{escape(second)} (columns)</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        "</div>"
    )
    return Figure(title, content, f"{found}.", found.table.reset_index(names="kind"))
