"""What all widgets share: a view with a static twin, rows of buttons, pages, and steps.

Import `View` to derive a widget from, `Hits`, `Pager` and `Steps` as parts of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import ipywidgets as ipw

from eeflib.analysis import style, transcripts
from eeflib.analysis.transcripts import Transcript

__all__ = ["Hits", "Pager", "Steps", "View", "html", "show"]


class View(ipw.VBox):
    """A widget with a static twin, which is what a notebook keeps of it when it is saved."""

    def __init__(self, children: Sequence[ipw.Widget]) -> None:
        sheet = ipw.HTML(f"<style>{_css()}</style>")
        sheet.add_class("eef-sheet")
        self._silent = 0
        super().__init__([sheet, *children])
        self.add_class("eef-view")

    def twin(self) -> str:
        """The view as it is now, as HTML that needs neither kernel nor script."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if isinstance(bundle, dict):
            bundle["text/html"] = self.twin()
        return bundle

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """While controls are set from the state, they do not set the state."""
        self._silent += 1
        try:
            yield
        finally:
            self._silent -= 1

    def _watch(self, control: ipw.Widget, then: Callable[[], None], name: str = "value") -> None:
        def changed(_: Any) -> None:
            if not self._silent:
                then()

        control.observe(changed, name)


class StateView(View):
    """A view of a plain, frozen state, which every control replaces by another one."""

    _state: Any

    @property
    def state(self) -> Any:
        """What is looked at; set it to look at something else."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._state = state
        self.show()

    def show(self) -> None:
        """Show the state as it is now."""
        raise NotImplementedError

    def _set(self, **changes: Any) -> None:
        self.state = replace(self._state, **changes)


class Hits(ipw.VBox):
    """Buttons without a look of their own, one over each row of a table."""

    children: tuple[ipw.Widget, ...]

    def __init__(self, press: Callable[[int], None], kind: str = "eef-hits") -> None:
        super().__init__([])
        self._press = press
        self.add_class(kind)

    def label(self, names: Sequence[str], hints: Sequence[str] = ()) -> None:
        """One button per name; the names are for the keyboard and for readers of the screen.

        Args:
            hints: tooltips, plain text.
        """
        buttons: list[ipw.Widget] = list(self.children)
        if len(buttons) < len(names):
            buttons += [self._button(i) for i in range(len(buttons), len(names))]
            self.children = tuple(buttons)
        for i, button in enumerate(buttons):
            if i < len(names):
                button.description = names[i]
                button.tooltip = hints[i] if hints else ""
            show(button, i < len(names))

    def _button(self, number: int) -> ipw.Button:
        button = ipw.Button()
        button.add_class("eef-hit")
        button.on_click(lambda _: self._press(number))
        return button


class Pager(ipw.HBox):
    """Back and forth between pages."""

    def __init__(self, turn: Callable[[int], None], what: str = "page") -> None:
        self._back = ipw.Button(description="\u2039", tooltip=f"previous {what}")
        self._on = ipw.Button(description="\u203a", tooltip=f"next {what}")
        self._text = html("")
        for button, by in ((self._back, -1), (self._on, 1)):
            button.add_class("eef-small")
            button.on_click(lambda _, by=by: turn(by))
        super().__init__([self._back, self._text, self._on])
        self.add_class("eef-pager")

    def tell(self, first: int, stop: int, of: int) -> None:
        """Rows first..stop-1 of `of` are shown."""
        self._text.value = f'<div class="eef">{first + 1:,}\u2013{stop:,} of {of:,}</div>'
        self._back.disabled = first == 0
        self._on.disabled = stop >= of
        show(self, of > stop - first)


def html(body: str) -> ipw.HTML:
    """Ready HTML in the scope of our style sheet."""
    return ipw.HTML(f'<div class="eef">{body}</div>' if body else "")


def put(widget: ipw.HTML, body: str) -> None:
    """Other HTML in a widget of `html`."""
    widget.value = f'<div class="eef">{body}</div>' if body else ""


def show(widget: ipw.DOMWidget, on: bool) -> None:
    """Show or hide, without losing its place."""
    gone = "eef-gone" in widget._dom_classes
    if on and gone:
        widget.remove_class("eef-gone")
    elif not on and not gone:
        widget.add_class("eef-gone")


def named(widget: ipw.DOMWidget, *classes: str) -> ipw.DOMWidget:
    """The widget, with CSS classes."""
    for name in classes:
        widget.add_class(name)
    return widget


@cache
def _css() -> str:
    return transcripts.css() + style.themed(".eef-view") + style.asset("widgets.css")


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
                marks = transcript.before(t)
                put(above, _scoped(marks) if marks else "")
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
