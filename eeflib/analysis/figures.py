"""Plotly figures of a run, for notebooks: every function is pure, data frame -> Figure.

Owns how the tables of `eeflib.analysis.summaries` are drawn. Knows nothing about files. Colours
have a middle lightness and the background is transparent, so a figure reads on a white page and on
a dark one; markers and dashes tell lines apart without colour. The report draws the same tables
as inline SVG, see `eeflib.analysis.svg`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from eeflib.analysis import palette, summaries
from eeflib.errors import PrerequisiteError

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "action_share_figure",
    "method_table_figure",
    "recovery_curve_figure",
    "recovery_map_figure",
    "win_rate_figure",
]

_INK = "#808080"
_GRID = "rgba(128,128,128,0.25)"


def win_rate_figure(evaluations: pd.DataFrame) -> go.Figure:
    """Win rate per fine-tuning iteration by method, 95 % band; from `frames.evaluations`."""
    table = summaries.courses(summaries.win_rates(evaluations))
    figure = _lines(table, "method", "iteration", "rate", palette.method_looks)
    figure.update_layout(title="Win rate per iteration (test tasks)")
    figure.update_xaxes(title="fine-tuning iteration (0 = behaviour cloning)", dtick=1)
    return figure


def recovery_curve_figure(states: pd.DataFrame) -> go.Figure:
    """Success of the student from s0 and from each expert state of failed teacher trajectories.

    From `frames.states`; of several methods and iterations the one that
    `summaries.pick_iteration` names.
    """
    table = summaries.recovery_curve(summaries.pick_iteration(states))
    figure = _lines(table, "group", "k", "p", palette.group_looks)
    figure.update_layout(title="How often the student wins from expert state k")
    figure.update_xaxes(title="expert state k (0 = the task's start)", dtick=1)
    return figure


def recovery_map_figure(states: pd.DataFrame, rows: int = 40) -> go.Figure:
    """Failed trajectories by expert state: `w/n` in the cell, its colour the share of wins."""
    go = _plotly()
    table = summaries.recovery_map(summaries.pick_iteration(states), rows)
    names = [c for c in table.columns if c.startswith("s") and c[1:].isdecimal()]
    text = [[str(cell) for cell in row] for row in table[names].to_numpy()]
    figure = go.Figure(
        go.Heatmap(
            z=[[_share(cell) for cell in row] for row in text],
            x=names,
            y=[f"{i + 1}. {_plain(task)}" for i, task in enumerate(table["task_id"])],
            text=[[_glyph(cell) for cell in row] for row in text],
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
            colorscale=[[0, "#d9a441"], [0.5, "#8fb0c4"], [1, "#2f86c8"]],
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"title": "won", "tickformat": ".0%"},
        )
    )
    _layout(figure, "Recovery map: wins/rollouts of the student from each expert state")
    figure.update_layout(height=140 + 22 * max(1, len(table)))
    figure.update_yaxes(autorange="reversed", tickformat=None, rangemode=None)
    return _say_if_empty(figure, table)


def action_share_figure(actions: pd.DataFrame) -> go.Figure:
    """Share of each kind of action: teacher successes, teacher failures, each method's training.

    From `summaries.training_actions`. What successes lack and failures hold is what a student
    cloned from successes never sees: the simplicity bias.
    """
    go = _plotly()
    table = summaries.action_shares(actions)
    sources = list(dict.fromkeys(table["source"]))
    looks = palette.method_looks(s for s in sources if not s.startswith("teacher "))
    looks["teacher successes"] = palette.Look("#6b7280", "#a3abb8")
    looks["teacher failures"] = palette.Look("#b58900", "#f0c23b")
    patterns = ["", "/", "x", "-", "\\", "|", "+", "."]
    figure = go.Figure()
    for i, source in enumerate(sources):
        part = table[table["source"] == source]
        figure.add_bar(
            x=part["kind"],
            y=part["share"],
            name=_plain(source),
            marker={"color": looks[source].light, "pattern_shape": patterns[i % len(patterns)]},
            customdata=part["count"],
            hovertemplate="%{x}: %{y:.1%} (%{customdata} actions)",
        )
    _layout(figure, "What is trained on: share of actions by kind")
    figure.update_layout(barmode="group")
    return _say_if_empty(figure, table)


def method_table_figure(evaluations: pd.DataFrame) -> go.Figure:
    """Each method's last iteration: win rate with its interval, tasks and seeds."""
    go = _plotly()
    table = summaries.win_rates(evaluations)
    table = table[table.groupby("method")["iteration"].transform("max") == table["iteration"]]
    low, high = table["low"].map("{:.1%}".format), table["high"].map("{:.1%}".format)
    columns: dict[str, Iterable[Any]] = {
        "method": table["method"].map(_plain),
        "win rate": table["rate"].map("{:.1%}".format),
        "95 % interval": low + " \u2013 " + high,
        "iteration": table["iteration"],
        "seeds": table["seeds"],
        "evaluations": table["n"],
    }
    figure = go.Figure(
        go.Table(
            header={"values": list(columns), "fill_color": _GRID, "font_color": _INK},
            cells={
                "values": [list(c) for c in columns.values()],
                "fill_color": "rgba(0,0,0,0)",
                "font_color": _INK,
                "height": 26,
            },
        )
    )
    _layout(figure, "Methods, last iteration")
    return figure


def _lines(
    table: pd.DataFrame,
    group: str,
    x: str,
    y: str,
    looks: Callable[[Iterable[str]], dict[str, palette.Look]],
) -> go.Figure:
    go = _plotly()
    figure = go.Figure()
    for name, look in looks(table[group]).items():
        part = table[table[group] == name]
        figure.add_scatter(
            x=[*part[x], *part[x][::-1]],
            y=[*part["high"], *part["low"][::-1]],
            fill="toself",
            fillcolor=_faint(look.light),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
        figure.add_scatter(
            x=part[x],
            y=part[y],
            name=_plain(name),
            mode="lines+markers",
            line={"color": look.light, "dash": look.dash, "width": 2},
            marker={"symbol": look.marker, "size": 9, "color": look.light},
            legendgroup=name,
            customdata=part[["low", "high", "n"]],
            hovertemplate="%{y:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}], "
            "n = %{customdata[2]}",
        )
    _layout(figure, "")
    return _say_if_empty(figure, table)


def _layout(figure: go.Figure, title: str) -> None:
    figure.update_layout(
        title=title,
        font={"color": _INK, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        legend={"bgcolor": "rgba(0,0,0,0)"},
    )
    figure.update_xaxes(gridcolor=_GRID, zeroline=False, linecolor=_GRID)
    figure.update_yaxes(
        gridcolor=_GRID, zeroline=False, linecolor=_GRID, tickformat=".0%", rangemode="tozero"
    )


def _say_if_empty(figure: go.Figure, table: pd.DataFrame) -> go.Figure:
    if table.empty:
        figure.add_annotation(
            text="nothing recorded yet", xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False
        )
    return figure


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as exc:
        raise PrerequisiteError(
            "figures need plotly: pip install 'eeflib[notebooks]' (the report does without)"
        ) from exc
    return go


def _plain(text: object) -> str:
    """Plotly reads a subset of HTML in labels: names from files must not become markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _faint(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.15)"


def _share(cell: str) -> float | None:
    wins, slash, n = cell.partition("/")
    return int(wins) / int(n) if slash else None


def _glyph(cell: str) -> str:
    return {"untried": "\u2013", "unrestorable": "!", "faulted": "!"}.get(cell, cell)
