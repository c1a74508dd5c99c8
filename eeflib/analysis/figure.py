"""A figure: self-contained HTML with the table behind it, for a notebook, a page or a file.

Import `Figure`, its style sheet `STYLE` (light and dark, no script, nothing loaded), and the small
pieces that several figures are made of. JupyterLab cleans the outputs of a notebook that it does
not trust yet, and so do sites that show notebooks: both drop `<style>` and `<svg>`. So a notebook
gets a form of the figure in which charts are images and colours are inline styles.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from eeflib.analysis.markup import escape
from eeflib.analysis.style import Look, themed, variables

__all__ = ["STYLE", "Figure", "colour", "nothing", "percent", "records", "stack", "tally"]

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
    light, dark = (f"svg{{{variables(x)}}}" for x in (False, True))
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


# The marks of a drawing; without a scope, since a drawing may stand alone.
_MARKS = """
.chart text{fill:var(--soft);font-size:13px;font-family:inherit}
.chart .end,.chart .name{fill:var(--ink);font-size:13.5px}
.grid{stroke:var(--grid);stroke-width:1}
.zero{stroke:var(--soft);stroke-width:1.3}
.mark{stroke:var(--bad);stroke-width:1.6;stroke-dasharray:4 3}
.chart .marked{fill:var(--bad);font-weight:600}
.band{fill:var(--c);opacity:.13}
.line{fill:none;stroke:var(--c);stroke-width:2.4;stroke-linejoin:round;
 stroke-linecap:round}
.across{stroke:var(--c);stroke-width:1.2;opacity:.55}
.whisker{stroke:var(--c);stroke-width:2.6;stroke-linecap:round;opacity:.6}
.dot{fill:var(--c);stroke:var(--paper);stroke-width:1.2}
.stroke{stroke:var(--c);stroke-width:2.4;stroke-linecap:round}
.seed{fill:var(--c);opacity:.45}
.tick{stroke:var(--c);stroke-width:3}
.bar-part{fill:var(--c)}
.hatch{stroke:var(--paper);stroke-width:2.4;opacity:.75}
.strip .whisker{stroke-width:5;opacity:.4}
"""

_RULES = """
.eef-fig{background:var(--paper);color:var(--ink);margin:0;padding:.2em 0;
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.eef-fig *{box-sizing:border-box}
.eef-fig figcaption{font-weight:650;font-size:1.05em;margin:.2em 0 .5em}
.eef-fig .note,.eef-fig .none{color:var(--soft);font-size:.9em;max-width:72ch;margin:.5em 0}
.eef-fig .none{border-left:3px solid var(--rule);padding:.2em 0 .2em 1em}
.eef-fig .scroll{overflow-x:auto;margin:.4em 0}
.eef-fig .chart{width:100%;min-width:600px;max-width:960px;height:auto;display:block;
 overflow:visible}
.eef-fig .strip{width:130px;height:16px;display:block}
.eef-fig table{border-collapse:collapse;table-layout:auto;margin:0;
 width:100%;font-size:.93em;line-height:1.4;color:inherit;
 font-variant-numeric:tabular-nums}
.eef-fig th,.eef-fig td{text-align:left;padding:.38em .8em .38em 0;vertical-align:middle;
 border-bottom:1px solid var(--rule);background:none}
.eef-fig th{font-weight:600;font-size:.9em;color:var(--soft);vertical-align:bottom}
.eef-fig.eef-fig tbody tr{background:none}
.eef-fig .num{text-align:right;white-space:nowrap}.eef-fig th.num{white-space:normal}
.eef-fig .num+:not(.num){padding-left:1.1em}
.eef-fig .kinds td:first-child{white-space:nowrap}
.eef-fig tr.hero td{font-weight:650}
.eef-fig code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:none;
 color:inherit;overflow-wrap:anywhere;unicode-bidi:isolate;padding:0}
.eef-fig a{color:inherit;text-underline-offset:3px}
.eef-fig .swatch{color:var(--c);display:inline-block;width:1.3em}
.eef-fig .map td,.eef-fig .map th{padding:.2em .35em}
.eef-fig .map td:first-child{min-width:16em}
.eef-fig .map td.c,.eef-fig .map th.c{text-align:center;width:4.4em;min-width:3.2em}
.eef-fig .map td.c{border:2px solid var(--paper);border-radius:5px}
.eef-fig .map td.won{font-weight:650;
 background:color-mix(in srgb,var(--won) calc(16% + .4*var(--p)),var(--paper))}
.eef-fig .map td.lost{background:var(--wash);color:var(--soft)}
.eef-fig .map td.no{color:var(--soft)}
.eef-fig .stack{display:flex;height:1.6em;gap:2px;min-width:220px;font-size:.85em;
 line-height:1.6em}
