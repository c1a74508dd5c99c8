"""Evidence about states -> important states -> solutions -> training samples.

This module is METHOD 2c to 2f; the evidence comes from `eeflib.states`, what a method wants from
`eeflib.methods`. Import `select` from here; tokens and loss masks are made in `eeflib.masking`.

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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from eeflib.errors import DataError, PrerequisiteError
from eeflib.methods import Method, Rule
from eeflib.prompts import HINTS
from eeflib.records import Branch, Label, Sample, Step, Task, Trajectory, episode_rng
from eeflib.states import (
    StateOutcome,
    action_labels,
    recovery_states,
    state_outcomes,
)


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
    """Trajectories it is such a state of; empty for s0."""
    kind: str = "s0"
    """`s0`, `recovery` or `expert`, as `Sample.kind`."""

    def lies_on(self, solution: Solution) -> bool:
        """Whether `solution` passes through this state."""
        return solution.task_id == self.task_id and solution.actions[: self.t] == self.prefix


def _distinct(solutions: Iterable[Solution]) -> tuple[Solution, ...]:
    """The first of each sequence of actions."""
    first: dict[tuple[str, ...], Solution] = {}
    for s in solutions:
        first.setdefault(s.actions, s)
    return tuple(first.values())


def _solutions(
    teachers: Iterable[Trajectory], branches: Iterable[Branch], *, solved: bool = True
) -> dict[str, list[Solution]]:
    """Every solved trajectory per task, equal ones too, the earliest handover first.

    Args:
        solved: False for the rollouts that failed, but for what a fault ended; none of the
            teacher's own.

    Raises:
        DataError: a branch starts at a teacher trajectory that is not given.
    """
    by_id = {x.id: x for x in teachers}
    found: dict[str, list[Solution]] = defaultdict(list)
    for x in by_id.values():
        if solved and x.solved:
            found[x.task_id].append(_of_teacher(x))
    for b in branches:
        r, teacher = b.rollout, by_id.get(b.teacher_id or "")
        if r is None or r.solved != solved or (r.error and not solved):
            continue
        if b.teacher_id is not None and (teacher is None or teacher.length < b.t):
            raise DataError(
                f"branch {b.id!r} starts after action {b.t} of teacher trajectory "
                f"{b.teacher_id!r}, which is not among those given or is shorter; pass the "
                "trajectories that were explored"
            )
        steps = (teacher.steps[: b.t] if teacher else ()) + r.steps
        found[b.task_id].append(
            Solution(b.id, b.task_id, r.env, r.instruction, steps, b.t, b.teacher_id, b.iteration)
        )
    for solutions in found.values():
        solutions.sort(key=lambda s: (s.handover, s.iteration, s.id))
    return found


def _of_teacher(x: Trajectory) -> Solution:
    return Solution(x.id, x.task_id, x.env, x.instruction, x.steps, x.length, x.id)


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
        for kind in dict.fromkeys(("s0", "recovery", *(x.kind for x in self.important))):
            out[f"{kind} states"] = sum(x.kind == kind for x in self.important)
            out[f"{kind} without solution"] = sum(x.kind == kind for x in self.without_solution)
        for sample in self.samples:
            key = f"{sample.kind} samples"
            out[key] = out.get(key, 0) + 1
        return {**out, "untrainable": len(self.untrainable), "unsolved tasks": len(self.unsolved)}


def select(
    method: Method,
    tasks: Sequence[Task],
    teachers: Sequence[Trajectory],
    branches: Sequence[Branch] = (),
    *,
    iteration: int | None = None,
    seed: int = 0,
    required: bool = False,
) -> Selection:
    """The samples that `method` trains on.

    By what the method `uses`:

    - `important` (EEF): a solution for each important state, from there on trained. It is chosen
      among those whose teacher actions, from the state to the handover, are all beneficial and may
      be trained; a state without one is listed in `without_solution`. Without `mask` it is chosen
      among all, and trained from the first action on, harmful ones included.
    - `pairs` (ETO): after each of these, of kind `chosen`, a rollout of this iteration that failed
      from the same state, of kind `rejected`; states without one are listed as well. All actions
      that the student took in it count, invalid ones too: they are what it shall not do.
    - `repository` (RFT): the trajectories of D+, trained whole; each distinct one, or one a task.
    - `positives`, `all` (SFT): the teacher's successes, or all it did but for what a fault ended.
      With `hints` each sample says which of the two it is (`Sample.hint`).

    Samples that are trained whole are of kind `positive`; those of `all` are of kind `all`, and
    the actions of failed ones carry the label `unknown`.

    Args:
        tasks: training tasks; trajectories and branches of other tasks are ignored.
        branches: of this iteration and, if any, earlier ones.
        iteration: the last one by default; later branches are ignored. Outcomes, and with them
            the important states, are always of this one; D+ may keep earlier solutions.
        seed: for `rule="random"`.
        required: there must be some.

    Raises:
        PrerequisiteError: they are `required`, and there is nothing to train on.
        DataError: a branch of a teacher trajectory that is not given, an unknown rule.
    """
    ids = {task.id for task in tasks}
    teachers = [x for x in teachers if x.task_id in ids]
    good = {x.id for x in teachers if x.solved}
    mine = [b for b in branches if method.keeps(b, b.teacher_id in good)]
    if iteration is None:
        iteration = max((b.iteration for b in mine), default=0)
    oldest = 0 if method.accumulate else iteration
    mine = [b for b in mine if b.task_id in ids and oldest <= b.iteration <= iteration]
    solutions = _solutions(teachers, mine)
    repository = {task: _distinct(found) for task, found in solutions.items()}
    outcomes: dict[str, tuple[StateOutcome, ...]] = {}
    labels: dict[str, tuple[Label, ...]] = {}
    important: tuple[ImportantState, ...] = ()
    without: list[ImportantState] = []
    samples: list[Sample] = []
    if method.chooses:
        outcomes = state_outcomes(teachers, mine, iteration=iteration, accumulate=method.accumulate)
        labels = {x.id: action_labels(x, outcomes[x.id], method.evidence) for x in teachers}
        important = _important(tasks, teachers, outcomes, method)
        now = [b for b in mine if b.iteration == iteration and method.uses == "pairs"]
        lost = _solutions(teachers, now, solved=False)
        for state in important:
            if not (method.d_r if state.teacher_ids else method.d_s0):
                continue
            found: Iterable[Solution] = solutions.get(state.task_id, ())
            if method.mask:
                found = [s for s in found if _may_be_trained(s, state, labels, method)]
            chosen = choose(state, _distinct(found), method.rule, seed=seed)
            start, kind = (state.t, state.kind) if method.mask else (0, "positive")
            if method.uses == "pairs":
                failed = [
                    s
                    for s in lost.get(state.task_id, ())
                    if s.handover == state.t and state.lies_on(s)
                ]
                chosen, kind = chosen[: bool(failed)], "chosen"
            if not chosen:
                without.append(state)
            samples += [_sample(s, start, kind, labels, method) for s in chosen]
            if chosen and method.uses == "pairs":
                anything = dataclasses.replace(method, train_invalid=True)
                samples.append(_sample(failed[0], start, "rejected", labels, anything))
    else:
        # without exploration a success is beneficial, and nothing is known of a failure
        label: dict[bool, Label] = {True: "beneficial", False: "unknown"}
        known = {x.id: (label[x.solved],) * x.length for x in teachers}
        if method.uses == "repository":
            starts = [ImportantState(task.id, 0) for task in tasks]
            whole = [
                s
                for start in starts
                for s in choose(start, repository.get(start.task_id, ()), method.rule, seed=seed)
            ]
        else:
            cloned = [x for x in teachers if not x.error and (x.solved or method.uses == "all")]
            whole = [_of_teacher(x) for x in cloned]
        kind = "all" if method.uses == "all" else "positive"
        samples = [_sample(s, 0, kind, known, method) for s in whole]
        if method.hints:
            samples = [
                dataclasses.replace(s, extra={**s.extra, "hint": HINTS[s.source in good]})
                for s in samples
            ]
    samples = list({s.id: s for s in samples}.values())
    if required and not any(any(s.trained) for s in samples):
        solved, won = sum(x.solved for x in teachers), sum(b.won for b in branches)
        raise PrerequisiteError(
            f"{method.name} has nothing to train on: {len(tasks)} tasks, {len(teachers)} teacher "
            f"trajectories of which {solved} solved their task, {len(branches)} rollouts of which "
            f"{won} did. Collect from a better teacher, add easier tasks or more attempts"
        )
    best = {task.id: 0.0 for task in tasks if task.id not in repository}
    for x in (*teachers, *(b.rollout for b in mine if b.rollout is not None)):
        if x.task_id in best:
            best[x.task_id] = max(best[x.task_id], x.reward)
    return Selection(
        samples=tuple(s for s in samples if any(s.trained)),
        outcomes=outcomes,
        labels=labels,
        important=important,
        without_solution=tuple(without),
        untrainable=tuple(s.id for s in samples if not any(s.trained)),
        repository_size=sum(map(len, repository.values())),
        unsolved=best,
        trains_harmful=method.trains_harmful,
    )


def _important(
    tasks: Sequence[Task],
    teachers: Iterable[Trajectory],
    outcomes: Mapping[str, Sequence[StateOutcome]],
    method: Method,
) -> tuple[ImportantState, ...]:
    """s0 of each task, then its important expert states; one on two teachers' paths is one."""
    expert: dict[str, dict[tuple[str, ...], list[str]]] = {task.id: {} for task in tasks}
    for teacher in teachers:
        for state in _wanted(outcomes[teacher.id], method):
            prefix = teacher.actions[: state.t]
            expert[teacher.task_id].setdefault(prefix, []).append(teacher.id)
    kind = "recovery" if method.states == "recovery" else "expert"
    out = []
    for task_id, states in expert.items():
        out.append(ImportantState(task_id, 0))
        out += [ImportantState(task_id, len(p), p, tuple(ids), kind) for p, ids in states.items()]
    return tuple(out)


