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
from eeflib.stats import PairedDifference

__all__ = [
    "action_mix",
    "budget",
    "compared",
    "discovered",
    "error_kinds",
    "gained_lost",
    "newly_solved",
    "other_m",
    "paired",
    "rates",
    "simplicity_bias",
    "win_rates",
]

_CHANCE = "Some of either is chance: two students of equal skill differ on single tasks, too."
_CHANGES: Mapping[str, draw.Part] = {
    "both": ("solved by both", GROUPS[0], False),
    "gained": ("▲ gained", LABELS["beneficial"], False),
    "lost": ("▼ lost", LABELS["harmful"], True),
    "never": ("solved by neither", draw.PALE, False),
}


def rates(rows: Sequence[Mapping[str, Any]], label: str = "win rate") -> go.Figure:
    """Win rates with their intervals, a bar a method; from `eeflib.demo.method_row`."""
    title = "Which method solves more tasks?"
    if not rows:
        return draw.nothing(title, "No method has been evaluated yet.")
    table = pd.DataFrame([(r["method"], r["win_rate"], *r["interval"]) for r in rows],
                         columns=["name", "rate", "low", "high"])  # fmt: skip
    table["text"] = [f"{100 * rate:.1f} %" for rate in table["rate"]]
    table["hover"] = draw.hovers(table, "{name}: {text}", "95 % interval {low:.1%} to {high:.1%}")
    looks = style.method_looks(table["name"])
    return draw.rate_bars(title, "Whiskers are 95 % intervals.", label, table, looks)


def win_rates(evaluations: draw.Data, looks: Mapping[str, Look] | None = None) -> go.Figure:
    """Win rate per fine-tuning iteration and method with its band; from `frames.evaluations`.

    Args:
        looks: of the methods; None: those of `style.method_looks`.
    """
    title = "Does each iteration solve more tasks?"
    rows = tables.courses(tables.win_rates(draw.table(evaluations, "evaluations")))
    if rows.empty:
        return draw.nothing(title, "No evaluation is recorded yet (evaluations.jsonl).")
    rows["hover"] = draw.hovers(
        rows, "{method}, iteration {iteration}", "solved {won}", "{seeds} seeds"
    )
    looks = looks or style.method_looks(rows["method"])
    drawn = {method: looks[method] for method in style.order(rows["method"])}
    across, most = [], int(rows["iteration"].max())
    for method, look in drawn.items():
        level = rows.loc[rows["method"] == method, "rate"]
        if len(level) == 1 and most:
            line = {"color": f"{look.light}90", "width": 1.2, "dash": look.dash}
            ends = {"x0": 0, "x1": 1, "y0": level.iloc[0], "y1": level.iloc[0]}
            across.append({"type": "line", "xref": "paper", "line": line, **ends})
    note = (
        "Bands are 95 % Wilson intervals over evaluations. The last iteration is the one reported, "
        "not the best one. A method with one iteration is drawn across."
    )
    traces = draw.lines(rows, "method", "iteration", "rate", drawn, drawn)
    x = draw.whole_axis("iteration (0: cloned successes)", most)
    return draw.curves(
        title, note, traces, x, draw.share_axis("held-out tasks solved"), body=320, shapes=across
    )


def paired(rows: Mapping[str, PairedDifference]) -> go.Figure:
    """Win rate of one method minus that of each other (by name): seeds, mean and interval."""
    title = "Is the difference real?"
    if not rows:
        return draw.nothing(title, "Two evaluated methods are needed for a comparison.")
    columns = ["name", "difference", "low", "high", "p", "n", "ahead", "dots"]
    table = pd.DataFrame(
        [
            (
                f"{clean(p.a, 24)} − {clean(p.b, 24)}",
                *(p.mean, p.low, p.high, p.p, p.n),
                f", ahead in {p.better}" if p.basis == "seeds" else "",
                p.differences if p.basis == "seeds" else (),
            )
            for p in rows.values()
        ],
        columns=columns,
    )
    points = 100 * table[["difference", "low", "high"]]
    table["hover"] = draw.hovers(
        table.assign(**points), "{name}", "{difference:+.1f} points",
        "95 % interval {low:+.1f} to {high:+.1f}", "p = {p:.3f}, {n} seeds{ahead}",
    )  # fmt: skip
    note = (
        "Both methods are evaluated on the same tasks in each seed. Small dots are seeds, the "
        "diamond is their mean, the bar the 95 % t interval of a paired test over seeds."
    )
    if all(p.basis != "seeds" for p in rows.values()):
        note = (
            "One seed only: the bar is a 95 % bootstrap interval over tasks. It says nothing about "
            "what another training seed would give."
        )
    looks = [style.method_looks(rows)[method] for method in rows]
    return draw.differences(title, note, "difference in win rate, percentage points", table, looks)


