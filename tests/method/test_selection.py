"""Outcomes -> labels, important states, solutions, flags: METHOD's rules on real branches.

The rules are stated a second time here, as patterns over words of W (won) and F (lost), and held
against what comes out of real exploration of every such word.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import pytest
from toy import ACT, Corridor, Script, Student, corridor_task, drunk, position, recorded, select

from eeflib.errors import DataError
from eeflib.exploration import expert_states, explore
from eeflib.methods import get_method
from eeflib.records import Branch, Sample, Step, Trajectory, Usage
from eeflib.selection import ImportantState, Solution, choose
from eeflib.states import StateOutcome, action_labels, recovery_states, state_outcomes


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


@pytest.mark.parametrize("rule", ["nearest", "shortest", "random", "all"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_invariants_hold_for_every_rule(rule, accumulate):
    word_list = words(4)
    first = explored(word_list)
    second = explored(word_list[::-1], iteration=2)
    tasks, teachers, _, _ = first
    teachers = [*teachers, *(recorded(t, 12, "expert") for t in tasks[:5])]
    branches = [*first[2], *second[2]]
    out = select(tasks, teachers, branches, rule=rule, accumulate=accumulate)
    everything = select(tasks, teachers, branches, "RFT", explores_states=True).samples
    repository = {(s.task_id, tuple(x.action for x in s.steps)) for s in everything}
    assert out.samples
    for sample in out.samples:
        flags = list(zip(sample.steps, sample.trained, sample.labels, strict=True))
        assert not any(sample.trained[: sample.start])
        assert any(sample.trained)
        for step, on, label in flags[sample.start :]:
            assert on == (step.valid and label in ("beneficial", "student"))
            assert (label == "student") == (step.actor == "student")
        assert sample.steps[-1].reward == 1
        assert (sample.task_id, tuple(s.action for s in sample.steps)) in repository
        again = Sample.from_dict(json.loads(json.dumps(sample.to_dict())))
        assert again == sample
    assert len({s.id for s in out.samples}) == len(out.samples)
    assert select(tasks, teachers, branches, rule=rule, accumulate=accumulate) == out
    if rule != "all":
        assert all(
            sum(s.start == i.t for s in out.samples if s.task_id == i.task_id) <= 1
            for i in out.important
        )


def test_a_students_own_solution_comes_first_and_none_with_harmful_actions_is_chosen():
    tasks, teachers, branches, _ = explored(["WFWW"], stops_at=11)  # states at 0, 3, 6, 9
    out = select(tasks, teachers, branches)
    assert [(s.start, s.source[-5:]) for s in out.samples] == [(0, ".s0.0"), (3, ".k2.0")]
    everything = select(tasks, teachers, branches, rule="all")
    # k2 and k3 go on from s_0 by harmful actions (W -> F), k3 from s_3 by unknown ones (W -> W)
    trained = {(s.start, s.source[-4:]): s.trained for s in everything.samples}
    assert trained == {(0, "s0.0"): (True,) * 13, (3, "k2.0"): (*[False] * 3, *[True] * 10)}
    unmasked = select(tasks, teachers, branches, rule="all", mask=False)
    assert {s.source[-4:] for s in unmasked.samples} == {"s0.0", "k2.0", "k3.0"}


def test_shortest_and_random_choose_by_length_and_by_seed():
    tasks, teachers, branches, _ = explored(["WFFF"])
    slow = [
        dataclasses.replace(
            b,
            rollout=dataclasses.replace(
                b.rollout, steps=(_wait(b.rollout.steps[0]), *b.rollout.steps)
            ),
        )
        for b in branches
    ]
    both = [*slow, *explored(["FWFF"], iteration=2)[2]]
    # From s0 there is the slow way of the first iteration, and the teacher's to s_3 and then on.
    (sample,) = select(tasks, teachers, both, rule="shortest").samples
    assert sample.source == "corridor-000#i2.teacher.0.k1.0"
    (sample,) = select(tasks, teachers, both, rule="nearest").samples
    assert sample.source == "corridor-000#i1.s0.0"
    drawn = [
        select(tasks, teachers, both, rule="random", seed=s).samples[0].source for s in range(20)
    ]
    assert len(set(drawn)) == 2
    with pytest.raises(DataError, match="shortest"):
        select(tasks, teachers, both, rule="longest")  # type: ignore[arg-type]


def _wait(step: Step) -> Step:
    return dataclasses.replace(step, action="wait")


def test_untried_states_are_left_out_and_their_neighbours_compared():
    tasks, teachers, branches, times = explored(["WFFW"])

    def at(k, **changes):
        return [dataclasses.replace(b, **changes) if b.k == k else b for b in branches]

    (rollout,) = [b.rollout for b in branches if b.k == 1]
    gone = at(1, rollout=None, restore_mismatch="s_1: differs")
    faulty = at(1, rollout=dataclasses.replace(rollout, error="ProviderError: gone"))
    for changed in (gone, faulty, [b for b in branches if b.k != 1]):
        out = select(tasks, teachers, changed)
        assert [s.t for s in recovery_states(out.outcomes[teachers[0].id])] == [times[2]]
        labels = out.labels[teachers[0].id]
        assert set(labels[: times[2]]) == {"harmful"}
        assert [s.start for s in out.samples] == [0, times[2]]
    # Without s0 nothing is known before the first state that was tried.
    (states_only,) = [
        select(tasks, teachers, [b for b in branches if b.k != 0]).labels[teachers[0].id]
    ]
    assert set(states_only[: times[1]]) == {"unknown"}
    nothing = select(tasks, teachers, [])
    assert not nothing.samples
    assert set(nothing.labels[teachers[0].id]) == {"unknown"}


def test_a_teachers_success_is_a_solution_and_its_actions_are_beneficial():
    tasks, teachers, branches, _ = explored(["FFFF", "WFFF"], stops_at=12)
    assert all(x.solved for x in teachers)
    out = select(tasks, teachers, branches)
    assert {label for labels in out.labels.values() for label in labels} == {"beneficial"}
    found = by_task(out.samples)
    alone = found["corridor-000"][0]
    assert alone.source == teachers[0].id
    assert all(alone.trained)
    own, recovery = found["corridor-001"][0], found["corridor-001"][3]
    assert own.source.endswith("s0.0")
    assert recovery.source == teachers[1].id
    assert recovery.trained == (*[False] * 3, *[True] * 10)


def test_a_solution_found_elsewhere_passes_through_a_state_if_it_begins_the_same():
    tasks, teachers, branches, _ = explored(["WFFF"])  # recovery state s_3, nothing later won
    assert [s.start for s in select(tasks, teachers, branches).samples] == [0]
    expert = recorded(tasks[0], 12, "expert")
    out = select(tasks, [*teachers, expert], branches)
    recovery = out.samples[1]
    assert (recovery.start, recovery.source) == (3, expert.id)
    assert recovery.trained == (*[False] * 3, *[True] * 10)
    # A rollout from s0 that walked the teacher's way and went on passes through it, too.
    (s0,) = [b for b in branches if b.k == 0]
    steps = tuple(
        dataclasses.replace(s, action="right") if i < 4 else s
        for i, s in enumerate(s0.rollout.steps)
    )
    same_way = dataclasses.replace(
        s0, id="own", attempt=1, rollout=dataclasses.replace(s0.rollout, steps=steps)
    )
    out = select(tasks, teachers, [*branches, same_way])
    assert (out.samples[1].start, out.samples[1].source) == (3, "own")
    state = ImportantState(tasks[0].id, 3, ("right",) * 3, (teachers[0].id,))
    whole = same_way.rollout.steps
    own = Solution("own", tasks[0].id, "corridor", tasks[0].instruction, whole, handover=0)
    assert choose(state, [own]) == [own]
    # It leaves the teacher's path at s_3, no sooner than one taken over there; the shorter wins.
    taken_over = dataclasses.replace(own, id="k1", handover=3, steps=(*steps[:3], *steps[4:]))
    assert choose(state, [own, taken_over]) == [taken_over]


def test_a_state_on_two_teachers_paths_is_one_important_state():
    tasks, teachers, branches, _ = explored(["WFWF"])
    twin = dataclasses.replace(teachers[0], id="corridor-000#again.0")
    copies = [dataclasses.replace(b, id=b.id + "x", teacher_id=twin.id) for b in branches if b.k]
    one = select(tasks, teachers, branches)
    two = select(tasks, [*teachers, twin], [*branches, *copies])
    assert [i.t for i in two.important] == [i.t for i in one.important] == [0, 3, 9]
    assert two.important[1].teacher_ids == (teachers[0].id, twin.id)
    assert two.samples == one.samples
    assert two.repository_size == one.repository_size  # equal action sequences are kept once


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


def test_several_attempts_are_counted_per_state():
    task = corridor_task(door=4)
    teacher = recorded(task, 6)
    out = explore(
        [task],
        [teacher],
        Script(drunk),
        Corridor,
        ACT,
        M=2,
        seed=0,
        attempts_s0=4,
        attempts_state=20,
    )
    found = state_outcomes([teacher], out.branches)[teacher.id]
    assert [(o.k, o.n) for o in found] == [(0, 4), (1, 20), (2, 20)]
    assert sum(o.wins for o in found) == out.report.wins > 0
    selection = select([task], [teacher], out.branches, rule="all")
    assert selection.repository_size <= out.report.wins


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
