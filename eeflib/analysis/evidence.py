"""The report's sections on what exploration found in the teacher's trajectories, and on failures.

Each function is pure, findings -> section, and says what is missing where data is. What is drawn
is `eeflib.analysis.figures`'; a page that shows these sections needs `figures.STYLE`. Knows nothing
about files or the page around a section.
"""

from __future__ import annotations

import pandas as pd

from eeflib.analysis import figures, transcripts
from eeflib.analysis.findings import Annotated, Findings
from eeflib.analysis.markup import escape
from eeflib.analysis.page import Section, missing
from eeflib.analysis.results import percent

__all__ = [
    "budget",
    "failure",
    "failures",
    "newly",
    "recovery",
    "recovery_map",
    "simplicity",
    "usual",
]


def _section(
    anchor: str, title: str, short: str, *drawn: figures.Figure, intro: str = ""
) -> Section:
    body = f"<p>{intro}</p>" if intro else ""
    return Section(anchor, title, short, body + "".join(f.body for f in drawn))


def recovery(found: Findings) -> Section:
    """How often the student wins from each expert state of a failed trajectory."""
    return _section(
        "recovery",
        "How far into a failure can the student still win?",
        "Recovery",
        figures.recovery_curve(found.states),
        *([figures.first_solved(found.states)] if len(found.states) else []),
        intro="The student was put into the states that the teacher passed through on tasks it "
        "failed, and went on from there.",
    )


def recovery_map(found: Findings, rows: int = 40) -> Section:
    """Failed trajectories by expert state."""
    return _section(
        "map",
        "The recovery map",
        "Map",
        figures.recovery_map(found.states, rows),
        intro="Where a row turns from won to lost, the teacher's actions between did the damage.",
    )


def failures(found: Findings) -> Section:
    """What the teacher's failures failed by."""
    many = found.failures["level"].nunique() > 1
    by = "level" if many or not found.failures["task_type"].any() else "task_type"
    return _section(
        "kinds",
        "What the teacher fails by",
        "Failures",
        figures.failure_kinds(found.failures, by),
        *([figures.steps_to_failure(found.failures)] if len(found.failures) else []),
        intro="Found by rules, offline; each rule names the step that shows it.",
    )


def usual(found: Findings) -> Section:
    """The teacher's trajectories in figures: by task type, length, reward."""
    frame = found.trajectories
    by = "level" if frame["level"].any() or not frame["task_type"].any() else "task_type"
    drawn = [figures.outcome_by_type(frame, by)]
    if len(frame):
        drawn += [figures.lengths(frame), figures.rewards(frame)]
    return _section("teacher", "The teacher's trajectories", "Teacher", *drawn)


def newly(found: Findings) -> Section:
    """Test tasks gained and lost, and training tasks that exploration solved."""
    return _section(
        "newly",
        "What became solvable",
        "Newly solved",
        figures.newly_solved(found.changes),
        figures.discovered(found.discoveries),
    )


def budget(found: Findings) -> Section:
    """What each method spent, and what another M would have."""
    return _section(
        "budget",
        "What it cost",
        "Budget",
        figures.budget(found.costs, found.baseline),
        figures.other_m(found.other_m),
    )


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
    section = _section(
        "actions",
        "What the training data teaches",
        "Simplicity bias",
        figures.simplicity_bias(found.actions, found.focus),
        intro=_bias(found.actions, found.focus) if len(found.actions) else "",
    )
    if len(found.samples) or not len(found.actions):
        return section
    lack = missing("No training samples are recorded (<code>samples.jsonl</code>).")
    return Section(section.anchor, section.title, section.short, section.body + lack)


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
