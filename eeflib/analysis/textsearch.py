"""Searching the text of trajectories: plain or by regular expression, with clear errors.

Import `Query`, and `TextIndex`, which makes a search over thousands of trajectories quick.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import regex

from eeflib.records import Step, Trajectory

__all__ = ["FIELDS", "Query", "TextIndex"]

FIELDS = ("task", "thought", "action", "observation")
"""What can be searched in; `task` is the instruction and the ids."""

_SECONDS = 2.0
"""A search that takes longer is stopped: some expressions never end on some texts."""
# Between the steps of a joined text: no class such as \s matches it.
_BETWEEN = "\n\x00\n"
_FLAGS = regex.IGNORECASE | regex.MULTILINE


@dataclass(frozen=True)
class Query:
    """What is looked for, case ignored."""

    text: str = ""
    regex: bool = False
    fields: tuple[str, ...] = FIELDS

    @property
    def empty(self) -> bool:
        return not self.text or not self.fields

    @property
    def problem(self) -> str:
        """Why it cannot be searched for; empty if it can."""
        if not self.regex or not self.text:
            return ""
        compiled = _compile(self.text)
        return compiled if isinstance(compiled, str) else ""

    @property
    def usable(self) -> bool:
        """Whether there is something that can be looked for."""
        return not self.empty and not self.problem

    def spans(self, text: str, limit: int = 200) -> list[tuple[int, int]]:
        """Where it is in `text`: (start, end) of the first matches that are not empty."""
        pattern = _compile(self.text if self.regex else regex.escape(self.text))
        if not self.usable or not _is_pattern(pattern):
            return []
        out: list[tuple[int, int]] = []
        try:
            for match in pattern.finditer(text, timeout=0.5):
                if match.end() > match.start():
                    out.append(match.span())
                    if len(out) == limit:
                        break
        except TimeoutError:  # what was found so far is marked
            pass
        return out

    def in_step(self, step: Step) -> bool:
        """Whether thought, action or observation of a step match, as far as they are searched."""
        return any(
            name != "task" and name in self.fields and self.spans(field_text(step, name), 1)
            for name in FIELDS
        )


@dataclass(frozen=True)
class Found:
    """Positions of the trajectories that match, or why there are none."""

    positions: tuple[int, ...]
    problem: str = ""


class TextIndex:
    """The text of many trajectories, joined per field when first searched."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self._trajectories = trajectories
        self._texts: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        self._last: tuple[Query, Found] | None = None

    def find(self, query: Query) -> Found:
        """Trajectories in which at least one of the query's fields matches."""
        if query.empty:
            return Found(tuple(range(len(self._trajectories))))
        if query.problem:
            return Found((), query.problem)
        if self._last is None or self._last[0] != query:
            self._last = (query, self._search(query))
        return self._last[1]

    def _search(self, query: Query) -> Found:
        hits: set[int] = set()
        try:
            for name in query.fields:
                hits |= self._regex(query, name) if query.regex else self._plain(query, name)
        except TimeoutError:
            return Found(
                (),
                f"stopped after {_SECONDS:.0f} s: this expression takes too long on these texts; "
                "repeat fewer groups, or search in fewer fields",
            )
        return Found(tuple(sorted(hits)))

    def _plain(self, query: Query, name: str) -> set[int]:
        if name not in self._folded:
            self._folded[name] = [text.casefold() for text in self._field(name)]
        needle = query.text.casefold()
        return {i for i, text in enumerate(self._folded[name]) if needle in text}

    def _regex(self, query: Query, name: str) -> set[int]:
        pattern = _compile(query.text)
        assert _is_pattern(pattern), query.problem
        end, hits = time.monotonic() + _SECONDS, set()
        for i, text in enumerate(self._field(name)):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if pattern.search(text, timeout=left) is None:
                continue
            # the expression may have matched across the end of a step
            parts = text.split(_BETWEEN)
            if len(parts) == 1 or any(
                pattern.search(part, timeout=max(0.01, end - time.monotonic())) for part in parts
            ):
                hits.add(i)
        return hits

    def _field(self, name: str) -> list[str]:
        if name not in self._texts:
            self._texts[name] = [_joined(t, name) for t in self._trajectories]
        return self._texts[name]


def field_text(step: Step, name: str) -> str:
    """The step's text that a search in the field `name` looks at."""
    if name == "action":
        return step.action or step.reply
    return step.thought if name == "thought" else step.observation


def _joined(trajectory: Trajectory, name: str) -> str:
    if name == "task":
        return f"{trajectory.instruction}{_BETWEEN}{trajectory.id}{_BETWEEN}{trajectory.task_id}"
    texts = [field_text(step, name) for step in trajectory.steps]
    if name == "observation":
        texts.append(trajectory.final_observation)
    return _BETWEEN.join(texts)


@lru_cache(256)
def _compile(text: str) -> regex.Pattern[str] | str:
    """The expression, or in words why it is none."""
    try:
        return regex.compile(text, _FLAGS)
    except regex.error as exc:
        where = "" if exc.pos is None else f" at character {exc.pos + 1}"
        return f"not a regular expression: {exc.msg}{where}"
    except (OverflowError, RecursionError, MemoryError):
        return "not a regular expression: it repeats or nests too much"


def _is_pattern(compiled: object) -> TypeGuard[regex.Pattern[str]]:
    return isinstance(compiled, regex.Pattern)
