"""A small environment that keeps every rule, and a family that breaks one rule each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

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


def after(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
    """`Good.NAME`, and what `change(env, what it gave, *arguments)` makes of it."""

    def method(self: Good, *args: Any) -> Any:
        return change(self, getattr(Good, name)(self, *args), *args)

    return method


def before(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
    """`Good.NAME` of what `change(env, argument)` makes of its argument."""

    def method(self: Good, argument: Any) -> Any:
        return getattr(Good, name)(self, change(self, argument))

    return method


def _with(**changes: Any) -> Callable[..., Any]:
    return lambda env, result, *args: replace(result, **changes)


def _info(env: Good, result: StepResult, **changes: Any) -> StepResult:
    return replace(result, info={**result.info, **changes})


def _keeps_the_key(self: Good, task: Task) -> Observation:
    kept = self.key
    Good.reset(self, task)
    self.key = kept
    return Observation(self.text(), {"state_key": self.fingerprint()})


def _revived(self: Any, action: str) -> str:
    if self.task is not None and self.over:
        self.done, self.steps = False, 0
    return action


def _asked(self: Any, actions: Any) -> Any:
    self.asked = getattr(self, "asked", 0) + 1
    return actions


def _forgotten(self: Any, first: Observation, task: Task) -> Observation:
    self.asked = 0
    return Observation(self.text(), first.info)


def _tired(self: Any, action: str) -> str:
    self.tired = getattr(self, "tired", False) or len(action) > 10_000
    return "no" if self.tired else action


def _loses_the_key(self: Good, outcome: Restored, *args: Any) -> Restored:
    """Stands where the text fits, and has lost what the text does not tell."""
    self.key = False
    return outcome


def _trusts_keys(self: Good, outcome: Restored, task: Task, prefix: Any, *args: Any) -> Restored:
    """A short cut by the recorded key that the plain way does not share."""
    if outcome.ok and prefix and prefix[-1].state_key:
        self.room = max(0, self.room - 1)
    return outcome


def _refuses(self: Good, outcome: Restored, task: Task, prefix: Any, *args: Any) -> Restored:
    deep = outcome.ok and len(prefix) > 4
    return Restored(False, "", len(prefix), "too deep") if deep else outcome


def _never_compares(self: Good, task: Task, prefix: Any, expected: str | None = None) -> Restored:
    text = self.reset(task).text
    for step in prefix:
        text = self.step(step.action).text
    return Restored(True, text)


def _compares_the_last(
    self: Good, task: Task, prefix: Any, expected: str | None = None
) -> Restored:
    outcome = _never_compares(self, task, prefix)
    fits = expected is None or outcome.text == expected
    return outcome if fits else Restored(False, outcome.text, len(prefix), "another text")


def _raises(self: Good, outcome: Restored, *args: Any) -> Restored:
    if not outcome.ok:
        raise RestoreMismatch(outcome.detail)
    return outcome


def _dies_elsewhere(self: Good) -> None:
    Good.__init__(self)
    if os.environ.get("PYTHONHASHSEED") in ("1", "2"):
        raise RuntimeError("no display")


def _closes_once(self: Any) -> None:
    if getattr(self, "closed", False):
        raise ValueError("already closed")
    self.closed = True


def _only(cls: Any) -> Good:
    cls.only = getattr(cls, "only", None) or object.__new__(cls)
    return cls.only


_ROOM: dict[str, int] = {}
"""The position, kept in the module: two environments walk together."""
_SHARED = property(lambda self: _ROOM["at"], lambda self, value: _ROOM.update(at=value))

EVERY = ("reset", "step", "restore", "processes", "hostile", "close")
BROKEN: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "KeepsTheKey": (("reset", "step", "restore", "processes"), {"reset": _keeps_the_key}),
    "AnyTask": (("reset",), {"reset": before("reset", lambda e, t: replace(t, env=e.name))}),
    "ForgetsToAskForReset": (
        ("reset", "close"), {"step": before("step", lambda e, action: e.task.id and action)}
    ),
    "GymTuple": (EVERY, {"reset": after("reset", lambda e, first, task: (first.text, first.info))}),
    "RewardOfTwo": (EVERY, {"result": after("result", _with(reward=2.0))}),
    "DoneIsWon": (
        ("step",), {"result": after("result", lambda e, r, *_: _info(e, r, won=e.over))}
    ),
    "GoesOnAfterTheEnd": (("step",), {"step": before("step", _revived)}),
    "ListsWhatItRefuses": (
        ("step",), {"step": before("step", lambda e, a: "no" if a == "left" else a)}
    ),
    "AskingMoves": (
        ("step", "reset", "restore", "hostile"),
        {
            "reset": after("reset", _forgotten),
            "valid_actions": after("valid_actions", _asked),
            "text": after("text", lambda e, text: f"{text} {getattr(e, 'asked', 0) // 2} asked."),
        },
    ),
    "SharedRoom": (("step",), {"room": _SHARED}),
    "OneForAll": (("step",), {"__new__": _only}),
    "RestoresByText": (("restore",), {"restore": after("restore", _loses_the_key)}),
    "TrustsKeys": (("restore",), {"restore": after("restore", _trusts_keys)}),
    "Refuses": (("restore",), {"restore": after("restore", _refuses)}),
    "NeverCompares": (("restore",), {"restore": _never_compares}),
    "ComparesTheLastOnly": (("restore",), {"restore": _compares_the_last}),
    "RaisesMismatches": (("restore",), {"restore": after("restore", _raises)}),
    "DoesNotSayWhere": (("restore",), {"restore": after("restore", _with(first_mismatch=None))}),
    "OrderOfASet": (
        ("processes",),
        {"text": after("text", lambda e, text: f"{text} You see {', '.join(set(THINGS))}")},
    ),
    "DiesElsewhere": (("processes",), {"__init__": _dies_elsewhere}),
    "FirstCharacter": (("hostile",), {"step": before("step", lambda e, a: a[0] and a)}),
    "EchoesTheAction": (
        ("hostile",),
        {
            "step": after(
                "step", lambda e, r, a: r if r.info["valid"] else replace(r, text=f"No {a}.")
            )
        },
    ),
    "StumblesOverLongActions": (("hostile",), {"step": before("step", _tired)}),
    "ClosesOnce": (("close",), {"close": _closes_once}),
    "OpensLate": (  # close() takes for granted that there was a reset
        ("close",),
        {
            "reset": after("reset", lambda e, first, task: setattr(e, "file", 1) or first),
            "close": lambda self: self.file and None,
        },
    ),
    "AnswersAfterClose": (("close",), {"close": lambda self: None}),
}  # fmt: skip
"""Name -> what it breaks (the check meant for it, then others that fail with it), and how."""
FAMILY = {
    type(name, (Good,), {**methods, "__module__": __name__}): checks
    for name, (checks, methods) in BROKEN.items()
}
globals().update({cls.__name__: cls for cls in FAMILY})  # another process imports them by name