def newly_solved(changes: draw.Data) -> go.Figure:
    """Test tasks gained, lost, solved by both or by neither; `tables.newly_solved`."""
    title = "How many tasks were gained and lost?"
    data = draw.table(changes, "changes")
    if data.empty:
        return draw.nothing(title, "Two methods evaluated on the same tasks are needed.")
    base, methods = str(data["baseline"].iloc[0]), style.order(data["method"])
    counts, names = draw.tally(data, "method", "change", methods, _CHANGES), draw.labels(methods)
    net = [f"net {n:+d}".replace("-", "−") for n in counts["gained"] - counts["lost"]]
    note = f"Against {clean(base, 60)}, over all seeds, the last iteration both have. {_CHANCE}"
    traces = [*draw.stacks(names, counts, _CHANGES), draw.words(names, counts.sum(axis=1), net)]
    return draw.stacked(title, note, "test tasks", names, traces)


def _above_tasks(
    title: str, note: str, x: str, names: list[str], traces: list[draw.Trace], tasks: list[str],
    below: list[draw.Trace], axis: draw.Trace,
) -> go.Figure:  # fmt: skip
    """A figure of `stacks` above one of single tasks."""
    heights = [32 * len(names) + 8, 24 * len(tasks) + 10] if tasks else [32 * len(names) + 8]
    layout = draw.panels(heights, 74)
    layout["xaxis"] |= {"title_text": x, "rangemode": "tozero"}
    layout["yaxis"] |= draw.rows_axis(names)
    if tasks:
        layout["xaxis2"] |= axis
        layout["yaxis2"] |= draw.rows_axis(tasks, showgrid=True)
    second = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    traces = [*traces, *(trace | second for trace in below)]
    height = sum(heights) + 74 * (len(heights) - 1)
    layout |= {"body": height, "left": draw.tick_room([*names, *tasks]), "barmode": "stack"}
    return draw.page(title, note, traces, legend=True, **layout)


def discovered(found: draw.Data, rows: int = 20) -> go.Figure:
    """Training tasks that exploring solved and the teacher did not: `tables.discoveries`.

    Args:
        rows: tasks listed at most, those solved from the deepest states first.
    """
    title = "What did exploring find?"
    data = draw.table(found, "discoveries")
    if data.empty:
        return draw.nothing(title, "No exploration is recorded (branches.jsonl).")
    methods = style.order(data["method"])
    counts, names = draw.tally(data, "method", "found", methods, draw.FOUND), draw.labels(methods)
    new = data[data["found"].isin(["s0", "state"])]
    listed = new.sort_values(["k", "seed", "task_id"], ascending=[False, True, True]).head(rows)
    listed = listed.assign(task=draw.task_labels(listed, data["seed"].nunique() > 1))
    listed["hover"] = draw.hovers(
        listed, "task {task_id}, seed {seed}", "{level}",
        "{method}, iteration {iteration}: first solved", "from s{k}, after {t} actions",
    )  # fmt: skip
    looks, below = style.method_looks(methods), []
    for method in methods:
        own = listed[listed["method"] == method]
        marker = {"color": looks[method].light, "symbol": looks[method].marker, "size": 9}
        dots = draw.mark(
            "scatter", own["k"], own["task"], own["hover"], mode="markers+text", marker=marker
        )
        names_k = [f"s<sub>{k}</sub>" for k in own["k"]]
        below.append(dots | {"text": names_k, "textposition": "middle right"})
    note = "Training tasks that were explored"
    note += "; below, those that exploring solved." if len(listed) else "."
    if len(new) > len(listed):
        note += f" {len(listed)} of {len(new)} are listed."
    deepest = int(data["k"].max())
    axis = draw.whole_axis("first solved from state k", deepest, range=[-0.3, deepest + 0.7])
    traces, tasks = draw.stacks(names, counts, draw.FOUND), listed["task"].tolist()
    return _above_tasks(title, note, "training tasks explored", names, traces, tasks, below, axis)


