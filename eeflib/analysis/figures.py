"""Every figure of the analysis, by name: pure functions, table -> `plotly.graph_objects.Figure`.

Import the figures from here; restyle, combine and write them as any plotly figure. A title asks the
question that its figure answers. `layout.meta` holds title and note as plain text, and `nothing`,
the reason, where there is nothing to draw. The colours, which people with the common
colour-vision deficiencies can distinguish, come with a glyph, a dash, a hatching or a number.
`dark` gives the twin for a dark page, `bare` a figure without title and note.

Instead of a table of a run, the run or its folder will do: `recovery_map("runs/demo")`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from eeflib.analysis import drawing as draw
from eeflib.analysis import style, tables, taxonomy
from eeflib.analysis.drawing import bare
from eeflib.analysis.figures_methods import (
    action_mix,
    budget,
    budget_plans,
    compared,
    discovered,
    dose_response,
    error_kinds,
    first_solved,
    gained_lost,
    newly_solved,
    other_m,
    paired,
    rates,
    win_rates,
)
from eeflib.analysis.findings import Rescue
from eeflib.analysis.labels import Agreement
from eeflib.analysis.markup import clean, plain
from eeflib.analysis.segments import Segment
from eeflib.analysis.style import GROUPS, INKS, LABELS, dark
from eeflib.analysis.taxonomy import KINDS, Diagnosis
from eeflib.records import Step, Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import wilson

__all__ = [
    "CONFIG", "action_mix", "bare", "budget", "budget_plans", "compared", "dark", "discovered",
    "dose_response", "error_kinds", "failure_agreement", "failure_kinds", "first_solved",
    "gained_lost", "lengths", "losses", "newly_solved", "other_m", "outcome_by_type", "paired",
    "rates", "recovery_curve", "recovery_map", "rescue", "rewards", "segment_ribbon", "shares",
    "simplicity_bias", "steps_to_failure", "trajectory_curve", "win_rates",
]  # fmt: skip

CONFIG: dict[str, Any] = {"displaylogo": False, "responsive": True}
"""For plotly's `config`; in a notebook it is the default of every renderer."""

if "IPython" in sys.modules:  # elsewhere nothing is rendered, and asking takes seconds
    for _name in pio.renderers:
        if hasattr(pio.renderers[_name], "config"):
            pio.renderers[_name].config = CONFIG | (pio.renderers[_name].config or {})

_NO_EPISODES = "No trajectory is recorded yet (trajectories.jsonl)."
_NO_FAILURES = "No failed trajectory is recorded: there is nothing to explain."
_OUTCOMES: Mapping[str, draw.Part] = {
    "solved": ("▲ solved", LABELS["beneficial"], False),
    "failed": ("▼ failed", LABELS["harmful"], True),
}


# -- the teacher's trajectories -------------------------------------------------------------------


def outcome_by_type(trajectories: draw.Data, by: str = "level") -> go.Figure:
    """Share solved per level, task type, environment or any other column, with its interval."""
    data, what = draw.table(trajectories, "trajectories"), by.replace("_", " ")
    title = f"How many tasks are solved, by {what}?"
    if data.empty:
        return draw.nothing(title, _NO_EPISODES)
    rows = tables.by_group(data, by)
    rows["name"] = rows["group"].replace("", f"no {what}")
    rows["text"] = rows["wins"].astype(str) + " of " + rows["n"].astype(str)
    means = "mean reward {reward:.2f}, {length:.1f} actions"
    rows["hover"] = draw.hovers(rows, "{name}", "solved {won}", means)
    note, looks = "Whiskers are 95 % Wilson intervals over tasks.", style.group_looks(rows["name"])
    return draw.rate_bars(title, note, "share of trajectories solved", rows, looks)


