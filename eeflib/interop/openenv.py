"""Our environments behind an OpenEnv server, with a verified restore.

Import `serve` (a server until it is stopped) and `make_app` (its FastAPI application) from here.
The protocol, the client and the sessions are openenv's. Needs `pip install 'eeflib[openenv]'`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eeflib import world as worlds
from eeflib.envs.base import StepResult
from eeflib.errors import DataError, EefError, EnvironmentFault, PrerequisiteError
from eeflib.interop import require
from eeflib.records import Step, Task
from eeflib.rollout import step_limit
from eeflib.world import World

require("openenv", "0.10", "openenv")

import uvicorn  # noqa: E402
from fastapi import FastAPI, HTTPException, Request  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from openenv.core.env_server import (  # noqa: E402
    Action,
    ConcurrencyConfig,
    Environment,
    Observation,
    State,
    create_fastapi_app,
)
from openenv.core.env_server.types import EnvironmentMetadata  # noqa: E402
from pydantic import model_validator  # noqa: E402

MAX_ACTION = 10_000
"""Characters of an action, at most."""

_VERSION = importlib.metadata.version("eeflib")
_SERVER = f"This server is eeflib {_VERSION}."


class TextAction(Action):
    """An action as the environment reads it, such as `click[Buy Now]`."""

    action: str

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, data: Any) -> Any:
        # not a ValueError: of those openenv tells a client no more than "Invalid message"
        fields = set(data) if isinstance(data, Mapping) else set()
        if not fields <= {"action", "metadata"} or not isinstance(data.get("action"), str):
            raise DataError(
                f'a step is {{"action": "a text"}}, not one of {sorted(fields)}. {_SERVER}'
            )
        if len(data["action"]) > MAX_ACTION:
            raise DataError(f"an action has at most {MAX_ACTION} characters")
        return data


class TextObservation(Observation):
    """What the agent sees; `metadata` holds the environment's info, see `StepResult.info`, and at
    the start `task_id` and `instruction`."""

    text: str


class TextEnvironment(Environment[TextAction, TextObservation, State]):
    """One session: an environment of `world`, its tasks by split and index, and restoring.

    A task is told by id, index and instruction: its goal, which decides the reward, is not.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._env = world.make_env()
        self._task: Task | None = None
        self._steps = self._left = 0
        self._episode: str | None = None
        self._closed = False
        self._counts = Counter(restored=0, skipped=0, replayed_steps=0)

    # ---- openenv's TaskProvider

    def list_splits(self) -> list[str]:
        return list(dict.fromkeys(task.split for task in self._world.tasks))

    def num_tasks(self, split: str) -> int:
        return len(self._split(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        if not 0 <= index < self.num_tasks(split):
            raise IndexError(f"split {split!r} has tasks 0 to {self.num_tasks(split) - 1}")
        task = self._split(split)[index]
        return {"id": task.id, "index": index, "instruction": task.instruction}

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        numbers = range(self.num_tasks(split))[start:stop]
        return [self.get_task(split, index) for index in numbers]

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        return self.get_task_range(split)

    def _split(self, name: str) -> tuple[Task, ...]:
        if name not in self.list_splits():
            raise DataError(f"no split {name!r} here; there is {', '.join(self.list_splits())}")
        return self._world.split(name)

    # ---- openenv's Environment

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        *,
        split: str | None = None,
        index: int | None = None,
        prefix: Sequence[Mapping[str, Any]] = (),
        expected: str | None = None,
        **unknown: Any,
    ) -> TextObservation:
        """Start a task, or go to the state after `prefix`: recorded steps of this task.

        Every observation of the prefix is compared with what the environment shows now. Where one
        differs, no episode runs: the answer is done, and its metadata have `restored` False, the
        index `first_mismatch`, and `detail`. The session's state counts `restored`, `skipped` and
        `replayed_steps`.

        Args:
            seed: chooses the task, modulo their number, where `index` is None.
            split: None: the first one.
            prefix: rows with `observation` and `action`, the first from the task's start.
            expected: the recorded observation of the state itself; None: not compared.

        Raises:
            DataError: unknown argument, split or index; an unusable prefix.
        """
        self._task = None
        self._require_open()
        if unknown:
            raise DataError(
                f"unknown reset argument {min(unknown)!r}; there are seed, episode_id, split, "
                f"index, prefix, expected. {_SERVER}"
            )
        split = self.list_splits()[0] if split is None else split
        tasks = self._split(split)
        index = (seed or 0) % len(tasks) if index is None else index
        if type(index) is not int or not 0 <= index < len(tasks):
            raise DataError(f"split {split!r} has tasks 0 to {len(tasks) - 1}, not {index!r:.80}")
        task, steps = tasks[index], _steps(prefix, expected)
        try:
            return self._start(task, steps, expected, episode_id)
        except EnvironmentFault:  # a dead simulator: the next reset gets another
            self._env.close()
            self._env = self._world.make_env()
            raise

    def _start(
        self, task: Task, steps: Sequence[Step], expected: str | None, episode_id: str | None
    ) -> TextObservation:
        told: dict[str, Any] = {"task_id": task.id, "instruction": task.instruction}
        if steps or expected is not None:
            restored = self._env.restore(task, steps, expected)
            self._counts["restored" if restored.ok else "skipped"] += 1
            self._counts["replayed_steps"] += len(steps)
            text, told["restored"] = restored.text, restored.ok
            if not restored.ok:
                told |= {"first_mismatch": restored.first_mismatch, "detail": restored.detail}
                return TextObservation(text=text, done=True, metadata=told)
        else:
            first = self._env.reset(task)
            text, told = first.text, {**first.info, **told}
        self._task, self._episode = task, episode_id or task.id
        self._steps, self._left = len(steps), step_limit(task) - len(steps)
        return TextObservation(text=text, metadata=told)

    def step(
        self, action: TextAction, timeout_s: float | None = None, **unknown: Any
    ) -> TextObservation:
        """Act. `done` after the end or the task's step limit, where metadata have `truncated`."""
        self._require_open()
        if self._task is None or self._left <= 0:
            over = "no episode is running" if self._task is None else "the episode is over"
            raise DataError(f"{over}: call reset")
        result: StepResult = self._env.step(action.action)
        self._steps += 1
        self._left -= 1
        truncated = result.truncated or (self._left <= 0 and not result.terminated)
        done = result.terminated or truncated
        self._left = 0 if done else self._left
        info = {**result.info, "truncated": truncated}
        reward = float(result.reward)
        return TextObservation(text=result.text, done=done, reward=reward, metadata=info)

    @property
    def state(self) -> State:
        return State(
            episode_id=self._episode,
            step_count=self._steps,
            task_id=self._task.id if self._task else None,
            **self._counts,
        )

    def get_metadata(self) -> EnvironmentMetadata:
        what = f"eeflib's {self._world.env}; reset takes split, index and a prefix to restore"
        return EnvironmentMetadata(name=self._world.env, description=what, version=_VERSION)

    def close(self) -> None:
        self._closed, self._task = True, None
        self._env.close()

    def _require_open(self) -> None:
        if self._closed:
            raise DataError("this session was idle for too long and is freed: connect again")


def _steps(prefix: Any, expected: Any) -> list[Step]:
    """The rows of a prefix as steps."""
    if not isinstance(prefix, Sequence) or not isinstance(expected, str | None):
        raise DataError("prefix is a list of rows, expected is a text")
    steps = []
    for t, row in enumerate(prefix):
        texts = [
            row.get(k) if isinstance(row, Mapping) else None for k in ("observation", "action")
        ]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"prefix[{t}] has to hold the texts observation and action")
        steps.append(Step(str(texts[0]), str(texts[1]), "teacher"))
    return steps