def simplicity_bias(shares: draw.Data, focus: str = "EEF") -> go.Figure:
    """Per cent of actions of each kind, source by source; from `tables.action_shares`.

    What successes lack and failures hold is what a student cloned from successes never sees. Put
    `tables.learned_actions` below the others to see what newly solved tasks needed.
    """
    title = "Which actions does training teach?"
    data = draw.table(shares, "actions")
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


_SPENT = {
    "steps": "simulated steps", "found": "tasks found", "steps_per_found": "steps per found",
    "gained": "▲ tests gained", "steps_per_gained": "steps per gained", "lost": "▼ tests lost",
    "rollouts": "rollouts", "tokens": "tokens", "seconds": "seconds a seed",
    "cost_usd": "dollars", "usd_per_found": "dollars per found",
}  # fmt: skip


def budget(costs: draw.Data, baseline: str = "") -> go.Figure:
    """What each method spent on exploring and what that brought; `tables.budget`."""
    title = "What was spent, and what did it find?"
    data = draw.table(costs, "costs")
    if data.empty:
        return draw.nothing(title, "Neither trajectories nor exploration are recorded yet.")
    known = data[list(_SPENT)].astype("float64").where(lambda v: v >= 0)
    shown = [c for c in _SPENT if (known[c] > 0).any()]
    told = known.map(draw.amount).assign(method=data["method"])
    about = draw.hovers(told, "{method}", *(f"{_SPENT[c]}: {{{c}}}" for c in shown))
    names, looks = draw.labels(data["method"]), style.method_looks(data["method"])
    colours = [looks[method].light for method in data["method"]]
    marker = {"color": [f"{c}59" for c in colours], "line": {"color": colours, "width": 1.2}}
    heights = [24.0 * len(names) + 6] * math.ceil(len(shown) / 2)
    layout, traces, heads = draw.panels(heights, 34, 2), [], []
    for i, column in enumerate(shown):
        n = str(i + 1) if i else ""
        bars = draw.mark(
            "bar", known[column].fillna(0), names, about, orientation="h", marker=marker
        )
        bars |= {"text": told[column].tolist(), "textposition": "outside", "textfont_size": 11.5}
        traces.append(bars | {"xaxis": f"x{n}", "yaxis": f"y{n}"})
        layout[f"xaxis{n}"] |= {"range": [0, 1.3 * known[column].max()], "visible": False}
        layout[f"yaxis{n}"] |= draw.rows_axis(names, showticklabels=i % 2 == 0)
        corner = (layout[f"xaxis{n}"]["domain"][0], layout[f"yaxis{n}"]["domain"][1])
        place = draw.at("paper", corner[0], "paper", corner[1], "left", "bottom", 0, 1)
        heads.append({"text": f"<b>{_SPENT[column]}</b>", **place})
    against = f" against {clean(baseline, 60)}" if baseline else ""
    note = (
        "Over all seeds. Found: training tasks that the teacher failed and a rollout solved (the "
        f"teacher's row: tasks it solved). Gained, lost: test tasks{against}. Tokens are those on "
        "record: a student without a tokenizer has none. Evaluation is not counted."
    )
    layout = {k: v for k, v in layout.items() if int(k[5:] or 1) <= len(traces)}
    body, left = sum(heights) + 34 * (len(heights) - 1), draw.tick_room(names)
    return draw.page(
        title, note, traces, body=body, left=left, above=26, below=14, annotations=heads, **layout
    )


