"""A small environment that keeps every rule, and a family that breaks one rule each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from eeflib.envs.base import FREE_TEXT, Observation, Restored, StepResult, replay_restore
from eeflib.errors import DataError, EnvironmentFault, RestoreMismatch
from eeflib.records import Step, Task

TASKS = tuple(
    Task(
        f"corridor-{rooms}",
        "corridor",
        f"Take the key in room {key}, open the chest at the end.",
        {"rooms": rooms, "key": key},
        settings={"max_steps": 30},
    )
    for rooms, key in ((3, 1), (4, 2), (5, 1))
)


THINGS = ["a lamp", "a rope", "a sack", "a rug", "a vase", "a coat", "a pot", "a cup"]


class Good:
    """Rooms in a row, a key in one of them, a chest in the last."""

    name = "corridor"

    def __init__(self) -> None:
        self.task: Task | None = None
        self.room, self.key, self.steps, self.done = 0, False, 0, False

    def reset(self, task: Task) -> Observation:
        if task.env != self.name or "rooms" not in task.goal:
            raise DataError(f"task {task.id!r} is for {task.env!r}, this is {self.name!r}")
        self.task = task
        self.room, self.key, self.steps, self.done = 0, False, 0, False
        return Observation(self.text(), {"state_key": self.fingerprint()})

    def step(self, action: str) -> StepResult:
        if self.task is None:
            raise EnvironmentFault("no episode is running: call reset(task) first")
        ended = self.over
        valid = not ended and (action in self.valid_actions() or action.startswith("call "))
        self.steps += not ended
        if valid:
            self.act(action)
        return self.result(valid, ended)

    def act(self, action: str) -> None:
        self.room += {"right": 1, "left": -1}.get(action, 0)
        self.key = self.key or action == "take"
        self.done = action == "open"

    def result(self, valid: bool, ended: bool) -> StepResult:
        score = 1.0 if self.done else 0.5 * self.key
        info = {
            "score": score, "won": self.done, "valid": valid, "state_key": self.fingerprint(),
        }  # fmt: skip
        return StepResult(self.text(), score, self.done, self.over and not self.done, info)

    @property
    def over(self) -> bool:
        assert self.task is not None
        return self.done or self.steps >= self.task.settings["max_steps"]

    @property
    def goal(self) -> dict[str, Any]:
        assert self.task is not None
        return self.task.goal

    def text(self) -> str:
        """The key's place shows, whether it was taken does not."""
        return f"Room {self.room}." + (" A hook." if self.room == self.goal["key"] else "")

    def fingerprint(self) -> str:
        assert self.task is not None
        return f"{self.task.id} {self.room} {self.key} {self.done}"

    def valid_actions(self) -> list[str] | None:
        if self.over:
            return []
        here = [f"call {FREE_TEXT}"]
        here += ["left"] if self.room else []
        here += ["right"] if self.room + 1 < self.goal["rooms"] else []
        here += ["take"] if self.room == self.goal["key"] and not self.key else []
        return here + (["open"] if self.key and self.room + 1 == self.goal["rooms"] else [])

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        return replay_restore(self, task, prefix, expected)

    def close(self) -> None:
        self.task = None


class NoList(Good):
    """Keeps every rule, and cannot list its actions."""

    def valid_actions(self) -> None:
        return None

    def step(self, action: str) -> StepResult:
        if self.task is None:
            return super().step(action)
        ended, known = self.over, Good.valid_actions(self) or []
        valid = not ended and action in known
        self.steps += not ended
        if valid:
            self.act(action)
        return self.result(valid, ended)


class RewardOfTwo(Good):
    def result(self, valid: bool, ended: bool) -> StepResult:
        return replace(super().result(valid, ended), reward=2.0)


class SaysNothingOfValid(Good):
    def result(self, valid: bool, ended: bool) -> StepResult:
        done = super().result(valid, ended)
        return replace(done, info={k: v for k, v in done.info.items() if k != "valid"})


class DoneIsWon(Good):
    def result(self, valid: bool, ended: bool) -> StepResult:
        done = super().result(valid, ended)
        return replace(done, info={**done.info, "won": self.over})


class GymTuple(Good):
    def reset(self, task: Task) -> Any:
        first = super().reset(task)
        return first.text, first.info


class ForgetsToAskForReset(Good):
    def step(self, action: str) -> StepResult:
        self.task.id  # noqa: B018
        return super().step(action)


class LoneSurrogate(Good):
    def text(self) -> str:
        return super().text() + " caf\udce9"


class KeepsTheKey(Good):
    def reset(self, task: Task) -> Observation:
        kept = self.key
        super().reset(task)
        self.key = kept
        return Observation(self.text(), {"state_key": self.fingerprint()})


class GoesOnAfterTheEnd(Good):
    def step(self, action: str) -> StepResult:
        if self.task is not None and self.over:
            self.done, self.steps = False, 0
        return super().step(action)


class PaysAgain(Good):
    def result(self, valid: bool, ended: bool) -> StepResult:
        done = super().result(valid, ended)
        return replace(done, reward=1.0) if ended else done


