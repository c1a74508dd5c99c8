"""Declared methods: which rollouts they ask for, which samples they keep."""

from __future__ import annotations

import dataclasses

import pytest
from toy import ACT, Corridor, Script, Student, corridor_task, drunk, recorded

from eeflib.errors import DataError, PrerequisiteError
from eeflib.exploration import explore, plan_exploration
from eeflib.methods import METHODS, Method, get_method, rft
from eeflib.selection import select

TASKS = [corridor_task(i, door=12) for i in range(4)]
TEACHERS = [
    recorded(TASKS[0], 11),
    *(recorded(t, s) for t, s in zip(TASKS[1:], (11, 12, 11), strict=True)),
]
"""Tasks 0, 1 and 3 failed (T = 12), task 2 solved (T = 13)."""
WINS = {"corridor-000": {2, 8}, "corridor-001": {0}, "corridor-002": {4}}


def branches_of(method: Method, policy: Script):
    return explore(TASKS, TEACHERS, policy, Corridor, ACT, seed=0, **method.exploration).branches


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_says_what_it_runs_and_trains_on_it(name):
    method = METHODS[name]
    assert get_method(name) is method
    plan = plan_exploration(TASKS, TEACHERS, **method.exploration)
    states = sum(branch.k > 0 for group in plan for _, branch in group)
    assert sum(map(len, plan)) == method.simulations(len(TASKS), states)
    assert bool(plan) == method.explores == (method.iterations > 0)
    branches = branches_of(method, Student(WINS))
    out = select(method, TASKS, TEACHERS, branches)
    assert out.samples
    trained = {
        label for s in out.samples for on, label in zip(s.trained, s.labels, strict=True) if on
    }
    if not method.trains_harmful:
        assert trained <= {"beneficial", "student"}
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
    branches = explore(near, [], policy, Corridor, ACT, seed=0, **many.exploration).branches
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
