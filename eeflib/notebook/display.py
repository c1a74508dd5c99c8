"""Static views for notebooks: HTML that needs no script and survives saving and sharing.

Owns how tables, transcripts, loss masks and a few charts look in a notebook. Charts are kept as
`eeflib.analysis.figure` keeps them: they also show in a notebook which JupyterLab does not trust
yet. Every view has a plain-text twin. Text from environments, models and files is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from eeflib.analysis import palette, svg, transcripts
from eeflib.analysis.figure import Figure, colour
from eeflib.analysis.markup import clean, escape
from eeflib.analysis.segments import Segment
from eeflib.analysis.svg_bars import Share, share_chart
from eeflib.masking import Reason
from eeflib.records import Trajectory
from eeflib.states import StateOutcome

__all__ = [
    "Html",
    "losses",
    "rates",
    "shares",
    "table",
    "tokens",
    "transcript",
]

# A transcript follows the notebook's theme, not the operating system's.
_THEME = """
.eef-nb .eef-t{--ink:currentColor;--soft:color-mix(in srgb,currentColor 68%,transparent);
 --rule:color-mix(in srgb,currentColor 20%,transparent);
 --wash:color-mix(in srgb,currentColor 5%,transparent)}
"""
_LABELLED = re.compile(r"--c:var\(--l-(\w+)\)")
_PART = "padding-left:.7em;margin-bottom:.4em"
_CELL = "padding:.25em .8em .25em 0;border-bottom:1px solid rgba(128,128,128,.3);"


class Html:
    """A view: HTML for a notebook, text for everything else."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(frame: pd.DataFrame | Iterable[Mapping[str, Any]], caption: str = "") -> Html:
    """A data frame (or rows) without its index; floats with three digits, numbers to the right."""
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(list(frame))
    right = set(frame.select_dtypes("number").columns)
    text = frame.map(_cell) if len(frame) else frame
    head = "".join(_th(c, c in right) for c in frame.columns)
    body = "".join(
        "<tr>"
        + "".join(_td(v, c in right) for c, v in zip(frame.columns, row, strict=True))
        + "</tr>"
        for row in text.itertuples(index=False, name=None)
    )
    below = f'<p style="opacity:.75;margin:.3em 0">{escape(caption)}</p>' if caption else ""
    return Html(
        f'<table style="border-collapse:collapse;margin:.4em 0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{below}",
        text.to_string(index=False) + (f"\n{caption}" if caption else ""),
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "\u2013" if math.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".")
    return "yes" if value is True else "no" if value is False else str(value)


def _th(text: Any, right: bool) -> str:
    side = "right" if right else "left"
    return f'<th style="{_CELL}text-align:{side}">{escape(text, 80)}</th>'


def _td(text: str, right: bool) -> str:
    side = "right" if right else "left"
    return f'<td style="{_CELL}text-align:{side}">{escape(text, 600)}</td>'


def _chart(drawing: str, text: str) -> Html:
    """A drawing of `eeflib.analysis.svg`, kept as a figure is."""
    return Html(Figure("", drawing)._repr_html_(), text)