def lengths(trajectories: draw.Data) -> go.Figure:
    """How many actions solved and failed trajectories took."""
    title, data = "How long are the trajectories?", _rated(trajectories)
    if data.empty:
        return draw.nothing(title, _NO_EPISODES)
    bins = tables.length_bins(data)
    names = [f"{a}–{b}" if a < b else f"{a}" for a, b in bins[["low", "high"]].to_numpy()]
    middle = data.groupby("solved")["length"].median().rename({True: "solved", False: "failed"})
    note = f"Median number of actions: {', '.join(f'{k} {v:g}' for k, v in middle.items())}."
    return _histogram(title, note, "actions", bins, names)


def rewards(trajectories: draw.Data) -> go.Figure:
    """How near failures came: trajectories by final reward."""
    title, data = "How near did failures come?", _rated(trajectories)
    if data.empty:
        return draw.nothing(title, _NO_EPISODES)
    bins = tables.reward_bins(data)
    names = [f"{a:g}" if a == b else f"…{b:g}" for a, b in bins[["low", "high"]].to_numpy()]
    note = (
        "The first bar is a reward of exactly 0, the last of exactly 1; between them …0.3 means "
        "from 0.2 to below 0.3."
    )
    failed = data[~data["solved"]]
    if len(failed):
        note += f" {int((failed['reward'] > 0).sum())} of {len(failed)} failures earned something."
    return _histogram(title, note, "final reward R", bins, names)


def _rated(trajectories: draw.Data) -> pd.DataFrame:
    return tables.rated(draw.table(trajectories, "trajectories"))


def _histogram(title: str, note: str, x: str, bins: pd.DataFrame, names: list[str]) -> go.Figure:
    """How many trajectories were solved and failed in each bin; at most eight bins are named."""
    ticks = names[:: math.ceil(len(names) / 8)]
    axis = {"title_text": x, "type": "category", "tickvals": ticks, "tickangle": 0}
    bars = draw.stacks(names, bins, _OUTCOMES, upright=True)
    look: draw.Trace = {"body": 240, "barmode": "stack", "bargap": 0.12}
    return draw.page(title, note, bars, xaxis=axis, yaxis_title_text="trajectories", **look)


# -- failures -------------------------------------------------------------------------------------


def failure_kinds(failures: draw.Data, by: str = "level", colours: int = 6) -> go.Figure:
    """Kinds of failure: count, share with its interval, and how they divide on groups of tasks.

    Args:
        colours: groups that get a colour of their own, those with most failures.
    """
    title, data = "Why do trajectories fail?", draw.table(failures, "failures")
    if data.empty:
        return draw.nothing(title, _NO_FAILURES)
    rows = taxonomy.counts(data.assign(all="all"), "all").rename(columns={"n": "wins"})
    rows = rows.sort_values("wins", ascending=False, kind="stable")
    rows = rows.assign(n=rows["total"])
    total, covered = int(rows["n"].iloc[0]), taxonomy.coverage(data)
    main = data[data["primary"]]
    sizes = main[by].value_counts()
    groups = style.level_order(sizes.index[:colours])
    looks = style.group_looks(groups)
    parts = {g: (plain(g, 30) or f"no {by}", looks[g], i % 2 == 1) for i, g in enumerate(groups)}
    counts = tables.tally(main, "kind", by, sizes.index).set_index("kind")
    counts = counts.reindex(rows["kind"], fill_value=0)
    if len(sizes) > len(groups):
        parts["others"] = ("others", draw.PALE, False)
        counts["others"] = counts.drop(columns=groups).sum(axis=1)
    rows["meaning"] = [KINDS[k].meaning if k in KINDS else "" for k in rows["kind"]]
    further = "found in {any}, also as a further kind"
    about = draw.hovers(rows, "{meaning}", "main kind of {won}", further)
    names = draw.labels(map(draw.kind_name, rows["kind"]), 24)
    low, high = zip(*([total * v for v in wilson(k, total)] for k in rows["wins"]), strict=True)
    texts = [f"{k} ({draw.percent(k / total)})" for k in rows["wins"]]
    bars = draw.stacks(names, counts, parts, about)
    least, most = map(draw.percent, covered.interval)
    note = (
        f"{total} failed episodes, each counted once under its main kind. Whiskers are 95 % Wilson "
        f"intervals over these. A cause is named for {draw.percent(covered.share)} ({least} to "
        f"{most}), how it ended for another {draw.percent(covered.end / total)}."
    )
    if len(sizes) > len(groups):
        note += f" Of {len(sizes)} groups the {len(groups)} with most failures have a colour."
    traces = [*bars, draw.ends(names, low, high, texts, None)]
    return draw.stacked(title, note, "failed trajectories", names, traces)


