"""How a plotly figure is laid out, and the few kinds of drawing that every figure is made of.

Import from here to draw a new figure in the style of `eeflib.analysis.figures`: `page` puts traces
under a title and a note, `nothing` says what is missing, and `lines`, `stacks`, `rate_bars`,
`differences` and `heat` draw tables. Texts of records become `markup.plain` on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from eeflib.analysis import style
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import clean, plain
from eeflib.analysis.run import Run
from eeflib.analysis.style import INKS, LABELS, Look
from eeflib.analysis.taxonomy import KINDS
from eeflib.stats import wilson

Trace = dict[str, Any]
"""A trace or an axis as plotly takes it; `marker_color` is `marker.color`."""
Part = tuple[str, Look, bool]
"""A part of a bar: its name, its look, whether it is hatched."""
Data = pd.DataFrame | Findings | Run | str | Path
"""A table, or what it is found in: findings, a run, its folder."""

SOFT, _INK = INKS["soft"][0], INKS["ink"][0]
PALE = Look(*INKS["rule"])
UNEXPLORED = (
    "No exploration from expert states is recorded (branches.jsonl with k > 0), so there is "
    "nothing to say about recovery. A run with EEF among its methods records it."
)
ZERO: Trace = {"zeroline": True, "zerolinecolor": SOFT, "tickformat": "+~g"}
"""An axis of differences."""

pio.templates["eef"] = style.template()


def page(
    title: str,
    note: str,
    traces: Sequence[Trace],
    *,
    body: float = 300,
    above: float = 12,
    below: float = 46,
    **layout: Any,
) -> go.Figure:
    """Traces under a title and a note, which are wrapped so that a phone shows them whole.

    Args:
        title, note: plain text, of records too.
        body: height of the plotting area in pixels.
        above, below: pixels around it, for ticks.

    Traces of several names get a legend, and it the room that it needs on a phone.
    """
    heading, told = plain(title, 200, 38), plain(note, 1200, 58)
    breaks = heading.count("<br>")
    head = 42 + 21 * breaks + (10 + 15.5 * (told.count("<br>") + 1) if told else 0)
    named = dict.fromkeys(t["name"] for t in traces if t.get("showlegend", "name" in t))
    if len(named) > 1:
        widths = [48 + 6.8 * len(name) for name in named]
        columns = len(widths) if sum(widths) < 300 else max(1, int(300 / max(widths)))
        above += 20 * math.ceil(len(widths) / columns)
    return go.Figure(
        list(traces),
        {
            "template": "eef",
            "title": {"text": heading, "pad_t": 12 + 10 * breaks, "subtitle_text": told},
            "meta": {"title": clean(title), "note": clean(note), "head": head},
            "margin_t": head + above,
            "margin_b": below,
            "height": head + above + body + below,
            "showlegend": len(named) > 1,
            **layout,
        },
    )


def bare(figure: go.Figure) -> go.Figure:
    """A copy without title and note, for a page that prints `layout.meta` in its own way."""
    out, head = go.Figure(figure), figure.layout.meta["head"]
    out.layout.title.text = out.layout.title.subtitle.text = ""
    out.layout.margin.t -= head
    out.layout.height -= head
    return out


def nothing(title: str, why: str) -> go.Figure:
    """A figure that says in a sentence what is missing: also in `meta["nothing"]`."""
    hidden = {"visible": False}
    out = page(title, why, [], body=0, xaxis=hidden, yaxis=hidden)
    out.layout.meta = {**out.layout.meta, "note": "", "nothing": clean(why)}
    return out


def stepped(figure: go.Figure) -> go.Figure:
    """The figure with a button that plays its frames and a slider over them; it shows the last."""
    now: Trace = {"mode": "immediate", "transition": {"duration": 0}}
    ink, paper, rule, wash = (INKS[x][0] for x in ("ink", "paper", "rule", "wash"))
    look: Trace = {"bgcolor": paper, "bordercolor": rule, "font": {"color": ink, "size": 12}}
    names = [frame.name for frame in figure.frames]
    one: Trace = {"frame": {"duration": 0, "redraw": True}, **now}
    steps = [{"label": n, "method": "animate", "args": [[n], one]} for n in names]
    slow: Trace = {"frame": {"duration": 1600, "redraw": True}, **now}
    play = {"label": "▶ play", "method": "animate", "args": [names, slow]}
    stop = {"label": "pause", "method": "animate", "args": [[None], one]}
    place: Trace = {"y": 0, "yanchor": "top", "pad": {"t": 14}}
    buttons = {"type": "buttons", "direction": "left", "buttons": [play, stop], "active": -1}
    slider = {"steps": steps, "active": len(names) - 1, "activebgcolor": wash, "tickcolor": rule}
    slider |= {"x": 0.42, "len": 0.58, "currentvalue_visible": False}
    return figure.update_layout(
        updatemenus=[{**buttons, **place, **look, "x": 0, "xanchor": "left"}],
        sliders=[{**slider, **place, **look}],
    )


def mark(kind: str, x: Iterable[Any], y: Iterable[Any], hover: Any = None, **more: Any) -> Trace:
    """A trace of plain lists; without words for the hover it answers to none."""
    told: Trace = {"hoverinfo": "skip"}
    if hover is not None:
        told = {"hoverinfo": "text", "hovertext": list(hover)}
    return {"type": kind, "x": list(x), "y": list(y), "cliponaxis": False, **told, **more}


def table(data: Data, name: str) -> pd.DataFrame:
    """`data`, or that table of the run."""
    if isinstance(data, pd.DataFrame):
        return data
    found = data if isinstance(data, Findings) else Findings(data)
    return getattr(found, name)


# -- words ----------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """`64 %`; a dash for nan."""
    return "–" if math.isnan(share) else f"{share * 100:.0f} %"


def amount(value: float) -> str:
    """`1,204`, `0.35`, `0.0012`; a dash for nan."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


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
        out.append("<br>".join(filter(None, (line.format_map(shown) for line in lines))))
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
    named = zip(list(glyphs) or [""] * len(rows), rows["task_id"], rows["seed"], strict=True)
    return labels((f"{g}{plain(t, 24)}" + f" · {s}" * several for g, t, s in named), 0, 40)


