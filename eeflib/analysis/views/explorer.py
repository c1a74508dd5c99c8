"""The explorer: a grid of trajectories, the one that is picked step by step, and its annotations.

Import `ExplorerState`, `GridState` and the pure functions state -> HTML; `render` and
`render_notes` give a static view that needs no widget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from eeflib.analysis.annotations import Annotation, Annotations, Key
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import escape, table
from eeflib.analysis.textsearch import Query
from eeflib.analysis.transcripts import Shown, Transcript, meaning_of, ribbon, sheet, title_of

__all__ = [
    "COLUMNS",
    "WINDOW",
    "ExplorerState",
    "GridState",
    "Matches",
    "Sought",
    "columns",
    "current",
    "grid_html",
    "line",
    "matching",
    "render",
    "render_notes",
    "transcript_of",
]

Range = tuple[float, float]
Notes = Mapping[Key, Sequence[Annotation]]


@dataclass(frozen=True)
class GridState:
    """What is asked for."""

    outcome: str = ""
    """`solved`, `failed` or `fault`; empty: any."""
    failure: str = ""
    """Kind of failure; empty: any."""
    level: str = ""
    """Difficulty level; empty: any."""
    reward: Range | None = None
    """From and to, both included; so for the others."""
    length: Range | None = None
    cost: Range | None = None
    """Dollars; trajectories of unknown cost are then left out."""
    marked: bool = False
    """Only annotated ones."""
    query: Query = field(default_factory=Query)
    sort: str = ""
    """Name of a column; empty: as recorded."""
    descending: bool = False
    page: int = 0
    per_page: int = 12

    def by(self, column: str) -> GridState:
        """Sorted by a column; by the same once more: the other way round, then as recorded."""
        if self.sort != column:
            return replace(self, sort=column, descending=False, page=0)
        if not self.descending:
            return replace(self, descending=True, page=0)
        return replace(self, sort="", descending=False, page=0)

    @property
    def filters(self) -> list[str]:
        """What is filtered, in words."""
        out = [self.outcome, title_of(self.failure) if self.failure else "", self.level]
        for name in ("reward", "length", "cost"):
            pair = getattr(self, name)
            out.append(f"{name} {pair[0]:g} to {pair[1]:g}" if pair else "")
        out.append("annotated" if self.marked else "")
        if self.query.usable:
            kind = "matching" if self.query.regex else "containing"
            where = ", ".join(self.query.fields)
            out.append(f"{kind} \u201c{self.query.text}\u201d in {where}")
        return [x for x in out if x]


@dataclass(frozen=True)
class Column:
    """A column of the grid."""

    title: str
    key: Callable[[Item], object]
    """What is sorted by."""
    cell: Callable[[Item], str]
    """Ready HTML."""
    number: bool = False
    hint: str = ""
    """What it means, where the title does not say it."""


_GLYPHS = {
    "solved": '<span class="ok">\u2713 solved</span>',
    "failed": '<span class="no">\u2717 failed</span>',
    "fault": '<span class="no">\u26a0 fault</span>',
}
_ORDER = {"failed": 0, "fault": 1, "solved": 2}


def _failure(item: Item) -> str:
    if not item.failure:
        return ""
    meaning = escape(meaning_of(item.failure))
    return f'<span title="{meaning}">{escape(title_of(item.failure), 40)}</span>'


def _dollars(item: Item) -> str:
    cost = item.usage.cost_usd
    return "\u2013" if cost is None else f"{cost:.4f}"


COLUMNS: Mapping[str, Column] = {
    "outcome": Column("outcome", lambda x: _ORDER[x.outcome], lambda x: _GLYPHS[x.outcome]),
    "task": Column(
        "task",
        lambda x: (x.trajectory.task_id, x.key),
        lambda x: f'<span dir="auto">{escape(x.trajectory.instruction, 180)}</span>',
    ),
    "level": Column("level", lambda x: x.level, lambda x: escape(x.level, 20)),
    "failure": Column(
        "failure",
        lambda x: (not x.failure, x.failure),
        _failure,
        hint="the main kind of failure, by rules",
    ),
    "reward": Column(
        "reward",
        lambda x: x.trajectory.reward,
        lambda x: f"{x.trajectory.reward:.2f}",
        True,
        "0 to 1; a task is solved at its threshold",
    ),
    "length": Column(
        "steps",
        lambda x: x.trajectory.length,
        lambda x: f"{x.trajectory.length:,}",
        True,
        "actions",
    ),
    "invalid": Column(
        "invalid",
        lambda x: x.invalid,
        lambda x: str(x.invalid or ""),
        True,
        "actions that were not understood",
    ),
    "tokens": Column(
        "tokens", lambda x: x.tokens, lambda x: f"{x.tokens:,}", True, "read and written"
    ),
    "cost": Column("$", lambda x: -1.0 if (c := x.usage.cost_usd) is None else c, _dollars, True),
    "seconds": Column("s", lambda x: x.usage.seconds, lambda x: f"{x.usage.seconds:.1f}", True),
    "seed": Column("seed", lambda x: x.key.seed, lambda x: str(x.key.seed), True),
    "policy": Column("policy", lambda x: x.key[1:3], lambda x: _policy(x)),
    "segments": Column(
        "exploration",
        lambda x: tuple(s.wins > 0 for s in x.states) or (False,),
        lambda x: ribbon(x.segments, small=True) if x.segments else "",
        hint="high and blue: beneficial actions; low and orange: harmful; thin and grey: unknown",
    ),
}
"""Name -> column, in the order shown."""


def _policy(item: Item) -> str:
    name = escape(item.key.method, 30)
    return f"{name} {item.key.iteration}" if item.key.iteration else name


def columns(collection: Collection) -> list[str]:
    """Columns that say something about these trajectories."""
    items = collection.items
    idle = set()
    if not any(x.level for x in items):
        idle.add("level")
    if not any(x.invalid for x in items):
        idle.add("invalid")
    if not any(x.tokens for x in items):
        idle.add("tokens")
    if not any(x.usage.cost_usd for x in items):
        idle.add("cost")
    if not any(x.usage.seconds >= 0.05 for x in items):
        idle.add("seconds")
    if len({x.key.seed for x in items}) < 2:
        idle.add("seed")
    if len({x.key[1:3] for x in items}) < 2:
        idle.add("policy")
    if not any(x.explored for x in items):
        idle.add("segments")
    if not collection.failures:
        idle.add("failure")
    return [name for name in COLUMNS if name not in idle]


@dataclass(frozen=True)
class Matches:
    """The trajectories that fit a state, in its order."""

    positions: tuple[int, ...]
    problem: str = ""
    """Why a search could not be done."""

    def pages(self, state: GridState) -> int:
        """Number of pages, at least 1."""
        return max(1, math.ceil(len(self.positions) / state.per_page))

    def page(self, state: GridState) -> tuple[int, ...]:
        """Positions on the state's page; the last page if there are fewer."""
        at = min(max(0, state.page), self.pages(state) - 1) * state.per_page
        return self.positions[at : at + state.per_page]


