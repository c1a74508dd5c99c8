"""TextWorldExpress tasks as records: games, parameters, variations, splits.

Import `textworld_tasks` and `make_task` from here.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eeflib.envs.textworld_jvm import Game, Machine
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = [
    "DEFAULT_GAMES",
    "DEFAULT_MAX_STEPS",
    "ENV",
    "GAMES",
    "TaskSpec",
    "make_task",
    "textworld_tasks",
]

ENV = "textworld"

GAMES = (
    "twc",
    "cookingworld",
    "coin",
    "mapreader",
    "arithmetic",
    "simonsays",
    "peckingorder",
)
"""The games of TextWorldExpress 1.1.0: TextWorld Commonsense (put things where they belong), cook a
recipe, find a coin, fetch by map, and three small ones about following instructions.

Its eighth, sorting, is left out: two of its games at a time in one JVM share their things, so that
acting in one changes the other (96 of 120 walks that ran side by side)."""

DEFAULT_GAMES = ("twc", "cookingworld")

DEFAULT_MAX_STEPS = 100
"""Actions per episode where a task sets no limit: the package's own `envStepLimit`. The longest of
120 gold paths of cookingworld, as it is by default, has 96."""

_FOLDS: dict[str, tuple[str, range]] = {
    "train": ("train", range(0, 1000)),
    "validation": ("dev", range(10_000, 11_000)),
    "test": ("test", range(20_000, 21_000)),
}
"""Split -> (the simulator's name for it, its variations), as `getSeedsTrain` and so on give them.
The objects of twc and the recipes of cookingworld differ between the splits."""

Params = Mapping[str, int]


@dataclass(frozen=True)
class TaskSpec:
    """What the simulator needs to start a game."""

    game: str
    variation: int
    fold: str
    split: str
    params: tuple[tuple[str, int], ...]
    max_steps: int

    @property
    def param_text(self) -> str:
        """As the simulator reads it."""
        return ", ".join(f"{name}={value}" for name, value in self.params)

    @classmethod
    def read(cls, task: Task, max_steps: int) -> TaskSpec:
        """The specification in a record; `max_steps` where the record sets none.

        Names and values of parameters are left to the simulator to check.

        Raises:
            DataError: another environment's task, an unknown game or variation, or a field that is
                missing or unusable.
        """
        where = f"task {task.id!r}"
        if task.env != ENV:
            raise DataError(f"{where} belongs to environment {task.env!r}, not to {ENV!r}")
        game, variation = task.goal.get("game"), task.goal.get("variation")
        if not isinstance(game, str) or not game:
            raise DataError(f"{where}: goal.game must be the name of a game, not {game!r}")
        if game == "sorting":
            raise DataError(
                f"{where}: sorting cannot be played side by side in one JVM, its games share their "
                f"things; choose from {', '.join(GAMES)}"
            )
        if game not in GAMES:
            near = difflib.get_close_matches(game, GAMES, n=2) or GAMES
            raise DataError(
                f"{where}: TextWorldExpress has no game {game!r:.80}; "
                f"did you mean {', '.join(near)}?"
            )
        if not isinstance(variation, int) or isinstance(variation, bool):
            raise DataError(f"{where}: goal.variation must be an integer, not {variation!r:.80}")
        split = next((s for s, (_, numbers) in _FOLDS.items() if variation in numbers), "")
        if not split:
            known = ", ".join(f"{n[0]} to {n[-1]} ({s})" for s, (_, n) in _FOLDS.items())
            raise DataError(f"{where}: variations are {known}, not {variation}")
        limit = task.settings.get("max_steps", max_steps)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise DataError(
                f"{where}: settings.max_steps must be a positive integer, not {limit!r:.80}"
            )
        params = _params(task.settings.get("params", {}), where)
        return cls(game, variation, _FOLDS[split][0], split, params, limit)


def _params(value: Any, where: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: settings.params must be an object, not {value!r:.80}")
    for name, number in value.items():
        # A text that the simulator cannot take apart is dropped by it without a word.
        if not isinstance(name, str) or not name.isalpha() or not name.isascii():
            raise DataError(f"{where}: settings.params: {name!r:.80} is no name of a parameter")
        if not isinstance(number, int) or isinstance(number, bool) or abs(number) > 10**6:
            raise DataError(
                f"{where}: settings.params.{name} must be a small integer (0 and 1 for switches), "
                f"not {number!r:.80}"
            )
        if name == "numItemsToPutAway" and number < 1:
            raise DataError(f"{where}: settings.params.{name} must be at least 1, not {number}")
    return tuple(sorted(value.items()))


def make_task(
    simulator_game: Game,
    game: str,
    variation: int,
    *,
    params: Params | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Task:
    """One task as a record. The game is started for its description: one under way is lost.

    Raises:
        DataError: unknown game, variation or parameter.
    """
    draft = Task(
        id=f"{ENV}-{game}-{variation}",
        env=ENV,
        instruction="",
        goal={"game": game, "variation": variation},
        settings={"params": dict(params or {}), "max_steps": max_steps},
    )
    spec = TaskSpec.read(draft, max_steps)
    simulator_game.start(spec.game, spec.param_text, spec.variation, spec.fold)
    return Task(
        id=f"{ENV}-{game}-{variation:05d}",
        env=ENV,
        instruction=simulator_game.description(),
        goal=draft.goal,
        settings={"params": dict(spec.params), "max_steps": spec.max_steps},
        split=spec.split,
        extra={"task_type": game},
    )


def textworld_tasks(
    games: Sequence[str] = DEFAULT_GAMES,
    per_game: int = 4,
    split: str = "train",
    seed: int = 0,
    *,
    env: _HoldsGame | None = None,
    params: Mapping[str, Params] | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> list[Task]:
    """At most `per_game` random variations of each game, game by game, in the order drawn.

    Which variations of a game are drawn depends on `seed`, `split` and the game, not on the other
    games asked for; a larger number begins with the same ones. The simulator writes the
    instructions, 1-5 ms a task.

    Args:
        split: `train`, `validation` or `test`, 1000 variations each.
        env: a `TextWorldEnv` whose game is used; an episode in it ends. None: a JVM is started and
            stopped, 1 s.
        params: per game, e.g. `{"twc": {"numLocations": 1}}`; the rest is the game's default.

    Raises:
        DataError: unknown game, split or parameter; `per_game` below 1.
        PrerequisiteError, EnvironmentFault: see `textworld_jvm.Simulator`.
    """
    if split not in _FOLDS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(_FOLDS)}")
    if per_game < 1:
        raise DataError(f"per_game must be at least 1, not {per_game}")
    if unknown := set(params or {}) - set(games):
        raise DataError(f"params are given for {', '.join(sorted(unknown))}, not one of the games")
    machine = Machine()
    game = machine.open() if env is None else env.borrow()
    try:
        tasks = []
        pool = _FOLDS[split][1]
        for name in dict.fromkeys(games):
            rng = np.random.default_rng([seed, zlib.crc32(f"{split}/{name}".encode())])
            for i in rng.permutation(len(pool))[:per_game]:
                own = (params or {}).get(name)
                tasks.append(make_task(game, name, pool[i], params=own, max_steps=max_steps))
        return tasks
    finally:
        if env is None:
            machine.release(game)


class _HoldsGame(Protocol):
    def borrow(self) -> Game: ...
