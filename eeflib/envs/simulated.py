"""What environments around a simulator in a JVM share.

Import `SimulatedEnv` from here; `scienceworld` and `textworld` are its two. It reads and makes task
records, starts and drops the JVM, keeps the rules of an episode that no simulator keeps by itself
(every action counts, the limit, the end, one user at a time), restores verified and twice if need
be, and remembers gold paths.
"""

from __future__ import annotations

import logging
import threading
import weakref
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from eeflib.envs.base import Observation, Restored, StepResult, replay_restore
from eeflib.envs.java import JavaSimulator
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Step, Task

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
"""Split -> the simulators' name for it."""

_SHARED: weakref.WeakValueDictionary[str, JavaSimulator] = weakref.WeakValueDictionary()
"""The JVM that all environments of one kind share, by title."""
_SHARING = threading.RLock()

_log = logging.getLogger(__name__)


class Spec(NamedTuple):
    """What a simulator needs to start a task."""

    kind: str
    """The type of task, or the game."""
    variation: int
    options: Any
    """The environment's own setting, as a record holds it."""
    text: str
    """`options` as the simulator reads them."""
    max_steps: int

    @property
    def key(self) -> tuple[str, int, str]:
        """What a gold path depends on."""
        return self.kind, self.variation, self.text


class Turn(NamedTuple):
    """What the simulator gave for an action, or for the first look."""

    text: str
    score: float
    """The simulator's own: 1.0 is solved, below 0 is failed."""
    over: bool
    """The simulator ended the episode, solved or failed."""


