"""Rollouts on a Ray cluster, with the records that this process would have made.

Import `spread` from here. The student that it returns is used like any other, in `eef.explore` and
`eef.evaluate`: its episodes are played by Ray's workers, a chunk of `Config.lockstep` episodes at a
time, for a reply may depend in its last bits on what else is in the batch. Each chunk is played as
it is here, so it may be played again elsewhere where a worker dies, and the records come back in
the order of the episodes, to be put on file as ever.

A worker makes the run's world anew from its settings and loads the student's base by its name; the
weights that were trained travel to it. So each machine needs eeflib of this version, and what the
environment and the base need.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eeflib.config import Config
from eeflib.errors import DataError, EnvironmentFault
from eeflib.interop import require
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.policies.student import Student
from eeflib.records import Actor, Trajectory
from eeflib.rollout import EnvPool, Episode, run_episodes
from eeflib.run import Run
from eeflib.world import make_world

require("ray", "2.40", "ray")
import ray  # noqa: E402

Chunk = tuple[list[Trajectory], Counter[str], int]
"""Trajectories, how restoring went in their environments, episodes that were played twice."""

_VERSION = importlib.metadata.version("eeflib")
_RETRIES = 3
"""How often a chunk is played again where its worker died."""


def spread(student: Student, run: Run, **resources: Any) -> Student:
    """`student` with its episodes of `run`'s world played by Ray's workers.

    Ray is started with its defaults where `ray.init` was not called.

    Args:
        resources: of each chunk, as Ray's `options` take them, such as `num_cpus=2` or
            `num_gpus=1`; without them one core.

    Raises:
        DataError: the student is played by a server, which takes many episodes at once as it is.
    """
    if student.config.engine not in ("auto", "transformers", "batch"):
        raise DataError(
            f"engine={student.config.engine!r} plays many episodes at once from here: spread is "
            "for students whose model is in the worker"
        )
    other = _Spread.of(student.config)
    other.folder, other.origin, other._keep = student.folder, student.origin, student
    other._base = student.base
    other.world = (run.config.to_dict(), run.seed)
    other.resources = {"num_cpus": 1, "max_retries": _RETRIES} | resources
    return other


class _Spread(Student):
    world: tuple[dict[str, Any], int]
    resources: dict[str, Any]

    def policy(self, *, greedy: bool = False) -> Policy:
        weights = {}
        if self.folder is not None:
            weights = {f.name: f.read_bytes() for f in self.folder.iterdir() if f.is_file()}
        what = (_VERSION, *self.world, self.config.to_dict(), self.fingerprint, greedy)
        return _Elsewhere(
            self.name, self.config.mode == "admissible", what, weights, self.resources
        )


class _Elsewhere:
    """A policy that answers nothing here: `run_episodes` hands it whole chunks."""

    def __init__(
        self,
        name: str,
        wants_admissible: bool,
        what: tuple[Any, ...],
        weights: dict[str, bytes],
        resources: dict[str, Any],
    ) -> None:
        self.name, self.wants_admissible = name, wants_admissible
        self._what, self._weights = what, weights
        self._remote = ray.remote(_play).options(**resources)
        self._tries = resources["max_retries"] + 1

    def act(self, conversations: Sequence[Conversation], *, rng: Any) -> list[Reply]:
        raise DataError(f"{self.name} is spread over Ray's workers, which play whole episodes")

    def forget(self, keys: Sequence[str]) -> None:
        return None

    def elsewhere(
        self, chunks: Sequence[Sequence[Episode]], actor: Actor, seed: int, size: int
    ) -> Iterator[Chunk]:
        """Play `chunks` in workers; their results in the same order, each when it is there.

        Raises:
            EnvironmentFault: workers died again and again, or the cluster is gone.
            EefError: from a worker.
        """
        weights = ray.put(self._weights)
        waiting = [
            self._remote.remote(self._what, weights, list(chunk), actor, seed, size)
            for chunk in chunks
        ]
        try:
            while waiting:
                yield ray.get(waiting[0])
                waiting.pop(0)
        except ray.exceptions.RayTaskError as exc:
            raise exc.cause from None
        except ray.exceptions.RayError as exc:
            raise EnvironmentFault(
                f"Ray's workers died {self._tries} times over a chunk of "
                f"{len(chunks[-len(waiting)])} episodes ({type(exc).__name__}), perhaps for "
                "memory; what came back is kept: give spread more for each (memory=..., "
                "num_cpus=...), or begin a run with a smaller lockstep"
            ) from exc
        finally:
            for chunk in waiting:
                ray.cancel(chunk)


_HERE: dict[str, tuple[Student, Policy]] = {}
"""In a worker: the student that it played last."""


def _student(
    settings: dict[str, Any], fingerprint: str, greedy: bool, weights: dict[str, bytes]
) -> tuple[Student, Policy]:
    key = json.dumps([settings, fingerprint, greedy], sort_keys=True)
    if key not in _HERE:
        _HERE.clear()
        student = Student.of(Config.from_dict(settings))
        if weights:
            folder = tempfile.TemporaryDirectory(prefix="eef-ray-")
            for name, content in weights.items():
                (Path(folder.name) / name).write_bytes(content)
            student = student.tuned(Path(folder.name), keep=folder)
        if student.fingerprint != fingerprint:
            raise DataError(
                f"{student.name} of this worker has other weights than where the run is: "
                f"{student.fingerprint}, not {fingerprint}"
            )
        _HERE[key] = student, student.policy(greedy=greedy)
    return _HERE[key]


def _play(
    what: tuple[Any, ...],
    weights: dict[str, bytes],
    episodes: list[Episode],
    actor: Actor,
    seed: int,
    size: int,
) -> Chunk:
    """In a worker: `episodes` as `run_episodes` plays a chunk of them."""
    version, world_settings, world_seed, settings, fingerprint, greedy = what
    if version != _VERSION:
        raise DataError(f"this worker has eeflib {_VERSION}; the run is played by {version}")
    world = make_world(Config.from_dict(world_settings), world_seed)
    student, policy = _student(settings, fingerprint, greedy, weights)
    with EnvPool(world.make_env) as pool:
        played = run_episodes(
            episodes,
            policy,
            pool,
            student.format(world.env),
            actor=actor,
            seed=seed,
            batch_size=size,
        )
        return [t for t in played if isinstance(t, Trajectory)], pool.restores, pool.redone