# -- axes -----------------------------------------------------------------------------------------


def rows_axis(names: Sequence[str], **more: Any) -> Trace:
    """A y axis of labelled rows, the first on top."""
    kind = {"type": "category", "categoryorder": "array", "categoryarray": list(names)}
    return kind | {"autorange": "reversed", "showgrid": False, "tickfont_color": _INK} | more


def share_axis(text: str, top: float = 1.02) -> Trace:
    """An axis in per cent."""
    return {"title_text": text, "range": [-0.02, top], "tickformat": ".0%"}


def whole_axis(text: str, most: float, **more: Any) -> Trace:
    """An axis of whole numbers up to `most`."""
    return {"title_text": text, "dtick": max(1, math.ceil(most / 8)), "tick0": 0, **more}


# -- kinds of drawing -----------------------------------------------------------------------------


def tint(looks: Look | Sequence[Look], hatched: bool = False) -> Trace:
    """The marker of a bar, or of bars: a tint that text can stand on, with a firm edge."""
    if not isinstance(looks, Look):
        colours = [look.light for look in looks]
        return {"color": [f"{c}59" for c in colours], "line": {"color": colours, "width": 1.2}}
    marker: Trace = {"color": f"{looks.light}59", "line": {"color": looks.light, "width": 1.2}}
    if hatched:
        marker["pattern"] = {"shape": "/", "fgcolor": looks.light, "size": 9, "solidity": 0.13}
    return marker


def whiskers(colour: str, at: Any, low: Any, high: Any) -> Trace:
    """Error bars of points, from low to high."""
    up, down = (pd.Series(list(v)) - pd.Series(list(w)) for v, w in ((high, at), (at, low)))
    ink = {"color": colour, "thickness": 1.8, "width": 5}
    spread = {"array": up.tolist(), "arrayminus": down.tolist()}
    return {"type": "data", "symmetric": False, **spread, **ink}


def ends(names: Sequence[str], low: Any, high: Any, texts: Iterable[str], hover: Any) -> Trace:
    """A whisker for each row of bars, where there is a `low`, and words to the right of it."""
    shown = [f"  {plain(text, 60)}" for text in texts]
    look = {"mode": "text", "textposition": "middle right", "showlegend": False}
    spread = None if low is None else whiskers(SOFT, high, low, high)
    return mark("scatter", high, names, hover, text=shown, error_x=spread, **look)


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
        both = {"name": name, "legendgroup": name, **more}
        line = {"color": look.light, "dash": look.dash, "width": 2.4}
        marker = {"color": look.light, "symbol": look.marker, "size": 8}
        drawn = mark("scatter", part[x], part[y], part["hover"], line=line, marker=marker)
        drawn = {"mode": "lines+markers"} | drawn | both
        if group in bands and len(part) == 1:
            drawn["error_y"] = whiskers(look.light, part[y], part["low"], part["high"])
        elif group in bands:
            around = ([*part[x], *part[x][::-1]], [*part["high"], *part["low"][::-1]])
            area: Trace = {"fill": "toself", "fillcolor": f"{look.light}21", "line_width": 0}
            band = mark("scatter", *around, mode="lines", showlegend=False, **area)
            traces.append(both | band)
        traces.append(drawn)
    return traces


