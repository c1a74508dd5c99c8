"""Charts as inline SVG: small, sharp in print, no script, follow the page's light or dark mode.

Import the chart functions: lines with bands, intervals in rows, stacked bars, shares in rows.
Colours are CSS variables that the page defines (`--ink`, `--grid`), or have a value for either
mode, so one drawing serves both. Every number is also in a `<title>`, shown on hover and read
aloud; parts of a stack differ in hatching too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eeflib.analysis.markup import escape

__all__ = [
    "Bar",
    "Part",
    "Point",
    "Row",
    "Series",
    "Share",
    "bar_chart",
    "drawing",
    "interval_chart",
    "interval_strip",
    "line_chart",
    "marker",
    "share_chart",
]

Scale = Callable[[float], float]

_DASH = {
    "solid": "",
    "dash": "7 5",
    "dot": "2 4",
    "dashdot": "9 4 2 4",
    "longdash": "13 5",
}


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float
    high: float
    note: str = ""
    """Shown on hover."""


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    colour: str
    """A CSS colour, such as `light-dark(#000, #fff)`."""
    dash: str = "solid"
    marker: str = "circle"
    band: bool = True
    """Draw the intervals; without, they are in the notes only."""


@dataclass(frozen=True)
class Row:
    """One line of an interval chart: dots, their mean and its interval."""

    name: str
    dots: tuple[float, ...]
    value: float
    low: float
    high: float
    colour: str
    note: str = ""


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    label: str,
    end_values: bool = True,
    height: int = 360,
    mark: tuple[float, str] | None = None,
) -> str:
    """Lines with 95 % bands over whole-numbered x; y is a share, drawn in per cent.

    A series with a single point is drawn as that point with its interval and a faint line across.

    Args:
        x_label: under the x axis.
        y_label: above the y axis.
        label: the picture in words, for those who cannot see it.
        end_values: put the last value beside a line's name.
        mark: an x to mark by an upright line, and what it means.
    """
    width, left, top, bottom = 872, 50, 34 if mark is None else 52, 48
    right = 50 + 7.4 * max((min(len(s.name), 24) + 4 for s in series), default=0)
    xs = sorted({p.x for s in series for p in s.points}) or [0.0]
    span = max(xs[-1] - xs[0], 1.0)
    peak = _ceiling(max((p.high if s.band else p.y for s in series for p in s.points), default=1.0))
    pad = 14

    def px(x: float) -> float:
        return left + pad + (x - xs[0]) / span * (width - left - right - 2 * pad)

    def py(y: float) -> float:
        return top + (1 - y / peak) * (height - top - bottom)

    parts = []
    for tick in _ticks(peak):
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" '
            f'class="grid"/><text x="{left - 8}" y="{py(tick) + 4:.1f}" text-anchor="end">'
            f"{tick * 100:.0f}%</text>"
        )
    parts += [
        f'<text x="{px(x):.1f}" y="{height - bottom + 20}" text-anchor="middle">{x:g}</text>'
        for x in xs[:: -(-len(xs) // 14)]
    ]
    if mark is not None:
        x, ground = px(min(max(mark[0], xs[0]), xs[-1])), height - bottom
        late = x > (left + width - right) / 2  # the words go where there is room
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{ground}" class="mark"/>'
            f'<text x="{x:.1f}" y="{top - 6}" class="marked" '
            f'text-anchor="{"end" if late else "start"}">{escape(mark[1])}</text>'
        )
    middle = (left + width - right) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(f'<text x="{left - 34}" y="18" class="axis">{escape(y_label)}</text>')
    for s in series:
        parts.append(_band(s, px, py, left, width - right))
    for s in series:
        parts.append(_line(s, px, py))
    ends = _end_labels(series, py, width - right + 12, top + 8, height - bottom, end_values)
    parts.append(ends)
    return drawing(parts, width, height, label)


def interval_chart(rows: Sequence[Row], *, x_label: str, label: str, step: int = 40) -> str:
    """Per row the values of the seeds as dots, their mean and its interval; zero is marked.

    Values are differences of shares, drawn in percentage points.

    Args:
        step: height of a row.
    """
    width, right, top = 872, 130, 12
    left = 24 + 7.4 * max((len(r.name) for r in rows), default=0)
    height = top + step * len(rows) + 52
    values = [v for r in rows for v in (*r.dots, r.low, r.high, 0.0) if math.isfinite(v)] or [0.0]
    unit = _tick_size(max(values) - min(values) or 0.1)
    low, high = math.floor(min(values) / unit) * unit, math.ceil(max(values) / unit) * unit
    high = high if high > low else low + unit

    def px(x: float) -> float:
        return left + (x - low) / (high - low) * (width - left - right)

    base = top + step * len(rows)
    parts = []
    for i in range(round((high - low) / unit) + 1):
        x = low + i * unit
        zero = abs(x) < unit / 2
        parts.append(
            f'<line x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{top}" y2="{base}" '
            f'class="{"zero" if zero else "grid"}"/><text x="{px(x):.1f}" y="{base + 18}" '
            f'text-anchor="middle">{"0" if zero else _signed(x, 0)}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{base + 40}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        parts.append(
            f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end" class="name">'
            f'{escape(row.name)}</text><g style="--c:{row.colour}"><title>{escape(row.note)}'
            f'</title><line x1="{px(row.low):.1f}" x2="{px(row.high):.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}" class="whisker"/>'
        )
        parts += [f'<circle cx="{px(d):.1f}" cy="{y:.1f}" r="3.5" class="seed"/>' for d in row.dots]
        parts.append(f"{marker('diamond', px(row.value), y, 6.5)}</g>")
        parts.append(
            f'<text x="{width - right + 14}" y="{y + 4:.1f}" class="name">'
            f"{_signed(row.value, 1)} points</text>"
        )
    return drawing(parts, width, height, label)


def interval_strip(value: float, low: float, high: float, colour: str) -> str:
    """A table cell's picture of one share and its interval, from 0 to 100 %."""
    if not math.isfinite(value):
        return ""
    x = [4 + 152 * min(1.0, max(0.0, v)) for v in (value, low, high)]
    return (
        f'<svg class="strip" viewBox="0 0 160 16" aria-hidden="true" style="--c:{colour}">'
        f'<line x1="4" x2="156" y1="8" y2="8" class="grid"/>'
        f'<line x1="{x[1]:.1f}" x2="{x[2]:.1f}" y1="8" y2="8" class="whisker"/>'
        f'<line x1="{x[0]:.1f}" x2="{x[0]:.1f}" y1="2" y2="14" class="tick"/></svg>'
    )


