"""Untrusted text in a page or a figure: inert, readable, of bounded length.

Import `template` for HTML, whose texts are escaped and `clean` by themselves, and `plain` for what
enters a figure.
"""

from __future__ import annotations

import html
import re
import textwrap
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from eeflib.analysis import style

LIMIT = 6000
"""Characters of one text shown at most: a page stays readable whatever a simulator prints."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# Controls (less tab and newline), bidirectional overrides, lone surrogates: each could hide or
# reorder what a reader sees, or make the file unwritable.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def clean(text: object, limit: int = LIMIT) -> str:
    """Plain text with terminal colours removed, hidden characters named, and a length limit.

    Where text is cut, `\u2026` says so; with limits from 200 on also how much is missing.
    """
    raw = str(text)
    shown = _ANSI.sub("", raw[: 2 * limit]).replace("\r\n", "\n").replace("\r", "\n")
    shown = _HIDDEN.sub(lambda m: f"\u27e8U+{ord(m.group()):04X}\u27e9", shown)
    if len(raw) > 2 * limit or len(shown) > limit:
        many = limit >= 200 and len(raw) > limit
        rest = f" [{len(raw) - limit:,} more characters]" if many else ""
        shown = f"{shown[:limit]} \u2026{rest}"
    return shown


def escape(text: object, limit: int = LIMIT) -> str:
    """`clean` text, safe as HTML content and inside a quoted attribute."""
    return html.escape(clean(text, limit), quote=True)


def plain(text: object, limit: int = 400, width: int = 0) -> str:
    """`clean` text for a plotly figure, which shows it as written.

    Plotly reads some tags (`<b>`, `<a href>`), a few entities, `%{...}` and, where MathJax is
    loaded, `$...$`.

    Args:
        width: characters of a line; longer text is wrapped. 0: one line.
    """
    shown = clean(text, limit)
    lines = textwrap.wrap(shown, width) if width else [" ".join(shown.split())]
    out = "<br>".join(html.escape(line, quote=False) for line in lines)
    return out.replace("%{", "&#37;{").replace("$", "&#36;")


def inert(json: str) -> Markup:
    """JSON text that no HTML parser takes for markup, for a script tag of type application/json."""
    return Markup(json.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}))


def _finalize(value: Any) -> Any:
    """All that a template shows: readable and, by jinja2, escaped; markup of ours as it is."""
    return value if isinstance(value, (Markup, int)) else clean(value, 20_000)


@cache
def template(name: str) -> jinja2.Template:
    """The template `name` in `assets/`; `text|cut(300)` shortens as `clean` does."""
    env = jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["cut"] = clean
    return env.from_string(style.asset(name))
