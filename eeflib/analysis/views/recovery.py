"""The recovery map with what is behind each cell: the state, its rollouts, each step of them.

Import `RecoveryData`, `RecoveryState` and the static view `render`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from eeflib.analysis.annotations import Key
from eeflib.analysis.collection import Collection, Item, whole
from eeflib.analysis.markup import escape
from eeflib.analysis.segments import Segment
from eeflib.analysis.transcripts import Shown, Transcript, sheet
from eeflib.records import Branch
from eeflib.stats import wilson

__all__ = ["RecoveryData", "RecoveryState", "render"]


@dataclass(frozen=True)
class RecoveryState:
    """What is looked at."""

    level: str = ""
    """Difficulty level; empty: any."""
    page: int = 0
    per_page: int = 14
    key: Key | None = None
    """The trajectory whose state is looked at."""
    k: int | None = None
    attempt: int = 0
    """Which of its rollouts, from 0."""
    open: frozenset[int] = frozenset()
    """Unfolded steps of the rollout."""
    raw: bool = False

    def pick(self, key: Key, k: int) -> RecoveryState:
        """Look at a cell."""
        return replace(self, key=key, k=k, attempt=0, open=frozenset())

    def choose(self, attempt: int) -> RecoveryState:
        """Look at another rollout from the same state."""
        return replace(self, attempt=attempt, open=frozenset())


@dataclass(frozen=True)
class Cell:
    """One state in the map."""

    k: int
    t: int
    n: int
    wins: int
    status: str
    """`tried`, `unrestorable`, `faulted` or `untried`."""

    @property
    def text(self) -> str:
        """`3/8`, or a sign that it was not tried."""
        if self.n:
            return f"{self.wins}/{self.n}"
        return "\u2013" if self.status == "untried" else "!"

    @property
    def kind(self) -> str:
        """`won`, `lost` or `no`."""
        return ("won" if self.wins else "lost") if self.n else "no"

    @property
    def percent(self) -> int:
        """Share of its rollouts that were won, of 100."""
        return round(100 * self.wins / self.n) if self.n else 0

    @property
    def hint(self) -> str:
        """The state in words, with Wilson's interval."""
        if not self.n:
            return f"s{self.k}: {self.status}"
        low, high = wilson(self.wins, self.n)
        after = f"after {self.t} action{'' if self.t == 1 else 's'}"
        return (
            f"s{self.k}, {after}: won {self.wins} of {self.n}, 95 % interval "
            f"{100 * low:.0f} to {100 * high:.0f} %"
        )


