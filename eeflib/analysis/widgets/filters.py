"""The controls above a grid of trajectories: search, outcome, failure, level, ranges.

Owns which control stands for which part of a `GridState`. Knows nothing about the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import ipywidgets as ipw

from eeflib.analysis.collection import OUTCOMES, Collection
from eeflib.analysis.textsearch import FIELDS, Query
from eeflib.analysis.transcripts import title_of
from eeflib.analysis.views.grid import GridState
from eeflib.analysis.widgets.base import named, show

__all__ = ["Filters"]


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
        self._marked = _tick("annotated", "only trajectories that somebody annotated")
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
