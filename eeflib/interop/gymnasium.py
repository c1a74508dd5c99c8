"""Text environments as `gymnasium.Env`: text in, text out, vectorised by gymnasium itself.

Import `to_gymnasium` from here: the text space, the choice of a task at `reset`, and the step limit
(which a rollout has elsewhere). Needs `pip install 'eeflib[gymnasium]'`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from eeflib.envs.base import TextEnv
from eeflib.errors import DataError, PrerequisiteError, RestoreMismatch
from eeflib.records import Task
from eeflib.rollout import step_limit

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as exc:
    raise PrerequisiteError(
        f"gymnasium is not installed ({exc}); run `pip install 'eeflib[gymnasium]'`"
    ) from exc

__all__ = ["AnyText", "GymTextEnv", "to_gymnasium"]

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

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"

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
        DataError: no tasks, two with one id, or an unknown render mode.
        PrerequisiteError: gymnasium is missing (at the import of this module).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        env: TextEnv,
        tasks: Sequence[Task],
        *,
        max_length: int = MAX_LENGTH,
        list_actions: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if not tasks:
            raise DataError("to_gymnasium needs at least one task to reset to")
        if render_mode not in (None, "ansi"):
            raise DataError(f"render_mode is {render_mode!r}; it must be 'ansi' or None")
        self.text_env = env
        self.tasks = {task.id: task for task in tasks}
        if len(self.tasks) < len(tasks):
            raise DataError("two tasks share an id; give each its own")
        self.list_actions = list_actions
        self.render_mode = render_mode
        self.observation_space = AnyText(max_length)
        self.action_space = AnyText(max_length)
        self.task: Task | None = None
        self._left = 0
        self._text = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a task: the one that `options["task"]` names (its id), else a random one.

        `options["prefix"]`, recorded steps of that task, restores the state after them instead;
        `options["expected"]` is the recorded observation there, if known.

        Raises:
            DataError: unknown option or task; `prefix` without `task`.
            RestoreMismatch: the state could not be verified.
        """
        super().reset(seed=seed)
        options = options or {}
        if strange := set(options) - {"task", "prefix", "expected"}:
            raise DataError(f"unknown reset option {min(strange)!r}; use task, prefix, expected")
        self.task = self._choose(options)
        prefix = options.get("prefix", ())
        self._left = step_limit(self.task) - len(prefix)
        if prefix:
            restored = self.text_env.restore(self.task, prefix, options.get("expected"))
            if not restored.ok:
                raise RestoreMismatch(
                    f"task {self.task.id!r}, {len(prefix)} steps: {restored.detail}"
                )
            return self._shown(restored.text, {})
        first = self.text_env.reset(self.task)
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

    def render(self) -> str | None:
        """The current observation, in render mode `ansi`."""
        return self._text if self.render_mode == "ansi" else None

    def close(self) -> None:
        self.text_env.close()

    def _choose(self, options: Mapping[str, Any]) -> Task:
        if "task" in options:
            name = options["task"]
            if name not in self.tasks:
                raise DataError(f"no task {name!r} among the {len(self.tasks)} given")
            return self.tasks[name]
        if options.get("prefix"):
            raise DataError("a prefix belongs to a task: pass options['task'] as well")
        return list(self.tasks.values())[int(self.np_random.integers(len(self.tasks)))]

    def _shown(self, text: str, info: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The observation, cut to the space, and the info."""
        assert self.task is not None
        out = {**info, "task": self.task.id, "instruction": self.task.instruction}
        if self.list_actions:
            out["valid_actions"] = self.text_env.valid_actions()
        limit = self.observation_space.max_length  # type: ignore[attr-defined]
        out["cut"] = max(0, len(text) - limit)
        self._text = text[:limit]
        return self._text, out


to_gymnasium = GymTextEnv
