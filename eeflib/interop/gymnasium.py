"""Text environments as `gymnasium.Env`: text in, text out, vectorised by gymnasium itself.

Import `to_gymnasium` from here: the text space, the choice of a task at `reset`, and the step limit
(which a rollout has elsewhere). Needs `pip install 'eeflib[gymnasium]'`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from eeflib.envs.base import TextEnv
from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Task
from eeflib.rollout import step_limit

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as exc:
    raise PrerequisiteError(
        f"gymnasium is not installed ({exc}); run `pip install 'eeflib[gymnasium]'`"
    ) from exc

MAX_LENGTH = 65_536


class AnyText(spaces.Text):
    """Any text of at most `max_length` characters.

    `gymnasium.spaces.Text` wants every character named beforehand, which an open environment cannot
    do. `sample` draws printable ASCII. It has no fixed size in memory: pass `shared_memory=False`
    to `AsyncVectorEnv`.
    """

    def __init__(self, max_length: int = MAX_LENGTH, seed: Any = None) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]


class GymTextEnv(gymnasium.Env[str, str]):
    """A `TextEnv` as a `gymnasium.Env` over `tasks`, each reset starting one of them.

    `info` holds what the environment's has (`score`, `won`, `valid`, `state_key`), and `task` (its
    id), `instruction`, `cut` (characters of the observation over `max_length`). The instruction is
    not part of the observation unless the environment puts it there.

    Several at once: `SyncVectorEnv([lambda: to_gymnasium(make_env(), tasks)] * 8)`.

    Args:
        max_length: of an observation and of an action, in characters.
        list_actions: also `info["valid_actions"]`; may be costly.

    Raises:
        DataError: no tasks, or two with one id.
        PrerequisiteError: gymnasium is missing (at the import of this module).
    """

    def __init__(
        self,
        env: TextEnv,
        tasks: Sequence[Task],
        *,
        max_length: int = MAX_LENGTH,
        list_actions: bool = False,
    ) -> None:
        if not tasks:
            raise DataError("to_gymnasium needs at least one task to reset to")
        self.text_env = env
        self.tasks = {task.id: task for task in tasks}
        if len(self.tasks) < len(tasks):
            raise DataError("two tasks share an id; give each its own")
        self.list_actions = list_actions
        self.observation_space = self.action_space = AnyText(max_length)
        self._task = tasks[0]
        self._left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a task: the one that `options["task"]` names (its id), else a random one.

        Raises:
            DataError: unknown option or task.
        """
        super().reset(seed=seed)
        options = options or {}
        if strange := set(options) - {"task"}:
            raise DataError(f"unknown reset option {min(strange)!r}; use task")
        names = list(self.tasks)
        name = options["task"] if options else names[int(self.np_random.integers(len(names)))]
        if name not in self.tasks:
            raise DataError(f"no task {name!r} among the {len(self.tasks)} given")
        self._task = self.tasks[name]
        self._left = step_limit(self._task)
        first = self.text_env.reset(self._task)
        return self._shown(first.text, first.info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act. What the environment does not understand is a step with `info["valid"]` False.

        Truncated by the environment, or after the task's `settings["max_steps"]` actions.
        """
        result = self.text_env.step(str(action))
        self._left -= 1
        truncated = result.truncated or (self._left <= 0 and not result.terminated)
        text, info = self._shown(result.text, result.info)
        return text, float(result.reward), result.terminated, truncated, info

    def close(self) -> None:
        self.text_env.close()

    def _shown(self, text: str, info: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The observation, cut to the space, and the info."""
        out = {**info, "task": self._task.id, "instruction": self._task.instruction}
        if self.list_actions:
            out["valid_actions"] = self.text_env.valid_actions()
        limit = self.observation_space.max_length  # type: ignore[attr-defined]
        out["cut"] = max(0, len(text) - limit)
        return text[:limit], out


to_gymnasium = GymTextEnv
