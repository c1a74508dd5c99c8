"""The explorer as a widget: controls, grid, transcript and notes around an `ExplorerState`.

Owns which control sets which part of the state. What is shown is that of
`eeflib.analysis.views.explorer`; the grid's controls are those of
`eeflib.analysis.widgets.filters`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import ipywidgets as ipw

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import clean
from eeflib.analysis.run import Run
from eeflib.analysis.views import explorer
from eeflib.analysis.views.explorer import ExplorerState, Sought
from eeflib.analysis.views.grid import COLUMNS, Shelf, columns, grid_html, shelve
from eeflib.analysis.widgets.annotate import Annotator
from eeflib.analysis.widgets.base import Hits, Pager, View, html, named, put, show
from eeflib.analysis.widgets.filters import Filters
from eeflib.analysis.widgets.steps import Steps

__all__ = ["Explorer"]

_SOUGHT = {
    "match": "next match",
    "invalid": "next invalid",
    "evidence": "next evidence",
    "note": "next note",
}


class Explorer(View):
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
        self._shelf: Shelf = Shelf(())
        self._item: Item | None = None

        self._filters = Filters(self.collection, self._filtered)
        self._caption, self._table = html(""), html("")
        self._heads = Hits(self._sort, "eef-heads")
        self._rows = Hits(self._pick)
        grid = named(ipw.Box([self._table, self._heads, self._rows]), "eef-grid")
        sheaf = named(ipw.Box([grid]), "eef-sheaf")
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
                sheaf,
                self._pages,
                self._toolbar(),
                self._steps,
                self._windows,
                self._notes,
            ]
        )
        self.show()

    @property
    def state(self) -> ExplorerState:
        """What is looked at; set it to look at something else."""
        return self._state

    @state.setter
    def state(self, state: ExplorerState) -> None:
        self._state = state
        self.show()

    @property
    def item(self) -> Item | None:
        """The trajectory that is looked at."""
        return self._item

    def twin(self) -> str:
        notes = self.annotations.by_key() if self.annotations else {}
        return explorer.render(self.collection, self._state, notes)

    def show(self) -> None:
        """Show the state as it is now, and what others said meanwhile."""
        notes = self.annotations.by_key() if self.annotations else {}
        grid = self._state.grid
        self._shelf = shelve(self.collection, grid, notes)
        self._item = explorer.current(self.collection, self._state, self._shelf)
        key = self._item.key if self._item else None
        self._filters.fill(grid)
        put(self._caption, explorer.caption(self.collection, grid, self._shelf))
        table = grid_html(
            self.collection, grid, self._shelf, selected=key, notes=notes, names=self._names
        )
        put(self._table, table)
        page = self._shelf.page(grid)
        self._label_heads()
        self._rows.label(
            [f"open trajectory {i + 1}" for i in page],
            [clean(self.collection.items[i].trajectory.instruction, 300) for i in page],
        )
        first = self._shelf.positions.index(page[0]) if page else 0
        self._pages.tell(first, first + len(page), len(self._shelf.positions))
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
            self._place.max = max(1, len(self._shelf.positions))
            self._place.value = self._shelf.positions.index(position) + 1
            self._raw.value = self._state.raw
        said = notes.get(item.key, ())
        transcript = explorer.transcript_of(item, self._state, said, live=True)
        self._steps.fill(transcript)
        window = transcript.window
        self._windows.tell(window.start, window.stop, item.trajectory.length)
        self._seek["match"].disabled = not self._state.grid.query.usable
        self._seek["invalid"].disabled = not item.invalid
        found = item.diagnosis.findings if item.diagnosis else ()
        self._seek["evidence"].disabled = not any(f.t < item.trajectory.length for f in found)
        self._seek["note"].disabled = not any(a.start is not None for a in said)
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

    def _set(self, **changes) -> None:
        self.state = replace(self._state, **changes)

    def _filtered(self) -> None:
        self._set(grid=replace(self._filters.state(self._state.grid), page=0))

    def _sort(self, number: int) -> None:
        if number:
            self._set(grid=self._state.grid.by(self._names[number - 1]))

    def _turn(self, by: int) -> None:
        grid = self._state.grid
        page = min(max(0, grid.page + by), self._shelf.pages(grid) - 1)
        self._set(grid=replace(grid, page=page))

    def _pick(self, row: int) -> None:
        page = self._shelf.page(self._state.grid)
        if row < len(page):
            self.state = self._state.select(self.collection.items[page[row]].key)

    def _step(self, by: int) -> None:
        self.state = explorer.step_by(self.collection, self._state, self._shelf, by)

    def _placed(self) -> None:
        at = self._place.value - 1
        self.state = explorer.go_to(self.collection, self._state, self._shelf, at)

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
            said = self.annotations.of(self._item.key) if self.annotations else []
            self.state = explorer.seek(self._item, self._state, sought, said)

    def _annotated(self) -> None:
        self.show()
