"""How a plotly figure is laid out, and the few kinds of drawing that every figure is made of.

Import from here to draw a new figure in the style of `eeflib.analysis.figures`: `page` puts traces
between a title and a note, `nothing` says what is missing, and `lines`, `stacks`, `rate_bars`,
`differences` and `heat` draw tables. Texts of records become `markup.plain` on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from eeflib.analysis import style
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import clean, plain
from eeflib.analysis.run import Run
from eeflib.analysis.style import GROUPS, INKS, LABELS, Look
from eeflib.analysis.taxonomy import KINDS
from eeflib.stats import wilson

__all__ = [
    "FOUND", "PALE", "Data", "Part", "Trace", "actions", "amount", "at", "bare", "curves",
    "differences", "heat", "hovers", "kind_name", "labels", "lines", "mark", "nothing", "page",
    "panels", "percent", "rate_bars", "rows_axis", "share_axis", "stacked", "stacks", "table",
    "tally", "task_labels", "tick_room", "tint", "whiskers", "whole_axis", "won", "words",
]  # fmt: skip

Trace = dict[str, Any]
"""A trace, an axis or an annotation as plotly takes it; `marker_color` is `marker.color`."""
Part = tuple[str, Look, bool]
"""A part of a bar: its name, its look, whether it is hatched."""

Data = pd.DataFrame | Findings | Run | str | Path
"""A table, or what it is found in: findings, a run, its folder."""

_SOFT, _INK = INKS["soft"][0], INKS["ink"][0]
PALE = Look(*INKS["rule"])
FOUND: Mapping[str, Part] = {
    "teacher": ("solved by the teacher", GROUPS[0], False),
    "s0": ("● from s₀", LABELS["student"], False),
    "state": ("▲ only from a later state", LABELS["beneficial"], False),
    "never": ("never", PALE, False),
}
"""From where a training task was first solved."""

pio.templates["eef"] = style.template()
pio.templates["eef_dark"] = style.dark(go.Figure(layout={"template": "eef"})).layout.template


def page(
    title: str,
    note: str,
    traces: Sequence[Trace],
    *,
    body: float = 300,
    left: float = 62,
    right: float = 24,
    above: float = 0,
    below: float = 46,
    legend: bool = False,
    annotations: Iterable[Trace] = (),
    **layout: Any,
) -> go.Figure:
    """Traces between a title and a note, which are wrapped so that a phone shows them whole.

    Args:
        title, note: plain text, of records too.
        body: height of the plotting area in pixels.
        left, right, above, below: pixels around it, for ticks and titles of the axes.
        legend: there is one; it gets the room that it needs on a phone.
    """
    heading, foot = plain(title, 200, 38), plain(note, 1200, 58)
    head_room = 20 + 21 * (heading.count("<br>") + 1)
    foot_room = 12 + 15.5 * (foot.count("<br>") + 1) if foot else 0
    named = dict.fromkeys(t["name"] for t in traces if legend and t.get("showlegend", "name" in t))
    widths, room = [48 + 6.8 * len(name) for name in named], 390 - left - right
    if legend:
        columns = len(widths) if sum(widths) < room else max(1, int(room / max(widths)))
        above += 4 + 20 * math.ceil(len(widths) / columns)
    told: Trace = {"name": "note", "text": foot, "align": "left", "font": {"color": _SOFT}}
    told |= {"font_size": 11.5, **at("paper", 0, "paper", 0, "left", "top", 12 - left, -below)}
    return go.Figure(
        list(traces),
        {
            "template": "eef",
            "title": {"text": heading, "pad_t": 12 + 10 * heading.count("<br>")},
            "meta": {
                "title": clean(title), "note": clean(note), "head": head_room, "foot": foot_room,
            },
            "margin": {"l": left, "r": right, "t": head_room + above, "b": below + foot_room},
            "height": head_room + above + body + below + foot_room,
            "showlegend": legend,
            "annotations": [*annotations, told] if foot else [*annotations],
            **layout,
        },
    )  # fmt: skip


def bare(figure: go.Figure) -> go.Figure:
    """A copy without title and note, for a page that prints `layout.meta` in its own way."""
    out, meta = go.Figure(figure), figure.layout.meta
    out.layout.annotations = [a for a in out.layout.annotations if a.name != "note"]
    out.layout.title.text = ""
    out.layout.margin.t -= meta["head"]
    out.layout.margin.b -= meta["foot"]
    out.layout.height -= meta["head"] + meta["foot"]
    return out


def nothing(title: str, why: str) -> go.Figure:
    """A figure that says in a sentence what is missing: also in `meta["nothing"]`."""
    text, hidden = plain(why, 600, 54), {"visible": False}
    told = {"name": "nothing", "text": text, "align": "left"}
    told |= at("paper", 0, "paper", 1, "left", "top")
    height = 17 * (text.count("<br>") + 1)
    space: Trace = {"left": 12, "below": 14, "xaxis": hidden, "yaxis": hidden}
    out = page(title, "", [], body=height, annotations=[told], **space)
    out.layout.meta = {**out.layout.meta, "nothing": clean(why)}
    return out


def at(
    xref: str,
    x: Any,
    yref: str,
    y: Any,
    xanchor: str,
    yanchor: str,
    right: float = 0,
    up: float = 0,
) -> Trace:
    """Where the text of an annotation stands; `right` and `up` shift it by pixels."""
    place = {"xref": xref, "x": x, "yref": yref, "y": y, "xanchor": xanchor, "yanchor": yanchor}
    return {**place, "xshift": right, "yshift": up, "showarrow": False}


def mark(kind: str, x: Iterable[Any], y: Iterable[Any], hover: Any = None, **more: Any) -> Trace:
    """A trace of plain lists; without words for the hover it answers to none."""
    told: Trace = {"hoverinfo": "skip"}
    if hover is not None:
        told = {"hoverinfo": "text", "hovertext": list(hover)}
    return {"type": kind, "x": _plain(x), "y": _plain(y), "cliponaxis": False, **told, **more}


def _plain(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def table(data: Data, name: str) -> pd.DataFrame:
    """`data`, or that table of the run."""
    if isinstance(data, pd.DataFrame):
        return data
    found = data if isinstance(data, Findings) else Findings(data)
    return getattr(found, name)


def tally(data: pd.DataFrame, group: str, kind: str, groups: Any, kinds: Any) -> pd.DataFrame:
    """How often each of the kinds occurs in each of the groups."""
    counts = pd.crosstab(data[group], data[kind])
    return counts.reindex(index=list(groups), columns=list(kinds), fill_value=0)


# -- words ----------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """`64 %`; a dash for nan."""
    return "–" if math.isnan(share) else f"{share * 100:.0f} %"


def amount(value: float) -> str:
    """`1,204`, `0.35`, `0.0012`; a dash for nan."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def actions(n: int) -> str:
    return f"{n} action{'' if n == 1 else 's'}"


