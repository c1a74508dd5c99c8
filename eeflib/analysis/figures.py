"""Every figure of the analysis, by name: pure functions, table -> `plotly.graph_objects.Figure`.

Import the figures from here: restyle them, combine them, write them as any plotly figure. Each title
asks the question that the figure answers; `layout.meta` holds it as plain text, with the note on
how to read it, and `nothing`, the reason, where there is nothing to draw. The colours, which people
with the common colour-vision deficiencies can distinguish, come with a glyph, a dash, a hatching
or a number. `style.dark` gives the twin for a dark page, `bare` a figure without title and note.

Where a function takes one frame of a run, or one table of its findings, the run or its folder will
do as well: `recovery_map("runs/demo")`.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from eeflib.analysis import frames, style, tables, taxonomy
from eeflib.analysis.compare import Comparison
from eeflib.analysis.findings import Findings
from eeflib.analysis.labels import Agreement
from eeflib.analysis.markup import clean, plain
from eeflib.analysis.run import Run
from eeflib.analysis.segments import Segment
from eeflib.analysis.style import GROUPS, INKS, LABELS, Look
from eeflib.analysis.taxonomy import Diagnosis
from eeflib.analysis.taxonomy_rules import KINDS
from eeflib.records import Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import PairedDifference, wilson

__all__ = [
    "CONFIG",
    "action_mix",
    "bare",
    "budget",
    "compared",
    "discovered",
    "error_kinds",
    "failure_agreement",
    "failure_kinds",
    "first_solved",
    "gained_lost",
    "lengths",
    "losses",
    "newly_solved",
    "other_m",
    "outcome_by_type",
    "paired",
    "rates",
    "recovery_curve",
    "recovery_map",
    "rewards",
    "segment_ribbon",
    "shares",
    "simplicity_bias",
    "steps_to_failure",
    "trajectory_curve",
    "win_rates",
]

CONFIG: dict[str, Any] = {"displaylogo": False, "responsive": True}
"""For plotly's `config`; in a notebook it is the default of every renderer."""

pio.templates["eef"] = style.template()
pio.templates["eef_dark"] = style.dark(go.Figure(layout={"template": "eef"})).layout.template
if "IPython" in sys.modules:  # elsewhere there is no renderer to speak of, and asking takes seconds
    for _name in pio.renderers:
        if hasattr(_renderer := pio.renderers[_name], "config"):
            _renderer.config = {**CONFIG, **(_renderer.config or {})}

Data = pd.DataFrame | Run | str | Path
Table = pd.DataFrame | Findings | Run | str | Path
Json = dict[str, Any]

GROUPS_SHOWN = 6
"""Groups of tasks that get a colour of their own."""
_NO_EPISODES = "No trajectory is recorded yet (trajectories.jsonl)."
_NO_FAILURES = "No failed trajectory is recorded: there is nothing to explain."
_UNEXPLORED = (
    "No exploration from expert states is recorded (branches.jsonl with k > 0), so there is "
    "nothing to say about recovery. A run with EEF among its methods records it."
)
_CHANCE = "Some of either is chance: two students of equal skill differ on single tasks, too."
_CHANGES: Mapping[str, tuple[str, Look, bool]] = {
    "both": ("solved by both", GROUPS[0], False),
    "gained": ("▲ gained", LABELS["beneficial"], False),
    "lost": ("▼ lost", LABELS["harmful"], True),
    "never": ("solved by neither", Look("#dfe3e8", "#2e353d"), False),
}
_FOUND: Mapping[str, tuple[str, Look, bool]] = {
    "teacher": ("solved by the teacher", GROUPS[0], False),
    "s0": ("● from s₀", LABELS["student"], False),
    "state": ("▲ only from a later state", LABELS["beneficial"], False),
    "never": ("never", Look("#dfe3e8", "#2e353d"), False),
}
_PARTS = (("▲ solved", LABELS["beneficial"], False), ("▼ failed", LABELS["harmful"], True))


# -- the page of a figure -----------------------------------------------------------------------


def _figure(
    title: str,
    note: str,
    traces: Sequence[Json],
    *,
    body: float = 300,
    left: float = 58,
    right: float = 24,
    bottom: float = 46,
    legend: bool = False,
    annotations: Iterable[Json] = (),
    **layout: Any,
) -> go.Figure:
    """Traces between a title and a note, which are wrapped so that a phone shows them whole.

    Args:
        title, note: plain text, of records too.
        body, left, right, bottom: pixels of the plotting area's height and of the margins around
            it, for the labels of the axes; the title and the note have their own.
        legend: there is one; it gets room for the lines it has on a phone.
    """
    heading, below = plain(title, 200, 42), plain(note, 1200, 64)
    head = 18 + 21 * (heading.count("<br>") + 1)
    foot = 15.5 * (below.count("<br>") + 1) + 10 if below else 0
    keys, line = 0, 400.0
    for trace in traces if legend else ():
        if trace.get("showlegend", True):
            line += (room := 46 + 6.6 * len(trace["name"]))
            keys, line = (keys, line) if line < 360 else (keys + 1, room)
    above = 12 + 20 * keys
    words = {
        "name": "note",
        "text": below,
        "font": {"color": INKS["soft"][0], "size": 11.5},
        "align": "left",
        **_at("paper", 0, "paper", 0, "left", "top", 12 - left, -bottom),
    }
    return go.Figure(
        list(traces),
        {
            "template": "eef",
            "title": {"text": heading},
            "meta": {"title": clean(title), "note": clean(note), "head": head, "foot": foot},
            "margin": {"l": left, "r": right, "t": head + above, "b": bottom + foot},
            "height": head + above + body + bottom + foot,
            "showlegend": legend,
            "annotations": [*annotations, words] if below else [*annotations],
            **layout,
        },
    )


def _at(
    xref: str,
    x: Any,
    yref: str,
    y: Any,
    xanchor: str,
    yanchor: str,
    right: float = 0,
    up: float = 0,
) -> Json:
    """Where the text of an annotation stands; `right` and `up` shift it by pixels."""
    place = {"xref": xref, "x": x, "yref": yref, "y": y, "xanchor": xanchor, "yanchor": yanchor}
    return {**place, "xshift": right, "yshift": up, "showarrow": False}


def bare(figure: go.Figure) -> go.Figure:
    """A copy without title and note, for a page that prints `layout.meta` in its own way."""
    out, meta = go.Figure(figure), figure.layout.meta
    kept = [a for a in figure.layout.annotations if a.name != "note"]
    margin = figure.layout.margin
    return out.update_layout(
        title_text="",
        annotations=kept,
        margin={"t": margin.t - meta["head"], "b": margin.b - meta["foot"]},
        height=figure.layout.height - meta["head"] - meta["foot"],
        overwrite=True,
    )


def _nothing(title: str, why: str) -> go.Figure:
    """A figure that says in a sentence what is missing."""
    hidden = {"visible": False, "range": [0, 1]}
    text = plain(why, 600, 58)
    words = {"name": "nothing", "text": text, "align": "left"}
    out = _figure(
        title,
        "",
        [],
        body=17 * (text.count("<br>") + 1),
        bottom=14,
        annotations=[{**words, **_at("paper", 0, "paper", 1, "left", "top", 12 - 58)}],
        xaxis=hidden,
        yaxis=hidden,
    )
    return out.update_layout(meta={**out.layout.meta, "nothing": clean(why)})


def _frame(data: Data, name: str) -> pd.DataFrame:
    """`data`, or that frame of the run."""
    return data if isinstance(data, pd.DataFrame) else getattr(frames.load(data), name)


def _found(data: Table, name: str) -> pd.DataFrame:
    """`data`, or that table of the run's findings."""
    if isinstance(data, pd.DataFrame):
        return data
    found = data if isinstance(data, Findings) else Findings(data)  # type: ignore[arg-type]
    return getattr(found, name)


def _rows(frame: pd.DataFrame) -> list[Json]:
    """The rows as dicts, numbers as Python's."""
    return frame.to_dict("records")  # type: ignore[return-value]


