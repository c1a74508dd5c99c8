"""The recovery map as a widget: press a cell, read the rollouts from that state.

Import `RecoveryMap`. Its HTML is made by `eeflib.analysis.views.recovery`.
"""

from __future__ import annotations

from pathlib import Path

import ipywidgets as ipw

from eeflib.analysis.collection import Collection
from eeflib.analysis.markup import escape
from eeflib.analysis.run import Run
from eeflib.analysis.transcripts import Transcript
from eeflib.analysis.views import recovery as view
from eeflib.analysis.views.recovery import RecoveryData, RecoveryState
from eeflib.analysis.widgets.base import Pager, StateView, Steps, html, named, put, show

__all__ = ["RecoveryMap"]


_KINDS = {"won", "lost", "no", "at", *(f"p{share}" for share in range(0, 101, 25))}
"""Classes of a cell: how it went, the share won of 100, whether it is looked at."""


class RecoveryMap(StateView):
    """Failed trajectories by expert state; behind each cell the student's rollouts from it."""

    def __init__(
        self, run: Collection | Run | str | Path, *, state: RecoveryState | None = None
    ) -> None:
        """Args:
        run: a run, its folder, or `Collection.of` it.
        state: where to start.

        Raises:
            DataError: there is no such folder.
        """
        self.data = RecoveryData(run if isinstance(run, Collection) else Collection.of(run))
        self._state = state or RecoveryState()
        self._caption, self._behind = html(""), html("")
        levels = self.data.collection.levels
        self._level = ipw.Dropdown(options=[("any level", ""), *((x, x) for x in levels)])
        show(self._level, bool(levels))
        self._watch(self._level, lambda: self._set(level=self._level.value, page=0))
        width = max(1, self.data.width)
        self._cells = named(ipw.Box([]), "eef-map")
        self._cells.layout.grid_template_columns = f"minmax(16em, 56em) repeat({width}, 4.4em)"
        self._pages = Pager(self._turn)
        self._attempts = ipw.ToggleButtons(options=[])
        self._watch(self._attempts, self._chosen)
        self._raw = named(ipw.ToggleButton(False, description="raw"), "eef-small")
        self._watch(self._raw, lambda: self._set(raw=self._raw.value))
        self._unfold = named(ipw.Button(description="unfold all"), "eef-small")
        self._unfold.on_click(lambda _: self._unfold_all())
        self._steps = Steps(lambda t: self._set(open=self._state.open ^ {t}))
        self._tools = named(ipw.HBox([self._attempts, self._unfold, self._raw]), "eef-bar")
        super().__init__(
            [
                named(ipw.HBox([self._level]), "eef-bar"),
                self._caption,
                self._cells,
                self._pages,
                self._behind,
                self._tools,
                self._steps,
            ]
        )
        self.show()

    def twin(self) -> str:
        return view.render(self.data, self._state)

    def show(self) -> None:
        """Show the state as it is now."""
        data, state = self.data, self._state
        put(self._caption, view.caption(data, state))
        self._fill_cells()
        rows, page = data.rows(state), data.page(state)
        first = rows.index(page[0]) if page else 0
        self._pages.tell(first, first + len(page), len(rows))
        put(self._behind, view.behind(data, state))
        attempts = data.attempts(state)
        show(self._tools, bool(attempts))
        with self._quietly():
            names = [(view.attempt_name(b, i), i) for i, b in enumerate(attempts)]
            if names != list(self._attempts.options):
                self._attempts.options = names
            if attempts:
                self._attempts.value = min(state.attempt, len(attempts) - 1)
            self._raw.value = state.raw
            self._level.value = state.level if state.level in data.collection.levels else ""
        content = view.transcript_of(data, state, attempts, live=True)
        if isinstance(content, Transcript):
            self._steps.fill(content)
        else:
            self._steps.fill(None)
            if content:
                put(self._behind, f"{view.behind(data, state)}<p>{escape(content, 600)}</p>")

    def _fill_cells(self) -> None:
        """Names, and a button per state; made once for a full page."""
        data, state = self.data, self._state
        page, width = data.page(state), data.width
        show(self._cells, bool(page))
        if not self._cells.children and page:
            names = [f'<div class="eef-k">s<sub>{k}</sub></div>' for k in range(width)]
            heads = [html(""), *map(html, names)]
            rows = min(state.per_page, len(data.cells))
            cells = [
                html("") if not c else self._cell(r, c - 1)
                for r in range(rows)
                for c in range(width + 1)
            ]
            self._cells.children = (*heads, *cells)
        for r in range(len(self._cells.children) // (width + 1) - 1):
            start = (r + 1) * (width + 1)
            name, *buttons = self._cells.children[start : start + width + 1]
            item = page[r] if r < len(page) else None
            put(name, view.row_line(item) if item else "")
            show(name, item is not None)
            for k, button in enumerate(buttons):
                cell = data.cells[item.key].get(k) if item else None
                show(button, item is not None)
                button.disabled = cell is None
                button.description = cell.text if cell else ""
                button.tooltip = cell.hint if cell else ""
                here = item is not None and item.key == state.key and k == state.k
                kinds = [cell.kind, f"p{25 * round(cell.percent / 25)}"] if cell else ["no"]
                _restyle(button, [*kinds, *(["at"] if here else [])])

    def _cell(self, row: int, k: int) -> ipw.Button:
        button = named(ipw.Button(), "eef-cell")
        button.on_click(lambda _: self._pick(row, k))
        return button

    def _pick(self, row: int, k: int) -> None:
        page = self.data.page(self._state)
        if row < len(page):
            self.state = self._state.pick(page[row].key, k)

    def _chosen(self) -> None:
        if self._attempts.value is not None:
            self.state = self._state.choose(self._attempts.value)

    def _turn(self, by: int) -> None:
        page = min(max(0, self._state.page + by), self.data.pages(self._state) - 1)
        self._set(page=page)

    def _unfold_all(self) -> None:
        content = view.transcript_of(self.data, self._state, self.data.attempts(self._state))
        if isinstance(content, Transcript):
            every = frozenset(range(content.trajectory.length))
            self._set(open=frozenset() if self._state.open >= every else every)


def _restyle(button: ipw.Button, kinds: list[str]) -> None:
    others = [c for c in button._dom_classes if c not in _KINDS]
    if list(button._dom_classes) != [*others, *kinds]:
        button._dom_classes = (*others, *kinds)