def kind_name(kind: str) -> str:
    """A kind of failure as people read it."""
    return f"{KINDS[kind].glyph} {KINDS[kind].title}" if kind in KINDS else kind


def won(wins: int, n: int) -> str:
    """`3 of 8 (38 %, 95 % interval 14 % to 69 %)`."""
    low, high = map(percent, wilson(wins, n))
    return f"{wins} of {n} ({percent(wins / n)}, 95 % interval {low} to {high})" if n else "0 of 0"


def hovers(table: pd.DataFrame, *lines: str) -> list[str]:
    """Words for each row: lines with the names of columns in braces, record text as written.

    `{won}` says the share with its interval where the columns wins and n are there. A line whose
    values are all empty is left out.
    """
    out = []
    for row in table.to_dict("records"):
        shown = {k: plain(v, 300, 60) if isinstance(v, str) else v for k, v in row.items()}
        if {"wins", "n"} <= row.keys():
            shown["won"] = won(row["wins"], row["n"])
        told = [line.format_map(shown) for line in lines]
        out.append("<br>".join(line for line in told if line))
    return out


def labels(names: Iterable[Any], width: int = 20, limit: int = 40) -> list[str]:
    """Names for a category axis; of two that look the same the second is numbered."""
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        label = plain(name, limit, width) or "–"
        seen[label] += 1
        out.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return out


def task_labels(rows: pd.DataFrame, several: bool, glyphs: Iterable[str] = ()) -> list[str]:
    """Labels of tasks: a glyph, the id, and the seed if there are several seeds."""
    before = list(glyphs) or [""] * len(rows)
    named = zip(before, rows["task_id"], rows["seed"], strict=True)
    return labels((f"{g}{plain(t, 24)}" + f" · {s}" * several for g, t, s in named), 0, 40)


def tick_room(names: Iterable[str]) -> float:
    """Pixels that the longest line of some labels needs."""
    return 22 + 6.9 * max((len(x) for name in names for x in name.split("<br>")), default=0)


def words(names: Sequence[str], x: Any, texts: Iterable[str], hover: Any = None) -> Trace:
    """Words to the right of each row's mark."""
    shown = [f"  {plain(text, 60)}" for text in texts]
    look = {"textposition": "middle right", "showlegend": False}
    return mark("scatter", x, names, hover, mode="text", text=shown, **look)


# -- axes -----------------------------------------------------------------------------------------