def _percent(share: float) -> str:
    """`64 %`; a dash for nan."""
    return "–" if math.isnan(share) else f"{share * 100:.0f} %"


def _won(wins: int, n: int) -> str:
    low, high = wilson(wins, n)
    return (
        f"{wins} of {n} ({_percent(wins / n)}, 95 % interval {_percent(low)} to {_percent(high)})"
        if n
        else "not tried"
    )


def _amount(value: float) -> str:
    """`1,204`, `0.35`, `0.0012`; a dash for nan."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def _hover(*lines: str) -> str:
    """Lines of record text, wrapped."""
    return "<br>".join(plain(line, 400, 60) for line in lines if line)


def _labels(names: Iterable[Any], width: int = 20, limit: int = 40) -> list[str]:
    """Names for the ticks of a category axis; of two that look the same the second is numbered."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        label = plain(name, limit, width) or "–"
        seen[label] += 1
        out.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return out


def _left(labels: Iterable[str]) -> float:
    """Pixels that the longest line of some tick labels needs."""
    longest = max((len(x) for label in labels for x in label.split("<br>")), default=0)
    return 22 + 6.9 * longest


def _categories(**more: Any) -> Json:
    """A y axis of labelled rows, the first on top."""
    ink = {"color": INKS["ink"][0]}
    axis = {"type": "category", "autorange": "reversed", "showgrid": False, "tickfont": ink}
    return axis | more


def _fill(look: Look, hatched: bool = False) -> Json:
    """The marker of a part of a bar: a tint that text can stand on, with a firm edge."""
    marker: Json = {"color": f"{look.light}59", "line": {"color": look.light, "width": 1.2}}
    if hatched:
        marker["pattern"] = {"shape": "/", "fgcolor": look.light, "size": 9, "solidity": 0.13}
    return marker


# -- kinds of drawing ---------------------------------------------------------------------------


def _whiskers(look: Look, values: Sequence[float], lows: Sequence[float], highs: Sequence[float]):
    """Bars from low to high."""
    up = [high - value for value, high in zip(values, highs, strict=True)]
    down = [value - low for value, low in zip(values, lows, strict=True)]
    ink = {"color": look.light, "thickness": 1.8, "width": 5}
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **ink}


