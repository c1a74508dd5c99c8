"""TextWorldExpress (PyPI `textworld-express` 1.1.0, a Java simulator) as a `TextEnv`.

Import `TextWorldEnv` from here. Score and end, which actions reach the simulator, and gold paths
are here; the rules that all simulators share are in `simulated`, tasks in `textworld_tasks`, the
JVM in `textworld_jvm`.

Restoring is a replay: the simulator can copy the state of some games only (its `deepCopy` leaves
out where the agent stands), and a replayed step costs 0.1 ms.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from eeflib.envs.base import Observation
from eeflib.envs.simulated import GoldFile, Progress, SimulatedEnv
from eeflib.envs.textworld_jvm import Answer, Game, Machine
from eeflib.envs.textworld_tasks import (
    DEFAULT_GAMES,
    DEFAULT_MAX_STEPS,
    ENV,
    GAMES,
    Params,
    TaskSpec,
    make_task,
    textworld_tasks,
)
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Task

__all__ = [
    "DEFAULT_GAMES",
    "DEFAULT_MAX_STEPS",
    "GAMES",
    "Machine",
    "TextWorldEnv",
    "textworld_tasks",
]

_NOT_UNDERSTOOD = "Unknown action: I'm not sure what you mean."  # the simulator's own words
_BLANKS = "".join(map(chr, range(33)))  # what Java's trim takes away


class TextWorldEnv(SimulatedEnv):
    """One TextWorldExpress game; its JVM starts at the first use (0.7 s, 0.2 GB).

    Rules of an episode:
    - an observation is the simulator's answer to the action; the first one is a look around;
    - reward of a step = running score = the simulator's, clipped at 0, in [0, 1];
      `info["raw_score"]` keeps it unclipped: -1 after a failure in some games. It can fall again
      (twc: taking a thing away from where it belongs);
    - won iff the score is 1.0; terminated when the simulator reports success or failure (a spoiled
      ingredient, a wrong answer): terminated is not won;
    - truncated after `max_steps` actions, understood or not; the simulator has no limit of its own;
    - an action that is not, to the letter, one of `valid_actions` gets the simulator's answer to
      such, without troubling it.

    `info` holds `score, raw_score, won, valid, state_key, actions`, and `reason` if not valid.
    `state_key` is a hash of what is visible: room, inventory and score.

    A child process must make its own environment; two threads must not use one at the same time.

    Args:
        machine: the JVM to share: pass one `Machine` to all environments of a batch. None: a JVM
            of its own.
        max_steps: the limit where the task's settings give none.
        gold_file: a JSONL file that keeps gold paths between runs; made when missing.
    """

    name = ENV
    title = "TextWorldExpress"
    own_process = True
    in_threads = False
    """See `eeflib.envs.base.EnvPool`: a step of 0.2 ms is not worth a thread."""

    def __init__(
        self,
        *,
        machine: Machine | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        gold_file: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.max_parallel = 1 if machine is None else None
        """How many of these environments a rollout may hold at once; None: any number."""
        self.machine = Machine() if machine is None else machine
        path = None if gold_file is None else Path(gold_file)
        self._gold = GoldFile(path, ("game", "params", "variation"))
        self._game: Game | None = None
        self._now: Answer | None = None

    # ---- the protocol

    def reset(self, task: Task) -> Observation:
        """Start the game of `task` (0.5 ms; 5 ms where the game or its parameters change).

        Raises:
            DataError: not a TextWorldExpress task, unknown game, variation or parameter.
            PrerequisiteError: no Java, or the `textworld-express` package is missing.
            EnvironmentFault: the JVM failed; the next reset starts a new one.
        """
        with self._alone:
            self._end_episode()
            spec = TaskSpec.read(task, self.max_steps)
            try:
                self._now = self._ready().start(*_key(spec), spec.fold)
            except DataError as exc:
                raise DataError(f"task {task.id!r}: {exc}") from exc
            return self._begin(self._now.observation, spec.max_steps)

    def valid_actions(self) -> list[str]:
        """Admissible actions, sorted: 5-60 of them, at no cost."""
        with self._alone:
            if self._now is None or self._ended:
                return []
            return sorted(set(self._now.valid_actions))

    def close(self) -> None:
        """Give the game back, and with the last one of its machine end the JVM.

        A later `reset` starts a new one.
        """
        self._end_episode()
        if self._game is not None:
            self.machine.release(self._game)
            self._game = None

    # ---- what is TextWorldExpress's own

    def borrow(self) -> Game:
        """The game, for other work than an episode; one under way ends."""
        with self._alone:
            self._end_episode()
            return self._ready()

    def task(
        self,
        game: str,
        variation: int,
        *,
        params: Params | None = None,
        max_steps: int | None = None,
    ) -> Task:
        """A task record, see `textworld_tasks.make_task`. Ends an episode under way."""
        limit = self.max_steps if max_steps is None else max_steps
        return make_task(self.borrow(), game, variation, params=params, max_steps=limit)

    def gold_actions(self, task: Task) -> tuple[str, ...]:
        """The package's own solution, cut where the task is solved, without idle words.

        Computed once per task (30-120 ms), then from memory or `gold_file`; the same in every run.
        Ends an episode under way.

        Raises:
            DataError: see `reset`.
            EnvironmentFault: the package has no path, or its path does not solve the task (2 of 120
                in peckingorder, none of 720 in the other games).
        """
        with self._alone:
            spec = TaskSpec.read(task, self.max_steps)
            self._end_episode()
            known = self._gold.get(_key(spec))
            return self._compute(spec) if known is None else known

    # ---- inside

    def _ready(self) -> Game:
        """The game to start in; a broken one is replaced."""
        if self._game is None or not self._game.alive:
            if self._game is not None:
                self.machine.release(self._game)
                self._game = None
            self._game = self.machine.open()
        return self._game

    def _compute(self, spec: TaskSpec) -> tuple[str, ...]:
        game = self._ready()
        path = game.gold(*_key(spec), spec.fold)
        now = game.start(*_key(spec), spec.fold)
        actions: list[str] = []
        for action in path:
            if action in now.valid_actions and not (now.success or now.failure):
                now = game.step(action)
                actions.append(action)
        if not now.success or now.score < 1.0:
            raise EnvironmentFault(
                f"the gold path of {spec.game}, variation {spec.variation}, does not solve it; "
                "leave the task out"
            )
        return self._gold.put(_key(spec), actions)

    def _end_episode(self) -> None:
        super()._end_episode()
        self._now = None

    def _act(self, action: str) -> tuple[str, str]:
        assert self._now is not None, "step asks for an episode"
        assert self._game is not None, "an episode has a game"
        if not isinstance(action, str):
            return _NOT_UNDERSTOOD, f"an action is text, not {type(action).__name__}"
        sent = action.strip(_BLANKS)
        if sent not in self._now.valid_actions:
            return _NOT_UNDERSTOOD, "not an action that the simulator understands here"
        try:
            self._now = self._game.step(sent)
        except EnvironmentFault:
            self._end_episode()
            raise
        return self._now.observation, ""

    def _progress(self) -> Progress:
        now = self._now
        assert now is not None, "progress exists in an episode only"
        seen = f"{now.look}\0{now.inventory}\0{now.score}"
        # a tenth of a step's time would go to what `records.content_hash` does
        key = hashlib.blake2b(seen.encode("utf-8", "replace"), digest_size=8).hexdigest()
        over = now.success or now.failure or now.score >= 1.0  # the package's own rule
        return Progress(now.score, over, key)


def _key(spec: TaskSpec) -> tuple[str, str, int]:
    return spec.game, spec.param_text, spec.variation