class _BodyLimit:
    """Refuses HTTP bodies above `most` bytes without keeping them; uvicorn limits WebSockets only.

    The rest of such a body is read, since a client that is still sending would not see the answer.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        read = 0

        async def limited() -> Any:
            nonlocal read
            while True:
                message = await receive()
                read += len(message.get("body", b""))
                if read <= self.most:
                    return message
                if not message.get("more_body"):
                    raise HTTPException(413, f"a request has at most {self.most} bytes")

        await self.app(scope, limited if scope["type"] == "http" else receive, send)


def make_app(
    world: World, *, sessions: int | None = None, idle_s: float = 600, max_bytes: int = 4_000_000
) -> FastAPI:
    """The server's application; see `serve` for the arguments."""
    own_process = getattr(world.make_env(), "own_process", False)
    sessions = sessions or (4 if own_process else 128)
    app = create_fastapi_app(
        functools.partial(TextEnvironment, world),
        TextAction,
        TextObservation,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=sessions, session_timeout=idle_s),
        env_name=world.env,
    )
    app.add_middleware(_BodyLimit, most=max_bytes)

    @app.exception_handler(EefError)
    async def told(request: Request, error: EefError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    return app


def serve(
    env: str = "webshop",
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    sessions: int | None = None,
    idle_s: float = 600,
    max_bytes: int = 4_000_000,
    **settings: Any,
) -> None:
    """Serve `webshop`, `scienceworld` or `textworld` until the process is interrupted.

    There is no log-in: whoever reaches the address can play. The default is this machine only.

    Args:
        port: 0: a free one, which the log names.
        sessions: at once; None: 128, or 4 where each starts a Java virtual machine.
        idle_s: after so many seconds without a message a session is freed.
        max_bytes: of a message; above it the connection is closed.
        settings: of the world, such as `seed`, `train`, `test`; see `eeflib.world`.

    Raises:
        DataError: unknown environment or setting.
        PrerequisiteError: the address cannot be bound.
    """
    if env not in ("webshop", "scienceworld", "textworld"):
        raise DataError(f"unknown environment {env!r}; use webshop, scienceworld or textworld")
    try:
        bound = socket.create_server((host, port))
    except (OSError, OverflowError) as exc:  # of a number that is no port
        raise PrerequisiteError(f"cannot serve at {host}:{port}: {exc}; use another port") from exc
    with bound:
        try:
            world = getattr(worlds, env)(**settings)
        except TypeError as exc:
            raise DataError(f"unknown setting of {env}: {exc}") from exc
        app = make_app(world, sessions=sessions, idle_s=idle_s, max_bytes=max_bytes)
        config = uvicorn.Config(app, host=host, port=port, ws_max_size=max_bytes)
        address = "http://{}:{}".format(*bound.getsockname()[:2])
        logging.getLogger("uvicorn.error").info("%s at %s", env, address)
        uvicorn.Server(config).run(sockets=[bound])