def other_m(whatif: draw.Data) -> go.Figure:
    """What fewer states or rollouts would have cost and found; `tables.other_m`."""
    title = "What would another M have found?"
    data = draw.table(whatif, "other_m")
    if data.empty or data["M"].max() < 1:
        return draw.nothing(
            title, "No exploration from expert states is recorded (branches.jsonl)."
        )
    data = data.assign(
        plan=[f"{a} rollout{'s' if a > 1 else ''} a state" for a in data["attempts"]],
        usd=["" if math.isnan(v) else f"{draw.amount(v)} dollars" for v in data["cost_usd"]],
        each=[
            f"{draw.amount(s / f)} steps a task" if f else ""
            for s, f in data[["steps", "found"]].to_numpy()
        ],
    )
    data["hover"] = draw.hovers(
        data, "M = {M}, {plan}", "{found:.1f} tasks solved, {share:.0%} of the failed ones",
        "{rollouts:,} rollouts, {steps:,.0f} simulated steps", "{each}", "{usd}",
    )  # fmt: skip
    looks = dict(zip(data["plan"].unique(), (*GROUPS[2:], *GROUPS[:2]), strict=False))
    run, second = data[data["recorded"]], {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    ring = {"size": 17, "symbol": "circle-open", "color": INKS["ink"][0], "line": {"width": 1.6}}
    rings = [
        draw.mark("scatter", run["M"], run[c], mode="markers", marker=ring, name="as run", **more)
        for c, more in (("share", {}), ("steps", second))
    ]
    upper, lower = (draw.lines(data, "plan", "M", c, looks) for c in ("share", "steps"))
    layout = draw.panels([200, 130], 26)
    most = int(data["M"].max())
    layout["xaxis"] |= draw.whole_axis("", most, showticklabels=False, matches="x2")
    layout["xaxis2"] |= draw.whole_axis("M, expert states per trajectory", most)
    layout["yaxis"] |= draw.share_axis("failed tasks solved", max(0.1, 1.12 * data["share"].max()))
    layout["yaxis2"] |= {"title_text": "simulated steps", "rangemode": "tozero"}
    note = (
        "Computed from the recorded branches of one iteration: fewer states means those nearest to "
        "equal spacing, fewer rollouts what they find on average. An estimate, but for the plan "
        "that was run; what more states would have found is not on record."
    )
    traces = [*upper, *(trace | second for trace in lower), *rings]
    return draw.page(title, note, traces, legend=True, body=356, left=72, **layout)


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
        "p = {p:.3f}, {test}, n = {n}",
    )  # fmt: skip
    layout, traces, heads = draw.panels([34.0] * len(rows), 62), [], []
    for i, (hover, r) in enumerate(zip(told, rows.to_dict("records"), strict=True)):
        n = str(i + 1) if i else ""
        sure = r["low"] > 0 or r["high"] < 0
        colour = (LABELS["beneficial"] if sure else GROUPS[0]).light
        marker = {"color": colour, "symbol": "diamond" if sure else "diamond-open", "size": 12}
        dot = draw.mark("scatter", [r["difference"]], [0], [hover], mode="markers", marker=marker)
        dot |= {"error_x": draw.whiskers(colour, [r["difference"]], [r["low"]], [r["high"]])}
        traces.append(dot | {"xaxis": f"x{n}", "yaxis": f"y{n}"})
        reach = 1.15 * max(
            (abs(r[c]) for c in ("difference", "low", "high") if r[c] == r[c]), default=1
        )
        zero = {"zeroline": True, "zerolinecolor": INKS["soft"][0], "tickformat": "+~g"}
        layout[f"xaxis{n}"] |= {"range": [-(reach or 1), reach or 1], "nticks": 5, **zero}
        layout[f"yaxis{n}"] |= {"visible": False, "range": [-1, 1]}
        p = "p < 0.001" if r["p"] < 0.001 else f"p = {r['p']:.3f}"
        text = f"{plain(r['meaning'])}: {r['a']:.3f} → {r['b']:.3f}, {p}"
        top = layout[f"yaxis{n}"]["domain"][1]
        head = {"text": f"<b>{text}</b>" if sure else text}
        heads.append(head | draw.at("paper", 0, "paper", top, "left", "bottom", 0, 3))
    note = (
        f"Difference: {b} minus {a}. Bars are 95 % intervals; a filled diamond and bold words: the "
        f"interval does not hold 0. {' '.join(comparison.notes)}"
    )
    body = 34 * len(rows) + 62 * (len(rows) - 1)
    return draw.page(
        title, note, traces, body=body, left=24, above=16, below=34, annotations=heads, **layout
    )


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
    levels = style.level_order(data["level"])
    names = draw.labels(level or "no level" for level in levels)
    traces = draw.stacks(names, draw.tally(data, "level", "change", levels, _CHANGES), _CHANGES)
    changed = pd.concat([comparison.changed(c).head(rows) for c in ("gained", "lost")])
    kinds = changed["b_kind"].where(changed["change"] == "lost", changed["a_kind"])
    changed = changed.assign(
        kind=[f"failed by: {draw.kind_name(k)}" if k else "" for k in kinds],
        asked=[clean(text, 160) for text in changed["instruction"]],
        task=draw.task_labels(
            changed,
            data["seed"].nunique() > 1,
            (f"{_CHANGES[c][0][0]} " for c in changed["change"]),
        ),
    )
    told = draw.hovers(
        changed, "{change}: task {task_id}, seed {seed}", "{asked}",
        "reward {a_reward:.2f} → {b_reward:.2f}", "{kind}",
    )  # fmt: skip
    below = []
    for hover, r in zip(told, changed.to_dict("records"), strict=True):
        colour, ends = _CHANGES[r["change"]][1].light, [r["a_reward"], r["b_reward"]]
        marker = {"color": colour, "size": 9, "symbol": ["circle-open", "circle"]}
        pair = draw.mark("scatter", ends, [r["task"]] * 2, [hover] * 2, marker=marker)
        below.append(pair | {"mode": "lines+markers", "line": {"color": colour, "width": 1.8}})
    note = (
        f"From {a} to {b}; on hover the kind of failure of the side that did not solve the task. "
        f"{_CHANCE}"
    )
    axis = {"title_text": "reward: ○ before, ● after", "range": [-0.03, 1.03]}
    tasks = changed["task"].tolist()
    return _above_tasks(title, note, "tasks", names, traces, tasks, below, axis)


