"""The conformance suite on the environments whose simulator is a JVM: the real ones."""

from __future__ import annotations

import pytest

from eeflib.envs.conformance import check_environment
from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.envs.textworld import TextWorldEnv, textworld_tasks


@pytest.mark.slow
def test_textworldexpress_passes() -> None:
    tasks = textworld_tasks(["twc", "cookingworld"], 2, seed=3)
    report = check_environment(TextWorldEnv, tasks, episodes=60, environments=2)
    assert (report.failed, report.not_run) == ((), ()), report


class Patient(ScienceWorldEnv):
    """Tries a refused state again in the same JVM; a fresh one for each would take a minute."""

    def _renew(self) -> None:
        pass


@pytest.mark.slow
def test_scienceworld_passes() -> None:
    """It may refuse pending menus, and its own list of actions names things in closed containers.

    One task with wires, which no look around tells of.
    """
    types = ("power-component", "chemistry-mix-paint-secondary-color")
    with ScienceWorldEnv() as env:
        tasks = scienceworld_tasks(types, 1, seed=3, env=env)
    report = check_environment(
        Patient,
        tasks,
        walks=2,
        depth=5,
        episodes=8,
        environments=1,
        refused_states=0.3,
        refused_actions=0.5,
    )
    assert (report.failed, report.not_run) == ((), ()), report
