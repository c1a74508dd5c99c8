"""Student rollouts on file, found by the state they started from and read when they are looked at.

Owns the index: where in which file a branch stands. A run holds many more rollouts than a reader
opens, so their texts stay on disk. Knows nothing about HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from eeflib.analysis.collection import Item
from eeflib.analysis.run import Run
from eeflib.errors import DataError
from eeflib.records import Branch, Trajectory

__all__ = ["BranchIndex", "State", "whole"]


class State(NamedTuple):
    """A state a student was put into."""

    seed: int
    task_id: str
    teacher_id: str | None
    """None for s0, which all trajectories of the task share."""
    k: int


class _Head(msgspec.Struct, gc=False):
    """What tells where a branch belongs; the rest of the line is passed over."""

    task_id: str
    k: int
    attempt: int = 0
    teacher_id: str | None = None
    iteration: int = 0


class _Spot(NamedTuple):
    attempt: int
    path: Path
    start: int
    size: int


class BranchIndex:
    """The branches of one method and iteration of a run."""

    def __init__(self, run: Run | None, method: str, iteration: int) -> None:
        """No file is read yet; without a run there are none."""
        self._run = run
        self.method, self.iteration = method, iteration

    @cached_property
    def _spots(self) -> dict[State, list[_Spot]]:
        out: dict[State, list[_Spot]] = {}
        for path, place in self._run.files("branches.jsonl") if self._run else ():
            if place.method != self.method or place.iteration not in (self.iteration, -1):
                continue
            for head, start, size in _heads(path):
                if place.iteration < 0 and head.iteration != self.iteration:
                    continue
                state = State(place.seed, head.task_id, head.teacher_id, head.k)
                out.setdefault(state, []).append(_Spot(head.attempt, path, start, size))
        return {state: sorted(group) for state, group in out.items()}

    def states(self) -> Iterator[State]:
        """Every state that has a branch."""
        yield from self._spots

    def at(self, item: Item, k: int) -> list[Branch]:
        """The branches from state `k` of a trajectory (from s0 if k is 0), by attempt."""
        teacher = item.trajectory.id if k else None
        return self.read(State(item.key.seed, item.trajectory.task_id, teacher, k))

    def read(self, state: State) -> list[Branch]:
        """The branches from a state, by attempt; what cannot be read is left out."""
        out = []
        for spot in self._spots.get(state, ()):
            try:
                with open(spot.path, "rb") as file:
                    file.seek(spot.start)
                    out.append(Branch.from_dict(json.loads(file.read(spot.size))))
            except (OSError, ValueError, DataError):  # rewritten since it was indexed
                continue
        return out


def _heads(path: Path) -> Iterator[tuple[_Head, int, int]]:
    """Head, start and size of every line that can be read; the frames say which cannot."""
    decode = msgspec.json.Decoder(_Head).decode
    at = 0
    with open(path, "rb") as file:
        for line in file:
            start, at = at, at + len(line)
            try:
                yield decode(line), start, len(line)
            except (msgspec.MsgspecError, ValueError):
                continue


def whole(item: Item, branch: Branch) -> Trajectory | None:
    """Teacher prefix and student suffix as one trajectory; None if it was not restored."""
    rollout = branch.rollout
    if rollout is None:
        return None
    prefix = item.trajectory.steps[: branch.t] if branch.k else ()
    return Trajectory(
        branch.id,
        rollout.task_id,
        rollout.env,
        rollout.instruction,
        rollout.policy,
        (*prefix, *rollout.steps),
        rollout.final_observation,
        rollout.reward,
        rollout.terminated,
        rollout.truncated,
        rollout.threshold,
        rollout.seed,
        rollout.prompt_hash,
        rollout.error,
    )
