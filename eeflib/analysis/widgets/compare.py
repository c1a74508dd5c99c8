"""Two episodes of a task side by side, as a widget.

Import `Compare`. Its HTML is made by `eeflib.analysis.views.sidebyside`.
"""

from __future__ import annotations

from pathlib import Path

import ipywidgets as ipw

from eeflib.analysis.collection import Collection
from eeflib.analysis.markup import clean, escape
from eeflib.analysis.run import Run
from eeflib.analysis.views import sidebyside as view
from eeflib.analysis.views.sidebyside import CompareState, Episode, Episodes
from eeflib.analysis.widgets.base import StateView, html, named, put, show

__all__ = ["Compare"]


class Compare(StateView):
    """A teacher's trajectory beside a student's, or any two of one task."""

    def __init__(
        self, run: Collection | Run | str | Path, *, state: CompareState | None = None
    ) -> None:
        """Args:
        run: a run, its folder, or `Collection.of` it.
        state: where to start; by default the first task with two episodes.

        Raises:
            DataError: there is no such folder.
        """
        collection = run if isinstance(run, Collection) else Collection.of(run)
        self.episodes = Episodes(collection)
        self._tasks = self.episodes.tasks
        self._state = state or CompareState()
        self._task = ipw.Dropdown(
            options=[(self._name(task), i) for i, task in enumerate(self._tasks)],
            description="task",
        )
        self._a = ipw.Dropdown(options=[], description="left")
        self._b = ipw.Dropdown(options=[], description="right")
        swap = named(ipw.Button(description="\u21c4", tooltip="swap left and right"), "eef-small")
        swap.on_click(lambda _: self._swap())
        self._all = named(ipw.ToggleButton(False, description="unfold all"), "eef-small")
        self._body = html("")
        super().__init__(
            [
                named(ipw.HBox([named(self._task, "eef-wide")]), "eef-bar"),
                named(ipw.HBox([self._a, swap, self._b, self._all]), "eef-bar"),
                self._body,
            ]
        )
        self._watch(self._task, self._chosen)
        self._watch(self._a, self._picked)
        self._watch(self._b, self._picked)
        self._watch(self._all, self._picked)
        self.show()

    def twin(self) -> str:
        return view.render(self.episodes, self._state)

    def show(self) -> None:
        """Show the state as it is now."""
        state = self._state
        found = self.episodes.of(state.task)
        with self._quietly():
            if state.task in self._tasks:
                self._task.value = self._tasks.index(state.task)
            names = [(clean(e.name, 120), i) for i, e in enumerate(found)]
            for control, at in ((self._a, state.a), (self._b, state.b)):
                if list(control.options) != names:
                    control.options = names
                if names:
                    control.value = min(max(0, at), len(names) - 1)
            self._all.value = state.all_open
        pair = view.pair_of(found, state)
        show(self._a, pair is not None)
        show(self._b, pair is not None)
        put(self._body, self._html(pair) if pair else f"<p>{view.nothing(self.episodes)}</p>")

    def _html(self, pair) -> str:
        a, b, found = pair
        first: Episode = a
        goal = f'<p dir="auto"><strong>Task</strong> {escape(first.trajectory.instruction)}</p>'
        return goal + view.summary(a, b, found) + view.compare_html(a, b, found, self._state)

    def _name(self, task: tuple[int, str]) -> str:
        items = self.episodes.collection.by_task[task]
        solved = "\u2713" if any(x.outcome == "solved" for x in items) else "\u2717"
        text = clean(items[0].trajectory.instruction, 90)
        return f"{solved} {clean(task[1], 40)} (seed {task[0]}) {text}"

    def _chosen(self) -> None:
        if self._task.value is not None:
            self.state = self._state.at(self._tasks[self._task.value])

    def _picked(self) -> None:
        a, b = self._a.value or 0, self._b.value or 0
        self._set(a=a, b=b, all_open=self._all.value)

    def _swap(self) -> None:
        self.state = self._state.swapped()
