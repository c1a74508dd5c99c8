"""Evidence belongs to a state, not to a trajectory: the rules of METHOD, stated naively.

Random small worlds, in which one to three teacher trajectories of a task share beginnings, are
judged here state by state and action by action, and by `eeflib.selection`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from toy import ACT, Corridor, Student, corridor_task, recorded, select

from eeflib.exploration import explore
from eeflib.records import Branch, Label, Step, Task, Trajectory
from eeflib.states import recovery_states, state_outcomes

WORLDS = 300


@dataclass
class Small:
    """A random world of one task."""

    task: Task
    teachers: list[Trajectory]
    branches: list[Branch]


def episode(
    name: str, task: Task, actions: Sequence[str], pages: Sequence[str], won: bool, **rest: object
) -> Trajectory:
    """`pages` are the observations s_0 .. s_T; an action `x` is not understood."""
    steps = tuple(
        Step(page, a, "student" if "#i" in name else "teacher", valid=a != "x")
        for page, a in zip(pages, actions, strict=False)
    )
    facts = (task.id, task.env, task.instruction, "p", steps, pages[-1], float(won), True, False)
    return replace(Trajectory(name, *facts), **rest)


def small_world(seed: int) -> Small:
    rng = np.random.default_rng(seed)
    task = Task("u", "corridor", "go")

    def pages(actions: Sequence[str], flaw: int = -1) -> list[str]:
        """What is seen follows from the actions so far; `flaw`: but for s_flaw."""
        return ["/".join(actions[:t]) + ("!" if t == flaw else "") for t in range(len(actions) + 1)]

    teachers: list[Trajectory] = []
    for n in range(int(rng.integers(1, 4))):
        shared: list[str] = []
        if teachers:
            other = teachers[int(rng.integers(len(teachers)))].actions
            shared = list(other[: int(rng.integers(0, len(other) + 1))])
        fresh = rng.choice(["a", "b", "x"], size=int(rng.integers(0 if shared else 1, 6)), p=P)
        actions = [*shared, *map(str, fresh)]
        flaw = int(rng.integers(1, len(actions) + 1)) if rng.random() < 0.15 else -1
        error = "ProviderError: gone" if rng.random() < 0.1 else ""
        won = bool(rng.random() < 0.25)
        teachers.append(episode(f"u#t{n}", task, actions, pages(actions, flaw), won, error=error))

    branches: list[Branch] = []

    def tries(teacher: Trajectory | None, k: int, t: int, iteration: int) -> None:
        for attempt in range(int(rng.choice([0, 1, 2, 5], p=[0.25, 0.45, 0.2, 0.1]))):
            name = f"u#i{iteration}.{teacher.id if teacher else 's0'}.{k}.{attempt}"
            own = [str(a) for a in rng.choice(["a", "b", "x"], size=int(rng.integers(1, 4)), p=P)]
            fate, error = rng.random(), "ProviderError: gone" if rng.random() < 0.1 else ""
            seen = [str(i) for i in range(len(own) + 1)]
            rollout = episode(name, task, own, seen, bool(fate < 0.45), error=error)
            teacher_id = teacher.id if teacher else None
            lost = rng.random() < 0.1 and t > 0
            branches.append(
                Branch(
                    name, "u", k, t, attempt, teacher_id,
                    None if lost else rollout, "s_1: differs" if lost else "", iteration,
                )
            )  # fmt: skip

    for iteration in range(1, int(rng.integers(2, 4))):
        tries(None, 0, 0, iteration)
        for teacher in teachers:
            times = [t for t in range(1, teacher.length) if rng.random() < 0.6]
            for k, t in enumerate(times, 1):
                tries(teacher, k, t, iteration)
    return Small(task, teachers, branches)


P = (0.45, 0.45, 0.1)

State = tuple[object, ...]


class Judge:
    """The rules, one state and one action at a time."""

    def __init__(self, world: Small) -> None:
        self.world = world
        self.teachers = {x.id: x for x in world.teachers}
        self.last = max((b.iteration for b in world.branches), default=0)
        self.now: dict[State, list[bool]] = defaultdict(list)
        self.before: set[State] = set()
        for b in world.branches:
            state = self.state(self.teachers[b.teacher_id], b.t) if b.teacher_id else ("u",)
            if b.rollout is None or b.rollout.error:
                continue
            if b.iteration == self.last:
                self.now[state].append(b.rollout.reward == 1.0)
            elif b.rollout.reward == 1.0:
                self.before.add(state)

    def state(self, x: Trajectory, t: int) -> State:
        if t == 0:
            return (x.task_id,)
        return (x.task_id, x.actions[:t], tuple(x.observation(i) for i in range(t + 1)))

    def tried(self, x: Trajectory) -> list[int]:
        return [t for t in range(max(x.length, 1)) if self.now.get(self.state(x, t))]

    def won(self, x: Trajectory, t: int) -> bool:
        return any(self.now[self.state(x, t)])

    def recovery(self, x: Trajectory) -> list[int]:
        """Lost, and the tried state before it won."""
        times = self.tried(x)
        return [
            t for i, t in enumerate(times) if i and self.won(x, times[i - 1]) and not self.won(x, t)
        ]

    def label(self, x: Trajectory, i: int) -> Label:
        if x.solved:
            return "beneficial"
        times = self.tried(x)
        before = [t for t in times if t <= i]
        after = [t for t in times if t > i]
        if not before:
            return "unknown"
        if not self.won(x, before[-1]):  # lost; beneficial if they lead to a winning state
            leads = any(self.won(x, t) or self.state(x, t) in self.before for t in after)
            return "beneficial" if leads else "unknown"
        if after:
            return "unknown" if self.won(x, after[0]) else "harmful"
        return "unknown" if x.error else "harmful"


def worlds() -> Iterator[tuple[Small, Judge]]:
    for seed in range(WORLDS):
        world = small_world(seed)
        yield world, Judge(world)


def test_outcomes_are_those_of_the_states_whichever_trajectory_they_are_filed_under():
    shared = borrowed = 0
    for world, judge in worlds():
        found = state_outcomes(world.teachers, world.branches)
        filed = {(b.teacher_id, b.t, b.k) for b in world.branches}
        for x in world.teachers:
            got = {o.t: (o.wins, o.n) for o in found[x.id] if o.tried}
            want = {t: judge.now[judge.state(x, t)] for t in judge.tried(x)}
            assert got == {t: (sum(w), len(w)) for t, w in want.items()}
            assert [o.t for o in found[x.id]] == sorted({o.t for o in found[x.id]})
            for o in found[x.id]:
                assert o.solved_before == (judge.state(x, o.t) in judge.before)
                if o.k > 0:
                    assert (x.id, o.t, o.k) in filed
                elif o.t:
                    assert o.k == -1
                    assert not any((x.id, o.t) == f[:2] for f in filed)
                    borrowed += o.tried
            shared += sum(o.n > 5 for o in found[x.id])
    assert borrowed > 100
    assert shared > 10


def test_labels_and_recovery_states_follow():
    recovery = 0
    for world, judge in worlds():
        out = select([world.task], world.teachers, world.branches)
        states = {(0, ())}
        for x in world.teachers:
            want = tuple(judge.label(x, i) for i in range(x.length))
            assert out.labels[x.id] == want, (x, world.branches)
            assert [o.t for o in recovery_states(out.outcomes[x.id])] == judge.recovery(x)
            states |= {(t, x.actions[:t]) for t in judge.recovery(x)}
        assert {(s.t, s.prefix) for s in out.important} == states
        recovery += len(states) - 1
    assert recovery > 50


def solutions(world: Small, judge: Judge, t: int, prefix: Sequence[str]) -> dict[str, int]:
    """Ids of the solved trajectories through a state that train every action from it on but the
    student's own invalid ones -> where the student took over."""
    out = {}
    for b in [*world.teachers, *world.branches]:
        if isinstance(b, Trajectory):
            teacher, h, own = b, b.length, ()
            won = b.solved
        else:
            teacher = judge.teachers.get(b.teacher_id or "", world.teachers[0])
            h, own = b.t, b.rollout.steps if b.rollout else ()
            won = b.won
        steps = (*teacher.steps[:h], *own)
        if not won or tuple(s.action for s in steps)[:t] != tuple(prefix):
            continue
        if all(judge.label(teacher, i) == "beneficial" and steps[i].valid for i in range(t, h)):
            out[b.id] = h
    return out


