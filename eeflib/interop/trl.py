"""Our environments in trl's GRPOTrainer: the class for `environment_factory`, and its data set.

Import `trl_tools` and `trl_dataset` from here or from `eeflib.interop`. Training is trl's; which
actions an environment has as tools is in `verbs`. Needs `pip install 'eeflib[trl]'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from eeflib.errors import ActionError, DataError
from eeflib.interop import require
from eeflib.interop.verbs import ARGUMENTS, VERBS, Verbs
from eeflib.prompts import task_text
from eeflib.records import Task
from eeflib.rollout import step_limit
from eeflib.world import World

MAX_ARGUMENT = 1000
"""Characters of an argument, at most."""

_A_NAME = "Its name, as the observations write it."


class Episode:
    """An episode as trl plays it; `trl_tools` adds the tools. `verifiers` plays it, too.

    trl takes every public method but `reset` and `get_reward` for a tool, so all else is private.
    It makes an instance per rollout of a batch, uses it again, and never closes it.
    """

    _world: World
    _tasks: Mapping[str, Task]

    def __init__(self) -> None:
        self._env = self._world.make_env()
        self._shown = ""
        self._left = 0
        self._reward = 0.0

    def reset(self, **columns: Any) -> str:
        """Start the task that the column `task_id` names; gives its first observation.

        Raises:
            DataError: no such column, or no such task in this world.
        """
        name = str(columns.get("task_id", ""))
        if name not in self._tasks:
            raise DataError(
                f"the column task_id must name one of the {len(self._tasks)} tasks of this "
                f"{self._world.env} world, not {name!r:.80}; see eeflib.interop.trl_dataset"
            )
        task = self._tasks[name]
        self._left, self._reward = step_limit(task), 0.0
        self._shown = self._env.reset(task).text
        return self._shown

    def get_reward(self) -> float:
        """R of the episode: the environment's reward at its last step, in [0, 1]."""
        return self._reward

    def _act(self, template: str, arguments: Mapping[str, Any]) -> str:
        """Play an action; what comes to nothing costs a step, too, and is told by an error.

        trl shows the error to the model, and counts it (`tools/failure_frequency`).
        """
        if self._left <= 0:
            raise ActionError("the episode is over: answer without calling a tool")
        self._left -= 1
        texts = {name: str(value) for name, value in arguments.items()}
        for name, text in texts.items():
            if not 0 < len(text.strip()) <= len(text) <= MAX_ARGUMENT:
                raise ActionError(f"{name} must be a text of 1 to {MAX_ARGUMENT} characters")
        result = self._env.step(template.format(**texts))
        self._reward = float(result.reward)
        if result.terminated or result.truncated:
            self._left = 0
        seen, self._shown = self._shown, result.text
        if not result.info.get("valid", True):
            reason = result.info.get("reason") or "nothing happened"
            raise ActionError(reason if result.text == seen else f"{reason}: {result.text}")
        return result.text


def tool_method(name: str, template: str, what: str) -> Callable[..., str]:
    """A method whose name, signature and docstring say what trl tells the model."""
    fields = [field for _, field, *_ in Formatter().parse(template) if field]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter("self", kind)]
        + [inspect.Parameter(field, kind, annotation=str) for field in fields],
        return_annotation=str,
    )

    def tool(self: Episode, *args: Any, **kwargs: Any) -> str:
        bound = signature.bind(self, *args, **kwargs).arguments
        return self._act(template, {field: bound[field] for field in fields})

    told = [f"    {field}: {ARGUMENTS.get(field, _A_NAME)}" for field in fields]
    tool.__name__ = tool.__qualname__ = name
    tool.__doc__ = "\n".join([what, "", "Args:", *told]) if fields else what
    tool.__annotations__ = dict.fromkeys([*fields, "return"], str)
    tool.__signature__ = signature  # type: ignore[attr-defined]
    return tool


def trl_tools(world: World, verbs: Verbs | None = None) -> type:
    """The class to pass as `environment_factory` of trl's GRPOTrainer.

    `reset` starts the task named by the data set's column `task_id`, `get_reward` gives the
    environment's own reward, every other public method is a tool. A simulator with a Java virtual
    machine of its own (ScienceWorld: 0.5 GB) is started for every rollout of a batch.

    Args:
        verbs: the actions of an environment that eeflib does not ship; None: those of `VERBS`.

    Raises:
        PrerequisiteError: trl is missing, or of a version that does not play environments so.
        DataError: neither `VERBS` nor `verbs` has the actions of this environment.
    """
    require("trl", "1.16", "trl")
    verbs = VERBS.get(world.env) if verbs is None else verbs
    if not verbs:
        raise DataError(f"no tools are known for environment {world.env!r}; pass verbs=")
    tools: dict[str, Any] = {name: tool_method(name, *verb) for name, verb in verbs.items()}
    facts = {"_world": world, "_tasks": {task.id: task for task in world.tasks}}
    return type(f"{world.env.capitalize()}Tools", (Episode,), tools | facts)


def trl_dataset(world: World, split: str = "train") -> Any:
    """The tasks of a split as a `datasets.Dataset`: columns `prompt` (messages) and `task_id`.

    The prompt ends on the instruction; trl appends the first observation to it.

    Raises:
        PrerequisiteError: trl, which brings datasets, is missing.
        DataError: the split has no tasks.
    """
    require("trl", "1.16", "trl")
    import datasets

    tasks = world.split(split)
    if not tasks:
        raise DataError(f"this world has no tasks in split {split!r}")
    system = {"role": "system", "content": task_text(world.env)}
    return datasets.Dataset.from_list(
        [
            {
                "prompt": [
                    system,
                    {"role": "user", "content": f"Instruction: {task.instruction}\n"},
                ],
                "task_id": task.id,
            }
            for task in tasks
        ]
    )
