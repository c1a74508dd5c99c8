"""Exploration from expert states: the student continues from states of a teacher's trajectory.

Import `expert_states` and `explore` from here: which states are tried, their verified restoration,
and the branches that result. Labels and samples are made in `eeflib.selection`.

METHOD 2a and 2b. [paper]: M equally spaced states of every teacher trajectory, and s0. [ours]: the
spacing in short trajectories; a state that cannot be verified is not explored, but counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from eeflib.envs.base import TextEnv
from eeflib.errors import DataError, RestoreMismatch
from eeflib.policies.base import Policy
from eeflib.prompts import PromptFormat
from eeflib.records import Branch, Task, Trajectory
from eeflib.rollout import EnvPool, Episode, faulted, run_episodes, step_limit

__all__ = [
    "Exploration",
    "ExplorationReport",
    "Spacing",
    "expert_states",
    "explore",
    "plan_exploration",
]

Spacing = Literal["even", "paper"]


@dataclass(frozen=True)
class ExpertState:
    """State number k of a teacher trajectory: the one after its first t actions."""

    k: int
    """1..M; 0 would be s0."""
    t: int
    """1 <= t <= T - 1."""


def expert_states(
    trajectory: Trajectory, M: int, spacing: Spacing = "even"
) -> tuple[ExpertState, ...]:
    """At most M states of `trajectory`, in order; never s0, never s_T (after the last action).

    With T actions and l = floor(T / (M + 1)):

    - `paper`: s_l, s_2l, ..., s_Ml; none at all if T <= M, where l is 0.
    - `even` [ours]: the same where l >= 2. Shorter trajectories, where these would be the first M
      states and leave the end out, have their M states spread evenly over 1..T-1, both ends
      included; all of 1..T-1 if T - 1 <= M; the middle one if M = 1.

    Raises:
        DataError: M is negative or the spacing unknown.
    """
    if M < 0 or spacing not in ("even", "paper"):
        raise DataError(f"M={M}, spacing={spacing!r}: M must be >= 0, spacing 'even' or 'paper'")
    length = trajectory.length
    gap = length // (M + 1)
    if spacing == "paper" or gap >= 2:
        times = [gap * k for k in range(1, M + 1)] if gap else []
    elif length - 1 <= M:
        times = list(range(1, length))
    elif M == 1:
        times = [length // 2]
    else:  # rounded half up, in integers
        times = [1 + (2 * i * (length - 2) + M - 1) // (2 * (M - 1)) for i in range(M)]
    return tuple(ExpertState(k, t) for k, t in enumerate(times, 1))


@dataclass(frozen=True)
class Planned:
    """One branch to run: an episode and where it starts."""

    episode: Episode
    k: int
    t: int
    teacher_id: str | None


def plan_exploration(
    tasks: Sequence[Task],
    teacher_trajectories: Sequence[Trajectory],
    *,
    M: int = 5,
    attempts_s0: int = 1,
    attempts_state: int = 1,
    iteration: int = 1,
    from_s0: bool = True,
    from_states: bool = True,
    failures_only: bool = False,
    spacing: Spacing = "even",
) -> list[list[Planned]]:
    """What `explore` runs, without running it: its length is the number of simulations.

    One group per attempt from s0 over all tasks, then one group with the expert states, task by
    task. Groups do not share chunks, and ids hold no method: so attempt 0 from s0 is the same
    episode, with the same result, whether a method makes 1 or 6 attempts and with or without expert
    states, and can be handed from one to another through `explore(done=...)`.

    Trajectories of tasks not in `tasks`, and those that ended in a fault, are left out.
    """
    groups: list[list[Planned]] = []
    if from_s0:
        for attempt in range(attempts_s0):
            key = f"i{iteration}.s0"
            groups.append([Planned(Episode(x, key, attempt), 0, 0, None) for x in tasks])
    if from_states:
        groups.append(
            [
                planned
                for task, trajectory in _of_tasks(tasks, teacher_trajectories)
                if not (failures_only and trajectory.solved)
                for state in expert_states(trajectory, M, spacing)
                if state.t < step_limit(task)
                for planned in _at_state(task, trajectory, state, attempts_state, iteration)
            ]
        )
    return [group for group in groups if group]


def _of_tasks(
    tasks: Sequence[Task], trajectories: Iterable[Trajectory]
) -> list[tuple[Task, Trajectory]]:
    by_task: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if not trajectory.error:
            by_task.setdefault(trajectory.task_id, []).append(trajectory)
    return [(task, trajectory) for task in tasks for trajectory in by_task.get(task.id, ())]


def _at_state(
    task: Task, trajectory: Trajectory, state: ExpertState, attempts: int, iteration: int
) -> list[Planned]:
    key = f"i{iteration}.{trajectory.id.removeprefix(task.id + '#')}.k{state.k}"
    prefix, expected = trajectory.steps[: state.t], trajectory.observation(state.t)
    state_key = trajectory.steps[state.t].state_key
    return [
        Planned(
            Episode(task, key, attempt, prefix, expected, state_key),
            state.k,
            state.t,
            trajectory.id,
        )
        for attempt in range(attempts)
    ]


@dataclass(frozen=True)
class ExplorationReport:
    """Counts over branches; `of` makes it from what is on file as well."""

    simulations: int
    """Student rollouts that were run."""
    wins: int
    simulated_steps: int
    """Actions the student took."""
    replayed_steps: int
    """Teacher actions replayed (or copied) to restore states."""
    restorations: int
    """Restorations tried: one for each rollout from an expert state."""
    verified: int
    skipped: int
    """Restorations that could not be verified: no rollout was run."""
    faults: int
    """Rollouts ended by a fault of provider or environment: neither won nor lost."""
    reasons: dict[str, int]
    """Why restorations were skipped, most frequent first."""
    retried: int = 0
    """Restorations that matched, or failed, only in a second replay, in a fresh simulator. This
    and the next two are known of rollouts that this call ran: 0 in a report made from files."""
    continued: int = 0
    """Restorations that went on from an earlier state of the same trajectory."""
    redone: int = 0
    """Rollouts run again because their simulator died."""

    @classmethod
    def of(cls, branches: Iterable[Branch]) -> ExplorationReport:
        branches = list(branches)
        rollouts = [b.rollout for b in branches if b.rollout is not None]
        restored = [b for b in branches if b.k > 0]
        reasons = Counter(b.restore_mismatch for b in branches if b.restore_mismatch)
        return cls(
            simulations=len(rollouts),
            wins=sum(r.solved for r in rollouts),
            simulated_steps=sum(r.length for r in rollouts),
            replayed_steps=sum(b.t for b in restored),
            restorations=len(restored),
            verified=sum(b.restored for b in restored),
            skipped=len(branches) - len(rollouts),
            faults=sum(bool(r.error) for r in rollouts),
            reasons=dict(reasons.most_common()),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Exploration:
    """The student's rollouts; iterating gives the branches."""

    branches: tuple[Branch, ...]
    """In the order of the plan."""
    report: ExplorationReport
    origin: str = ""
    """METHOD/iter-I in a run folder, if it is on file there."""

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.branches)

    def __len__(self) -> int:
        return len(self.branches)


