"""What environments around an external simulator share.

Import `SimulatedEnv`, `Progress` and `GoldFile` (solutions by task, in memory and, if a file is
given, in it) from here. `SimulatedEnv` has the rules of an episode that no simulator keeps by
itself: every action counts, the limit, the end, one user at a time, and a restore that is verified
and tried twice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from eeflib.envs.base import Observation, Restored, RestoreReport, StepResult, replay_restore
from eeflib.errors import EnvironmentFault
from eeflib.files import append_lines
from eeflib.records import Step, Task

__all__ = [
    "GoldFile",
    "Key",
    "Progress",
    "SimulatedEnv",
]

Key = tuple[str | int, ...]

_log = logging.getLogger(__name__)

_OVER = "The episode is over."


class GoldFile:
    """Gold paths that were computed before.

    A line of the file that cannot be read is reported with file and line number, and its path is
    computed again when it is needed.

    Args:
        fields: the names of a key's values.
    """

    def __init__(self, path: Path | None, fields: Sequence[str]) -> None:
        self._path = path
        self._fields = tuple(fields)
        self._paths: dict[Key, tuple[str, ...]] | None = None

    def get(self, key: Key) -> tuple[str, ...] | None:
        """The path of `key`, if it is known."""
        if self._paths is None:
            self._paths = self._read()
        return self._paths.get(key)

    def put(self, key: Key, actions: Sequence[str]) -> tuple[str, ...]:
        """Keep a path, which is returned.

        Raises:
            DataError: the file cannot be written.
        """
        if self.get(key) is None and self._path is not None:
            row = {**dict(zip(self._fields, key, strict=True)), "actions": list(actions)}
            append_lines(self._path, [json.dumps(row, ensure_ascii=False)])
        assert self._paths is not None, "get has read the file"
        self._paths[key] = tuple(actions)
        return self._paths[key]

    def _read(self) -> dict[Key, tuple[str, ...]]:
        paths: dict[Key, tuple[str, ...]] = {}
        if self._path is None or not self._path.exists():
            return paths
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
                key = tuple(row[name] for name in self._fields)
                if not row["actions"] or not all(isinstance(a, str) for a in row["actions"]):
                    raise ValueError("actions must be a list of texts")
                paths[key] = tuple(row["actions"])
            except (ValueError, KeyError, TypeError) as exc:
                _log.warning("%s, line %d: skipped (%s)", self._path, number, exc)
        return paths


class Progress(NamedTuple):
    """Score, end and state of an episode, as the simulator reports them."""

    raw_score: float
    """The simulator's own: 1.0 is solved, below 0 is failed."""
    over: bool
    """The simulator ended it, solved or failed."""
    state_key: str


class _OneAtATime:
    """Held while an environment is in use; another thread that wants it gets an error."""

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
    `_begin`), `valid_actions`, `close`, `_act` and `_progress`.
    """

    title: ClassVar[str]

    def __init__(self) -> None:
        self._alone = _OneAtATime(type(self).__name__)
        self._limit = 0
        self._actions = 0
        self._ended = False
        self._keys: list[str] = []  # state keys of s_0 ... s_t; empty: no episode
        self._texts: list[str] = []  # and their texts
        self._sent: list[str] = []  # the actions between them
        self._best = 0.0
        self._recording: Task | None = None  # this episode was restored from a recording of it
        self.restores = RestoreReport()
        """How restoring went since the environment was made."""

    def reset(self, task: Task) -> Observation:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _act(self, action: str) -> tuple[str, str]:
        """Hand `action` to the simulator: (its answer, why the action is not valid or nothing)."""
        raise NotImplementedError

    def _progress(self) -> Progress:
        """Where the episode stands now."""
        raise NotImplementedError

    def _renew(self) -> None:
        """Before a replay is repeated: a fresh simulator, where that is possible."""

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
            text, reason = self._act(action)
            self._texts.append(text)
            self._sent.append(action)
            return self._result(text, reason)

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Replay `prefix` and compare every observation, and state key where one is recorded.

        Where the simulator still stands at an earlier state of the same recording, reached by the
        same actions with the same texts, it goes on from there. A mismatch is tried once more from
        the start, in a fresh simulator where there is such a thing; `restores` counts.

        Raises:
            DataError, PrerequisiteError, EnvironmentFault: see `reset`.
        """
        if expected is not None and (why := self._unrestorable(expected)):
            self.restores += RestoreReport(skipped=1)
            return Restored(False, expected, len(prefix), why)
        with self._alone:
            went_on = self._is_on_the_way(task, prefix)
            restored = self._replay(task, prefix, expected, go_on=went_on)
            again = not restored.ok
            if again:
                _log.info("replaying %s once more: %s", task.id, restored.detail)
                self._renew()
                restored = self._replay(task, prefix, expected)
            if restored.ok and (why := self._unrestorable(None)):
                restored = Restored(False, restored.text, len(prefix), why)
            self.restores += RestoreReport(
                restored=int(restored.ok),
                retried=int(again),
                skipped=int(not restored.ok),
                continued=int(restored.ok and went_on and not again),
            )
            if restored.ok:
                self._recording = task
            else:
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
        progress = self._progress()
        raw, key = progress.raw_score, progress.state_key
        self._keys, self._texts, self._best = [key], [text], 0.0
        return Observation(text, {"state_key": key, "score": max(raw, 0.0), "raw_score": raw})

    def _end_episode(self) -> None:
        self._limit = self._actions = 0
        self._ended = False
        self._keys, self._texts, self._sent = [], [], []
        self._recording = None

    def _result(self, text: str, reason: str = "") -> StepResult:
        raw, terminated, key = self._progress()
        score = raw if raw > 0.0 else 0.0
        truncated = not terminated and self._actions >= self._limit
        self._ended = terminated or truncated
        self._keys.append(key)
        if score > self._best:
            self._best = score
        info: dict[str, Any] = {
            "score": score,
            "raw_score": raw,
            "best_score": self._best,
            "won": score >= 1.0,
            "valid": not reason,
            "state_key": key,
            "actions": self._actions,
        }
        if reason:
            info["reason"] = reason
        return StepResult(text, score, terminated, truncated, info)

    def _is_on_the_way(self, task: Task, prefix: Sequence[Step]) -> bool:
        """The episode under way is a beginning of the recording, and was restored from it."""
        done = len(self._sent)
        return (
            self._recording == task
            and not self._ended
            and done <= len(prefix)
            and [s.action for s in prefix[:done]] == self._sent
            and [s.observation for s in prefix[:done]] == self._texts[:done]
        )

    def _replay(
        self, task: Task, prefix: Sequence[Step], expected: str | None, *, go_on: bool = False
    ) -> Restored:
        done = len(self._sent) if go_on else 0
        env: Any = _Onward(self, self._texts[-1]) if go_on else self
        restored = replay_restore(env, task, prefix[done:], expected)
        self.restores += RestoreReport(replayed_steps=len(self._sent) - done)
        if restored.ok:
            for t, (step, key) in enumerate(zip(prefix, self._keys, strict=False)):
                if step.state_key and step.state_key != key:
                    return Restored(False, restored.text, t, "same text, but another state")
        elif restored.first_mismatch is not None:
            return replace(restored, first_mismatch=restored.first_mismatch + done)
        return restored


class _Onward:
    """An environment as `replay_restore` sees it: it starts where it stands."""

    def __init__(self, env: SimulatedEnv, text: str) -> None:
        self._text = text
        self.step = env.step

    def reset(self, task: Task) -> Observation:
        return Observation(self._text)
