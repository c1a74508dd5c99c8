"""The environment protocol: text in, text out, restorable.

Owns `TextEnv` and the values it returns, and `replay_restore`, the restore that works for every
deterministic environment. Knows nothing about policies or training. Names follow Gymnasium
(`reset`, `step`, `terminated`, `truncated`) without depending on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from eeflib.records import Step, Task

__all__ = [
    "FREE_TEXT",
    "REWARD_FACTS",
    "Observation",
    "Restored",
    "StepResult",
    "TextEnv",
    "replay_restore",
]

FREE_TEXT = "<text>"
"""Stands for any text in a valid action, as in `search[<text>]`."""

REWARD_FACTS = ("reward_info", "nouns")
"""Keys of `StepResult.info` that a trajectory's `extra` keeps: the parts of the reward (a dict of
JSON values) and what it rests on (a text). WebShop gives both, at the purchase."""


@dataclass(frozen=True)
class Observation:
    """What an agent sees after `reset`."""

    text: str
    info: dict[str, Any] = field(default_factory=dict)
    """`state_key` at least, where the environment has one."""


@dataclass(frozen=True)
class StepResult:
    """What one action gave."""

    text: str
    """The next observation."""
    reward: float
    """In [0, 1]; the episode's reward R is that of its last step."""
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)
    """`score` (float, running, in [0, 1]), `won` (bool), `valid` (bool), `state_key` (str);
    where the environment has them, `reason` of an invalid action and `REWARD_FACTS`."""


@dataclass(frozen=True)
class Restored:
    """Outcome of `restore`: the environment now stands at the state after `prefix`, or not."""

    ok: bool
    text: str = ""
    """The observation at the restored state (of the last step that matched, if not ok)."""
    first_mismatch: int | None = None
    """Index t of the first observation that differs from the recorded s_t."""
    detail: str = ""
    """What differed, short."""


@runtime_checkable
class TextEnv(Protocol):
    """An in-process, synchronous, single-agent text environment."""

    name: str

    def reset(self, task: Task) -> Observation:
        """Start `task`. Raises DataError for a task this environment cannot hold."""
        ...

    def step(self, action: str) -> StepResult:
        """Act. Never raises on an action: an invalid one is a step with `info["valid"] = False`."""
        ...

    def valid_actions(self) -> list[str] | None:
        """Admissible actions now; may be costly, None if unknown; may hold `FREE_TEXT`."""
        ...

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Go to the state after `prefix`, verified against the recorded observations.

        `expected` is the recorded observation of the state itself (None: do not compare it).
        """
        ...

    def close(self) -> None: ...


def replay_restore(
    env: TextEnv, task: Task, prefix: Sequence[Step], expected: str | None = None
) -> Restored:
    """Reset and replay `prefix`, comparing every observation with the recorded one.

    METHOD: a restored state is verified, observation by observation, or it is skipped and counted.
    """
    text = env.reset(task).text
    for t, step in enumerate(prefix):
        if text != step.observation:
            return Restored(False, text, t, _difference(step.observation, text))
        result = env.step(step.action)
        text = result.text
        if result.terminated or result.truncated:
            return Restored(False, text, t + 1, "the episode ended during the replay")
    if expected is not None and text != expected:
        return Restored(False, text, len(prefix), _difference(expected, text))
    return Restored(True, text)


def _difference(recorded: str, replayed: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(recorded, replayed, strict=False)) if a != b),
        min(len(recorded), len(replayed)),
    )
    lo = max(0, at - 20)
    return f"at character {at}: recorded {recorded[lo : at + 40]!r}, got {replayed[lo : at + 40]!r}"
