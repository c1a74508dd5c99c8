"""The sections of the report: results of the methods, and the evidence behind them.

Each function is pure, findings -> `Section`. Where data is missing, the section says what is
missing and how to get it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from eeflib.analysis import figures, style, svg, tables, transcripts
from eeflib.analysis.figure import Figure, colour
from eeflib.analysis.figures_methods import changes_by_level
from eeflib.analysis.findings import Annotated, Findings
from eeflib.analysis.markup import clean, escape, table
from eeflib.analysis.page import Section, missing
from eeflib.analysis.run import TEACHER
from eeflib.analysis.tables import number
from eeflib.stats import PairedDifference, mean_reward, pooled, win_rate

__all__ = [
    "budget",
    "failure",
    "failures",
    "gained",
    "headline",
    "iterations",
    "newly_solved",
    "paired",
    "percent",
    "recovery",
    "recovery_map",
    "simplicity",
    "summary",
    "teacher",
]


def percent(share: float) -> str:
    """`64.4 %`; a dash for nan."""
    return "\u2013" if math.isnan(share) else f"{share * 100:.1f}\u202f%"


def points(difference: float) -> str:
    """`+8.2`, percentage points."""
    return f"{difference * 100:+.1f}".replace("-", "\u2212")


def summary(found: Findings) -> str:
    """The result in two or three sentences."""
    out = []
    if found.focus:
        own = win_rate(found.outcomes[found.focus])
        sentence = (
            f"The student tuned with {escape(found.focus, 60)} solves <strong>{percent(own.rate)}"
            f"</strong> of the tasks it has never seen"
        )
        if found.baseline:
            other = win_rate(found.outcomes[found.baseline])
            sentence += f", against {percent(other.rate)} with {escape(found.baseline, 60)}"
            if found.baseline in found.paired:
                p = found.paired[found.baseline]
                sentence += (
                    f" (difference {points(p.mean)} points, 95\u202f% interval {points(p.low)} to "
                    f"{points(p.high)})"
                )
        out.append(f"{sentence}.")
    if TEACHER in found.outcomes:
        teacher = win_rate(found.outcomes[TEACHER])
        out.append(f"The teacher it learned from solves {percent(teacher.rate)} of the same tasks.")
    elif found.run.teacher_outcomes:
        teacher = win_rate(found.run.teacher_outcomes)
        out.append(f"The teacher it learned from solved {percent(teacher.rate)} of its own tasks.")
    reach = tables.reachable(found.states)
    if int(reach["only_deeper"].sum()):
        deep = int(reach["only_deeper"].sum())
        out.append(
            f"Of the {int(reach['tasks'].sum())} explored tasks that it failed, {deep} "
            f"{'was' if deep == 1 else 'were'} first solved from the middle of its failures."
        )
    return " ".join(out) or "This run holds no results yet."


def headline(found: Findings, looks: Mapping[str, style.Look]) -> Section:
    """One row per method."""
    rows = [_method_row(found, m, looks[m]) for m in found.methods]
    if not rows:
        body = missing(
            "No method has been evaluated yet: there is no <code>evaluations.jsonl</code> and no "
            "teacher trajectory in this run folder. Run the command that made it again; it "
            "continues where it stopped."
        )
        return Section("methods", "The methods, side by side", "Methods", body)
    head = (
        "Method",
        "Win rate",
        "95\u202f% interval",
        "",
        "Seed sd",
        "Reward",
        "Simulations",
        "Seconds",
    )
    sizes = sorted(
        {r.n for group in found.outcomes.values() for r in pooled(group).per_seed.values()}
    )
    seeds = sorted({o.seed for group in found.outcomes.values() for o in group})
    caption = (
        "Win rate: share of solved tasks, last fine-tuning iteration, Wilson interval over all "
        "evaluations. Seed sd: standard deviation of the seeds' win rates, in points. Simulations "
        "(student rollouts) and seconds are per seed. "
    )
    if sizes:
        each = f"in each of {len(seeds)} seeds" if len(seeds) > 1 else "of one seed"
        caption += f"Evaluated on {' or '.join(map(str, sizes))} tasks {each}. "
    if TEACHER in found.methods and TEACHER not in found.outcomes:
        caption += (
            "\u2020 The teacher's row is about the training tasks it recorded, the others' about "
            "held-out tasks."
        )
    body = table(head, rows, numbers=(1, 2, 4, 5, 6, 7), caption=caption, kind="methods")
    body = body.replace("<tr><td><strong>", '<tr class="hero"><td><strong>')
    absent = [m for m in found.methods if m not in found.outcomes and m != TEACHER]
    if absent:
        body += missing(
            f"No evaluation records for {escape(', '.join(absent), 400)}: their figures are taken "
            "from <code>summary.json</code>."
        )
    return Section("methods", "The methods, side by side", "Methods", body)


def _method_row(found: Findings, method: str, look: style.Look) -> list[str]:
    reported = found.reported.get(method, {})
    outcomes = found.outcomes.get(method) or (
        found.run.teacher_outcomes if method == TEACHER else []
    )
    if outcomes:
        got = pooled(outcomes)
        rate, low, high, sd = got.rate.rate, got.rate.low, got.rate.high, got.sd
        reward = mean_reward(outcomes).value
    else:
        rate, reward = number(reported.get("win_rate")), number(reported.get("reward"))
        bounds = reported.get("interval")
        pair = bounds if isinstance(bounds, list) and len(bounds) == 2 else [None, None]
        low, high, sd = number(pair[0]), number(pair[1]), math.nan
    dagger = " \u2020" if method == TEACHER and method not in found.outcomes else ""
    swatch = f'<span class="swatch" style="--c:{colour(look)}">{look.glyph}</span>'
    last, usual = found.iteration(method), found.iteration(found.focus)
    after = f" <small>after {last} of {usual} iterations</small>" if 0 < last < usual else ""
    name = f"{swatch}{escape(method, 60)}{dagger}{after}"
    interval = "" if math.isnan(low + high) else f"{low * 100:.1f} \u2013 {high * 100:.1f}"
    simulations, seconds = number(reported.get("simulations")), number(reported.get("seconds"))
    return [
        f"<strong>{name}</strong>" if method == found.focus else name,
        percent(rate),
        interval,
        "" if math.isnan(low + high) else svg.interval_strip(rate, low, high, colour(look)),
        "\u2013" if math.isnan(sd) else f"{sd * 100:.1f}",
        "\u2013" if math.isnan(reward) else f"{reward:.2f}",
        "\u2013" if math.isnan(simulations) else f"{simulations:,.0f}",
        "\u2013" if math.isnan(seconds) else f"{seconds:,.0f}",
    ]


def paired(found: Findings, looks: Mapping[str, style.Look]) -> Section:
    """The focus against every other method, seed by seed."""
    name = "Is the difference real?"
    faults = "".join(missing(f"Not comparable: {escape(f)}") for f in found.faults)
    if not found.paired:
        body = missing("Two evaluated methods are needed for a comparison.") if not faults else ""
        return Section("difference", name, "Difference", body + faults)
    main = found.paired.get(found.baseline) or next(iter(found.paired.values()))
    rows = [
        svg.Row(
            name=f"{clean(p.a, 24)} \u2212 {clean(p.b, 24)}"
            + (f" ({found.iteration(method)} it.)" if _early(found, method) else ""),
            dots=p.differences if p.basis == "seeds" else (),
            value=p.mean,
            low=p.low,
            high=p.high,
            colour=colour(looks[method]),
            note=_spoken(p),
        )
        for method, p in found.paired.items()
    ]
    chart = svg.interval_chart(
        rows,
        x_label="difference in win rate, percentage points",
        label="; ".join(_spoken(p) for p in found.paired.values()),
    )
    if main.basis == "seeds":
        how = (
            "Both methods are evaluated on the same tasks in each seed. Small dots are seeds, the "
            "diamond is their mean, the bar the 95\u202f% t interval of a paired test over seeds. "
        )
    else:
        how = (
            "One seed only: the interval is a bootstrap over tasks and p is McNemar's exact test. "
            "It says nothing about what another training seed would give. "
        )
    if any(_early(found, m) for m in found.paired):
        how += "(n it.): both methods after n iterations, since one of them ran no more. "
    left_out = sorted({s for p in found.paired.values() for s in p.unpaired})
    if left_out:
        seeds = ", ".join(map(str, left_out))
        how += f"Left out, because not all methods finished them: seeds {seeds}. "
    body = f'<p>{_sentence(main)}</p>{chart}<p class="note">{how}</p>{faults}'
    return Section("difference", name, "Difference", body)


def _early(found: Findings, method: str) -> bool:
    return 0 < found.iteration(method) < found.iteration(found.focus)


def _sentence(p: PairedDifference) -> str:
    seeds = f"{p.n} seed{'s' if p.n > 1 else ''}"
    a, b = escape(p.a, 60), escape(p.b, 60)
    if abs(p.mean) < 5e-4:
        claim = f"{a} solves as many tasks as {b}"
    else:
        direction = "more" if p.mean > 0 else "fewer"
        claim = f"{a} solves {abs(p.mean) * 100:.1f} percentage points {direction} than {b}"
    text = (
        f"<strong>{claim}</strong> (95\u202f% interval {points(p.low)} to {points(p.high)}, "
        f"{_p_text(p.p)}, {seeds}"
    )
    text += f"; ahead in {p.better} of {p.n})." if p.basis == "seeds" else ")."
    if p.low <= 0 <= p.high:
        return f"{text} The interval includes zero: on this evidence it may be chance."
    return text


def _spoken(p: PairedDifference) -> str:
    return (
        f"{clean(p.a, 60)} minus {clean(p.b, 60)}: {points(p.mean)} points, 95 % interval "
        f"{points(p.low)} to {points(p.high)}, {_p_text(p.p)}, {p.n} seeds"
    )


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def iterations(found: Findings, looks: Mapping[str, style.Look]) -> Section:
    """Win rate per fine-tuning iteration."""
    name = "How each method got there"
    figure = figures.win_rates(found.evaluations, looks)
    if figure.table.empty:
        return Section("iterations", name, "Iterations", missing("No evaluation recorded yet."))
    body = replace(figure, title="").body
    if figure.table["iteration"].nunique() == 1:
        body = missing("Only one iteration is recorded, so there is no curve to show yet.") + body
    return Section("iterations", name, "Iterations", body)


def gained(found: Findings) -> Section:
    """Tasks gained and lost by level."""
    name = "What was gained, and what was lost"
    if not found.gained:
        text = missing("Two evaluated methods are needed.")
        return Section("gained", name, "Gained and lost", text)
    parts = []
    for method, change in found.gained.items():
        head = (
            f"<h3>{escape(found.focus, 60)} against {escape(method, 60)}</h3>"
            f"<p>{len(change.gained)} tasks gained, {len(change.lost)} lost, "
            f"{len(change.both)} solved by both, {len(change.never)} by neither.</p>"
        )
        counts = {name: Counter(k.level for k in getattr(change, name)) for name in tables.CHANGES}
        levels = {x for group in counts.values() for x in group}
        by_level = {x: {name: counts[name][x] for name in counts} for x in levels}
        parts.append(head + Figure("", changes_by_level(by_level)).body)
    note = (
        '<p class="note">Counted over all seeds. Lost: no longer solved by '
        f"{escape(found.focus, 60)}. "
        "Some of either is chance: two students of equal skill differ on single tasks, too.</p>"
    )
    return Section("gained", name, "Gained and lost", "".join(parts) + note)


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
    """Why the teacher's failures failed."""
    many = found.failures["level"].nunique() > 1
    by = "level" if many or not found.failures["task_type"].any() else "task_type"
    return _section(
        "kinds",
        "Why the teacher fails",
        "Failures",
        figures.failure_kinds(found.failures, by),
        *([figures.steps_to_failure(found.failures)] if len(found.failures) else []),
        intro="Found by rules, offline; each rule names the step that shows it.",
    )


def teacher(found: Findings) -> Section:
    """The teacher's trajectories in figures: by task type, length, reward."""
    frame = found.trajectories
    by = "level" if frame["level"].any() or not frame["task_type"].any() else "task_type"
    drawn = [figures.outcome_by_type(frame, by)]
    if len(frame):
        drawn += [figures.lengths(frame), figures.rewards(frame)]
    return _section("teacher", "The teacher's trajectories", "Teacher", *drawn)


def newly_solved(found: Findings) -> Section:
    """Test tasks gained and lost, and training tasks that exploration solved."""
    return _section(
        "newly-solved",
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
