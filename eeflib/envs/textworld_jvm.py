"""One JVM with TextWorldExpress inside, shared by many games.

`textworld` imports `Machine` and `Game` from here: the raw interface of PyPI `textworld-express`
1.1.0, with games side by side in one JVM, their answers and their gold paths. Starting and stopping
the process is `java.JavaSimulator`'s work.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from eeflib.envs.java import JavaSimulator, import_stock
from eeflib.errors import DataError, EnvironmentFault

__all__ = ["Answer", "Game", "Machine", "Simulator"]

# The package's own solvers of these two games walk at random and draw from an unseeded generator.
_RANDOM_SOLVERS = {"twc": "TWCGoldAgent", "coin": "CoinGoldAgent"}
_SOLVER_TRIES = 50  # as many as the package makes


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """The simulator's answer to an action."""

    observation: str
    look: str
    inventory: str
    valid_actions: list[str]
    """In random order, some twice."""
    score: float
    """In [0, 1], or -1: failed."""
    success: bool = msgspec.field(name="tasksuccess")
    failure: bool = msgspec.field(name="taskfailure")


_decode = msgspec.json.Decoder(Answer).decode


class Simulator(JavaSimulator):
    """A running JVM: 0.7 s to start, 0.2 GB. Needs no flags: the same actions give the same texts
    in any JVM (96 of 96 walks over eight games, with and without a fixed identity hash).

    Raises:
        PrerequisiteError: the `textworld-express` package or a Java runtime is missing.
        EnvironmentFault: the JVM did not come up.
    """

    title = "TextWorldExpress"
    survives_errors = True

    def __init__(self) -> None:
        stock_class = import_stock(_load, title=self.title, extra="textworld")
        super().__init__(stock_class, {"envStepLimit": 10**9}, deterministic=False)

    @property
    def jvm(self) -> Any:
        """The JVM's packages and classes, as py4j shows them."""
        return self.stock._gateway.jvm

    def game(self) -> Game:
        """One more game in this JVM."""
        return Game(self, self.jvm.textworldexpress.runtime.PythonInterface())


class Game:
    """One game under way. Independent of the other games of its JVM, except in `sorting`."""

    def __init__(self, simulator: Simulator, interface: Any) -> None:
        self.simulator = simulator
        self._interface = interface
        self._loaded: tuple[str, str] | None = None
        self._broken = False

    @property
    def alive(self) -> bool:
        return not self._broken and self.simulator.alive

    def start(self, name: str, params: str, variation: int, fold: str) -> Answer:
        """A new game of kind `name`: 0.5 ms, 5 ms where the kind or its parameters change.

        Args:
            params: e.g. `numLocations=3, includeDoors=1`; empty for the game's own defaults.
            variation: the simulator's seed.
            fold: `train`, `dev` or `test`.

        Raises:
            DataError: unknown game or parameter, or a value that it does not take.
            EnvironmentFault: the simulator failed.
        """
        if self._loaded != (name, params):
            self._loaded = None
            if complaint := str(self._call("load", name, params)).strip():
                raise DataError(f"TextWorldExpress: {complaint.removeprefix('ERROR: ')}")
            self._loaded = (name, params)
        answer = self._answer("generateNewGameJSON", variation, fold, False)
        if answer.score < 0.0 or answer.success or answer.failure:
            raise DataError(
                f"TextWorldExpress has no playable {name} ({params}), variation {variation}: "
                f"{answer.observation:.200}"
            )
        return answer

    def step(self, action: str) -> Answer:
        """Act. The simulator takes an action only if it is one of its valid ones, to the letter."""
        return self._answer("stepJSON", action)

    def description(self) -> str:
        """What the agent is asked to do in this game."""
        return str(self._call("getTaskDescription")).strip()

    def gold(self, name: str, params: str, variation: int, fold: str) -> list[str]:
        """The package's own solution, from the initial state; the game under way is lost.

        [ours] Where the package's solver walks at random, the walk is seeded with `variation`, so
        that the same game has the same gold path in every run.

        Raises:
            DataError, EnvironmentFault: see `start`; or the solver finds none.
        """
        self.start(name, params, variation, fold)
        if solver := _RANDOM_SOLVERS.get(name):
            path = self._seeded(solver, variation, fold)
        else:
            self._call("generateNewGameJSON", variation, fold, True)
            path = [str(a) for a in self._call("getGoldActionSequence")]
            self._loaded = None  # the interface keeps an error until the next load
        if not path:
            raise EnvironmentFault(
                f"TextWorldExpress found no gold path for {name} ({params}), variation {variation};"
                " leave the task out"
            )
        return path[1:] if path[0] == "look around" else path  # s_0 is that look already

    def _seeded(self, solver: str, variation: int, fold: str) -> list[str]:
        call, jvm = self.simulator.call_on, self.simulator.jvm
        generator = self._call("gameGenerator")
        random = jvm.scala.util.Random(variation)
        for _ in range(_SOLVER_TRIES):
            game = call(generator, "mkGame", variation, fold)
            agent = getattr(jvm.textworldexpress.goldagent, solver)(game)
            found = call(agent, "mkGoldPath", random)  # a Scala pair: (found one, actions)
            if call(found, "productElement", 0):
                return [str(a) for a in call(found, "productElement", 1)]
        return []

    def _answer(self, method: str, *args: Any) -> Answer:
        text = self._call(method, *args)
        try:
            return _decode(text)
        except msgspec.MsgspecError as exc:
            self._broken = True
            raise EnvironmentFault(
                f"TextWorldExpress gave an unreadable answer to {method}{args!r:.200}: {exc}; "
                "reset() starts the game anew"
            ) from exc

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return self.simulator.call_on(self._interface, method, *args)
        except EnvironmentFault:
            self._broken = True
            raise


class Machine:
    """The JVM that several environments share; runs while one of them holds a game.

    In a child process, and after the JVM died, it starts a new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._simulator: Simulator | None = None
        self._games: list[Game] = []

    @property
    def simulator(self) -> Simulator | None:
        """The JVM, while there is one."""
        return self._simulator

    def open(self) -> Game:
        """One more game.

        Raises:
            PrerequisiteError, EnvironmentFault: see `Simulator`.
        """
        with self._lock:
            if self._simulator is None or not self._simulator.alive:
                self._stop()
                self._simulator = Simulator()
            game = self._simulator.game()
            self._games.append(game)
            return game

    def release(self, game: Game) -> None:
        """`game` is not used any more; the last one stops the JVM."""
        with self._lock:
            self._games = [g for g in self._games if g is not game]
            if not self._games:
                self._stop()

    def _stop(self) -> None:
        self._games = []
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None


def _load() -> type[Any]:
    from textworld_express import TextWorldExpressEnv

    return TextWorldExpressEnv
