"""Outcomes -> labels, important states, solutions, flags: METHOD's rules on real branches.

The rules are stated a second time here, as patterns over words of W (won) and F (lost), and held
against what comes out of real exploration of every such word.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from toy import ACT, Corridor, Script, Student, corridor_task, position, recorded, select

from eeflib.errors import DataError
from eeflib.exploration import expert_states, explore
from eeflib.methods import get_method
from eeflib.records import Branch, Sample, Step, Trajectory, Usage
from eeflib.selection import ImportantState, Solution, choose
from eeflib.states import StateOutcome, action_labels, state_outcomes


def words(n):
    return ["".join(w) for w in itertools.product("FW", repeat=n)]


def explored(word_list, *, stops_at=11, door=12, M=None, iteration=1):
    """One task per word; the student's outcome from [s0, s_1, ..., s_M] is the word."""
    tasks = [corridor_task(i, door=door) for i in range(len(word_list))]
    teachers = [recorded(task, stops_at) for task in tasks]
    M = len(word_list[0]) - 1 if M is None else M
    times = [0, *(s.t for s in expert_states(teachers[0], M))]
    wins = {
        task.id: {t for t, letter in zip(times, word, strict=True) if letter == "W"}
        for task, word in zip(tasks, word_list, strict=True)
    }
    out = explore(tasks, teachers, Student(wins), Corridor, ACT, M=M, seed=0, iteration=iteration)
    return tasks, teachers, out.branches, times


def by_task(samples):
    out: dict[str, dict[int, Sample]] = {}
    for s in samples:
        assert s.start not in out.setdefault(s.task_id, {})
        out[s.task_id][s.start] = s
    return out


def test_the_worked_example():
    """METHOD: M = 3, [fail, win, fail, win]."""
    tasks, teachers, branches, times = explored(["FWFW"], stops_at=7)
    assert times == [0, 2, 4, 6]
    out = select(tasks, teachers, branches)
    assert out.labels[teachers[0].id] == (
        *["beneficial"] * 2,
        *["harmful"] * 2,
        *["beneficial"] * 2,
        *["harmful"] * 2,  # from a won state to the wrong door
    )
    s0, recovery = out.samples
    assert (s0.kind, s0.start) == ("s0", 0)
    assert [s.action for s in s0.steps] == ["right"] * 2 + ["hop"] * 10 + ["open"]
    assert s0.labels == ("beneficial",) * 2 + ("student",) * 11
    assert all(s0.trained)
    assert s0.source == "corridor-000#i1.teacher.0.k1.0"
    assert (recovery.kind, recovery.start) == ("recovery", 4)
    assert [s.action for s in recovery.steps] == ["right"] * 6 + ["hop"] * 6 + ["open"]
    assert recovery.labels == (
        *["beneficial"] * 2,
        *["harmful"] * 2,
        *["beneficial"] * 2,
        *["student"] * 7,
    )
    assert recovery.trained == (False,) * 4 + (True,) * 9
    assert recovery.source == "corridor-000#i1.teacher.0.k3.0"
    assert [position(s.observation) for s in recovery.steps] == list(range(13))


@pytest.mark.parametrize("M", [0, 1, 2, 3, 4, 5])
def test_every_pattern_of_outcomes(M):
    word_list = words(M + 1)
    tasks, teachers, branches, times = explored(word_list)
    length = teachers[0].length
    ends = [*times[1:], length]
    out = select(tasks, teachers, branches)
    found = by_task(out.samples)
    for task, teacher, word in zip(tasks, teachers, word_list, strict=True):
        good = {k for m in re.finditer("F+(?=W)", word) for k in range(*m.span())}
        bad = {m.start() for m in re.finditer("W(?=F|$)", word)}
        segments = [
            "beneficial" if k in good else "harmful" if k in bad else "unknown"
            for k in range(M + 1)
        ]
        labels = [segments[k] for k in range(M + 1) for _ in range(times[k], ends[k])]
        assert out.labels[teacher.id] == tuple(labels), word
        starts = {0} if "W" in word else set()
        starts |= {times[m.end() - 1] for m in re.finditer("WF(?=F*W)", word)}
        mine = found.get(task.id, {})
        assert set(mine) == starts, word
        for start, sample in mine.items():
            takeover = times[word.index("W", times.index(start))]
            assert sample.kind == ("recovery" if start else "s0")
            assert [s.action for s in sample.steps] == [
                *["right"] * takeover,
                *["hop"] * (12 - takeover),
                "open",
            ]
            assert sample.trained == tuple(i >= start for i in range(13))
            assert sample.labels == (*labels[:takeover], *["student"] * (13 - takeover))
    unsolved = {task.id for task, word in zip(tasks, word_list, strict=True) if "W" not in word}
    assert out.unsolved == dict.fromkeys(unsolved, 0.25)


