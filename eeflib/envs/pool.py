"""A pool of environments: built on first use, reused, replaced when they break.

Owns how many there are, the threads that drive those whose work is done in another process, and
what became of restoring in all of them. Knows nothing about episodes or policies.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

from eeflib.envs.base import TextEnv
from eeflib.envs.restore_report import RestoreReport
from eeflib.errors import EnvironmentFault, PrerequisiteError

__all__ = ["EnvPool", "usable_cores"]

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
    - `restores`: a `RestoreReport`.
    """

    def __init__(self, make_env: Callable[[], TextEnv]) -> None:
        self._make = make_env
        self._envs: dict[int, TextEnv] = {}
        self._building = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._past = RestoreReport()
        self._traits: dict[str, Any] = {}
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
    def max_parallel(self) -> int | None:
        """How many such environments may be in use at once (`env.max_parallel`); None: any."""
        most: int | None = self._trait("max_parallel", None)
        return most

    @property
    def own_process(self) -> bool:
        """The environments work in processes outside of ours, which may die and be replaced."""
        return bool(self._trait("own_process", False))

    @property
    def in_threads(self) -> bool:
        """Threads make several of the environments work at the same time."""
        return bool(self._trait("in_threads", self.own_process))

    def _trait(self, name: str, default: Any) -> Any:
        # kept: the first environment may be broken by now, and asking would build another
        if name not in self._traits:
            self._traits[name] = getattr(self.get(0), name, default)
        return self._traits[name]

    @property
    def restores(self) -> RestoreReport:
        """How restoring went in all environments, those that broke included."""
        return sum((_restores(env) for env in self._envs.values()), self._past)

    def width(self, episodes: int, batch_size: int, *, independent: bool) -> int:
        """How many environments to use at once for `episodes`.

        Where replies do not depend on the batch (`independent`), environments that work in threads
        are spread over the cores: it changes no result. For other policies only what
        `max_parallel` says counts, so that results do not depend on the machine.
        """
        most = min(batch_size, self.max_parallel or batch_size)
        if not (independent and self.in_threads):
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
        if len(items) < 2 or not self.in_threads:
            return [call(item) for item in items]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(usable_cores(), "env")
        futures = [self._threads.submit(call, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    def discard(self, i: int) -> None:
        """Environment i broke: the next `get(i)` builds another."""
        env = self._envs.pop(i, None)
        if env is not None:
            self._past += _restores(env)
            _close(env)

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


def _restores(env: TextEnv) -> RestoreReport:
    return getattr(env, "restores", RestoreReport())


def _close(env: TextEnv) -> None:
    try:
        env.close()
    except EnvironmentFault as exc:
        _LOG.warning("closing environment %s failed: %s", env.name, exc)
