"""What exploration says: outcomes per state, recovery states, a label for every teacher action.

Owns the rules that turn wins and losses into evidence. Knows nothing about solutions, samples or
training.

METHOD 2d and 2f, and the reading of them used here:

- A state is **won** if a student rollout from it solved the task, **lost** if it was tried and none
  did. A rollout that a fault ended is no try. States that were not tried (not restorable, faults
  only) are left out, so that the neighbours of a state are the nearest *tried* ones. [ours]
- **Recovery state** [paper]: lost, and its predecessor won. The teacher's actions in between are
  **harmful**.
- **Beneficial** [paper]: the teacher's actions from a lost state to the next won one. In a solved
  trajectory every action is. [ours]
- **Unknown**: all others (won to won; lost, and never won again). The actions from the last tried
  state to a failed end are harmful if that state was won, since the end is lost for sure. [ours]
- With several rollouts a state, `wilson` asks for evidence: "worse" and "better" then mean that the
  95 % Wilson intervals of the two win rates do not overlap. [ours]
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from eeflib.errors import DataError
from eeflib.intervals import wilson
from eeflib.records import Branch, Label, Trajectory

__all__ = [
    "Evidence",
    "StateOutcome",
    "action_labels",
    "harmful_pairs",
    "recovery_states",
    "state_outcomes",
    "uniform",
]

Evidence = Literal["paper", "wilson"]


@dataclass(frozen=True)
class StateOutcome:
    """Student rollouts from one state of a teacher trajectory."""

    k: int
    """0 for s0, else the expert state's number."""
    t: int
    n: int
    """Rollouts without a fault."""
    wins: int
    solved_before: bool = False
    """An earlier iteration solved the task from here: a solution is known, won now or not."""

    @property
    def tried(self) -> bool:
        return self.n > 0

    @property
    def won(self) -> bool:
        return self.wins > 0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the win rate."""
        return wilson(self.wins, self.n)


def state_outcomes(
    teachers: Iterable[Trajectory],
    branches: Iterable[Branch],
    *,
    iteration: int | None = None,
    accumulate: bool = True,
) -> dict[str, tuple[StateOutcome, ...]]:
    """Per teacher trajectory (its id) the outcomes of s0 and its expert states, in order of t.

    s0 is shared by all trajectories of a task; it is listed also if it was not tried (n = 0).

    Args:
        iteration: whose rollouts count as evidence; the last one by default.
        accumulate: whether wins of earlier iterations set `solved_before`.
    """
    branches = list(branches)
    if iteration is None:
        iteration = max((b.iteration for b in branches), default=0)
    at_start: dict[str, list[Branch]] = defaultdict(list)
    at_state: dict[str, dict[tuple[int, int], list[Branch]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for b in branches:
        if b.iteration > iteration:
            continue
        if b.teacher_id is None:
            at_start[b.task_id].append(b)
        else:
            at_state[b.teacher_id][b.t, b.k].append(b)
    out: dict[str, tuple[StateOutcome, ...]] = {}
    for teacher in teachers:
        states = [_outcome(0, 0, at_start.get(teacher.task_id, ()), iteration, accumulate)]
        for (t, k), tries in sorted(at_state.get(teacher.id, {}).items()):
            states.append(_outcome(k, t, tries, iteration, accumulate))
        out[teacher.id] = tuple(states)
    return out


def _outcome(
    k: int, t: int, tries: Iterable[Branch], iteration: int, accumulate: bool
) -> StateOutcome:
    n = wins = 0
    before = False
    for b in tries:
        if b.iteration < iteration:
            before = before or (accumulate and b.won)
        elif b.rollout is not None and not b.rollout.error:
            n += 1
            wins += b.won
    return StateOutcome(k, t, n, wins, before)


def _worse(a: StateOutcome, b: StateOutcome, evidence: Evidence) -> bool:
    """Whether the student does worse from b than from a."""
    if evidence == "paper":
        return a.won and not b.won
    return a.interval[0] > b.interval[1]


def _better(a: StateOutcome, b: StateOutcome, evidence: Evidence) -> bool:
    """Whether the student does better from b than from a."""
    if evidence == "paper":
        return not a.won and (b.won or b.solved_before)
    return a.interval[1] < b.interval[0]


def harmful_pairs(
    outcomes: Sequence[StateOutcome], evidence: Evidence = "paper"
) -> list[tuple[StateOutcome, StateOutcome]]:
    """Neighbouring tried states (a, b) such that the actions between made things worse.

    Raises:
        DataError: unknown evidence rule.
    """
    if evidence not in ("paper", "wilson"):
        raise DataError(f"unknown evidence rule {evidence!r}; choose 'paper' or 'wilson'")
    tried = [o for o in outcomes if o.tried]
    return [(a, b) for a, b in itertools.pairwise(tried) if _worse(a, b, evidence)]


def recovery_states(
    outcomes: Sequence[StateOutcome], evidence: Evidence = "paper"
) -> list[StateOutcome]:
    """The states from which the student must learn to recover, in order."""
    return [b for _, b in harmful_pairs(outcomes, evidence)]


def uniform(label: Label, trajectory: Trajectory) -> tuple[Label, ...]:
    """`label` for every action of `trajectory`."""
    return (label,) * trajectory.length


def action_labels(
    trajectory: Trajectory, outcomes: Sequence[StateOutcome], evidence: Evidence = "paper"
) -> tuple[Label, ...]:
    """One label per action of a teacher trajectory, see the module's docstring."""
    if trajectory.solved:
        return uniform("beneficial", trajectory)
    labels = list(uniform("unknown", trajectory))

    def mark(label: Label, start: int, end: int) -> None:
        labels[start:end] = [label] * (end - start)

    harmful = harmful_pairs(outcomes, evidence)
    tried = [o for o in outcomes if o.tried]
    for i, a in enumerate(tried):
        for before, b in itertools.pairwise(tried[i:]):
            if (before, b) in harmful:
                break
            if _better(a, b, evidence):
                mark("beneficial", a.t, b.t)
                break
    for a, b in harmful:
        mark("harmful", a.t, b.t)
    if tried and tried[-1].won and not trajectory.error:
        mark("harmful", tried[-1].t, trajectory.length)
    return tuple(labels)