class SimulatedEnv:
    """Base of the environments that have their simulator in a JVM.

    A subclass sets the class attributes and gives `_options` to `_state_key` below.

    Args:
        max_steps: the limit where a task's settings give none.
    """

    name: str
    title: ClassVar[str]
    package: ClassVar[str]
    jar: ClassVar[str]
    """These as `JavaSimulator` takes them, with `name` as the extra."""
    flags: tuple[str, ...] = ()
    """Java options."""
    interface: ClassVar[str]
    """The Java class that the environment talks to."""
    shares_jvm: ClassVar[bool] = False
    """All environments of the class work in one JVM, which an exception in one of them leaves in
    use; else each has its own, and an exception ends it."""
    goal_field: ClassVar[str]
    """Name of `Spec.kind` in a task's goal."""
    option_field: ClassVar[str]
    """Name of `Spec.options` in a task's settings."""
    default_options: ClassVar[Any]
    digits: ClassVar[int]
    """Of the variation, in the id of a task."""
    idle_gold: ClassVar[bool] = False
    """Whether gold paths hold words that are no actions, to be left out."""
    own_process = True
    """See `eeflib.envs.base.EnvPool`."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.restores = Counter[str]()
        """How restoring went since the environment was made; see `EnvPool`."""
        self._gold: dict[tuple[str, int, str], tuple[str, ...]] = {}
        self._simulator: JavaSimulator | None = None
        self._server: Any = None  # an object of `interface`; None: make another
        self._busy = threading.RLock()
        self._recording: Task | None = None  # this episode was restored from a recording of it
        self._keys: list[str] = []  # state keys of s_0 ... s_t; empty: no episode
        self._texts: list[str] = []  # and their texts
        self._sent: list[str] = []  # the actions between them
        self._end_episode()

    # ---- what a subclass gives

    def _options(self, value: Any, kind: str) -> tuple[Any, str]:
        """`Spec.options` and `Spec.text` of a setting; raises DataError."""
        raise NotImplementedError

    def variations(self, kind: str, split: str) -> Sequence[int]:
        """All of a split; raises DataError for a kind that does not exist."""
        raise NotImplementedError

    def _load(self, spec: Spec) -> Turn:
        """Start a task; raises DataError for one that does not exist."""
        raise NotImplementedError

    def _act(self, action: str) -> tuple[Turn, str]:
        """Hand `action` to the simulator: (its answer, why the action is not valid or nothing)."""
        raise NotImplementedError

    def _listed(self) -> Iterable[str]:
        """The admissible actions, as the simulator has them."""
        raise NotImplementedError

    def _plan(self, spec: Spec) -> list[str]:
        """The simulator's own solution; what was loaded is lost."""
        raise NotImplementedError

    def _state_key(self, turn: Turn) -> str:
        """A fingerprint of the state at hand."""
        raise NotImplementedError

    def _unrestorable(self) -> str:
        """Why the state at hand is none to act from; empty if it is one."""
        return ""

    def _renew(self) -> None:
        """Before a replay is repeated: a fresh simulator, unless others work in it."""
        if not self.shares_jvm:
            self._drop()

    # ---- the protocol

    def reset(self, task: Task) -> Observation:
        """Start `task` and look around.

        Raises:
            DataError: another environment's task, an unknown one, or an unusable field.
            PrerequisiteError: no Java, or the simulator's package is missing.
            EnvironmentFault: the JVM failed; the next reset starts a new one.
        """
        with self._alone(task):
            self._end_episode()
            spec = self._read(task)
            self._turn = self._load(spec)
            self._limit = spec.max_steps
            self._keys, self._texts = [self._state_key(self._turn)], [self._turn.text]
            info = {"score": max(self._turn.score, 0.0), "raw_score": self._turn.score}
            return Observation(self._turn.text, {"state_key": self._keys[0], **info})

    def step(self, action: str) -> StepResult:
        """Act. No action raises; what is not understood costs an action and changes nothing.

        Raises:
            EnvironmentFault: no episode under way, or the simulator failed during it.
        """
        with self._alone():
            if not self._keys:
                raise EnvironmentFault(f"no {self.title} episode is under way; call reset(task)")
            if self._ended:
                return self._result("The episode is over.", "the episode is over")
            try:
                self._turn, reason = self._act(action)
                result = self._result(self._turn.text, reason)
            except EnvironmentFault:
                self._end_episode()
                raise
            self._texts.append(result.text)
            self._sent.append(action)
            return result

    def valid_actions(self) -> list[str]:
        """Admissible actions, sorted."""
        with self._alone():
            return sorted(set(self._listed())) if self._keys and not self._ended else []

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Replay `prefix` and compare every observation, and state key where one is recorded.

        Where the simulator still stands at an earlier state of the same recording, reached by the
        same actions with the same texts, it goes on from there. A mismatch is tried once more from
        the start, in a fresh simulator where there is such a thing; `restores` counts.

        Raises:
            DataError, PrerequisiteError, EnvironmentFault: see `reset`.
        """
        with self._alone():
            went_on = self._is_on_the_way(task, prefix)
            restored = self._replay(task, prefix, expected, len(self._sent) if went_on else None)
            again = not restored.ok
            if again:
                _log.info("replaying %s once more: %s", task.id, restored.detail)
                self._renew()
                restored = self._replay(task, prefix, expected, None)
            if restored.ok and (why := self._unrestorable()):
                restored = Restored(False, restored.text, len(prefix), why)
            self.restores.update(
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

    def close(self) -> None:
        """Leave the JVM, which ends with its last user; a later `reset` starts a new one."""
        self._end_episode()
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- besides the protocol

    @property
    def simulator(self) -> JavaSimulator:
        """The JVM in use; a dead one is replaced (an episode in it is lost)."""
        if self._simulator is None or not self._simulator.alive:
            lost = bool(self._keys)
            self._end_episode()
            self._drop()
            if lost:
                raise EnvironmentFault(
                    f"the {self.title} JVM died during the episode; reset() starts a new one"
                )
            self._simulator = self._open()
        return self._simulator

    def borrow(self) -> JavaSimulator:
        """The JVM, for other work than an episode; one under way ends."""
        with self._alone():
            self._end_episode()
            return self.simulator

    def gold_actions(self, task: Task) -> tuple[str, ...]:
        """The simulator's own solution, cut where the task is first solved.

        Computed once per task, the same in every run. Ends an episode under way.

        Raises:
            DataError, PrerequisiteError: see `reset`.
            EnvironmentFault: there is no path, or it does not solve the task.
        """
        with self._alone(task):
            self._end_episode()
            spec = self._read(task)
            if spec.key not in self._gold:
                self._gold[spec.key] = self._compute_gold(spec)
            return self._gold[spec.key]

    def task(
        self, kind: str, variation: int, options: Any = None, *, max_steps: int | None = None
    ) -> Task:
        """A task record, with the simulator's own description and split. Ends an episode under way.

        Args:
            kind: the type of task, or the game.
            options: simplifications, or parameters of the game; None: `default_options`.

        Raises:
            DataError: unknown kind or option, variation out of range.
        """
        number = f"{variation:0{self.digits}d}" if isinstance(variation, int) else variation
        limit = self.max_steps if max_steps is None else max_steps
        wanted = self.default_options if options is None else options
        task = Task(
            id=f"{self.name}-{kind}-{number}",
            env=self.name,
            instruction="",
            goal={self.goal_field: kind, "variation": variation},
            settings={self.option_field: wanted, "max_steps": limit},
            extra={"task_type": kind},
        )
        with self._alone(task):
            self._end_episode()
            spec = self._read(task)
            own = next((s for s in SPLITS if variation in self.variations(kind, s)), "")
            self._load(spec)
            return replace(
                task,
                instruction=str(self._call("getTaskDescription")).strip(),
                settings={self.option_field: spec.options, "max_steps": limit},
                split=own,
            )

    def drawn(
        self,
        kinds: Iterable[str],
        per_kind: int,
        split: str,
        seed: int,
        options: Mapping[str, Any],
        max_steps: int,
    ) -> list[Task]:
        """At most `per_kind` random variations of each kind, kind by kind, with its `options`.

        Which variations are drawn depends on `seed`, `split` and the kind, not on the other kinds
        asked for; a larger number begins with the same ones.

        Raises:
            DataError: unknown split, kind or option; `per_kind` below 1.
        """
        check_draw(split, per_kind)
        tasks = []
        for kind in dict.fromkeys(kinds):
            pool = self.variations(kind, split)
            rng = np.random.default_rng([seed, zlib.crc32(f"{split}/{kind}".encode())])
            for i in rng.permutation(len(pool))[:per_kind]:
                tasks.append(self.task(kind, pool[i], options.get(kind), max_steps=max_steps))
        return tasks

    # ---- for subclasses

    def _call(self, method: str, *args: Any) -> Any:
        """Call `interface`; a failed one is replaced at the next start, its state is unknown."""
        simulator = self.simulator
        try:
            if self._server is None:
                self._server = simulator.new(self.interface)
            return simulator.call(self._server, method, *args)
        except EnvironmentFault:
            self._server = None
            raise

    def _end_episode(self) -> None:
        self._limit = self._actions = 0
        self._ended = False
        self._keys, self._texts, self._sent = [], [], []
        self._recording = None

    def _drop(self) -> None:
        """Leave the JVM."""
        with _SHARING:
            if self._simulator is not None:
                self._simulator.leave(self)
        self._simulator = self._server = None

    # ---- inside

    def _open(self) -> JavaSimulator:
        with _SHARING if self.shares_jvm else nullcontext():
            jvm = _SHARED.get(self.title)
            if jvm is None or not jvm.alive:
                jvm = JavaSimulator(
                    self.title, self.package, self.jar, self.name,
                    flags=self.flags, survives_errors=self.shares_jvm,
                )  # fmt: skip
                if self.shares_jvm:
                    _SHARED[self.title] = jvm
            jvm.join(self)
            return jvm

    @contextmanager
    def _alone(self, task: Task | None = None) -> Iterator[None]:
        """Held while the environment is in use; another thread that wants it gets an error. A
        DataError says of which `task` it is."""
        if not self._busy.acquire(blocking=False):
            raise EnvironmentFault(
                f"two threads use one {type(self).__name__} at the same time; give each its own"
            )
        try:
            yield
        except DataError as exc:
            if task is None:
                raise
            raise DataError(f"task {task.id!r}: {exc}") from exc
        finally:
            self._busy.release()

    def _read(self, task: Task) -> Spec:
        """What a record says; raises DataError for a field that is missing or unusable."""
        if task.env != self.name:
            raise DataError(f"it belongs to environment {task.env!r}, not to {self.name!r}")
        kind, variation = task.goal.get(self.goal_field), task.goal.get("variation")
        if not isinstance(kind, str) or not kind:
            raise DataError(f"goal.{self.goal_field} must be a name, not {kind!r:.80}")
        if not isinstance(variation, int) or isinstance(variation, bool):
            raise DataError(f"goal.variation must be an integer, not {variation!r:.80}")
        limit = task.settings.get("max_steps", self.max_steps)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise DataError(f"settings.max_steps must be a positive integer, not {limit!r:.80}")
        value = task.settings.get(self.option_field, self.default_options)
        return Spec(kind, variation, *self._options(value, kind), limit)

    def _result(self, text: str, reason: str) -> StepResult:
        raw, terminated = self._turn.score, self._turn.over
        self._actions += not self._ended
        score = raw if raw > 0.0 else 0.0
        truncated = not terminated and self._actions >= self._limit
        self._ended = terminated or truncated
        self._keys.append(self._state_key(self._turn))
        info: dict[str, Any] = {
            "score": score,
            "raw_score": raw,
            "won": score >= 1.0,
            "valid": not reason,
            "state_key": self._keys[-1],
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
        self, task: Task, prefix: Sequence[Step], expected: str | None, done: int | None
    ) -> Restored:
        """`replay_restore`, with state keys; `done` actions of it are behind us (None: reset)."""
        at = None if done is None else (done, self._texts[-1])
        restored = replay_restore(self, task, prefix, expected, at=at)
        self.restores["replayed_steps"] += len(self._sent) - (done or 0)
        for t, (step, key) in enumerate(zip(prefix, self._keys, strict=False)):
            if restored.ok and step.state_key and step.state_key != key:
                return Restored(False, restored.text, t, "same text, but another state")
        return restored

    def _compute_gold(self, spec: Spec) -> tuple[str, ...]:
        path, actions = self._plan(spec), list[str]()
        self._turn = self._load(spec)
        for action in path:
            if self._turn.over:
                break
            self._turn, reason = self._act(action)
            if not (reason and self.idle_gold):
                actions.append(action)
        if not self._turn.over or self._turn.score < 1.0:
            raise EnvironmentFault(
                f"the gold path of {spec.kind}, variation {spec.variation}, does not solve it; "
                "leave the task out"
            )
        return tuple(actions)


def check_draw(split: str, per_kind: int | None) -> None:
    """Raise DataError unless `split` is one and `per_kind` at least 1."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    if per_kind is not None and per_kind < 1:
        raise DataError(f"the number of each type must be at least 1, not {per_kind}")
