"""Evidence about states -> important states -> solutions -> training samples.

This module is METHOD 2c to 2f; the evidence comes from `eeflib.states`. Import `select` (EEF),
`repository_samples` (RFT) and `teacher_samples` (SFT) from here; tokens and loss masks are made in
`eeflib.masking`.

Solutions:

- **Positive repository** D+ [paper]: the teacher's successes and every solved rollout, whole:
  teacher prefix + student suffix. Equal action sequences of a task are kept once.
- A solution **passes through** a state if it begins with the actions that lead there: environments
  are deterministic and restorations verified. It **leaves the teacher's path** where the student
  took over (`Solution.handover`): 0 for a rollout from s0, T for a teacher's success.

Samples:

- **Important states** [paper]: s0 of every task, every recovery state.
- **Flags** [paper]: before the important state nothing is trained, from it on every action of the
  solution. So only those solutions are chosen in which all the teacher's actions from the state to
  the handover are beneficial; harmful and unknown ones are never trained. [ours] Invalid actions
  are not trained, unless asked for: the student's are left out, a solution with one of the
  teacher's is not chosen.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from eeflib.errors import DataError
from eeflib.records import Branch, Label, Sample, Step, Task, Trajectory, episode_rng
from eeflib.states import (
    Evidence,
    StateOutcome,
    action_labels,
    recovery_states,
    state_outcomes,
    uniform,
)

__all__ = [
    "ImportantState",
    "Rule",
    "Selection",
    "Solution",
    "choose",
    "positive_repository",
    "repository_samples",
    "select",
    "teacher_samples",
]

_LOG = logging.getLogger(__name__)
_FEW = 4
"""Rollouts from which on 95 % Wilson intervals of all won and all lost do not overlap."""

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
    return {task: _distinct(found) for task, found in _solutions(teachers, branches).items()}


def _distinct(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """The first of each sequence of actions."""
    first: dict[tuple[str, ...], Solution] = {}
    for s in solutions:
        first.setdefault(s.actions, s)
    return tuple(first.values())


def _solutions(
    teachers: Iterable[Trajectory], branches: Iterable[Branch]
) -> dict[str, list[Solution]]:
    """Every solved trajectory per task, equal ones too, the earliest handover first."""
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
    for solutions in found.values():
        solutions.sort(key=lambda s: (s.handover, s.iteration, s.id))
    return found


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


@dataclass(frozen=True)
class Selection:
    """Samples, and what they were chosen from."""

    samples: tuple[Sample, ...]
    outcomes: dict[str, tuple[StateOutcome, ...]] = field(default_factory=dict)
    """Per teacher trajectory (id)."""
    labels: dict[str, tuple[Label, ...]] = field(default_factory=dict)
    """Per teacher trajectory (id), one label per action."""
    important: tuple[ImportantState, ...] = ()
    without_solution: tuple[ImportantState, ...] = ()
    """Important states for which no trajectory of D+ may be chosen."""
    untrainable: tuple[str, ...] = ()
    """Ids of samples dropped because none of their actions may be trained."""
    repository_size: int = 0
    """|D+|."""
    unsolved: dict[str, float] = field(default_factory=dict)
    """Tasks nobody solved -> the best reward anybody reached."""
    trains_harmful: bool = False
    """Harmful or unknown actions are trained on purpose, see `Method.trains_harmful`."""
    origin: str = ""
    """METHOD/iter-I that the samples are for."""

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def counts(self) -> dict[str, int]:
        """Samples by kind, important states by kind, and what was left out."""
        out = {"samples": len(self.samples), "repository": self.repository_size}
        for kind in ("s0", "recovery"):
            out[f"{kind} states"] = sum(x.kind == kind for x in self.important)
            out[f"{kind} without solution"] = sum(x.kind == kind for x in self.without_solution)
        for sample in self.samples:
            key = f"{sample.kind} samples"
            out[key] = out.get(key, 0) + 1
        return {**out, "untrainable": len(self.untrainable), "unsolved tasks": len(self.unsolved)}


def select(
    tasks: Sequence[Task],
    teachers: Sequence[Trajectory],
    branches: Sequence[Branch],
    *,
    rule: Rule = "nearest",
    evidence: Evidence = "paper",
    d_s0: bool = True,
    d_r: bool = True,
    mask: bool = True,
    train_invalid: bool = False,
    accumulate: bool = True,
    iteration: int | None = None,
    seed: int = 0,
) -> Selection:
    """EEF's samples: a solution for each important state, from there on trained.

    A solution is chosen among those whose teacher actions, from the state to the handover, are all
    beneficial and may be trained; a state without one is listed in `without_solution`.
    `evidence="wilson"` with fewer than 4 rollouts a state logs a warning.

    Args:
        tasks: training tasks; trajectories and branches of other tasks are ignored.
        branches: of this iteration and, if any, earlier ones.
        d_s0, d_r: whether initial-state solutions and recovery solutions are used.
        mask: False chooses among all solutions and trains them from the first action on, harmful
            ones included: samples of kind `positive`, which only `allow_harmful` encodes.
        train_invalid: train invalid actions too, and choose solutions that have the teacher's.
        accumulate: whether D+ keeps the solutions of earlier iterations. Outcomes, and with them
            the important states, are always those of `iteration`.
        iteration: the last one by default; later branches are ignored.
        seed: for `rule="random"`.

    Raises:
        DataError: see `positive_repository`, `choose`, `recovery_states`.
    """
    pool = _Pool.of(tasks, teachers, branches, accumulate, iteration)
    outcomes = state_outcomes(
        pool.teachers, pool.branches, iteration=pool.iteration, accumulate=accumulate
    )
    most = max((o.n for states in outcomes.values() for o in states if o.t), default=0)
    if evidence == "wilson" and 0 < most < _FEW:
        _LOG.warning(
            "evidence='wilson' with %d rollouts a state at most: below %d no interval separates "
            "won from lost, so no state is a recovery state; explore each state more often "
            "(attempts_state) or use evidence='paper'",
            most,
            _FEW,
        )
    labels = {x.id: action_labels(x, outcomes[x.id], evidence) for x in pool.teachers}
    important = _important(tasks, pool.teachers, outcomes, evidence)
    samples: dict[str, Sample] = {}
    without = []
    for state in important:
        if not (d_r if state.teacher_ids else d_s0):
            continue
        found: Iterable[Solution] = pool.solutions.get(state.task_id, ())
        if mask:
            found = [s for s in found if _trainable_from(s, state, labels, train_invalid)]
        chosen = choose(state, _distinct(found), rule, seed=seed)
        if not chosen:
            without.append(state)
        for solution in chosen:
            sample = _sample(solution, state, labels, mask=mask, train_invalid=train_invalid)
            samples.setdefault(sample.id, sample)
    return pool.selection(samples.values(), outcomes, labels, important, without)


def _important(
    tasks: Sequence[Task],
    teachers: Iterable[Trajectory],
    outcomes: Mapping[str, Sequence[StateOutcome]],
    evidence: Evidence,
) -> tuple[ImportantState, ...]:
    """s0 of each task, then its recovery states; a state on two teachers' paths is one state."""
    recovery: dict[str, dict[tuple[str, ...], list[str]]] = {task.id: {} for task in tasks}
    for teacher in teachers:
        for state in recovery_states(outcomes[teacher.id], evidence):
            prefix = teacher.actions[: state.t]
            recovery[teacher.task_id].setdefault(prefix, []).append(teacher.id)
    out = []
    for task_id, states in recovery.items():
        out.append(ImportantState(task_id, 0))
        out += [ImportantState(task_id, len(p), p, tuple(ids)) for p, ids in states.items()]
    return tuple(out)