def shares(rows: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> Html:
    """A share (0 to 1) over whole numbers, one line."""
    (look,) = palette.group_looks([y_label]).values()
    points = (
        svg.Point(at, share, share, share) for at, share in zip(rows[x], rows[y], strict=True)
    )
    line = svg.Series(y_label, tuple(points), colour(look), look.dash, look.marker, False)
    label = f"{y_label} over {x_label}"
    drawing = svg.line_chart([line], x_label=x_label, y_label="", label=label)
    return _chart(drawing, f"{label}\n{rows[[x, y]].to_string(index=False)}")


def rates(rows: Sequence[Mapping[str, Any]], label: str = "Win rate by method") -> Html:
    """Win rates with their intervals, one line per method; from `summary.method_row`."""
    looks = palette.method_looks(r["method"] for r in rows)
    lines = []
    for r in rows:
        (low, high), ink = r["interval"], colour(looks[r["method"]])
        value = f"{100 * r['win_rate']:.1f} %"
        lines.append(Share(clean(r["method"], 40), r["win_rate"], low, high, ink, value))
    text = "\n".join(f"{r['method']}: {r['win_rate']:.3f} {r['interval']}" for r in rows)
    drawing = share_chart(lines, x_label=label, label=label)
    return _chart(drawing, f"{clean(label)}\n{clean(text)}")


def losses(series: Mapping[str, Sequence[float]]) -> Html:
    """Training losses per optimiser step, one line per training."""
    looks = palette.group_looks(series)
    width, height, left, top, bottom = 872, 300, 56, 30, 44
    peak = max((max(v) for v in series.values() if v), default=1.0) * 1.05
    most = max((len(v) for v in series.values()), default=2)

    def at(i: int, value: float) -> tuple[float, float]:
        x = left + i / max(1, most - 1) * (width - left - 200)
        return x, top + (1 - value / peak) * (height - top - bottom)

    parts = []
    for i in range(5):
        y = top + i / 4 * (height - top - bottom)
        parts.append(
            f'<line x1="{left}" x2="{width - 200}" y1="{y}" y2="{y}" class="grid"/>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{peak * (1 - i / 4):.2f}</text>'
        )
    for n, (name, values) in enumerate(series.items()):
        look, y = looks[name], top + 14 + 20 * n
        path = [at(i, v) for i, v in enumerate(values)]
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in path)
        marks = [*path[-1:], (width - 184, y - 4)]
        marked = "".join(svg.marker(look.marker, px, py, 5) for px, py in marks)
        parts.append(
            f'<g style="--c:{colour(look)}"><polyline points="{points}" class="line"/>'
            f'{marked}<text x="{width - 172}" y="{y}" class="end">{escape(name, 22)}</text></g>'
        )
    parts.append(f'<text x="{left}" y="16">loss, nats per trained token</text>')
    parts.append(
        f'<text x="{(width - 144) / 2}" y="{height - 8}" text-anchor="middle">optimiser step'
        f" (1 to {most})</text>"
    )
    text = "\n".join(f"{k}: {v[0]:.3f} -> {v[-1]:.3f}" for k, v in series.items() if v)
    return _chart(svg.drawing(parts, width, height, "Training loss per step"), text)


def transcript(
    trajectory: Trajectory,
    *,
    segments: Sequence[Segment] | None = None,
    states: Sequence[StateOutcome] = (),
) -> Html:
    """A trajectory with collapsible steps; see `eeflib.analysis.transcripts`."""
    body = transcripts.render_trajectory(trajectory, segments=segments, states=states)
    # What a notebook keeps that is not trusted yet: no style sheet, only these.
    body = _LABELLED.sub(lambda m: f"{m[0]};border-left:4px solid {_label(m[1])};{_PART}", body)
    body = body.replace('<div class="ribbon"', '<div style="display:flex;gap:4px" class="ribbon"')
    lines = [f"Task: {trajectory.instruction}"]
    lines += [f"{t + 1:>3}  {s.action}" for t, s in enumerate(trajectory.steps)]
    lines.append(f"     reward {trajectory.reward:.2f}, solved: {trajectory.solved}")
    return Html(f'<div class="eef-nb"><style>{_THEME}</style>{body}</div>', "\n".join(lines))


def _label(name: str) -> str:
    return palette.LABELS[name].light


_TOKENS = {
    Reason.TRAINED_ACTION: ("rgba(0,138,100,.34)", "trained action"),
    Reason.END_OF_ACTION: ("rgba(0,138,100,.60)", "end of turn, trained"),
    Reason.CONTEXT_ACTION: ("rgba(0,96,156,.22)", "action, context only"),
    Reason.HARMFUL_ACTION: ("rgba(196,68,0,.34)", "harmful action, masked"),
    Reason.UNKNOWN_ACTION: ("rgba(128,128,128,.38)", "unknown action, masked"),
}


def tokens(described: Sequence[tuple[str, Reason, bool]]) -> Html:
    """A training sequence token by token, from `masking.describe_tokens`: trained ones underlined.

    Observations and the chat template stay uncoloured.
    """
    out = []
    for text, reason, trained in described:
        colour = _TOKENS.get(reason, ("", ""))[0]
        style = f"background-color:{colour};" if colour else "opacity:.72;"
        style += "text-decoration:underline;font-weight:bold;" if trained else ""
        name = reason.name.lower().replace("_", " ")
        shown = escape(text, 200).replace("\n", "\u21b5<br>") or "&nbsp;"
        out.append(f'<span style="{style}" title="{name}">{shown}</span>')
    legend = " &nbsp; ".join(
        f'<span style="background-color:{colour};">&nbsp;{name}&nbsp;</span>'
        for reason, (colour, name) in _TOKENS.items()
        if any(r == reason for _, r, _ in described)
    )
    plain = "".join(f"\u27e8{t}\u27e9" if trained else t for t, _, trained in described)
    return Html(
        f'<p style="margin:.2em 0 .6em">{legend} &nbsp; <u><b>underlined</b></u> = carries loss</p>'
        f'<div style="font-family:monospace;line-height:1.7;white-space:pre-wrap">{"".join(out)}'
        "</div>",
        plain,
    )
