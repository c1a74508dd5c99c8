"""Environments and tasks as a `verifiers` environment (PyPI `verifiers` 0.3, Prime Intellect).

Owns the dataset of tasks, the pool of environments behind it, and the rubric: our reward. The rules
of an episode (prompt, parsing, step limit, what a bad reply does) are `eeflib.rollout`'s, so that a
rollout there and one here are the same. Knows nothing about trainers. Needs
`pip install 'eeflib[verifiers]'` (37 packages, 142 MB).

Built on `verifiers.MultiTurnEnv`, which takes Python objects and is what verifiers 0.3's `evaluate`
and trainers take. 0.4 is without it: there a task set is an installed top-level module, named in a
config, and the package wants openai < 3 (the tested set has 3.54) and a hosting service's SDKs.
Hence the bound `<0.4`.
Constructing one sets verifiers' own handlers for SIGINT and SIGTERM.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from eeflib.envs.base import TextEnv
from eeflib.errors import (
    ActionError,
    DataError,
    EnvironmentFault,
    PrerequisiteError,
    ProviderError,
)
from eeflib.policies.base import Reply
from eeflib.prompts import get_format
from eeflib.records import Task, Trajectory
from eeflib.rollout import EnvPool, Episode, RunningEpisode

try:
    import verifiers as vf
    from datasets import Dataset
except ImportError as exc:
    raise PrerequisiteError(
        f"verifiers is not installed ({exc}); run `pip install 'eeflib[verifiers]'`"
    ) from exc

__all__ = ["TextVerifiersEnv", "to_verifiers"]

_RECORD = "eef_trajectory"
_log = logging.getLogger(__name__)


class TextVerifiersEnv(vf.MultiTurnEnv):
    """See `to_verifiers`."""

    def __init__(
        self,
        make_env: Callable[[], TextEnv],
        tasks: Sequence[Task],
        *,
        eval_tasks: Sequence[Task] | None = None,
        prompt: str = "react",
        max_parallel: int | None = None,
        on_done: Callable[[Trajectory], None] | None = None,
        **options: Any,
    ) -> None:
        every = [*tasks, *(eval_tasks or ())]
        if not tasks or len({t.env for t in every}) > 1:
            raise DataError("to_verifiers needs one task or more, all of one environment")
        if "max_turns" in options:
            raise DataError("the step limit is the task's settings['max_steps'], not max_turns")
        self.fmt = get_format(prompt, every[0].env)
        self.pool = EnvPool(make_env)
        self._on_done = on_done
        self._most = max_parallel
        self._slots = itertools.count()
        self._free: list[int] = []
        self._gates: weakref.WeakKeyDictionary[Any, asyncio.Semaphore] = weakref.WeakKeyDictionary()
        self._attempts: Counter[str] = Counter()
        self._running: dict[str, tuple[RunningEpisode, int]] = {}
        super().__init__(
            dataset=self._dataset(tasks),
            eval_dataset=None if eval_tasks is None else self._dataset(eval_tasks),
            rubric=_rubric(),
            **options,
        )

    def _dataset(self, tasks: Sequence[Task]) -> Dataset:
        """A row per task. The prompt lacks the first observation: `setup_state` adds it."""
        rows = [
            {
                "prompt": self._messages(self.fmt.messages(task.instruction, (), "")),
                "answer": "",
                "info": json.dumps({"eef_task": task.to_dict()}),
            }
            for task in tasks
        ]
        return Dataset.from_list(rows)

    @staticmethod
    def _messages(messages: Sequence[Any]) -> list[dict[str, str]]:
        return [{"role": m.role, "content": m.content} for m in messages]

    async def setup_state(self, state: Any) -> Any:
        """Take an environment, wait for one if all are in use, and reset it to the row's task."""
        task = Task.from_dict(state["info"]["eef_task"])
        await self._gate().acquire()
        slot = self._free.pop() if self._free else next(self._slots)
        attempt = self._attempts[task.id]
        self._attempts[task.id] += 1
        episode = Episode(task, "verifiers", attempt)
        run = RunningEpisode(episode, str(state["model"]), self.fmt, "student", 0, None)
        self._running[state["trajectory_id"]] = (run, slot)
        try:
            run.start(self.pool.get(slot))
        except (DataError, EnvironmentFault) as exc:
            raise self._failed(run, slot, exc) from exc
        state["prompt"] = self._messages(run.messages)
        return state

    async def env_response(self, messages: Any, state: Any, **_: Any) -> list[dict[str, str]]:
        """Act on the last reply; the next observation, or nothing where the episode is over.

        The last observation is kept out of the conversation: WebShop's shows the reward.
        """
        run, slot = self._running[state["trajectory_id"]]
        try:
            run.advance(Reply(_text(messages[-1])))
        except (ActionError, EnvironmentFault) as exc:
            raise self._failed(run, slot, exc) from exc
        if run.over:
            state["final_env_response"] = []
            return []
        return self._messages(run.messages[-1:])

    @vf.cleanup
    async def give_back(self, state: Any) -> None:
        """The environment is free for another rollout; what happened is on record."""
        if state["trajectory_id"] not in self._running:
            return  # cancelled while it waited for an environment
        run, slot = self._running.pop(state["trajectory_id"])
        if not run.over:  # a token limit, a time limit or a failed model call ended it
            if (error := state.get("error")) is not None:
                run.fail(ProviderError(str(error.__cause__ or error) or type(error).__name__))
            run.truncated = True
        trajectory = run.trajectory()
        state[_RECORD] = trajectory.to_dict()
        self._free.append(slot)
        self._gate().release()
        if self._on_done is not None:
            self._on_done(trajectory)

    @vf.teardown
    async def close_environments(self) -> None:
        self.pool.close()

    def _gate(self) -> asyncio.Semaphore:
        """Counts the environments in use; one per event loop, as asyncio wants it."""
        loop = asyncio.get_running_loop()
        if loop not in self._gates:
            most = self._most or self.pool.max_parallel or 2**31
            self._gates[loop] = asyncio.Semaphore(most)
        return self._gates[loop]

    def _failed(
        self, run: RunningEpisode, slot: int, exc: ActionError | DataError | EnvironmentFault
    ) -> Exception:
        """`exc` on record, as what verifiers understands: the rollout failed, the run goes on."""
        run.fail(exc)
        if isinstance(exc, EnvironmentFault):
            self.pool.discard(slot)
        error: Exception = vf.InfraError(str(exc))
        return error