def _texts(
    labels: Sequence[str], at: Sequence[float], texts: Sequence[str], axes: str = ""
) -> Json:
    """Words to the right of each row's mark."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": list(at),
        "y": list(labels),
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        "text": [f"  {plain(text, 60)}" for text in texts],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _margin(texts: Iterable[str]) -> float:
    """Pixels to the right that words beyond the last mark need."""
    return 16 + 6.6 * max(map(len, texts), default=0)


def _rate_bars(
    title: str,
    note: str,
    x: str,
    rows: Sequence[tuple[str, float, float, float, Look, str, str]],
) -> go.Figure:
    """Shares with their intervals: (name, share, low, high, look, words beside it, on hover)."""
    labels = _labels(r[0] for r in rows)
    traces: list[Json] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [share],
            "y": [label],
            "marker": _fill(look),
            "error_x": _whiskers(look, [share], [low], [high]),
            "hovertext": [hover],
            "hoverinfo": "text",
        }
        for label, (_, share, low, high, look, _, hover) in zip(labels, rows, strict=True)
    ]
    texts = [r[5] for r in rows]
    traces.append(_texts(labels, [max(r[1], r[3]) for r in rows], texts))
    return _figure(
        title,
        note,
        traces,
        body=32 * len(rows) + 8,
        left=_left(labels),
        right=_margin(texts),
        xaxis={"title": {"text": plain(x, 80)}, "range": [0, 1], "tickformat": ".0%"},
        yaxis=_categories(categoryarray=labels),
        barmode="overlay",
    )


def _stacks(
    labels: Sequence[str],
    counts: Sequence[Mapping[str, int]],
    kinds: Mapping[str, tuple[str, Look, bool]],
    hovers: Mapping[tuple[int, str], str] | None = None,
) -> list[Json]:
    """A bar a row, cut into how many of each kind there are."""
    traces: list[Json] = []
    for kind, (name, look, hatched) in kinds.items():
        n = [row.get(kind, 0) for row in counts]
        of = [
            f"{label}: {x} of {sum(r.values())} {name}"
            for label, x, r in zip(labels, n, counts, strict=False)
        ]
        more = [(hovers or {}).get((i, kind), "") for i in range(len(n))]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": n,
                "y": list(labels),
                "text": [str(x) if x else "" for x in n],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": INKS["ink"][0]},
                "marker": _fill(look, hatched),
                "hovertext": [f"{a}<br>{b}" if b else a for a, b in zip(of, more, strict=False)],
                "hoverinfo": "text",
            }
        )
    return traces


def _lines(
    rows: Iterable[tuple[str, Look, Sequence[float], Sequence[float], Sequence[str]]],
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    mode: str = "lines+markers",
) -> list[Json]:
    """Lines with bands: (name, look, x, y, hover texts), and name -> its lows and highs.

    A line of a single point is drawn as that point with its interval.
    """
    traces: list[Json] = []
    for name, look, x, y, hovers in rows:
        label = plain(name, 40)
        low, high = (bands or {}).get(name, ((), ()))
        trace: Json = {
            "type": "scatter",
            "mode": mode,
            "name": label,
            "legendgroup": label,
            "x": list(x),
            "y": list(y),
            "line": {"color": look.light, "dash": look.dash, "width": 2.4},
            "marker": {"color": look.light, "symbol": look.marker, "size": 8},
            "hovertext": list(hovers),
            "hoverinfo": "text",
        }
        if len(low) == 1:
            trace["error_y"] = _whiskers(look, y, low, high)
        elif len(low):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": label,
                    "legendgroup": label,
                    "x": [*x, *reversed(x)],
                    "y": [*high, *reversed(low)],
                    "line": {"width": 0},
                    "fill": "toself",
                    "fillcolor": f"{look.light}21",
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
        traces.append(trace)
    return traces


def _share_axis(text: str = "", **more: Any) -> Json:
    return {"title": {"text": text}, "range": [-0.02, 1.02], "tickformat": ".0%", **more}


def _steps_axis(text: str, most: float) -> Json:
    """An axis of whole numbers."""
    tick = max(1, math.ceil(most / 8))
    return {"title": {"text": text}, "dtick": tick, "tick0": 0, "rangemode": "tozero"}


def _heat(
    x: Sequence[str],
    y: Sequence[str],
    z: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    hovers: Sequence[Sequence[str]],
) -> list[Json]:
    """Cells with words in them, the darker the more; None is a cell without a number."""
    won = LABELS["beneficial"].light
    cells = {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": z,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, INKS["wash"][0]], [1e-6, f"{won}30"], [1, f"{won}a0"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertext": hovers,
        "hoverinfo": "text",
    }
    words = {
        "type": "scatter",
        "mode": "text",
        "x": [a for _ in y for a in x],
        "y": [b for b in y for _ in x],
        "text": [text for row in texts for text in row],
        "hoverinfo": "skip",
    }
    return [cells, words]


def _differences(
    title: str,
    note: str,
    x: str,
    rows: Sequence[tuple[str, float, float, float, Look, str, Sequence[float]]],
) -> go.Figure:
    """Differences of shares with their intervals around zero.

    Args:
        rows: (name, difference, low, high, look, hover text, differences of single seeds).
    """
    labels = _labels((r[0] for r in rows), 22, 60)
    traces: list[Json] = []
    for label, (_, value, low, high, look, hover, dots) in zip(labels, rows, strict=True):
        points = [100 * d for d in dots]
        seeds = {"color": f"{look.light}80", "size": 6}
        if points:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": points,
                    "y": [label] * len(points),
                    "marker": seeds,
                    "hovertext": [f"one seed: {d:+.1f} points" for d in points],
                    "hoverinfo": "text",
                }
            )
        ends = [[100 * v] for v in (value, low, high)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": ends[0],
                "y": [label],
                "marker": {"color": look.light, "symbol": "diamond", "size": 11},
                "error_x": _whiskers(look, *ends) if low == low else {},
                "hovertext": [hover],
                "hoverinfo": "text",
            }
        )
    return _figure(
        title,
        note,
        traces,
        body=32 * len(rows) + 12,
        left=_left(labels),
        xaxis={
            "title": {"text": plain(x, 80)},
            "zeroline": True,
            "zerolinecolor": INKS["soft"][0],
            "tickformat": "+~g",
        },
        yaxis=_categories(categoryarray=labels, showgrid=True),
    )


def _panels(heights: Sequence[float], gap: float) -> Json:
    """Axes x, y, x2, y2, ... below one another, heights and gaps in pixels."""
    total = sum(heights) + gap * (len(heights) - 1)
    layout, top = {}, 1.0
    for i, height in enumerate(heights):
        n = str(i + 1) if i else ""
        domain = [max(0.0, top - height / total), top]
        layout[f"xaxis{n}"] = {"anchor": f"y{n}"}
        layout[f"yaxis{n}"] = {"anchor": f"x{n}", "domain": domain}
        top -= (height + gap) / total
    return layout


# -- the teacher's trajectories ------------------------------------------------------------------


def outcome_by_type(trajectories: Data, by: str = "level") -> go.Figure:
    """Share solved per level, task type, environment or any other column, with its interval."""
    data, what = _frame(trajectories, "trajectories"), by.replace("_", " ")
    title = f"How many tasks are solved, by {what}?"
    if data.empty:
        return _nothing(title, _NO_EPISODES)
    rows = _rows(tables.by_group(data, by))
    looks = style.group_looks(r["group"] for r in rows)
    bars = [
        (
            r["group"] or f"no {what}",
            r["rate"],
            r["low"],
            r["high"],
            looks[r["group"]],
            f"{r['wins']} of {r['n']}",
            _hover(
                r["group"] or f"no {what}",
                f"solved {_won(r['wins'], r['n'])}",
                f"mean reward {r['reward']:.2f}, {r['length']:.1f} actions",
            ),
        )
        for r in rows
    ]
    note = "Whiskers are 95 % Wilson intervals."
    return _rate_bars(title, note, "share of trajectories solved", bars)


def _histogram(
    title: str, note: str, x: str, names: Sequence[str], rows: Sequence[Json], words: Sequence[str]
):
    """How many trajectories were solved and failed in each bin."""
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": list(names),
            "y": [r[column] for r in rows],
            "marker": _fill(look, hatched),
            "hovertext": [
                f"{w}: {r['solved']} solved, {r['failed']} failed"
                for w, r in zip(words, rows, strict=False)
            ],
            "hoverinfo": "text",
        }
        for (name, look, hatched), column in zip(_PARTS, ("solved", "failed"), strict=True)
    ]
    return _figure(
        title,
        note,
        traces,
        legend=True,
        body=240,
        barmode="stack",
        bargap=0.12,
        xaxis={"title": {"text": x}, "type": "category"},
        yaxis={"title": {"text": "trajectories"}},
    )


def lengths(trajectories: Data) -> go.Figure:
    """How many actions solved and failed trajectories took."""
    title = "How many actions does a trajectory take?"
    data = _frame(trajectories, "trajectories")
    if data.empty:
        return _nothing(title, _NO_EPISODES)
    rows = _rows(tables.length_bins(data))
    names = [str(r["low"]) if r["low"] == r["high"] else f"{r['low']}–{r['high']}" for r in rows]
    middle = data.groupby("solved")["length"].median().to_dict()
    found = [
        f"{word} {middle[s]:g}" for s, word in ((True, "solved"), (False, "failed")) if s in middle
    ]
    note = f"Median number of actions: {', '.join(found)}."
    return _histogram(title, note, "actions", names, rows, [f"{n} actions" for n in names])


def rewards(trajectories: Data) -> go.Figure:
    """How near failures came: trajectories by final reward."""
    title = "How near did failures come?"
    data = _frame(trajectories, "trajectories")
    if data.empty:
        return _nothing(title, _NO_EPISODES)
    rows = _rows(tables.reward_bins(data))
    names = [f"{r['low']:g}" if r["low"] == r["high"] else f"<{r['high']:g}" for r in rows]
    words = [
        f"reward {r['low']:g}" + ("" if r["low"] == r["high"] else f" to below {r['high']:g}")
        for r in rows
    ]
    note = "The first bar is a reward of exactly 0, the last of exactly 1."
    failed = data[~data["solved"]]
    if len(failed):
        note += f" {int((failed['reward'] > 0).sum())} of {len(failed)} failures earned something."
    names = [n.replace("<", "&lt;") for n in names]
    return _histogram(title, note, "final reward R", names, rows, words)


def _kind(name: str) -> str:
    return f"{KINDS[name].glyph} {KINDS[name].title}" if name in KINDS else name


def failure_kinds(failures: Data, by: str = "level") -> go.Figure:
    """Kinds of failure: share with its interval, count, and how they divide on groups of tasks."""
    title = "Why do trajectories fail?"
    data = _frame(failures, "failures")
    if data.empty:
        return _nothing(title, _NO_FAILURES)
    whole = taxonomy.counts(data.assign(all="all"), "all").sort_values(
        "n", ascending=False, kind="stable"
    )
    rows, total, covered = _rows(whole), int(whole["total"].iloc[0]), taxonomy.coverage(data)
    sizes = data.loc[data["primary"], by].value_counts()
    groups = style.level_order(sizes.index[:GROUPS_SHOWN])
    per = taxonomy.counts(data, by).set_index(["group", "kind"])["n"].to_dict()
    looks = style.group_looks(groups)
    kinds = {g: (g or f"no {by}", looks[g], i % 2 == 1) for i, g in enumerate(groups)}
    labels = _labels((_kind(r["kind"]) for r in rows), 24)
    counts = [{g: per.get((g, r["kind"]), 0) for g in groups} for r in rows]
    if len(sizes) > len(groups):
        kinds["\0"] = ("others", Look(*INKS["rule"]), False)
        for row, count in zip(rows, counts, strict=True):
            count["\0"] = row["n"] - sum(count.values())
    about = [
        _hover(
            _kind(r["kind"]),
            KINDS[r["kind"]].meaning if r["kind"] in KINDS else "",
            f"main kind of {_won(r['n'], total)}",
            f"found in {r['any']}, further kinds counted too",
        )
        for r in rows
    ]
    traces = _stacks(labels, counts, {g: (plain(n, 30), *x) for g, (n, *x) in kinds.items()})
    for trace in traces:
        trace["hovertext"] = [f"{a}<br>{b}" for a, b in zip(about, trace["hovertext"], strict=True)]
    ends = [[total * v for v in wilson(r["n"], total)] for r in rows]
    n, lows, highs = [r["n"] for r in rows], [e[0] for e in ends], [e[1] for e in ends]
    grey = Look(*INKS["soft"])
    texts = [f"{r['n']} ({_percent(r['share'])})" for r in rows]
    whisker = {"type": "scatter", "mode": "markers", "x": n, "y": labels, "showlegend": False}
    whisker |= {"marker": {"opacity": 0}, "hoverinfo": "skip"}
    traces.append(whisker | {"error_x": _whiskers(grey, n, lows, highs)})
    traces.append(_texts(labels, highs, texts))
    low, high = covered.interval
    note = (
        f"{total} failed episodes, each counted once under its main kind. Whiskers are 95 % Wilson "
        f"intervals. A cause is named for {_percent(covered.share)} ({_percent(low)} to "
        f"{_percent(high)}), how it ended for another {_percent(covered.end / total)}."
    )
    if len(sizes) > len(groups):
        note += f" Of {len(sizes)} groups the {len(groups)} with most failures have a colour."
    return _figure(
        title,
        note,
        traces,
        legend=len(kinds) > 1,
        body=30 * len(rows) + 8,
        left=_left(labels),
        right=_margin(texts),
        barmode="stack",
        xaxis={"title": {"text": "failed trajectories"}, "rangemode": "tozero"},
        yaxis=_categories(categoryarray=labels),
    )


def failure_agreement(found: Agreement, first: str = "rules", second: str = "model") -> go.Figure:
    """Two labellings of the same failures against each other; from `labels.agreement`."""
    title = f"Do {first} and {second} name the same kinds?"
    if not found.n:
        return _nothing(title, "No failure was labelled by both.")
    table = found.table
    down, across = (_labels(map(_kind, names), 24) for names in (table.index, table.columns))
    short = [KINDS[k].glyph if k in KINDS else plain(k, 3) for k in table.columns]
    counts = table.to_numpy().tolist()
    z = [[n / found.n if n else 0 for n in row] for row in counts]
    hovers = [
        [
            f"{first}: {a}<br>{second}: {b}<br>{n} of {found.n}"
            for b, n in zip(across, row, strict=False)
        ]
        for a, row in zip(down, counts, strict=False)
    ]
    texts = [[str(n) if n else "·" for n in row] for row in counts]
    traces = _heat(across, down, z, texts, hovers)
    traces[0]["zmax"] = max(map(max, z))
    return _figure(
        title,
        f"Rows: {first}; columns: {second}, in the same order. {found}.",
        traces,
        body=28 * len(down),
        left=_left(down),
        xaxis={"type": "category", "tickvals": across, "ticktext": short, "showgrid": False},
        yaxis=_categories(categoryarray=down),
    )


def steps_to_failure(failures: Data) -> go.Figure:
    """After how many actions failures show, by kind; from `failures`."""
    title = "How soon do failures show?"
    rows = tables.steps_to_failure(_frame(failures, "failures"))
    if rows.empty:
        return _nothing(title, _NO_FAILURES)
    lines, bands = [], {}
    for kind, look in zip(dict.fromkeys(rows["kind"]), GROUPS, strict=False):
        part = rows[rows["kind"] == kind]
        name = "all" if kind == "all" else _kind(kind)
        hovers = [
            _hover(name, f"by action {t}: {_won(n, total)}")
            for t, n, total in zip(part["t"], part["n"], part["total"], strict=True)
        ]
        lines.append((name, look, part["t"].tolist(), part["share"].tolist(), hovers))
        if kind == "all":
            bands[name] = (part["low"].tolist(), part["high"].tolist())
    note = (
        "The step that shows a failure is that of its evidence: the purchase, the focus, the first "
        "action of a loop, or the end."
    )
    return _figure(
        title,
        note,
        _lines(lines, bands),
        legend=True,
        xaxis=_steps_axis("actions before it", int(rows["t"].max())),
        yaxis=_share_axis("failures that show by then"),
    )


# -- exploring from expert states -----------------------------------------------------------------


def _actions(n: int) -> str:
    return f"{n} action{'' if n == 1 else 's'}"


def _state(state: Mapping[str, Any] | None) -> tuple[float | None, str, str]:
    """A cell of the map: share won, words in it, words on hover."""
    if state is None:
        return None, "", "no such state"
    if not state["n"]:
        return None, "–" if state["status"] == "untried" else "!", state["status"]
    words = f"after {_actions(state['t'])}: won {_won(state['wins'], state['n'])}"
    return state["p"], f"{state['wins']}/{state['n']}", words


def recovery_map(states: Data, rows: int = 40) -> go.Figure:
    """Failed trajectories by expert state: the student's wins / rollouts, the deepest won first.

    Args:
        states: `frames.states`; of several methods and iterations the one that
            `tables.pick_iteration` names is drawn.
        rows: trajectories shown at most.
    """
    title = "From which states can the student still win?"
    data = tables.pick_iteration(_frame(states, "states"))
    order = tables.recovery_map(data, None)
    width = sum(c[0] == "s" and c[1:].isdecimal() for c in order.columns)
    if order.empty or width < 2:
        return _nothing(title, _UNEXPLORED)
    shown = _rows(order.head(rows))
    cells: dict[tuple[int, str], dict[int, Json]] = {}
    for state in _rows(data):
        cells.setdefault((state["seed"], state["trajectory_id"]), {})[state["k"]] = state
    several = order["seed"].nunique() > 1
    labels = _labels((f"{r['task_id'][:200]}" + f" · {r['seed']}" * several for r in shown), 0, 24)
    names = [f"s<sub>{k}</sub>" for k in range(width)]
    found = [
        [_state(cells[r["seed"], r["trajectory_id"]].get(k)) for k in range(width)] for r in shown
    ]
    about = [
        _hover(
            f"task {r['task_id']}",
            f"seed {r['seed']}" + (f", level {r['level']}" if r["level"] else ""),
            f"the teacher failed after {_actions(r['length'])}",
        )
        for r in shown
    ]
    hovers = [
        [f"{a}<br>{names[k]}: {plain(c[2])}" for k, c in enumerate(row)]
        for a, row in zip(about, found, strict=True)
    ]
    z, texts = ([[c[i] for c in row] for row in found] for i in (0, 1))
    lost = int((order["last"] < 0).sum())
    more = f"The first {rows} of {len(order)} are shown. " if len(order) > rows else ""
    note = (
        "A row is a trajectory in which the teacher failed, a column a state the student was put "
        "into: wins/rollouts, the darker the likelier. Sorted by the last state that could still "
        f"be won. {more}{lost} of {len(order)} were won from no state. ! not restorable or ended "
        "by a fault, – not tried, blank: no such state."
    )
    return _figure(
        title,
        note,
        _heat(names, labels, z, texts, hovers),
        body=25 * len(shown),
        left=_left(labels),
        bottom=12,
        xaxis={"type": "category", "side": "top", "showgrid": False},
        yaxis=_categories(categoryarray=labels),
    )


def recovery_curve(states: Data) -> go.Figure:
    """Share of rollouts won from s0 and each expert state of failed trajectories, by level."""
    title = "How far into a failure can the student still win?"
    data = tables.pick_iteration(_frame(states, "states"))
    curve = tables.recovery_curve(data)
    if curve.empty or curve["k"].max() < 1:
        return _nothing(title, _UNEXPLORED)
    looks, lines, bands = style.group_looks(curve["group"]), [], {}
    for group, look in looks.items():
        part = curve[curve["group"] == group]
        hovers = [
            _hover(f"{group}, s{k}", f"won {_won(w, n)}", f"{m} states")
            for k, w, n, m in zip(part["k"], part["wins"], part["n"], part["states"], strict=True)
        ]
        lines.append((group, look, part["k"].tolist(), part["p"].tolist(), hovers))
        if group == "all" or len(looks) <= 4:  # bands of many small groups hide each other
            bands[group] = (part["low"].tolist(), part["high"].tolist())
    method, iteration = data["method"].iloc[0], data["iteration"].iloc[0]
    note = (
        f"{clean(method, 60)}, iteration {iteration}: the student as it was before that "
        "iteration's training. Bands are 95 % Wilson intervals over rollouts. States with a high k "
        "exist only where the teacher acted long enough, so points differ in the tasks behind them."
    )
    return _figure(
        title,
        note,
        _lines(lines, bands),
        legend=True,
        xaxis=_steps_axis("expert state k (0: the start)", int(curve["k"].max())),
        yaxis=_share_axis("rollouts won"),
    )


def trajectory_curve(states: Data, trajectory_id: str, seed: int) -> go.Figure:
    """Wins from each state of one trajectory, with its interval; the point of no return marked."""
    title = "When was this trajectory lost?"
    data = tables.pick_iteration(_frame(states, "states"))
    curve = tables.trajectory_curve(data, trajectory_id, seed)
    if curve.empty:
        return _nothing(title, f"No state of trajectory {trajectory_id!r} (seed {seed}) was tried.")
    won = curve[curve["wins"] > 0]
    own = data[(data["trajectory_id"] == trajectory_id) & (data["seed"] == seed)]
    solved, length = bool(own["teacher_solved"].iloc[0]), int(own["length"].iloc[0])
    marks: Json = {}
    verdict = "The teacher solved it." if solved else "No state of this failure was won."
    if not solved and len(won):
        t = int(won["t"].iloc[-1])
        later = curve.loc[curve["t"] > t, "t"]
        until = int(later.min()) if len(later) else length
        bad = INKS["bad"][0]
        line = {"type": "line", "xref": "x", "yref": "paper", "x0": t, "x1": t, "y0": 0, "y1": 1}
        marks["shapes"] = [line | {"line": {"color": bad, "width": 1.6, "dash": "dash"}}]
        side = "right" if t > length / 2 else "left"
        words = {"text": f"no return after action {t}", "font": {"color": bad, "weight": 600}}
        shift = -6 if side == "right" else 6
        marks["annotations"] = [words | _at("x", t, "paper", 1, side, "top", shift)]
        verdict = (
            f"Last won after {_actions(t)}: what the teacher did from there to action {until} lost "
            "it, as far as these rollouts tell."
        )
    hovers = [
        _hover(f"s{k}, after {_actions(t)}", f"won {_won(w, n)}")
        for k, t, n, w in zip(curve["k"], curve["t"], curve["n"], curve["wins"], strict=True)
    ]
    line = ("student", GROUPS[2], curve["t"].tolist(), curve["p"].tolist(), hovers)
    axis = _steps_axis(f"the teacher's actions before the state (of {length})", length)
    return _figure(
        title,
        f"{clean(trajectory_id, 120)}, seed {seed}. {verdict}",
        _lines([line], {"student": (curve["low"].tolist(), curve["high"].tolist())}),
        body=220,
        xaxis=axis | {"range": [-0.3, max(length, 1) + 0.3]},
        yaxis=_share_axis("rollouts won"),
        **marks,
    )


def segment_ribbon(
    trajectory: Trajectory,
    segments: Sequence[Segment],
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
) -> go.Figure:
    """A trajectory as a band of labelled segments, tried states and the kind of failure below."""
    title = "Which actions helped, and which hurt?"
    total = max(trajectory.length, 1)
    shown = segments or [Segment(0, total, "unknown", "not explored")]
    traces: list[Json] = []
    for label in dict.fromkeys(s.label for s in shown):
        own, look = [s for s in shown if s.label == label], LABELS[label]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"{look.glyph} {label}",
                "x": [s.length for s in own],
                "base": [s.start for s in own],
                "y": [0] * len(own),
                "width": 0.7,
                "marker": _fill(look, label == "harmful"),
                "text": [look.glyph for _ in own],
                "insidetextfont": {"color": INKS["ink"][0], "size": 14},
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "hovertext": [
                    _hover(f"{label}, actions {s.start + 1} to {s.stop}", s.evidence) for s in own
                ],
                "hoverinfo": "text",
            }
        )
    tried = [s for s in states if s.tried]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [s.t for s in tried],
            "y": [-0.62] * len(tried),
            "marker": {
                "symbol": ["triangle-up" if s.won else "x-thin" for s in tried],
                "size": 9,
                "color": LABELS["beneficial"].light,
                "line": {"width": 1.5, "color": INKS["soft"][0]},
            },
            "text": [f"{s.wins}/{s.n}" for s in tried],
            "textposition": "bottom center",
            "hovertext": [
                _hover(f"{s.name}, after {_actions(s.t)}", f"won {_won(s.wins, s.n)}")
                for s in tried
            ],
            "hoverinfo": "text",
            "cliponaxis": False,
            "showlegend": False,
        }
    )
    note = "" if segments else "Not explored: nothing says which actions helped and which hurt. "
    if tried:
        note += "Below the band: wins/rollouts of the student from that state. "
    marks = []
    if diagnosis is not None:
        f = diagnosis.findings[0]
        note += f"{_kind(f.kind)}: {f.text}"
        side = "right" if f.t > total / 2 else "left"
        words = {"text": f"▼ {plain(_kind(f.kind), 40)}", "font": {"color": INKS["bad"][0]}}
        marks = [words | _at("x", min(f.t, total), "y", 0.4, side, "bottom")]
    return _figure(
        title,
        note,
        traces,
        legend=True,
        body=130,
        left=24,
        barmode="overlay",
        annotations=marks,
        xaxis=_steps_axis("actions", total) | {"range": [-0.2, total + 0.2], "showgrid": False},
        yaxis={"visible": False, "range": [-1.35, 0.9]},
    )


def first_solved(states: Data) -> go.Figure:
    """Training tasks that the teacher failed: first won from s0, only from a later state, never."""
    title = "From where were failed tasks first solved?"
    reach = tables.reachable(tables.pick_iteration(_frame(states, "states")))
    if reach.empty:
        return _nothing(title, _UNEXPLORED)
    labels = _labels(level or "no level" for level in reach["level"])
    columns = {"from_s0": "s0", "only_deeper": "state", "never": "never"}
    counts = _rows(reach[list(columns)].rename(columns=columns))
    note = (
        "Training tasks that the teacher failed. “Only from a later state” is what exploring expert "
        "failures adds: no rollout from the start, s₀, solved these tasks."
    )
    kinds = {k: v for k, v in _FOUND.items() if k != "teacher"}
    return _stacked(title, note, "training tasks", labels, counts, kinds)


def _stacked(
    title: str,
    note: str,
    x: str,
    labels: Sequence[str],
    counts: Sequence[Mapping[str, int]],
    kinds: Mapping[str, tuple[str, Look, bool]],
    ends: Sequence[str] = (),
) -> go.Figure:
    traces = _stacks(labels, counts, kinds)
    if ends:
        traces.append(_texts(labels, [sum(c.values()) for c in counts], ends))
    return _figure(
        title,
        note,
        traces,
        legend=True,
        body=34 * len(labels) + 6,
        left=_left(labels),
        right=_margin(ends) if ends else 24,
        barmode="stack",
        xaxis={"title": {"text": x}},
        yaxis=_categories(categoryarray=labels),
    )


# -- methods ------------------------------------------------------------------------------------


def rates(rows: Sequence[Mapping[str, Any]], label: str = "win rate") -> go.Figure:
    """Win rates with their intervals, a bar a method; from `eeflib.demo.method_row`."""
    title = "Which method solves more tasks?"
    if not rows:
        return _nothing(title, "No method has been evaluated yet.")
    looks = style.method_looks(r["method"] for r in rows)
    bars = []
    for r in rows:
        (low, high), share = r["interval"], r["win_rate"]
        words = f"{100 * share:.1f} %"
        spoken = f"{words}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        hover = _hover(r["method"], spoken, f"{r['n']} evaluations" if "n" in r else "")
        bars.append((r["method"], share, low, high, looks[r["method"]], words, hover))
    return _rate_bars(title, "Whiskers are 95 % intervals.", label, bars)


def win_rates(evaluations: Data, looks: Mapping[str, Look] | None = None) -> go.Figure:
    """Win rate per fine-tuning iteration and method with its band; from `frames.evaluations`.

    Args:
        looks: of the methods; None: those of `style.method_looks`.
    """
    title = "Does each iteration solve more tasks?"
    rows = tables.courses(tables.win_rates(_frame(evaluations, "evaluations")))
    if rows.empty:
        return _nothing(title, "No evaluation is recorded yet (evaluations.jsonl).")
    looks, lines, bands, across = looks or style.method_looks(rows["method"]), [], {}, []
    for method in style.order(rows["method"]):
        part = rows[rows["method"] == method]
        hovers = [
            _hover(f"{method}, iteration {i}", f"solved {_won(w, n)}", f"{s} seeds")
            for i, w, n, s in zip(
                part["iteration"], part["wins"], part["n"], part["seeds"], strict=True
            )
        ]
        x, y = part["iteration"].tolist(), part["rate"].tolist()
        lines.append((method, looks[method], x, y, hovers))
        bands[method] = (part["low"].tolist(), part["high"].tolist())
        if len(part) == 1 and rows["iteration"].nunique() > 1:
            ink = {"color": f"{looks[method].light}90", "width": 1.2, "dash": looks[method].dash}
            level = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": y[0], "y1": y[0]}
            across.append({"type": "line", "line": ink, **level})
    note = (
        "Bands are 95 % Wilson intervals over evaluations. The last iteration is the one reported, "
        "not the best one. A method with one iteration is drawn across."
    )
    return _figure(
        title,
        note,
        _lines(lines, bands),
        legend=True,
        body=320,
        shapes=across,
        xaxis=_steps_axis("iteration (0: cloned successes)", int(rows["iteration"].max())),
        yaxis=_share_axis("held-out tasks solved"),
    )


def paired(rows: Mapping[str, PairedDifference]) -> go.Figure:
    """Win rate of one method minus that of each other: seeds, mean, interval; by the other's name."""
    title = "Is the difference real?"
    if not rows:
        return _nothing(title, "Two evaluated methods are needed for a comparison.")
    looks = style.method_looks(rows)
    lines = []
    for method, p in rows.items():
        dots = p.differences if p.basis == "seeds" else ()
        spoken = _hover(
            f"{p.a} minus {p.b}",
            f"{100 * p.mean:+.1f} points, 95 % interval {100 * p.low:+.1f} to {100 * p.high:+.1f}",
            f"p = {p.p:.3f}, {p.n} seeds" + (f", ahead in {p.better}" if dots else ""),
        )
        name = f"{clean(p.a, 24)} − {clean(p.b, 24)}"
        lines.append((name, p.mean, p.low, p.high, looks[method], spoken, dots))
    if any(p.basis == "seeds" for p in rows.values()):
        note = (
            "Both methods are evaluated on the same tasks in each seed. Small dots are seeds, the "
            "diamond is their mean, the bar the 95 % t interval of a paired test over seeds."
        )
    else:
        note = (
            "One seed only: the bar is a 95 % bootstrap interval over tasks. It says nothing about "
            "what another training seed would give."
        )
    return _differences(title, note, "difference in win rate, percentage points", lines)