def test_each_rule_chooses_among_the_solutions_that_pass_through_the_state():
    def solution(name: str, moves: str, handover: int) -> Solution:
        steps = tuple(Step("o", move, "student") for move in moves)
        return Solution(name, "u", "corridor", "go", steps, handover)

    own = solution("own", "rrrhho", 0)  # walks the teacher's way up to s_3
    late, short = solution("late", "rrrrro", 5), solution("short", "rrrho", 4)
    elsewhere = solution("elsewhere", "rhho", 0)
    state = ImportantState("u", 3, ("r", "r", "r"), ("t",))
    known = [late, short, elsewhere, own]
    assert choose(state, known) == [own]
    # left the teacher's path at s_3, no sooner than one taken over there: the shorter wins
    taken_over = solution("k1", "rrrho", 3)
    assert choose(state, [*known, taken_over]) == [taken_over]
    assert choose(state, known, "shortest") == [short]
    assert choose(state, [late, own], "shortest") == [own]
    assert choose(state, known, "all") == [late, short, own]
    drawn = {choose(state, known, "random", seed=seed)[0].id for seed in range(30)}
    assert drawn == {"late", "short", "own"}
    assert choose(state, [elsewhere], "random") == []
    with pytest.raises(DataError, match="shortest"):
        choose(state, known, "longest")  # type: ignore[arg-type]


def test_ablations_of_data_and_mask():
    tasks, teachers, branches, _ = explored(["FWFW", "WFFW"])
    full = select(tasks, teachers, branches)
    s0 = select(tasks, teachers, branches, d_r=False)
    recovery = select(tasks, teachers, branches, d_s0=False)
    assert {s.kind for s in s0.samples} == {"s0"}
    assert {s.kind for s in recovery.samples} == {"recovery"}
    assert sorted(s.id for s in (*s0.samples, *recovery.samples)) == sorted(
        s.id for s in full.samples
    )
    whole = select(tasks, teachers, branches, mask=False)
    assert [s.source for s in whole.samples] == [s.source for s in full.samples]
    assert all(all(s.trained) and s.start == 0 and s.kind == "positive" for s in whole.samples)
    assert any("harmful" in s.labels for s in whole.samples)


def test_invalid_actions_are_context_unless_asked_for():
    task = corridor_task(door=3)
    replies = {0: "fly", 1: "right"}

    def reply(c, _):
        return replies.pop(0) if 0 in replies else ("open" if "at 3" in c.observation else "right")

    branches = explore([task], [], Script(reply), Corridor, ACT, seed=0).branches
    for method in ("EEF", "RFT"):
        (sample,) = select([task], [], branches, method).samples
        assert [s.action for s in sample.steps] == ["fly", "right", "right", "right", "open"]
        assert sample.trained == (False, True, True, True, True)
        (sample,) = select([task], [], branches, method, train_invalid=True).samples
        assert all(sample.trained)
    step = Step("here", "fly", "student", valid=False, reward=1.0)
    lucky = dataclasses.replace(
        branches[0], rollout=dataclasses.replace(branches[0].rollout, steps=(step,))
    )
    out = select([task], [], [lucky])
    assert not out.samples
    assert out.untrainable == (f"{lucky.id}@0",)


def test_iterations_judge_by_the_present_student_and_remember_solutions():
    tasks, teachers, one, times = explored(["WFFW"])
    _, _, two, _ = explored(["FFWF"], iteration=2)
    _, _, three, _ = explored(["FFFF"], iteration=3)
    both = select(tasks, teachers, [*one, *two])
    assert [o.wins for o in both.outcomes[teachers[0].id]] == [0, 0, 1, 0]
    assert [o.solved_before for o in both.outcomes[teachers[0].id]] == [True, False, False, True]
    # s0 is lost now, but was won: its own solution is the nearest. s_9 is a recovery state now,
    # and the first iteration knew a way from there.
    assert [(s.start, s.source) for s in both.samples] == [
        (0, "corridor-000#i1.s0.0"),
        (times[3], "corridor-000#i1.teacher.0.k3.0"),
    ]
    forgetful = select(tasks, teachers, [*one, *two], accumulate=False)
    assert [(s.start, s.source[-9:]) for s in forgetful.samples] == [(0, "er.0.k2.0")]
    # The actions up to a state solved by an earlier student lead to a winning state.
    out = select(tasks, teachers, [*two, *three])
    assert [(s.start, s.source, all(s.trained)) for s in out.samples] == [
        (0, "corridor-000#i2.teacher.0.k2.0", True)
    ]
    # Later branches do not reach back.
    (first,) = state_outcomes(teachers, [*one, *two, *three], iteration=1).values()
    assert [(o.n, o.wins, o.solved_before) for o in first] == [
        (1, int(letter == "W"), False) for letter in "WFFW"
    ]
    assert select(tasks, teachers, [*one, *two, *three], iteration=2) == both


