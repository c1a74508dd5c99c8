"""HTML documents of one file: the shell of the report, and the page of a comparison.

Import `document` and `Section`, or `write_comparison`. A page is inert: its content security policy
lets only the page's own script run, known by its hash, whatever text sections and data hold, and
nothing is loaded from anywhere. Without a script (an e-mail preview) the findings are all there,
only browsing is not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from eeflib.analysis import figures, style, transcripts
from eeflib.analysis.compare import Comparison
from eeflib.analysis.figure import STYLE as FIGURES
from eeflib.analysis.markup import escape
from eeflib.files import write_atomic

__all__ = ["Section", "document", "missing", "write_comparison"]

_SCRIPTS = ("data", "dom", "transcript", "grid", "beside", "map", "samples", "app")
_TABS = (
    ("#findings", "Findings"),
    ("#!t", "Trajectories"),
    ("#!map", "Recovery map"),
    ("#!s", "Training data"),
)


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


def document(
    title: str,
    about: str,
    summary: str,
    sections: Sequence[Section],
    footer: str,
    data: str = "",
) -> str:
    """The whole page.

    Args:
        title: plain text.
        about: ready HTML, one line under the title.
        summary: ready HTML, the result in two or three sentences.
        footer: ready HTML.
        data: what can be browsed, from `report.browsable`; empty: nothing can.
    """
    links = " ".join(f'<a href="#{s.anchor}">{escape(s.short)}</a>' for s in sections)
    body = "".join(
        f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.body}</section>' for s in sections
    )
    script = _script() if data else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head><body>"
        f'{_tabs(title) if data else ""}<main id="findings">'
        f'<header class="top"><h1>{escape(title)}</h1><p class="about">{about}</p>'
        f'<p class="summary">{summary}</p><nav class="contents" aria-label="Contents">{links}</nav>'
        f"</header>{body}<footer>{footer}</footer></main>"
        f"{_app(data, script) if data else ''}</body></html>\n"
    )


def _tabs(title: str) -> str:
    links = "".join(f'<a href="{href}">{name}</a>' for href, name in _TABS)
    return f'<nav class="tabs" aria-label="Views" hidden><b>{escape(title)}</b>{links}</nav>'


def _app(data: str, script: str) -> str:
    return (
        '<div id="app" class="eef" hidden></div><noscript><p class="note">Browsing trajectories '
        "needs a browser that runs this page's own script.</p></noscript>"
        f'<script type="application/json" id="data">{data}</script><script>{script}</script>'
    )


@cache
def _script() -> str:
    code = "\n".join(style.asset(f"report/{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{code}}})();'


def _policy(script: str) -> str:
    """What the page may do: its own styles, its own script, and nothing with any text as markup."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"script-src 'sha256-{digest}'; " if script else ""
    return (
        f"default-src 'none'; {scripts}style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def _style() -> str:
    return (
        f"{style.themed(':root')}"
        f"{style.asset('report/page.css')}{style.asset('views.css')}{transcripts.STYLE}"
        f"{FIGURES}{style.asset('report/app.css')}"
    )


def comparison_page(comparison: Comparison) -> str:
    """The whole document: what it comes to in words, then measures, tasks, actions, failures."""
    a, b = comparison.names
    drawn = (
        ("measures", "Measures", figures.compared(comparison)),
        ("tasks", "Tasks", figures.gained_lost(comparison)),
        ("actions", "Actions", figures.action_mix(comparison)),
        ("failures", "Failures", figures.error_kinds(comparison)),
    )
    first, *others = comparison.sentences
    listed = "".join(f"<li>{escape(s, 1000)}</li>" for s in others)
    return document(
        "Two runs compared",
        f"{escape(b, 200)} against {escape(a, 200)}",
        escape(first, 1000),
        [
            Section("words", "In words", "In words", f"<ul>{listed}</ul>"),
            *(Section(k, f.title, short, replace(f, title="").body) for k, short, f in drawn),
        ],
        "Made by eeflib. Differences are the second minus the first. This page holds all its data "
        "and loads nothing.",
    )


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write the page; return its path.

    Raises:
        DataError: the file cannot be written.
    """
    write_atomic(Path(path), comparison_page(comparison))
    return Path(path)
