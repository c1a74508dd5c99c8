"""A figure as a notebook keeps it: still readable where a viewer drops style sheets and drawings.

Owns turning a figure's HTML into one that survives: JupyterLab cleans the outputs of a notebook it
does not trust yet, and so do sites that show notebooks; both drop `<style>` and `<svg>`. Charts
become images, which follow light and dark where the browser tells them; the colours of cells and
bars become inline styles. Knows nothing about what is drawn.
"""

from __future__ import annotations

import base64
import re

from eeflib.analysis import style

__all__ = ["APART", "saved"]

APART = ".eef-fig .apart{display:none}"
"""For the style sheet: what keeps words apart is only seen where there is none."""

_SVG = re.compile(r'<svg class="(chart|strip)" viewBox="0 0 (\d+) (\d+)"[^>]*>.*?</svg>', re.DOTALL)
_LABEL = re.compile(r'aria-label="([^"]*)"')
_FILLED = re.compile(
    r'<span style="flex:(\d+) 1 0;--c:light-dark\((#\w{6}), ?#\w{6}\)(?:;--fill:(\d+)%)?"'
)
_STATE = re.compile(r'<td class="c (won|lost|no)"(?: style="--p:(\d+)%")?')
_AGREED = re.compile(r'<td class="num won" style="--p:(\d+)%"')
_TEXT = re.compile(r'(<td|<th|<th scope="col")>')
_BETWEEN = '<span class="apart"> &middot; </span>'
_WON = "#00609c"
_SIZE = {"chart": "width:100%;max-width:960px", "strip": "width:130px"}


def saved(body: str, rules: str) -> str:
    """`body`, the HTML of a figure, in a form that looks well with its style sheet or without.

    Args:
        rules: CSS of the marks in a drawing, over the variables of `eeflib.analysis.style`.
    """
    out = _SVG.sub(lambda m: _image(m, rules), body)
    out = out.replace("</span><span class=", f"</span>{_BETWEEN}<span class=")
    out = out.replace("</span><span style=", "</span> <span style=")
    out = _FILLED.sub(_filled, out)
    out = _STATE.sub(_state, out)
    out = _AGREED.sub(lambda m: f'{m[0][:-1]};background-color:{_tint(_WON, int(m[1]))}"', out)
    for kind in ("stack", "ribbon"):
        look = 'style="display:flex;min-width:200px"'
        out = out.replace(f'<div class="{kind}">', f'<div class="{kind}" {look}>')
    out = _TEXT.sub(r'\1 style="text-align:left">', out)
    return out.replace("<figcaption>", '<figcaption style="font-weight:bold">')


def _image(match: re.Match[str], rules: str) -> str:
    """A drawing as an image; a chart on paper of its own, wherever it may be shown."""
    drawing, kind, width, height = match.group(0, 1, 2, 3)
    light, dark = (f"svg{{{style.variables(x)}}}" for x in (False, True))
    css = (
        'svg{color-scheme:light dark;font-family:system-ui,-apple-system,"Segoe UI",sans-serif}'
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}{rules}"
    )
    label = _LABEL.search(drawing)
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    drawing = drawing.replace("<svg ", f"<svg {size} ", 1)
    start = drawing.index(">") + 1
    rect = f'<rect width="{width}" height="{height}" style="fill:var(--paper)"/>'
    paper = rect if kind == "chart" else ""
    drawing = f"{drawing[:start]}<style>{css}</style>{paper}{drawing[start:]}"
    data = base64.b64encode(drawing.encode()).decode()
    words = label[1] if label else ""
    return f'<img alt="{words}" style="{_SIZE[kind]}" src="data:image/svg+xml;base64,{data}">'


def _filled(match: re.Match[str]) -> str:
    """A part of a bar or of a ribbon."""
    n, colour, fill = match.groups()
    look = f"text-align:center;white-space:nowrap;background-color:{_tint(colour, int(fill or 20))}"
    if not fill:  # a segment of a ribbon
        look += f";padding:2px 7px;border-bottom:4px solid {colour}"
    return f'<span style="flex:{n} 1 0;min-width:2px;overflow:hidden;{look}"'


def _state(match: re.Match[str]) -> str:
    """A cell of the recovery map."""
    kind, p = match.group(1), int(match.group(2) or 0)
    look = f"--p:{p}%;text-align:center"
    if kind == "won":
        look += f";font-weight:bold;background-color:{_tint(_WON, 16 + 0.4 * p)}"
    return f'<td class="c {kind}" style="{look}"'


def _tint(colour: str, percent: float) -> str:
    """The colour, thin enough that text on it is readable on white and on black."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{min(percent, 60) / 100:.2f})"
