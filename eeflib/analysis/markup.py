"""Untrusted text as HTML: escaped, inert, visible.

Import `escape`: all text of an environment, a model or a file enters a page through it, and enters
a figure through `plain`. `table` and `code` build small pieces of HTML.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Sequence

__all__ = ["LIMIT", "cell", "clean", "code", "escape", "plain", "table"]

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
        rest = (
            f" [{len(raw) - limit:,} more characters]" if limit >= 200 and len(raw) > limit else ""
        )
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


def code(text: object, limit: int = 400) -> str:
    """Escaped text as `<code>`, isolated so that right-to-left text keeps to itself."""
    return f'<code dir="auto">{escape(text, limit)}</code>'


def cell(content: str, *, number: bool = False, head: bool = False) -> str:
    """A table cell around ready HTML."""
    tag = "th" if head else "td"
    scope = ' scope="col"' if head else ""
    return f"<{tag}{scope}{' class=num' if number else ''}>{content}</{tag}>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    caption: str = "",
    kind: str = "",
) -> str:
    """A table of ready HTML cells; `numbers` are the columns set to the right."""
    top = "".join(cell(h, number=i in numbers, head=True) for i, h in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell(c, number=i in numbers) for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    name = f' class="{kind}"' if kind else ""
    title = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table{name}>{title}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