def explore(
    tasks: Sequence[Task],
    teacher_trajectories: Sequence[Trajectory],
    policy: Policy,
    make_env: Callable[[], TextEnv] | EnvPool,
    fmt: PromptFormat,
    *,
    M: int = 5,
    attempts_s0: int = 1,
    attempts_state: int = 1,
    seed: int,
    iteration: int = 1,
    from_s0: bool = True,
    from_states: bool = True,
    failures_only: bool = False,
    spacing: Spacing = "even",
    batch_size: int = 32,
    max_steps: int | None = None,
    done: Mapping[str, Branch] | None = None,
    on_done: Callable[[list[Branch]], None] | None = None,
    progress: str | bool | None = None,
) -> Exploration:
    """Let the student `policy` go on from s0 and from the teacher's states.

    A state is restored and verified against the recorded observations; where that fails, the branch
    has no rollout, holds the reason, and is counted. By default every teacher trajectory is
    explored, solved or not (METHOD 2b); `failures_only` leaves the solved ones out.

    Args:
        seed: of the student's random choices; each rollout has its own stream.
        iteration: enters ids and random streams, so that each iteration draws anew.
        done: branches by id from an earlier run with the same arguments, see `run_episodes`.
        on_done: called with the branches of each finished chunk, to be put on file.
        progress: shows a progress bar, with that text if it is one.

    Raises:
        DataError, PrerequisiteError: as `run_episodes`.
    """
    groups = plan_exploration(
        tasks,
        teacher_trajectories,
        M=M,
        attempts_s0=attempts_s0,
        attempts_state=attempts_state,
        iteration=iteration,
        from_s0=from_s0,
        from_states=from_states,
        failures_only=failures_only,
        spacing=spacing,
    )
    done = done or {}
    branches: list[Branch] = []
    pool = make_env if isinstance(make_env, EnvPool) else EnvPool(make_env)
    before, redone = pool.restores, pool.redone
    try:
        for number, group in enumerate(groups, 1):
            plan = {p.episode.id: p for p in group}
            rollouts = run_episodes(
                [p.episode for p in group],
                policy,
                pool,
                fmt,
                actor="student",
                seed=seed,
                batch_size=batch_size,
                max_steps=max_steps,
                done={
                    p.episode.id: _trajectory(p, done[p.episode.id], policy.name, fmt, seed)
                    for p in group
                    if p.episode.id in done
                },
                on_done=_as_branches(plan, iteration, on_done),
                progress=_bar_text(progress, number, len(groups)),
            )
            branches += [done.get(r.id) or _branch(plan[r.id], r, iteration) for r in rollouts]
    finally:
        if pool is not make_env:
            pool.close()
    restores = pool.restores - before
    report = replace(
        ExplorationReport.of(branches),
        retried=restores.retried,
        continued=restores.continued,
        redone=pool.redone - redone,
    )
    return Exploration(tuple(branches), report)


