"""What the conformance suite checks: an environment, its tasks, and how hard to look.

Owns `Subject`: the environments under test and the walks that all checks share. Knows nothing about
what is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from eeflib.envs.base import TextEnv
from eeflib.envs.conformance_play import Propose, Walk, require, wander
from eeflib.records import Task

__all__ = ["NotLooked", "Subject"]


_DRAWS = 5


class NotLooked(Exception):
    """A check could not be made; the message says what it needs."""


@dataclass
class Subject:
    """The environment under test, and how hard to look."""

    make_env: Callable[[], TextEnv]
    tasks: Sequence[Task]
    seed: int = 0
    walks: int = 4
    depth: int = 12
    propose: Propose | None = None
    endings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: Sequence[Task] = ()
    _made: list[TextEnv] = field(default_factory=list)

    def env(self, number: int = 0) -> TextEnv:
        """Environment `number`, kept between checks."""
        while len(self._made) <= number:
            self._made.append(self.make_env())
        return self._made[number]

    def close(self) -> None:
        """Close what was made; the next `env` is a new one."""
        while self._made:
            self._made.pop().close()

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    @cached_property
    def recorded(self) -> list[Walk]:
        """The walks all checks share, in turn over the tasks.

        Of a few draws the longest: a random action may end an episode at once.
        """
        env, found = self.env(), []
        for i in range(self.walks):
            task, best = self.tasks[i % len(self.tasks)], None
            for draw in range(_DRAWS):
                rng = self.rng(f"walk {i}.{draw}")
                walk = wander(env, task, self.depth, rng, self.propose)
                if best is None or walk.states > best.states:
                    best = walk
                if best.states > self.depth:
                    break
            assert best is not None
            found.append(best)
        require(
            any(w.states > 1 for w in found),
            "no random walk got past its first state: no action was listed there, or each ended "
            "the episode; pass propose=lambda env, rng: ... that chooses an action",
        )
        return found