def test_wilson_asks_for_evidence():
    teacher = recorded(corridor_task(door=12), 11)

    def labels(*wins_of_n, evidence):
        outcomes = [StateOutcome(k, 3 * k, n, w) for k, (w, n) in enumerate(wins_of_n)]
        return [action_labels(teacher, outcomes, evidence)[3 * k] for k in range(len(outcomes))]

    once = [(1, 1), (0, 1), (1, 1), (0, 1)]
    assert labels(*once, evidence="paper") == ["harmful", "beneficial", "harmful", "unknown"]
    assert labels(*once, evidence="wilson") == ["unknown"] * 4  # one rollout proves nothing
    eight = [(8, 8), (0, 8), (8, 8), (0, 8)]
    assert labels(*eight, evidence="wilson") == ["harmful", "beneficial", "harmful", "unknown"]
    slight = [(6, 8), (3, 8), (6, 8), (0, 8)]
    assert labels(*slight, evidence="wilson") == ["unknown", "unknown", "harmful", "unknown"]
    # A slow rise is beneficial as a whole, though no single segment shows it.
    rise = [(0, 8), (3, 8), (8, 8), (8, 8)]
    assert labels(*rise, evidence="wilson")[:2] == ["beneficial"] * 2
    assert labels(*rise, evidence="paper")[:2] == ["beneficial", "unknown"]
    # ... but not across a fall.
    fall = [(0, 8), (4, 8), (0, 100), (8, 8)]
    assert labels(*fall, evidence="wilson")[:3] == ["unknown", "harmful", "beneficial"]
    with pytest.raises(DataError, match="wilson"):
        labels(*once, evidence="bayes")


def test_wilson_with_so_few_rollouts_that_it_separates_nothing_is_refused():
    with pytest.raises(DataError, match=r"attempts_state=3: below 4 rollouts"):
        dataclasses.replace(get_method("EEF"), evidence="wilson", attempts_state=3)
    task = corridor_task(door=12)
    teacher, student = recorded(task, 11), Student({task.id: {0, 6}})
    four = {"attempts_s0": 4, "attempts_state": 4}
    found = explore([task], [teacher], student, Corridor, ACT, M=3, seed=0, **four)
    out = select([task], [teacher], found.branches, evidence="wilson", attempts_state=4)
    assert len(out.important) > 1


def test_of_equal_action_sequences_the_students_own_is_kept():
    task = corridor_task(door=4)
    expert = recorded(task, 4)
    student = Script(lambda c, _: "open" if "at 4" in c.observation else "right")
    branches = explore([task], [expert], student, Corridor, ACT, M=2, seed=0).branches
    assert [b.won for b in branches] == [True] * 3
    (kept,) = select([task], [expert], branches, "RFT", explores_states=True).samples
    assert (kept.source, kept.extra["handover"]) == ("corridor-000#i1.s0.0", 0)


def test_what_never_counts():
    """Samples carry no cost; unknown teachers and other tasks are told apart."""
    tasks, teachers, branches, _ = explored(["FWFW"])
    usage = Usage(5, 5, 0.1, 0.7)
    priced = [
        dataclasses.replace(
            b,
            rollout=dataclasses.replace(
                b.rollout,
                steps=tuple(dataclasses.replace(s, usage=usage) for s in b.rollout.steps),
            ),
        )
        for b in branches
    ]
    assert select(tasks, teachers, priced).samples == select(tasks, teachers, branches).samples
    assert not select([], teachers, branches).samples
    with pytest.raises(DataError, match="corridor-000#teacher"):
        select(tasks, [], branches)


def test_baselines_take_whole_trajectories():
    tasks, teachers, branches, _ = explored(["WWFF", "FFFF"])
    expert = recorded(tasks[1], 12, "expert")
    teachers = [*teachers, expert]
    cloned = select(tasks, teachers, (), "SFT").samples
    assert [(s.source, s.kind, all(s.trained)) for s in cloned] == [(expert.id, "positive", True)]
    assert set(cloned[0].labels) == {"beneficial"}
    all_of_them = select(tasks, teachers, (), "SFT-all").samples
    assert [(s.kind, all(s.trained), s.labels[0]) for s in all_of_them] == [
        ("all", True, "unknown"),
        ("all", True, "unknown"),
        ("all", True, "beneficial"),
    ]
    rft = select(tasks, teachers, branches, "RFT")
    assert [s.source for s in rft.samples] == ["corridor-000#i1.s0.0", expert.id]
    assert all(all(s.trained) and s.kind == "positive" for s in rft.samples)
    for rule, n in (("all", 3), ("nearest", 2)):
        out = select(tasks, teachers, branches, "RFT", explores_states=True, rule=rule)
        assert len(out.samples) == n


def test_faulted_teachers_are_not_cloned_nor_judged():
    task = corridor_task(door=12)
    broken = dataclasses.replace(recorded(task, 11), error="ProviderError: gone")
    assert not select([task], [broken], (), "SFT-all").samples
    outcomes = [StateOutcome(0, 0, 1, 0), StateOutcome(1, 6, 1, 1)]
    assert action_labels(broken, outcomes) == ("beneficial",) * 6 + ("unknown",) * 6


def test_labels_of_a_trajectory_without_actions():
    empty = Trajectory("x", "u", "corridor", "go", "p", (), "", 0.0, False, True)
    assert action_labels(empty, [StateOutcome(0, 0, 1, 1)]) == ()
    assert state_outcomes([empty], [Branch("b", "other", 0, 0, 0)]) == {
        "x": (StateOutcome(0, 0, 0, 0),)
    }
