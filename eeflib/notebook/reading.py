"""Reading failures before being told: trajectories without their diagnosis.

Owns the blindfold. Knows nothing about how a diagnosis is made, nor how a trajectory is shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from eeflib.analysis.collection import Collection, Item

__all__ = ["unread"]


class _Unread(Item):
    """An item that keeps to itself why it failed: who reads it is to find out."""

    diagnosis = None


def unread(items: Iterable[Item], source: Collection) -> Collection:
    """Some items of `source`, shown without their diagnosis; notes go to the same run."""
    blind = (_Unread(x.key, x.trajectory, x.task, x.states) for x in items)
    return Collection(blind, run=source.run)