@pytest.mark.parametrize("rule", ["nearest", "shortest", "random", "all"])
def test_every_teacher_action_after_the_important_state_is_trained_or_the_solution_not_chosen(rule):
    chosen = refused = 0
    for world, judge in worlds():
        out = select([world.task], world.teachers, world.branches, rule=rule)
        of = defaultdict(list)
        for sample in out.samples:
            of[sample.start].append(sample)
            h = sample.extra["handover"]
            assert all(sample.trained[sample.start : h])
            assert set(sample.labels[sample.start : h]) <= {"beneficial"}
            assert not any(sample.trained[: sample.start])
            own = list(zip(sample.steps, sample.trained, strict=True))[max(h, sample.start) :]
            assert all(on == step.valid for step, on in own)
        untrained = {name.split("@")[0] for name in out.untrainable}
        for state in out.important:
            fit = solutions(world, judge, state.t, state.prefix)
            assert (state in out.without_solution) == (not fit)
            mine = [s for s in of[state.t] if s.extra["handover"] >= 0 and s.source in fit]
            mine = [s for s in mine if tuple(x.action for x in s.steps[: state.t]) == state.prefix]
            if fit and not untrained & set(fit):
                assert mine
            if rule == "nearest" and mine:
                leaves = min(max(h, state.t) for h in fit.values())
                assert max(fit[mine[0].source], state.t) == leaves
            chosen += len(mine)
            refused += not fit and bool(out.repository_size)
        assert {s.source for s in out.samples} <= {
            name for i in out.important for name in solutions(world, judge, i.t, i.prefix)
        }
    assert chosen > 100
    assert refused > 30


