"""Every figure of the analysis, by name: pure functions, table -> `Figure`.

Import the figures from here, also those of `eeflib.analysis.figures_methods`. A `Figure` shows in a
notebook, goes into a page (`body`, with `STYLE` once), opens as a file of its own (`page()`), and
holds the table behind it. People with the common colour-vision deficiencies can distinguish
the colours, which also come with a glyph, a dash or a hatching; light and dark follow the reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eeflib.analysis import style, svg, tables, taxonomy
from eeflib.analysis.figure import (
    STYLE,
    Figure,
    colour,
    nothing,
    percent,
    records,
    stack,
)
from eeflib.analysis.figures_methods import (
    action_mix,
    budget,
    compared,
    discovered,
    error_kinds,
    gained_lost,
    newly_solved,
    other_m,
    simplicity_bias,
)
from eeflib.analysis.labels import Agreement
from eeflib.analysis.markup import cell, clean, escape, table
from eeflib.analysis.segments import Segment
from eeflib.analysis.style import GROUPS, LABELS
from eeflib.analysis.svg import Bar, Part, Share, bar_chart, share_chart
from eeflib.analysis.taxonomy import Diagnosis
from eeflib.analysis.taxonomy_rules import KINDS
from eeflib.records import Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import wilson

__all__ = [
    "STYLE",
    "Figure",
    "action_mix",
    "budget",
    "compared",
    "discovered",
    "error_kinds",
    "failure_agreement",
    "failure_kinds",
    "first_solved",
    "gained_lost",
    "lengths",
    "newly_solved",
    "other_m",
    "outcome_by_type",
    "recovery_curve",
    "recovery_map",
    "rewards",
    "segment_ribbon",
    "simplicity_bias",
    "steps_to_failure",
    "trajectory_curve",
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
    looks = style.group_looks(rows["group"])
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
    medians = [
        f"{'solved' if solved else 'failed'} {means[solved]:g}"
        for solved in (True, False)
        if solved in means.index
    ]
    return Figure(title, chart, f"Median number of actions: {', '.join(medians)}.", rows)


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
    """After how many actions failures show, by kind; from `failures`."""
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
        y_label="share of failures that show by then",
        label=title,
        end_values=False,
        height=320,
    )
    note = (
        "The step that shows a failure is that of its evidence: the purchase, the focus, the first "
        "action of a loop, or the end."
    )
    return Figure(title, chart, note, rows)


def win_rates(evaluations: pd.DataFrame, looks: Mapping[str, style.Look] | None = None) -> Figure:
    """Win rate per fine-tuning iteration and method with its band; from `frames.evaluations`.

    Args:
        looks: of the methods; None: those of `style.method_looks`.
    """
    title = "Win rate per iteration"
    rows = tables.courses(tables.win_rates(evaluations))
    if rows.empty:
        return nothing(title, "No evaluation is recorded yet (evaluations.jsonl).")
    series = []
    for method in style.order(rows["method"]):
        look = (looks or style.method_looks(rows["method"]))[method]
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
    groups = [g for g in style.level_order(sizes.index[:GROUPS_SHOWN]) if g]
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
        "also counts further kinds of an episode. Whiskers are 95 % Wilson intervals. A cause is "
        f"named for {percent(covered.share)} ({percent(low)} to {percent(high)}), how it ended "
        f"for another {percent(covered.end / total)}."
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


_UNEXPLORED = (
    "No exploration from expert states is recorded (branches.jsonl with k > 0), so there is "
    "nothing to say about recovery. A run with EEF among its methods records it."
)


def recovery_map(states: pd.DataFrame, rows: int = 40) -> Figure:
    """Failed trajectories by expert state: the student's wins / rollouts, the deepest won first.

    Args:
        states: `frames.states`; of several methods and iterations the one that
            `tables.pick_iteration` names is drawn.
        rows: trajectories shown at most.
    """
    title = "Recovery map: from which states of a failure can the student still win?"
    states = tables.pick_iteration(states)
    order = tables.recovery_map(states, None)
    columns = [c for c in order.columns if c[0] == "s" and c[1:].isdecimal()]
    if order.empty or len(columns) < 2:
        return nothing(title, _UNEXPLORED)
    shown = order.head(rows)
    cells: dict[tuple[int, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for state in records(states[states["trajectory_id"].isin(shown["trajectory_id"])]):
        cells[state["seed"], state["trajectory_id"]][state["k"]] = state
    levels, body = bool((shown["level"] != "").any()), []
    level = '<th scope="col">level</th>' if levels else ""
    for row in records(shown):
        found = cells[row["seed"], row["trajectory_id"]]
        body.append(
            f"<tr><td><code>{escape(row['task_id'], 60)}</code></td>"
            f"{cell(str(row['seed']), number=True)}"
            + (f"<td>{escape(row['level'], 20)}</td>" if levels else "")
            + cell(str(row["length"]), number=True)
            + "".join(_state_cell(found.get(k)) for k in range(len(columns)))
            + "</tr>"
        )
    heads = "".join(f'<th scope="col" class="c">s<sub>{c[1:]}</sub></th>' for c in columns)
    content = (
        '<div class="scroll"><table class="map"><thead><tr><th scope="col">task</th>'
        f'<th scope="col" class="num">seed</th>{level}'
        f'<th scope="col" class="num">actions</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    lost = int((order["last"] < 0).sum())
    more = f"The first {rows} of {len(order)} are shown. " if len(order) > rows else ""
    note = (
        "A row is a trajectory in which the teacher failed, a column a state the student was put "
        "into: wins / rollouts, the darker the likelier. Sorted by the last state that could still "
        f"be won. {more}{lost} of {len(order)} were won from no state. ! not restorable or ended "
        "by a fault, \u2013 not tried, blank: no such state."
    )
    return Figure(title, content, note, order)


def _actions(n: int) -> str:
    return f"{n} action{'' if n == 1 else 's'}"


def _state_cell(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return '<td class="c"></td>'
    if not state["n"]:
        glyph = "\u2013" if state["status"] == "untried" else "!"
        return f'<td class="c no" title="{escape(state["status"])}">{glyph}</td>'
    text = f"{state['wins']}/{state['n']}"
    note = (
        f"s{state['k']}, after {_actions(state['t'])}: won {state['wins']} of {state['n']}, "
        f"95 % interval {percent(state['low'])} to {percent(state['high'])}"
    )
    kind = "won" if state["wins"] else "lost"
    glyph = "\u25b2\u202f" if state["wins"] else ""
    return (
        f'<td class="c {kind}" style="--p:{100 * state["p"]:.0f}%" title="{escape(note)}">'
        f"{glyph}{text}</td>"
    )


def recovery_curve(states: pd.DataFrame) -> Figure:
    """Share of rollouts won from s0 and each expert state of failed trajectories, by level."""
    title = "Recovery curve: how far into a failure can the student still win?"
    states = tables.pick_iteration(states)
    curve = tables.recovery_curve(states)
    if curve.empty or curve["k"].max() < 1:
        return nothing(title, _UNEXPLORED)
    looks = style.group_looks(curve["group"])
    series = []
    for group, look in looks.items():
        part = curve[curve["group"] == group]
        points = tuple(
            svg.Point(k, p, lo, hi, f"{clean(group, 40)}, s{k}: won {w} of {n}, {percent(p)}")
            for k, p, lo, hi, w, n in zip(
                *(part[c] for c in ("k", "p", "low", "high", "wins", "n")), strict=True
            )
        )
        # Bands of many small groups would hide each other and the lines.
        band = group == "all" or len(looks) <= 4
        series.append(svg.Series(group, points, colour(look), look.dash, look.marker, band))
    chart = svg.line_chart(
        series,
        x_label="expert state k (0 = the start of the task)",
        y_label="share of student rollouts that solve the task",
        end_values=False,
        label="Recovery curve: share of rollouts won from each expert state of failed trajectories",
    )
    method, iteration = states["method"].iloc[0], states["iteration"].iloc[0]
    note = (
        f"{clean(method, 60)}, iteration {iteration}: the student as it was before that "
        "iteration's training. Bands are 95 % Wilson intervals over rollouts. States with a high k "
        "exist only where the teacher acted long enough, so points differ in the tasks behind them."
    )
    return Figure(title, chart, note, curve)


def trajectory_curve(states: pd.DataFrame, trajectory_id: str, seed: int) -> Figure:
    """Wins from each state of one trajectory, with its interval; the point of no return marked."""
    title = "Recovery along one trajectory"
    states = tables.pick_iteration(states)
    curve = tables.trajectory_curve(states, trajectory_id, seed)
    if curve.empty:
        return nothing(title, f"No state of trajectory {trajectory_id!r} (seed {seed}) was tried.")
    won = curve[curve["wins"] > 0]
    own = states[(states["trajectory_id"] == trajectory_id) & (states["seed"] == seed)]
    solved, length = bool(own["teacher_solved"].iloc[0]), int(own["length"].iloc[0])
    points = tuple(
        svg.Point(t, p, lo, hi, f"s{k}, after {_actions(t)}: won {w} of {n}, {percent(p)}")
        for k, t, n, w, p, lo, hi in curve.itertuples(index=False, name=None)
    )
    mark, verdict = None, "The teacher solved it."
    if not solved and won.empty:
        verdict = "No state of this failure was won."
    elif not solved:
        t = int(won["t"].iloc[-1])
        later = curve.loc[curve["t"] > t, "t"]
        until = int(later.min()) if len(later) else length
        mark = (float(t), f"no return after action {t}")
        verdict = (
            f"Last won after {_actions(t)}: what the teacher did from there to action {until} lost "
            "it, as far as these rollouts tell."
        )
    look = style.GROUPS[2]
    chart = svg.line_chart(
        [svg.Series("student", points, colour(look), look.dash, look.marker)],
        x_label=f"the teacher's actions before the state (of {length})",
        y_label="share of student rollouts that solve the task",
        label=f"Recovery along {clean(trajectory_id, 80)}",
        height=280,
        mark=mark,
    )
    return Figure(title, chart, f"{clean(trajectory_id, 120)}, seed {seed}. {verdict}", curve)


def segment_ribbon(
    trajectory: Trajectory,
    segments: Sequence[Segment],
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
) -> Figure:
    """A trajectory as a band of labelled segments, tried states and the kind of failure below."""
    total = max(trajectory.length, 1)
    parts, rows = [], []
    for s in segments:
        look = LABELS[s.label]
        note = f"{s.label}, actions {s.start} to {s.stop - 1}: {s.evidence}"
        rows.append({"start": s.start, "stop": s.stop, "label": s.label, "evidence": s.evidence})
        parts.append(
            f'<span style="flex:{s.length} 1 0;--c:{colour(look)}" title="{escape(note, 400)}">'
            f"{look.glyph} {s.label} ({s.length})</span>"
        )
    if not segments:
        rows.append({"start": 0, "stop": trajectory.length, "label": "not explored"})
        what = "explored: nothing says which actions helped and which hurt"
        grey = colour(LABELS["unknown"])
        parts.append(f'<span style="flex:{total} 1 0;--c:{grey}">? not {what}</span>')
    glyphs = {True: "\u25b2 ", False: ""}
    ticks = [(o.t, f"{o.name} {glyphs[o.won]}{o.wins}/{o.n}", "") for o in states if o.tried]
    if diagnosis is not None:
        f = diagnosis.findings[0]
        kind = KINDS[f.kind]
        ticks.append((f.t, f"{kind.glyph} {kind.title}: {clean(f.text, 60)}", " bad"))
    marks = "".join(
        f'<span class="{"late" if t > 0.6 * total else ""}{bad}" '
        f'style="left:{100 * min(t, total) / total:.1f}%">{escape(text, 100)}</span>'
        for t, text, bad in ticks
    )
    content = (
        f'<div class="scroll"><div class="ribbon">{"".join(parts)}</div>'
        f'<div class="ticks">{marks}</div></div>'
    )
    return Figure("", content, "", pd.DataFrame(rows))


def first_solved(states: pd.DataFrame) -> Figure:
    """Training tasks that the teacher failed: first won from s0, only from a later state, never."""
    title = "First solved from where?"
    reach = tables.reachable(tables.pick_iteration(states))
    if reach.empty:
        return nothing(title, _UNEXPLORED)
    rows = []
    for level, tasks, s0, deep, never in reach.itertuples(index=False, name=None):
        bar = stack(
            [
                (s0, "from s\u2080", colour(style.GROUPS[0]), 26, "s\u2080"),
                (deep, "only from an expert state", colour(LABELS["beneficial"]), 42, "\u25b2"),
                (never, "from no state tried", colour(LABELS["unknown"]), 10, ""),
            ]
        )
        rows.append([escape(level or "no level", 40), *map(str, (tasks, s0, deep, never)), bar])
    head = ("Level", "tasks", "from s\u2080", "\u25b2 only from s\u2096", "from none", "share")
    note = (
        "Training tasks that the teacher failed. \u201cOnly from s\u2096\u201d is what exploring "
        "expert failures adds: no rollout from the start solved these tasks."
    )
    return Figure(title, table(head, rows, numbers=(1, 2, 3, 4)), note, reach)