def action_mix(comparison: Comparison) -> go.Figure:
    """Change in the share of each kind of action in an episode."""
    unit = "share of an episode's actions, percentage points"
    return _kinds(comparison, comparison.actions, "Which actions became more frequent?", unit)


def error_kinds(comparison: Comparison) -> go.Figure:
    """Change in the share of episodes that fail in each way."""
    rows = comparison.errors.assign(kind=[draw.kind_name(k) for k in comparison.errors["kind"]])
    unit = "share of episodes, percentage points"
    return _kinds(comparison, rows, "Which failures became rarer?", unit)


def _kinds(comparison: Comparison, rows: pd.DataFrame, title: str, unit: str) -> go.Figure:
    if rows.empty:
        why = " ".join(comparison.notes) or "No episode of both sides is on record."
        return draw.nothing(title, why)
    glyphs = [
        "" if not q < 0.05 else "▲ " if up else "▼ "
        for q, up in zip(rows["q"], rows["difference"] > 0, strict=True)
    ]
    looks = {"": GROUPS[0], "▲ ": LABELS["beneficial"], "▼ ": LABELS["harmful"]}
    told = draw.hovers(rows, "{kind}", "{a:.1%} to {b:.1%}", "q = {q:.3f} ({test}, n = {n})")
    table = rows.assign(name=glyphs + rows["kind"], hover=told, dots=None)
    a, b = (clean(n, 60) for n in comparison.names)
    n = int(rows["n"].iloc[0])
    note = (
        f"{b} minus {a}, {n} {'pairs' if comparison.paired else 'episodes, not paired'}. Bars are "
        "95 % intervals; ▲ ▼ mark differences beyond chance at a false-discovery rate of 5 % "
        "(Benjamini–Hochberg)."
    )
    return draw.differences(title, note, unit, table, [looks[g] for g in glyphs])