def newly_solved(changes: Table) -> go.Figure:
    """Test tasks gained, lost, solved by both or by neither; `tables.newly_solved`."""
    title = "How many tasks were gained, how many lost?"
    data = _found(changes, "changes")
    if data.empty:
        return _nothing(title, "Two methods evaluated on the same tasks are needed.")
    base, methods = str(data["baseline"].iloc[0]), style.order(data["method"])
    counts = _tally(data, "method", "change", methods)
    net = [f"net {n['gained'] - n['lost']:+d}".replace("-", "−") for n in counts]
    note = f"Against {clean(base, 60)}, over all seeds, the last iteration both have. {_CHANCE}"
    return _stacked(title, note, "test tasks", _labels(methods), counts, _CHANGES, net)


def _tally(data: pd.DataFrame, group: str, kind: str, groups: Iterable[str]) -> list[Counter[str]]:
    """How often each kind occurs in each of the groups."""
    return [Counter(data.loc[data[group] == g, kind].tolist()) for g in groups]


def discovered(found: Table, rows: int = 20) -> go.Figure:
    """Training tasks that exploring solved and the teacher did not: `discoveries`.

    Args:
        rows: tasks listed at most, those solved from the deepest states first.
    """
    title = "What did exploring find?"
    data = _found(found, "discoveries")
    if data.empty:
        return _nothing(title, "No exploration is recorded (branches.jsonl).")
    methods = style.order(data["method"])
    counts, names = _tally(data, "method", "found", methods), _labels(methods)
    traces = _stacks(names, counts, _FOUND)
    new = data[data["found"].isin(["s0", "state"])]
    order = new.sort_values(["k", "seed", "task_id"], ascending=[False, True, True])
    listed = _rows(order.head(rows))
    tasks = _labels((f"{r['task_id'][:200]} · {r['seed']}" for r in listed), 0, 26)
    looks = style.method_looks(methods)
    top = 34 * len(names) + 6
    layout = _panels([top, 24 * len(listed) + 10] if listed else [top], 74)
    layout["xaxis"] |= {"title": {"text": "training tasks explored"}}
    layout["yaxis"] |= _categories(categoryarray=names)
    for method in methods if listed else ():
        own = [(t, r) for t, r in zip(tasks, listed, strict=True) if r["method"] == method]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "xaxis": "x2",
                "yaxis": "y2",
                "x": [r["k"] for _, r in own],
                "y": [t for t, _ in own],
                "text": [f"s<sub>{r['k']}</sub>" for _, r in own],
                "textposition": "middle right",
                "cliponaxis": False,
                "marker": {"color": looks[method].light, "symbol": looks[method].marker, "size": 9},
                "hovertext": [
                    _hover(
                        f"task {r['task_id']}",
                        f"seed {r['seed']}" + (f", level {r['level']}" if r["level"] else ""),
                        f"{method}, iteration {r['iteration']}: first solved from s{r['k']}"
                        + (f", after {_actions(r['t'])}" if r["k"] else ", the start"),
                    )
                    for _, r in own
                ],
                "hoverinfo": "text",
                "showlegend": False,
            }
        )
    if listed:
        deepest = max(r["k"] for r in listed)
        text = "first solved from expert state k (0: the start)"
        layout["xaxis2"] |= _steps_axis(text, deepest) | {"range": [-0.3, deepest + 0.7]}
        layout["yaxis2"] |= _categories(categoryarray=tasks, showgrid=True)
    note = (
        "Training tasks that were explored; below, those that exploring solved, by task and seed."
    )
    if len(new) > len(listed):
        note += f" {len(listed)} of {len(new)} are listed."
    body = top + (74 + 24 * len(listed) + 10 if listed else 0)
    left = _left([*names, *tasks])
    return _figure(
        title, note, traces, legend=True, body=body, left=left, barmode="stack", **layout
    )