def stacks(
    names: Sequence[str],
    counts: pd.DataFrame,
    kinds: Mapping[str, Part],
    about: Sequence[str] = (),
    upright: bool = False,
) -> list[Trace]:
    """A bar for each row of `counts`, cut into how many of each of the kinds (columns) there are.

    Args:
        about: more words on hover, of each row.
        upright: bars stand; then they bear no numbers.
    """
    total = counts[list(kinds)].sum(axis=1).to_numpy()
    traces, rows = [], pd.DataFrame({"name": names, "total": total})
    rows["about"] = about or ""
    for kind, (title, look, hatched) in kinds.items():
        n = counts[kind].tolist()
        hover = [
            f"{row.name}: {k} of {row.total} {title}" + f"<br>{row.about}" * bool(row.about)
            for k, row in zip(n, rows.itertuples(index=False), strict=True)
        ]
        drawn = [k or None for k in n]  # a bar of 0 would leave its edge
        x, y = (names, drawn) if upright else (drawn, names)
        trace = mark("bar", x, y, hover, name=title, marker=tint(look, hatched))
        if not upright:
            inside = {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
            trace |= {"orientation": "h", "text": [str(k or "") for k in n], **inside}
            trace["insidetextfont_color"] = _INK
        traces.append(trace)
    return traces


def stacked(
    title: str, note: str, x: str, names: Sequence[str], traces: Sequence[Trace]
) -> go.Figure:
    """A figure of horizontal bars, and perhaps of `ends` beside them."""
    texts = [text for t in traces if t.get("mode") == "text" for text in t["text"]]
    return page(
        title,
        note,
        traces,
        body=32 * len(names) + 8,
        margin_r=8 + 6.6 * max(map(len, texts), default=2),
        barmode="stack",
        xaxis={"title_text": x, "rangemode": "tozero"},
        yaxis=rows_axis(names),
    )


def rate_bars(
    title: str, note: str, x: str, rows: pd.DataFrame, looks: Mapping[str, Look]
) -> go.Figure:
    """Shares with their intervals; columns name, rate, low, high, text (beside it), hover."""
    names, marker = labels(rows["name"]), tint([looks[name] for name in rows["name"]])
    bars = mark("bar", rows["rate"], names, rows["hover"], orientation="h", marker=marker)
    beside = ends(names, rows["low"], rows["high"], rows["text"], rows["hover"])
    figure = stacked(title, note, x, names, [bars, beside])
    return figure.update_layout(xaxis=share_axis(plain(x, 80), 1) | {"range": [0, 1]})


def differences(
    title: str, note: str, x: str, rows: pd.DataFrame, looks: Sequence[Look]
) -> go.Figure:
    """Differences of shares with their intervals around zero, in percentage points.

    Args:
        rows: columns name, difference, low, high, hover, and dots, a sequence of single seeds.
    """
    names, colours = labels(rows["name"], 22, 60), [look.light for look in looks]
    seeds = [
        (100 * dot, name, f"{colour}80")
        for name, dots, colour in zip(names, rows["dots"], colours, strict=True)
        for dot in dots
    ]
    at, beside, tints = zip(*seeds, strict=True) if seeds else ((), (), ())
    told = [f"one seed: {dot:+.1f} points" for dot in at]
    small = {"color": tints, "size": 6}
    value, low, high = (100 * rows[c] for c in ("difference", "low", "high"))
    big = {"color": colours, "symbol": "diamond", "size": 11}
    spread = whiskers(SOFT, value, low, high)
    traces = [
        mark("scatter", at, beside, told, mode="markers", marker=small),
        mark("scatter", value, names, rows["hover"], mode="markers", marker=big, error_x=spread),
    ]
    figure = stacked(title, note, x, names, traces)
    return figure.update_layout(xaxis=ZERO, yaxis_showgrid=True)


def heat(
    title: str,
    note: str,
    x: Sequence[str],
    y: Sequence[str],
    shade: pd.DataFrame,
    texts: pd.DataFrame,
    hover: pd.DataFrame,
    above: float = 24,
) -> go.Figure:
    """Cells with words in them, the darker the more; a cell of nan is left white.

    Args:
        shade, texts, hover: a row for each of `y`, in it a value for each of `x`.
        above: pixels for the names of the columns.
    """
    blue = LABELS["beneficial"].light
    scale = [[0, INKS["wash"][0]], [1e-6, f"{blue}30"], [1, f"{blue}a0"]]
    z = [[None if v != v else v for v in row] for row in shade.to_numpy().tolist()]
    peak = max((v for row in z for v in row if v), default=1)
    cells = {"type": "heatmap", "x": x, "y": y, "z": z, "zmin": 0, "zmax": peak}
    cells |= {"colorscale": scale, "showscale": False, "xgap": 2, "ygap": 2, "hoverinfo": "text"}
    cells |= {"text": texts.to_numpy().tolist(), "hovertext": hover.to_numpy().tolist()}
    cells |= {"texttemplate": "%{text}", "textfont": {"color": _INK, "size": 12}}
    columns = {"type": "category", "side": "top", "showgrid": False}
    axes: Trace = {"xaxis": columns, "yaxis": rows_axis(y)}
    return page(title, note, [cells], body=26 * len(y), above=above, below=14, **axes)
