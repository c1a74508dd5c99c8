"""The lock of a run folder: one process writes, any number read.

Owns `RunLock`. The operating system gives the lock back when its holder dies, however it dies, so
a killed run never blocks the next. Workers of a run (`eeflib.workers`) hold a shared lock on
`.workers` for as long as they live; a new holder waits until the workers of a killed one are gone.
Knows nothing about the folder's other files.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import threading
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from eeflib.errors import DataError

__all__ = ["RunLock"]

log = logging.getLogger(__name__)

_WORKERS_SECONDS = 20.0

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_HELD: dict[tuple[int, Path], tuple[FileLock, int]] = {}
"""(process, folder) -> lock and number of users: a notebook cell run twice must not lock itself
out, while a forked child must not take its parent's lock for its own."""
_TURN = threading.RLock()


class RunLock:
    """The lock of one folder, shared by everybody in this process who asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key: tuple[int, Path] | None = None

    def acquire(self) -> bool:
        """Take the lock, making the folder if needed; False if this object has it already.

        Raises:
            DataError: another process has it (the message says which), or the folder cannot be
                written.
        """
        with _TURN:
            if self._key is not None and self._key[0] == os.getpid():
                return False
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                key = (os.getpid(), self.folder.resolve())
                if key in _HELD:
                    lock, users = _HELD[key]
                    _HELD[key] = (lock, users + 1)
                else:
                    _HELD[key] = (self._take(), 1)
            except Timeout:
                raise DataError(
                    f"{self.folder} is being written by {self._owner()}: wait until that is "
                    "done, stop it, or use another --run DIR"
                ) from None
            except OSError as exc:
                raise DataError(
                    f"{self.folder}: cannot be written ({exc.strerror or exc}); "
                    "use another --run DIR"
                ) from exc
            self._key = key
            return True

    def release(self) -> None:
        """Give it back, if this object has it; the last user in the process frees the folder."""
        with _TURN:
            key, self._key = self._key, None
            if key is None or key[0] != os.getpid():
                return
            lock, users = _HELD.pop(key)
            if users > 1:
                _HELD[key] = (lock, users - 1)
            else:
                lock.release(force=True)

    def _take(self) -> FileLock:
        lock = FileLock(self.folder / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as exc:
            if isinstance(exc, Timeout) or getattr(exc, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
            log.warning(
                "%s: this file system has no locks; make sure only one process writes this run",
                self.folder,
            )
        try:
            self._wait_for_workers()
        except BaseException:
            lock.release(force=True)
            raise
        owner = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (self.folder / ".lock.owner").write_text(json.dumps(owner))
        return lock

    def _wait_for_workers(self) -> None:
        workers = self.folder / ".workers"
        if not workers.exists():
            return
        try:
            # they notice within a moment; what they are writing must not be repaired meanwhile
            with FileLock(workers, timeout=_WORKERS_SECONDS, thread_local=False):
                pass
        except Timeout:
            raise DataError(
                f"{self.folder} is still being written by worker processes of {self._owner()}, "
                "which is gone: end them, or use another --run DIR"
            ) from None
        except (OSError, NotImplementedError) as exc:
            log.debug("%s: no lock to wait for (%s)", workers, exc)

    def _owner(self) -> str:
        try:
            owner = json.loads((self.folder / ".lock.owner").read_bytes())
            return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