def _band(s: Series, px: Scale, py: Scale, left: float, right: float) -> str:
    if not s.band:
        return ""
    if len(s.points) < 2:
        return "".join(
            f'<line x1="{left}" x2="{right}" y1="{py(p.y):.1f}" y2="{py(p.y):.1f}" class="across" '
            f'style="--c:{s.colour}" stroke-dasharray="{_DASH.get(s.dash, "")}"/>'
            for p in s.points
        )
    upper = [f"{px(p.x):.1f},{py(p.high):.1f}" for p in s.points]
    lower = [f"{px(p.x):.1f},{py(p.low):.1f}" for p in reversed(s.points)]
    return f'<polygon points="{" ".join(upper + lower)}" class="band" style="--c:{s.colour}"/>'


def _line(s: Series, px: Scale, py: Scale) -> str:
    path = " ".join(f"{px(p.x):.1f},{py(p.y):.1f}" for p in s.points)
    out = [f'<g style="--c:{s.colour}">']
    if len(s.points) > 1:
        out.append(
            f'<polyline points="{path}" class="line" stroke-dasharray="{_DASH.get(s.dash, "")}"/>'
        )
    for p in s.points:
        x = px(p.x)
        if len(s.points) == 1 and s.band:  # longer series have a band
            ends = f'y1="{py(p.low):.1f}" y2="{py(p.high):.1f}"'
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} class="whisker"/>')
        mark = marker(s.marker, x, py(p.y), 5)
        out.append(f"<g>{mark}<title>{escape(p.note)}</title></g>")
    return "".join([*out, "</g>"])


