"""Expert states, verified restoration, branches and their counts, resume."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from toy import ACT, Corridor, Drifting, Script, Student, corridor_task, drunk, recorded

from eeflib.errors import DataError
from eeflib.exploration import ExplorationReport, expert_states, explore, plan_exploration
from eeflib.records import Branch, Step, Trajectory


def of_length(n: int) -> Trajectory:
    steps = tuple(Step(f"o{t}", f"a{t}", "teacher") for t in range(n))
    return Trajectory("x", "u", "corridor", "go", "p", steps, "end", 0.0, True, False)


def times(length: int, M: int, spacing="even") -> list[int]:
    states = expert_states(of_length(length), M, spacing)
    assert [s.k for s in states] == list(range(1, len(states) + 1))
    return [s.t for s in states]


@pytest.mark.parametrize(
    ("length", "M", "paper", "even"),
    [
        (30, 5, [5, 10, 15, 20, 25], [5, 10, 15, 20, 25]),
        (29, 5, [4, 8, 12, 16, 20], [4, 8, 12, 16, 20]),  # l = floor(29 / 6)
        (12, 5, [2, 4, 6, 8, 10], [2, 4, 6, 8, 10]),
        (11, 5, [1, 2, 3, 4, 5], [1, 3, 6, 8, 10]),  # literally, only the first half is seen
        (7, 5, [1, 2, 3, 4, 5], [1, 2, 4, 5, 6]),
        (6, 5, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (5, 5, [], [1, 2, 3, 4]),  # l = 0
        (2, 5, [], [1]),
        (1, 5, [], []),
        (0, 5, [], []),
        (3, 1, [1], [1]),
        (2, 1, [1], [1]),
        (9, 1, [4], [4]),
        (8, 0, [], []),
    ],
)
def test_expert_states_of_known_lengths(length, M, paper, even):
    assert times(length, M, "paper") == paper
    assert times(length, M) == even


def test_expert_states_are_spread_evenly_and_never_lie_at_the_end():
    for length, M in itertools.product(range(61), range(1, 9)):
        found = times(length, M)
        gap = length // (M + 1)
        assert found == sorted(set(found))
        assert all(1 <= t <= length - 1 for t in found)
        assert len(found) == max(0, min(M, length - 1))
        gaps = {b - a for a, b in itertools.pairwise(found)}
        assert max(gaps, default=1) - min(gaps, default=1) <= 1
        if gap >= 2:
            assert found == [gap * k for k in range(1, M + 1)]
        elif M > 1 and length > M:
            assert (found[0], found[-1]) == (1, length - 1)


def test_expert_states_refuse_nonsense():
    with pytest.raises(DataError, match="spacing"):
        expert_states(of_length(5), 3, "odd")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="M=-1"):
        expert_states(of_length(5), -1)


TASKS = [corridor_task(i, door=9) for i in range(3)]
TEACHER = [recorded(TASKS[0], 7), recorded(TASKS[1], 9), recorded(TASKS[2], 3)]
"""T = 8 (opens too early), 10 (solved), 4 (too early)."""


def run(policy, env=Corridor, **more):
    more = {"M": 3, "seed": 1, "iteration": 1, **more}
    return explore(TASKS, TEACHER, policy, env, ACT, **more)


def test_branches_start_where_they_say_and_hold_the_students_steps_only():
    out = run(Student({"corridor-000": {2, 6}, "corridor-001": {0}}))
    by_id = {b.id: b for b in out.branches}
    assert len(by_id) == 12
    assert [b.id for b in out.branches[:3]] == [f"corridor-{i:03d}#i1.s0.0" for i in range(3)]
    states = [(b.task_id[-1], b.k, b.t) for b in out.branches if b.k]
    assert states == [
        *[("0", 1, 2), ("0", 2, 4), ("0", 3, 6)],
        *[("1", 1, 2), ("1", 2, 4), ("1", 3, 6)],
        *[("2", 1, 1), ("2", 2, 2), ("2", 3, 3)],
    ]
    assert {b.id for b in out.branches if b.won} == {
        "corridor-000#i1.teacher.0.k1.0",
        "corridor-000#i1.teacher.0.k3.0",
        "corridor-001#i1.s0.0",
    }
    for b in out.branches:
        assert b.rollout is not None
        assert b.rollout.id == b.id
        assert b.teacher_id == (None if b.k == 0 else f"{b.task_id}#teacher.0")
        assert {s.actor for s in b.rollout.steps} == {"student"}
        if b.k:
            source = next(x for x in TEACHER if x.id == b.teacher_id)
            assert b.rollout.steps[0].observation == source.observation(b.t)
            assert b.rollout.steps[0].state_key == source.steps[b.t].state_key
    won = by_id["corridor-000#i1.teacher.0.k3.0"].rollout
    assert won.actions == ("hop", "hop", "hop", "open")


def test_counts():
    out = run(Student({"corridor-000": {2, 6}}))
    report = out.report
    assert report.simulations == 12
    assert report.wins == 2
    assert report.simulated_steps == 10 + (8 + 4)  # 10 open at once, 2 walk to the door
    assert report.replayed_steps == (2 + 4 + 6) * 2 + (1 + 2 + 3)
    assert (report.restorations, report.verified, report.skipped, report.faults) == (9, 9, 0, 0)
    assert json.loads(json.dumps(report.to_dict()))["simulations"] == 12
    again = [Branch.from_dict(json.loads(json.dumps(b.to_dict()))) for b in out.branches]
    assert ExplorationReport.of(again) == report
    plan = plan_exploration(TASKS, TEACHER, M=3)
    assert sum(map(len, plan)) == 12


def test_an_unrepeatable_state_is_skipped_and_counted():
    pool = [Drifting()]
    out = run(Student({}), lambda: pool[0], batch_size=1)
    lost = [b for b in out.branches if not b.restored]
    assert lost
    # Every state whose replay sees position 4, and no other.
    assert {(b.task_id, b.t) for b in lost} == {(task.id, t) for task in TASKS[:2] for t in (4, 6)}
    assert all("It is dark" in b.restore_mismatch for b in lost)
    assert not any(b.won for b in lost)
    report = out.report
    assert (report.restorations, report.verified, report.skipped) == (9, 5, 4)
    assert report.simulations == 8
    assert sum(report.reasons.values()) == 4
    assert all(reason.startswith("s_4: ") for reason in report.reasons)


def test_a_fault_is_neither_a_win_nor_a_skipped_state():
    def reply(c, _):
        return "break" if "k2" in c.key else "open"

    out = run(Script(reply))
    assert out.report.faults == 3
    assert out.report.skipped == 0
    assert all(b.rollout.error for b in out.branches if b.k == 2)


def test_options_say_what_is_explored():
    def ids(**more):
        return [e.id for group in plan_exploration(TASKS, TEACHER, **more) for e, _ in group]

    assert len(ids(M=3, from_states=False, attempts_s0=6)) == 18
    assert len(ids(M=3, from_s0=False, attempts_state=2)) == 18
    assert not any("001#" in i and ".k" in i for i in ids(M=3, failures_only=True))
    assert len(ids(M=3, spacing="paper")) == 3 + 9
    assert len(ids(M=5, spacing="paper")) == 3 + 5 + 5 + 0
    assert ids(M=3, iteration=2)[0] == "corridor-000#i2.s0.0"
    faulty = [dataclasses.replace(x, error="ProviderError: gone") for x in TEACHER]
    assert sum(map(len, plan_exploration(TASKS, faulty, M=3))) == 3
    assert sum(map(len, plan_exploration(TASKS[:1], TEACHER, M=3))) == 1 + 3
    # A state where no step is left is no place to start from.
    hurried = [dataclasses.replace(t, settings={**t.settings, "max_steps": 4}) for t in TASKS]
    assert [b.t for _, b in plan_exploration(hurried[:1], TEACHER, M=3)[1]] == [2]


def test_more_attempts_add_branches_and_change_none():
    few = run(Script(drunk), from_states=False, batch_size=2)
    many = run(Script(drunk), attempts_s0=3, attempts_state=2, batch_size=2)
    by_id = {b.id: b for b in many.branches}
    assert len(by_id) == 9 + 18
    for b in few.branches:
        assert by_id[b.id] == b
    # So one method's branches can stand in for another's.
    policy = Script(drunk)
    again = run(
        policy,
        attempts_s0=3,
        attempts_state=2,
        batch_size=2,
        done={b.id: b for b in few.branches},
    )
    assert again == many
    assert not any(c.key.endswith("s0.0") for c in policy.asked)


def test_iterations_draw_anew():
    one, two = (run(Script(drunk), iteration=i) for i in (1, 2))
    assert [b.iteration for b in two.branches] == [2] * 12
    assert [b.rollout.actions for b in one.branches] != [b.rollout.actions for b in two.branches]


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_killed_exploration_continues_with_the_same_branches(stop_after):
    def drifting():
        env = Drifting()
        env.resets = 1  # every state at or after position 4 is unrepeatable
        return env

    whole = run(Script(drunk), drifting, batch_size=3)
    assert whole.report.skipped == 4

    class Killed(Exception):
        pass

    file: list[Branch] = []
    chunks = itertools.count()

    def on_done(branches):
        if next(chunks) == stop_after:
            raise Killed
        file.extend(branches)

    with pytest.raises(Killed):
        run(Script(drunk), drifting, batch_size=3, on_done=on_done)
    assert len(file) == 3 * stop_after
    on_file = [Branch.from_dict(json.loads(json.dumps(b.to_dict()))) for b in file]
    again = run(
        Script(drunk),
        drifting,
        batch_size=3,
        done={b.id: b for b in on_file},
        on_done=on_file.extend,
    )
    assert again == whole
    assert on_file == list(whole.branches)
