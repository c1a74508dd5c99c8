"""Two trajectories of a task side by side, aligned, with the first divergence marked.

Import `align` for the alignment, `Episodes` for what can be compared, and `render` for the static
view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rapidfuzz.distance import Indel

from eeflib.analysis.collection import Collection, whole
from eeflib.analysis.markup import LIMIT, escape
from eeflib.analysis.transcripts import Shown, chip, seen, sheet
from eeflib.records import Step, Trajectory

__all__ = ["CompareState", "Episode", "Episodes", "align", "compare_html", "render"]

Parting = Literal["action", "observation", "end", ""]


@dataclass(frozen=True)
class Pair:
    """A row: a step of the first, a step of the second, or both."""

    a: int | None
    b: int | None
    same: bool
    """Both did the same."""


@dataclass(frozen=True)
class Alignment:
    """All steps of both, in order."""

    pairs: tuple[Pair, ...]
    parting: int | None
    """Row in which they first part; None if they never do."""
    why: Parting = ""
    """`action`: after the same text they did something else; `observation`: after the same actions
    they saw something else; `end`: one goes on where the other ended."""

    @property
    def shared(self) -> int:
        """Rows in which both did the same."""
        return sum(p.same for p in self.pairs)


def align(a: Trajectory, b: Trajectory) -> Alignment:
    """Row by row: the equal beginning, the two steps where they part, then what they share.

    After the parting the alignment keeps most equal actions in pairs (longest common subsequence);
    differing steps between two such pairs share a row, as far as there are two.
    """
    ours, theirs = [_word(x) for x in a.actions], [_word(x) for x in b.actions]
    start, shorter = 0, min(len(ours), len(theirs))
    while start < shorter and ours[start] == theirs[start]:
        start += 1
    pairs = [Pair(t, t, True) for t in range(start)]
    if start < shorter:  # the first difference is always a row of its own
        pairs.append(Pair(start, start, False))
        start += 1
    at_a = at_b = start
    for code in Indel.opcodes(ours[start:], theirs[start:]):
        if code.tag != "equal":
            continue
        stop_a, stop_b = start + code.src_start, start + code.dest_start
        pairs += _beside(at_a, stop_a, at_b, stop_b)
        n = code.src_end - code.src_start
        pairs += [Pair(stop_a + i, stop_b + i, True) for i in range(n)]
        at_a, at_b = stop_a + n, stop_b + n
    pairs += _beside(at_a, len(ours), at_b, len(theirs))
    return Alignment(tuple(pairs), *_parting(a, b, pairs))


def _beside(a: int, stop_a: int, b: int, stop_b: int) -> list[Pair]:
    n, m = stop_a - a, stop_b - b
    both = [Pair(a + i, b + i, False) for i in range(min(n, m))]
    return [
        *both,
        *(Pair(a + i, None, False) for i in range(m, n)),
        *(Pair(None, b + i, False) for i in range(n, m)),
    ]


def _parting(a: Trajectory, b: Trajectory, pairs: list[Pair]) -> tuple[int | None, Parting]:
    for row, pair in enumerate(pairs):
        if pair.a is None or pair.b is None:
            return row, "end"
        if a.steps[pair.a].observation != b.steps[pair.b].observation:
            return row, "observation"
        if not pair.same:
            return row, "action"
    return None, ""


def _word(action: str) -> str:
    return " ".join(action.split()).casefold()


WINDOW = 200
"""Rows shown at once."""

_PARTING = {
    "action": "Here they part: seeing the same, they act differently",
    "observation": "Here they part: after the same actions, they see something else",
    "end": "Here one of them ends",
}


@dataclass(frozen=True)
class Episode:
    """One attempt at a task."""

    name: str
    """Who and from where, plain text."""
    trajectory: Trajectory
    start: int = 0
    """Steps before it are the teacher's: the student was put there."""


@dataclass(frozen=True)
class CompareState:
    """What is compared: a task, and two of its episodes by number."""

    task: tuple[int, str] | None = None
    """Seed and task id; None: the first task."""
    a: int = 0
    b: int = 1
    open: frozenset[int] = frozenset()
    """Unfolded rows."""
    all_open: bool = False
    first: int = 0
    """First row shown of a long pair."""

    def at(self, task: tuple[int, str]) -> CompareState:
        """Another task, from its first two episodes on."""
        return CompareState(task)

    def swapped(self) -> CompareState:
        """The same, the other way round."""
        return replace(self, a=self.b, b=self.a)


