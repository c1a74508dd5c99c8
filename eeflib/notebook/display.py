"""Static views for notebooks: HTML that needs no script and survives saving and sharing.

Owns how tables, charts, transcripts and loss masks look in a notebook. Charts are those of the
report (`eeflib.analysis.svg`), put into an `<img>`: that also shows in a notebook which JupyterLab
does not trust yet, and weighs a few kB. Every view has a plain-text twin. Text from environments,
models and files is escaped.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from eeflib.analysis import palette, summaries, svg, transcripts
from eeflib.analysis.markup import escape
from eeflib.analysis.segments import Segment
from eeflib.encoded import Reason
from eeflib.outcomes import StateOutcome
from eeflib.records import Trajectory

__all__ = [
    "Html",
    "losses",
    "rates",
    "recovery_curve",
    "recovery_map",
    "shares",
    "table",
    "tokens",
    "transcript",
    "win_rates",
]

_CHART = """
svg{--ink:#1c2024;--soft:#5d656f;--grid:#e4e8ec;--paper:#fff;
 font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
text{fill:var(--soft);font-size:13px}.end,.name{fill:var(--ink);font-size:13.5px}
.grid{stroke:var(--grid);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1.3}
.band{fill:var(--c);opacity:.11}
.line{fill:none;stroke:var(--c);stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}
.across{stroke:var(--c);stroke-width:1.2;opacity:.55}
.whisker{stroke:var(--c);stroke-width:2.6;stroke-linecap:round;opacity:.6}
.dot{fill:var(--c);stroke:var(--paper);stroke-width:1.2}
.stroke{stroke:var(--c);stroke-width:2.4;stroke-linecap:round}
.seed{fill:var(--c);opacity:.45}
"""
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


def _image(drawing: str, text: str) -> Html:
    """A drawing of `eeflib.analysis.svg` as an image on white paper."""
    found = re.search(r"<svg.*</svg>", drawing, re.DOTALL)
    assert found is not None, drawing[:80]
    picture = found[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    label = re.search(r'aria-label="([^"]*)"', picture)
    start = picture.index(">") + 1
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    picture = f"{picture[:start]}<style>{_CHART}</style>{paper}{picture[start:]}"
    data = base64.b64encode(picture.encode()).decode()
    return Html(
        f'<img alt="{label[1] if label else ""}" style="width:100%;max-width:820px;'
        f'border-radius:6px" src="data:image/svg+xml;base64,{data}">',
        text,
    )


def _lines(
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    looks: Callable[[Iterable[str]], Mapping[str, palette.Look]],
    words: tuple[str, str, str],
) -> Html:
    group, x, y = columns
    if rows.empty:
        return Html("<p>Nothing recorded yet.</p>", "nothing recorded yet")
    series = []
    for name, look in looks(rows[group]).items():
        part = rows[rows[group] == name]
        points = tuple(
            svg.Point(*p) for p in zip(*(part[c] for c in (x, y, "low", "high")), strict=True)
        )
        band = "low" in part and rows[group].nunique() <= 4
        series.append(svg.Series(name, points, look.light, look.dash, look.marker, band))
    drawing = svg.line_chart(series, x_label=words[0], y_label=words[1], label=words[2])
    return _image(drawing, f"{words[2]}\n{rows.to_string(index=False)}")


def recovery_curve(states: pd.DataFrame) -> Html:
    """How often the student wins from each expert state; from `frames.states`, failures only."""
    return _lines(
        summaries.recovery_curve(summaries.pick_iteration(states)),
        ("group", "k", "p"),
        palette.group_looks,
        (
            "expert state k (0 = the start of the task)",
            "share of student rollouts that solve the task",
            "Recovery curve: share of rollouts won from each expert state",
        ),
    )


def win_rates(evaluations: pd.DataFrame) -> Html:
    """Win rate per fine-tuning iteration by method; from `frames.evaluations`."""
    return _lines(
        summaries.courses(summaries.win_rates(evaluations)),
        ("method", "iteration", "rate"),
        palette.method_looks,
        (
            "fine-tuning iteration (0 = behaviour cloning)",
            "win rate on held-out tasks",
            "Win rate per fine-tuning iteration by method",
        ),
    )


def shares(rows: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> Html:
    """A share (0 to 1) over whole numbers, one line."""
    rows = rows.assign(group=y_label, low=rows[y], high=rows[y])
    label = f"{y_label} over {x_label}"
    return _lines(rows, ("group", x, y), palette.group_looks, (x_label, "", label))


def rates(rows: Sequence[Mapping[str, Any]], label: str = "Win rate by method") -> Html:
    """Win rates with their intervals, one line per method; from `summary.method_row`."""
    looks = palette.method_looks(r["method"] for r in rows)
    left, width, step, top = 130, 820, 34, 26
    height = top + step * len(rows) + 30

    def px(share: float) -> float:
        return left + share * (width - left - 90)

    parts = []
    for i in range(0, 101, 20):
        parts.append(
            f'<line x1="{px(i / 100)}" x2="{px(i / 100)}" y1="{top}" y2="{height - 30}" '
            f'class="grid"/><text x="{px(i / 100)}" y="{height - 10}" text-anchor="middle">{i}%'
            "</text>"
        )
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        low, high = row["interval"]
        look = looks[row["method"]]
        parts.append(
            f'<g style="--c:{look.light}"><text x="{left - 14}" y="{y + 4}" text-anchor="end" '
            f'class="name">{escape(row["method"], 20)}</text>'
            f'<line x1="{px(low)}" x2="{px(high)}" y1="{y}" y2="{y}" class="whisker"/>'
            f'<circle cx="{px(row["win_rate"])}" cy="{y}" r="6" class="dot"/>'
            f'<text x="{width - 78}" y="{y + 4}" class="name">{100 * row["win_rate"]:.1f} %</text>'
            "</g>"
        )
    text = "\n".join(f"{r['method']}: {r['win_rate']:.3f} {r['interval']}" for r in rows)
    return _image(_drawing(parts, width, height, label), f"{label}\n{text}")


def losses(series: Mapping[str, Sequence[float]]) -> Html:
    """Training losses per optimiser step, one line per training."""
    looks = palette.group_looks(series)
    width, height, left, top, bottom = 820, 300, 56, 30, 44
    peak = max((max(v) for v in series.values() if v), default=1.0) * 1.05
    most = max((len(v) for v in series.values()), default=2)

    def at(i: int, value: float) -> str:
        x = left + i / max(1, most - 1) * (width - left - 170)
        return f"{x:.1f},{top + (1 - value / peak) * (height - top - bottom):.1f}"

    parts = []
    for i in range(5):
        y = top + i / 4 * (height - top - bottom)
        parts.append(
            f'<line x1="{left}" x2="{width - 170}" y1="{y}" y2="{y}" class="grid"/>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{peak * (1 - i / 4):.2f}</text>'
        )
    for n, (name, values) in enumerate(series.items()):
        look = looks[name]
        points = " ".join(at(i, v) for i, v in enumerate(values))
        parts.append(
            f'<g style="--c:{look.light}"><polyline points="{points}" class="line"/>'
            f'<text x="{width - 158}" y="{top + 14 + 20 * n}" class="name" '
            f'style="fill:{look.light}">{escape(name, 22)}</text></g>'
        )
    parts.append(f'<text x="{left}" y="16">loss, nats per trained token</text>')
    parts.append(
        f'<text x="{(width - 114) / 2}" y="{height - 8}" text-anchor="middle">optimiser step'
        f" (1 to {most})</text>"
    )
    text = "\n".join(f"{k}: {v[0]:.3f} -> {v[-1]:.3f}" for k, v in series.items() if v)
    return _image(_drawing(parts, width, height, "Training loss per step"), text)


def _drawing(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def recovery_map(states: pd.DataFrame, rows: int = 24) -> Html:
    """Failed trajectories by expert state: wins/rollouts of the student in each cell."""
    frame = summaries.recovery_map(summaries.pick_iteration(states), rows)
    names = [c for c in frame.columns if c[0] == "s" and c[1:].isdecimal()]
    facts = ["task_id", *(["level"] if frame["level"].any() else []), "length"]
    heads = {"task_id": "task", "length": "T"}
    head = "".join(_th(heads.get(c, c), c not in ("task_id", "level")) for c in (*facts, *names))
    body = []
    for _, row in frame.iterrows():
        cells = "".join(_td(str(row[c]), c == "length") for c in facts)
        body.append(f"<tr>{cells}{''.join(_map_cell(row[n]) for n in names)}</tr>")
    return Html(
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>",
        frame[[*facts, *names]].to_string(index=False),
    )


def _map_cell(text: str) -> str:
    wins = text.partition("/")[0]
    won = wins.isdecimal() and int(wins) > 0
    colour = "background-color:rgba(0,96,156,.28);font-weight:bold;" if won else "opacity:.75;"
    mark = {"untried": "\u2013", "unrestorable": "!", "faulted": "!"}.get(text, text)
    glyph = "\u25b2 " if won else ""
    return f'<td style="{_CELL}{colour}text-align:center">{glyph}{escape(mark, 20)}</td>'


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