def rows_axis(names: Sequence[str], **more: Any) -> Trace:
    """A y axis of labelled rows, the first on top."""
    kind = {"type": "category", "categoryorder": "array", "categoryarray": list(names)}
    return kind | {"autorange": "reversed", "showgrid": False, "tickfont_color": _INK} | more


def share_axis(text: str, top: float = 1.02, **more: Any) -> Trace:
    """An axis in per cent."""
    return {"title_text": text, "range": [-0.02, top], "tickformat": ".0%", **more}


def whole_axis(text: str, most: float, **more: Any) -> Trace:
    """An axis of whole numbers up to `most`."""
    return {"title_text": text, "dtick": max(1, math.ceil(most / 8)), "tick0": 0, **more}


def panels(heights: Sequence[float], gap: float, columns: int = 1) -> Trace:
    """Axes x, y, x2, y2, ... of panels in reading order; heights and gaps are pixels."""
    total, top, out = sum(heights) + gap * (len(heights) - 1), 1.0, {}
    for row, height in enumerate(heights):
        for column in range(columns):
            i = row * columns + column + 1
            n = "" if i == 1 else str(i)
            across = [column / columns * 1.16, column / columns * 1.16 + 1 / columns - 0.08]
            out[f"xaxis{n}"] = {"anchor": f"y{n}", "domain": across if columns > 1 else [0, 1]}
            domain = [max(0.0, top - height / total), top]
            out[f"yaxis{n}"] = {"anchor": f"x{n}", "domain": domain}
        top -= (height + gap) / total
    return out


# -- kinds of drawing -----------------------------------------------------------------------------


def tint(look: Look, hatched: bool = False) -> Trace:
    """The marker of a bar: a tint that text can stand on, with a firm edge."""
    marker: Trace = {"color": f"{look.light}59", "line": {"color": look.light, "width": 1.2}}
    if hatched:
        marker["pattern"] = {"shape": "/", "fgcolor": look.light, "size": 9, "solidity": 0.13}
    return marker


def whiskers(colour: str, values: Any, low: Any, high: Any) -> Trace:
    """Error bars from low to high."""
    up = [h - v for v, h in zip(values, high, strict=True)]
    down = [v - x for v, x in zip(values, low, strict=True)]
    ink = {"color": colour, "thickness": 1.8, "width": 5}
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **ink}


def lines(
    data: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    looks: Mapping[str, Look],
    bands: Iterable[str] = (),
    **more: Any,
) -> list[Trace]:
    """A line for each group that has a look; column `hover` has the words of its points.

    Args:
        bands: the groups drawn with their interval, from columns low and high. Of a group with a
            single point it is an error bar.
    """
    traces = []
    for group, look in looks.items():
        part, name = data[data[by] == group], plain(group, 40)
        more |= {"name": name, "legendgroup": name}
        line = {"color": look.light, "dash": look.dash, "width": 2.4}
        marker = {"color": look.light, "symbol": look.marker, "size": 8}
        drawn = mark("scatter", part[x], part[y], part["hover"], line=line, marker=marker)
        drawn |= {"mode": "lines+markers", **more}
        if group in bands and len(part) == 1:
            drawn["error_y"] = whiskers(look.light, part[y], part["low"], part["high"])
        elif group in bands:
            around = ([*part[x], *part[x][::-1]], [*part["high"], *part["low"][::-1]])
            area: Trace = {"fill": "toself", "fillcolor": f"{look.light}21", "line_width": 0}
            band = mark("scatter", *around, mode="lines", showlegend=False, **area)
            traces.append(more | band)
        traces.append(drawn)
    return traces


def curves(
    title: str, note: str, traces: Sequence[Trace], x: Trace, y: Trace, **more: Any
) -> go.Figure:
    """A figure of `lines`, with a legend if there are several."""
    several = sum(t.get("showlegend", True) for t in traces) > 1
    return page(title, note, traces, legend=several, xaxis=x, yaxis=y, **more)


