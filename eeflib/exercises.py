"""Exercises: a reader writes the rules of EEF, and a checker compares them with the library's own.

Import `check_labels`, `check_selection` and `check_mask`. Each calls the reader's function on every
small case there is, the smallest first. Expected answers come from `select` and `encode`.

A case is a trajectory of a teacher with up to `LONGEST` actions `a0, a1, ...`: for each state
`s0, s1, ...` before an action whether the student `won` or `lost` from there or it is `untried`,
and whether the teacher itself solved the task.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from eeflib.analysis.segments import Segment, segments
from eeflib.masking import IGNORE, Encoded, Reason, describe_tokens
from eeflib.methods import get_method
from eeflib.pipeline import encode
from eeflib.policies.student import Student
from eeflib.records import Branch, Step, Task, Trajectory
from eeflib.selection import Selection, select

LONGEST = 4
_RULES = {
    "beneficial": "lost and then won [paper], or in a task that the teacher solved [ours]",
    "harmful": "won and then lost [paper], or won last of all in a failure [ours]",
    "unknown": "neither of the two; untried states are skipped [paper]",
}


@dataclass(frozen=True)
class Verdict:
    """What a checker found; its `repr` says it in words."""

    cases: int
    agreed: int
    """Cases with the expected answer."""
    right: tuple[str, ...]
    """Kinds of cases in which every answer is the expected one."""
    problem: str
    """The first wrong case: inputs, expected and given answer, the rule; empty if all agree."""

    @property
    def passed(self) -> bool:
        return self.agreed == self.cases

    def __repr__(self) -> str:
        if self.passed:
            return f"✓ Right in all {self.cases} cases."
        right = f" All right: {'; '.join(self.right)}." if self.right else ""
        return f"✗ Right in {self.agreed} of {self.cases} cases.{right}\n{self.problem}"


class Token(NamedTuple):
    """A token of a training sequence."""

    text: str
    kind: str
    """`page` (instruction, observations), `action`, `end` (the marker after it) or `template`."""
    step: int
    """Whose page, action or end it is, from 0; -1 for the template."""


class _Case(NamedTuple):
    kind: str
    said: str
    inputs: tuple[Any, ...]
    expected: list[Any]
    why: Callable[[list[Any]], str]
    """A wrong answer -> the rule it breaks."""


def check_labels(fn: Any) -> Verdict:
    """Compare `fn(states, solved)` with the labels that the library gives a teacher's actions.

    Args:
        fn: gets a list with `won`, `lost` or `untried` for each of T states, and whether the
            teacher solved the task; returns a list of T labels, one for each action:
            `beneficial`, `harmful` or `unknown`.
    """
    cases = []
    for kind, said, states, solved, teacher, found in _patterns():
        labels = list(found.labels[teacher.id])
        why = partial(_why_labels, segments(teacher, found.outcomes[teacher.id]))
        cases.append(_Case(kind, said, (states, solved), labels, why))
    return _check(fn, cases, "a list with a label for each action")


def check_selection(fn: Any) -> Verdict:
    """Compare `fn(states, labels, solved)` with the samples that the library selects for a task.

    Args:
        fn: gets what `check_labels` describes, with the right labels; returns a list of pairs
            (start, handover), one for each sample: the important state, and the state at which
            the student takes over from the teacher. For the teacher's own solution that is T.
    """
    cases = []
    for kind, said, states, solved, teacher, found in _patterns():
        labels = list(found.labels[teacher.id])
        pairs = [(s.start, s.extra["handover"]) for s in found]
        why = partial(_why_pairs, [x.t for x in found.important], pairs)
        said += f"; labels: {', '.join(labels)}"
        cases.append(_Case(kind, said, (states, labels, solved), pairs, why))
    return _check(fn, cases, "a list of pairs (start, handover)")


def check_mask(fn: Any) -> Verdict:
    """Compare `fn(tokens, start)` with the loss mask of the library's training sequences.

    Args:
        fn: gets a list of `Token` and the step of the important state; returns a list that says
            for each token whether it carries loss.

    Raises:
        PrerequisiteError: the tokenizer of the tiny student needs the `train` extra.
    """
    student, cases = Student("tiny"), []
    chosen = (s for *_, solved, _, found in _patterns() if not solved for s in found)
    for _, sample in sorted({(len(s.steps), s.start, s.source): s for s in chosen}.items()):
        (encoded,) = encode([sample], student)
        tokens, on = _tokens(encoded), (encoded.labels != IGNORE).tolist()
        kind = f"samples that start {'later' if sample.start else 'at s0'}"
        said = f"actions {', '.join(s.action for s in sample.steps)}; start = {sample.start}"
        why = partial(_why_mask, tokens, sample.labels, on)
        cases.append(_Case(kind, said, (tokens, sample.start), on, why))
    return _check(fn, cases, "a list with True or False for each token")


def _patterns() -> Iterator[tuple[str, str, list[str], bool, Trajectory, Selection]]:
    """(kind, in words, states, solved, teacher, what EEF selects) of every small case."""
    lengths = range(1, LONGEST + 1)
    each = (itertools.product(("lost", "won", "untried"), repeat=n) for n in lengths)
    for states, solved in itertools.product(itertools.chain(*each), (False, True)):
        told = ", ".join(f"s{t} {state}" for t, state in enumerate(states))
        told += f"; the teacher {'solved the task' if solved else 'failed'}"
        kind = f"failures {'with' if 'untried' in states else 'without'} untried states"
        teacher = _played("teacher", 0, len(states), solved)
        tries = [
            Branch(r.id, r.task_id, t, t, 0, teacher.id if t else None, r, iteration=1)
            for t, state in enumerate(states)
            if state != "untried"
            for r in [_played("student", t, len(states) + 1, state == "won")]
        ]
        task = Task(teacher.task_id, teacher.env, teacher.instruction)
        found = select(get_method("EEF"), [task], [teacher], tries)
        yield "solved tasks" if solved else kind, told, list(states), solved, teacher, found


def _played(actor: Any, start: int, stop: int, won: bool) -> Trajectory:
    letter = "a" if actor == "teacher" else "b"
    steps = tuple(Step(f"page {t}", f"{letter}{t}", actor) for t in range(start, stop))
    about = (f"{actor}.{start}", "task", "webshop", "reach the end", actor)
    return Trajectory(*about, steps, "", float(won), terminated=True, truncated=False)


def _tokens(encoded: Encoded) -> list[Token]:
    """Its tokens; the end of an action is called so whether it is trained or not."""
    out: list[Token] = []
    for step, (text, reason, _) in zip(encoded.steps, describe_tokens(encoded), strict=True):
        kind = "page" if reason in (Reason.SYSTEM, Reason.OBSERVATION) else "action"
        if reason in (Reason.TEMPLATE, Reason.END_OF_ACTION):
            kind = "end" if out and out[-1].kind == "action" else "template"
        out.append(Token(text, kind, out[-1].step if kind == "end" else int(step)))
    return out


def _check(fn: Any, cases: list[_Case], shape: str) -> Verdict:
    wrong, problem = [], ""
    for case in cases:
        try:
            answer = fn(*copy.deepcopy(case.inputs))
        except Exception as exc:  # noqa: BLE001 - a reader's function may raise anything
            fault = f"Your function raised {type(exc).__name__}: {exc}"
        else:
            fault = _fault(case, answer, shape)
        if fault:
            wrong.append(case.kind)
            problem = problem or f"The smallest wrong case: {case.said}.\n{fault}"
    right = [kind for kind in dict.fromkeys(case.kind for case in cases) if kind not in wrong]
    return Verdict(len(cases), len(cases) - len(wrong), tuple(right), problem)


def _fault(case: _Case, answer: Any, shape: str) -> str:
    if answer is None or answer is ...:
        return f"Your function returned nothing yet; return {shape}."
    if not isinstance(answer, (list, tuple)):
        return f"Your function returned {answer!r:.80}; return {shape}."
    got = [tuple(x) if isinstance(x, list) else x for x in answer]
    if len(got) != len(case.expected) and "for each" in shape:
        return f"You returned {len(got)} values, not {len(case.expected)}; return {shape}."
    short = len(case.expected) <= LONGEST
    both = f"Expected: {case.expected}\nYour answer: {got}\n" if short else ""
    return both + case.why(got) if got != case.expected else ""


def _why_labels(parts: list[Segment], got: list[Any]) -> str:
    i, part = next((i, p) for p in parts for i in range(p.start, p.stop) if got[i] != p.label)
    if got[i] not in _RULES:
        return f"{got[i]!r} is no label; choose {', '.join(_RULES)}."
    return f"a{i}: {part.evidence}. The rule for {part.label}: {_RULES[part.label]}."


def _why_pairs(important: list[int], want: list[tuple[int, int]], got: list[Any]) -> str:
    for pair in got:
        if not isinstance(pair, tuple) or len(pair) != 2:
            return f"{pair!r} is no pair (start, handover)."
        if pair[0] not in important:
            return (
                f"s{pair[0]} is no important state. These are s0, and each state that the student "
                "lost although it won from the one tried before it. [paper]"
            )
    for start in [s for s, h in want if (s, h) not in got]:
        return (
            f"s{start} is an important state. Its solution: the earliest handover [ours] to which "
            "only beneficial actions of the teacher lead from there. [paper]"
        )
    for start in [pair[0] for pair in got if pair not in want]:
        return f"To no handover do only beneficial actions lead from s{start}: no sample. [paper]"
    return "One sample for each important state, in the order of the states."


def _why_mask(
    tokens: list[Token], labels: tuple[str, ...], want: list[bool], got: list[Any]
) -> str:
    i = next(i for i, on in enumerate(want) if got[i] != on)
    token = tokens[i]
    if want[i]:
        why = "From the important state on every action carries loss [paper], its end too. [ours]"
    elif token.kind in ("page", "template"):
        why = "What the student reads carries no loss, only what it writes. [paper]"
    else:
        label = labels[token.step]
        why = f"Actions before the important state are context; this one is {label}. [paper]"
    where = f"Token {i}, {token.text!r} ({token.kind}, step {token.step})"
    return f"{where}: expected {want[i]}, your answer {got[i]!r}.\n{why}"
