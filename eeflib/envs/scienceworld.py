"""ScienceWorld (PyPI `scienceworld` 1.2.3, a Java simulator) behind the `TextEnv` protocol.

Import `ScienceWorldEnv` and `scienceworld_tasks` from here; the splits of the literature are in
`scienceworld_splits`. What is not ScienceWorld's own is in `simulated`: episodes, restoring, JVM.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from eeflib.envs.java import DETERMINISM_FLAGS
from eeflib.envs.simulated import SPLITS, SimulatedEnv, Spec, Turn
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Task, content_hash

CHEAP_TASKS = (
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
    "chemistry-mix-paint-secondary-color",
    "power-component",
    "use-thermometer",
)
"""Task types whose gold paths are short (1-21 actions) and whose steps are quick (5-20 ms)."""

DEFAULT_MAX_STEPS = 40
"""Actions per episode where a task sets no limit: above the cheap tasks' gold paths with room for
detours."""

_SIMPLIFICATIONS = (
    "teleportAction",
    "openContainers",
    "openDoors",
    "selfWateringFlowerPots",
    "noElectricalAction",
)
_ELECTRICAL = ("power-component", "conductivity")

_ASIDES = frozenset(("help", "objects", "task"))  # answered by the outer interface
_NO_ANSWER = (  # what the outer interface says where the inner one says nothing
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible "
    "object referents. "
)
_CONNECTED = re.compile(r"(.+ on .+) is now connected to (.+ on .+)")
_DISCONNECTED = re.compile(r"(.+) has been disconnected")
_NOT_UNDERSTOOD = "No known action matches that input."
_CANCELLED = "Unknown action."
_MENU = "Ambiguous request: Please enter the number"
_AMBIGUOUS = "Ambiguous request:"
_STOP_WORDS = frozenset(("a", "an", "the"))
_MAX_CHARACTERS = 1000


class ScienceWorldEnv(SimulatedEnv):
    """One ScienceWorld simulator; its JVM starts at the first use (2-5 s, 0.5 GB).

    Rules of an episode:
    - an observation is the simulator's answer to the action; the first one is a look around;
    - reward of a step = running score = the simulator's raw score, clipped at 0, in [0, 1];
      `info["raw_score"]` keeps the raw one, -1 after a wrong focus;
    - won iff the score is 1.0; terminated when the simulator says completed or the raw score is
      negative: terminated is not won;
    - truncated after `max_steps` *actions*, whatever they were. The simulator's own count is of
      ticks (`wait` is 11 of them, an input it does not understand none);
    - `reset task` would wipe the progress: it is answered like an input that is not understood;
    - a state in which a menu is pending is never restored.

    `info` holds `score, raw_score, won, valid, state_key, actions`, and `reason` if not valid. ETO
    reports the highest score of an episode as its reward; here the reward is the last one.
    `state_key` is a hash of what is visible (room, inventory, score) and of what was connected to
    what by wires, which no look shows; without the clock.

    `valid_actions` takes 20-80 ms and gives up to 1500 of them, or the numbers in a menu, as the
    simulator lists them: it names things in closed containers and under another name than its
    parser takes. Of 750 drawn at random in 30 states of ten task types 87 were not understood: none
    in 17 of the states, 13 of 25 in the worst. `reset` takes 30-100 ms, up to 2 s in a cold JVM; a
    gold path 0.2-0.6 s, mendelian genetics 5-8 s, its menu answers such as "0" are actions.

    A child process must make its own environment; two threads must not use one at the same time.

    Args:
        deterministic: start the JVM so that the same actions give the same texts (stock
            ScienceWorld 1.2.3 does not: about two of three replays differ somewhere); restoring
            needs it.
        max_steps: see `SimulatedEnv`.
        max_parallel: how many of these environments a rollout of a model may hold at once: each has
            its JVM. More than one pays where the model answers in batches. Policies whose replies
            do not depend on the batch get one per core, see `eeflib.envs.base.EnvPool.width`.
    """

    name = "scienceworld"
    title = "ScienceWorld"
    package = "scienceworld"
    jar = "scienceworld.jar"
    interface = "scienceworld.runtime.pythonapi.PythonInterface"
    goal_field = "task"
    option_field = "simplifications"
    default_options = "easy"
    digits = 4

    def __init__(
        self,
        *,
        deterministic: bool = True,
        max_steps: int = DEFAULT_MAX_STEPS,
        max_parallel: int = 1,
    ) -> None:
        self._menu = False
        self._wires: set[tuple[str, ...]] = set()
        super().__init__(max_steps)
        self.flags = DETERMINISM_FLAGS if deterministic else ()
        self.max_parallel = max_parallel
        self._sizes: dict[str, int] = {}
        self._splits: dict[tuple[str, str], tuple[int, ...]] = {}
        self._agent: Any = None

    @property
    def task_sizes(self) -> dict[str, int]:
        """Number of variations per task name."""
        if not self._sizes:
            names = [str(n) for n in self._call("getTaskNames")]
            self._sizes = {n: int(self._call("getTaskMaxVariations", n)) for n in names}
        return self._sizes

    # ---- for SimulatedEnv

    def _options(self, value: Any, kind: str) -> tuple[list[str], str]:
        """Names of simplifications, comma-separated or one by one, spelled out.

        `easy` stands for what the simulator means by it: teleportAction, openDoors,
        selfWateringFlowerPots and, except for tasks about electricity, noElectricalAction; it does
        not open containers. The simulator takes `easy` only alone, hence the list.
        """
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, Sequence) or not all(isinstance(p, str) for p in parts):
            raise DataError(f"settings.simplifications must be a list of names, not {value!r:.80}")
        wanted = {p.strip() for p in parts} - {""}
        electrical = any(word in kind for word in _ELECTRICAL)
        if "easy" in wanted:
            wanted = (wanted - {"easy"}) | {"teleportAction", "openDoors", "selfWateringFlowerPots"}
            wanted |= set() if electrical else {"noElectricalAction"}
        if unknown := wanted - set(_SIMPLIFICATIONS):
            raise DataError(
                f"unknown simplification {', '.join(sorted(unknown))}; "
                f"choose from easy, {', '.join(_SIMPLIFICATIONS)}"
            )
        if electrical and "noElectricalAction" in wanted:
            raise DataError(f"{kind} cannot be solved with noElectricalAction; drop it")
        names = [s for s in _SIMPLIFICATIONS if s in wanted]
        return names, ",".join(names)

    def variations(self, kind: str, split: str) -> tuple[int, ...]:
        """The official ones; loads the task: an episode under way is lost."""
        self._check(kind)
        if (kind, split) not in self._splits:
            self._show(kind, 0, "")  # the simulator answers for the task it has loaded
            for own, theirs in SPLITS.items():
                numbers = self._call(f"getVariations{theirs.capitalize()}")
                self._splits[kind, own] = tuple(int(v) for v in numbers)
        return self._splits[kind, split]

    def _check(self, kind: str, variation: int = 0) -> None:
        """Raise DataError unless there is this task and variation.

        The simulator itself answers a wrong variation with an error text as observation.
        """
        size = self.task_sizes.get(kind)
        if size is None:
            near = difflib.get_close_matches(kind, self.task_sizes, n=3) or sorted(self.task_sizes)
            raise DataError(f"ScienceWorld has no task {kind!r}; did you mean {', '.join(near)}?")
        if not 0 <= variation < size:
            raise DataError(f"{kind} has variations 0 to {size - 1}, not {variation}")

    def _load(self, spec: Spec) -> Turn:
        self._check(spec.kind, spec.variation)
        return self._show(*spec.key)

    def _show(self, name: str, variation: int, simplifications: str) -> Turn:
        """Load a task and look around (0 ticks; it also brings the score up to date)."""
        self._agent = None
        self._call("load", name, variation, simplifications, False)
        text = str(self._call("step", "look around"))
        if text.startswith("ERROR"):  # how the simulator reports a load that went wrong
            raise EnvironmentFault(
                f"ScienceWorld could not load {name}, variation {variation}, "
                f"simplifications {simplifications!r}: {text}"
            )
        self._agent = self.simulator.call(self._call("agentInterface"), "get")
        score = float(self._call("getScore"))
        return Turn(text, score, score < 0 or bool(self._call("getCompleted")))

    def _act(self, action: str) -> tuple[Turn, str]:
        sent, reason = self._sendable(action)
        if reason:
            return self._turn._replace(text=_NOT_UNDERSTOOD), reason
        if sent.lower() in _ASIDES:  # the world does not take notice
            return self._turn._replace(text=str(self._call("step", sent))), ""
        turn = self._send(sent)
        if turn.text.startswith(_NOT_UNDERSTOOD):
            reason = "not an action that the simulator understands here"
        elif self._menu and turn.text.startswith(_CANCELLED):
            reason = "a number of the menu was asked for; the request is cancelled"
        elif turn.text.startswith(_AMBIGUOUS) and not turn.text.startswith(_MENU):
            reason = "the action is ambiguous"
        self._menu = turn.text.startswith(_MENU)
        self._note_wires(turn.text)
        return turn, reason

    def _send(self, action: str) -> Turn:
        """One action in the task that was loaded.

        The outer interface's `step` also looks around, takes stock and lists what there is, for a
        log of its own: a tenth of the time. This goes to the one below it, whose answer, a triple
        of text, score and completed, is fetched as a text.
        """
        simulator = self.simulator
        triple = simulator.call(self._agent, "step", action)
        answer = simulator.call(triple, "toString")
        text, raw, completed = answer[1:-1].rsplit(",", 2)
        return Turn(text or _NO_ANSWER, float(raw), float(raw) < 0 or completed == "true")

    def _sendable(self, action: object) -> tuple[str, str]:
        """The action as the simulator may get it, and why it may not."""
        if not isinstance(action, str):
            return "", f"an action is text, not {type(action).__name__}"
        # Blanks and control characters are one to the simulator; lone surrogates break the wire.
        sent = " ".join("".join(c if c >= " " else " " for c in action).split())
        sent = sent.encode("utf-8", "replace").decode()
        if len(sent) > _MAX_CHARACTERS:
            return "", f"longer than {_MAX_CHARACTERS} characters"
        if not self._menu and _is_reset(sent):
            return "", "`reset task` is not open to agents"
        return sent, ""

    def _listed(self) -> Iterable[str]:
        actions = (str(a) for a in self._call("getValidActionObjectCombinations"))
        return (a for a in actions if not _is_reset(a))

    def _plan(self, spec: Spec) -> list[str]:
        self._check(spec.kind, spec.variation)
        self._call("load", *spec.key, True)
        actions = [str(a) for a in self._call("getGoldActionSequence")]
        # The simulator remembers the wish: without this every later reset would plan again.
        self._call("goldPathGenerationEnabled_$eq", False)
        return actions

    def _state_key(self, turn: Turn) -> str:
        seen = [str(self._call(m)) for m in ("freeActionLook", "freeActionInventory")]
        wires = sorted(" - ".join(pair) for pair in self._wires)
        return content_hash([*seen, turn.score, self._menu, *wires])

    def _unrestorable(self) -> str:
        # the next action would be swallowed unless it is a number
        return "a menu is pending in this state" if self._menu else ""

    def _end_episode(self) -> None:
        super()._end_episode()
        self._menu, self._wires = False, set()

    def _note_wires(self, answer: str) -> None:
        """Keep connections, by the texts of the actions that made and cut them.

        No look around shows them, and they decide what the next action does. A terminal takes one
        connection at a time, so the pairs are complete.
        """
        if made := _CONNECTED.fullmatch(answer):
            self._wires.add(tuple(sorted(made.groups())))
        elif self._wires and (cut := _DISCONNECTED.fullmatch(answer)):
            gone = {p for p in self._wires if any(end.endswith(f" on {cut[1]}") for end in p)}
            # A terminal alone ("anode") does not say of what: the cut itself is remembered.
            self._wires = self._wires - gone if gone else self._wires | {("disconnected", cut[1])}


def scienceworld_tasks(
    task_names: Sequence[str] = CHEAP_TASKS,
    per_task: int = 4,
    split: str = "train",
    seed: int = 0,
    *,
    env: ScienceWorldEnv | None = None,
    simplifications: str | Sequence[str] = "easy",
    max_steps: int = DEFAULT_MAX_STEPS,
) -> list[Task]:
    """At most `per_task` random variations of each task type, see `SimulatedEnv.drawn`.

    Args:
        split: `train`, `validation` or `test`, as ScienceWorld defines them (50/25/25 % of a type's
            variations).
        env: whose JVM is used; an episode in it ends. None: a JVM is started and stopped, 2-5 s.

    Raises:
        DataError: unknown task, split or simplification; `per_task` below 1.
        PrerequisiteError, EnvironmentFault: see `ScienceWorldEnv.reset`.
    """
    with ScienceWorldEnv() if env is None else nullcontext(env) as env:
        options = dict.fromkeys(task_names, simplifications)
        return env.drawn(task_names, per_task, split, seed, options, max_steps)


def _is_reset(action: str) -> bool:
    # The simulator drops articles and case before it compares.
    words = [w for w in action.lower().split() if w not in _STOP_WORDS]
    return words == ["reset", "task"]
