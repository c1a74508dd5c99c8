"""What is connected to what by wires in a ScienceWorld episode, as its answers tell.

Owns the connections made so far. Knows nothing about the simulator's process, or about episodes.
"""

from __future__ import annotations

import re

__all__ = ["Wiring"]

_CONNECTED = re.compile(r"(.+ on .+) is now connected to (.+ on .+)")
_DISCONNECTED = re.compile(r"(.+) has been disconnected")


class Wiring:
    """Connections, by the texts of the actions that made and cut them.

    No look around tells them, and they decide what the next action does. A terminal takes one
    connection at a time, so that the pairs are all there is to know.
    """

    def __init__(self) -> None:
        self._pairs: set[tuple[str, ...]] = set()

    @property
    def lines(self) -> list[str]:
        """One per connection, in a fixed order; none where nothing is connected."""
        return sorted(" - ".join(pair) for pair in self._pairs)

    def heard(self, answer: str) -> None:
        """Take notice of the simulator's answer to an action."""
        if made := _CONNECTED.fullmatch(answer):
            self._pairs.add(tuple(sorted(made.groups())))
        elif self._pairs and (cut := _DISCONNECTED.fullmatch(answer)):
            self._cut(cut[1])

    def _cut(self, thing: str) -> None:
        gone = {p for p in self._pairs if any(end.endswith(f" on {thing}") for end in p)}
        # A terminal alone ("anode") does not say of what: the cut itself is remembered.
        self._pairs = self._pairs - gone if gone else self._pairs | {("disconnected", thing)}