def _text(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else message.content
    return content if isinstance(content, str) else ""


def _rubric() -> Any:
    async def reward(state: Any) -> float:
        """R of the episode, in [0, 1]; 0 where it failed."""
        record = state.get(_RECORD) or {}
        return 0.0 if record.get("error") else float(record.get("reward", 0.0))

    async def solved(state: Any) -> float:
        record = state.get(_RECORD)
        return float(record is not None and Trajectory.from_dict(record).solved)

    async def valid_actions(state: Any) -> float:
        """Share of the replies that were an action which the environment understood."""
        steps = (state.get(_RECORD) or {}).get("steps", [])
        return sum(s.get("valid", True) for s in steps) / len(steps) if steps else 0.0

    rubric = vf.Rubric(funcs=[reward])
    rubric.add_metric(solved)
    rubric.add_metric(valid_actions)
    return rubric


def to_verifiers(
    make_env: Callable[[], TextEnv],
    tasks: Sequence[Task],
    *,
    eval_tasks: Sequence[Task] | None = None,
    prompt: str = "react",
    max_parallel: int | None = None,
    on_done: Callable[[Trajectory], None] | None = None,
    **options: Any,
) -> TextVerifiersEnv:
    """`tasks` as a `verifiers.MultiTurnEnv` whose reward is the environment's.

        env = to_verifiers(world.make_env, world.split("train"))
        outputs = await env.evaluate(client_config, model)     # evaluate_sync outside notebooks

    Metrics beside the reward: `solved`, `valid_actions` (share of understood replies). Our record
    of a rollout is in the output column `eef_trajectory` (ask for it by `state_columns`), so that
    what was rolled out there can be analysed and explored here.

    Args:
        make_env: builds one environment; at most `max_parallel` are in use at once (None: the
            environment's own `max_parallel`, if it has one). They act on the event loop's thread.
        eval_tasks: the evaluation set; None: `tasks`.
        prompt: "react" or "act", see `eeflib.prompts`.
        on_done: called with the Trajectory of every rollout, also of a failed one.
        options: for `verifiers.MultiTurnEnv`, e.g. `timeout_seconds`, `env_id`.

    Raises:
        DataError: no tasks, tasks of several environments, unknown prompt format, `max_turns`.
        PrerequisiteError: verifiers is missing (at the import of this module).
    """
    return TextVerifiersEnv(
        make_env,
        tasks,
        eval_tasks=eval_tasks,
        prompt=prompt,
        max_parallel=max_parallel,
        on_done=on_done,
        **options,
    )
