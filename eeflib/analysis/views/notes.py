"""Annotations as HTML: a line each, and the list of a run.

Owns their look. Knows nothing about how they are kept or made.
"""

from __future__ import annotations

from eeflib.analysis.annotations import Annotation, Annotations
from eeflib.analysis.collection import Item
from eeflib.analysis.markup import escape, table
from eeflib.analysis.views.frame import sheet

__all__ = ["line", "render", "where"]


def where(a: Annotation) -> str:
    """What it is about, plain text."""
    if a.start is None:
        return "the whole trajectory"
    stop = a.stop or a.start + 1
    return f"step {stop}" if stop == a.start + 1 else f"steps {a.start + 1} to {stop}"


def line(a: Annotation) -> str:
    """One annotation, ready HTML."""
    text = escape(a.text, 2000)
    said = {
        "label": f"<strong>{text}</strong>",
        "segment": f"segment: <strong>{text}</strong>",
    }.get(a.kind, f'<span dir="auto" style="white-space:pre-wrap">{text}</span>')
    return (
        f'<div class="said-line">\u270e {said} <span class="note">{where(a)} &middot; '
        f"{escape(a.author, 60)}, {escape(a.day, 20)} UTC</span></div>"
    )


def render(annotations: Annotations, item: Item | None = None) -> str:
    """The static twin: what was said about a trajectory, or about all of them."""
    said = annotations.of(item.key) if item else annotations.all()
    if not said:
        return sheet('<p class="caption">Nobody has said anything yet.</p>')
    if item is not None:
        return sheet("".join(map(line, said)))
    rows = [
        [
            f"<code>{escape(a.trajectory_id, 80)}</code>",
            str(a.seed),
            a.kind,
            escape(a.text, 400),
            where(a),
            escape(a.author, 60),
            escape(a.day, 20),
        ]
        for a in said
    ]
    head = ("trajectory", "seed", "kind", "text", "about", "author", "UTC")
    return sheet(table(head, rows, numbers=(1,)))