def simplicity_bias(shares: Table, focus: str = "EEF") -> go.Figure:
    """Per cent of actions of each kind, source by source; from `tables.action_shares`.

    What successes lack and failures hold is what a student cloned from successes never sees. Put
    `tables.learned_actions` below the others to see what newly solved tasks needed.
    """
    title = "Which actions does the training data teach?"
    data = _found(shares, "actions")
    if data.empty:
        return _nothing(title, "Neither trajectories nor training samples are recorded yet.")
    kinds, sources = (list(dict.fromkeys(data[c])) for c in ("kind", "source"))
    cells = {(r["source"], r["kind"]): r for r in _rows(data)}
    total = {r["source"]: r["total"] for r in cells.values()}
    across, down = _labels(kinds, 9, 30), _labels(sources, 22, 60)
    z, texts, hovers = (
        [[show(cells[s, k]) for k in kinds if (s, k) in cells] for s in sources]
        for show in (
            lambda r: r["share"] if r["count"] else 0,
            lambda r: (
                f"{100 * r['share']:.0f}"
                if r["share"] >= 0.095
                else f"{100 * r['share']:.1f}"
                if r["count"]
                else "·"
            ),
            lambda r: _hover(
                r["source"],
                f"{r['kind']}: {r['count']:,} of {r['total']:,} actions ({100 * r['share']:.1f} %)",
            ),
        )
    )
    ticks = [f"<b>{d}</b>" if s == focus else d for d, s in zip(down, sources, strict=True)]
    traces = _heat(across, down, z, texts, hovers)
    traces[0]["zmax"] = float(data["share"].max()) or 1.0
    note = (
        "Per cent of the actions of each source, by kind of action. Of a method: the actions that "
        "carry loss in its last iteration's samples; “tasks gained”: what its student did on them. "
        f"Actions counted: {min(total.values()):,} to {max(total.values()):,} a source."
    )
    lines = max(a.count("<br>") for a in across) + 1
    figure = _figure(
        title,
        note,
        traces,
        body=34 * len(sources),
        left=_left(down),
        bottom=12,
        xaxis={"type": "category", "side": "top", "showgrid": False, "tickangle": 0},
        yaxis=_categories(categoryarray=down, tickvals=down, ticktext=ticks),
    )
    room = 15 * (lines - 1)
    return figure.update_layout(
        margin_t=figure.layout.margin.t + room, height=figure.layout.height + room
    )


