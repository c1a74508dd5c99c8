"""Gold paths: the simulator's own solutions, cut at the first completion and kept.

Owns the cut, the check that the path solves the task, and the cache. Knows nothing about episodes.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from eeflib.envs.scienceworld_jvm import Simulator
from eeflib.envs.scienceworld_tasks import TaskSpec
from eeflib.errors import EnvironmentFault

__all__ = ["GoldPaths"]

_log = logging.getLogger(__name__)


class GoldPaths:
    """Gold paths in memory and, if a file is given, in it: one JSON object a line, append-only.

    A line holds `task, variation, simplifications, actions`. A line that cannot be read is reported
    with file and line number, and computed again when it is needed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._paths: dict[tuple[str, int, str], tuple[str, ...]] | None = None

    def known(self, spec: TaskSpec) -> tuple[str, ...] | None:
        """The path if it was computed before."""
        if self._paths is None:
            self._paths = self._read()
        return self._paths.get(_key(spec))

    def compute(self, simulator: Simulator, spec: TaskSpec) -> tuple[str, ...]:
        """Plan, replay up to the first completion, keep.

        Raises:
            EnvironmentFault: the path does not end in a score of 1.0 (120 of 120 tried did).
        """
        uncut = simulator.gold(*_key(spec))
        simulator.load(*_key(spec))
        actions: list[str] = []
        while uncut[len(actions) :] and not simulator.call("getCompleted"):
            actions.append(uncut[len(actions)])
            simulator.call("step", actions[-1])
        if not simulator.call("getCompleted") or simulator.call("getScore") < 1.0:
            raise EnvironmentFault(
                f"the gold path of {spec.name}, variation {spec.variation}, does not solve it; "
                "leave the task out"
            )
        if self._paths is None:
            self._paths = self._read()
        self._paths[_key(spec)] = tuple(actions)
        self._append(spec, actions)
        return tuple(actions)

    def _append(self, spec: TaskSpec, actions: list[str]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row = {
            "task": spec.name,
            "variation": spec.variation,
            "simplifications": spec.simplification_text,
            "actions": actions,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _read(self) -> dict[tuple[str, int, str], tuple[str, ...]]:
        paths: dict[tuple[str, int, str], tuple[str, ...]] = {}
        if self._path is None or not self._path.exists():
            return paths
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
                key = (row["task"], row["variation"], row["simplifications"])
                if not row["actions"] or not all(isinstance(a, str) for a in row["actions"]):
                    raise ValueError("actions must be a list of texts")
                paths[key] = tuple(row["actions"])
            except (ValueError, KeyError, TypeError) as exc:
                _log.warning("%s, line %d: skipped (%s)", self._path, number, exc)
        return paths


def _key(spec: TaskSpec) -> tuple[str, int, str]:
    return spec.name, spec.variation, spec.simplification_text
