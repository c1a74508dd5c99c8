"""The exercises: solutions pass, typical wrong answers get the smallest case and the rule."""

import runpy
from pathlib import Path

import pytest

from eeflib import exercises

SOLUTIONS = Path(__file__).parents[2] / "notebooks" / "solutions"
CHECKS = {
    "labels": (exercises.check_labels, "labels", 240),
    "selection": (exercises.check_selection, "choose", 240),
    "mask": (exercises.check_mask, "mask", 14),
}


def solution(name):
    return runpy.run_path(str(SOLUTIONS / f"{name}.py"))[CHECKS[name][1]]


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_agrees_with_the_library_in_every_case(name):
    check, _, cases = CHECKS[name]
    found = check(solution(name))
    assert found.passed
    assert repr(found) == f"✓ Right in all {cases} cases."
    assert {path.stem for path in SOLUTIONS.glob("*.py")} == set(CHECKS)


def lost_if_untried(states, solved):
    return solution("labels")(["lost" if s == "untried" else s for s in states], solved)


def harmful_when_failed(states, solved):
    return solution("labels")(states, False)


@pytest.mark.parametrize(
    ("wrong", "case", "rule"),
    [
        (lambda states, solved: ["unknown"] * len(states), "s0 lost; the teacher solved", "[ours]"),
        (lost_if_untried, "s0 won, s1 untried; the teacher failed", "won 1/1 from s0"),
        (harmful_when_failed, "s0 lost; the teacher solved the task", "rule for beneficial"),
        (lambda states, solved: ["bad"] * len(states), "s0 lost", "'bad' is no label"),
        (lambda states, solved: [], "s0 lost", "0 values, not 1"),
    ],
)
def test_wrong_labels_are_told_with_inputs_and_rule(wrong, case, rule):
    found = exercises.check_labels(wrong)
    assert not found.passed
    assert found.agreed < found.cases
    assert found.problem.startswith(f"The smallest wrong case: {case}")
    assert rule in found.problem


def test_what_is_right_is_said_too():
    found = exercises.check_labels(lost_if_untried)
    assert found.right == ("failures without untried states", "solved tasks")
    assert "All right: failures without untried states; solved tasks." in repr(found)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda states, labels, solved: [(0, 0)], "To no handover do only beneficial actions"),
        (lambda states, labels, solved: [], "s0 is an important state"),
        (lambda s, labels, v: [(t, t) for t in range(len(s)) if s[t] == "won"], "s0 is an"),
        (lambda s, labels, v: [*solution("selection")(s, labels, v), (3, 4)], "s3 is no important"),
        (lambda s, labels, v: solution("selection")(s, labels, v)[::-1], "in the order of"),
        (lambda states, labels, solved: [0], "0 is no pair"),
    ],
)
def test_a_wrong_selection_is_told_with_the_rule(wrong, said):
    found = exercises.check_selection(wrong)
    assert not found.passed
    assert "Expected: " in found.problem
    assert said in found.problem


def test_a_list_for_a_pair_will_do():
    pairs = solution("selection")
    assert exercises.check_selection(lambda *given: [list(p) for p in pairs(*given)]).passed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda tokens, start: [t.kind in ("action", "end") for t in tokens], "one is harmful"),
        (lambda tokens, start: [t.step >= start for t in tokens], "What the student reads"),
        (
            lambda tokens, start: [t.kind == "action" and t.step >= start for t in tokens],
            "(end, step 0): expected True, your answer False",
        ),
    ],
)
def test_a_wrong_mask_is_told_with_the_token(wrong, said):
    found = exercises.check_mask(wrong)
    assert not found.passed
    assert said in found.problem


@pytest.mark.parametrize("check", [check for check, *_ in CHECKS.values()])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda *given: ..., "Your function returned nothing yet; return a list"),
        (lambda *given: "unknown", "Your function returned 'unknown'; return a list"),
        (lambda *given: {}["won"], "Your function raised KeyError: 'won'"),
        (None, "Your function raised TypeError"),
    ],
)
def test_a_function_that_raises_or_returns_no_list_is_told_so(check, wrong, said):
    found = check(wrong)
    assert found.agreed == 0
    assert said in found.problem


def test_a_function_may_change_what_it_gets():
    def spoil(states, solved):
        answer = solution("labels")(states, solved)
        states.clear()
        return answer

    assert exercises.check_labels(spoil).passed
