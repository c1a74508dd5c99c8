"""Does a task replay? Play its actions once, go back to where they led, again and again, compare.

Import `check_replays` from here; it works with every `TextEnv`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from eeflib.envs.base import Restored, TextEnv, replay_restore
from eeflib.records import Step, Task

__all__ = ["check_replays"]


@dataclass(frozen=True)
class Replays:
    """What came of restoring one recorded state several times."""

    task: Task
    steps: tuple[Step, ...]
    """What was recorded: s_0, a_0, ... up to the action that led to the state."""
    end: str
    """The observation of the state itself."""
    tries: tuple[Restored, ...]

    @property
    def verified(self) -> int:
        """Attempts in which every observation was the recorded one."""
        return sum(restored.ok for restored in self.tries)

    @property
    def refused(self) -> int:
        return len(self.tries) - self.verified

    @property
    def first_refused(self) -> Restored | None:
        """The first attempt that went another way; None if none did."""
        return next((restored for restored in self.tries if not restored.ok), None)

    @property
    def first_mismatch(self) -> int | None:
        """Index t of the earliest observation that ever differed from the recorded s_t."""
        return min((r.first_mismatch or 0 for r in self.tries if not r.ok), default=None)

    def difference(self) -> str:
        """The recorded and the replayed observation of the first refused attempt, as a diff.

        Lines that begin with `-` were recorded, those with `+` came instead. Empty if nothing was
        refused; its reason, where the texts are the same.
        """
        refused = self.first_refused
        if refused is None:
            return ""
        at = refused.first_mismatch or 0
        recorded = self.steps[at].observation if at < len(self.steps) else self.end
        names = f"recorded s_{at}", f"replayed s_{at}"
        old, new = recorded.splitlines(), refused.text.splitlines()
        lines = difflib.unified_diff(old, new, *names, n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith("@@")) or refused.detail


def check_replays(env: TextEnv, task: Task, actions: Sequence[str], *, times: int = 5) -> Replays:
    """Play `actions` in `env`, then restore the state they lead to `times` times, from the start.

    An action that ends the episode is left out, with what would follow it. This is the bare
    comparison, `replay_restore`: an environment's own `restore` may do more, such as a second
    attempt in a fresh simulator.

    Raises:
        DataError, EnvironmentFault: see `TextEnv.reset` and `step`.
    """
    first = env.reset(task)
    text, key = first.text, first.info.get("state_key", "")
    steps: list[Step] = []
    for action in actions:
        result = env.step(action)
        if result.terminated or result.truncated:
            break
        steps.append(Step(text, action, "teacher", reward=result.reward, state_key=key))
        text, key = result.text, result.info.get("state_key", "")
    tries = tuple(replay_restore(env, task, steps, text) for _ in range(times))
    return Replays(task, tuple(steps), text, tries)
