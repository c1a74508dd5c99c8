"""Figures that compare: methods of a run side by side, and two runs or policies with each other.

Import them from `eeflib.analysis.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from eeflib.analysis import drawing as draw
from eeflib.analysis import style, tables
from eeflib.analysis.compare import Comparison
from eeflib.analysis.markup import clean, plain
from eeflib.analysis.style import GROUPS, INKS, LABELS, Look
from eeflib.stats import PairedDifference, caution, sample

_CHANCE = "Some of either is chance: two students of equal skill differ on single tasks, too."
_FOUND: Mapping[str, draw.Part] = {
    "teacher": ("solved by the teacher", GROUPS[0], False),
    "s0": ("● from s₀", LABELS["student"], False),
    "state": ("▲ only from a later state", LABELS["beneficial"], False),
    "never": ("never", draw.PALE, False),
}
_CHANGES: Mapping[str, draw.Part] = {
    "both": ("solved by both", GROUPS[0], False),
    "gained": ("▲ gained", LABELS["beneficial"], False),
    "lost": ("▼ lost", LABELS["harmful"], True),
    "never": ("solved by neither", draw.PALE, False),
}
_SECOND = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
"""A trace of the lower of two panels."""


def first_solved(states: draw.Data) -> go.Figure:
    """Training tasks that the teacher failed: first won from s0, only from a later state, never."""
    title = "From where was a task first solved?"
    reach = tables.reachable(tables.pick_iteration(draw.table(states, "states")))
    if reach.empty:
        return draw.nothing(title, draw.UNEXPLORED)
    note = (
        "Training tasks that the teacher failed. “Only from a later state” is what exploring "
        "expert failures adds: no rollout from the start, s₀, solved these tasks."
    )
    names = draw.labels(reach["level"].replace("", "no level"))
    counts = reach.rename(columns={"from_s0": "s0", "only_deeper": "state"})
    kinds = {k: v for k, v in _FOUND.items() if k != "teacher"}
    bars = draw.stacks(names, counts, kinds)
    return draw.stacked(title, note, "training tasks", names, bars)


def rates(rows: Sequence[Mapping[str, Any]], label: str = "win rate") -> go.Figure:
    """Win rates with their intervals, a bar a method; from `eeflib.demo.method_row`."""
    title = "Which method solves more tasks?"
    if not rows:
        return draw.nothing(title, "No method has been evaluated yet.")
    columns = ["name", "rate", "low", "high"]
    table = pd.DataFrame(
        [(r["method"], r["win_rate"], *r["interval"]) for r in rows], None, columns
    )
    table["text"] = [f"{100 * rate:.1f} %" for rate in table["rate"]]
    table["hover"] = draw.hovers(table, "{name}: {text}", "95 % interval {low:.1%} to {high:.1%}")
    looks = style.method_looks(table["name"])
    note = f"Whiskers are 95 % intervals, {_over(len(rows[0].get('per_seed', ())))}."
    return draw.rate_bars(title, note, label, table, looks)


def _over(seeds: int) -> str:
    return "by a bootstrap over seeds, then tasks" if seeds > 1 else "Wilson's over tasks"


def win_rates(evaluations: draw.Data, looks: Mapping[str, Look] | None = None) -> go.Figure:
    """Win rate per fine-tuning iteration and method with its band; from `frames.evaluations`.

    Args:
        looks: of the methods; None: those of `style.method_looks`.
    """
    title = "Does each iteration solve more tasks?"
    rows = tables.courses(tables.win_rates(draw.table(evaluations, "evaluations")))
    if rows.empty:
        return draw.nothing(title, "No evaluation is recorded yet (evaluations.jsonl).")
    rows["of"] = [sample(*pair) for pair in zip(rows["seeds"], rows["n"], strict=True)]
    shares = "{rate:.0%} solved, 95 % interval {low:.0%} to {high:.0%}"
    rows["hover"] = draw.hovers(rows, "{method}, iteration {iteration}", shares, "{of}")
    looks = looks or style.method_looks(rows["method"])
    drawn = {method: looks[method] for method in style.order(rows["method"])}
    most = int(rows["iteration"].max())
    note = (
        f"Bands are 95 % intervals, {_over(int(rows['seeds'].max()))}. The last iteration is the "
        "one reported, not the best one. A method with one iteration is drawn across."
    )
    traces = draw.lines(rows, "method", "iteration", "rate", drawn, drawn)
    x = draw.whole_axis("iteration (0: cloned successes)", most)
    y = draw.share_axis("held-out tasks solved")
    figure = draw.page(title, note, traces, xaxis=x, yaxis=y, body=320)
    for method, look in drawn.items():
        own = rows[rows["method"] == method]
        if len(own) == 1 and most:
            line = {"color": f"{look.light}90", "width": 1.2, "dash": look.dash}
            figure.add_hline(own["rate"].iloc[0], line=line)
    return figure


def paired(rows: Mapping[str, PairedDifference]) -> go.Figure:
    """Win rate of one method minus that of each other (by name): seeds, mean and interval."""
    title = "Is the difference real?"
    if not rows:
        return draw.nothing(title, "Two evaluated methods are needed for a comparison.")
    table = pd.DataFrame(
        {
            "name": [f"{clean(p.a, 24)} − {clean(p.b, 24)}" for p in rows.values()],
            **{c: [getattr(p, c) for p in rows.values()] for c in ("low", "high", "p", "basis")},
            "of": [sample(p.n, p.tasks) for p in rows.values()],
            "difference": [p.mean for p in rows.values()],
            "ahead": [f", ahead in {p.better}" * (p.n > 1) for p in rows.values()],
            "dots": [p.differences if p.n > 1 else () for p in rows.values()],
        }
    )
    table["hover"] = draw.hovers(
        table.assign(**100 * table[["difference", "low", "high"]]), "{name}",
        "{difference:+.1f} points", "95 % interval {low:+.1f} to {high:+.1f} over {basis}",
        "p = {p:.3f}, {of}{ahead}",
    )  # fmt: skip
    note = (
        "Both methods are evaluated on the same tasks in each seed. Small dots are seeds, the "
        "diamond is their mean, the bar its 95 % interval by a bootstrap over seeds, then tasks."
    )
    if all(p.n == 1 for p in rows.values()):
        note = (
            "One seed only: the bar is a 95 % bootstrap interval over tasks. It says nothing about "
            "what another training seed would give."
        )
    elif least := caution(min(p.n for p in rows.values())):
        note += f" {least.capitalize()}."
    looks = style.method_looks(rows)
    x = "difference in win rate, percentage points"
    return draw.differences(title, note, x, table, [looks[method] for method in rows])


def newly_solved(changes: draw.Data) -> go.Figure:
    """Test tasks gained, lost, solved by both or by neither; `tables.newly_solved`."""
    title, data = "How many tasks were gained and lost?", draw.table(changes, "changes")
    if data.empty:
        return draw.nothing(title, "Two methods evaluated on the same tasks are needed.")
    counts = tables.tally(data, "method", "change", _CHANGES)
    base, names = str(data["baseline"].iloc[0]), draw.labels(counts["method"])
    net = [f"net {n:+d}".replace("-", "−") for n in counts["gained"] - counts["lost"]]
    note = f"Against {clean(base, 60)}, over all seeds, the last iteration both have. {_CHANCE}"
    total = counts[list(_CHANGES)].sum(axis=1)
    traces = [*draw.stacks(names, counts, _CHANGES), draw.ends(names, None, total, net, None)]
    return draw.stacked(title, note, "test tasks", names, traces)


def discovered(found: draw.Data, rows: int = 20) -> go.Figure:
    """Training tasks that exploring solved and the teacher did not: `tables.discoveries`.

    Args:
        rows: tasks listed at most, those solved from the deepest states first.
    """
    title, data = "What did exploring find?", draw.table(found, "discoveries")
    if data.empty:
        return draw.nothing(title, "No exploration is recorded (branches.jsonl).")
    counts = tables.tally(data, "method", "found", _FOUND)
    names, looks_of = draw.labels(counts["method"]), style.method_looks(counts["method"])
    new = data[data["found"].isin(["s0", "state"])]
    listed = new.sort_values(["k", "seed", "task_id"], ascending=[False, True, True]).head(rows)
    tasks = draw.task_labels(listed, data["seed"].nunique() > 1)
    hover = draw.hovers(
        listed, "task {task_id}, seed {seed}", "{level}",
        "{method}, iteration {iteration}: first solved", "from s{k}, after {t} actions",
    )  # fmt: skip
    looks = [looks_of[method] for method in listed["method"]]
    marker = {"color": [x.light for x in looks], "symbol": [x.marker for x in looks], "size": 9}
    dots = draw.mark("scatter", listed["k"], tasks, hover, mode="markers+text", marker=marker)
    dots |= {"text": [f"s<sub>{k}</sub>" for k in listed["k"]], "textposition": "middle right"}
    note = "Training tasks that were explored"
    note += "; below, those that exploring solved." if len(listed) else "."
    if len(new) > len(listed):
        note += f" {len(listed)} of {len(new)} are listed."
    deepest = int(data["k"].max())
    axis = draw.whole_axis("first solved from state k", deepest, range=[-0.3, deepest + 0.7])
    bars = draw.stacks(names, counts, _FOUND)
    return _above_tasks(title, note, "training tasks explored", names, bars, tasks, [dots], axis)


def _above_tasks(
    title: str, note: str, x: str, names: list[str], bars: list[draw.Trace], tasks: list[str],
    below: list[draw.Trace], axis: draw.Trace,
) -> go.Figure:  # fmt: skip
    """A figure of `stacks` above one of single tasks."""
    if not tasks:
        return draw.stacked(title, note, x, names, bars)
    upper, lower = 32 * len(names) + 8, 24 * len(tasks) + 10
    body = upper + 74 + lower
    layout: draw.Trace = {
        "xaxis": {"title_text": x, "rangemode": "tozero", "anchor": "y"},
        "yaxis": draw.rows_axis(names, domain=[1 - upper / body, 1]),
        "xaxis2": axis | {"anchor": "y2"},
        "yaxis2": draw.rows_axis(tasks, showgrid=True, domain=[0, lower / body]),
    }
    traces = [*bars, *(trace | _SECOND for trace in below)]
    return draw.page(title, note, traces, body=body, barmode="stack", **layout)


_SPENT = {
    "steps": "simulated steps", "found": "tasks found", "steps_per_found": "steps per found",
    "gained": "▲ tests gained", "steps_per_gained": "steps per gained", "lost": "▼ tests lost",
    "rollouts": "rollouts", "tokens": "tokens", "seconds": "seconds a seed",
    "cost_usd": "dollars", "usd_per_found": "dollars per found",
}  # fmt: skip


def budget(costs: draw.Data, baseline: str = "") -> go.Figure:
    """What each method spent on exploring and what that brought; `tables.budget`."""
    title, data = "What was spent, and what did it find?", draw.table(costs, "costs")
    if data.empty:
        return draw.nothing(title, "Neither trajectories nor exploration are recorded yet.")
    known = data[list(_SPENT)].astype("float64").where(lambda v: v >= 0)
    shown = [c for c in _SPENT if (known[c] > 0).any()]
    told = known.map(draw.amount).assign(method=data["method"])
    about = draw.hovers(told, "{method}", *(f"{_SPENT[c]}: {{{c}}}" for c in shown))
    names, looks = draw.labels(data["method"]), style.method_looks(data["method"])
    marker = draw.tint([looks[method] for method in data["method"]])
    rows = math.ceil(len(shown) / 2)
    traces: list[draw.Trace] = []
    layout: draw.Trace = {"grid": {"rows": rows, "columns": 2, "pattern": "independent"}}
    for i, column in enumerate(shown, 1):
        n = "" if i == 1 else str(i)
        bars = draw.mark("bar", known[column].fillna(0), names, about, orientation="h")
        bars |= {"text": told[column].tolist(), "textposition": "outside", "textfont_size": 11.5}
        traces.append(bars | {"marker": marker, "xaxis": f"x{n}", "yaxis": f"y{n}"})
        axis = {"side": "top", "showticklabels": False, "showgrid": False}
        axis |= {"title": {"text": f"<b>{_SPENT[column]}</b>", "standoff": 2}}
        layout[f"xaxis{n}"] = axis | {"range": [0, 1.3 * known[column].max()]}
        layout[f"yaxis{n}"] = draw.rows_axis(names, showticklabels=i % 2 == 1)
    layout["grid"] |= {"xgap": 0.08, "ygap": 0.4}
    against = f" against {clean(baseline, 60)}" if baseline else ""
    note = (
        "Over all seeds. Found: training tasks that the teacher failed and a rollout solved (the "
        f"teacher's row: tasks it solved). Gained, lost: test tasks{against}. Tokens are those on "
        "record: a student without a tokenizer has none. Evaluation is not counted."
    )
    return draw.page(title, note, traces, body=rows * (24 * len(names) + 40), below=14, **layout)


def other_m(whatif: draw.Data) -> go.Figure:
    """What fewer states or rollouts would have cost and found; `tables.other_m`."""
    title, data = "What would another M have found?", draw.table(whatif, "other_m")
    if data.empty or data["M"].max() < 1:
        return draw.nothing(
            title, "No exploration from expert states is recorded (branches.jsonl)."
        )
    each = data["steps"] / data["found"].where(data["found"] > 0)
    data = data.assign(
        plan=[f"{a} rollout{'s' if a > 1 else ''} a state" for a in data["attempts"]],
        usd=["" if v != v else f"{draw.amount(v)} dollars" for v in data["cost_usd"]],
        each=["" if v != v else f"{draw.amount(v)} steps a task" for v in each],
    )
    data["hover"] = draw.hovers(
        data, "M = {M}, {plan}", "{found:.1f} tasks solved, {share:.0%} of the failed ones",
        "{rollouts:,} rollouts, {steps:,.0f} simulated steps", "{each}", "{usd}",
    )  # fmt: skip
    looks = dict(zip(data["plan"].unique(), (*GROUPS[2:], *GROUPS[:2]), strict=False))
    run, most = data[data["recorded"]], int(data["M"].max())
    ring = {"size": 17, "symbol": "circle-open", "color": INKS["ink"][0], "line": {"width": 1.6}}
    traces = []
    for column, place in (("share", {}), ("steps", _SECOND)):
        traces += [t | place for t in draw.lines(data, "plan", "M", column, looks)]
        as_run = draw.mark("scatter", run["M"], run[column], mode="markers", marker=ring)
        traces.append(as_run | {"name": "as run", **place})
    share = draw.share_axis("failed tasks solved", max(0.1, 1.12 * data["share"].max()))
    layout: draw.Trace = {
        "xaxis": draw.whole_axis("", most, showticklabels=False, matches="x2"),
        "xaxis2": draw.whole_axis("M, expert states per trajectory", most, anchor="y2"),
        "yaxis": share | {"domain": [0.43, 1]},
        "yaxis2": {"title_text": "simulated steps", "rangemode": "tozero", "domain": [0, 0.36]},
    }
    note = (
        "Computed from the recorded branches of one iteration: fewer states means those nearest to "
        "equal spacing, fewer rollouts what they find on average. An estimate, but for the plan "
        "that was run; what more states would have found is not on record."
    )
    return draw.page(title, note, traces, body=356, **layout)


def budget_plans(plans: pd.DataFrame) -> go.Figure:
    """Tasks newly solved over simulated steps, a line a strategy.

    Args:
        plans: from `eeflib.analysis.budget`; of several seeds the mean is drawn, and each by marks.
    """
    title = "Which states are worth the steps?"
    if plans.empty:
        why = "No rollout of a task that the teacher failed is recorded (branches.jsonl)."
        return draw.nothing(title, why)
    seeds = plans["seed"].nunique()
    means = plans.groupby(["strategy", "budget"], sort=False).mean(numeric_only=True).reset_index()

    def told(table: pd.DataFrame, of: str) -> list[str]:
        return draw.hovers(
            table.assign(rate=table["per_1000"].map(draw.amount)), f"{{strategy}}, {of}",
            "{newly_solved:.1f} of {tasks:.0f} tasks newly solved (± {sd:.1f}, orders of tasks)",
            "{steps:,.0f} simulated steps, budget {budget:,}: {rate} tasks per 1,000",
            "{replayed:,.0f} actions of the teacher restore the states",
        )  # fmt: skip

    plans = plans.assign(hover=told(plans, "seed {seed}"))
    means["hover"] = told(means, f"mean of {seeds} seeds") if seeds > 1 else plans["hover"]
    looks = dict(zip(means["strategy"].unique(), GROUPS, strict=False))
    traces = draw.lines(means, "strategy", "steps", "newly_solved", looks)
    if seeds > 1:
        traces += _seeds(plans, "strategy", "steps", "newly_solved", looks)
    note = (
        "Training tasks that the teacher failed. Recorded rollouts in the order of each strategy, "
        "cut at the budget: nothing was simulated anew. A line ends where its strategy has no "
        "rollout left. Points are means over random orders of tasks."
    )
    note += f" {warning.capitalize()}." if (warning := caution(seeds)) else ""
    x = {"title_text": "simulated steps", "rangemode": "tozero"}
    y = {"title_text": "tasks newly solved", "rangemode": "tozero"}
    return draw.page(title, note, traces, xaxis=x, yaxis=y)


# -- two runs, or two policies of one -------------------------------------------------------------


def dose_response(doses: pd.DataFrame) -> go.Figure:
    """EEF - RFTxk on the tasks that take a skill, over how many successes of the teacher show it.

    Args:
        doses: columns skill, dose, seed, tasks, EEF and RFTxk (how many of the tasks each solved);
            `eeflib.study.doses` makes them, and `eeflib.data.path("doses.json")` is shipped.
    """
    title = "When does RFT catch up?"
    table = doses.copy()
    if table.empty:
        return draw.nothing(title, "No part of the study with a dose is there.")
    for method in ("EEF", "RFTxk"):
        table[method] = 100 * table[method] / table["tasks"]
    table["points"], table["dose"] = table["EEF"] - table["RFTxk"], table["dose"].astype(str)
    told = ("EEF {EEF:.0f} %, RFTxk {RFTxk:.0f} %: {points:+.0f} points", "{tasks} test tasks")
    table["hover"] = draw.hovers(table, "{skill}, dose {dose}, seed {seed}", *told)
    means = table.groupby(["skill", "dose"], sort=False)[["EEF", "RFTxk", "points"]].mean()
    means = means.reset_index()
    means["hover"] = draw.hovers(means, "{skill}, dose {dose}: mean of the seeds", told[0])
    looks = style.group_looks(means["skill"].unique())
    traces = draw.lines(means, "skill", "dose", "points", looks)
    traces += _seeds(table, "skill", "dose", "points", looks)
    note = (
        "The dose is how many of the teacher's successes show the skill: they were removed or "
        "added. Small marks are seeds, the line is their mean, on the test tasks that take the "
        "skill. Above 0 EEF solves more, below 0 RFT with as many simulations does."
    )
    figure = draw.page(title, note, traces)
    figure.update_xaxes(title="the teacher's successes that show the skill", type="category")
    return figure.update_yaxes(draw.ZERO, title="EEF − RFTxk, percentage points")


def compared(comparison: Comparison) -> go.Figure:
    """Share solved, reward, length and invalid actions of both sides, with paired tests."""
    a, b = (clean(n, 60) for n in comparison.names)
    title, rows = f"Is {b} better than {a}?", comparison.measures
    if rows["difference"].isna().all():
        return draw.nothing(
            title, " ".join(comparison.notes) or "Nothing of both sides is on record."
        )
    told = draw.hovers(
        rows.assign(first=a, second=b), "{meaning}", "{first}: {a:.3f}", "{second}: {b:.3f}",
        "difference {difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}",
        "p = {p:.3f}, {test}, {n}",
    )  # fmt: skip
    traces: list[draw.Trace] = []
    layout: draw.Trace = {"grid": {"rows": len(rows), "columns": 1, "pattern": "independent"}}
    layout["grid"] |= {"ygap": 0.65}
    for i, (hover, r) in enumerate(zip(told, rows.to_dict("records"), strict=True), 1):
        n = "" if i == 1 else str(i)
        sure = r["low"] > 0 or r["high"] < 0
        colour = (LABELS["beneficial"] if sure else GROUPS[0]).light
        marker = {"color": colour, "symbol": "diamond" if sure else "diamond-open", "size": 12}
        dot = draw.mark("scatter", [r["difference"]], [0], [hover], mode="markers", marker=marker)
        dot["error_x"] = draw.whiskers(colour, *([r[c]] for c in ("difference", "low", "high")))
        traces.append(dot | {"xaxis": f"x{n}", "yaxis": f"y{n}"})
        reach = max((abs(r[c]) for c in ("difference", "low", "high") if r[c] == r[c]), default=1)
        p = "p < 0.001" if r["p"] < 0.001 else f"p = {r['p']:.3f}"
        text = plain(f"{r['meaning']}: {r['a']:.3f} → {r['b']:.3f}, {p}", 100, 46)
        axis = {"title_text": f"<b>{text}</b>" if sure else text, "nticks": 5}
        layout[f"xaxis{n}"] = axis | {"range": [-1.15 * (reach or 1), 1.15 * (reach or 1)]}
        layout[f"xaxis{n}"] |= draw.ZERO
        layout[f"yaxis{n}"] = {"visible": False, "range": [-1, 1]}
    note = (
        f"Difference: {b} minus {a}. Bars are 95 % intervals; a filled diamond and bold words: the "
        f"interval does not hold 0. {' '.join(comparison.notes)}"
    )
    return draw.page(title, note, traces, body=96 * len(rows), **layout)


def gained_lost(comparison: Comparison, rows: int = 20) -> go.Figure:
    """Tasks gained, lost, solved by both or neither per level, then the changed tasks by name.

    Args:
        rows: tasks listed at most, of gained and of lost ones.
    """
    a, b = (clean(n, 60) for n in comparison.names)
    title = "Which tasks were gained or lost?"
    if not comparison.paired:
        return draw.nothing(title, " ".join(comparison.notes))
    data = comparison.tasks
    counts = tables.tally(data, "level", "change", _CHANGES)
    names = draw.labels(counts["level"].replace("", "no level"))
    bars = draw.stacks(names, counts, _CHANGES)
    changed = pd.concat([comparison.changed(c).head(rows) for c in ("gained", "lost")])
    kinds = changed["b_kind"].where(changed["change"] == "lost", changed["a_kind"])
    glyphs = (f"{_CHANGES[c][0][0]} " for c in changed["change"])
    changed = changed.assign(
        kind=[f"failed by: {draw.kind_name(k)}" if k else "" for k in kinds],
        asked=[clean(text, 160) for text in changed["instruction"]],
        task=draw.task_labels(changed, data["seed"].nunique() > 1, glyphs),
    )
    changed["hover"] = draw.hovers(
        changed, "{change}: task {task_id}, seed {seed}", "{asked}",
        "reward {a_reward:.2f} → {b_reward:.2f}", "{kind}",
    )  # fmt: skip
    below = []
    for change, own in changed.groupby("change"):
        colour, n = _CHANGES[str(change)][1].light, len(own)
        gaps = own.assign(none=None)  # a line ends at None
        x = gaps[["a_reward", "b_reward", "none"]].astype(object).to_numpy().ravel()
        marker = {"color": colour, "size": 9, "symbol": ["circle-open", "circle", "circle"] * n}
        y, hover = (gaps[c].repeat(3) for c in ("task", "hover"))
        pairs = draw.mark("scatter", x.tolist(), y, hover, marker=marker, mode="lines+markers")
        below.append(pairs | {"line": {"color": colour, "width": 1.8}})
    note = (
        f"From {a} to {b}; on hover the kind of failure of the side that did not solve the task. "
        f"{_CHANCE}"
    )
    axis = {"title_text": "reward: ○ before, ● after", "range": [-0.03, 1.03]}
    tasks = changed["task"].tolist()
    return _above_tasks(title, note, "tasks", names, bars, tasks, below, axis)


def action_mix(comparison: Comparison) -> go.Figure:
    """Change in the share of each kind of action in an episode."""
    unit = "share of an episode's actions, percentage points"
    return _kinds(comparison, comparison.actions, "Which actions became more frequent?", unit)


def error_kinds(comparison: Comparison) -> go.Figure:
    """Change in the share of episodes that fail in each way."""
    rows = comparison.errors.assign(kind=comparison.errors["kind"].map(draw.kind_name))
    unit = "share of episodes, percentage points"
    return _kinds(comparison, rows, "Which failures became rarer?", unit)


def _seeds(
    table: pd.DataFrame, by: str, x: str, y: str, looks: Mapping[str, Look]
) -> list[draw.Trace]:
    """Small marks for single seeds, beside the lines of their means (`drawing.lines`)."""
    traces = []
    for group, look in looks.items():
        part = table[table[by] == group]
        dot = {"color": f"{look.light}80", "symbol": look.marker, "size": 7}
        more = {"mode": "markers", "marker": dot, "name": plain(group, 40), "showlegend": False}
        traces.append(draw.mark("scatter", part[x], part[y], part["hover"], **more))
    return traces


def _kinds(comparison: Comparison, rows: pd.DataFrame, title: str, unit: str) -> go.Figure:
    if rows.empty:
        why = " ".join(comparison.notes) or "No episode of both sides is on record."
        return draw.nothing(title, why)
    glyphs = [
        "" if not q < 0.05 else "▲ " if up else "▼ "
        for q, up in zip(rows["q"], rows["difference"] > 0, strict=True)
    ]
    looks = {"": GROUPS[0], "▲ ": LABELS["beneficial"], "▼ ": LABELS["harmful"]}
    told = draw.hovers(rows, "{kind}", "{a:.1%} to {b:.1%}", "q = {q:.3f} ({test}, {n})")
    table = rows.assign(name=glyphs + rows["kind"], hover=told, dots="")
    a, b = (clean(n, 60) for n in comparison.names)
    note = (
        f"{b} minus {a}, {rows['n'].iloc[0]}{', not paired' * (not comparison.paired)}. Bars are "
        "95 % intervals; ▲ ▼ mark differences beyond chance at a false-discovery rate of 5 % "
        "(Benjamini–Hochberg)."
    )
    return draw.differences(title, note, unit, table, [looks[g] for g in glyphs])
