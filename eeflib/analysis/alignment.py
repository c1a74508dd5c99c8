"""Two trajectories side by side: which step of one stands for which of the other.

Owns the alignment and where the two first part. Knows nothing about how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Indel

from eeflib.records import Trajectory

__all__ = ["Alignment", "Pair", "align"]

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
    """`action`: seeing the same they did something else; `observation`: after the same actions
    they saw something else; `end`: one goes on where the other ended."""

    @property
    def shared(self) -> int:
        """Rows in which both did the same."""
        return sum(p.same for p in self.pairs)


def align(a: Trajectory, b: Trajectory) -> Alignment:
    """Row by row: the equal beginning, the two steps where they part, then what they share.

    After the parting the alignment keeps most equal actions in pairs (longest common subsequence);
    differing steps between two such pairs stand side by side, as far as there are two.
    """
    ours, theirs = [_word(x) for x in a.actions], [_word(x) for x in b.actions]
    start, shorter = 0, min(len(ours), len(theirs))
    while start < shorter and ours[start] == theirs[start]:
        start += 1
    pairs = [Pair(t, t, True) for t in range(start)]
    if start < shorter:  # what each did at the parting is what a reader looks for
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
