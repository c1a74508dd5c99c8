"""States of the teachers' trajectories: how often the student won from them, and what that says.

This module is the first half of METHOD 2d. Import `state_outcomes`, `action_labels` and
`recovery_states` from here; which solutions are trained on is `eeflib.selection`.

- A **state** is a task, the actions so far and the observations so far, its own included. Evidence
  belongs to it, whichever trajectory passes through: rollouts from one state are pooled, and a
  state that was tried on one trajectory is tried on all that begin the same. [ours] s0 is one state
  of the task.
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
from eeflib.records import Branch, Label, Trajectory
from eeflib.stats import wilson

Evidence = Literal["paper", "wilson"]


@dataclass(frozen=True)
class StateOutcome:
    """Student rollouts from one state that a teacher trajectory passes through."""

    k: int
    """0 for s0, else the expert state's number on this trajectory; -1 if the state was explored
    only from other trajectories, which number it their own way."""
    t: int
    n: int
    """Rollouts without a fault."""
    wins: int
    solved_before: bool = False
    """An earlier iteration solved the task from here: a solution is known, won now or not."""

    @property
    def name(self) -> str:
        """`s2`, or where it is if it has no number here."""
        return f"s{self.k}" if self.k >= 0 else f"the state after {self.t} actions"

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


def state_names(trajectory: Trajectory, known: dict[tuple[str, int], str]) -> list[str]:
    """A name for each of s_0 .. s_{T-1}; the same name for the same state of another trajectory.

    Names are `ID@t`, the ID being that of the first trajectory that came by, or the task's for s0.

    Args:
        known: states named so far, empty at first; filled here.
    """
    names = [f"{trajectory.task_id}@0"]
    for t, (last, step) in enumerate(itertools.pairwise(trajectory.steps), 1):
        # A hash does not keep long texts alive. It tells apart only what may follow one state.
        seen = hash((last.observation, last.action, step.observation))
        names.append(known.setdefault((names[-1], seen), f"{trajectory.id}@{t}"))
    return names


def state_outcomes(
    teachers: Iterable[Trajectory],
    branches: Iterable[Branch],
    *,
    iteration: int | None = None,
    accumulate: bool = True,
) -> dict[str, tuple[StateOutcome, ...]]:
    """Per teacher trajectory (its id) the outcomes of s0 and of its tried states, in order of t.

    Rollouts from the same state are counted together, whichever trajectory they are filed under.
    s0 is listed also if it was not tried (n = 0).

    Args:
        iteration: whose rollouts count as evidence; the last one by default.
        accumulate: whether wins of earlier iterations set `solved_before`.
    """
    teachers, branches = list(teachers), list(branches)
    if iteration is None:
        iteration = max((b.iteration for b in branches), default=0)
    known: dict[tuple[str, int], str] = {}
    names = {x.id: state_names(x, known) for x in teachers}
    tries: dict[str, list[Branch]] = defaultdict(list)
    own: dict[tuple[str, int], int] = {}
    for b in sorted(branches, key=lambda b: (b.iteration, -b.k)):  # the latest, lowest k stays
        path = names.get(b.teacher_id or "", ())
        if b.iteration > iteration:
            continue
        if b.teacher_id is None or b.t == 0:
            tries[f"{b.task_id}@0"].append(b)
        elif b.t < len(path):
            tries[path[b.t]].append(b)
            own[b.teacher_id, b.t] = b.k

    def outcome(x: Trajectory, t: int, name: str) -> StateOutcome:
        now = [b for b in tries.get(name, ()) if b.iteration == iteration]
        tried = [b for b in now if b.rollout is not None and not b.rollout.error]
        before = [b for b in tries.get(name, ()) if accumulate and b.iteration < iteration]
        k = own.get((x.id, t), -1) if t else 0
        return StateOutcome(k, t, len(tried), sum(b.won for b in tried), any(b.won for b in before))

    return {
        x.id: tuple(
            outcome(x, t, name) for t, name in enumerate(names[x.id]) if not t or name in tries
        )
        for x in teachers
    }


def _change(a: StateOutcome, b: StateOutcome, evidence: Evidence) -> int:
    """1 where the student does better from b than from a, -1 where it does worse."""
    if evidence == "paper":
        return (not a.won and (b.won or b.solved_before)) - (a.won and not b.won)
    return (a.interval[1] < b.interval[0]) - (a.interval[0] > b.interval[1])


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
    return [(a, b) for a, b in itertools.pairwise(tried) if _change(a, b, evidence) < 0]


def recovery_states(
    outcomes: Sequence[StateOutcome], evidence: Evidence = "paper"
) -> list[StateOutcome]:
    """The states from which the student must learn to recover, in order."""
    return [b for _, b in harmful_pairs(outcomes, evidence)]


def action_labels(
    trajectory: Trajectory, outcomes: Sequence[StateOutcome], evidence: Evidence = "paper"
) -> tuple[Label, ...]:
    """One label per action of a teacher trajectory, see the module's docstring."""
    labels: list[Label] = ["beneficial" if trajectory.solved else "unknown"] * trajectory.length
    if trajectory.solved:
        return tuple(labels)

    def mark(label: Label, start: int, end: int) -> None:
        labels[start:end] = [label] * (end - start)

    harmful = harmful_pairs(outcomes, evidence)
    tried = [o for o in outcomes if o.tried]
    for i, a in enumerate(tried):
        for before, b in itertools.pairwise(tried[i:]):
            if (before, b) in harmful:
                break
            if _change(a, b, evidence) > 0:
                mark("beneficial", a.t, b.t)
                break
    for a, b in harmful:
        mark("harmful", a.t, b.t)
    if tried and tried[-1].won and not trajectory.error:
        mark("harmful", tried[-1].t, trajectory.length)
    return tuple(labels)
