"""Declared methods: which rollouts they ask for, which samples they keep."""

from __future__ import annotations

import dataclasses

import pytest
from toy import ACT, Corridor, Script, Student, corridor_task, drunk, recorded

from eeflib.errors import DataError, PrerequisiteError
from eeflib.exploration import explore, plan_exploration
from eeflib.methods import METHODS, Method, get_method, rft
from eeflib.prompts import HINTS, get_format
from eeflib.selection import select

TASKS = [corridor_task(i, door=12) for i in range(4)]
TEACHERS = [
    recorded(TASKS[0], 11),
    *(recorded(t, s) for t, s in zip(TASKS[1:], (11, 12, 11), strict=True)),
]
"""Tasks 0, 1 and 3 failed (T = 12), task 2 solved (T = 13)."""
WINS = {"corridor-000": {2, 8}, "corridor-001": {0}, "corridor-002": {4}}


def branches_of(method: Method, policy: Script):
    return explore(TASKS, TEACHERS, policy, Corridor, ACT, seed=0, **method.exploration()).branches


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_says_what_it_runs_and_trains_on_it(name):
    method = METHODS[name]
    assert get_method(name) is method
    rounds = method.iterations if method.backward else 1
    plan = [
        branch
        for i in range(1, rounds + 1)
        for group in plan_exploration(TASKS, TEACHERS, **method.exploration(i))
        for _, branch in group
    ]
    states = len({(branch.teacher_id, branch.k) for branch in plan if branch.k > 0})
    assert len(plan) == pytest.approx(rounds * method.simulations(len(TASKS), states), abs=1)
    assert bool(plan) == method.explores == (method.iterations > 0)
    branches = branches_of(method, Student(WINS))
    out = select(method, TASKS, TEACHERS, branches)
    assert out.samples
    trained = {
        label for s in out.samples for on, label in zip(s.trained, s.labels, strict=True) if on
    }
    if not method.trains_harmful:
        assert trained <= {"beneficial", "student"}
    if method.backward or method.attempts_state > 1:
        return
    # Records of a method that runs more serve one that runs less.
    more = dataclasses.replace(METHODS["EEF"], attempts=6, attempts_state=2)
    everything = [
        # Second attempts at expert states win everywhere, and change nothing for who makes one.
        dataclasses.replace(b, rollout=dataclasses.replace(b.rollout, reward=1.0))
        if b.k and b.attempt
        else b
        for b in branches_of(more, Student(WINS))
    ]
    assert select(method, TASKS, TEACHERS, everything) == out


def test_a_budget_of_steps_is_kept_to_within_one_rollout():
    def run(steps, done=None, on_done=None):
        return explore(
            TASKS, TEACHERS, Student(WINS), Corridor, ACT, seed=0, attempts_s0=9, from_states=False,
            steps=steps, batch_size=2, done=done, on_done=on_done,
        ).branches  # fmt: skip

    everything = run(None)
    lengths = [b.rollout.length for b in everything]
    for steps in (1, lengths[0], lengths[0] + 1, sum(lengths[:5]), sum(lengths) + 1):
        found = run(steps)
        assert found == everything[: len(found)]
        assert sum(lengths[: len(found) - 1]) < steps
        assert sum(lengths[: len(found)]) >= steps or len(found) == len(everything)
    kept = []
    run(sum(lengths[:5]), on_done=kept.extend)  # what was begun goes on to the same end
    assert run(sum(lengths[:5]), done={b.id: b for b in kept[:3]}) == run(sum(lengths[:5]))
    method = get_method("RFTx-steps")
    assert all(method.keeps(b) for b in everything)
    with pytest.raises(DataError, match="from s0 only"):
        dataclasses.replace(method, explores_states=True)


