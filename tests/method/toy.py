"""A small real environment and scripted policies for the tests of the method.

The corridor: positions 0..size, a door at one of them. `right` and `hop` move up by one, `left`
down by one, `open` ends the task: reward 1 at the door, 0.25 elsewhere. Deterministic, unless made
not to be on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eeflib import selection
from eeflib.envs.base import Observation, Restored, StepResult, replay_restore
from eeflib.errors import DataError, EnvironmentFault, ProviderError
from eeflib.methods import get_method
from eeflib.policies.base import Conversation, Reply
from eeflib.prompts import PromptFormat, get_format
from eeflib.records import Branch, Step, Task, Trajectory, Usage

ACT: PromptFormat = get_format("act", "corridor")
REACT: PromptFormat = get_format("react", "corridor")
SECRET = "Done, reward"
"""Begins the last page, which no prompt may hold."""


def corridor_task(number: int = 0, door: int = 9, max_steps: int = 40, **settings: object) -> Task:
    return Task(
        f"corridor-{number:03d}",
        "corridor",
        f"open the door number {door}",
        goal={"door": door},
        settings={"size": 12, "max_steps": max_steps, **settings},
    )


class Corridor:
    """The deterministic environment; counts what is asked of it."""

    name = "corridor"

    def __init__(self) -> None:
        self.at = 0
        self.resets = self.actions_seen = 0
        self.closed = False

    def text(self) -> str:
        return f"You stand at {self.at} of {self.task.settings['size']}."

    def reset(self, task: Task) -> Observation:
        if task.env != "corridor":
            raise DataError(f"task {task.id} is not a corridor")
        self.task, self.at, self.over = task, 0, False
        self.resets += 1
        return Observation(self.text(), {"state_key": str(self.at)})

    def step(self, action: str) -> StepResult:
        assert not self.over, "stepped after the end"
        self.actions_seen += 1
        if action == "break":
            raise EnvironmentFault("the corridor collapsed")
        if action == "open":
            self.over = True
            reward = 1.0 if self.at == self.task.goal["door"] else 0.25
            return StepResult(f"{SECRET} {reward}", reward, True, False, {"won": reward == 1.0})
        move = {"right": 1, "hop": 1, "left": -1}.get(action)
        if move is not None:
            self.at = min(max(self.at + move, 0), self.task.settings["size"])
        info = {"valid": move is not None, "state_key": str(self.at), "score": 0.0}
        text = self.text() if move is not None else f"{self.text()} Nothing happens."
        return StepResult(text, 0.0, False, False, info)

    def valid_actions(self) -> list[str] | None:
        return ["right", "hop", "left", "open"]

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        return replay_restore(self, task, prefix, expected)

    def close(self) -> None:
        self.closed = True


class Drifting(Corridor):
    """Not deterministic: from its second reset on, position 4 looks different."""

    def text(self) -> str:
        blur = " It is dark." if self.resets > 1 and self.at == 4 else ""
        return super().text() + blur


class Script:
    """Replies by a function of the conversation; remembers what it was asked."""

    wants_admissible = False

    def __init__(self, reply: Callable[[Conversation, np.random.Generator], str | Reply]) -> None:
        self.name = "script"
        self.reply = reply
        self.asked: list[Conversation] = []
        self.batches: list[int] = []
        self.forgotten: list[str] = []

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        self.asked += conversations
        self.batches.append(len(conversations))
        replies = [self.reply(c, r) for c, r in zip(conversations, rng, strict=True)]
        usage = Usage(10, 2, 0.001)
        return [r if isinstance(r, Reply) else Reply(r, usage) for r in replies]

    def forget(self, keys: Sequence[str]) -> None:
        self.forgotten += keys


class Down(Script):
    """A policy whose provider fails for good after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__(lambda c, _: walk(c, 99, "right"))
        self.calls = calls

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        if len(self.batches) >= self.calls:
            raise ProviderError("no answer after 3 retries")
        return super().act(conversations, rng=rng)


def position(observation: str) -> int:
    return int(observation.split()[3])


def walk(conversation: Conversation, goal: int, move: str) -> str:
    """Move until `goal`, then open."""
    return "open" if position(conversation.observation) >= goal else move


def drunk(_: Conversation, rng: np.random.Generator) -> str:
    """Any action: what comes out depends on the random stream only."""
    return str(rng.choice(["right", "hop", "left", "right", "open"]))


def teacher(stops_at: int) -> Script:
    """Walks right and opens at `stops_at`, right or wrong."""
    return Script(lambda c, _: walk(c, stops_at, "right"))


class Student(Script):
    """Solves a task from some starting positions, and opens the wrong door at once from others."""

    def __init__(self, wins_from: Mapping[str, set[int]]) -> None:
        super().__init__(self._act)
        self.name = "student"
        self.wins_from = wins_from
        self.start: dict[str, int] = {}

    def _act(self, c: Conversation, _: np.random.Generator) -> str:
        start = self.start.setdefault(c.key, position(c.observation))
        door = int(c.instruction.split()[-1])
        return walk(c, door, "hop") if start in self.wins_from.get(c.task_id, ()) else "open"

    def forget(self, keys: Sequence[str]) -> None:
        super().forget(keys)
        for key in keys:
            self.start.pop(key, None)


def select(
    tasks: Sequence[Task],
    teachers: Sequence[Trajectory],
    branches: Sequence[Branch] = (),
    method: str = "EEF",
    *,
    iteration: int | None = None,
    seed: int = 0,
    **changes: Any,
) -> selection.Selection:
    """The samples of a method that was changed, and takes every attempt."""
    chosen = replace(get_method(method), **{"attempts": 99, "attempts_state": 99, **changes})
    return selection.select(chosen, tasks, teachers, branches, iteration=iteration, seed=seed)


def recorded(task: Task, stops_at: int, name: str = "teacher") -> Trajectory:
    """The teacher's trajectory on `task`: `stops_at` times right, then open (T = stops_at + 1)."""
    from eeflib.rollout import Episode, run_episodes

    (out,) = run_episodes(
        [Episode(task, name)], teacher(stops_at), Corridor, ACT, actor="teacher", seed=0
    )
    return out