_SPENT = {
    "steps": "simulated steps", "found": "tasks found", "steps_per_found": "steps per task found",
    "gained": "▲ test tasks gained", "steps_per_gained": "steps per task gained",
    "lost": "▼ test tasks lost", "rollouts": "rollouts", "tokens": "tokens",
    "seconds": "seconds a seed", "cost_usd": "dollars", "usd_per_found": "dollars per task found",
}  # fmt: skip


def budget(costs: Table, baseline: str = "") -> go.Figure:
    """What each method spent on exploring and what that brought; `tables.budget`."""
    title = "What was spent, and what did it find?"
    data = _found(costs, "costs")
    if data.empty:
        return _nothing(title, "Neither trajectories nor exploration are recorded yet.")
    rows = _rows(data)
    labels = _labels(r["method"] for r in rows)
    known = {c: [float(r[c]) if r[c] >= 0 else math.nan for r in rows] for c in _SPENT}
    shown = [c for c in _SPENT if any(v > 0 for v in known[c])]
    looks = style.method_looks(r["method"] for r in rows)
    about = [
        _hover(r["method"], *(f"{_SPENT[c]}: {_amount(known[c][i])}" for c in shown))
        for i, r in enumerate(rows)
    ]
    high, gap, lines = 24 * len(rows) + 6, 34, math.ceil(len(shown) / 2)
    total = lines * high + (lines - 1) * gap
    traces, layout, heads = [], {}, []
    for i, column in enumerate(shown):
        n = str(i + 1) if i else ""
        top = 1 - (i // 2) * (high + gap) / total
        x = [0.0, 0.4] if i % 2 == 0 else [0.58, 0.98]
        values = known[column]
        peak = max(v for v in values if v == v)
        colours = [looks[r["method"]].light for r in rows]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": [0 if math.isnan(v) else v for v in values],
                "y": labels,
                "xaxis": f"x{n}",
                "yaxis": f"y{n}",
                "text": [_amount(v) for v in values],
                "textposition": "outside",
                "cliponaxis": False,
                "textfont": {"size": 11.5},
                "marker": {
                    "color": [f"{c}59" for c in colours],
                    "line": {"color": colours, "width": 1.2},
                },
                "hovertext": about,
                "hoverinfo": "text",
            }
        )
        layout[f"xaxis{n}"] = {
            "anchor": f"y{n}", "domain": x, "range": [0, peak * 1.3], "visible": False,
        }  # fmt: skip
        layout[f"yaxis{n}"] = _categories(
            categoryarray=labels, anchor=f"x{n}", domain=[max(0.0, top - high / total), top]
        ) | ({"showticklabels": False} if i % 2 else {})
        head = {"text": f"<b>{_SPENT[column]}</b>", "font": {"size": 12}}
        heads.append(head | _at("paper", x[0], "paper", top, "left", "bottom", 0, 1))
    against = f" against {clean(baseline, 60)}" if baseline else ""
    note = (
        "Over all seeds. Found: training tasks that the teacher failed and a rollout solved (the "
        f"teacher's row: tasks it solved). Gained, lost: test tasks{against}. Tokens are those on "
        "record: a student without a tokenizer has none. Evaluation is not counted."
    )
    return _figure(
        title,
        note,
        traces,
        body=total,
        left=_left(labels),
        bottom=14,
        annotations=heads,
        **layout,
    )


