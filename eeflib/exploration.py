"""Exploration from expert states: the student continues from states of a teacher's trajectory.

Import `expert_states` and `explore` from here: which states are tried, their verified restoration,
and the branches that result. Labels and samples are made in `eeflib.selection`.

METHOD 2a and 2b. [paper]: M equally spaced states of every teacher trajectory, and s0. [ours]: the
spacing in short trajectories; a state that cannot be verified is not explored, but counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from eeflib.envs.base import TextEnv
from eeflib.errors import DataError, RestoreMismatch
from eeflib.policies.base import Policy
from eeflib.prompts import PromptFormat
from eeflib.records import Branch, Task, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes, step_limit

Spacing = Literal["even", "paper"]


class ExpertState(NamedTuple):
    """State number k (1..M) of a teacher trajectory: after its first t actions, 1 <= t <= T - 1."""

    k: int
    t: int


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
    successes_only: bool = False,
    stage: tuple[int, int] = (1, 1),
    spacing: Spacing = "even",
) -> list[list[tuple[Episode, Branch]]]:
    """What `explore` runs, without running it: episodes, and branches that lack their rollout.

    One group per attempt from s0 over all tasks, then one group with the expert states, task by
    task. Groups do not share chunks, and ids hold no method: so attempt 0 from s0 is the same
    episode, with the same result, whether a method makes 1 or 6 attempts and with or without expert
    states, and can be handed from one to another through `explore(done=...)`.

    Trajectories of tasks not in `tasks`, and those that ended in a fault, are left out.

    Args:
        stage: (i, n), a curriculum from the end to the beginning: only the i-th of n parts of each
            trajectory's states, the last states first; s0 in stage n.

    Raises:
        DataError: there is no such stage, or both `failures_only` and `successes_only` are given.
    """
    stages = stage[1]
    if (failures_only and successes_only) or not 1 <= stage[0] <= stages:
        raise DataError(
            f"failures_only={failures_only}, successes_only={successes_only}, stage={stage}: not "
            "both can be, and a stage (i, n) must have 1 <= i <= n"
        )
    by_task: dict[str, list[Trajectory]] = defaultdict(list)
    for x in teacher_trajectories:
        if not x.error and not (failures_only if x.solved else successes_only):
            by_task[x.task_id].append(x)

    def of_stage(states: tuple[ExpertState, ...]) -> tuple[ExpertState, ...]:
        first, last = (len(states) * (stages - i) // stages for i in (stage[0], stage[0] - 1))
        return states[first:last]

    def planned(
        task: Task, attempt: int, k: int = 0, t: int = 0, x: Any = None
    ) -> tuple[Episode, Branch]:
        key, start = f"i{iteration}.s0", tuple[Any, ...]()
        if x is not None:
            key = f"i{iteration}.{x.id.removeprefix(task.id + '#')}.k{k}"
            start = (x.steps[:t], x.observation(t), x.steps[t].state_key)
        episode = Episode(task, key, attempt, *start)
        of = None if x is None else x.id
        return episode, Branch(episode.id, task.id, k, t, attempt, of, iteration=iteration)

    now = from_s0 and stage[0] == stages
    groups = [[planned(task, i) for task in tasks] for i in range(attempts_s0 * now)]
    groups.append(
        [
            planned(task, attempt, k, t, x)
            for task in (tasks if from_states else ())
            for x in by_task[task.id]
            for k, t in of_stage(expert_states(x, M, spacing))
            if t < step_limit(task)
            for attempt in range(attempts_state)
        ]
    )
    return [group for group in groups if group]


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
    seed: int,
    iteration: int = 1,
    batch_size: int = 32,
    done: Mapping[str, Branch] | None = None,
    on_done: Callable[[list[Branch]], None] | None = None,
    progress: str | None = None,
    steps: int | None = None,
    **plan: Any,
) -> Exploration:
    """Let the student `policy` go on from s0 and from the teacher's states.

    A state is restored and verified against the recorded observations; where that fails, the branch
    has no rollout, holds the reason, and is counted. By default every teacher trajectory is
    explored, solved or not (METHOD 2b).

    Args:
        seed: of the student's random choices; each rollout has its own stream.
        iteration: enters ids and random streams, so that each iteration draws anew.
        done: branches by id from an earlier run with the same arguments, see `run_episodes`.
        on_done: called with the branches of each finished chunk, to be put on file.
        progress: text of a progress bar.
        steps: end with the rollout in which the student's actions reach so many, in the order of
            the plan; rollouts that were played beside it are left out.
        plan: what is run, as `plan_exploration` takes it.

    Raises:
        DataError, PrerequisiteError: as `run_episodes`.
    """
    groups = plan_exploration(tasks, teacher_trajectories, iteration=iteration, **plan)
    started = {branch.id: branch for group in groups for _, branch in group}
    branches: list[Branch] = []
    pool = make_env if isinstance(make_env, EnvPool) else EnvPool(make_env)
    before, redone = pool.restores, pool.redone

    def branch(r: Trajectory | Branch) -> Branch:
        if isinstance(r, Branch):  # it is on file
            return r
        if r.error.startswith(_MISMATCH):
            return replace(started[r.id], restore_mismatch=r.error.removeprefix(_MISMATCH))
        return replace(started[r.id], rollout=r)

    try:
        for number, group in enumerate(groups, 1):
            several = progress and len(groups) > 1
            branches += map(
                branch,
                run_episodes(
                    [episode for episode, _ in group],
                    policy,
                    pool,
                    fmt,
                    actor="student",
                    seed=seed,
                    batch_size=batch_size,
                    done=done,
                    on_done=on_done and (lambda chunk: on_done([branch(r) for r in chunk])),
                    progress=f"{progress} {number}/{len(groups)}" if several else progress,
                ),
            )
            spent = [*accumulate(b.rollout.length if b.rollout else 0 for b in branches)]
            if steps is not None and spent[-1] >= steps:
                branches = branches[: bisect_left(spent, steps) + 1]
                break
    finally:
        if pool is not make_env:
            pool.close()
    restores = pool.restores - before
    report = replace(
        ExplorationReport.of(branches),
        retried=restores["retried"],
        continued=restores["continued"],
        redone=pool.redone - redone,
    )
    return Exploration(tuple(branches), report)


_MISMATCH = f"{RestoreMismatch.__name__}: "