_MISMATCH = f"{RestoreMismatch.__name__}: "


def _branch(planned: Planned, rollout: Trajectory, iteration: int) -> Branch:
    lost = rollout.error.startswith(_MISMATCH)
    return Branch(
        id=rollout.id,
        task_id=rollout.task_id,
        k=planned.k,
        t=planned.t,
        attempt=planned.episode.attempt,
        teacher_id=planned.teacher_id,
        rollout=None if lost else rollout,
        restore_mismatch=rollout.error.removeprefix(_MISMATCH) if lost else "",
        iteration=iteration,
    )


def _trajectory(
    planned: Planned, branch: Branch, policy: str, fmt: PromptFormat, seed: int
) -> Trajectory:
    """The inverse of `_branch`, for branches that are on file already."""
    if branch.rollout is not None:
        return branch.rollout
    error = RestoreMismatch(branch.restore_mismatch)
    return faulted(planned.episode, error, policy=policy, fmt=fmt, seed=seed)


def _as_branches(
    plan: Mapping[str, Planned], iteration: int, on_done: Callable[[list[Branch]], None] | None
) -> Callable[[list[Trajectory]], None] | None:
    if on_done is None:
        return None
    return lambda chunk: on_done([_branch(plan[r.id], r, iteration) for r in chunk])


def _bar_text(progress: str | bool | None, number: int, total: int) -> str | None:
    if not progress:
        return None
    text = progress if isinstance(progress, str) else "explore"
    return text if total == 1 else f"{text} {number}/{total}"