def other_m(whatif: Table) -> go.Figure:
    """What fewer states or rollouts would have cost and found; `tables.other_m`."""
    title = "What would another M have cost and found?"
    data = _found(whatif, "other_m")
    if data.empty or data["M"].max() < 1:
        return _nothing(title, "No exploration from expert states is recorded (branches.jsonl).")
    lines, costs = [], []
    for i, a in enumerate(sorted(set(data["attempts"]))):
        part, look = data[data["attempts"] == a], GROUPS[(i + 2) % len(GROUPS)]
        name = f"{a} rollout{'s' if a > 1 else ''} a state"
        hovers = [
            _hover(
                f"M = {r['M']}, {name}" + (" (as run)" if r["recorded"] else ""),
                f"{r['found']:.1f} tasks solved ({_percent(r['share'])} of the failed)",
                f"{r['rollouts']:,} rollouts, {r['steps']:,.0f} simulated steps",
                f"{_amount(r['steps'] / r['found'])} steps a task" if r["found"] else "",
                f"{_amount(r['cost_usd'])} dollars" if r["cost_usd"] == r["cost_usd"] else "",
            )
            for r in _rows(part)
        ]
        lines.append((name, look, part["M"].tolist(), part["share"].tolist(), hovers))
        costs.append((name, look, part["M"].tolist(), part["steps"].tolist(), hovers))
    run = data[data["recorded"]]
    below = [trace | {"xaxis": "x2", "yaxis": "y2", "showlegend": False} for trace in _lines(costs)]
    ring = {"size": 17, "symbol": "circle-open", "color": INKS["ink"][0], "line": {"width": 1.6}}
    rings = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "as run",
            "x": run["M"].tolist(),
            "y": run[column].tolist(),
            "xaxis": f"x{n}",
            "yaxis": f"y{n}",
            "marker": ring,
            "hoverinfo": "skip",
            "showlegend": not n,
        }
        for n, column in (("", "share"), ("2", "steps"))
    ]
    layout = _panels([200, 130], 30)
    axis = _steps_axis("M, expert states per trajectory (0: the start only)", int(data["M"].max()))
    layout["xaxis"] |= {**axis, "title": {"text": ""}, "showticklabels": False, "matches": "x2"}
    layout["xaxis2"] |= axis
    layout["yaxis"] |= _share_axis(
        "failed tasks solved", range=[0, max(0.1, data["share"].max() * 1.12)]
    )
    layout["yaxis2"] |= {"title": {"text": "simulated steps"}, "rangemode": "tozero"}
    note = (
        "Computed from the recorded branches of one iteration: fewer states means those nearest to "
        "equal spacing, fewer rollouts what they find on average. An estimate, but for the plan "
        "that was run; what more states would have found is not on record."
    )
    traces = [*_lines(lines), *below, *rings]
    return _figure(title, note, traces, legend=True, body=360, left=72, **layout)


# -- two runs or policies ------------------------------------------------------------------------


