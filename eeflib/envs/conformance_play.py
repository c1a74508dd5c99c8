"""Playing an environment for the conformance suite: what was seen, and what differs.

Owns `Seen`, `play`, `wander` (a random walk, recorded) and `Caught`. Knows nothing about what is
right: the checks do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from eeflib.envs.base import FREE_TEXT, Observation, StepResult, TextEnv
from eeflib.records import Step, Task

__all__ = [
    "Broken",
    "Caught",
    "Propose",
    "Seen",
    "Walk",
    "difference",
    "fill",
    "play",
    "require",
    "wander",
]

Propose = Callable[[TextEnv, random.Random], str]
"""Chooses the next action of a random walk."""


class Broken(Exception):
    """An environment does not keep its side; the message says where and how."""


class Caught:
    """Holds what foreign code raises: to a suite that is a finding, whatever its type.

    Interrupts pass through.
    """

    error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error!s:.300}" if self.error else ""


def require(holds: bool, why: str) -> None:
    """Raises Broken unless it holds."""
    if not holds:
        raise Broken(why)


@dataclass(frozen=True)
class Seen:
    """What one state showed: after `reset`, or after an action."""

    text: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    score: float | None = None
    won: bool | None = None
    valid: bool | None = None
    state_key: str = ""
    actions: tuple[str, ...] | None = None
    """Valid actions there, where they were asked for."""

    @classmethod
    def of(cls, result: Observation | StepResult, actions: Sequence[str] | None = None) -> Self:
        info = result.info
        admissible = None if actions is None else tuple(actions)
        key = info.get("state_key", "")
        if isinstance(result, Observation):
            return cls(result.text, state_key=key, actions=admissible)
        return cls(
            result.text,
            result.reward,
            result.terminated,
            result.truncated,
            info.get("score"),
            info.get("won"),
            info.get("valid"),
            key,
            admissible,
        )

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of it."""
        actions = row["actions"]
        return cls(**{**row, "actions": None if actions is None else tuple(actions)})

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Walk:
    """A recorded random walk."""

    task: Task
    actions: tuple[str, ...]
    seen: tuple[Seen, ...]
    """s_0 to s_T: one more than there are actions."""

    @property
    def states(self) -> int:
        """How many states can be restored: all but one in which the episode is over."""
        return len(self.actions) + (not self.seen[-1].over)

    @property
    def steps(self) -> tuple[Step, ...]:
        """As a trajectory would have recorded it."""
        return tuple(
            Step(
                s.text, a, "teacher", reward=after.reward, score=after.score, state_key=s.state_key
            )
            for s, a, after in zip(self.seen, self.actions, self.seen[1:], strict=False)
        )


def play(env: TextEnv, task: Task, actions: Sequence[str], *, look: bool = False) -> Iterator[Seen]:
    """Reset and act, one state at a time; `look` asks for the valid actions in each state."""
    yield Seen.of(env.reset(task), env.valid_actions() if look else None)
    for action in actions:
        result = env.step(action)
        yield Seen.of(result, env.valid_actions() if look else None)


def wander(
    env: TextEnv, task: Task, depth: int, rng: random.Random, propose: Propose | None
) -> Walk:
    """At most `depth` random actions from s_0; ends where the episode does.

    Raises:
        Broken: the environment does not list its actions, and there is no `propose`.
    """
    seen = [Seen.of(env.reset(task), env.valid_actions())]
    actions: list[str] = []
    while len(actions) < depth and not seen[-1].over:
        action = propose(env, rng) if propose else _draw(seen[-1].actions, task, rng)
        if not action:
            break
        actions.append(action)
        seen.append(Seen.of(env.step(action), env.valid_actions()))
    return Walk(task, tuple(actions), tuple(seen))


def fill(action: str, task: Task, rng: random.Random) -> str:
    """`action` with words of the instruction where any text may stand."""
    words = task.instruction.split() or ["thing"]
    return action.replace(FREE_TEXT, " ".join(rng.sample(words, min(len(words), 2))))


def _draw(actions: Sequence[str] | None, task: Task, rng: random.Random) -> str:
    require(
        actions is not None,
        "valid_actions() gave None in the first state, so no walk can be made; pass "
        "propose=lambda env, rng: ... that chooses an action",
    )
    return fill(rng.choice(list(actions)), task, rng) if actions else ""


def difference(a: Seen, b: Seen) -> str:
    """The first field in which two states differ, short; empty if they are the same.

    Valid actions count where both have them, order included: policies draw from them by position.
    """
    for name in (f.name for f in fields(Seen)):
        x, y = getattr(a, name), getattr(b, name)
        if name == "actions":
            if x is None or y is None or x == y:
                continue
            extra = ", ".join(map(repr, sorted(set(x) ^ set(y))[:3]))
            return f"valid actions differ in {extra or 'their order'}"
        if x != y:
            if isinstance(x, str) and isinstance(y, str):
                at = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), 0)
                lo = max(0, at - 20)
                x, y = x[lo : at + 40], y[lo : at + 40]
            return f"{name} differs: {x!r} and {y!r}"
    return ""