def _wanted(outcomes: Sequence[StateOutcome], method: Method) -> Sequence[StateOutcome]:
    """The expert states that are important to `method`, see `Method.states`."""
    if method.states == "recovery":
        return recovery_states(outcomes, method.evidence)
    later = [o for o in outcomes if o.t > 0]
    if method.states == "mixed":
        return [o for o in later if 0 < o.wins < o.n]
    return [o for o in later if o.won or o.solved_before]


def _may_be_trained(
    solution: Solution,
    state: ImportantState,
    labels: Mapping[str, Sequence[Label]],
    method: Method,
) -> bool:
    """Whether all the teacher's actions between `state` and the handover may be trained."""
    given = labels.get(solution.teacher_id or "", ())
    return all(
        given[i] == "beneficial" and (method.train_invalid or solution.steps[i].valid)
        for i in range(state.t, solution.handover)
    )


def _sample(
    solution: Solution,
    start: int,
    kind: str,
    labels: Mapping[str, Sequence[Label]],
    method: Method,
) -> Sample:
    given: Sequence[Label] = labels.get(solution.teacher_id or "", ())
    steps, h = solution.steps, solution.handover
    student: Label = "student"
    return Sample(
        id=f"{solution.id}@{start}",
        task_id=solution.task_id,
        env=solution.env,
        instruction=solution.instruction,
        kind=kind,
        # Wall-clock seconds and prices are no part of what is trained, nor reproducible.
        steps=tuple(s if s.usage is None else dataclasses.replace(s, usage=None) for s in steps),
        trained=tuple(
            i >= start and (s.valid or method.train_invalid) for i, s in enumerate(steps)
        ),
        labels=(*given[:h], *(student,) * (len(steps) - h)),
        start=start,
        source=solution.id,
        extra={"handover": h, "teacher_id": solution.teacher_id, "iteration": solution.iteration},
    )