def _end_labels(
    series: Sequence[Series], py: Scale, x: float, top: float, bottom: float, values: bool
) -> str:
    """Names beside the last points, pushed apart until none overlap."""
    gap = 19.0
    named = sorted((s for s in series if s.points), key=lambda s: -s.points[-1].y)
    ys: list[float] = []
    for s in named:
        y = py(s.points[-1].y)
        ys.append(max(y, ys[-1] + gap) if ys else max(y, top))
    for i in range(len(ys)):  # too low at the end: push up again, as far as needed
        ys[i] = min(ys[i], bottom - gap * (len(ys) - 1 - i))
    return "".join(
        f'<g style="--c:{s.colour}">{marker(s.marker, x + 5, y, 5)}'
        f'<text x="{x + 16:.1f}" y="{y + 4:.1f}" class="end">{escape(s.name, 24)}'
        f"{f' {s.points[-1].y * 100:.0f}%' if values else ''}</text></g>"
        for s, y in zip(named, ys, strict=True)
    )


def marker(kind: str, x: float, y: float, r: float) -> str:
    """A marker around (x, y) in the colour `--c`; `kind` as in `style.Look.marker`."""
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle-up": [(0, -1.15), (1.1, 0.9), (-1.1, 0.9)],
        "triangle-down": [(0, 1.15), (1.1, -0.9), (-1.1, -0.9)],
    }.get(kind)
    if corners:
        points = " ".join(f"{x + a * r:.1f},{y + b * r:.1f}" for a, b in corners)
        return f'<polygon points="{points}" class="dot"/>'
    if kind in ("x", "cross"):
        d = r * 0.9
        ends = [(-d, -d, d, d), (-d, d, d, -d)] if kind == "x" else [(-r, 0, r, 0), (0, -r, 0, r)]
        return "".join(
            f'<line x1="{x + a:.1f}" y1="{y + b:.1f}" x2="{x + c:.1f}" y2="{y + d2:.1f}" '
            'class="stroke"/>'
            for a, b, c, d2 in ends
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" class="dot"/>'


def _signed(share: float, digits: int) -> str:
    return f"{100 * share:+.{digits}f}".replace("-", "\u2212")


def _tick_size(span: float) -> float:
    return next((u for u in (0.01, 0.02, 0.05, 0.1, 0.2) if span / u <= 9), 0.5)


def _ceiling(peak: float) -> float:
    unit = _tick_size(max(peak, 0.02))
    return min(1.0, math.ceil(peak / unit - 1e-9) * unit) or unit


def _ticks(peak: float) -> list[float]:
    unit = next(u for u in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if peak / u <= 6)
    return [i * unit for i in range(int(peak / unit + 1e-9) + 1)]


def drawing(parts: Sequence[str], width: int, height: int, label: str) -> str:
    """The `<svg>` around ready parts; `label` is the picture in words."""
    return (
        f'<div class="scroll"><svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg></div>'
    )


_WIDTH = 872


@dataclass(frozen=True)
class Part:
    """One layer of every bar."""

    name: str
    colour: str
    """A CSS colour."""
    glyph: str = ""
    hatched: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar: its label under the axis and a value per part."""

    label: str
    values: tuple[float, ...]
    note: str = ""
    """Shown on hover."""


@dataclass(frozen=True)
class Share:
    """One row of a share chart."""

    name: str
    value: float
    low: float
    high: float
    colour: str
    text: str = ""
    """Beside the row, such as `12 of 40`."""
    note: str = ""


def bar_chart(
    bars: Sequence[Bar],
    parts: Sequence[Part],
    *,
    x_label: str,
    y_label: str,
    label: str,
    height: int = 300,
) -> str:
    """Stacked bars side by side, the first part at the bottom; a legend above."""
    left, right, top, bottom = 56, 16, 58, 46
    peak = max((sum(b.values) for b in bars), default=0.0) or 1.0
    tick = _tick(peak)
    peak = math.ceil(peak / tick - 1e-9) * tick
    slot = (_WIDTH - left - right) / max(len(bars), 1)
    wide = min(slot * 0.86, 64.0)

    def py(y: float) -> float:
        return top + (1 - y / peak) * (height - top - bottom)

    out = [_hatching(parts), _legend(parts, left), f'<text x="10" y="14">{escape(y_label)}</text>']
    for i in range(round(peak / tick) + 1):
        y = py(i * tick)
        out.append(
            f'<line x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{i * tick:g}</text>'
        )
    every = -(-len(bars) // 16)
    for i, bar in enumerate(bars):
        middle, base = left + slot * (i + 0.5), 0.0
        out.append(f"<g><title>{escape(bar.note)}</title>")
        for number, (part, value) in enumerate(zip(parts, bar.values, strict=True)):
            if value:
                high, low = py(base + value), py(base)
                shape = (
                    f'x="{middle - wide / 2:.1f}" y="{high:.1f}" width="{wide:.1f}" '
                    f'height="{max(low - high, 1):.1f}"'
                )
                out.append(f'<rect {shape} class="bar-part" style="--c:{part.colour}"/>')
                if part.hatched:
                    out.append(f'<rect {shape} fill="url(#eef-hatch-{number})"/>')
            base += value
        out.append("</g>")
        if i % every == 0:
            out.append(
                f'<text x="{middle:.1f}" y="{height - bottom + 18}" text-anchor="middle">'
                f"{escape(bar.label, 16)}</text>"
            )
    out.append(
        f'<text x="{(left + _WIDTH - right) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return drawing(out, _WIDTH, height, label)


def share_chart(rows: Sequence[Share], *, x_label: str, label: str) -> str:
    """Per row a share of 0 to 100 % as a dot with its interval, and what it is of."""
    step, top, right = 34, 10, 150
    left = 24 + 7.4 * max((min(len(r.name), 46) for r in rows), default=0)
    base = top + step * len(rows)

    def px(x: float) -> float:
        return left + min(1.0, max(0.0, x)) * (_WIDTH - left - right)

    out = []
    for i in range(6):
        x = px(i / 5)
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}" class="grid"/>'
            f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{i * 20}%</text>'
        )
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        out.append(
            f'<g style="--c:{row.colour}"><title>{escape(row.note)}</title>'
            f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end" class="name">'
            f"{escape(row.name, 46)}</text>"
            f'<line x1="{px(row.low):.1f}" x2="{px(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'class="whisker"/><circle cx="{px(row.value):.1f}" cy="{y:.1f}" r="5.5" class="dot"/>'
            f'<text x="{_WIDTH - right + 14}" y="{y + 4:.1f}" class="name">{escape(row.text, 24)}'
            "</text></g>"
        )
    out.append(
        f'<text x="{(left + _WIDTH - right) / 2:.1f}" y="{base + 40}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return drawing(out, _WIDTH, base + 50, label)


def _hatching(parts: Sequence[Part]) -> str:
    patterns = "".join(
        f'<pattern id="eef-hatch-{i}" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate({45 + 60 * i})"><line x1="0" y1="0" x2="0" y2="6" '
        'class="hatch"/></pattern>'
        for i, part in enumerate(parts)
        if part.hatched
    )
    return f"<defs>{patterns}</defs>" if patterns else ""


def _legend(parts: Sequence[Part], left: float) -> str:
    out, x = [], left
    for i, part in enumerate(parts):
        text = f"{part.glyph} {part.name}".strip()
        box = f'x="{x}" y="28" width="14" height="14"'
        out.append(f'<rect {box} class="bar-part" style="--c:{part.colour}"/>')
        if part.hatched:
            out.append(f'<rect {box} fill="url(#eef-hatch-{i})"/>')
        out.append(f'<text x="{x + 20}" y="40" class="name">{escape(text, 40)}</text>')
        x += 40 + 7.6 * min(len(text), 40)
    return "".join(out)


def _tick(peak: float) -> float:
    power = 10.0 ** math.floor(math.log10(peak / 5)) if peak > 0 else 1.0
    return max(1.0, next(u * power for u in (1, 2, 5, 10) if peak / (u * power) <= 5.001))
