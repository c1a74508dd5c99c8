"""ScienceWorld (PyPI `scienceworld` 1.2.3, a Java simulator) behind the `TextEnv` protocol.

Import `ScienceWorldEnv` from here. Score and end, menus, forbidden actions, wires and gold paths
are here; the rules that all simulators share are in `simulated`, tasks and splits in
`scienceworld_tasks`, the JVM in `scienceworld_jvm`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eeflib.envs.base import Observation
from eeflib.envs.scienceworld_jvm import ASIDES, Simulator, Turn
from eeflib.envs.scienceworld_tasks import (
    CHEAP_TASKS,
    DEFAULT_MAX_STEPS,
    ENV,
    TaskSpec,
    make_task,
    scienceworld_tasks,
)
from eeflib.envs.simulated import GoldFile, Progress, SimulatedEnv
from eeflib.errors import EnvironmentFault
from eeflib.records import Task, content_hash

__all__ = ["CHEAP_TASKS", "DEFAULT_MAX_STEPS", "ScienceWorldEnv", "scienceworld_tasks"]

_CONNECTED = re.compile(r"(.+ on .+) is now connected to (.+ on .+)")
_DISCONNECTED = re.compile(r"(.+) has been disconnected")
_NOT_UNDERSTOOD = "No known action matches that input."
_CANCELLED = "Unknown action."
_MENU = "Ambiguous request: Please enter the number"
_AMBIGUOUS = "Ambiguous request:"
_STOP_WORDS = frozenset(("a", "an", "the"))
_MAX_CHARACTERS = 1000


class GoldPaths:
    """Gold paths, kept in memory and in a `GoldFile` with `task, variation, simplifications`."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept = GoldFile(path, ("task", "variation", "simplifications"))

    def known(self, spec: TaskSpec) -> tuple[str, ...] | None:
        """The path if it was computed before."""
        return self._kept.get(_key(spec))

    def compute(self, simulator: Simulator, spec: TaskSpec) -> tuple[str, ...]:
        """Plan, replay up to the first completion, keep.

        Raises:
            EnvironmentFault: the path does not end in a score of 1.0 (120 of 120 tried did).
        """
        uncut = simulator.gold(*_key(spec))
        turn = simulator.load(*_key(spec))
        actions: list[str] = []
        while uncut[len(actions) :] and not turn.completed:
            actions.append(uncut[len(actions)])
            turn = simulator.act(actions[-1])
        if not turn.completed or turn.raw_score < 1.0:
            raise EnvironmentFault(
                f"the gold path of {spec.name}, variation {spec.variation}, does not solve it; "
                "leave the task out"
            )
        return self._kept.put(_key(spec), actions)


def _key(spec: TaskSpec) -> tuple[str, int, str]:
    return spec.name, spec.variation, spec.simplification_text