class ListsWhatItRefuses(Good):
    def step(self, action: str) -> StepResult:
        return super().step("no" if action == "left" else action)


class AskingMoves(Good):
    asked = 0

    def reset(self, task: Task) -> Observation:
        self.asked = 0
        return super().reset(task)

    def text(self) -> str:
        return super().text() + f" {self.asked // 2} asked."

    def valid_actions(self) -> list[str] | None:
        self.asked += 1
        return super().valid_actions()


class FirstCharacter(Good):
    def step(self, action: str) -> StepResult:
        self.first = action[0]
        return super().step(action)


class EchoesTheAction(Good):
    def step(self, action: str) -> StepResult:
        done = super().step(action)
        return done if done.info["valid"] else replace(done, text=f"No {action}.")


class StumblesOverLongActions(Good):
    tired = False

    def step(self, action: str) -> StepResult:
        self.tired = self.tired or len(action) > 10_000
        return super().step("no" if self.tired else action)


class AnyTask(Good):
    def reset(self, task: Task) -> Observation:
        return super().reset(replace(task, env=self.name))


class RestoresByText(Good):
    """Stands where the text fits, and has lost what the text does not tell."""

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        outcome = super().restore(task, prefix, expected)
        self.key = False
        return outcome


class TrustsKeys(Good):
    """A short cut by the recorded key that the plain way does not share."""

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        outcome = super().restore(task, prefix, expected)
        if outcome.ok and prefix and prefix[-1].state_key:
            self.room = max(0, self.room - 1)
        return outcome


class Refuses(Good):
    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        outcome = super().restore(task, prefix, expected)
        deep = outcome.ok and len(prefix) > 4
        return Restored(False, "", len(prefix), "too deep") if deep else outcome


class NeverCompares(Good):
    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        text = self.reset(task).text
        for step in prefix:
            text = self.step(step.action).text
        return Restored(True, text)


class ComparesTheLastOnly(Good):
    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        outcome = NeverCompares.restore(self, task, prefix)  # type: ignore[arg-type]
        fits = expected is None or outcome.text == expected
        return outcome if fits else Restored(False, outcome.text, len(prefix), "another text")


class RaisesMismatches(Good):
    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        outcome = super().restore(task, prefix, expected)
        if not outcome.ok:
            raise RestoreMismatch(outcome.detail)
        return outcome


class DoesNotSayWhere(Good):
    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        return replace(super().restore(task, prefix, expected), first_mismatch=None)


class SharedRoom(Good):
    """The position is kept on the class: two environments walk together."""

    at: ClassVar[int] = 0

    @property  # type: ignore[override]
    def room(self) -> int:
        return SharedRoom.at

    @room.setter
    def room(self, value: int) -> None:
        SharedRoom.at = value


class OneForAll(Good):
    only: ClassVar[Good | None] = None

    def __new__(cls) -> OneForAll:
        cls.only = cls.only or super().__new__(cls)
        return cls.only  # type: ignore[return-value]


class OrderOfASet(Good):
    def text(self) -> str:
        return super().text() + " You see " + ", ".join(set(THINGS))


class DiesElsewhere(Good):
    def __init__(self) -> None:
        super().__init__()
        if os.environ.get("PYTHONHASHSEED") in ("1", "2"):
            raise RuntimeError("no display")


class ClosesOnce(Good):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("already closed")
        self.closed = True


class OpensLate(Good):
    """close() takes for granted that there was a reset."""

    def reset(self, task: Task) -> Observation:
        self.file = True
        return super().reset(task)

    def close(self) -> None:
        assert self.file


class AnswersAfterClose(Good):
    def close(self) -> None:
        pass


EVERY = ("reset", "step", "restore", "processes", "hostile", "close")
FAMILY: dict[type[Good], tuple[str, ...]] = {
    KeepsTheKey: ("reset", "step", "restore", "processes"),
    AnyTask: ("reset",),
    ForgetsToAskForReset: ("reset", "close"),
    GymTuple: EVERY,
    LoneSurrogate: EVERY,
    RewardOfTwo: EVERY,
    SaysNothingOfValid: EVERY,
    DoneIsWon: ("step",),
    GoesOnAfterTheEnd: ("step",),
    PaysAgain: ("step",),
    ListsWhatItRefuses: ("step",),
    AskingMoves: ("step", "reset", "restore", "hostile"),
    SharedRoom: ("step",),
    OneForAll: ("step",),
    RestoresByText: ("restore",),
    TrustsKeys: ("restore",),
    Refuses: ("restore",),
    NeverCompares: ("restore",),
    ComparesTheLastOnly: ("restore",),
    RaisesMismatches: ("restore",),
    DoesNotSayWhere: ("restore",),
    OrderOfASet: ("processes",),
    DiesElsewhere: ("processes",),
    FirstCharacter: ("hostile",),
    EchoesTheAction: ("hostile",),
    StumblesOverLongActions: ("hostile",),
    ClosesOnce: ("close",),
    OpensLate: ("close",),
    AnswersAfterClose: ("close",),
}
"""What each of them breaks: the check meant for it, then others that fail with it."""
