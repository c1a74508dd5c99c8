"""The explorer: a grid of trajectories, and the one that is picked, step by step.

Owns `ExplorerState`, moving through trajectories and steps, and the static twin `render`. Knows
nothing about widgets, nor how a grid or a transcript looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from eeflib.analysis.annotations import Annotation, Key
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import escape
from eeflib.analysis.transcripts import Shown, Transcript
from eeflib.analysis.views.frame import sheet
from eeflib.analysis.views.grid import GridState, Notes, Shelf, grid_html, shelve

__all__ = ["WINDOW", "ExplorerState", "Sought", "current", "render", "transcript_of"]

WINDOW = 40
"""Steps of a long trajectory shown at once."""

Sought = Literal["match", "invalid", "evidence", "note"]
"""What can be jumped to."""


@dataclass(frozen=True)
class ExplorerState:
    """What is looked at. Unfolded steps are remembered for every trajectory."""

    grid: GridState = field(default_factory=GridState)
    selected: Key | None = None
    """None, or one that is filtered out: the first that is shown."""
    open: Mapping[Key, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))
    """Unfolded steps by trajectory."""
    raw: bool = False
    first: int = 0
    """First step that is shown of a long trajectory."""
    here: int | None = None
    """The step that was jumped to."""

    def select(self, key: Key) -> ExplorerState:
        """Look at another trajectory."""
        return replace(self, selected=key, first=0, here=None)

    def toggle(self, key: Key, t: int) -> ExplorerState:
        """Fold or unfold a step."""
        now = self.open.get(key, frozenset())
        return self._unfolded(key, now ^ {t})

    def unfold(self, key: Key, steps: Sequence[int] | range) -> ExplorerState:
        """Exactly these steps are unfolded."""
        return self._unfolded(key, frozenset(steps))

    def jump(self, key: Key, t: int) -> ExplorerState:
        """Go to a step and unfold it."""
        first = self.first if self.first <= t < self.first + WINDOW else t // WINDOW * WINDOW
        state = self._unfolded(key, self.open.get(key, frozenset()) | {t})
        return replace(state, selected=key, first=first, here=t)

    def _unfolded(self, key: Key, steps: frozenset[int]) -> ExplorerState:
        rest = {k: v for k, v in self.open.items() if k != key}
        return replace(self, open=MappingProxyType({**rest, key: steps} if steps else rest))


def current(collection: Collection, state: ExplorerState, shelf: Shelf) -> Item | None:
    """The trajectory that is looked at; None if none fits."""
    at = None if state.selected is None else collection.position(state.selected)
    if at is not None and at in shelf.positions:
        return collection.items[at]
    return collection.items[shelf.positions[0]] if shelf.positions else None


def step_by(collection: Collection, state: ExplorerState, shelf: Shelf, by: int) -> ExplorerState:
    """The next or previous trajectory of the grid, which is turned to its page."""
    item = current(collection, state, shelf)
    if item is None:
        return state
    at = shelf.positions.index(collection.position(item.key) or 0) + by
    return go_to(collection, state, shelf, at)


def go_to(collection: Collection, state: ExplorerState, shelf: Shelf, place: int) -> ExplorerState:
    """The trajectory at a place of the grid's order, from 0."""
    if not shelf.positions:
        return state
    place = min(max(0, place), len(shelf.positions) - 1)
    state = state.select(collection.items[shelf.positions[place]].key)
    return replace(state, grid=replace(state.grid, page=place // state.grid.per_page))


def seek(
    item: Item,
    state: ExplorerState,
    sought: Sought,
    notes: Sequence[Annotation] = (),
) -> ExplorerState:
    """Jump to the next step of a kind, after the last the first; no change if there is none."""
    steps = item.trajectory.steps
    if sought == "match":
        query = state.grid.query
        hits = [t for t, s in enumerate(steps) if query.usable and query.in_step(s)]
    elif sought == "invalid":
        hits = [t for t, s in enumerate(steps) if not s.valid]
    elif sought == "evidence":
        found = item.diagnosis.findings if item.diagnosis else ()
        hits = sorted({f.t for f in found if f.t < len(steps)})
    else:
        hits = sorted({a.start for a in notes if a.start is not None and a.start < len(steps)})
    if not hits:
        return state
    after = -1 if state.here is None or state.selected != item.key else state.here
    return state.jump(item.key, next((t for t in hits if t > after), hits[0]))


def transcript_of(
    item: Item,
    state: ExplorerState,
    notes: Sequence[Annotation] = (),
    *,
    live: bool = False,
) -> Transcript:
    """The transcript as the state shows it."""
    first = state.first if state.first < item.trajectory.length else 0
    shown = Shown(
        open=state.open.get(item.key, frozenset()),
        raw=state.raw,
        query=state.grid.query,
        window=(first, first + WINDOW),
        here=state.here if state.selected == item.key else None,
        live=live,
    )
    return Transcript(
        item.trajectory,
        tuple(item.segments),
        item.states,
        item.diagnosis,
        tuple(notes),
        shown,
    )


def caption(collection: Collection, state: GridState, shelf: Shelf) -> str:
    """How many are shown and why, ready HTML."""
    n, of = len(shelf.positions), len(collection)
    text = f"{n:,} of {of:,} trajectories" if n != of else f"{of:,} trajectories"
    if state.filters:
        text += f": {escape(', '.join(state.filters), 300)}"
    problem = f' <strong class="no">{escape(shelf.problem, 300)}</strong>' if shelf.problem else ""
    return f'<p class="caption">{text}{problem}</p>'


def render(
    collection: Collection, state: ExplorerState | None = None, notes: Notes | None = None
) -> str:
    """The static twin: what the explorer shows, as one HTML fragment."""
    state, notes = state or ExplorerState(), notes or {}
    shelf = shelve(collection, state.grid, notes)
    item = current(collection, state, shelf)
    key = item.key if item else None
    body = caption(collection, state.grid, shelf)
    body += grid_html(collection, state.grid, shelf, selected=key, notes=notes)
    if item is not None:
        body += transcript_of(item, state, notes.get(item.key, ())).html()
    return sheet(body)