def failure_agreement(found: Agreement, first: str = "rules", second: str = "model") -> go.Figure:
    """Two labellings of the same failures against each other; from `labels.agreement`."""
    title = f"Do {first} and {second} name the same kinds?"
    if not found.n:
        return draw.nothing(title, "No failure was labelled by both.")
    counts = found.table
    down, across = (draw.labels(map(draw.kind_name, x), 24) for x in (counts.index, counts.columns))
    told = [
        [
            f"{plain(first)}: {a}<br>{plain(second)}: {b}<br>{n} of {found.n}"
            for b, n in zip(across, row, strict=True)
        ]
        for a, row in zip(down, counts.to_numpy(), strict=True)
    ]
    note = f"Rows: {first}; columns: {second}, in the same order. {found}."
    texts = counts.astype(str).replace("0", "·")
    figure = draw.heat(title, note, across, down, counts, texts, pd.DataFrame(told))
    glyphs = [KINDS[k].glyph if k in KINDS else plain(k, 3) for k in counts.columns]
    return figure.update_xaxes(tickvals=across, ticktext=glyphs)


def steps_to_failure(failures: draw.Data) -> go.Figure:
    """After how many actions failures show, by kind; from `failures`."""
    title = "How soon do failures show?"
    rows = tables.steps_to_failure(draw.table(failures, "failures"))
    if rows.empty:
        return draw.nothing(title, _NO_FAILURES)
    rows = rows.rename(columns={"n": "wins", "total": "n"})
    rows["name"] = rows["kind"].map(draw.kind_name)
    rows["hover"] = draw.hovers(rows, "{name}", "by action {t}: {won}")
    note = (
        "The step that shows a failure is that of its evidence: the purchase, the focus, the first "
        "action of a loop, or the end."
    )
    looks = dict(zip(rows["name"].unique(), GROUPS, strict=False))
    traces = draw.lines(rows, "name", "t", "share", looks, ["all"])
    x = draw.whole_axis("actions before it", rows["t"].max())
    return draw.page(
        title, note, traces, xaxis=x, yaxis=draw.share_axis("failures that show by then")
    )


# -- recovery -------------------------------------------------------------------------------------


def recovery_map(states: draw.Data, rows: int = 40) -> go.Figure:
    """Failed trajectories by expert state: the student's wins / rollouts, the deepest won first.

    Args:
        states: `frames.states`; of several methods and iterations the one that
            `tables.pick_iteration` names is drawn.
        rows: trajectories shown at most.
    """
    title = "Where can the student still win?"
    data = tables.pick_iteration(draw.table(states, "states"))
    order = tables.recovery_map(data, None)
    width = sum(c[0] == "s" and c[1:].isdecimal() for c in order.columns)
    if order.empty or width < 2:
        return draw.nothing(title, draw.UNEXPLORED)
    keys, shown = ["seed", "trajectory_id"], order.head(rows)
    data = data.merge(shown[keys])  # a hover for each of thousands takes long
    found = [f"won {draw.won(w, n)}" for w, n in zip(data["wins"], data["n"], strict=True)]
    data = data.assign(
        level=data["level"].where(data["level"] == "", ", level " + data["level"]),
        found=pd.Series(found, data.index, dtype=object).where(data["n"] > 0, data["status"]),
    )
    about = ("task {task_id}", "seed {seed}{level}", "the teacher failed after {length} actions")
    data["hover"] = draw.hovers(data, *about, "s{k}, after {t} actions: {found}")
    cells = data.drop_duplicates([*keys, "k"]).set_index([*keys, "k"])
    place = pd.MultiIndex.from_frame(shown[keys])
    p, hover = (
        cells[c].unstack().reindex(index=place, columns=range(width)) for c in ("p", "hover")
    )
    glyphs = {"untried": "–", "unrestorable": "!", "faulted": "!"}
    text = shown[[f"s{k}" for k in range(width)]].replace(glyphs)
    lost = int((order["last"] < 0).sum())
    more = f"The first {rows} of {len(order)} are shown. " if len(order) > rows else ""
    note = (
        "A row is a trajectory in which the teacher failed, a column a state the student was put "
        "into: wins/rollouts, the darker the likelier. Sorted by the last state that could still "
        f"be won. {more}{lost} of {len(order)} were won from no state. ! not restorable or ended "
        "by a fault, – not tried, blank: no such state."
    )
    names = draw.task_labels(shown, order["seed"].nunique() > 1)
    across = [f"s<sub>{k}</sub>" for k in range(width)]
    return draw.heat(title, note, across, names, p, text, hover.fillna("no such state"))


