"""What environments around an external simulator share.

Owns the rules of an episode that no simulator keeps by itself: actions are counted whatever they
were, the limit, the end, one user at a time, and a restore that is verified and tried twice. Knows
nothing about any simulator or about Java.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from eeflib.envs.base import Observation, Restored, StepResult, replay_restore
from eeflib.errors import EnvironmentFault
from eeflib.records import Step, Task

__all__ = ["SimulatedEnv", "Standing"]

_OVER = "The episode is over."
_log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """Where an episode stands, as the simulator tells it."""

    raw_score: float
    """The simulator's own: 1.0 is solved, below 0 is failed."""
    over: bool
    """The simulator ended it, solved or failed."""
    state_key: str


class _OneAtATime:
    """Held while an environment is in use; another thread that wants it is told."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = threading.RLock()

    def __enter__(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise EnvironmentFault(
                f"two threads use one {self._name} at the same time; give each its own"
            )

    def __exit__(self, *exc: object) -> None:
        self._busy.release()


class SimulatedEnv:
    """Base of the environments that have their simulator outside of Python.

    A subclass has `title`, the simulator's name in messages, and gives `reset` (which ends in
    `_begin`), `valid_actions`, `close`, `_act` and `_standing`.
    """

    title: ClassVar[str]

    def __init__(self) -> None:
        self._alone = _OneAtATime(type(self).__name__)
        self._limit = 0
        self._actions = 0
        self._ended = False
        self._keys: list[str] = []  # state keys of s_0 ... s_t; empty: no episode

    def reset(self, task: Task) -> Observation:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _act(self, action: str) -> tuple[str, str]:
        """Hand `action` to the simulator: (its answer, why the action is not valid or nothing)."""
        raise NotImplementedError

    def _standing(self) -> Standing:
        """Where the episode stands now."""
        raise NotImplementedError

    def _unrestorable(self, expected: str | None) -> str:
        """Why the state with the text `expected`, or the one at hand (None), is none to act from.

        Empty if it is one.
        """
        return ""

    # ---- the protocol

    def step(self, action: str) -> StepResult:
        """Act. No action raises; what is not understood costs an action and changes nothing.

        Raises:
            EnvironmentFault: no episode under way, or the simulator failed during it.
        """
        with self._alone:
            if not self._keys:
                raise EnvironmentFault(f"no {self.title} episode is under way; call reset(task)")
            if self._ended:
                return self._result(_OVER, "the episode is over")
            self._actions += 1
            return self._result(*self._act(action))

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Replay `prefix` and compare every observation, and state key where one is recorded.

        A mismatch is tried once more.

        Raises:
            DataError, PrerequisiteError, EnvironmentFault: see `reset`.
        """
        if expected is not None and (why := self._unrestorable(expected)):
            return Restored(False, expected, len(prefix), why)
        with self._alone:
            restored = self._replay(task, prefix, expected)
            if not restored.ok:
                _log.info("replaying %s once more: %s", task.id, restored.detail)
                restored = self._replay(task, prefix, expected)
            if restored.ok and (why := self._unrestorable(None)):
                restored = Restored(False, restored.text, len(prefix), why)
            if not restored.ok:
                self._end_episode()
            return restored

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- for subclasses

    def _begin(self, text: str, limit: int) -> Observation:
        """The simulator has loaded a task and shows `text`; `limit` actions may follow."""
        self._limit = limit
        standing = self._standing()
        raw, key = standing.raw_score, standing.state_key
        self._keys = [key]
        return Observation(text, {"state_key": key, "score": max(raw, 0.0), "raw_score": raw})

    def _end_episode(self) -> None:
        self._limit = self._actions = 0
        self._ended = False
        self._keys = []

    def _result(self, text: str, reason: str = "") -> StepResult:
        raw, terminated, key = self._standing()
        score = raw if raw > 0.0 else 0.0
        truncated = not terminated and self._actions >= self._limit
        self._ended = terminated or truncated
        self._keys.append(key)
        info: dict[str, Any] = {
            "score": score,
            "raw_score": raw,
            "won": score >= 1.0,
            "valid": not reason,
            "state_key": key,
            "actions": self._actions,
        }
        if reason:
            info["reason"] = reason
        return StepResult(text, score, terminated, truncated, info)

    def _replay(self, task: Task, prefix: Sequence[Step], expected: str | None) -> Restored:
        restored = replay_restore(self, task, prefix, expected)  # type: ignore[arg-type]
        if restored.ok:
            for t, (step, key) in enumerate(zip(prefix, self._keys, strict=False)):
                if step.state_key and step.state_key != key:
                    return Restored(False, restored.text, t, "same text, but another state")
        return restored