def compared(comparison: Comparison) -> go.Figure:
    """Share solved, reward, length and invalid actions of both sides, with paired tests."""
    a, b = (clean(n, 60) for n in comparison.names)
    title = f"Is {b} better than {a}?"
    rows = _rows(comparison.measures)
    if all(math.isnan(r["difference"]) for r in rows):
        return _nothing(title, " ".join(comparison.notes) or "Nothing of both sides is on record.")
    layout = _panels([34.0] * len(rows), 62)
    traces, heads = [], []
    for i, r in enumerate(rows):
        n = str(i + 1) if i else ""
        sure = r["low"] > 0 or r["high"] < 0
        look = LABELS["beneficial"] if sure else GROUPS[0]
        p = "p < 0.001" if r["p"] < 0.001 else f"p = {r['p']:.3f}"
        known = r["low"] == r["low"]
        spread = f" [{r['low']:+.3f}, {r['high']:+.3f}], {p}" if known else ""
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [r["difference"]],
                "y": [0],
                "xaxis": f"x{n}",
                "yaxis": f"y{n}",
                "marker": {
                    "color": look.light,
                    "symbol": "diamond" if sure else "diamond-open",
                    "size": 12,
                },
                "error_x": _whiskers(look, [r["difference"]], [r["low"]], [r["high"]])
                if known
                else {},
                "hovertext": [
                    _hover(
                        r["meaning"],
                        f"{a}: {r['a']:.3f}",
                        f"{b}: {r['b']:.3f}",
                        f"difference {r['difference']:+.3f}{spread}",
                        f"{r['test']}, n = {r['n']}",
                    )
                ],
                "hoverinfo": "text",
            }
        )
        reach = max(abs(r[c]) for c in ("difference", "low", "high") if r[c] == r[c]) or 1.0
        layout[f"xaxis{n}"] |= {
            "range": [-1.15 * reach, 1.15 * reach], "zeroline": True,
            "zerolinecolor": INKS["soft"][0], "tickformat": "+~g", "nticks": 5,
        }  # fmt: skip
        layout[f"yaxis{n}"] |= {"visible": False, "range": [-1, 1]}
        words = f"{plain(r['meaning'])}: {r['a']:.3f} → {r['b']:.3f}, {p}"
        head = {"text": f"<b>{words}</b>" if sure else words}
        top = layout[f"yaxis{n}"]["domain"][1]
        heads.append(head | _at("paper", 0, "paper", top, "left", "bottom", 0, 3))
    note = " ".join(
        [
            f"Difference: {b} minus {a}. Bars are 95 % intervals; a filled diamond and bold words: "
            "the interval does not hold 0.",
            *comparison.notes,
        ]
    )
    body = 34 * len(rows) + 62 * (len(rows) - 1)
    figure = _figure(
        title, note, traces, body=body, left=24, bottom=34, annotations=heads, **layout
    )
    return figure.update_layout(
        margin_t=figure.layout.margin.t + 16, height=figure.layout.height + 16
    )


def gained_lost(comparison: Comparison, rows: int = 20) -> go.Figure:
    """Tasks gained, lost, solved by both or neither per level, then the changed tasks by name.

    Args:
        rows: tasks listed at most, of gained and of lost ones.
    """
    a, b = (clean(n, 60) for n in comparison.names)
    title = "Which tasks were gained, and which lost?"
    if not comparison.paired:
        return _nothing(title, " ".join(comparison.notes))
    levels = style.level_order(comparison.tasks["level"])
    names = _labels(level or "no level" for level in levels)
    traces = _stacks(names, _tally(comparison.tasks, "level", "change", levels), _CHANGES)
    changed = [
        (change, r)
        for change in ("gained", "lost")
        for r in _rows(comparison.changed(change).head(rows))
    ]
    several = comparison.tasks["seed"].nunique() > 1
    tasks = _labels(
        (
            f"{_CHANGES[change][0][0]} {r['task_id'][:200]}" + f" · {r['seed']}" * several
            for change, r in changed
        ),
        0,
        28,
    )
    top, low = 34 * len(names) + 6, 24 * len(changed) + 10
    layout = _panels([top, low] if changed else [top], 74)
    layout["xaxis"] |= {"title": {"text": "tasks"}}
    layout["yaxis"] |= _categories(categoryarray=names)
    for label, (change, r) in zip(tasks, changed, strict=True):
        look = _CHANGES[change][1].light
        kind = r["a_kind" if change == "gained" else "b_kind"]
        hover = _hover(
            f"{change}: task {r['task_id']}, seed {r['seed']}",
            clean(r["instruction"], 160),
            f"reward {r['a_reward']:.2f} → {r['b_reward']:.2f}",
            f"{a if change == 'gained' else b} failed by: {_kind(kind)}" if kind else "",
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "xaxis": "x2",
                "yaxis": "y2",
                "x": [r["a_reward"], r["b_reward"]],
                "y": [label, label],
                "line": {"color": look, "width": 1.8},
                "marker": {"color": look, "size": 9, "symbol": ["circle-open", "circle"]},
                "hovertext": [hover, hover],
                "hoverinfo": "text",
                "cliponaxis": False,
                "showlegend": False,
            }
        )
    if changed:
        layout["xaxis2"] |= {"title": {"text": "reward: ○ before, ● after"}, "range": [-0.03, 1.03]}
        layout["yaxis2"] |= _categories(categoryarray=tasks, showgrid=True)
    note = f"From {a} to {b}. Kind of failure (on hover): of the side that did not solve the task. {_CHANCE}"
    body, left = top + (74 + low if changed else 0), _left([*names, *tasks])
    return _figure(
        title, note, traces, legend=True, body=body, left=left, barmode="stack", **layout
    )


def action_mix(comparison: Comparison) -> go.Figure:
    """Change in the share of each kind of action in an episode."""
    unit = "share of an episode's actions, percentage points"
    return _kinds(comparison, comparison.actions, "Which actions became more frequent?", unit)


def error_kinds(comparison: Comparison) -> go.Figure:
    """Change in the share of episodes that fail in each way."""
    rows = comparison.errors.assign(kind=[_kind(k) for k in comparison.errors["kind"]])
    return _kinds(
        comparison, rows, "Which failures became rarer?", "share of episodes, percentage points"
    )


def _kinds(comparison: Comparison, rows: pd.DataFrame, title: str, unit: str) -> go.Figure:
    if rows.empty:
        why = " ".join(comparison.notes) or "No episode of both sides is on record."
        return _nothing(title, why)
    lines = []
    for r in _rows(rows):
        sure, up = r["q"] < 0.05, r["difference"] > 0
        look = GROUPS[0] if not sure else LABELS["beneficial"] if up else LABELS["harmful"]
        glyph = "" if not sure else "▲ " if up else "▼ "
        hover = _hover(
            r["kind"],
            f"{100 * r['a']:.1f} % to {100 * r['b']:.1f} %",
            f"q = {r['q']:.3f} ({r['test']}, n = {r['n']})",
        )
        lines.append((f"{glyph}{r['kind']}", r["difference"], r["low"], r["high"], look, hover, ()))
    a, b = (clean(n, 60) for n in comparison.names)
    n = int(rows["n"].iloc[0])
    note = (
        f"{b} minus {a}, {n} {'pairs' if comparison.paired else 'episodes, not paired'}. Bars are "
        "95 % intervals; ▲ ▼ mark differences beyond chance at a false-discovery rate of 5 % "
        "(Benjamini–Hochberg)."
    )
    return _differences(title, note, unit, lines)


# -- lines of any kind ----------------------------------------------------------------------------


def losses(series: Mapping[str, Sequence[float]]) -> go.Figure:
    """Training losses per optimiser step, one line per training."""
    title = "Does the loss fall?"
    drawn = {name: list(values) for name, values in series.items() if len(values)}
    if not drawn:
        return _nothing(title, "No training step is on record.")
    looks = style.group_looks(drawn)
    lines = []
    for name, values in drawn.items():
        hovers = [_hover(name, f"step {i}: {v:.4f}") for i, v in enumerate(values, 1)]
        lines.append((name, looks[name], range(1, len(values) + 1), values, hovers))
    most = max(map(len, drawn.values()))
    mode = "lines+markers" if most <= 30 else "lines"
    ends = "; ".join(f"{clean(k, 40)} {v[0]:.2f} to {v[-1]:.2f}" for k, v in drawn.items())
    return _figure(
        title,
        f"From the first step to the last: {ends}.",
        _lines(lines, mode=mode),
        legend=len(drawn) > 1,
        body=260,
        xaxis=_steps_axis("optimiser step", most),
        yaxis={"title": {"text": "loss, nats per trained token"}, "rangemode": "tozero"},
    )


def shares(rows: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> go.Figure:
    """A share (0 to 1) over whole numbers, one line."""
    title = f"How does {y_label} change with {x_label}?"
    if rows.empty:
        return _nothing(title, "There are no rows.")
    at, values = rows[x].tolist(), rows[y].tolist()
    hovers = [
        _hover(f"{x_label} {i}", f"{y_label} {_percent(v)}")
        for i, v in zip(at, values, strict=False)
    ]
    return _figure(
        title,
        "",
        _lines([(y_label, GROUPS[2], at, values, hovers)]),
        body=260,
        xaxis=_steps_axis(plain(x_label, 80), max(at)),
        yaxis=_share_axis(plain(y_label, 60)),
    )