.eef-fig .stack span{overflow:hidden;white-space:nowrap;text-align:center;border-radius:3px;
 min-width:2px;background:color-mix(in srgb,var(--c) var(--fill,30%),var(--paper))}
.eef-fig.eef-fig td.share{min-width:4.2em;text-align:left;white-space:nowrap;padding-bottom:.75em;
 background:linear-gradient(var(--won),var(--won)) 0 calc(100% - .3em)/calc(.9*var(--w)) 4px
 no-repeat}
.eef-fig .ribbon{display:flex;gap:2px;margin:.4em 0 0;min-width:560px}
.eef-fig .ribbon>*{background:color-mix(in srgb,var(--c) 20%,transparent);color:var(--ink);
 border-bottom:4px solid var(--c);padding:.15em .45em;overflow:hidden;white-space:nowrap;
 text-overflow:ellipsis;min-width:30px;text-align:center;text-decoration:none;font-size:.9em}
.eef-fig .ticks{position:relative;height:3.4em;min-width:560px;margin:0 0 .3em;font-size:.82em;
 color:var(--soft)}
.eef-fig .ticks span{position:absolute;border-left:1.5px solid var(--soft);padding:0 0 0 .35em;
 white-space:nowrap}
.eef-fig .ticks span.late{border-left:0;border-right:1.5px solid var(--soft);
 padding:0 .35em 0 0;transform:translateX(-100%)}
.eef-fig .ticks .bad{color:var(--bad);border-color:var(--bad);top:1.6em;font-weight:600}
@media print{.eef-fig{break-inside:avoid}}
"""

STYLE = (
    themed(".eef-fig")
    + _RULES
    + re.sub(r"^(?=\.)|(?<=,)(?=\.)", ".eef-fig ", _MARKS, flags=re.MULTILINE)
    + APART
)
"""CSS of every figure, scoped to its class: a page that shows several needs it once."""


@dataclass(frozen=True)
class Figure:
    """What a figure function returns."""

    title: str
    """Plain text."""
    content: str
    """Ready HTML: charts and tables."""
    note: str = ""
    """Plain text under it: how to read it, what is left out."""
    table: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """The numbers that are drawn."""

    @property
    def body(self) -> str:
        """HTML without the style sheet, for a page that has `STYLE`."""
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        title = f"<figcaption>{escape(self.title)}</figcaption>" if self.title else ""
        return f'<figure class="eef-fig">{title}{self.content}{note}</figure>'

    @property
    def html(self) -> str:
        """A self-contained fragment."""
        return f"<style>{STYLE}</style>{self.body}"

    def page(self) -> str:
        """A whole HTML document that opens by itself."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'; img-src data:\">"
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title>"
            f"<style>{themed(':root')}body{{background:var(--paper);max-width:920px;"
            "margin:24px auto;padding:0 20px}</style></head>"
            f"<body>{self.html}</body></html>\n"
        )

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{saved(self.body, _MARKS)}"

    def __str__(self) -> str:
        rows = "no rows"
        if len(self.table):
            rows = self.table.to_string(index=False, max_rows=40, max_colwidth=40)
        return f"{self.title}\n{rows}" + (f"\n{self.note}" if self.note else "")

    __repr__ = __str__


def nothing(title: str, why: str) -> Figure:
    """A figure that says what is missing; `why` is plain text."""
    return Figure(title, f'<p class="none">{escape(why)}</p>')


def colour(look: Look) -> str:
    """A look's colour in CSS, for light and for dark."""
    return f"light-dark({look.light},{look.dark})"


def percent(share: float) -> str:
    """`64 %`; a dash for nan."""
    return "\u2013" if share != share else f"{share * 100:.0f}\u202f%"


def stack(parts: Sequence[tuple[int, str, str, int, str]]) -> str:
    """A bar of counts: (count, what it is, colour, strength of the fill in per cent, glyph)."""
    total = sum(n for n, *_ in parts) or 1
    return (
        '<div class="stack">'
        + "".join(
            f'<span style="flex:{n} 1 0;--c:{ink};--fill:{fill}%" title="{escape(what)}: {n} of '
            f'{total}">{f"{glyph} {n}".strip() if n / total > 0.07 else ""}</span>'
            for n, what, ink, fill, glyph in parts
            if n
        )
        + "</div>"
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts, numbers as Python's."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def tally(frame: pd.DataFrame, group: str, kind: str) -> dict[str, dict[str, int]]:
    """How often each `kind` occurs in each `group`; kinds that do not are left out."""
    out: dict[str, dict[str, int]] = {}
    for a, b in zip(frame[group], frame[kind], strict=True):
        inner = out.setdefault(a, {})
        inner[b] = inner.get(b, 0) + 1
    return out