class Wiring:
    """Connections, by the texts of the actions that made and cut them.

    No look around shows them, and they decide what the next action does. A terminal takes one
    connection at a time, so the pairs are complete.
    """

    def __init__(self) -> None:
        self._pairs: set[tuple[str, ...]] = set()

    @property
    def lines(self) -> list[str]:
        """One per connection, in a fixed order; none where nothing is connected."""
        return sorted(" - ".join(pair) for pair in self._pairs)

    def note(self, answer: str) -> None:
        """Update the connections from the simulator's answer to an action."""
        if made := _CONNECTED.fullmatch(answer):
            self._pairs.add(tuple(sorted(made.groups())))
        elif self._pairs and (cut := _DISCONNECTED.fullmatch(answer)):
            self._cut(cut[1])

    def _cut(self, thing: str) -> None:
        gone = {p for p in self._pairs if any(end.endswith(f" on {thing}") for end in p)}
        # A terminal alone ("anode") does not say of what: the cut itself is remembered.
        self._pairs = self._pairs - gone if gone else self._pairs | {("disconnected", thing)}


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

    `info` holds `score, raw_score, best_score, won, valid, state_key, actions`, and `reason` if
    not valid. `best_score` is the highest score of the episode so far, which ETO reports as its
    reward; here it is never the reward.
    `state_key` is a hash of what is visible (room, inventory, score) and of what was connected to
    what by wires, which no look shows; without the clock.

    A child process must make its own environment; two threads must not use one at the same time.

    Args:
        deterministic: see `scienceworld_jvm.Simulator`; restoring needs it.
        max_steps: the limit where the task's settings give none.
        gold_file: a JSONL file that keeps gold paths between runs; made when missing.
        max_parallel: how many of these environments a rollout of a model may hold at once: each has
            its JVM. More than one pays where the model answers in batches. Policies whose replies
            do not depend on the batch get one per core, see `eeflib.envs.base.EnvPool.width`.
    """

    name = ENV
    title = "ScienceWorld"
    own_process = True
    """See `eeflib.envs.base.EnvPool`."""

    def __init__(
        self,
        *,
        deterministic: bool = True,
        max_steps: int = DEFAULT_MAX_STEPS,
        gold_file: str | Path | None = None,
        max_parallel: int = 1,
    ) -> None:
        super().__init__()
        self.deterministic = deterministic
        self.max_steps = max_steps
        self.max_parallel = max_parallel
        self._gold = GoldPaths(None if gold_file is None else Path(gold_file))
        self._simulator: Simulator | None = None
        self._menu = False
        self._wiring = Wiring()
        self._turn: Turn | None = None

    # ---- the protocol

    def reset(self, task: Task) -> Observation:
        """Load `task` (30-100 ms, up to 2 s in a cold JVM) and look around.

        Raises:
            DataError: not a ScienceWorld task, unknown name, variation or simplification.
            PrerequisiteError: no Java, or the `scienceworld` package is missing.
            EnvironmentFault: the JVM failed; the next reset starts a new one.
        """
        with self._alone:
            self._end_episode()
            spec = TaskSpec.read(task, self.max_steps)
            simulator = self.simulator
            spec.check(simulator.task_sizes, f"task {task.id!r}")
            self._turn = simulator.load(spec.name, spec.variation, spec.simplification_text)
            return self._begin(self._turn.text, spec.max_steps)

    def valid_actions(self) -> list[str]:
        """Admissible actions, sorted: 20-80 ms, up to 1500 of them; the numbers in a menu.

        As the simulator lists them: it names things in closed containers and under another name
        than its parser takes. Of 750 drawn at random in 30 states of ten task types 87 were not
        understood: none in 17 of the states, 13 of 25 in the worst.
        """
        with self._alone:
            if not self._keys or self._ended:
                return []
            actions = {str(a) for a in self.simulator.call("getValidActionObjectCombinations")}
            return sorted(a for a in actions if not _is_reset(a))

    def close(self) -> None:
        """End the JVM; a later `reset` starts a new one."""
        self._end_episode()
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    # ---- what is ScienceWorld's own

    @property
    def simulator(self) -> Simulator:
        """The JVM in use; a dead one is replaced (an episode in it is lost)."""
        if self._simulator is None or not self._simulator.alive:
            if self._simulator is not None:
                self._simulator.close()
                if self._keys:
                    self._end_episode()
                    raise EnvironmentFault(
                        "the ScienceWorld JVM died during the episode; reset() starts a new one"
                    )
            self._simulator = Simulator(deterministic=self.deterministic)
        return self._simulator

    def borrow(self) -> Simulator:
        """The JVM, for other work than an episode; one under way ends."""
        with self._alone:
            self._end_episode()
            return self.simulator

    def task(
        self,
        name: str,
        variation: int,
        *,
        split: str = "",
        simplifications: str | Sequence[str] = "easy",
        max_steps: int | None = None,
    ) -> Task:
        """A task record, see `scienceworld_tasks.make_task`. Ends an episode under way."""
        return make_task(
            self.borrow(),
            name,
            variation,
            split=split,
            simplifications=simplifications,
            max_steps=self.max_steps if max_steps is None else max_steps,
        )

    def gold_actions(self, task: Task) -> tuple[str, ...]:
        """The simulator's own solution, cut where the task is first completed.

        Computed once per task (0.2-0.6 s, mendelian genetics 5-8 s), then from memory or
        `gold_file`. Menu answers such as "0" are actions of their own. Ends an episode under way.

        Raises:
            EnvironmentFault: the path does not end in a score of 1.0.
        """
        with self._alone:
            spec = TaskSpec.read(task, self.max_steps)
            self._end_episode()
            if (known := self._gold.known(spec)) is not None:
                return known
            simulator = self.simulator
            spec.check(simulator.task_sizes, f"task {task.id!r}")
            return self._gold.compute(simulator, spec)

    # ---- inside

    def _renew(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _end_episode(self) -> None:
        super()._end_episode()
        self._menu = False
        self._wiring = Wiring()
        self._turn = None

    def _act(self, action: str) -> tuple[str, str]:
        sent, reason = self._sendable(action)
        if reason:
            return _NOT_UNDERSTOOD, reason
        self._turn = self.simulator.act(sent)
        text = self._turn.text
        if sent.lower() in ASIDES:
            return text, ""
        if text.startswith(_NOT_UNDERSTOOD):
            reason = "not an action that the simulator understands here"
        elif self._menu and text.startswith(_CANCELLED):
            reason = "a number of the menu was asked for; the request is cancelled"
        elif text.startswith(_AMBIGUOUS) and not text.startswith(_MENU):
            reason = "the action is ambiguous"
        self._menu = text.startswith(_MENU)
        self._wiring.note(text)
        return text, reason

    def _progress(self) -> Progress:
        assert self._turn is not None, "progress exists in an episode only"
        _, raw, completed = self._turn
        seen = [str(self.simulator.call(m)) for m in ("freeActionLook", "freeActionInventory")]
        return Progress(
            raw, raw < 0 or completed, content_hash([*seen, raw, self._menu, *self._wiring.lines])
        )

    def _unrestorable(self, expected: str | None) -> str:
        # the next action would be swallowed unless it is a number
        pending = self._menu if expected is None else expected.startswith(_MENU)
        return "a menu is pending in this state" if pending else ""

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


def _is_reset(action: str) -> bool:
    # The simulator drops articles and case before it compares.
    words = [w for w in action.lower().split() if w not in _STOP_WORDS]
    return words == ["reset", "task"]
