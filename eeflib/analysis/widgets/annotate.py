"""The annotator: labels, notes and corrected segments of one trajectory.

Owns the form. What is said goes to `eeflib.analysis.annotations`, which keeps it; nothing is kept
here. Knows nothing about how a trajectory is shown.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as ipw

from eeflib.analysis.annotations import SEGMENT_LABELS, Annotation, Annotations, Key
from eeflib.analysis.collection import Item
from eeflib.analysis.markup import escape
from eeflib.analysis.views import notes as view
from eeflib.analysis.widgets.base import View, html, named, put, show
from eeflib.errors import EefError

__all__ = ["Annotator"]


class Annotator(View):
    """What people say about a trajectory, with a form to say more."""

    def __init__(
        self,
        annotations: Annotations,
        item: Item | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        annotations: of the run, see `Annotations(RUN)`.
        item: the trajectory; see `about`.
        then: called after something was said or taken back.
        """
        self._annotations = annotations
        self._item = item
        self._then = then or (lambda: None)
        self._message = html("")
        # Not at every letter: the last ones could still be on their way when Save is pressed.
        self._label = ipw.Combobox(
            placeholder="label, e.g. misread the goal", ensure_option=False, continuous_update=False
        )
        self._note = ipw.Textarea(placeholder="note", continuous_update=False)
        self._author = ipw.Text(annotations.author, description="author", continuous_update=False)
        self._whole = ipw.Dropdown(
            options=[("the whole trajectory", True), ("steps", False)], description="about"
        )
        self._from = ipw.BoundedIntText(1, min=1, max=1, description="from")
        self._to = ipw.BoundedIntText(1, min=1, max=1, description="to")
        self._segment = ipw.Dropdown(
            options=[
                ("leave the segment labels", ""),
                *((f"these steps are {x}", x) for x in SEGMENT_LABELS),
            ]
        )
        self._save = named(
            ipw.Button(description="Save", tooltip="save label, note and segment"), "eef-small"
        )
        self._list = ipw.VBox([])
        self._shown: list[Annotation] = []
        for control in (self._from, self._to):
            control.layout.width = "7em"
        about = ipw.HBox([self._author, self._whole, self._from, self._to, self._segment])
        said = ipw.HBox([named(self._label, "eef-wide"), self._save])
        super().__init__(
            [
                self._list,
                named(said, "eef-bar"),
                named(self._note, "eef-note"),
                named(about, "eef-bar"),
                self._message,
            ]
        )
        self._save.on_click(lambda _: self.save())
        self._watch(self._whole, self._show)
        self._watch(self._author, self._sign)
        self._show()

    def about(self, item: Item | None) -> None:
        """Turn to another trajectory; what is typed and not saved is for the new one then."""
        if item is not self._item:
            put(self._message, "")
            with self._quietly():
                self._whole.value = True
        self._item = item
        self._show()

    def at(self, t: int) -> None:
        """Aim at one step."""
        with self._quietly():
            self._whole.value = False
            self._show()
            self._from.value = self._to.value = t + 1

    def save(self) -> None:
        """Keep what the form says; on trouble the form stays as it is, and says why."""
        if self._item is None:
            return
        key, span = self._item.key, self._span
        try:
            said = self._say(key, span)
        except EefError as exc:
            put(self._message, f'<p class="alarm">Not saved: {escape(exc, 600)}</p>')
            return
        with self._quietly():
            if said:
                self._label.value, self._note.value, self._segment.value = "", "", ""
        text = f"Saved {', '.join(said)}." if said else "Write a label or a note first."
        put(self._message, f'<p class="caption">{text}</p>')
        self._show()
        self._then()

    def twin(self) -> str:
        return view.render(self._annotations, self._item)

    def _say(self, key: Key, span: tuple[int, int] | None) -> list[str]:
        """Everything the form holds; what was kept before a failure is not asked for again."""
        kept = []
        if self._label.value.strip():
            self._annotations.add_label(key, self._label.value, span)
            kept.append("the label")
            self._label.value = ""
        if self._note.value.strip():
            self._annotations.add_note(key, self._note.value, span)
            kept.append("the note")
            self._note.value = ""
        if self._segment.value and span is not None:
            self._annotations.correct(key, self._segment.value, span)
            kept.append("the segment")
        return kept

    @property
    def _span(self) -> tuple[int, int] | None:
        if self._whole.value:
            return None
        first, last = sorted((self._from.value, self._to.value))
        return first - 1, last

    def _sign(self) -> None:
        self._annotations.author = self._author.value.strip() or self._annotations.author

    def _take_back(self, number: int) -> None:
        if number < len(self._shown):
            try:
                self._annotations.retract(self._shown[number])
            except EefError as exc:
                put(self._message, f'<p class="alarm">Not taken back: {escape(exc, 600)}</p>')
                return
        self._show()
        self._then()

    def _show(self) -> None:
        length = self._item.trajectory.length if self._item else 0
        steps = not self._whole.value
        with self._quietly():
            for control in (self._from, self._to):
                control.max = max(1, length)
                show(control, steps)
            show(self._segment, steps)
            self._label.options = self._annotations.labels()
        self._shown = self._annotations.of(self._item.key) if self._item else []
        missing = len(self._shown) - len(self._list.children)
        if missing > 0:
            n = len(self._list.children)
            self._list.children = (
                *self._list.children,
                *(self._line(n + i) for i in range(missing)),
            )
        for i, line in enumerate(self._list.children):
            show(line, i < len(self._shown))
            if i < len(self._shown):
                put(line.children[0], view.line(self._shown[i]))
        self._save.disabled = self._item is None

    def _line(self, number: int) -> ipw.HBox:
        back = ipw.Button(description="\u00d7", tooltip="take back")
        back.on_click(lambda _: self._take_back(number))
        return named(ipw.HBox([html(""), named(back, "eef-small")]), "eef-said")
