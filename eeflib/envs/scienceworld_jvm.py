"""One JVM with the ScienceWorld simulator inside: start, call, stop.

Owns the process and the raw interface of PyPI `scienceworld` 1.2.3. Turns everything that can go
wrong with a JVM into `EnvironmentFault`. Knows nothing about tasks as records or episodes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import weakref
from typing import Any, Literal

from eeflib.envs.java import java_environment
from eeflib.errors import EnvironmentFault, PrerequisiteError

__all__ = ["Simulator"]

Split = Literal["train", "dev", "test"]

_EXIT_SECONDS = 3.0


class Simulator:
    """A running simulator. Takes 2-5 s to start and about 0.5 GB.

    Args:
        deterministic: start the JVM so that the same actions give the same texts (stock
            ScienceWorld 1.2.3 does not: about two of three replays differ somewhere).

    Raises:
        PrerequisiteError: the `scienceworld` package or a Java runtime is missing.
        EnvironmentFault: the JVM did not come up.
    """

    def __init__(self, *, deterministic: bool = True) -> None:
        stock_class = _stock_class()
        from py4j.protocol import Py4JError

        with java_environment(deterministic=deterministic) as java:
            try:
                # Its own step limit counts ticks of the world, not actions: out of the way with it.
                stock = stock_class("", envStepLimit=10**9)
            except (OSError, ValueError, Py4JError) as exc:
                raise EnvironmentFault(
                    f"the ScienceWorld simulator did not start on {java}: {exc}; try again, and "
                    "check JAVA_TOOL_OPTIONS and the free memory (0.5 GB)"
                ) from exc
        self.stock: Any = stock
        """The upstream environment object, to compare with."""
        self.process: subprocess.Popen[bytes] = stock._gateway.java_process
        self._server: Any = stock.server
        self._error = Py4JError
        self._pid = os.getpid()
        self._stop = weakref.finalize(self, _stop, stock, self._pid)
        self._sizes: dict[str, int] | None = None
        self._splits: dict[tuple[str, Split], tuple[int, ...]] = {}

    @property
    def alive(self) -> bool:
        """The JVM runs, was not stopped, and belongs to this process (not to a parent's fork)."""
        return self._stop.alive and self._pid == os.getpid() and self.process.poll() is None

    def call(self, method: str, *args: Any) -> Any:
        """Call the simulator's interface.

        Raises:
            EnvironmentFault: the JVM is gone, or the call failed in it; it is then stopped, for its
                state is unknown.
        """
        if not self.alive:
            self.close()
            raise EnvironmentFault(
                "the ScienceWorld JVM of this environment is gone; reset() starts a new one"
            )
        done = False
        try:
            value = getattr(self._server, method)(*args)
            done = True
        except self._error as exc:
            reason = str(exc).strip().splitlines()[-1:] or [type(exc).__name__]
            raise EnvironmentFault(
                f"ScienceWorld failed in {method}{args!r:.200}: {reason[0]:.200}; "
                "reset() starts a new JVM"
            ) from exc
        finally:
            if not done:  # also an interrupt: the JVM may still be at work on the call
                self.close()
        return value

    @property
    def task_sizes(self) -> dict[str, int]:
        """Number of variations per task name."""
        if self._sizes is None:
            names = [str(n) for n in self.call("getTaskNames")]
            self._sizes = {n: int(self.call("getTaskMaxVariations", n)) for n in names}
        return self._sizes

    def variations(self, name: str, split: Split) -> tuple[int, ...]:
        """The official variations of a split; loads the task: an episode under way is lost."""
        if (name, split) not in self._splits:
            self.load(name, 0, "")  # the simulator answers for the task it has loaded
            for each in ("train", "dev", "test"):
                numbers = self.call(f"getVariations{each.capitalize()}")
                self._splits[name, each] = tuple(int(v) for v in numbers)
        return self._splits[name, split]

    def load(self, name: str, variation: int, simplifications: str) -> str:
        """Load a task, and return its first look (0 ticks; it also brings the score up to date)."""
        self.call("load", name, variation, simplifications, False)
        text = str(self.call("step", "look around"))
        if text.startswith("ERROR"):  # how the simulator reports a load that went wrong
            raise EnvironmentFault(
                f"ScienceWorld could not load {name}, variation {variation}, "
                f"simplifications {simplifications!r}: {text}"
            )
        return text

    def gold(self, name: str, variation: int, simplifications: str) -> list[str]:
        """The simulator's own solution, uncut; an episode under way is lost. 0.1-8 s."""
        self.call("load", name, variation, simplifications, True)
        actions = [str(a) for a in self.call("getGoldActionSequence")]
        # The simulator remembers the wish: without this every later reset would plan again.
        self.call("goldPathGenerationEnabled_$eq", False)
        return actions

    def close(self) -> None:
        """Stop the JVM (about 0.1 s). Calling it again does nothing."""
        self._stop()


def _stock_class() -> type[Any]:
    try:
        from scienceworld import ScienceWorldEnv
    except ImportError as exc:
        raise PrerequisiteError(
            f"ScienceWorld is not installed ({exc}); "
            "run `pip install 'eeflib[scienceworld]'` (it brings a Java runtime along)"
        ) from exc

    # py4j logs a traceback per retry besides raising; what matters arrives as EnvironmentFault.
    py4j_log = logging.getLogger("py4j")
    if py4j_log.level == logging.NOTSET:
        py4j_log.setLevel(logging.CRITICAL)

    class Stock(ScienceWorldEnv):
        def __del__(self) -> None:
            """`Simulator` stops the JVM; the inherited one raises when there is none."""

    return Stock


def _stop(stock: Any, pid: int) -> None:
    if os.getpid() != pid:  # a fork: the JVM is its parent's
        return
    process = stock._gateway.java_process
    stock._gateway.shutdown()
    stock._obj_tree_tempdir.cleanup()
    try:
        process.stdin.write(b"\n")  # the JVM waits for a line, or the end, of its input
        process.stdin.close()
    except (OSError, ValueError):
        process.kill()
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
