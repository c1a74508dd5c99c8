"""One JVM with the ScienceWorld simulator inside: what its interface offers.

Owns the raw interface of PyPI `scienceworld` 1.2.3; the process is `jvm.JavaSimulator`'s. Knows
nothing about tasks as records or episodes.
"""

from __future__ import annotations

from typing import Any, Literal

from eeflib.envs.jvm import JavaSimulator, import_stock
from eeflib.errors import EnvironmentFault

__all__ = ["Simulator"]

Split = Literal["train", "dev", "test"]


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

    def load(self, name: str, variation: int, simplifications: str) -> str:
        """Load a task, and return its first look (0 ticks; it also brings the score up to date)."""
        self.call("load", name, variation, simplifications, False)
        text = str(self.call("step", "look around"))
        if text.startswith("ERROR"):  # how the simulator reports a load that went wrong
            raise EnvironmentFault(
                f"ScienceWorld could not load {name}, variation {variation}, "
                f"simplifications {simplifications!r}: {text}"
            )
        return text

    def gold(self, name: str, variation: int, simplifications: str) -> list[str]:
        """The simulator's own solution, uncut; an episode under way is lost. 0.1-8 s."""
        self.call("load", name, variation, simplifications, True)
        actions = [str(a) for a in self.call("getGoldActionSequence")]
        # The simulator remembers the wish: without this every later reset would plan again.
        self.call("goldPathGenerationEnabled_$eq", False)
        return actions


def _load() -> type[Any]:
    from scienceworld import ScienceWorldEnv

    return ScienceWorldEnv