def test_a_solution_with_an_invalid_teacher_action_is_chosen_only_if_such_are_trained():
    task = corridor_task(door=12)
    x = recorded(task, 7)
    steps = (x.steps[0], replace(x.steps[1], valid=False), *x.steps[2:])
    x = replace(x, steps=steps)
    branches = explore([task], [x], Student({task.id: {2, 4}}), Corridor, ACT, M=3, seed=0).branches
    out = select([task], [x], branches)
    assert (out.samples, [s.t for s in out.without_solution]) == ((), [0, 6])
    (sample,) = select([task], [x], branches, train_invalid=True).samples
    assert (sample.start, all(sample.trained)) == (0, True)
    (whole,) = select([task], [x], branches, mask=False).samples
    assert whole.trained == (True, False, *[True] * 11)


def test_a_branch_that_is_filed_at_the_start_or_behind_the_end_does_no_harm():
    task = corridor_task(door=9)
    x = recorded(task, 5)
    branches = list(
        explore([task], [x], Student({task.id: {0}}), Corridor, ACT, M=1, seed=0).branches
    )
    (s0,) = (b for b in branches if b.t == 0)
    filed = replace(s0, id="filed", teacher_id=x.id, k=1)
    behind = replace(s0, id="behind", teacher_id=x.id, k=2, t=x.length)
    found = state_outcomes([x], [*branches, filed, behind])[x.id]
    assert [(o.k, o.t, o.n, o.wins) for o in found] == [(0, 0, 2, 2), (1, 3, 1, 0)]
