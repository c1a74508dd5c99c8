"""The checks that need the operating system: fresh processes, and what closing leaves behind.

Owns how an environment is named so that another process can build it, and what counts as a leak.
Knows nothing about what an episode should look like.

A fresh process is `python -m eeflib.envs.conformance_process IN OUT`, with another hash seed; tasks
and actions go in as JSON, what was seen comes out as JSON.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eeflib.envs.base import TextEnv
from eeflib.envs.conformance_play import Broken, Caught, Seen, Walk, difference, play, require
from eeflib.envs.conformance_subject import NotLooked, Subject
from eeflib.errors import EefError
from eeflib.records import Task

__all__ = ["build", "close", "leaks", "locate", "processes"]

_SPARE = 2
"""Handles more or less that say nothing: an environment may open something at its second reset."""


def locate(make_env: Callable[[], TextEnv]) -> list[str]:
    """Where another process finds `make_env`: [module or file, name].

    Raises:
        NotLooked: nowhere: a lambda, a function in a function, in a notebook or at a prompt.
    """
    name = getattr(make_env, "__qualname__", "")
    module = getattr(make_env, "__module__", "")
    place = module
    if module == "__main__":
        place = str(getattr(sys.modules["__main__"], "__file__", "") or "")
        place = str(Path(place).resolve()) if place.endswith(".py") else ""
    if place and getattr(sys.modules.get(module), name, None) is make_env:
        return [place, name]
    raise NotLooked(
        "another process cannot find make_env; make it a class or function at the top level of a "
        "module (in a notebook: write the module with %%writefile and import it)"
    )


def build(place: str, name: str) -> Callable[[], TextEnv]:
    """The factory that `locate` named."""
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location("eeflib_conformance_subject", place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    factory: Callable[[], TextEnv] = getattr(module, name)
    return factory


def processes(subject: Subject, count: int = 2, timeout_s: float = 300.0) -> str:
    """Fresh processes with different hash seeds see what this one has seen."""
    if count < 1:
        raise NotLooked("processes=0 was asked for")
    place, walks = locate(subject.make_env), subject.recorded
    for number in range(1, count + 1):
        again = _in_a_process(place, walks, number, timeout_s)
        for walk, seen in zip(walks, again, strict=True):
            for t, (a, b) in enumerate(zip(walk.seen, seen, strict=True)):
                differs = difference(a, b)
                where = f"{walk.task.id}, s_{t}, process {number}"
                require(not differs, f"{where}: {differs}")
    return f"{count} processes, {sum(len(w.seen) for w in walks)} states each"


def _in_a_process(
    place: list[str], walks: list[Walk], hash_seed: int, timeout_s: float
) -> list[list[Seen]]:
    env = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
    }
    plays = [{"task": w.task.to_dict(), "actions": w.actions} for w in walks]
    with tempfile.TemporaryDirectory() as folder:
        into, out = Path(folder, "in.json"), Path(folder, "out.json")
        into.write_text(json.dumps({"make_env": place, "plays": plays}))
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(into), str(out)],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as exc:
            raise Broken(f"a fresh process was not done after {timeout_s:g} s") from exc
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        require(done.returncode == 0, f"a fresh process failed: {last:.300}")
        rows = json.loads(out.read_text())
    return [[Seen.from_dict(row) for row in walk] for walk in rows]


def _child(into: str, out: str) -> None:
    asked: dict[str, Any] = json.loads(Path(into).read_text())
    env = build(*asked["make_env"])()
    rows = [
        [asdict(s) for s in play(env, Task.from_dict(p["task"]), p["actions"], look=True)]
        for p in asked["plays"]
    ]
    env.close()
    Path(out).write_text(json.dumps(rows))


def close(subject: Subject) -> str:
    """close() before the first reset, in mid-episode, and again: nothing is raised."""
    subject.close()
    walk = subject.recorded[0]
    subject.close()
    env = subject.make_env()
    for when in ("before the first reset", "a second time"):
        with Caught() as caught:
            env.close()
        require(not caught.error, f"close() {when} raised {caught}")
    env = subject.make_env()
    for _ in play(env, walk.task, walk.actions[:2]):
        pass
    for when in ("in mid-episode", "a second time", "a third time"):
        with Caught() as caught:
            env.close()
        require(not caught.error, f"close() {when} raised {caught}")
    with Caught() as caught:
        env.reset(walk.task)
    told = caught.error is None or isinstance(caught.error, EefError)
    require(told, f"reset after close() must work or raise an EefError, not {caught}")
    env.close()
    return "5 times"


@dataclass(frozen=True)
class _Held:
    """What this process holds of the operating system."""

    handles: int
    threads: int
    children: int

    def above(self, other: _Held, spare: int = 0) -> str:
        """What is more here than in `other`, in words."""
        rows = (
            (self.handles - other.handles, "open handle(s)"),
            (self.threads - other.threads, "thread(s)"),
            (self.children - other.children, "child process(es)"),
        )
        return ", ".join(f"{n} {what}" for n, what in rows if n > spare)


def _held() -> _Held:
    import psutil

    me = psutil.Process()
    handles = me.num_handles() if sys.platform == "win32" else me.num_fds()
    return _Held(handles, me.num_threads(), len(me.children(recursive=True)))


def leaks(
    subject: Subject, episodes: int = 100, environments: int = 3, settle_s: float = 5.0
) -> str:
    """Over `episodes`, spread over `environments`: no thread, process or handle is left behind.

    Counted at two points: at the end of an environment's episodes against its second one (it must
    not grow while in use), and after it was closed against before it was made, with `settle_s`
    for a process or thread to end.
    """
    try:
        importlib.import_module("psutil")
    except ImportError as exc:
        raise NotLooked(
            "counting handles, threads and processes needs psutil; run "
            "`pip install 'eeflib[conformance]'`"
        ) from exc
    walks = subject.recorded
    subject.close()
    _use(subject.make_env(), walks, 2)  # what is loaded once and for all is loaded
    gc.collect()  # what the collector would let go of meanwhile must not hide what is left behind
    before, played = _held(), 0
    for number in range(environments):
        share = (number + 1) * episodes // environments - played
        grown = _use(subject.make_env(), walks, share)
        played += share
        require(not grown, f"{grown} more after {share} episodes of one environment")
        left = _held().above(before)
        deadline = time.monotonic() + settle_s
        while left and time.monotonic() < deadline:  # a process takes its time to end
            gc.collect()  # what only waits for the collector is no leak
            time.sleep(0.05)
            left = _held().above(before)
        require(not left, f"{left} more after close() than before the environment was made")
    return f"{played} episodes in {environments} environments"


def _use(env: TextEnv, walks: list[Walk], episodes: int) -> str:
    """Play so many episodes and close; what grew while it was in use."""
    early, grown = None, ""
    try:
        for i in range(episodes):
            walk = walks[i % len(walks)]
            for _ in play(env, walk.task, walk.actions[:3], look=i % 10 == 0):
                pass
            if i == 1:
                early = _held()
        if early is not None and _held().above(early, _SPARE):
            gc.collect()
            grown = _held().above(early, _SPARE)
    finally:
        env.close()
    return grown


if __name__ == "__main__":
    _child(*sys.argv[1:])