def matching(collection: Collection, state: GridState, notes: Notes | None = None) -> Matches:
    """Filter and sort. A search that cannot be done filters nothing, and says why."""
    found = collection.text.find(state.query)
    positions = range(len(collection)) if found.problem else found.positions
    items = collection.items
    kept = [i for i in positions if _fits(items[i], state, notes or {})]
    if state.sort in COLUMNS:
        key = COLUMNS[state.sort].key
        kept.sort(key=lambda i: key(items[i]), reverse=state.descending)  # type: ignore[arg-type, return-value]
    return Matches(tuple(kept), found.problem)


def _fits(item: Item, state: GridState, notes: Notes) -> bool:
    if state.outcome and item.outcome != state.outcome:
        return False
    if state.level and item.level != state.level:
        return False
    if state.failure and item.failure != state.failure:
        return False
    if not _within(item.trajectory.reward, state.reward):
        return False
    if not _within(item.trajectory.length, state.length):
        return False
    if state.cost is not None and not _within(item.usage.cost_usd, state.cost):
        return False
    return not state.marked or item.key in notes


def _within(value: float | None, bounds: Range | None) -> bool:
    if bounds is None:
        return True
    return value is not None and bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9


def grid_html(
    collection: Collection,
    state: GridState,
    matches: Matches,
    *,
    selected: Key | None = None,
    notes: Notes | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The table of the state's page; every row is 34 px high, so that controls can lie on it."""
    names = columns(collection) if names is None else names
    heads = "".join(_head(name, state) for name in names)
    rows = []
    for i in matches.page(state):
        item = collection.items[i]
        on = ' class="on" aria-selected="true"' if item.key == selected else ""
        noted = len((notes or {}).get(item.key, ()))
        mark = f'<span class="noted" title="{noted} annotations">\u270e</span>' if noted else ""
        cells = "".join(_cell(name, item) for name in names)
        rows.append(f'<tr{on}><td class="num at">{i + 1}{mark}</td>{cells}</tr>')
    if not rows:
        rows.append(f'<tr><td colspan="{len(names) + 1}">{_nothing(collection, state)}</td></tr>')
    return (
        f'<table class="grid"><thead><tr><th class="num at c-at">#</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _head(name: str, state: GridState) -> str:
    column = COLUMNS[name]
    arrow, sort = "", "none"
    if state.sort == name:
        arrow = " \u25be" if state.descending else " \u25b4"
        sort = "descending" if state.descending else "ascending"
    kind = f"num c-{name}" if column.number else f"c-{name}"
    return (
        f'<th scope="col" class="{kind}" aria-sort="{sort}" title="{column.hint}">'
        f"{column.title}{arrow}</th>"
    )


def _cell(name: str, item: Item) -> str:
    kind = f"num c-{name}" if COLUMNS[name].number else f"c-{name}"
    return f'<td class="{kind}">{COLUMNS[name].cell(item)}</td>'


def _nothing(collection: Collection, state: GridState) -> str:
    if not len(collection):
        return "No trajectory is recorded yet (<code>trajectories.jsonl</code>)."
    return f"None of {len(collection):,} fits: {escape(', '.join(state.filters), 200)}."


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


def current(collection: Collection, state: ExplorerState, matches: Matches) -> Item | None:
    """The trajectory that is looked at; None if none fits."""
    at = None if state.selected is None else collection.position(state.selected)
    if at is not None and at in matches.positions:
        return collection.items[at]
    return collection.items[matches.positions[0]] if matches.positions else None


def step_by(
    collection: Collection, state: ExplorerState, matches: Matches, by: int
) -> ExplorerState:
    """The next or previous trajectory of the grid, which is turned to its page."""
    item = current(collection, state, matches)
    if item is None:
        return state
    at = matches.positions.index(collection.position(item.key) or 0) + by
    return go_to(collection, state, matches, at)


def go_to(
    collection: Collection, state: ExplorerState, matches: Matches, place: int
) -> ExplorerState:
    """The trajectory at a place of the grid's order, from 0."""
    if not matches.positions:
        return state
    place = min(max(0, place), len(matches.positions) - 1)
    state = state.select(collection.items[matches.positions[place]].key)
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


def caption(collection: Collection, state: GridState, matches: Matches) -> str:
    """How many are shown and why, ready HTML."""
    n, of = len(matches.positions), len(collection)
    text = f"{n:,} of {of:,} trajectories" if n != of else f"{of:,} trajectories"
    if state.filters:
        text += f": {escape(', '.join(state.filters), 300)}"
    problem = (
        f' <strong class="no">{escape(matches.problem, 300)}</strong>' if matches.problem else ""
    )
    return f'<p class="caption">{text}{problem}</p>'


def render(
    collection: Collection, state: ExplorerState | None = None, notes: Notes | None = None
) -> str:
    """The static twin: what the explorer shows, as one HTML fragment."""
    state, notes = state or ExplorerState(), notes or {}
    matches = matching(collection, state.grid, notes)
    item = current(collection, state, matches)
    key = item.key if item else None
    body = caption(collection, state.grid, matches)
    body += grid_html(collection, state.grid, matches, selected=key, notes=notes)
    if item is not None:
        body += transcript_of(item, state, notes.get(item.key, ())).html()
    return sheet(body)


def where(a: Annotation) -> str:
    """What it is about, plain text."""
    if a.start is None:
        return "the whole trajectory"
    stop = a.stop or a.start + 1
    return f"step {stop}" if stop == a.start + 1 else f"steps {a.start + 1} to {stop}"


def line(a: Annotation) -> str:
    """One annotation, ready HTML."""
    text = escape(a.text, 2000)
    content = {
        "label": f"<strong>{text}</strong>",
        "segment": f"segment: <strong>{text}</strong>",
    }.get(a.kind, f'<span dir="auto" style="white-space:pre-wrap">{text}</span>')
    return (
        f'<div class="note-line">\u270e {content} <span class="note">{where(a)} &middot; '
        f"{escape(a.author, 60)}, {escape(a.day, 20)} UTC</span></div>"
    )


def render_notes(annotations: Annotations, item: Item | None = None) -> str:
    """The static twin: the annotations of a trajectory, or of all of them."""
    shown = annotations.of(item.key) if item else annotations.all()
    if not shown:
        return sheet('<p class="caption">There are no annotations yet.</p>')
    if item is not None:
        return sheet("".join(map(line, shown)))
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
        for a in shown
    ]
    head = ("trajectory", "seed", "kind", "text", "about", "author", "UTC")
    return sheet(table(head, rows, numbers=(1,)))
