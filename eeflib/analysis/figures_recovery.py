"""Figures of recovery: the map, the curves, the point of no return, the ribbon of a trajectory.

Owns how states and segments are drawn; each figure is pure, table -> `Figure`. Knows nothing about
files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eeflib.analysis import palette, summaries, summaries_recovery, svg
from eeflib.analysis.figure import Figure, colour, nothing
from eeflib.analysis.figure_parts import Anchor, link, percent, records, stack
from eeflib.analysis.markup import cell, clean, escape, table
from eeflib.analysis.palette import LABELS
from eeflib.analysis.segments import Segment
from eeflib.analysis.taxonomy import Diagnosis
from eeflib.analysis.taxonomy_kinds import KINDS
from eeflib.records import Trajectory
from eeflib.states import StateOutcome

__all__ = [
    "first_solved",
    "recovery_curve",
    "recovery_map",
    "segment_ribbon",
    "trajectory_curve",
]

_UNEXPLORED = (
    "No exploration from expert states is recorded (branches.jsonl with k > 0), so there is "
    "nothing to say about recovery. A run with EEF among its methods records it."
)


def recovery_map(states: pd.DataFrame, rows: int = 40, anchor: Anchor | None = None) -> Figure:
    """Failed trajectories by expert state: the student's wins / rollouts, the deepest won first.

    Args:
        states: `frames.states`; of several methods and iterations the one that
            `summaries.pick_iteration` names is drawn.
        rows: trajectories shown at most.
        anchor: where a cell leads; its row has seed, task_id, trajectory_id, k and t.
    """
    title = "Recovery map: from which states of a failure can the student still win?"
    states = summaries.pick_iteration(states)
    order = summaries.recovery_map(states, None)
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
            + "".join(_state_cell(found.get(k), anchor) for k in range(len(columns)))
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


def _state_cell(state: Mapping[str, Any] | None, anchor: Anchor | None) -> str:
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
        f"{link(glyph + text, anchor, state)}</td>"
    )


def recovery_curve(states: pd.DataFrame) -> Figure:
    """Share of rollouts won from s0 and each expert state of failed trajectories, by level."""
    title = "Recovery curve: how far into a failure can the student still win?"
    states = summaries.pick_iteration(states)
    curve = summaries.recovery_curve(states)
    if curve.empty or curve["k"].max() < 1:
        return nothing(title, _UNEXPLORED)
    looks = palette.group_looks(curve["group"])
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
    states = summaries.pick_iteration(states)
    curve = summaries_recovery.trajectory_curve(states, trajectory_id, seed)
    if curve.empty:
        return nothing(title, f"No state of trajectory {trajectory_id!r} (seed {seed}) was tried.")
    won = curve[curve["wins"] > 0]
    own = states[(states["trajectory_id"] == trajectory_id) & (states["seed"] == seed)]
    solved, length = bool(own["teacher_solved"].iloc[0]), int(own["length"].iloc[0])
    points = tuple(
        svg.Point(t, p, lo, hi, f"s{k}, after {_actions(t)}: won {w} of {n}, {percent(p)}")
        for k, t, n, w, p, lo, hi in curve.itertuples(index=False, name=None)
    )
    mark, said = None, "The teacher solved it."
    if not solved and won.empty:
        said = "No state of this failure was won."
    elif not solved:
        t = int(won["t"].iloc[-1])
        later = curve.loc[curve["t"] > t, "t"]
        until = int(later.min()) if len(later) else length
        mark = (float(t), f"no return after action {t}")
        said = (
            f"Last won after {_actions(t)}: what the teacher did from there to action {until} lost "
            "it, as far as these rollouts tell."
        )
    look = palette.GROUPS[2]
    chart = svg.line_chart(
        [svg.Series("student", points, colour(look), look.dash, look.marker)],
        x_label=f"the teacher's actions before the state (of {length})",
        y_label="share of student rollouts that solve the task",
        label=f"Recovery along {clean(trajectory_id, 80)}",
        height=280,
        mark=mark,
    )
    return Figure(title, chart, f"{clean(trajectory_id, 120)}, seed {seed}. {said}", curve)


def segment_ribbon(
    trajectory: Trajectory,
    segments: Sequence[Segment],
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
    anchor: Anchor | None = None,
) -> Figure:
    """A trajectory as a band of labelled segments, tried states and what it failed by below it.

    Args:
        anchor: where a segment leads; its row has start, stop and label.
    """
    total = max(trajectory.length, 1)
    parts, rows = [], []
    for s in segments:
        look = LABELS[s.label]
        note = f"{s.label}, actions {s.start} to {s.stop - 1}: {s.evidence}"
        row = {"start": s.start, "stop": s.stop, "label": s.label, "evidence": s.evidence}
        rows.append(row)
        parts.append(
            f'<span style="flex:{s.length} 1 0;--c:{colour(look)}" title="{escape(note, 400)}">'
            f"{link(f'{look.glyph} {s.label} ({s.length})', anchor, row)}</span>"
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
    reach = summaries.reachable(summaries.pick_iteration(states))
    if reach.empty:
        return nothing(title, _UNEXPLORED)
    rows = []
    for level, tasks, s0, deep, never in reach.itertuples(index=False, name=None):
        bar = stack(
            [
                (s0, "from s\u2080", colour(palette.GROUPS[0]), 26, "s\u2080"),
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