def _trainable_from(
    solution: Solution,
    state: ImportantState,
    labels: Mapping[str, Sequence[Label]],
    train_invalid: bool,
) -> bool:
    """Whether all the teacher's actions between `state` and the handover may be trained."""
    given = labels.get(solution.teacher_id or "", ())
    return all(
        given[i] == "beneficial" and (train_invalid or solution.steps[i].valid)
        for i in range(state.t, solution.handover)
    )


def _sample(
    solution: Solution,
    state: ImportantState,
    labels: Mapping[str, Sequence[Label]],
    *,
    mask: bool,
    train_invalid: bool,
    kind: str = "",
) -> Sample:
    start = state.t if mask else 0
    given: Sequence[Label] = labels.get(solution.teacher_id or "", ())
    h = solution.handover
    student: Label = "student"
    full = (*given[:h], *(student,) * (len(solution.steps) - h))
    trained = tuple(
        i >= start and (step.valid or train_invalid) for i, step in enumerate(solution.steps)
    )
    return Sample(
        id=f"{solution.id}@{start}",
        task_id=solution.task_id,
        env=solution.env,
        instruction=solution.instruction,
        kind=kind or (state.kind if mask else "positive"),
        # Wall-clock seconds and prices are no part of what is trained, nor reproducible.
        steps=tuple(
            s if s.usage is None else dataclasses.replace(s, usage=None) for s in solution.steps
        ),
        trained=trained,
        labels=full,
        start=start,
        source=solution.id,
        extra={"handover": h, "teacher_id": solution.teacher_id, "iteration": solution.iteration},
    )


