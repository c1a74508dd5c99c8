"""The environment protocol, and a pool of environments.

Import `TextEnv`, `StepResult`, `Restored` and `EnvPool` from here. An environment
knows nothing of policies; `eeflib.rollout` plays episodes in a pool of them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from eeflib.errors import EnvironmentFault, PrerequisiteError
from eeflib.records import Step, Task

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
    env: TextEnv,
    task: Task,
    prefix: Sequence[Step],
    expected: str | None = None,
    *,
    at: tuple[int, str] | None = None,
) -> Restored:
    """Reset and replay `prefix`, comparing every observation with the recorded one.

    METHOD: a restored state is verified, observation by observation, or it is skipped and counted.

    Args:
        at: (t, text): `env` already stands at s_t, where it showed `text`: go on from there.
    """
    done, text = at or (0, env.reset(task).text)
    for t in range(done, len(prefix)):
        if text != prefix[t].observation:
            return Restored(False, text, t, difference(prefix[t].observation, text))
        result = env.step(prefix[t].action)
        text = result.text
        if result.terminated or result.truncated:
            return Restored(False, text, t + 1, "the episode ended during the replay")
    if expected is not None and text != expected:
        return Restored(False, text, len(prefix), difference(expected, text))
    return Restored(True, text)


def difference(recorded: str, replayed: str) -> str:
    """Where two texts part, and what each has there."""
    at = next(
        (i for i, (a, b) in enumerate(zip(recorded, replayed, strict=False)) if a != b),
        min(len(recorded), len(replayed)),
    )
    lo = max(0, at - 20)
    return f"at character {at}: recorded {recorded[lo : at + 40]!r}, got {replayed[lo : at + 40]!r}"


_EPISODES_PER_SIMULATOR = 20
"""Fewer do not pay for the start of another one (2-5 s, 0.5 GB)."""

_LOG = logging.getLogger(__name__)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def usable_cores() -> int:
    """Cores this process may use; `OMP_NUM_THREADS`, the share of a worker, lowers it."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(share)) if share.isdigit() and int(share) else cores


class EnvPool:
    """Environments built on first use and reused; a broken one is closed and built anew.

    Pass one pool to several calls of `run_episodes` to keep a costly environment (a Java virtual
    machine) warm between them; close it, or use it as a context manager.

    Three optional attributes of an environment matter here:

    - `max_parallel`: how many may be in use at once; None: any number.
    - `own_process`: its work is done in a process outside of ours, which may die for no reason of
      the episode's: an episode that is lost with it is run again.
    - `in_threads`: whether threads make several of these work at the same time; then there may be
      one per core, see `width`. Not where many share one process and a step is quick. Not given:
      as `own_process`.
    - `restores`: a Counter of how restoring went: calls that `restored` a verified state or
      `skipped` it; of these, `retried` (the first attempt did not match) and `continued` (went on
      from an earlier state instead of starting anew); and `replayed_steps`.
    """

    def __init__(self, make_env: Callable[[], TextEnv]) -> None:
        self._make = make_env
        self._envs: dict[int, TextEnv] = {}
        self._building = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._past = Counter[str]()
        self.redone = 0
        """Episodes that were run again because their simulator died."""

    def get(self, i: int) -> TextEnv:
        """Environment number i."""
        with self._building:
            if i not in self._envs:
                env = self._make()
                if any(env is other for other in self._envs.values()):
                    raise PrerequisiteError(
                        f"make_env returned the same {env.name} environment twice; build a new one "
                        "each time, or give the environment an attribute max_parallel = 1"
                    )
                self._envs[i] = env
            return self._envs[i]

    @property
    def own_process(self) -> bool:
        """The environments work in processes outside of ours, which may die and be replaced."""
        return self._traits[1]

    @cached_property
    def _traits(self) -> tuple[int | None, bool, bool]:
        """`max_parallel`, `own_process`, `in_threads` of the first environment; kept, as it may
        break and asking would build another."""
        env = self.get(0)
        own = getattr(env, "own_process", False)
        return getattr(env, "max_parallel", None), own, getattr(env, "in_threads", own)

    @property
    def restores(self) -> Counter[str]:
        """How restoring went in all environments, those that broke included."""
        return sum(map(_restores, self._envs.values()), self._past)

    def add(self, restores: Counter[str], redone: int) -> None:
        """Count what environments of another pool did as done here."""
        self._past += restores
        self.redone += redone

    def width(self, episodes: int, batch_size: int, *, independent: bool) -> int:
        """How many environments to use at once for `episodes`.

        Where replies do not depend on the batch (`independent`), environments that work in threads
        are spread over the cores: it changes no result. For other policies only what
        `max_parallel` says counts, so that results do not depend on the machine.
        """
        parallel, _, in_threads = self._traits
        most = min(batch_size, parallel or batch_size)
        if not (independent and in_threads):
            return most
        wanted = min(batch_size, usable_cores(), episodes // _EPISODES_PER_SIMULATOR)
        for i in range(1, wanted):
            try:
                self.get(i)
            except PrerequisiteError:  # make_env has only one to give
                wanted = i
                break
        return max(most, wanted)

    def map(self, call: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
        """`call` on each item, in threads where that makes environments work at the same time.

        Returns when all are done, also if one raised.
        """
        if len(items) < 2 or not self._traits[2]:
            return [call(item) for item in items]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(usable_cores(), "env")
        futures = [self._threads.submit(call, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    def discard(self, i: int) -> None:
        """Environment i broke: the next `get(i)` builds another."""
        env = self._envs.pop(i, None)
        if env is None:
            return
        self._past += _restores(env)
        try:
            env.close()
        except EnvironmentFault as exc:
            _LOG.warning("closing environment %s failed: %s", env.name, exc)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        for i in list(self._envs):
            self.discard(i)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _restores(env: TextEnv) -> Any:
    return getattr(env, "restores", Counter[str]())
