"""Jobs in worker processes that share a run folder and end with their parent.

`eeflib.demo` starts workers here and gets their progress over a queue; the run's lock is handed
over to them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eeflib.errors import EefError, EnvironmentFault
from eeflib.files import RunLock

__all__ = ["Event", "Job", "run_jobs", "worker_folder_lock"]

log = logging.getLogger(__name__)

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


class _ParentsLock(RunLock):
    """The run's lock as a worker sees it: its parent holds it."""

    def acquire(self) -> bool:
        return False

    def release(self) -> None:
        return None


def worker_folder_lock(folder: Path) -> RunLock:
    """For `RunFolder(lock=...)` inside a worker whose parent holds the lock of `folder`."""
    return _ParentsLock(folder)


def _start(events: Any, parent: int, alive: Path) -> None:
    global _EVENTS
    _EVENTS = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which a killed worker leaks
    _hold(alive)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """A killed parent must not leave workers behind that still write into the run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _hold(alive: Path) -> None:
    """Hold a shared lock for as long as this process lives."""
    try:
        import fcntl
    except ImportError:  # Windows: only the watch over the parent protects the run
        return
    handle = os.open(alive, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)


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
        on_event: called in a thread of this process with the jobs' progress.

    Raises:
        EefError: from a job.
        EnvironmentFault: a worker was killed (out of memory?).
    """
    alive = folder / ".workers"  # the holder of the lock has waited for an earlier run's workers
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    results: dict[str, Any] = {}
    waiting = list(jobs)
    running: dict[Future[Any], Job] = {}
    failed: BaseException | None = None
    threads = threads or max(1, (os.cpu_count() or 1) // processes)
    with (
        _environment(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false"),
        _listening(events, on_event),
        ProcessPoolExecutor(
            processes, context, initializer=_start, initargs=(events, os.getpid(), alive)
        ) as pool,
        _ending_workers_on_interrupt(),
    ):
        while waiting or running:
            ready = [j for j in waiting if all(n in results for n in j.needs)]
            for job in ready if failed is None else []:
                waiting.remove(job)
                running[pool.submit(_call, job)] = job
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                try:
                    results[job.name] = future.result()
                except (EefError, BrokenProcessPool) as exc:
                    failed = failed or exc
    if isinstance(failed, BrokenProcessPool):
        raise EnvironmentFault(
            "a worker process was killed, perhaps for memory; what was done is kept: run the same "
            "command again, or use --processes 1"
        ) from None
    if failed is not None:
        raise failed
    return results


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables for the workers, which read them when they start; restored afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _ending_workers_on_interrupt() -> Iterator[None]:
    """Ctrl-C does not wait until the running jobs, which may take minutes, are done."""
    try:
        yield
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            if process.name.startswith("SpawnProcess"):
                process.kill()
                process.join(5.0)
        raise


@contextmanager
def _listening(events: Any, on_event: Callable[[Event], None]) -> Iterator[None]:
    def listen() -> None:
        while (event := events.get()) is not None:
            on_event(event)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        events.put(None)
        thread.join()
