"""Our environments in trl's GRPOTrainer, in either of its two ways.

`trl_tools` is the class for `environment_factory`: trl plays a model that calls tools; which
actions an environment has as tools is in `verbs`. `trl_rollouts` is the one for `rollout_func`: a
student of eeflib plays as in every other step of the method. `trl_dataset` names the tasks for both
ways. Import them from here or from `eeflib.interop`. Training is trl's. Needs `pip install
'eeflib[trl]'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from string import Formatter
from typing import TYPE_CHECKING, Any

from eeflib import rollout
from eeflib.errors import ActionError, DataError
from eeflib.interop import require
from eeflib.interop.verbs import ARGUMENTS, VERBS, Verbs
from eeflib.masking import IGNORE, Encoded, Unusable, encode_sample
from eeflib.policies.chat import Chat
from eeflib.prompts import PromptFormat, task_text
from eeflib.records import Label, Sample, Task, Trajectory
from eeflib.world import World

if TYPE_CHECKING:
    from eeflib.policies.student import Student

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
        self._left, self._reward = rollout.step_limit(task), 0.0
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


def trl_rollouts(world: World, student: Student) -> Callable[[list[str], Any], dict[str, Any]]:
    """The function to pass as `rollout_func` of trl's GRPOTrainer, whose model is `student.model`.

    Each prompt is the id of a task (`trl_dataset(world, ids=True)`), once per rollout of its group.
    `student` plays it whole, sampled at its temperature, in its prompt format; every one of its
    actions is trained, valid or not, and nothing else is (`env_mask`). A reply that is chosen among
    the admissible actions counts with its probability among all replies. The reward, R in [0, 1] of
    the last step, goes to the reward functions as `reward`: pass `trl_reward`. It is None, and the
    rollout does not count, where an episode failed or its text is longer than the student reads.

    Raises:
        PrerequisiteError: trl is missing, or of a version that takes no such function.
        DataError: the student is sampled elsewhere than in the model that trl trains; when called:
            a prompt that is no task's id, or no rollout that could be trained on.
    """
    require("trl", "1.16", "trl")
    if student.config.engine not in ("auto", "transformers"):
        raise DataError(
            f"the engine {student.config.engine} does not sample the weights that trl trains: give "
            "the student engine='transformers'"
        )
    tasks = {task.id: task for task in world.tasks}
    asked, chat = student.format(world.env), student.chat
    policy = student.policy()
    called = count()

    def rollouts(prompts: list[str], trainer: Any) -> dict[str, Any]:
        if unknown := [p for p in prompts if p not in tasks]:
            raise DataError(
                f"the prompt {unknown[0]!r:.80} is no task's id of this {world.env} world: use "
                "trl_dataset(world, ids=True)"
            )
        number = next(called)
        episodes = [rollout.Episode(tasks[p], f"grpo-{number}-{i}") for i, p in enumerate(prompts)]
        seed, training = int(trainer.args.seed), trainer.model.training
        played = rollout.run_episodes(
            episodes, policy, world.make_env, asked, actor="student", seed=seed
        )
        trainer.model.train(training)  # a policy leaves it in evaluation; trl asks which it is in
        found = [_encoded(t, asked, chat, student.max_length) for t in played]
        spare = next((x for x in found if x is not None), None)
        if spare is None:
            raise DataError(
                f"none of {len(played)} rollouts can be trained on; the first: "
                f"{played[0].error or 'longer than the student reads'}"
            )
        out: dict[str, Any] = {"logprobs": None, "reward": []}
        parts: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "env_mask": []}
        for trajectory, mine in zip(played, found, strict=True):
            # in the place of one that does not count trl needs some text, too
            shown = mine or spare
            ids, trained = shown.input_ids, shown.labels != IGNORE
            first = int(trained.argmax())
            parts["prompt_ids"].append(ids[:first].tolist())
            parts["completion_ids"].append(ids[first:].tolist())
            parts["env_mask"].append(trained[first:].astype(int).tolist())
            out["reward"].append(None if mine is None else trajectory.reward)
        return out | parts

    return rollouts


def trl_reward(reward: list[float | None], **_: Any) -> list[float | None]:
    """The reward function that goes with `trl_rollouts`: what the environment gave."""
    return reward


def _encoded(
    played: Trajectory, asked: PromptFormat, chat: Chat, max_length: int | None
) -> Encoded | None:
    """The tokens of an episode, all of its actions trained; None if it cannot be trained on."""
    n = len(played.steps)
    labels: list[Label] = ["student"] * n
    sample = Sample(
        played.id, played.task_id, played.env, played.instruction, kind="all", steps=played.steps,
        trained=(True,) * n, labels=tuple(labels),
    )  # fmt: skip
    try:
        return None if played.error else encode_sample(sample, asked, chat, max_length=max_length)
    except Unusable:
        return None


def trl_dataset(world: World, split: str = "train", *, ids: bool = False) -> Any:
    """The tasks of a split as a `datasets.Dataset`: columns `prompt` and `task_id`.

    The prompt is messages that end on the instruction; trl appends the first observation to it.

    Args:
        ids: the prompt is the task's id instead, as `trl_rollouts` reads it.

    Raises:
        PrerequisiteError: trl, which brings datasets, is missing.
        DataError: the split has no tasks.
    """
    require("trl", "1.16", "trl")
    import datasets

    tasks = world.split(split)
    if not tasks:
        raise DataError(f"this world has no tasks in split {split!r}")
    if ids:
        return datasets.Dataset.from_list([{"prompt": t.id, "task_id": t.id} for t in tasks])
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
