"""A transcript inside a widget: every step can be unfolded, and the state says which are.

Owns the widgets of the steps, which are made once and then filled anew. Knows nothing about where
the transcript comes from.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as ipw

from eeflib.analysis.transcripts import Transcript
from eeflib.analysis.widgets.base import html, named, put, show

__all__ = ["Steps"]


class Steps(ipw.VBox):
    """Head, steps and end of a transcript."""

    def __init__(self, toggle: Callable[[int], None]) -> None:
        """Args:
        toggle: called with the number of the step that is pressed.
        """
        self._toggle = toggle
        self._head, self._end = html(""), html("")
        self._rows = ipw.VBox([])
        self._first = 0
        super().__init__([self._head, self._rows, self._end])
        self.add_class("eef-steps")

    def fill(self, transcript: Transcript | None) -> None:
        """Show a transcript made for a widget (`Shown.live`); None: nothing."""
        for part in (self._rows, self._end):
            show(part, transcript is not None)
        if transcript is None:
            put(self._head, "")
            return
        window = transcript.window
        self._first = window.start
        missing = len(window) - len(self._rows.children)
        if missing > 0:
            n = len(self._rows.children)
            self._rows.children = (
                *self._rows.children,
                *(self._row(n + i) for i in range(missing)),
            )
        before = f'<div class="gone">\u2026 {window.start:,} steps before</div>'
        put(self._head, _scoped(transcript.head() + (before if window.start else "")))
        for i, row in enumerate(self._rows.children):
            show(row, i < len(window))
            if i < len(window):
                t = window.start + i
                above, step = row.children
                said = transcript.before(t)
                put(above, _scoped(said) if said else "")
                text, hit = step.children
                put(text, _scoped(transcript.step(t)))
                hit.description = f"step {t + 1}"
        rest = transcript.trajectory.length - window.stop
        after = f'<div class="gone">\u2026 {rest:,} steps after</div>' if rest > 0 else ""
        put(self._end, _scoped(after + transcript.end()))

    def _row(self, number: int) -> ipw.VBox:
        hit = named(ipw.Button(), "eef-hit")
        hit.on_click(lambda _: self._toggle(self._first + number))
        return ipw.VBox([html(""), named(ipw.Box([html(""), hit]), "eef-step")])


def _scoped(body: str) -> str:
    return f'<div class="eef-t">{body}</div>'
