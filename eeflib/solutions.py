"""Solutions and the states they are for: the positive repository, and which solution is chosen.

Owns METHOD 2c and 2e. Knows nothing about labels, samples or training.

- **Positive repository** D+ [paper]: the teacher's successes and every solved rollout, whole:
  teacher prefix + student suffix. Equal action sequences of a task are kept once.
- A solution **passes through** a state if it begins with the actions that lead there:
  environments are deterministic and restorations verified. It **leaves the teacher's path**
  where the student took over (`Solution.handover`): 0 for a rollout from s0, T for a teacher's
  success.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from eeflib.errors import DataError
from eeflib.records import Branch, Step, Trajectory
from eeflib.seeding import episode_rng

__all__ = ["ImportantState", "Rule", "Solution", "choose", "positive_repository"]

Rule = Literal["nearest", "shortest", "random", "all"]
"""Which solution an important state gets, see `choose`."""


@dataclass(frozen=True)
class Solution:
    """A solved trajectory of D+, from s0 to the end."""

    id: str
    """Of the branch, or of the teacher's trajectory."""
    task_id: str
    env: str
    instruction: str
    steps: tuple[Step, ...]
    handover: int
    """Leading steps that are the teacher's; the student took over at s_handover."""
    teacher_id: str | None = None
    """Whose steps those are; None from s0."""
    iteration: int = 0
    """0 for the teacher's own."""

    @cached_property
    def actions(self) -> tuple[str, ...]:
        return tuple(s.action for s in self.steps)


@dataclass(frozen=True)
class ImportantState:
    """A state for which the student shall learn a solution."""

    task_id: str
    t: int
    prefix: tuple[str, ...] = ()
    """The t actions that lead to it."""
    teacher_ids: tuple[str, ...] = ()
    """Trajectories it is a recovery state of; empty for s0."""

    @property
    def kind(self) -> str:
        """`s0` or `recovery`, as `Sample.kind`."""
        return "recovery" if self.teacher_ids else "s0"

    def lies_on(self, solution: Solution) -> bool:
        """Whether `solution` passes through this state."""
        return solution.task_id == self.task_id and solution.actions[: self.t] == self.prefix


def positive_repository(
    teachers: Iterable[Trajectory], branches: Iterable[Branch]
) -> dict[str, tuple[Solution, ...]]:
    """D+ per task: every distinct solved trajectory, the earliest handover first.

    Raises:
        DataError: a branch starts at a teacher trajectory that is not given.
    """
    by_id = {x.id: x for x in teachers}
    found: dict[str, list[Solution]] = defaultdict(list)
    for x in by_id.values():
        if x.solved:
            found[x.task_id].append(
                Solution(x.id, x.task_id, x.env, x.instruction, x.steps, x.length, x.id)
            )
    for b in branches:
        if b.won and b.rollout is not None:
            prefix = _prefix(b, by_id)
            r = b.rollout
            steps = prefix + r.steps
            found[b.task_id].append(
                Solution(
                    b.id, b.task_id, r.env, r.instruction, steps, b.t, b.teacher_id, b.iteration
                )
            )
    out = {}
    for task_id, solutions in found.items():
        distinct: dict[tuple[str, ...], Solution] = {}
        for s in sorted(solutions, key=lambda s: (s.handover, s.iteration, s.id)):
            distinct.setdefault(s.actions, s)
        out[task_id] = tuple(distinct.values())
    return out


def _prefix(branch: Branch, teachers: Mapping[str, Trajectory]) -> tuple[Step, ...]:
    if branch.teacher_id is None:
        return ()
    teacher = teachers.get(branch.teacher_id)
    if teacher is None or teacher.length < branch.t:
        raise DataError(
            f"branch {branch.id!r} starts after action {branch.t} of teacher trajectory "
            f"{branch.teacher_id!r}, which is not among those given or is shorter; pass the "
            "trajectories that were explored"
        )
    return teacher.steps[: branch.t]


def choose(
    state: ImportantState, solutions: Sequence[Solution], rule: Rule = "nearest", *, seed: int = 0
) -> list[Solution]:
    """The solutions that `state` gets, out of those of D+ that pass through it; may be none.

    `nearest`: leaves the teacher's path soonest after the state, then the shortest. `shortest`: the
    fewest actions, then the nearest. `random`: any, drawn by the seed and the state only. `all`.

    Raises:
        DataError: unknown rule.
    """
    through = [s for s in solutions if state.lies_on(s)]

    def leaves(s: Solution) -> int:
        return max(s.handover, state.t)

    if rule == "all" or not through:
        return through
    if rule == "nearest":
        return [min(through, key=lambda s: (leaves(s), len(s.steps), s.id))]
    if rule == "shortest":
        return [min(through, key=lambda s: (len(s.steps), leaves(s), s.id))]
    if rule == "random":
        rng = episode_rng(seed, "solution", state.task_id, *state.prefix)
        return [sorted(through, key=lambda s: s.id)[int(rng.integers(len(through)))]]
    raise DataError(f"unknown rule {rule!r}; choose nearest, shortest, random or all")
