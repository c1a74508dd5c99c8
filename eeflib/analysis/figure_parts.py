"""Small pieces that several figures are made of: links, shares in words, stacked bars.

Owns these pieces. Knows nothing about what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from eeflib.analysis.markup import escape

__all__ = ["Anchor", "link", "percent", "records", "stack", "tally"]

Anchor = Callable[[Mapping[str, Any]], str | None]
"""A row of a table -> where a click on it leads, `#...` on the same page; None: nowhere."""


def link(text: str, anchor: Anchor | None, row: Mapping[str, Any]) -> str:
    """Ready HTML `text`, linked where `anchor` names a place on the page."""
    target = anchor(row) if anchor else None
    return f'<a href="{escape(target)}">{text}</a>' if target and target[0] == "#" else text


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
