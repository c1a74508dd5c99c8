"""TextWorldExpress (PyPI `textworld-express` 1.1.0, a Java simulator) as a `TextEnv`.

Import `TextWorldEnv` and `textworld_tasks` from here. What is not TextWorldExpress's own is in
`simulated`. Restoring is a replay: the simulator can copy the state of some games only (its
`deepCopy` leaves out where the agent stands), and a replayed step costs 0.1 ms.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import msgspec

from eeflib.envs.simulated import SPLITS, SimulatedEnv, Spec, Turn
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Task

GAMES = ("twc", "cookingworld", "coin", "mapreader", "arithmetic", "simonsays", "peckingorder")
"""The games of TextWorldExpress 1.1.0: TextWorld Commonsense (put things where they belong), cook a
recipe, find a coin, fetch by map, and three small ones about following instructions.

Its eighth, sorting, is left out: two of its games at a time in one JVM share their things, so that
acting in one changes the other (96 of 120 walks that ran side by side)."""

DEFAULT_GAMES = ("twc", "cookingworld")

DEFAULT_MAX_STEPS = 100
"""Actions per episode where a task sets no limit: the package's own `envStepLimit`. The longest of
120 gold paths of cookingworld, as it is by default, has 96."""

_VARIATIONS = {s: range(i * 10_000, i * 10_000 + 1000) for i, s in enumerate(SPLITS)}
"""As the simulator's `getSeedsTrain` and so on give them. The objects of twc and the recipes of
cookingworld differ between the splits."""

# The package's own solvers of these two games walk at random and draw from an unseeded generator.
_RANDOM_SOLVERS = {"twc": "TWCGoldAgent", "coin": "CoinGoldAgent"}
_SOLVER_TRIES = 50  # as many as the package makes
_NOT_UNDERSTOOD = "Unknown action: I'm not sure what you mean."  # the simulator's own words
_BLANKS = "".join(map(chr, range(33)))  # what Java's trim takes away

Params = Mapping[str, int]


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
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


_decode = msgspec.json.Decoder(_Answer).decode


class TextWorldEnv(SimulatedEnv):
    """One TextWorldExpress game; all of a process share a JVM (0.7 s to start, 0.2 GB).

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

    `reset` takes 0.5 ms, 5 ms where the game or its parameters change; a gold path 30-120 ms: none
    is wrong of 720 tried, but 2 of 120 in peckingorder. The JVM needs no flags: the same actions
    give the same texts in any (96 of 96 walks over eight games, with and without a fixed identity
    hash). A child process gets its own; two threads must not use one environment at the same time.
    """

    name = "textworld"
    title = "TextWorldExpress"
    package = "textworld_express"
    jar = "textworld-express.jar"
    flags = ("-Xverify:none",)
    shares_jvm = True
    interface = "textworldexpress.runtime.PythonInterface"
    goal_field = "game"
    option_field = "params"
    default_options: ClassVar[Params] = {}
    digits = 5
    idle_gold = True
    in_threads = False  # see `EnvPool`: a step of 0.2 ms is not worth a thread

    def __init__(self, *, max_steps: int = DEFAULT_MAX_STEPS) -> None:
        super().__init__(max_steps)
        self._loaded: tuple[int, str, str] | None = None  # JVM, game, parameters
        self._now: _Answer | None = None

    def _options(self, value: Any, kind: str) -> tuple[dict[str, int], str]:
        """Names and values of parameters are left to the simulator to check."""
        if not isinstance(value, Mapping):
            raise DataError(f"settings.params must be an object, not {value!r:.80}")
        for name, number in value.items():
            # A text that the simulator cannot take apart is dropped by it without a word.
            if not isinstance(name, str) or not name.isalpha() or not name.isascii():
                raise DataError(f"settings.params: {name!r:.80} is no name of a parameter")
            if not isinstance(number, int) or isinstance(number, bool) or abs(number) > 10**6:
                raise DataError(
                    f"settings.params.{name} must be a small integer (0 and 1 for switches), "
                    f"not {number!r:.80}"
                )
            if name == "numItemsToPutAway" and number < 1:
                raise DataError(f"settings.params.{name} must be at least 1, not {number}")
        ordered = dict(sorted(value.items()))
        return ordered, ", ".join(f"{name}={number}" for name, number in ordered.items())

    def variations(self, kind: str, split: str) -> range:
        if kind not in GAMES:
            near = difflib.get_close_matches(kind, GAMES, n=2) or GAMES
            told = f"no game {kind!r:.80}; did you mean {', '.join(near)}?"
            raise DataError(f"TextWorldExpress has {told}")
        return _VARIATIONS[split]

    def _load(self, spec: Spec) -> Turn:
        fold, jvm = self._fold(spec), self.simulator.process.pid
        if self._server is None or self._loaded != (jvm, spec.kind, spec.text):
            self._loaded = None
            if complaint := str(self._call("load", spec.kind, spec.text)).strip():
                raise DataError(f"TextWorldExpress: {complaint.removeprefix('ERROR: ')}")
            self._loaded = jvm, spec.kind, spec.text
        turn = self._turn_of("generateNewGameJSON", spec.variation, fold, False)
        if turn.over or turn.score < 0.0:
            raise DataError(
                f"TextWorldExpress has no playable {spec.kind} ({spec.text}), variation "
                f"{spec.variation}: {turn.text:.200}"
            )
        return turn

    def _fold(self, spec: Spec) -> str:
        """The simulator's name for the split of a variation."""
        for split, fold in SPLITS.items():
            if spec.variation in self.variations(spec.kind, split):
                return fold
        known = ", ".join(f"{n[0]} to {n[-1]} ({s})" for s, n in _VARIATIONS.items())
        raise DataError(f"variations are {known}, not {spec.variation}")

    def _act(self, action: str) -> tuple[Turn, str]:
        if not isinstance(action, str):
            reason = f"an action is text, not {type(action).__name__}"
        elif action.strip(_BLANKS) not in self._listed():
            reason = "not an action that the simulator understands here"
        else:
            return self._turn_of("stepJSON", action.strip(_BLANKS)), ""
        return self._turn._replace(text=_NOT_UNDERSTOOD), reason

    def _turn_of(self, method: str, *args: Any) -> Turn:
        try:
            now = self._now = _decode(self._call(method, *args))
        except msgspec.MsgspecError as exc:
            self._server = None
            raise EnvironmentFault(
                f"TextWorldExpress: unreadable answer to {method}: {exc}; reset() starts it anew"
            ) from exc
        over = now.success or now.failure or now.score >= 1.0  # the package's own rule
        return Turn(now.observation, now.score, over)

    def _listed(self) -> Iterable[str]:
        return self._now.valid_actions if self._now else ()

    def _plan(self, spec: Spec) -> list[str]:
        """[ours] Where the package's solver walks at random, the walk is seeded with the variation,
        so that the same game has the same gold path in every run."""
        self._load(spec)
        if spec.kind in _RANDOM_SOLVERS:
            path = self._seeded(_RANDOM_SOLVERS[spec.kind], spec.variation, self._fold(spec))
        else:
            self._call("generateNewGameJSON", spec.variation, self._fold(spec), True)
            path = [str(a) for a in self._call("getGoldActionSequence")]
            self._loaded = None  # the interface keeps an error until the next load
        if not path:
            raise EnvironmentFault(
                f"TextWorldExpress found no gold path for {spec.kind} ({spec.text}), variation "
                f"{spec.variation}; leave the task out"
            )
        return path[1:] if path[0] == "look around" else path  # s_0 is that look already

    def _seeded(self, solver: str, variation: int, fold: str) -> list[str]:
        jvm, generator = self.simulator, self._call("gameGenerator")
        random = jvm.new("scala.util.Random", variation)
        for _ in range(_SOLVER_TRIES):
            game = jvm.call(generator, "mkGame", variation, fold)
            agent = jvm.new(f"textworldexpress.goldagent.{solver}", game)
            found = jvm.call(agent, "mkGoldPath", random)  # a Scala pair: (found one, actions)
            if jvm.call(found, "productElement", 0):
                return [str(a) for a in jvm.call(found, "productElement", 1)]
        return []

    def _state_key(self, turn: Turn) -> str:
        now = self._now
        assert now is not None, "a state exists in an episode only"
        seen = f"{now.look}\0{now.inventory}\0{turn.score}"
        # a tenth of a step's time would go to what `records.content_hash` does
        return hashlib.blake2b(seen.encode("utf-8", "replace"), digest_size=8).hexdigest()


def textworld_tasks(
    games: Sequence[str] = DEFAULT_GAMES,
    per_game: int = 4,
    split: str = "train",
    seed: int = 0,
    *,
    env: TextWorldEnv | None = None,
    params: Mapping[str, Params] | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> list[Task]:
    """At most `per_game` random variations of each game, see `SimulatedEnv.drawn`.

    Args:
        split: `train`, `validation` or `test`, 1000 variations each.
        env: whose game is used; an episode in it ends. None: one of its own.
        params: per game, e.g. `{"twc": {"numLocations": 1}}`; the rest is the game's default.

    Raises:
        DataError: unknown game, split or parameter; `per_game` below 1.
        PrerequisiteError, EnvironmentFault: see `TextWorldEnv.reset`.
    """
    own = params or {}
    if unknown := set(own) - set(games):
        raise DataError(f"params are given for {', '.join(sorted(unknown))}, not one of the games")
    with TextWorldEnv() if env is None else nullcontext(env) as env:
        return env.drawn(games, per_game, split, seed, own, max_steps)