def test_what_each_method_learns_from():
    branches = branches_of(METHODS["EEF"], Student(WINS))

    def summary(name):
        samples = select(METHODS[name], TASKS, TEACHERS, branches).samples
        return [(s.task_id[-1], s.kind, s.start, sum(s.trained)) for s in samples]

    assert summary("SFT") == [("2", "positive", 0, 13)]
    assert summary("SFT-all") == [(str(i), "all", 0, 13 if i == 2 else 12) for i in range(4)]
    assert summary("RFT") == [("1", "positive", 0, 13), ("2", "positive", 0, 13)]
    s0 = [("0", "s0", 0, 13), ("1", "s0", 0, 13), ("2", "s0", 0, 13)]
    # Task 0 is won from s_2, lost from s_4, won from s_8; task 2 won from s_4, lost from s_6.
    # Task 1 is won from s_0 only, so nothing leads on from its recovery state s_2.
    recovery = [("0", "recovery", 4, 9), ("2", "recovery", 6, 7)]
    assert sorted(summary("EEF")) == sorted(s0 + recovery)
    assert summary("EEF-s0-only") == s0
    assert summary("EEF-r-only") == recovery
    assert len(summary("EEF-no-mask")) == 5
    assert {trained for *_, trained in summary("EEF-no-mask")} == {13}
    kept = select(METHODS["EEF"], TASKS, TEACHERS, branches)
    assert kept.unsolved == {"corridor-003": 0.25}
    assert kept.counts["recovery without solution"] == 2
    assert kept.counts["s0 without solution"] == 1


def test_more_attempts_find_more_and_keep_each_solution_once():
    policy = Script(drunk)
    policy.name = "drunk"
    near = [corridor_task(i, door=2) for i in range(4)]
    many = rft(30)
    branches = explore(near, [], policy, Corridor, ACT, seed=0, **many.exploration()).branches
    few = select(rft(), near, [], branches)
    lots = select(many, near, [], branches)
    assert len(branches) == 120
    assert 0 < len(few.samples) < len(lots.samples) <= sum(b.won for b in branches)
    actions = [(s.task_id, tuple(x.action for x in s.steps)) for s in lots.samples]
    assert len(set(actions)) == len(actions)
    one = select(dataclasses.replace(many, rule="shortest"), near, [], branches)
    assert len(one.samples) == len({s.task_id for s in lots.samples})


def test_nothing_to_train_on_is_one_clear_error():
    failed = [x for x in TEACHERS if not x.solved]
    with pytest.raises(PrerequisiteError, match=r"SFT has nothing.*3 teacher.*of which 0 solved"):
        select(METHODS["SFT"], TASKS, failed, required=True)
    nothing = branches_of(METHODS["EEF"], Student({}))
    lost = [b for b in nothing if b.task_id != "corridor-002"]
    with pytest.raises(PrerequisiteError, match="EEF has nothing to train on"):
        select(METHODS["EEF"], TASKS, failed, lost, required=True)


def test_names_and_declarations_are_checked():
    assert get_method("RFTx4").attempts == 4
    assert get_method("RFTx6") == METHODS["RFTx6"] == rft(6)
    for name in ("RFTx0", "RFTx", "eef", "RFTx1"):
        with pytest.raises(DataError, match="EEF-no-mask"):
            get_method(name)
    with pytest.raises(TypeError):
        METHODS["EEF"] = rft()  # type: ignore[index]
    eef = METHODS["EEF"]
    for change in (
        {"attempts": 0},
        {"iterations": 0},
        {"d_s0": False, "d_r": False},
        {"uses": "positives"},
    ):
        with pytest.raises(DataError, match="method 'EEF'"):
            dataclasses.replace(eef, **change)


def test_backward_explores_each_state_once_the_last_ones_first():
    method = dataclasses.replace(METHODS["TCOD-like"], M=5)
    at = {}
    for i in (1, 2, 3, 7):
        groups = plan_exploration(TASKS, TEACHERS, **method.exploration(i))
        at[i] = [b for group in groups for _, b in group]
    times = [[b.t for b in at[i] if b.teacher_id == TEACHERS[0].id] for i in (1, 2, 3)]
    eef = plan_exploration(TASKS, TEACHERS, **METHODS["EEF"].exploration())
    expected = [b.t for group in eef for _, b in group if b.teacher_id == TEACHERS[0].id]
    assert times[2] + times[1] + times[0] == expected
    assert all(times)
    assert [sum(b.t == 0 for b in at[i]) for i in (1, 2, 3)] == [0, 0, len(TASKS)]
    assert len(at[7]) == len(at[3])  # further iterations repeat the last stage
    with pytest.raises(DataError, match="1 <= i <= n"):
        plan_exploration(TASKS, TEACHERS, stage=(4, 3))


