"""The run folder of a shop: tasks and finished trajectories, a whole one at a time.

Owns what is written and when, and what happens when it cannot be. Knows nothing about pages.

    RUN/manifest.json, RUN/tasks.jsonl, RUN/trajectories.jsonl
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eeflib.errors import DataError
from eeflib.records import Task, Trajectory
from eeflib.run import open_folder

__all__ = ["Ledger"]

_LOG = logging.getLogger(__name__)


class Ledger:
    """The records of a shop; a folder made with the same `config` is added to.

    Args:
        path: the run folder.
        tasks: what can be played; written where the folder does not have them yet.
        config: what decides which tasks there are, see `eeflib.run.open_folder`.
        seeds: seeds of the run.

    Raises:
        DataError: as for `open_folder`; a task in the folder has the same id and another content.
    """

    def __init__(
        self,
        path: Path | str,
        tasks: Sequence[Task],
        config: Mapping[str, Any],
        seeds: Sequence[int],
    ) -> None:
        self._run = open_folder(path, config, seeds=seeds)
        self.count = 0
        """Trajectories recorded by this shop."""
        self._waiting: list[Trajectory] = []
        try:
            self._add_tasks(tasks)
        except BaseException:
            self._run.close()
            raise

    @property
    def file(self) -> Path:
        """The file that trajectories go to."""
        return self._run.file("trajectories")

    def add(self, trajectory: Trajectory) -> str:
        """Record a finished episode; says what is wrong if it has to wait for the next try."""
        self._waiting.append(trajectory)
        try:
            self._flush()
        except DataError as exc:
            _LOG.error("%s; %d episodes wait to be recorded", exc, len(self._waiting))
            return f"Not recorded yet, the next finished task tries again: {exc}"
        return ""

    def close(self) -> None:
        """Write what waits and give the folder back.

        Raises:
            DataError: it still cannot be written; the message says how much is lost.
        """
        try:
            self._flush()
        except DataError as exc:
            raise DataError(f"{exc}; {len(self._waiting)} played episodes are lost") from exc
        finally:
            self._run.close()

    def _flush(self) -> None:
        self.count += self._run.append("trajectories", self._waiting)
        self._waiting = []

    def _add_tasks(self, tasks: Sequence[Task]) -> None:
        known = {}
        if self._run.exists("tasks"):
            known = {task.id: task.content_hash for task in self._run.read("tasks", Task)}
        for task in tasks:
            if known.get(task.id, task.content_hash) != task.content_hash:
                raise DataError(
                    f"{self._run.file('tasks')}: task {task.id!r} is another one there; "
                    "use another --run DIR"
                )
        self._run.append("tasks", [task for task in tasks if task.id not in known])