def repository_samples(
    tasks: Sequence[Task],
    teachers: Sequence[Trajectory],
    branches: Sequence[Branch],
    *,
    rule: Rule = "all",
    train_invalid: bool = False,
    accumulate: bool = True,
    iteration: int | None = None,
    seed: int = 0,
) -> Selection:
    """RFT's samples: the trajectories of D+, trained whole; kind `positive`.

    `rule="all"` takes every distinct one, any other rule one per task. Arguments as `select`.
    """
    pool = _Pool.of(tasks, teachers, branches, accumulate, iteration)
    labels = _outright(pool.teachers)
    starts = tuple(ImportantState(task.id, 0) for task in tasks)
    samples = [
        _sample(s, state, labels, mask=False, train_invalid=train_invalid)
        for state in starts
        for s in choose(state, pool.repository.get(state.task_id, ()), rule, seed=seed)
    ]
    return pool.selection(samples)


def teacher_samples(
    tasks: Sequence[Task],
    teachers: Sequence[Trajectory],
    *,
    solved_only: bool = True,
    train_invalid: bool = False,
) -> Selection:
    """Behaviour cloning: the teacher's successes (kind `positive`), or all it did (kind `all`).

    Failed trajectories carry the label `unknown`: encoding them needs `allow_harmful`. Those that
    a fault ended are left out.
    """
    pool = _Pool.of(tasks, teachers, (), True, None)
    labels = _outright(pool.teachers)
    samples = []
    for x in pool.teachers:
        if x.error or (solved_only and not x.solved):
            continue
        whole = Solution(x.id, x.task_id, x.env, x.instruction, x.steps, x.length, x.id)
        samples.append(
            _sample(
                whole,
                ImportantState(x.task_id, 0),
                labels,
                mask=False,
                train_invalid=train_invalid,
                kind="positive" if solved_only else "all",
            )
        )
    return pool.selection(samples)


def _outright(teachers: Iterable[Trajectory]) -> dict[str, tuple[Label, ...]]:
    """Labels without exploration: a success is beneficial, nothing is known of a failure."""
    return {x.id: uniform("beneficial" if x.solved else "unknown", x) for x in teachers}


@dataclass(frozen=True)
class _Pool:
    """The records of the tasks at hand, up to one iteration, and their D+."""

    tasks: Sequence[Task]
    teachers: tuple[Trajectory, ...]
    branches: tuple[Branch, ...]
    iteration: int
    solutions: dict[str, list[Solution]]
    """Per task, equal ones too."""

    @cached_property
    def repository(self) -> dict[str, tuple[Solution, ...]]:
        return {task: _distinct(found) for task, found in self.solutions.items()}

    @classmethod
    def of(
        cls,
        tasks: Sequence[Task],
        teachers: Iterable[Trajectory],
        branches: Sequence[Branch],
        accumulate: bool,
        iteration: int | None,
    ) -> _Pool:
        ids = {task.id for task in tasks}
        mine = tuple(x for x in teachers if x.task_id in ids)
        last = (
            iteration if iteration is not None else max((b.iteration for b in branches), default=0)
        )
        kept = tuple(
            b
            for b in branches
            if b.task_id in ids and (b.iteration == last or (accumulate and b.iteration < last))
        )
        return cls(tasks, mine, kept, last, _solutions(mine, kept))

    def selection(
        self,
        samples: Iterable[Sample],
        outcomes: dict[str, tuple[StateOutcome, ...]] | None = None,
        labels: dict[str, tuple[Label, ...]] | None = None,
        important: tuple[ImportantState, ...] = (),
        without: Iterable[ImportantState] = (),
    ) -> Selection:
        samples = list(samples)
        best = {task.id: 0.0 for task in self.tasks if task.id not in self.repository}
        rollouts = [b.rollout for b in self.branches if b.rollout is not None]
        for x in (*self.teachers, *rollouts):
            if x.task_id in best:
                best[x.task_id] = max(best[x.task_id], x.reward)
        return Selection(
            samples=tuple(s for s in samples if any(s.trained)),
            outcomes=outcomes or {},
            labels=labels or {},
            important=important,
            without_solution=tuple(without),
            untrainable=tuple(s.id for s in samples if not any(s.trained)),
            repository_size=sum(map(len, self.repository.values())),
            unsolved=best,
        )