def test_states_of_successes_or_of_failures():
    for change, wanted in (({"successes_only": True}, True), ({"failures_only": True}, False)):
        method = dataclasses.replace(METHODS["EEF"], **change)
        of = {b.teacher_id for b in branches_of(method, Student(WINS)) if b.teacher_id}
        assert of == {x.id for x in TEACHERS if x.solved == wanted}
        # records of a method that explores all serve it, too
        everything = branches_of(METHODS["EEF"], Student(WINS))
        mine = branches_of(method, Student(WINS))
        assert select(method, TASKS, TEACHERS, everything) == select(method, TASKS, TEACHERS, mine)
    with pytest.raises(DataError, match="not both"):
        plan_exploration(TASKS, TEACHERS, failures_only=True, successes_only=True)


def tried(wins: list[bool], t: int, teacher=TEACHERS[0]):
    """Branches of `teacher`'s state after t actions, a rollout a win or a loss."""
    eef = dataclasses.replace(METHODS["EEF"], attempts_state=len(wins), M=11)
    every = {**WINS, teacher.task_id: set(range(12))}
    won = [b for b in branches_of(eef, Student(every)) if (b.teacher_id, b.t) == (teacher.id, t)]
    lost = [b for b in branches_of(eef, Student({})) if (b.teacher_id, b.t) == (teacher.id, t)]
    return [(w if win else x) for win, w, x in zip(wins, won, lost, strict=True)]


def test_which_expert_states_are_important():
    branches = [*tried([True, True], 3), *tried([True, False], 6), *tried([False, False], 9)]

    def states(which):
        method = dataclasses.replace(METHODS["PivotRL-like"], states=which, M=11)
        found = select(method, TASKS, TEACHERS, branches)
        return [(x.t, x.kind) for x in found.important if x.teacher_ids], found.samples

    assert states("mixed")[0] == [(6, "expert")]
    assert states("won")[0] == [(3, "expert"), (6, "expert")]
    assert states("recovery")[0] == [(9, "recovery")]
    sample = next(s for s in states("mixed")[1] if s.kind == "expert")
    assert sample.trained == (False,) * 6 + (True,) * (len(sample.steps) - 6)
    with pytest.raises(DataError, match="mixed"):
        dataclasses.replace(METHODS["PivotRL-like"], attempts_state=1)


def test_a_pair_goes_two_ways_from_one_state():
    method = METHODS["ETO"]
    assert method.start_from == "previous"
    branches = branches_of(method, Student(WINS))
    out = select(method, TASKS, TEACHERS, branches)
    # task 1 is won by the student, task 2 by the teacher; only in task 2 there is a failure, too
    assert [(s.task_id[-1], s.kind) for s in out.samples] == [("2", "chosen"), ("2", "rejected")]
    better, worse = out.samples
    assert better.source == TEACHERS[2].id
    assert worse.source == next(b.id for b in branches if b.task_id == TASKS[2].id)
    assert all(worse.trained)
    assert [x.task_id[-1] for x in out.without_solution] == ["0", "1", "3"]
    # from expert states: the same prefix, which is context on both sides
    method = dataclasses.replace(
        method, explores_states=True, states="mixed", attempts_state=2, d_s0=False
    )
    out = select(method, TASKS, TEACHERS, tried([False, True], 6))
    better, worse = out.samples
    assert (better.start, worse.start) == (6, 6)
    assert better.steps[:6] == worse.steps[:6]
    assert [x.action for x in better.steps[:6]] == list(TEACHERS[0].actions[:6])
    assert not any(better.trained[:6] + worse.trained[:6])
    # what a fault ended is no failure
    faulty = [
        dataclasses.replace(b, rollout=dataclasses.replace(b.rollout, error="ProviderError: x"))
        if not b.won
        else b
        for b in tried([False, True], 6)
    ]
    assert not select(method, TASKS, TEACHERS, faulty).samples


def test_hints_say_whether_the_trajectory_solved_its_task():
    out = select(METHODS["NAT"], TASKS, TEACHERS)
    assert {s.source: s.hint for s in out.samples} == {x.id: HINTS[x.solved] for x in TEACHERS}
    assert all(s.hint is None for s in select(METHODS["SFT-all"], TASKS, TEACHERS).samples)
    said = ACT.messages("go", out.samples[0].steps, hint=out.samples[0].hint)[0].content
    assert said.startswith(f"Instruction: go{HINTS[False]}\n")
    assert get_format("act", "corridor").hash == ACT.hash  # nothing changes for all others
