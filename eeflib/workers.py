"""Jobs in worker processes that share a run folder and end with their parent.

`eeflib.demo` starts workers here and gets their progress over a queue. Their parent holds the run's
lock.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eeflib.errors import EefError, EnvironmentFault
from eeflib.files import RunLock

Event = tuple[str, str, int, int]
"""(job, step, done, total)"""

_EVENTS: Any = None


@dataclass(frozen=True)
class Job:
    """A call to run in a worker once the jobs it needs are done."""

    name: str
    call: Callable[..., Any]
    """A module-level function; called with `args` and a progress function."""
    args: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()


class ParentsLock(RunLock):
    """The run's lock as a worker sees it, for `RunFolder(lock=...)`: its parent holds it."""

    def acquire(self) -> bool:
        return False

    def release(self) -> None:
        return None


def _start(events: Any, parent: int, alive: Path) -> None:
    global _EVENTS
    _EVENTS = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a killed worker leaks
    with suppress(ImportError):  # Windows: only the watch over the parent protects the run
        import fcntl

        # a shared lock for as long as this process lives
        fcntl.flock(os.open(alive, os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """A killed parent must not leave workers behind that still write into the run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _call(job: Job) -> Any:
    def progress(step: str, done: int, total: int) -> None:
        _EVENTS.put((job.name, step, done, total))

    return job.call(*job.args, progress)


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int,
    threads: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Run `jobs`, each as soon as those it needs are done; name -> what the call returned.

    Workers are started afresh (no fork: Java and torch do not survive one) and share the cores:
    more threads than cores collapse the speed of small models. If a job raises, no further one is
    started, the running ones are awaited, and the first error is raised.

    Args:
        folder: the run folder, whose lock the caller holds.
        threads: torch threads of a worker; None shares the cores out.
        on_event: called with the jobs' progress.

    Raises:
        EefError: from a job.
        EnvironmentFault: a worker was killed (out of memory?).
    """
    alive = folder / ".workers"  # the holder of the lock has waited for an earlier run's workers
    context = multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    results: dict[str, Any] = {}
    waiting = list(jobs)
    running: dict[Future[Any], Job] = {}
    failed: BaseException | None = None
    threads = threads or max(1, (os.cpu_count() or 1) // processes)
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    try:
        start = (events, os.getpid(), alive)
        with ProcessPoolExecutor(processes, context, initializer=_start, initargs=start) as pool:
            try:
                while waiting or running:
                    ready = [j for j in waiting if all(n in results for n in j.needs)]
                    for job in ready if failed is None else []:
                        waiting.remove(job)
                        running[pool.submit(_call, job)] = job
                    if not running:
                        break
                    finished, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                    while not events.empty():
                        on_event(events.get())
                    for future in finished:
                        job = running.pop(future)
                        try:
                            results[job.name] = future.result()
                        except (EefError, BrokenProcessPool) as exc:
                            failed = failed or exc
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():  # they may take minutes to end
                    if process.name.startswith("SpawnProcess"):
                        process.kill()
                        process.join(5.0)
                raise
    finally:
        os.environ.clear()
        os.environ |= before
    if isinstance(failed, BrokenProcessPool):
        raise EnvironmentFault(
            "a worker process was killed, perhaps for memory; what was done is kept: run the same "
            "command again, or use --processes 1"
        ) from None
    if failed is not None:
        raise failed
    return results
