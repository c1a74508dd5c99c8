"""Bars as inline SVG: stacked counts side by side, and shares with their intervals in rows.

Owns these two charts; how colours and modes work is said in `eeflib.analysis.svg`. Parts of a stack
differ in hatching too. Knows nothing about runs or methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eeflib.analysis.markup import escape
from eeflib.analysis.svg import drawing

__all__ = ["Bar", "Part", "Share", "bar_chart", "share_chart"]

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
