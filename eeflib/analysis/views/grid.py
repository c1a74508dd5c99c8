"""The grid of trajectories: which are shown, in which order, and the table.

Owns `GridState`, filtering, sorting and paging, and the table's HTML. Knows nothing about what is
done with the trajectory that is picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eeflib.analysis.annotations import Annotation, Key
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import escape
from eeflib.analysis.textsearch import Query
from eeflib.analysis.transcripts import meaning_of, ribbon, title_of

__all__ = ["COLUMNS", "Column", "GridState", "Shelf", "columns", "grid_html", "shelve"]

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
    """Only those that somebody annotated."""
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
class Shelf:
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


def shelve(collection: Collection, state: GridState, notes: Notes | None = None) -> Shelf:
    """Filter and sort. A search that cannot be done filters nothing, and says why."""
    found = collection.text.find(state.query)
    positions = range(len(collection)) if found.problem else found.positions
    items = collection.items
    kept = [i for i in positions if _fits(items[i], state, notes or {})]
    if state.sort in COLUMNS:
        key = COLUMNS[state.sort].key
        kept.sort(key=lambda i: key(items[i]), reverse=state.descending)  # type: ignore[arg-type, return-value]
    return Shelf(tuple(kept), found.problem)


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
    shelf: Shelf,
    *,
    selected: Key | None = None,
    notes: Notes | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The table of the state's page; every row is 34 px high, so that controls can lie on it."""
    names = columns(collection) if names is None else names
    heads = "".join(_head(name, state) for name in names)
    rows = []
    for i in shelf.page(state):
        item = collection.items[i]
        on = ' class="on" aria-selected="true"' if item.key == selected else ""
        said = len((notes or {}).get(item.key, ()))
        mark = f'<span class="said" title="{said} annotations">\u270e</span>' if said else ""
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
