"""The shell of the report: style sheet, sections, one self-contained HTML document.

Owns how the page looks. Knows nothing about what is in it. The document runs no script and loads
nothing: a content security policy forbids both, whatever text the sections hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eeflib.analysis import transcripts
from eeflib.analysis.markup import escape
from eeflib.analysis.palette import GROUPS, LABELS, Look

__all__ = ["Ink", "Section", "document", "inks", "missing"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#5d656f;--rule:#dfe3e8;
 --wash:#f5f7f9;--accent:#c44600;--won:#00609c;--grid:#e4e8ec}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);
 font:17px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 -webkit-text-size-adjust:100%}
main,header.top,footer{max-width:920px;margin:0 auto;padding:0 24px}
header.top{padding-top:64px}
h1{font-size:2.4rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .3em;font-weight:700}
h2{font-size:1.45rem;line-height:1.25;letter-spacing:-.01em;margin:3.2em 0 .5em;font-weight:650}
h3{font-size:1.05rem;margin:2em 0 .4em;font-weight:650}
p,ul{max-width:68ch;margin:.6em 0}
li{margin:.25em 0}
.about{color:var(--soft);margin:0 0 1.6em}
.lede{font-size:1.22rem;line-height:1.5;max-width:60ch}
nav{margin:2em 0 0;font-size:.9rem;line-height:2;border-top:1px solid var(--rule);
 border-bottom:1px solid var(--rule);padding:.5em 0}
nav a{margin-right:1.3em;white-space:nowrap}
a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:3px}
a:hover{text-decoration-color:currentColor}
small,.note,caption,.missing{color:var(--soft)}
.note{font-size:.88rem;line-height:1.5}
.missing{border-left:3px solid var(--rule);padding:.2em 0 .2em 1em}
strong{font-weight:650}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;
 unicode-bidi:isolate}
.scroll{overflow-x:auto;margin:1.2em 0}
table{border-collapse:collapse;width:100%;font-size:.92rem;line-height:1.4;
 font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;font-size:.85rem;padding:.7em 0 0;
 max-width:min(72ch,86vw)}
th{font-weight:600;font-size:.82rem;color:var(--soft);text-align:left;vertical-align:bottom;
 border-bottom:1px solid var(--soft);padding:.4em .8em .4em 0}
td{border-bottom:1px solid var(--rule);padding:.48em .8em .48em 0;vertical-align:middle}
.num{text-align:right;white-space:nowrap}th.num{white-space:normal}
tr.hero td{font-weight:650}
.swatch{color:var(--c);display:inline-block;width:1.3em}
.strip{width:160px;height:16px;display:block}
.strip .whisker{stroke-width:5;opacity:.4}.strip .tick{stroke:var(--c);stroke-width:3}
.chart{width:100%;min-width:640px;height:auto;display:block;margin:1.2em 0 .4em;overflow:visible}
.chart text{fill:var(--soft);font-size:13px}
.chart .end,.chart .name{fill:var(--ink);font-size:13.5px}
.grid{stroke:var(--grid);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1.3}
.band{fill:var(--c);opacity:.11}
.line{fill:none;stroke:var(--c);stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}
.across{stroke:var(--c);stroke-width:1.2;opacity:.55}
.thin{stroke:var(--c);stroke-width:1.2;opacity:.5}
.whisker{stroke:var(--c);stroke-width:2.6;stroke-linecap:round;opacity:.6}
.dot{fill:var(--c);stroke:var(--paper);stroke-width:1.2}
.stroke{stroke:var(--c);stroke-width:2.4;stroke-linecap:round}
.seed{fill:var(--c);opacity:.45}
.map td,.map th{padding:.2em .35em;font-size:.85rem}
.map code{white-space:nowrap}.methods td:first-child{white-space:nowrap}
.map td.c{text-align:center;width:4.2em;border:2px solid var(--paper);border-radius:5px}
.map td.c.won{background:color-mix(in srgb,var(--won) 24%,var(--paper));font-weight:650}
.map td.c.lost{background:var(--wash);color:var(--soft)}
.map td.c.no{color:var(--soft)}
.bar{display:flex;height:1.5em;gap:2px;min-width:240px;font-size:.78rem;line-height:1.5em}
.bar span{overflow:hidden;white-space:nowrap;text-align:center;border-radius:3px;
 background:color-mix(in srgb,var(--c) var(--fill,30%),var(--paper))}
td.share{min-width:4.4em;white-space:nowrap;padding-bottom:.7em;background:linear-gradient(var(--won),var(--won))
 0 calc(100% - .35em)/calc(.9*var(--w)) 4px no-repeat}
details.more{margin:1em 0}details.more>summary{cursor:pointer;color:var(--soft)}
pre{background:var(--wash);padding:1em 1.1em;border-radius:6px;overflow-x:auto;
 font:13.5px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.card{border:1px solid var(--rule);border-radius:10px;padding:1.2em 1.3em;margin:1.2em 0}
footer{color:var(--soft);font-size:.85rem;padding-top:3.5em;padding-bottom:4em}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e6e9ed;--soft:#9aa4b0;
 --rule:#2e353d;--wash:#1d2228;--accent:#ff8a3d;--won:#4b9fe0;--grid:#262c33}}
@media (max-width:40em){body{font-size:16px}h1{font-size:1.9rem}header.top{padding-top:36px}}
@media print{nav{display:none}h2{break-after:avoid}table,.chart,.card{break-inside:avoid}}
"""


class Ink(NamedTuple):
    """How a series is drawn on the page."""

    css: str
    """Its colour, following light and dark mode."""
    look: Look


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    anchor: str
    title: str
    short: str
    """Name in the list of contents."""
    body: str
    """Ready HTML."""


def missing(text: str) -> str:
    """A paragraph that says what is absent and how to get it; `text` is ready HTML."""
    return f'<p class="missing">{text}</p>'


def inks(looks: Mapping[str, Look]) -> dict[str, Ink]:
    """Name from a file -> its look with a CSS colour that the page defines for it."""
    return {name: Ink(f"var(--s-{i})", look) for i, (name, look) in enumerate(looks.items())}


def document(
    title: str,
    about: str,
    lede: str,
    sections: Sequence[Section],
    looks: Mapping[str, Look],
    footer: str,
) -> str:
    """The whole page; `looks` in the order given to `inks`.

    Args:
        title: plain text.
        about: ready HTML, one line under the title.
        lede: ready HTML, the result in two or three sentences.
        footer: ready HTML.
    """
    values = list(looks.values())
    light = "".join(f"--s-{i}:{x.light};" for i, x in enumerate(values))
    dark = "".join(f"--s-{i}:{x.dark};" for i, x in enumerate(values))
    light += "".join(f"--l-{name}:{x.light};" for name, x in LABELS.items())
    dark += "".join(f"--l-{name}:{x.dark};" for name, x in LABELS.items())
    light += "".join(f"--g-{i}:{x.light};" for i, x in enumerate(GROUPS))
    dark += "".join(f"--g-{i}:{x.dark};" for i, x in enumerate(GROUPS))
    style = (
        f"{_STYLE}:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"{transcripts.STYLE}"
    )
    links = " ".join(f'<a href="#{s.anchor}">{escape(s.short)}</a>' for s in sections)
    body = "".join(
        f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.body}</section>' for s in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header class="top"><h1>{escape(title)}</h1><p class="about">{about}</p>'
        f'<p class="lede">{lede}</p><nav aria-label="Contents">{links}</nav></header>'
        f"<main>{body}</main><footer>{footer}</footer></body></html>\n"
    )