def recovery_curve(states: draw.Data) -> go.Figure:
    """Share of rollouts won from s0 and each expert state of failed trajectories, by level."""
    title = "How late can the student still win?"
    data = tables.pick_iteration(draw.table(states, "states"))
    curve = tables.recovery_curve(data)
    if curve.empty or curve["k"].max() < 1:
        return draw.nothing(title, draw.UNEXPLORED)
    curve["hover"] = draw.hovers(curve, "{group}, s{k}", "won {won}", "{states} states")
    looks = style.group_looks(curve["group"])
    bands = looks if len(looks) <= 4 else ["all"]  # many bands hide each other and the lines
    note = (
        f"{clean(data['method'].iloc[0], 60)}, iteration {data['iteration'].iloc[0]}: the student "
        "as it was before that iteration's training. Bands are 95 % Wilson intervals over "
        "rollouts. States with a high k exist only where the teacher acted long enough, so points "
        "differ in the tasks behind them."
    )
    traces = draw.lines(curve, "group", "k", "p", looks, bands)
    x = draw.whole_axis("expert state k (0: the start)", curve["k"].max())
    return draw.page(title, note, traces, xaxis=x, yaxis=draw.share_axis("rollouts won"))


def trajectory_curve(states: draw.Data, trajectory_id: str, seed: int) -> go.Figure:
    """Wins from each state of one trajectory, with its interval; the point of no return marked."""
    title = "When was this trajectory lost?"
    data = tables.pick_iteration(draw.table(states, "states"))
    curve = tables.tried_states(data, trajectory_id, seed)
    if curve.empty:
        return draw.nothing(
            title, f"No state of trajectory {trajectory_id!r} (seed {seed}) was tried."
        )
    solved, length = bool(curve["teacher_solved"].iloc[0]), int(curve["length"].iloc[0])
    last = int(curve.loc[curve["wins"] > 0, "t"].max()) if curve["wins"].any() else -1
    verdict = "The teacher solved it." if solved else "No state of this failure was won."
    if not solved and last >= 0:
        later = curve.loc[curve["t"] > last, "t"]
        verdict = (
            f"Last won after {last} action{'s' * (last != 1)}: what the teacher did from there to "
            f"action {int(later.min()) if len(later) else length} lost it, as far as these "
            "rollouts tell."
        )
    hover = draw.hovers(curve, "s{k}, after {t} actions", "won {won}")
    looks, curve = {"student": GROUPS[2]}, curve.assign(who="student", hover=hover)
    traces = draw.lines(curve, "who", "t", "p", looks, looks)
    note = f"{clean(trajectory_id, 120)}, seed {seed}. {verdict}"
    text = f"the teacher's actions before the state (of {length})"
    x = draw.whole_axis(text, length, range=[-0.3, max(length, 1) + 0.3])
    y = draw.share_axis("rollouts won", 1.2) | {"tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    figure = draw.page(title, note, traces, xaxis=x, yaxis=y, body=230)
    if not solved and last >= 0:
        said: draw.Trace = {"annotation_text": f"no return after action {last}"}
        said["annotation_position"] = "top left" if last > length / 2 else "top right"
        bad = INKS["bad"][0]
        figure.add_vline(last, line={"color": bad, "dash": "dash", "width": 1.6},
                         annotation_font={"color": bad, "weight": 600}, **said)  # fmt: skip
    return figure


def segment_ribbon(
    trajectory: Trajectory,
    segments: Sequence[Segment],
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
) -> go.Figure:
    """A trajectory as a band of labelled segments, tried states and the kind of failure with it."""
    total, traces = max(trajectory.length, 1), []
    shown = segments or [Segment(0, total, "unknown", "not explored")]
    for label in dict.fromkeys(s.label for s in shown):
        own, look = [s for s in shown if s.label == label], LABELS[label]
        told = [
            f"{label}, actions {s.start + 1} to {s.stop}<br>{plain(s.evidence, 300, 60)}"
            for s in own
        ]
        band = draw.mark("bar", [s.length for s in own], [0] * len(own), told, orientation="h")
        band |= {"base": [s.start for s in own], "name": f"{look.glyph} {label}", "width": 0.7}
        band |= {"text": [look.glyph] * len(own), "insidetextfont_color": INKS["ink"][0]}
        band |= {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
        traces.append(band | {"marker": draw.tint(look, label == "harmful")})
    tried = pd.DataFrame(
        [(s.t, s.name, s.wins, s.n) for s in states if s.tried], columns=["t", "name", "wins", "n"]
    )
    told = draw.hovers(tried, "{name}, after {t} actions", "won {won}")
    below = draw.mark("scatter", tried["t"], [-0.62] * len(tried), told, mode="markers+text")
    below |= {"text": [f"{w}/{n}" for w, n in zip(tried["wins"], tried["n"], strict=True)]}
    below["marker_symbol"] = ["triangle-up" if w else "x" for w in tried["wins"]]
    below |= {"marker_color": LABELS["beneficial"].light, "marker_size": 9}
    traces.append(below | {"textposition": "bottom center", "showlegend": False})
    note = "" if segments else "Not explored: nothing says which actions helped and which hurt. "
    if len(tried):
        note += "Below the band: wins/rollouts of the student from that state. "
    if diagnosis is not None:
        finding = diagnosis.findings[0]
        name = draw.kind_name(finding.kind)
        note += f"{name}: {finding.text}"
        side = "left" if finding.t > total / 2 else "right"
        place, font = f"top {side}", {"color": INKS["bad"][0]}
        failed = draw.mark("scatter", [min(finding.t, total)], [0.42], mode="text")
        failed |= {"text": [f"▼ {plain(name, 40)}"], "textposition": place, "textfont": font}
        traces.append(failed | {"showlegend": False})
    x = draw.whole_axis("actions", total, range=[-0.2, total + 0.2], showgrid=False)
    y = {"visible": False, "range": [-1.35, 0.9]}
    layout: draw.Trace = {"body": 130, "barmode": "overlay"}
    return draw.page(
        "Which actions helped, and which hurt?", note, traces, xaxis=x, yaxis=y, **layout
    )


def rescue(shown: Rescue) -> go.Figure:
    """A failure of the teacher action by action, and the student who wins from a state of it.

    It shows everything; with its button or slider it tells the story one action at a time.

    Args:
        shown: such as the first of `Findings.rescues`.
    """
    item, state, branch = shown
    failed, won, start = item.trajectory, branch.rollout, state.t
    assert won is not None, "a branch that is won has a rollout"
    evidence = {
        t: s.evidence for s in item.segments if s.label == "harmful" for t in range(s.start, s.stop)
    }
    ends = {x.id: f" The end: reward {x.reward:.2f}." for x in (failed, won)}
    told = ["The teacher begins the task."]
    for t, step in enumerate(failed.steps):
        why = f" ▼ Harmful: the student {evidence[t]}." if t in evidence else ""
        told.append(f"The teacher: {_named(step)}.{_thinks(step)}{why}")
    told[-1] += f"{ends[failed.id]} Failed."
    told.append(f"The student is put into {state.name}, after {start} of the teacher's actions.")
    told += [f"The student: {_named(step)}.{_thinks(step)}" for step in won.steps]
    told[-1] += f"{ends[won.id]} Solved."
    captions = [plain(text, 300, 52) for text in told]
    here, bad = f"s<sub>{state.k}</sub>", INKS["bad"][0]
    names = [[plain(_named(s), 54, 23) for s in x.steps] for x in (failed, won)]
    left = ["the start", *names[0]]
    right = ["", f"put into {here}", *names[1]]
    left[-1], right[-1] = f"{left[-1]}<br>✕ failed", f"{right[-1]}<br>✓ solved"
    down = [*range(failed.length + 1)], [start, *range(start, start + won.length + 1)]
    across = [-0.07] * len(left), [-0.07, *[0.07] * (len(right) - 1)]
    slip = [t in evidence for t in range(-1, failed.length)]
    grey, green = GROUPS[0].light, LABELS["student"].light
    teacher = draw.mark("scatter", across[0], down[0], captions[: len(left)], text=left)
    teacher |= {"textposition": "middle left", "line_color": grey}
    teacher["textfont_color"] = [bad if x else INKS["ink"][0] for x in slip]
    teacher["marker"] = {
        "color": [bad if x else grey for x in slip],
        "symbol": ["triangle-down" if x else "circle" for x in slip],
    }
    student = draw.mark("scatter", across[1], down[1], captions[len(left) - 1 :], text=right)
    student |= {"textposition": "middle right", "line_color": green}
    student["marker"] = {"color": green, "symbol": ["circle"] * (len(right) - 1) + ["triangle-up"]}
    for trace in (teacher, student):
        trace |= {"mode": "lines+markers+text", "marker_size": 11}
    rows = max(map(max, down))
    heads = draw.mark("scatter", [-0.07, 0.07], [-0.8] * 2, mode="text", textfont_weight=650)
    heads |= {"text": ["The teacher", "The student"]}
    heads["textposition"] = ["middle left", "middle right"]
    said = draw.mark("scatter", [0], [rows + 0.6], mode="text", text=captions[-1:])
    said |= {"textposition": "bottom center", "textfont_color": draw.SOFT}
    note = (
        f"Task: {failed.instruction}. The teacher ended with reward {failed.reward:.2f}; "
        f"{failed.threshold:g} is needed. Put into {state.name}, the student went its own way and "
        f"ended with reward {won.reward:.2f}. ▼ marks a harmful action."
    )
    hidden = {"visible": False, "fixedrange": True}
    figure = draw.page(
        "Can the student win where the teacher failed?",
        note,
        [teacher, student, said, heads],
        body=46 * (rows + 3.4),
        below=70,
        xaxis=hidden | {"range": [-1, 1]},
        yaxis=hidden | {"range": [rows + 2.3, -1.1]},
        showlegend=False,
    )
    frames = []
    for n, caption in enumerate(captions):
        more = n + 1 - len(left)
        seen = (n + 1, more + 1 if more > 0 else 0)  # the student's first point is the teacher's
        parts = [{"x": across[i][:m], "y": down[i][:m]} for i, m in enumerate(seen)]
        frames.append({"name": str(n), "data": [*parts, {"text": [caption]}], "traces": [0, 1, 2]})
    return draw.stepped(figure.update(frames=frames))


_ASIN = re.compile(r"click\[(B[A-Z0-9]{9})\]", re.IGNORECASE)


def _named(step: Step) -> str:
    """The action; of a click on a product's number, the product's name."""
    number = _ASIN.fullmatch(step.action)
    after = step.observation.partition(f"[SEP] {number[1].upper()} [SEP] ")[2] if number else ""
    return f"open {after.partition(' [SEP]')[0]}" if after else step.action


def _thinks(step: Step) -> str:
    return f" It thinks: “{step.thought}”" if step.thought else ""


# -- training -------------------------------------------------------------------------------------


def losses(series: Mapping[str, Sequence[float]]) -> go.Figure:
    """Training losses per optimiser step, one line per training."""
    title = "Does the loss fall?"
    rows = pd.DataFrame(
        [(name, i, v) for name, values in series.items() for i, v in enumerate(values, 1)],
        columns=["name", "step", "loss"],
    )
    if rows.empty:
        return draw.nothing(title, "No training step is on record.")
    rows["hover"] = draw.hovers(rows, "{name}", "step {step}: {loss:.4f}")
    most, looks = int(rows["step"].max()), style.group_looks(rows["name"])
    ends = rows.groupby("name", sort=False)["loss"].agg(["first", "last"])
    spoken = "; ".join(f"{clean(n, 40)} {a:.2f} to {b:.2f}" for n, a, b in ends.itertuples())
    mode = "lines+markers" if most <= 30 else "lines"
    traces = draw.lines(rows, "name", "step", "loss", looks, mode=mode)
    note, x = f"From the first step to the last: {spoken}.", draw.whole_axis("optimiser step", most)
    y = {"title_text": "loss, nats per trained token", "rangemode": "tozero"}
    return draw.page(title, note, traces, xaxis=x, yaxis=y, body=260)


def shares(rows: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> go.Figure:
    """A share (0 to 1) over whole numbers, one line."""
    title = f"How does {y_label} change with {x_label}?"
    if rows.empty:
        return draw.nothing(title, "There are no rows.")
    data = pd.DataFrame({"x": rows[x], "y": rows[y], "what": y_label, "at": x_label})
    data["hover"] = draw.hovers(data, "{at}: {x}", "{what}: {y:.0%}")
    traces = draw.lines(data, "what", "x", "y", {y_label: GROUPS[2]})
    across = draw.whole_axis(plain(x_label, 80), data["x"].max())
    return draw.page(
        title, "", traces, xaxis=across, yaxis=draw.share_axis(plain(y_label, 60)), body=260
    )


def simplicity_bias(shares: draw.Data, focus: str = "EEF") -> go.Figure:
    """Per cent of actions of each kind, source by source; from `tables.action_shares`.

    What successes lack and failures hold is what a student cloned from successes never sees. Put
    `tables.learned_actions` below the others to see what newly solved tasks needed.
    """
    title, data = "Which actions does training teach?", draw.table(shares, "actions")
    if data.empty:
        return draw.nothing(title, "Neither trajectories nor training samples are recorded yet.")
    kinds, sources = (list(dict.fromkeys(data[c])) for c in ("kind", "source"))
    per = (100 * data["share"]).fillna(0)
    data = data.assign(
        hover=draw.hovers(data, "{source}", "{kind}: {count:,} of {total:,} actions ({share:.1%})"),
        text=[f"{p:.0f}" if p >= 9.5 else f"{p:.1f}" if p else "·" for p in per],
        share=per / 100,
    )
    cells = data.drop_duplicates(["source", "kind"]).set_index(["source", "kind"])
    share, text, hover = (
        cells[c].unstack().reindex(sources)[kinds] for c in ("share", "text", "hover")
    )
    across, down = draw.labels(kinds, 0, 20), draw.labels(sources, 22, 60)
    ticks = [f"<b>{d}</b>" if s == focus else d for d, s in zip(down, sources, strict=True)]
    note = (
        "Per cent of the actions of each source, by kind of action. Of a method: the actions that "
        "carry loss in its last iteration's samples; “tasks gained”: what its student did on them. "
        f"Actions counted: {data['total'].min():,} to {data['total'].max():,} a source."
    )
    above = 16 + 6 * max(map(len, across))
    figure = draw.heat(title, note, across, down, share, text, hover, above)
    return figure.update_yaxes(tickvals=down, ticktext=ticks)