def stacks(
    names: Sequence[str],
    counts: pd.DataFrame,
    kinds: Mapping[str, Part],
    about: Sequence[str] = (),
    upright: bool = False,
) -> list[Trace]:
    """A bar for each row of `counts`, cut into how many of each kind (a column) there are.

    Args:
        about: more words on hover, of each row.
        upright: bars stand; then they bear no numbers.
    """
    traces, totals = [], counts.sum(axis=1).tolist()
    about = about or [""] * len(names)
    for kind, (title, look, hatched) in kinds.items():
        n = counts[kind].tolist()
        hover = [
            f"{name}: {k} of {total} {title}" + (f"<br>{more}" if more else "")
            for name, k, total, more in zip(names, n, totals, about, strict=True)
        ]
        drawn = [k or None for k in n]  # a bar of 0 would leave its edge
        x, y = (names, drawn) if upright else (drawn, names)
        trace = mark("bar", x, y, hover, name=title, marker=tint(look, hatched))
        if not upright:
            text = [str(k) if k else "" for k in n]
            inside = {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
            trace |= {"orientation": "h", "text": text, **inside, "insidetextfont_color": _INK}
        traces.append(trace)
    return traces


def stacked(
    title: str, note: str, x: str, names: Sequence[str], traces: Sequence[Trace]
) -> go.Figure:
    """A figure of `stacks`, and perhaps of `words` beside them."""
    texts = [text for t in traces if t.get("mode") == "text" for text in t["text"]]
    return page(
        title,
        note,
        traces,
        legend=sum("name" in t for t in traces) > 1,
        body=32 * len(names) + 8,
        left=tick_room(names),
        right=8 + 6.6 * max(map(len, texts), default=2),
        barmode="stack",
        xaxis={"title_text": x, "rangemode": "tozero"},
        yaxis=rows_axis(names),
    )


def rate_bars(
    title: str, note: str, x: str, rows: pd.DataFrame, looks: Mapping[str, Look]
) -> go.Figure:
    """Shares with their intervals; columns name, rate, low, high, text (beside it), hover."""
    names, colours = labels(rows["name"]), [looks[name].light for name in rows["name"]]
    marker = {"color": [f"{c}59" for c in colours], "line": {"color": colours, "width": 1.2}}
    bars = mark("bar", rows["rate"], names, rows["hover"], orientation="h", marker=marker)
    spread = whiskers(_SOFT, rows["rate"], rows["low"], rows["high"])
    ends = words(names, rows[["rate", "high"]].max(axis=1), rows["text"], rows["hover"])
    figure = stacked(title, note, x, names, [bars | {"error_x": spread}, ends])
    return figure.update_layout(xaxis=share_axis(plain(x, 80), 1, range=[0, 1]))


def differences(
    title: str, note: str, x: str, rows: pd.DataFrame, looks: Sequence[Look]
) -> go.Figure:
    """Differences of shares with their intervals around zero, in percentage points.

    Args:
        rows: columns name, difference, low, high, hover, and dots, a sequence of single seeds.
    """
    names, traces = labels(rows["name"], 22, 60), []
    for name, row, look in zip(names, rows.to_dict("records"), looks, strict=True):
        seeds = [100 * d for d in row["dots"] or ()]
        told = [f"one seed: {d:+.1f} points" for d in seeds]
        small = {"color": f"{look.light}80", "size": 6}
        traces.append(
            mark("scatter", seeds, [name] * len(seeds), told, mode="markers", marker=small)
        )
        value, low, high = ([100 * row[c]] for c in ("difference", "low", "high"))
        big = {"color": look.light, "symbol": "diamond", "size": 11}
        mean = mark("scatter", value, [name], [row["hover"]], mode="markers", marker=big)
        if not math.isnan(row["low"]):
            mean["error_x"] = whiskers(look.light, value, low, high)
        traces.append(mean)
    figure = stacked(title, note, x, names, traces)
    zero = {"zeroline": True, "zerolinecolor": _SOFT, "tickformat": "+~g"}
    return figure.update_layout(xaxis=zero, yaxis_showgrid=True)


def heat(
    title: str,
    note: str,
    x: Sequence[str],
    y: Sequence[str],
    shade: Any,
    texts: Any,
    hover: Any,
    above: float = 24,
) -> go.Figure:
    """Cells with words in them, the darker the more; a cell of nan is left white.

    Args:
        shade, texts, hover: a row for each of `y`, in it a value for each of `x`.
        above: pixels for the names of the columns.
    """
    blue = LABELS["beneficial"].light
    scale = [[0, INKS["wash"][0]], [1e-6, f"{blue}30"], [1, f"{blue}a0"]]
    shade, texts, hover = (np.asarray(v).tolist() for v in (shade, texts, hover))
    peak = max((v for row in shade for v in row if v > 0), default=1)
    shade = [[None if math.isnan(v) else v for v in row] for row in shade]
    cells = {"type": "heatmap", "x": x, "y": y, "z": shade, "zmin": 0, "zmax": peak}
    cells |= {"xgap": 2, "ygap": 2}
    cells |= {"colorscale": scale, "showscale": False, "hovertext": hover, "hoverinfo": "text"}
    where = ([a for _ in y for a in x], [b for b in y for _ in x])
    texts_in = mark("scatter", *where, mode="text", text=[t for row in texts for t in row])
    columns = {"type": "category", "side": "top", "showgrid": False}
    layout: Trace = {"body": 26 * len(y), "left": tick_room(y), "above": above, "below": 12}
    layout |= {"xaxis": columns, "yaxis": rows_axis(y)}
    return page(title, note, [cells, texts_in], **layout)
