"""The report's sections on what exploration found in the teacher's trajectories.

Each function is pure, findings -> section, and says what is missing where data is. Knows nothing
about files or the page around a section.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis import palette, summaries, svg, transcripts
from eeflib.analysis.findings import Annotated, Findings
from eeflib.analysis.markup import cell, clean, escape, table
from eeflib.analysis.page import Section, missing
from eeflib.analysis.results import percent

__all__ = ["failure", "recovery", "recovery_map", "simplicity"]

_NO_BRANCHES = missing(
    "No exploration from expert states is recorded (<code>branches.jsonl</code> with k &gt; 0), so "
    "there is nothing to say about recovery. A run with EEF among its methods records it."
)


def recovery(found: Findings) -> Section:
    """How often the student wins from each expert state of a failed trajectory."""
    name = "How far into a failure can the student still win?"
    curve = summaries.recovery_curve(found.states)
    if curve.empty:
        return Section("recovery", name, "Recovery", _NO_BRANCHES)
    looks = palette.group_looks(curve["group"])
    series = []
    for i, (group, look) in enumerate(looks.items()):
        part = curve[curve["group"] == group]
        points = tuple(
            svg.Point(k, p, lo, hi, _point_note(group, k, p, lo, hi, w, n))
            for k, p, lo, hi, w, n in zip(
                *(part[c] for c in ("k", "p", "low", "high", "wins", "n")), strict=True
            )
        )
        colour = f"var(--g-{i % len(palette.GROUPS)})"
        # Bands of many small groups would hide each other and the lines.
        band = group == "all" or len(looks) <= 4
        series.append(svg.Series(group, points, colour, look.dash, look.marker, band))
    chart = svg.line_chart(
        series,
        x_label="expert state k (0 = the start of the task)",
        y_label="share of student rollouts that solve the task",
        end_values=False,
        label="Recovery curve: share of rollouts won from each expert state of failed trajectories",
    )
    method, iteration = found.states["method"].iloc[0], found.states["iteration"].iloc[0]
    body = (
        "<p>The student was put into the states that the teacher passed through on tasks it "
        f"failed, and went on from there.</p>{chart}"
        f'<p class="note">{escape(method, 60)}, iteration {iteration}: the student as it was '
        "before that iteration's training. Bands are Wilson intervals over rollouts. States with a "
        "high k exist only where the teacher acted long enough, so points differ in the tasks "
        "behind them.</p>"
        f"<h3>First solved from where?</h3>{_reachable(summaries.reachable(found.states))}"
    )
    return Section("recovery", name, "Recovery", body)


def _point_note(group: str, k: int, p: float, low: float, high: float, w: int, n: int) -> str:
    return (
        f"{clean(group, 40)}, s{k}: won {w} of {n} rollouts, {percent(p)} "
        f"[{percent(low)}, {percent(high)}]"
    )


def _reachable(reach: pd.DataFrame) -> str:
    rows = []
    for level, tasks, s0, deep, never in reach.itertuples(index=False, name=None):
        bar = "".join(
            f'<span style="flex:{n} 1 0;--c:var(--{colour});--fill:{fill}%" title="{title}: {n}">'
            f"{n}</span>"
            for n, colour, fill, title in (
                (s0, "ink", 14, "from s0"),
                (deep, "l-beneficial", 62, "only from an expert state"),
                (never, "soft", 10, "from no state tried"),
            )
            if n
        )
        numbers = [str(x) for x in (tasks, s0, deep, never)]
        rows.append([escape(level or "no level", 40), *numbers, f'<div class="bar">{bar}</div>'])
    head = ("Level", "tasks", "from s\u2080", "only from s\u2096", "from none", "share of tasks")
    caption = (
        "Training tasks that the teacher failed. \u201cOnly from s\u2096\u201d is what exploring "
        "expert failures adds: no rollout from the start solved these tasks."
    )
    return table(head, rows, numbers=(1, 2, 3, 4), caption=caption)


def recovery_map(found: Findings, rows: int = 40) -> Section:
    """Failed trajectories by expert state."""
    name = "The recovery map"
    full = summaries.recovery_map(found.states, None)
    columns = [c for c in full.columns if c[0] == "s" and c[1:].isdecimal()]
    if full.empty or len(columns) < 2:
        return Section("map", name, "Map", _NO_BRANCHES)
    shown = full.head(rows)
    body = []
    for task, seed, level, length, *cells in shown[
        ["task_id", "seed", "level", "length", *columns]
    ].itertuples(index=False, name=None):
        body.append(
            f"<tr><td><code>{escape(task, 60)}</code></td>{cell(str(seed), number=True)}"
            f"<td>{escape(level, 20)}</td>{cell(str(length), number=True)}"
            f"{''.join(_map_cell(c) for c in cells)}</tr>"
        )
    heads = "".join(f'<th scope="col" style="text-align:center">{c}</th>' for c in columns)
    lost = int((full["last"] < 0).sum())
    more = f"The first {rows} of {len(full)} are shown. " if len(full) > rows else ""
    return Section(
        "map",
        name,
        "Map",
        "<p>One row per trajectory in which the teacher failed, one column per state the student "
        "was put into: wins / rollouts. Where a row turns from won to lost, the teacher's actions "
        "between did the damage.</p>"
        '<div class="scroll"><table class="map"><thead><tr><th scope="col">task</th>'
        '<th scope="col" class="num">seed</th><th scope="col">level</th>'
        f'<th scope="col" class="num">actions</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">Sorted by the last state that could still be won. {more}{lost} of '
        f"{len(full)} trajectories were won from no state. ! = not restorable or ended by a fault, "
        "\u2013 = not tried, blank = the trajectory has no such state.</p>",
    )


def _map_cell(text: str) -> str:
    if "/" in text:
        won = not text.startswith("0/")
        return f'<td class="c {"won" if won else "lost"}">{text}</td>'
    if not text:
        return '<td class="c"></td>'
    glyph = "\u2013" if text == "untried" else "!"
    return f'<td class="c no" title="{escape(text)}">{glyph}</td>'


def failure(found: Findings) -> Section:
    """A failed trajectory with its beneficial and harmful segments."""
    name = "One failure, read closely"
    if not found.annotated:
        why = (
            "The teacher solved every task it recorded: there is no failure to read."
            if len(found.trajectories)
            else "No teacher trajectory is recorded (<code>trajectories.jsonl</code>)."
        )
        return Section("failure", name, "A failure", missing(why))
    first, *others = found.annotated[:3]
    if {"beneficial", "harmful"} <= first.labels:
        intro = (
            "The teacher failed this task, yet not all of it was wrong. \u25b2 <strong>Beneficial"
            "</strong> actions lead from a state where the student loses to one where it wins: "
            "EEF may train on them. \u25bc <strong>Harmful</strong> ones lead the other way: they "
            "stay in the context and are never trained; the student learns to recover after them."
        )
    elif first.labels & {"beneficial", "harmful"}:
        kind = "harmful" if "harmful" in first.labels else "beneficial"
        intro = (
            "No failed trajectory of this run has both beneficial and harmful segments; this one "
            f"has {kind} ones."
        )
    elif first.segments:
        intro = (
            "No segment of a failed trajectory could be labelled beneficial or harmful: the "
            "student won from none of its states. This is one of them."
        )
    else:
        intro = (
            "Expert states have not been explored, so nothing says which actions helped and which "
            "hurt. This is a failed trajectory as recorded."
        )
    body = f"<p>{intro} Open a step to read what the teacher saw and thought.</p>{_card(first)}"
    if others:
        inner = "".join(_card(x) for x in others)
        body += f'<details class="more"><summary>Two more failures</summary>{inner}</details>'
        body = body.replace("Two more failures", "One more failure") if len(others) == 1 else body
    return Section("failure", name, "A failure", body)


def _card(item: Annotated) -> str:
    level = f" &middot; {escape(item.level, 40)}" if item.level else ""
    rendered = transcripts.render_trajectory(
        item.trajectory, segments=item.segments or None, states=item.states, style=False
    )
    return (
        f'<div class="card"><p class="note"><code>{escape(item.trajectory.id, 120)}</code> '
        f"&middot; seed {item.seed}{level}</p>{rendered}</div>"
    )


def simplicity(found: Findings) -> Section:
    """Kinds of action that are trained on, against what the teacher's trajectories hold."""
    name = "What the training data teaches"
    shares = found.actions
    if shares.empty:
        text = "Neither teacher trajectories nor training samples are recorded yet."
        return Section("actions", name, "Simplicity bias", missing(text))
    kinds = list(dict.fromkeys(shares["kind"]))
    peak = float(shares["share"].max()) or 1.0
    rows = []
    for source in dict.fromkeys(shares["source"]):
        part = shares[shares["source"] == source]
        cells = "".join(
            f'<td class="share" style="--w:{share / peak * 100:.1f}%" '
            f'title="{count} of {total} actions">'
            f"{f'{share * 100:.1f}' if count else '&middot;'}</td>"
            for share, count, total in zip(part["share"], part["count"], part["total"], strict=True)
        )
        hero = ' class="hero"' if source == found.focus else ""
        total = int(part["total"].iloc[0])
        rows.append(
            f"<tr{hero}><td>{escape(source, 60)}</td>{cells}{cell(f'{total:,}', number=True)}</tr>"
        )
    heads = "".join(f'<th scope="col">{escape(k, 30)}</th>' for k in kinds)
    body = (
        f"<p>{_bias(shares, found.focus)}</p>"
        f'<div class="scroll"><table><thead><tr><th scope="col">source</th>{heads}'
        '<th scope="col" class="num">actions</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Per cent of the actions of each source. Of a method: the actions that '
        "carry loss in its last iteration's samples.</p>"
    )
    if not len(found.samples):
        body += missing("No training samples are recorded (<code>samples.jsonl</code>).")
    return Section("actions", name, "Simplicity bias", body)


def _bias(shares: pd.DataFrame, focus: str) -> str:
    """The kind of action most over-represented in failures, in a sentence."""
    wide = shares.pivot(index="kind", columns="source", values="share")
    if not {"teacher successes", "teacher failures"} <= set(wide.columns):
        return "Successes and failures of the teacher are both needed to see a bias."
    gap = (wide["teacher failures"] - wide["teacher successes"]).drop(
        ["invalid", "other kinds"], errors="ignore"
    )
    kind = str(gap.idxmax())
    if gap[kind] <= 0:
        return "Failures of the teacher hold no kind of action that its successes lack."
    row = shares[shares["kind"] == kind]
    share = dict(zip(row["source"], row["share"], strict=True))
    text = (
        "A student cloned from successes sees what easy tasks need. "
        f"<strong>{escape(kind)}</strong> makes up {percent(share['teacher successes'])} of the "
        f"actions in the teacher's successes and {percent(share['teacher failures'])} in its "
        "failures"
    )
    if focus in share:
        text += f"; in what {escape(focus, 60)} trains on, {percent(share[focus])}"
    return f"{text}."
