"""A run folder with five samples written by hand: their flags are known. Not a test file."""

from __future__ import annotations

from pathlib import Path

from eeflib.records import Branch, Label, Sample, Step, Trajectory
from eeflib.run import Run, open_run

WANTED = "find a red shirt under 30 dollars"
SEARCH = "WebShop [SEP] Instruction: [SEP] find a red shirt under 30 dollars [SEP] Search"
FOUND = "Back to Search [SEP] B0001 [SEP] red shirt [SEP] $12.50 [SEP] B0002 [SEP] blue hat"
ITEM = "size [SEP] small [SEP] large [SEP] red shirt [SEP] Price: $12.50 [SEP] Buy Now"
OTHER = "blue hat [SEP] Price: $9.00 [SEP] Buy Now [SEP] < Prev"
TRAINED = {
    "b-recovery@2": (False, False, True, True, True),
    "b-start@0": (True, False, True, True),
    "b-later@1": (False, True, True, False),
    "t-solved@0": (True, True, True),
}
"""Per sample that can be trained on; `b-empty@0` cannot."""


def step(observation: str, action: str, actor: str, thought: str = "", valid: bool = True) -> Step:
    """By a teacher with a thought, as it writes; a student's bare action."""
    reply = f"Thought: {thought}\nAction: {action}" if thought else ""
    return Step(observation, action, actor, reply=reply, thought=thought, valid=valid)  # type: ignore[arg-type]


def teacher(observation: str, action: str, thought: str) -> Step:
    return step(observation, action, "teacher", thought)


def student(observation: str, action: str, valid: bool = True) -> Step:
    return step(observation, action, "student", valid=valid)


FAILED = (
    teacher(SEARCH, "search[red shirt]", "I look for it. \u201cRed\u201d, not blue: \u00e9t\u00e9"),
    teacher(FOUND, "click[B0002]", "this is it"),
    teacher(OTHER, "click[Buy Now]", "cheap enough"),
)
SOLVED = (
    teacher(SEARCH, "search[red shirt]", "I look for it"),
    teacher(FOUND, "click[B0001]", "red, and cheap"),
    teacher(ITEM, "click[Buy Now]", "all fits"),
)
RECOVERY = (
    student(OTHER, "click[< Prev]"),
    student(FOUND, "click[B0001]"),
    student(ITEM, "click[Buy Now]"),
)
START = (
    student(SEARCH, "search[red shirt]"),
    student(FOUND, "click[B0009]", valid=False),
    student(FOUND, "click[B0001]"),
    student(ITEM, "click[Buy Now]"),
)
LATER = (
    student(FOUND, "click[B0001]"),
    student(ITEM, "click[Buy Now]"),
    student("Thank you", "wave", valid=False),
)


def _sample(name: str, steps: tuple[Step, ...], labels: str, start: int, **extra: object) -> Sample:
    words: dict[str, Label] = {"b": "beneficial", "h": "harmful", "s": "student"}
    trained = TRAINED.get(name, (False,) * len(steps))
    return Sample(
        name,
        "webshop-train-0001",
        "webshop",
        WANTED,
        "recovery" if start else "s0",
        steps,
        trained,
        tuple(words[c] for c in labels),
        start,
        name.split("@")[0],
        extra=dict(extra, iteration=1),
    )


SAMPLES = (
    _sample("b-recovery@2", FAILED[:2] + RECOVERY, "bhsss", 2, handover=2, teacher_id="t-failed"),
    _sample("b-start@0", START, "ssss", 0, handover=0, teacher_id=None),
    _sample("b-later@1", FAILED[:1] + LATER, "bsss", 1, handover=1, teacher_id="t-failed"),
    _sample("t-solved@0", SOLVED, "bbb", 0, handover=3, teacher_id="t-solved"),
    _sample("b-empty@0", START[:1], "s", 0, handover=0, teacher_id=None),
)


def _played(name: str, steps: tuple[Step, ...], policy: str, reward: float) -> Trajectory:
    task = ("webshop-train-0001", "webshop", WANTED)
    return Trajectory(name, *task, policy, steps, "Your score", reward, True, False)


def write_run(folder: Path, student: str = "tiny") -> Run:
    """A run of one task: the teacher failed and solved it, the student recovered twice."""
    run = open_run(folder, preset="tiny", student=student, seeds=(7,))
    teachers = [
        _played("t-failed", FAILED, "gpt-x", 0.1),
        _played("t-solved", SOLVED, "gpt-x", 1.0),
    ]
    branches = [
        ("b-recovery", RECOVERY, 2, "t-failed"),
        ("b-start", START, 0, None),
        ("b-later", LATER, 1, "t-failed"),
    ]
    with run.folder as here:
        here.append("trajectories", teachers)
        iteration = here.sub("EEF/iter-1")
        iteration.append(
            "branches",
            [
                Branch(
                    n, "webshop-train-0001", int(t > 0), t, 0, of, _played(n, steps, student, 1.0)
                )
                for n, steps, t, of in branches
            ],
        )
        iteration.append("samples", SAMPLES)
    return run
