"""Rules for ScienceWorld: the wrong focus, and menus that swallow actions.

Owns these two. Knows nothing about the simulator; the texts are those it prints.
"""

from __future__ import annotations

from collections.abc import Iterator

from eeflib.analysis.taxonomy_kinds import Finding
from eeflib.records import Task, Trajectory

__all__ = ["menu_mishap", "wrong_focus"]

_MENU = "Ambiguous request"
"""How the simulator begins when it asks for a number; the next input that is none is lost."""


def wrong_focus(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """A `focus on` was the last thing the simulator let happen."""
    if not trajectory.terminated or not trajectory.steps:
        return
    last = trajectory.steps[-1]
    if last.action.strip().lower().startswith("focus on"):
        end = trajectory.final_observation.strip() or "the task ended"
        text = f"{last.action}: {end}"
        yield Finding("wrong_focus", "focus ended it", len(trajectory.steps) - 1, text)


def menu_mishap(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Menus that got no number: each swallows an action. The main matter from three on."""
    steps = trajectory.steps
    lost = [
        t
        for t, s in enumerate(steps)
        if s.observation.startswith(_MENU) and not s.action.strip().isdecimal()
    ]
    if lost:
        text = f"{len(lost)} swallowed, first: {steps[lost[0]].action}"
        yield Finding("menu_mishap", "menu without a number", lost[0], text, len(lost) >= 3)
