"""A figure: self-contained HTML with the table behind it, for a notebook, a page or a file.

Owns `Figure` and the style sheet of all figures: light and dark, no script, nothing loaded. Knows
nothing about what is drawn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pandas as pd

from eeflib.analysis.figure_saved import APART, saved
from eeflib.analysis.markup import escape
from eeflib.analysis.palette import Look
from eeflib.analysis.style import themed

__all__ = ["STYLE", "Figure", "colour", "nothing"]

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
