"""The explorer as a widget: filters, the grid, the trajectory that is picked, and its annotator.

Import `Explorer`, or `Annotator` for the form alone. What people write goes to
`eeflib.analysis.annotations`, which keeps it; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import ipywidgets as ipw

from eeflib.analysis.annotations import SEGMENT_LABELS, Annotation, Annotations, Key
from eeflib.analysis.collection import OUTCOMES, Collection, Item
from eeflib.analysis.markup import clean, escape
from eeflib.analysis.run import Run
from eeflib.analysis.textsearch import FIELDS, Query
from eeflib.analysis.transcripts import title_of
from eeflib.analysis.views import explorer
from eeflib.analysis.views.explorer import (
    COLUMNS,
    ExplorerState,
    GridState,
    Matches,
    Sought,
    columns,
    grid_html,
    matching,
)
from eeflib.analysis.widgets.base import Hits, Pager, StateView, Steps, View, html, named, put, show
from eeflib.errors import EefError

__all__ = ["Annotator", "Explorer"]


class Filters(ipw.VBox):
    """Reads and writes a `GridState`."""

    def __init__(self, collection: Collection, then: Callable[[], None]) -> None:
        """Args:
        collection: what there is to choose from.
        then: called after a person changed something.
        """
        self._then = then
        self._silent = False
        self._text = ipw.Text(placeholder="search, then Enter", continuous_update=False)
        self._regex = _tick("regex", "a regular expression instead of plain text")
        self._fields = {name: _toggle(name) for name in FIELDS}
        self._outcome = _choice("outcome", [("any outcome", ""), *((x, x) for x in OUTCOMES)])
        kinds = [(f"{title_of(k)} ({n})", k) for k, n in collection.failures.items()]
        self._failure = _choice("failure", [("any failure", ""), *kinds])
        self._level = _choice("level", [("any level", ""), *((x, x) for x in collection.levels)])
        self._marked = _tick("annotated", "only annotated trajectories")
        items = collection.items
        longest = max((x.trajectory.length for x in items), default=1)
        costs = [c for x in items if (c := x.usage.cost_usd) is not None]
        self._reward = _range(ipw.FloatRangeSlider, "reward", (0.0, 1.0), 0.01, ".2f")
        self._length = _range(ipw.IntRangeSlider, "steps", (0, max(1, longest)), 1, "d")
        most = max(costs, default=0.0) or 1.0
        self._cost = _range(ipw.FloatRangeSlider, "$", (0.0, most), most / 100, ".3f")
        show(self._cost, bool(costs) and max(costs) > 0)
        show(self._failure, bool(kinds))
        show(self._level, bool(collection.levels))
        reset = named(ipw.Button(description="reset", tooltip="no filter, no search"), "eef-small")
        reset.on_click(lambda _: self._reset())
        words = [named(self._text, "eef-wide"), self._regex, *self._fields.values()]
        picks = [self._outcome, self._failure, self._level, self._marked]
        ranges = [self._reward, self._length, self._cost, reset]
        super().__init__([named(ipw.HBox(x), "eef-bar") for x in (words, picks, ranges)])
        ticks = [self._regex, *self._fields.values(), *picks, *ranges[:-1], self._text]
        for control in ticks:
            control.observe(self._changed, "value")

    def state(self, before: GridState) -> GridState:
        """The state before, with what the controls say."""
        fields = tuple(name for name, button in self._fields.items() if button.value)
        return replace(
            before,
            outcome=self._outcome.value,
            failure=self._failure.value,
            level=self._level.value,
            marked=self._marked.value,
            reward=_bounds(self._reward),
            length=_bounds(self._length),
            cost=_bounds(self._cost),
            query=Query(self._text.value, self._regex.value, fields),
        )

    def fill(self, state: GridState) -> None:
        """Set the controls; what the state asks for and there is not to choose is left unset."""
        self._silent = True
        try:
            self._text.value, self._regex.value = state.query.text, state.query.regex
            for name, button in self._fields.items():
                button.value = name in state.query.fields
            for control, value in (
                (self._outcome, state.outcome),
                (self._failure, state.failure),
                (self._level, state.level),
            ):
                known = {v for _, v in control.options}
                control.value = value if value in known else ""
            self._marked.value = state.marked
            for control, bounds in (
                (self._reward, state.reward),
                (self._length, state.length),
                (self._cost, state.cost),
            ):
                control.value = bounds or (control.min, control.max)
        finally:
            self._silent = False

    def _changed(self, _: object) -> None:
        if not self._silent:
            self._then()

    def _reset(self) -> None:
        self.fill(GridState())
        self._then()


def _bounds(slider: ipw.FloatRangeSlider) -> tuple[float, float] | None:
    """None if the slider leaves nothing out."""
    low, high = slider.value
    return None if (low, high) == (slider.min, slider.max) else (low, high)


def _choice(name: str, options: Sequence[tuple[str, str]]) -> ipw.Dropdown:
    made = ipw.Dropdown(options=list(options), value="")
    made.tooltip = name
    return made


def _tick(name: str, hint: str) -> ipw.Checkbox:
    made = ipw.Checkbox(False, description=name, indent=False)
    made.tooltip = hint
    return named(made, "eef-tick")


def _toggle(name: str) -> ipw.ToggleButton:
    made = ipw.ToggleButton(True, description=name)
    made.tooltip = f"search in: {name}"
    return named(made, "eef-small")


def _range(kind, name, bounds, step, form):
    made = kind(
        value=bounds,
        min=bounds[0],
        max=bounds[1],
        step=step,
        description=name,
        readout_format=form,
        continuous_update=False,
    )
    return named(made, "eef-range")


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
        then: called after an annotation was made or taken back.
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
        entry = ipw.HBox([named(self._label, "eef-wide"), self._save])
        super().__init__(
            [
                self._list,
                named(entry, "eef-bar"),
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
            saved = self._save_all(key, span)
        except EefError as exc:
            put(self._message, f'<p class="alarm">Not saved: {escape(exc, 600)}</p>')
            return
        with self._quietly():
            if saved:
                self._label.value, self._note.value, self._segment.value = "", "", ""
        text = f"Saved {', '.join(saved)}." if saved else "Write a label or a note first."
        put(self._message, f'<p class="caption">{text}</p>')
        self._show()
        self._then()

    def twin(self) -> str:
        return explorer.render_notes(self._annotations, self._item)

    def _save_all(self, key: Key, span: tuple[int, int] | None) -> list[str]:
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
                put(line.children[0], explorer.line(self._shown[i]))
        self._save.disabled = self._item is None

    def _line(self, number: int) -> ipw.HBox:
        back = ipw.Button(description="\u00d7", tooltip="take back")
        back.on_click(lambda _: self._take_back(number))
        return named(ipw.HBox([html(""), named(back, "eef-small")]), "eef-noted")


_SOUGHT = {
    "match": "next match",
    "invalid": "next invalid",
    "evidence": "next evidence",
    "note": "next note",
}


class Explorer(StateView):
    """Browse trajectories: filter, search, sort, read step by step, annotate."""

    def __init__(
        self,
        run: Collection | Run | str | Path,
        *,
        state: ExplorerState | None = None,
        author: str | None = None,
    ) -> None:
        """Args:
        run: a run, its folder, or trajectories (`Collection.of`, `Collection.loose`).
        state: where to start.
        author: who annotates; None: see `Annotations`.

        Raises:
            DataError: there is no such folder.
        """
        self.collection = run if isinstance(run, Collection) else Collection.of(run)
        source = self.collection.run
        self.annotations = Annotations(source.path, author) if source else None
        self._state = state or ExplorerState()
        self._names = columns(self.collection)
        self._matches: Matches = Matches(())
        self._item: Item | None = None

        self._filters = Filters(self.collection, self._filtered)
        self._caption, self._table = html(""), html("")
        self._heads = Hits(self._sort, "eef-heads")
        self._rows = Hits(self._pick)
        grid = named(ipw.Box([self._table, self._heads, self._rows]), "eef-grid")
        scroll = named(ipw.Box([grid]), "eef-scroll")
        self._pages = Pager(self._turn)
        self._steps = Steps(self._toggle)
        self._windows = Pager(self._scroll, "steps")
        self._notes = (
            named(Annotator(self.annotations, None, self._annotated), "eef-panel")
            if self.annotations
            else ipw.VBox([])
        )
        super().__init__(
            [
                self._filters,
                self._caption,
                scroll,
                self._pages,
                self._toolbar(),
                self._steps,
                self._windows,
                self._notes,
            ]
        )
        self.show()

    @property
    def item(self) -> Item | None:
        """The trajectory that is looked at."""
        return self._item

    def twin(self) -> str:
        notes = self.annotations.by_key() if self.annotations else {}
        return explorer.render(self.collection, self._state, notes)

    def show(self) -> None:
        """Show the state as it is now, with annotations made meanwhile."""
        notes = self.annotations.by_key() if self.annotations else {}
        grid = self._state.grid
        self._matches = matching(self.collection, grid, notes)
        self._item = explorer.current(self.collection, self._state, self._matches)
        key = self._item.key if self._item else None
        self._filters.fill(grid)
        put(self._caption, explorer.caption(self.collection, grid, self._matches))
        table = grid_html(
            self.collection, grid, self._matches, selected=key, notes=notes, names=self._names
        )
        put(self._table, table)
        page = self._matches.page(grid)
        self._label_heads()
        self._rows.label(
            [f"open trajectory {i + 1}" for i in page],
            [clean(self.collection.items[i].trajectory.instruction, 300) for i in page],
        )
        first = self._matches.positions.index(page[0]) if page else 0
        self._pages.tell(first, first + len(page), len(self._matches.positions))
        self._show_item(notes)

    def _show_item(self, notes) -> None:
        item = self._item
        show(self._tools, item is not None)
        show(self._notes, item is not None)
        if item is None:
            self._steps.fill(None)
            show(self._windows, False)
            return
        with self._quietly():  # before the text: who reads on may already press the next key
            position = self.collection.position(item.key) or 0
            self._place.max = max(1, len(self._matches.positions))
            self._place.value = self._matches.positions.index(position) + 1
            self._raw.value = self._state.raw
        own = notes.get(item.key, ())
        transcript = explorer.transcript_of(item, self._state, own, live=True)
        self._steps.fill(transcript)
        window = transcript.window
        self._windows.tell(window.start, window.stop, item.trajectory.length)
        self._seek["match"].disabled = not self._state.grid.query.usable
        self._seek["invalid"].disabled = not item.invalid
        found = item.diagnosis.findings if item.diagnosis else ()
        self._seek["evidence"].disabled = not any(f.t < item.trajectory.length for f in found)
        self._seek["note"].disabled = not any(a.start is not None for a in own)
        if isinstance(self._notes, Annotator):
            self._notes.about(item)

    def _toolbar(self) -> ipw.HBox:
        def button(text: str, hint: str, press: Callable[[], None]) -> ipw.Button:
            made = named(ipw.Button(description=text, tooltip=hint), "eef-small")
            made.on_click(lambda _: press())
            return made

        self._place = ipw.BoundedIntText(1, min=1, max=1, description="no.")
        self._place.style.description_width = "initial"
        self._place.layout.width = "8em"
        self._place.tooltip = "arrow keys go through the trajectories"
        self._watch(self._place, self._placed)
        self._raw = named(ipw.ToggleButton(False, description="raw"), "eef-small")
        self._raw.tooltip = "texts as they were recorded"
        self._watch(self._raw, lambda: self._set(raw=self._raw.value))
        self._seek = {
            name: button(_SOUGHT[name], f"go to the {_SOUGHT[name]}", partial(self._jump, name))
            for name in get_args(Sought)
        }
        self._tools = named(
            ipw.HBox(
                [
                    button("\u2039 previous", "previous trajectory", lambda: self._step(-1)),
                    button("next \u203a", "next trajectory", lambda: self._step(1)),
                    self._place,
                    button("unfold all", "unfold all steps", lambda: self._unfold(True)),
                    button("fold all", "fold all steps", lambda: self._unfold(False)),
                    self._raw,
                    *self._seek.values(),
                ]
            ),
            "eef-bar",
        )
        return self._tools

    def _label_heads(self) -> None:
        heads = ["#", *(f"sort by {COLUMNS[name].title}" for name in self._names)]
        if not self._heads.children:
            self._heads.label(heads, ["", *(COLUMNS[name].hint for name in self._names)])
            for button, name in zip(self._heads.children, ["at", *self._names], strict=True):
                button.add_class(f"c-{name}")

    # what people do

    def _filtered(self) -> None:
        self._set(grid=replace(self._filters.state(self._state.grid), page=0))

    def _sort(self, number: int) -> None:
        if number:
            self._set(grid=self._state.grid.by(self._names[number - 1]))

    def _turn(self, by: int) -> None:
        grid = self._state.grid
        page = min(max(0, grid.page + by), self._matches.pages(grid) - 1)
        self._set(grid=replace(grid, page=page))

    def _pick(self, row: int) -> None:
        page = self._matches.page(self._state.grid)
        if row < len(page):
            self.state = self._state.select(self.collection.items[page[row]].key)

    def _step(self, by: int) -> None:
        self.state = explorer.step_by(self.collection, self._state, self._matches, by)

    def _placed(self) -> None:
        at = self._place.value - 1
        self.state = explorer.go_to(self.collection, self._state, self._matches, at)

    def _toggle(self, t: int) -> None:
        if self._item is not None:
            if isinstance(self._notes, Annotator):
                self._notes.at(t)
            self.state = self._state.toggle(self._item.key, t)

    def _unfold(self, on: bool) -> None:
        if self._item is not None:
            steps = range(self._item.trajectory.length) if on else ()
            self.state = self._state.unfold(self._item.key, steps)

    def _scroll(self, by: int) -> None:
        self._set(first=max(0, self._state.first + by * explorer.WINDOW))

    def _jump(self, sought: Sought) -> None:
        if self._item is not None:
            own = self.annotations.of(self._item.key) if self.annotations else []
            self.state = explorer.seek(self._item, self._state, sought, own)

    def _annotated(self) -> None:
        self.show()
