"""One JVM with the ScienceWorld simulator inside: what its interface offers.

`scienceworld` imports `Simulator` from here: the raw interface of PyPI `scienceworld` 1.2.3.
Starting and stopping the process is `java.JavaSimulator`'s work.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from eeflib.envs.java import JavaSimulator, import_stock
from eeflib.errors import EnvironmentFault

__all__ = ["ASIDES", "Simulator", "Turn"]

Split = Literal["train", "dev", "test"]

ASIDES = frozenset(("help", "objects", "task"))
"""Words that the outer interface answers by itself: the world does not take notice."""

_NO_ANSWER = (  # what the outer interface says where the inner one says nothing
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible "
    "object referents. "
)


class Turn(NamedTuple):
    """What one action gave."""

    text: str
    raw_score: float
    """1.0 is solved, below 0 is failed."""
    completed: bool


class Simulator(JavaSimulator):
    """A running simulator. Takes 2-5 s to start and about 0.5 GB.

    Args:
        deterministic: start the JVM so that the same actions give the same texts (stock
            ScienceWorld 1.2.3 does not: about two of three replays differ somewhere).

    Raises:
        PrerequisiteError: the `scienceworld` package or a Java runtime is missing.
        EnvironmentFault: the JVM did not come up.
    """

    title = "ScienceWorld"

    def __init__(self, *, deterministic: bool = True) -> None:
        stock_class = import_stock(_load, title=self.title, extra="scienceworld")
        # Its own step limit counts ticks of the world, not actions: out of the way with it.
        arguments = {"taskName": "", "envStepLimit": 10**9}
        super().__init__(stock_class, arguments, deterministic=deterministic)
        self._sizes: dict[str, int] | None = None
        self._splits: dict[tuple[str, Split], tuple[int, ...]] = {}
        self._agent: Any = None
        self._last = Turn("", 0.0, False)
        # py4j asks the JVM about a static method at each mention
        self._static = SimpleNamespace(text=self.stock._gateway.jvm.java.util.Objects.toString)

    @property
    def task_sizes(self) -> dict[str, int]:
        """Number of variations per task name."""
        if self._sizes is None:
            names = [str(n) for n in self.call("getTaskNames")]
            self._sizes = {n: int(self.call("getTaskMaxVariations", n)) for n in names}
        return self._sizes

    def variations(self, name: str, split: Split) -> tuple[int, ...]:
        """The official variations of a split; loads the task: an episode under way is lost."""
        if (name, split) not in self._splits:
            self.load(name, 0, "")  # the simulator answers for the task it has loaded
            for each in ("train", "dev", "test"):
                numbers = self.call(f"getVariations{each.capitalize()}")
                self._splits[name, each] = tuple(int(v) for v in numbers)
        return self._splits[name, split]

    def load(self, name: str, variation: int, simplifications: str) -> Turn:
        """Load a task and look around (0 ticks; it also brings the score up to date)."""
        self._agent = None
        self.call("load", name, variation, simplifications, False)
        text = str(self.call("step", "look around"))
        if text.startswith("ERROR"):  # how the simulator reports a load that went wrong
            raise EnvironmentFault(
                f"ScienceWorld could not load {name}, variation {variation}, "
                f"simplifications {simplifications!r}: {text}"
            )
        self._agent = self.call_on(self.call("agentInterface"), "get")
        self._last = Turn(text, float(self.call("getScore")), bool(self.call("getCompleted")))
        return self._last

    def act(self, action: str) -> Turn:
        """One action in the task that was loaded.

        The outer interface's `step` also looks around, takes stock and lists what there is, for a
        log of its own: a tenth of the time. This goes to the one below it, whose answer, a triple
        of text, score and completed, is fetched as a text.
        """
        if action.strip().lower() in ASIDES:
            return self._last._replace(text=str(self.call("step", action)))
        triple = self.call_on(self._agent, "step", action)
        text, score, completed = self.call_on(self._static, "text", triple)[1:-1].rsplit(",", 2)
        self._last = Turn(text or _NO_ANSWER, float(score), completed == "true")
        return self._last

    def gold(self, name: str, variation: int, simplifications: str) -> list[str]:
        """The simulator's own solution, uncut; an episode under way is lost. 0.1-8 s."""
        self._agent = None
        self.call("load", name, variation, simplifications, True)
        actions = [str(a) for a in self.call("getGoldActionSequence")]
        # The simulator remembers the wish: without this every later reset would plan again.
        self.call("goldPathGenerationEnabled_$eq", False)
        return actions


def _load() -> type[Any]:
    from scienceworld import ScienceWorldEnv

    return ScienceWorldEnv
