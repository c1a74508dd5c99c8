"""`NoisyGoldTeacher`: a teacher that knows the solution and follows it badly.

[ours] An offline stand-in for an LLM teacher where the environment ships solutions. It fails as
often as an LLM does, at random places, mostly after real progress, and leaves states to recover
from. The caller provides the gold paths.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from eeflib.envs.base import FREE_TEXT
from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Reply

_STOP_RANGE = (0.3, 1.0)
_IDLE = "look around"
"""What is repeated if an episode goes on although its path is at its end."""


class NoisyGoldTeacher:
    """A `Policy` that plays a corrupted gold path of the conversation's task, then gives up.

    An episode's corruption is drawn from `seed`, the task id and the episode's key, and where it
    stands is the number of replies in the conversation: the same episode gets the same replies
    alone, in any batch, and when it is run again. The `rng` of `act` is not used.

    Args:
        gold: task id -> actions that solve it. An action that is only digits answers a menu that
            the action before it opened: both are dropped or kept, with nothing in between.
        drop: probability that an action is left out, in [0, 1].
        insert: probability that a random admissible action comes before an action, in [0, 1].
        stop_early: probability that the episode ends after a uniform 30-100 % of its path.
        seed: of the corruption.

    Raises:
        DataError: a probability outside [0, 1], or an empty gold path.
    """

    name = "noisy-gold"
    wants_admissible = True
    independent = True

    def __init__(
        self,
        gold: Mapping[str, Sequence[str]],
        *,
        drop: float = 0.1,
        insert: float = 0.1,
        stop_early: float = 0.15,
        seed: int = 0,
    ) -> None:
        for what, p in (("drop", drop), ("insert", insert), ("stop_early", stop_early)):
            if not 0.0 <= p <= 1.0:
                raise DataError(f"{what} is a probability in [0, 1], not {p}")
        if empty := [task_id for task_id, actions in gold.items() if not actions]:
            raise DataError(f"the gold path of task {empty[0]!r} is empty; leave the task out")
        self.drop, self.insert, self.stop_early = drop, insert, stop_early
        self.seed = seed
        self._gold = {task_id: tuple(actions) for task_id, actions in gold.items()}

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """The next action of each episode; `stop` is set with the last one.

        Raises:
            DataError: a task without a gold path.
        """
        return [self._reply(c) for c in conversations]

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept."""

    def plan(self, task_id: str, key: str = "") -> tuple[str | None, ...]:
        """The actions of an episode; None stands for a random admissible one.

        Raises:
            DataError: no gold path for `task_id`.
        """
        if task_id not in self._gold:
            raise DataError(
                f"no gold path for task {task_id!r}; compute one for each of the teacher's tasks "
                f"({len(self._gold)} are known)"
            )
        rng = self._rng(task_id, key, "plan")
        out: list[str | None] = []
        for unit in _units(self._gold[task_id]):
            dropped, inserted = rng.random(2) < (self.drop, self.insert)
            out += [None] if inserted else []
            out += () if dropped else unit
        stops, share = rng.random(), rng.uniform(*_STOP_RANGE)
        if stops < self.stop_early:
            out = out[: math.ceil(share * len(out))]
        return tuple(out) or (_IDLE,)

    def _reply(self, conversation: Conversation) -> Reply:
        plan = self.plan(conversation.task_id, conversation.key)
        t = sum(message.role == "assistant" for message in conversation.messages)
        action = plan[t] if t < len(plan) else _IDLE
        if action is None:
            choices = sorted(a for a in conversation.admissible or () if FREE_TEXT not in a)
            rng = self._rng(conversation.task_id, conversation.key, t)
            action = choices[rng.integers(len(choices))] if choices else _IDLE
        asked = any(m.role == "system" and "Action:" in m.content for m in conversation.messages)
        return Reply(f"Action: {action}" if asked else action, stop=t >= len(plan) - 1)

    def _rng(self, *what: object) -> np.random.Generator:
        digest = hashlib.sha256(repr((self.seed, *what)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _units(actions: Sequence[str]) -> list[tuple[str, ...]]:
    units: list[tuple[str, ...]] = []
    for action in actions:
        if units and action.strip().isdigit():
            units[-1] += (action,)
        else:
            units.append((action,))
    return units
