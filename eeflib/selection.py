"""Branches -> training samples: important states get a solution, steps get a trained flag.

Owns METHOD 2d and 2f, and the samples of the baselines. Knows nothing about tokens, models or
files; what rollouts say about an action is `eeflib.outcomes`, which solution a state gets is
`eeflib.solutions`.

- **Important states** [paper]: s0 of every task, every recovery state.
- **Flags** [paper]: before the important state nothing is trained. From it on the student's
  actions and the teacher's beneficial ones are; harmful and unknown ones never. [ours] Invalid
  actions are not trained either, unless asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eeflib.outcomes import (
    Evidence,
    StateOutcome,
    action_labels,
    recovery_states,
    state_outcomes,
    uniform,
)
from eeflib.records import Branch, Label, Sample, Task, Trajectory
from eeflib.solutions import ImportantState, Rule, Solution, choose, positive_repository

__all__ = [
    "Evidence",
    "ImportantState",
    "Rule",
    "Selection",
    "Solution",
    "StateOutcome",
    "choose",
    "positive_repository",
    "repository_samples",
    "select",
    "teacher_samples",
]


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
    """Important states that no trajectory of D+ passes through."""
    untrainable: tuple[str, ...] = ()
    """Ids of samples dropped because none of their actions may be trained."""
    repository_size: int = 0
    """|D+|."""
    unsolved: dict[str, float] = field(default_factory=dict)
    """Tasks nobody solved -> the best reward anybody reached."""

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

    Args:
        tasks: training tasks; trajectories and branches of other tasks are ignored.
        branches: of this iteration and, if any, earlier ones.
        d_s0, d_r: whether initial-state solutions and recovery solutions are used.
        mask: False trains each chosen solution from its first action on, harmful ones included:
            samples of kind `positive`, which only `allow_harmful` encodes.
        train_invalid: train invalid actions too.
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
    labels = {x.id: action_labels(x, outcomes[x.id], evidence) for x in pool.teachers}
    important = _important(tasks, pool.teachers, outcomes, evidence)
    samples: dict[str, Sample] = {}
    without = []
    for state in important:
        if not (d_r if state.teacher_ids else d_s0):
            continue
        solutions = choose(state, pool.repository.get(state.task_id, ()), rule, seed=seed)
        if not solutions:
            without.append(state)
        for solution in solutions:
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
        i >= start
        and (step.valid or train_invalid)
        and (not mask or label in ("beneficial", "student"))
        for i, (step, label) in enumerate(zip(solution.steps, full, strict=True))
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
    repository: dict[str, tuple[Solution, ...]]

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
        return cls(tasks, mine, kept, last, positive_repository(mine, kept))

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
