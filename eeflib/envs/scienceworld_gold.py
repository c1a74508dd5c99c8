"""ScienceWorld's gold paths: the simulator's own solutions, cut at the first completion and kept.

Owns the cut and the check that the path solves the task. Knows nothing about episodes.
"""

from __future__ import annotations

from pathlib import Path

from eeflib.envs.gold_file import GoldFile
from eeflib.envs.scienceworld_jvm import Simulator
from eeflib.envs.scienceworld_tasks import TaskSpec
from eeflib.errors import EnvironmentFault

__all__ = ["GoldPaths"]


class GoldPaths:
    """Gold paths, kept in memory and in a `GoldFile` with `task, variation, simplifications`."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept = GoldFile(path, ("task", "variation", "simplifications"))

    def known(self, spec: TaskSpec) -> tuple[str, ...] | None:
        """The path if it was computed before."""
        return self._kept.get(_key(spec))

    def compute(self, simulator: Simulator, spec: TaskSpec) -> tuple[str, ...]:
        """Plan, replay up to the first completion, keep.

        Raises:
            EnvironmentFault: the path does not end in a score of 1.0 (120 of 120 tried did).
        """
        uncut = simulator.gold(*_key(spec))
        turn = simulator.load(*_key(spec))
        actions: list[str] = []
        while uncut[len(actions) :] and not turn.completed:
            actions.append(uncut[len(actions)])
            turn = simulator.act(actions[-1])
        if not turn.completed or turn.raw_score < 1.0:
            raise EnvironmentFault(
                f"the gold path of {spec.name}, variation {spec.variation}, does not solve it; "
                "leave the task out"
            )
        return self._kept.put(_key(spec), actions)


def _key(spec: TaskSpec) -> tuple[str, int, str]:
    return spec.name, spec.variation, spec.simplification_text