class RecoveryData:
    """Failed trajectories by expert state, the last one that could still be won first."""

    def __init__(self, collection: Collection) -> None:
        """From the collection's states; without any the map is empty."""
        self.collection = collection
        self.branches = collection.branches
        self.method, self.iteration = self.branches.method, self.branches.iteration

    @cached_property
    def cells(self) -> Mapping[Key, dict[int, Cell]]:
        """Failed trajectory -> its states by k, in the order of the map."""
        found: dict[Key, dict[int, Cell]] = {}
        states = self.collection.states
        if states is None:
            return found
        columns = ("seed", "trajectory_id", "k", "t", "n", "wins", "status")
        failed = states[~states["teacher_solved"] & (states["k"] >= 0)]
        for seed, name, k, t, n, wins, status in zip(*(failed[c] for c in columns), strict=True):
            key = Key(int(seed), "teacher", 0, name)
            found.setdefault(key, {})[int(k)] = Cell(int(k), int(t), int(n), int(wins), status)

        def last_won(key: Key) -> int:
            return max((c.k for c in found[key].values() if c.wins), default=-1)

        return {key: found[key] for key in sorted(found, key=lambda x: (-last_won(x), x))}

    @property
    def width(self) -> int:
        """Number of columns: the highest k and s0."""
        return 1 + max((max(row) for row in self.cells.values()), default=-1)

    def rows(self, state: RecoveryState) -> list[Item]:
        """All rows that fit the state."""
        items = [self.collection.get(key) for key in self.cells]
        return [x for x in items if x and (not state.level or x.level == state.level)]

    def page(self, state: RecoveryState) -> list[Item]:
        """The rows on the state's page."""
        rows = self.rows(state)
        at = min(max(0, state.page), self.pages(state) - 1) * state.per_page
        return rows[at : at + state.per_page]

    def pages(self, state: RecoveryState) -> int:
        """Number of pages, at least 1."""
        return max(1, -(-len(self.rows(state)) // state.per_page))

    def picked(self, state: RecoveryState) -> tuple[Item, Cell] | None:
        """The trajectory and the cell that are looked at."""
        item = self.collection.get(state.key)
        cell = self.cells.get(item.key, {}).get(state.k or 0) if item else None
        return (item, cell) if item and cell and state.k is not None else None

    def attempts(self, state: RecoveryState) -> list[Branch]:
        """The rollouts from the state that is looked at."""
        picked = self.picked(state)
        return self.branches.at(picked[0], picked[1].k) if picked else []


def caption(shown: RecoveryData, state: RecoveryState) -> str:
    """What the map is of, ready HTML."""
    n = len(shown.rows(state))
    if not shown.cells:
        return (
            '<p class="caption">No exploration from expert states is recorded '
            "(<code>branches.jsonl</code> with k &gt; 0), so there is no map.</p>"
        )
    never = sum(not any(c.wins for c in shown.cells[x.key].values()) for x in shown.rows(state))
    return (
        f'<p class="caption">{n:,} trajectories in which the teacher failed; {never:,} were won '
        "from no state. A cell: rollouts the student won / tried from the teacher's state "
        f"({escape(shown.method, 40)}, iteration {shown.iteration}). First those that could be won "
        "latest. ! = not restorable, or ended by a fault; \u2013 = not tried.</p>"
    )


def map_html(shown: RecoveryData, state: RecoveryState) -> str:
    """The map's table."""
    if not shown.cells:
        return ""
    levels = bool(shown.collection.levels)
    heads = "".join(f'<th class="c">s<sub>{k}</sub></th>' for k in range(shown.width))
    level = "<th>level</th>" if levels else ""
    rows = []
    for item in shown.page(state):
        cells = []
        for k in range(shown.width):
            cell = shown.cells[item.key].get(k)
            on = " at" if item.key == state.key and k == state.k else ""
            cells.append(
                f'<td class="c {cell.kind}{on}" style="--p:{cell.percent}%" '
                f'title="{escape(cell.hint)}">{cell.text}</td>'
                if cell
                else '<td class="c"></td>'
            )
        t = item.trajectory
        rows.append(
            f'<tr><td title="{escape(t.instruction, 300)}"><code>{escape(t.task_id, 40)}</code>'
            "</td>"
            f'<td class="num">{item.key.seed}</td>'
            + (f"<td>{escape(item.level, 20)}</td>" if levels else "")
            + f'<td class="num">{t.length:,}</td>{"".join(cells)}</tr>'
        )
    return (
        '<table class="map"><thead><tr><th>task</th><th class="num">seed</th>'
        f'{level}<th class="num">steps</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def row_name(item: Item) -> str:
    """The row's name, ready HTML."""
    level = f" &middot; {escape(item.level, 20)}" if item.level else ""
    t = item.trajectory
    return (
        f'<code>{escape(t.task_id, 40)}</code> <span class="note">seed {item.key.seed}{level} '
        f"&middot; {t.length} actions</span>"
    )


def row_line(item: Item) -> str:
    """The row's name with its task, for a line of a given width; ready HTML."""
    level = f"{escape(item.level, 20)} &middot; " if item.level else ""
    t = item.trajectory
    return (
        f'<div class="eef-row" title="{escape(t.instruction, 300)}"><code>{escape(t.task_id, 40)}'
        f'</code><span class="goal-line" dir="auto">{escape(t.instruction, 160)}</span>'
        f'<span class="note">{level}seed {item.key.seed} &middot; {t.length} actions</span></div>'
    )


def behind(shown: RecoveryData, state: RecoveryState) -> str:
    """The picked cell in words, ready HTML; empty if none is picked."""
    picked = shown.picked(state)
    if picked is None:
        return ""
    item, cell = picked
    parts = [f"<strong>{escape(cell.hint)}</strong>"]
    for part in item.segments:
        if part.stop == cell.t and cell.k:
            parts.append(f"before it: {escape(part.label)} ({escape(part.evidence)})")
        if part.start == cell.t:
            parts.append(f"after it: {escape(part.label)} ({escape(part.evidence)})")
    return f'<p class="caption">{row_name(item)}<br>{" &middot; ".join(parts)}</p>'


def attempt_name(branch: Branch, number: int) -> str:
    """A rollout as the choice among those from a state shows it."""
    if branch.rollout is None:
        return f"{number + 1}: not restored"
    if branch.rollout.error:
        return f"{number + 1}: fault"
    sign = "\u2713" if branch.won else "\u2717"
    return f"{number + 1}: {sign} reward {branch.rollout.reward:.2f}"


def transcript_of(
    shown: RecoveryData, state: RecoveryState, attempts: Sequence[Branch], *, live: bool = False
) -> Transcript | str:
    """The rollout that is looked at, after the teacher's steps; in words why there is none."""
    picked = shown.picked(state)
    if picked is None:
        return ""
    if not attempts:
        return "No rollout from this state is recorded."
    item, _ = picked
    branch = attempts[min(state.attempt, len(attempts) - 1)]
    trajectory = whole(item, branch)
    if trajectory is None:
        why = branch.restore_mismatch or "no reason recorded"
        return f"The state could not be restored: {why}"
    at = branch.t if branch.k else 0
    parts = [Segment(0, at, "context", f"the teacher's actions up to s{branch.k}")] if at else []
    if trajectory.length > at:
        won = "which won" if branch.won else "which did not win"
        parts.append(Segment(at, trajectory.length, "student", f"the student's own, {won}"))
    look = Shown(open=state.open, raw=state.raw, live=live, here=at)
    return Transcript(trajectory, tuple(parts), (), None, (), look)


def render(shown: RecoveryData, state: RecoveryState | None = None) -> str:
    """The static twin: the map, and the picked cell's rollout."""
    state = state or RecoveryState()
    body = caption(shown, state) + map_html(shown, state) + behind(shown, state)
    attempts = shown.attempts(state)
    if attempts:
        names = " &nbsp; ".join(
            f"<b>{attempt_name(b, i)}</b>" if i == state.attempt else attempt_name(b, i)
            for i, b in enumerate(attempts)
        )
        body += f'<p class="caption">{names}</p>'
    content = transcript_of(shown, state, attempts)
    body += content.html() if isinstance(content, Transcript) else f"<p>{escape(content)}</p>"
    return sheet(body)