class Episodes:
    """The episodes of each task: the teacher's, then the student's from every state."""

    def __init__(self, collection: Collection) -> None:
        """From a collection; the student's rollouts are read from its run when asked for."""
        self.collection = collection

    @property
    def tasks(self) -> list[tuple[int, str]]:
        """Tasks with an episode, as recorded."""
        return list(self.collection.by_task)

    def of(self, task: tuple[int, str] | None) -> list[Episode]:
        """The episodes of a task, a winning one second where there is one."""
        items = self.collection.by_task.get(task or next(iter(self.tasks), (0, "")), [])
        out: list[Episode] = []
        tries: list[Episode] = []
        for number, item in enumerate(items):
            t = item.trajectory
            sign = "\u2713" if t.solved else "\u2717"
            who = item.key.method + (f" {item.key.iteration}" if item.key.iteration else "")
            out.append(Episode(f"{who}: {sign} {t.policy}, reward {t.reward:.2f}", t))
            if item.key.method != "teacher":
                continue
            states = [s.k for s in item.states] or [0]
            for k in states if not number else [k for k in states if k]:
                for n, branch in enumerate(self.collection.branches.at(item, k)):
                    full = whole(item, branch)
                    if full is not None:
                        sign = "\u2713" if branch.won else "\u2717"
                        name = f"student from s{k}, rollout {n + 1}: {sign} {full.reward:.2f}"
                        tries.append(Episode(name, full, branch.t if k else 0))
        tries.sort(key=lambda e: (not e.trajectory.solved, -e.start))
        return out + tries


def pair_of(
    episodes: Sequence[Episode], state: CompareState
) -> tuple[Episode, Episode, Alignment] | None:
    """The two that are compared; None if there are no two."""
    if len(episodes) < 2:
        return None
    a, b = (episodes[min(max(0, i), len(episodes) - 1)] for i in (state.a, state.b))
    return a, b, align(a.trajectory, b.trajectory)


def compare_html(a: Episode, b: Episode, found: Alignment, state: CompareState) -> str:
    """The two columns."""
    head = "".join(f'<div class="head">{escape(e.name, 120)}</div>' for e in (a, b))
    rows = [f'<div class="pair"><div class="num"></div>{head}']
    first = state.first if state.first < len(found.pairs) else 0
    for number in range(first, min(first + WINDOW, len(found.pairs))):
        if number == found.parting:
            rows.append(f'<div class="diverge">\u25c7 {_PARTING[found.why]}</div>')
        pair = found.pairs[number]
        opened = state.all_open or number in state.open or number == found.parting
        rows.append(f'<div class="num" title="{_places(pair)}">{_number(pair)}</div>')
        for episode, t in ((a, pair.a), (b, pair.b)):
            rows.append(_cell(episode, t, pair.same, opened))
    rest = len(found.pairs) - first - WINDOW
    more = f'<p class="caption">\u2026 {rest:,} more rows</p>' if rest > 0 else ""
    ends = "".join(f"<div>{_end(e.trajectory)}</div>" for e in (a, b))
    return f'{"".join(rows)}<div class="num"></div>{ends}</div>{more}'


def summary(a: Episode, b: Episode, found: Alignment) -> str:
    """The comparison in a sentence, ready HTML."""
    if found.parting is None:
        return '<p class="caption">They never part: the same steps from start to end.</p>'
    pair = found.pairs[found.parting]
    t = pair.a if pair.a is not None else pair.b
    return (
        f'<p class="caption">The same up to step {t or 0}, then they part. {found.shared} of '
        f"{a.trajectory.length} and {b.trajectory.length} actions are shared.</p>"
    )


def render(episodes: Episodes, state: CompareState | None = None) -> str:
    """The static twin: two episodes of a task, row by row."""
    state = state or CompareState()
    pair = pair_of(episodes.of(state.task), state)
    if pair is None:
        return sheet(f'<p class="caption">{nothing(episodes)}</p>')
    a, b, found = pair
    goal = f'<p dir="auto"><strong>Task</strong> {escape(a.trajectory.instruction)}</p>'
    return sheet(goal + summary(a, b, found) + compare_html(a, b, found, state))


def nothing(episodes: Episodes) -> str:
    """Why there is nothing to compare."""
    if not episodes.tasks:
        return "No trajectory is recorded yet (<code>trajectories.jsonl</code>)."
    return (
        "This task has one episode only; a second comes from exploration "
        "(<code>branches.jsonl</code>) or from another teacher."
    )


def _number(pair: Pair) -> str:
    if pair.a is not None and pair.a == pair.b:
        return str(pair.a + 1)
    return "/".join(str(t + 1) if t is not None else "\u2013" for t in (pair.a, pair.b))


def _places(pair: Pair) -> str:
    left, right = (f"step {t + 1}" if t is not None else "nothing" for t in (pair.a, pair.b))
    return f"left: {left}, right: {right}"


def _cell(episode: Episode, t: int | None, same: bool, opened: bool) -> str:
    if t is None:
        return '<div class="gap"></div>'
    step: Step = episode.trajectory.steps[t]
    mark = "" if same else "other"
    flag = "" if step.valid else chip("\u2717 invalid")
    thought = f"<em>{escape(step.thought, LIMIT)}</em>\n" if step.thought else ""
    body = seen(step.observation, Shown(), step.action) if opened else escape(step.observation, 900)
    action = escape(step.action, 300) or "<em>no action</em>"
    return (
        f'<details class="{mark}"{" open" if opened else ""}><summary><code>{action}</code>{flag} '
        f'<span class="note">{escape(step.actor)}</span></summary>'
        f'<div class="body" dir="auto">{thought}{body}</div></details>'
    )


def _end(t: Trajectory) -> str:
    if t.error:
        return f"<strong>fault</strong> {escape(t.error, 200)}"
    return f"<strong>{'solved' if t.solved else 'not solved'}</strong>, reward {t.reward:.2f}"
