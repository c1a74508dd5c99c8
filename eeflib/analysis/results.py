"""The report's sections on results: methods, paired differences, iterations, gained and lost.

Each function is pure, findings -> section, and says what is missing where data is. Knows nothing
about files or the page around a section.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eeflib.analysis import palette, summaries, svg
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import clean, escape, table
from eeflib.analysis.page import Ink, Section, missing
from eeflib.analysis.run import TEACHER
from eeflib.stats import GainedLost, PairedDifference, mean_reward, pooled, win_rate

__all__ = ["gained", "headline", "iterations", "lede", "paired", "percent", "points"]


def percent(share: float) -> str:
    """`64.4 %`; a dash for nan."""
    return "\u2013" if math.isnan(share) else f"{share * 100:.1f}\u202f%"


def points(difference: float) -> str:
    """`+8.2`, percentage points."""
    return f"{difference * 100:+.1f}".replace("-", "\u2212")


def lede(found: Findings) -> str:
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
    reach = summaries.reachable(found.states)
    if int(reach["only_deeper"].sum()):
        deep = int(reach["only_deeper"].sum())
        out.append(
            f"Of the {int(reach['tasks'].sum())} explored tasks that it failed, {deep} "
            f"{'was' if deep == 1 else 'were'} first solved from the middle of its failures."
        )
    return " ".join(out) or "This run holds no results yet."


def headline(found: Findings, inks: Mapping[str, Ink]) -> Section:
    """One row per method."""
    rows = [_method_row(found, m, inks[m]) for m in found.methods]
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


def _method_row(found: Findings, method: str, ink: Ink) -> list[str]:
    reported = found.reported.get(method, {})
    outcomes = found.outcomes.get(method) or (
        found.run.teacher_outcomes if method == TEACHER else []
    )
    if outcomes:
        got = pooled(outcomes)
        rate, low, high, sd = got.rate.rate, got.rate.low, got.rate.high, got.sd
        reward = mean_reward(outcomes).value
    else:
        rate, reward = _number(reported.get("win_rate")), _number(reported.get("reward"))
        bounds = reported.get("interval")
        pair = bounds if isinstance(bounds, list) and len(bounds) == 2 else [None, None]
        low, high, sd = _number(pair[0]), _number(pair[1]), math.nan
    dagger = " \u2020" if method == TEACHER and method not in found.outcomes else ""
    swatch = f'<span class="swatch" style="--c:{ink.css}">{ink.look.glyph}</span>'
    last, usual = found.iteration(method), found.iteration(found.focus)
    after = f" <small>after {last} of {usual} iterations</small>" if 0 < last < usual else ""
    name = f"{swatch}{escape(method, 60)}{dagger}{after}"
    interval = "" if math.isnan(low + high) else f"{low * 100:.1f} \u2013 {high * 100:.1f}"
    simulations, seconds = _number(reported.get("simulations")), _number(reported.get("seconds"))
    return [
        f"<strong>{name}</strong>" if method == found.focus else name,
        percent(rate),
        interval,
        "" if math.isnan(low + high) else svg.interval_strip(rate, low, high, ink.css),
        "\u2013" if math.isnan(sd) else f"{sd * 100:.1f}",
        "\u2013" if math.isnan(reward) else f"{reward:.2f}",
        "\u2013" if math.isnan(simulations) else f"{simulations:,.0f}",
        "\u2013" if math.isnan(seconds) else f"{seconds:,.0f}",
    ]


def paired(found: Findings, inks: Mapping[str, Ink]) -> Section:
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
            colour=inks[method].css,
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
        how += f"Left out, because not all methods finished them: seeds {_join(left_out)}. "
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


def iterations(found: Findings, inks: Mapping[str, Ink]) -> Section:
    """Win rate per fine-tuning iteration."""
    name = "How each method got there"
    rates = summaries.courses(summaries.win_rates(found.evaluations))
    if rates.empty:
        return Section("iterations", name, "Iterations", missing("No evaluation recorded yet."))
    series = []
    for method in palette.order(rates["method"]):
        ink = inks[method]
        part = rates[rates["method"] == method]
        points_of = tuple(
            svg.Point(i, r, lo, hi, f"{method}, iteration {i}: {percent(r)} ({w} of {n})")
            for i, r, lo, hi, w, n in zip(
                *(part[c] for c in ("iteration", "rate", "low", "high", "wins", "n")), strict=True
            )
        )
        series.append(svg.Series(method, points_of, ink.css, ink.look.dash, ink.look.marker))
    chart = svg.line_chart(
        series,
        x_label="fine-tuning iteration (0 = cloning the teacher's successes)",
        y_label="win rate on held-out tasks",
        label="Win rate per fine-tuning iteration by method",
    )
    note = (
        '<p class="note">Bands are Wilson intervals over evaluations. The last iteration is the '
        "one reported, not the best one. A method with one iteration is drawn across.</p>"
    )
    body = chart + note
    if rates["iteration"].nunique() == 1:
        body = missing("Only one iteration is recorded, so there is no course to see yet.") + body
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
        parts.append(head + _levels_table(change))
    note = (
        '<p class="note">Counted over all seeds. Lost: no longer solved by '
        f"{escape(found.focus, 60)}. "
        "Some of either is chance: two students of equal skill differ on single tasks, too.</p>"
    )
    return Section("gained", name, "Gained and lost", "".join(parts) + note)


def _levels_table(change: GainedLost) -> str:
    groups: Mapping[str, Any] = {
        "gained": change.gained,
        "lost": change.lost,
        "both": change.both,
        "never": change.never,
    }
    levels = palette.level_order(k.level for g in groups.values() for k in g)
    rows = []
    for level in levels:
        n = {name: sum(k.level == level for k in g) for name, g in groups.items()}
        total = sum(n.values())
        bar = "".join(
            f'<span style="flex:{n[key]} 1 0;--c:var(--{colour});--fill:{fill}%" '
            f'title="{title}: {n[key]} of {total}">{glyph if n[key] / total > 0.04 else ""}</span>'
            for key, colour, fill, glyph, title in (
                ("both", "ink", 14, "both", "solved by both"),
                ("gained", "l-beneficial", 62, "\u25b2", "gained"),
                ("lost", "l-harmful", 62, "\u25bc", "lost"),
                ("never", "soft", 10, "neither", "solved by neither"),
            )
            if n[key]
        )
        rows.append(
            [
                escape(level or "no level", 40),
                str(n["gained"]),
                str(n["lost"]),
                str(n["both"]),
                str(n["never"]),
                f'<div class="bar">{bar}</div>',
            ]
        )
    head = ("Level", "\u25b2 gained", "\u25bc lost", "both", "neither", "share of tasks")
    return table(head, rows, numbers=(1, 2, 3, 4))


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _join(values: list[int]) -> str:
    return ", ".join(map(str, values))
