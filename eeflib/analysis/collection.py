"""The trajectories of a run with what is known about each, and the student's rollouts from them.

Import `Collection`, what the viewer shows. The rollouts are read when one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

from eeflib.analysis import frames, tables
from eeflib.analysis.annotations import Key
from eeflib.analysis.rules import NOT_KNOWN, Usual, usual
from eeflib.analysis.run import TEACHER, Run, Who
from eeflib.analysis.segments import Segment, segments, states_by_trajectory
from eeflib.errors import DataError
from eeflib.records import Branch, Task, Trajectory, Usage
from eeflib.states import StateOutcome

if TYPE_CHECKING:
    import pandas as pd

    from eeflib.analysis.taxonomy import Diagnosis


@dataclass(frozen=True, eq=False)
class Item:
    """One trajectory and what is known of it."""

    key: Key
    trajectory: Trajectory
    task: Task | None = None
    states: tuple[StateOutcome, ...] = ()
    """Expert states that the student was put into, in order."""
    usual: Usual = NOT_KNOWN
    """How long the teacher's episodes of its environment are."""
    shared: str = ""
    """Id of its task where other models have it under another one; see `tables.shared_tasks`."""

    @property
    def outcome(self) -> str:
        """`solved`, `failed`, `fault` (of environment or provider), `unknown` (no reward)."""
        if self.trajectory.error:
            return "fault"
        if not self.trajectory.rated:
            return "unknown"
        return "solved" if self.trajectory.solved else "failed"

    @property
    def level(self) -> str:
        """Difficulty level of its task; empty if it has none."""
        return str(self.task.extra.get("level", "")) if self.task else ""

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """Why it failed, with the evidence; None: it did not, as far as is known."""
        from eeflib.analysis.taxonomy import diagnose

        return diagnose(self.trajectory, self.task, self.usual)

    @property
    def failure(self) -> str:
        """Kind of failure; empty if solved."""
        return self.diagnosis.primary if self.diagnosis else ""

    @cached_property
    def segments(self) -> list[Segment]:
        """Labelled segments; none where its states were not explored."""
        return segments(self.trajectory, self.states) if self.explored else []

    @property
    def explored(self) -> bool:
        """Whether at least one expert state after s0 was tried."""
        return any(s.tried and s.t > 0 for s in self.states)

    @cached_property
    def usage(self) -> Usage:
        """Tokens, cost and seconds of all its replies."""
        return self.trajectory.usage

    @property
    def tokens(self) -> int:
        return self.usage.prompt_tokens + self.usage.completion_tokens


def counted(item: Item) -> list[str]:
    """What a reader can pick it by: whether its reward is known, and no fault ended it."""
    if not item.trajectory.rated:
        return ["no reward"]
    return ["with a reward", *([] if item.trajectory.error else ["with a reward, no fault"])]


class Collection(Sequence[Item]):
    """Trajectories in the order recorded."""

    def __init__(
        self,
        items: Iterable[Item],
        *,
        run: Run | None = None,
        states: pd.DataFrame | None = None,
    ) -> None:
        """See `Collection.of` and `Collection.loose` for the usual ways.

        Args:
            run: where the items come from.
            states: `frames.states` of the method and iteration whose states they show.
        """
        self.items = list(items)
        self.run = run
        self.states = states

    @classmethod
    def of(cls, run: Run | str | PathLike[str], who: Who = "teacher") -> Collection:
        """The trajectories of a run, finished or not; an empty run gives an empty collection.

        Args:
            run: the run or its folder.
            who: the teacher's, the students' on test tasks, or both.

        Raises:
            DataError: there is no such folder.
        """
        run = Run.of(run)
        items: list[Item] = []
        states = None
        if who in ("teacher", "all"):
            known = frames.load(run)
            branches = tables.pick_iteration(known.branches)
            states = frames.states(branches, known.trajectories, known.steps)
            explored = states_by_trajectory(states)
            shared = tables.shared_tasks(known.trajectories)
            for seed, group in run.trajectories.items():
                for t in group:
                    key = Key(seed, TEACHER, 0, t.id)
                    task, tried = run.task(seed, t.task_id), explored.get((seed, t.id), ())
                    usually = known.usual.get(t.env, NOT_KNOWN)
                    same = shared.get((seed, t.task_id), "")
                    items.append(Item(key, t, task, tuple(tried), usually, same))
        if who in ("students", "all"):
            items += [
                Item(Key(*place, t.id), t, run.task(place.seed, t.task_id))
                for place, t in run.episodes("students")
                if place.method != TEACHER
            ]
        made = cls(items, run=run, states=states)
        for item in items:  # now, so that no view waits for it
            _ = item.failure, item.usage
        return made

    @classmethod
    def loose(cls, trajectories: Sequence[Trajectory]) -> Collection:
        """Trajectories that are in no run folder."""
        lengths = usual((t.env, t.length, t.solved, t.terminated) for t in trajectories)
        return cls(Item(Key(0, TEACHER, 0, t.id), t, usual=lengths[t.env]) for t in trajectories)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at):
        return self.items[at]

    @cached_property
    def _positions(self) -> Mapping[Key, int]:
        return {item.key: i for i, item in enumerate(self.items)}

    def position(self, key: Key) -> int | None:
        """Where an item is; None if it is not there."""
        return self._positions.get(Key(*key))

    def find(self, name: Key | str | int) -> Item:
        """An item by key, by id (the first of that id) or by position.

        Raises:
            DataError: there is none.
        """
        if isinstance(name, int):
            if -len(self) <= name < len(self):
                return self.items[name]
        elif isinstance(name, str):
            for item in self.items:
                if name in (item.key.id, item.trajectory.task_id):
                    return item
        elif (at := self.position(name)) is not None:
            return self.items[at]
        raise DataError(
            f"no trajectory {name!r} among these {len(self)}; take a position, a trajectory id or "
            "a task id"
        )

    @cached_property
    def branches(self) -> Branches:
        """The student's rollouts from the states that the items show."""
        if self.states is None or self.states.empty:
            return Branches(self.run, "", 0)
        first = self.states.iloc[0]
        return Branches(self.run, str(first["method"]), int(first["iteration"]))


class Branches:
    """The branches of one method and iteration of a run, read when the first is asked for."""

    def __init__(self, run: Run | None, method: str, iteration: int) -> None:
        """Without a run there are none."""
        self._run = run
        self.method, self.iteration = method, iteration

    @cached_property
    def _by_state(self) -> dict[tuple[int, str, str | None, int], list[Branch]]:
        out: dict[tuple[int, str, str | None, int], list[Branch]] = {}
        for place, b in self._run.branches(self.method) if self._run else ():
            if place.iteration == self.iteration:
                out.setdefault((place.seed, b.task_id, b.teacher_id, b.k), []).append(b)
        return out

    def at(self, item: Item, k: int) -> list[Branch]:
        """The branches from state `k` of a trajectory (from s0 if k is 0), by attempt."""
        teacher = item.trajectory.id if k else None
        found = self._by_state.get((item.key.seed, item.trajectory.task_id, teacher, k), [])
        return sorted(found, key=lambda b: b.attempt)
