"""How restoring went: counts that an environment keeps and a pool adds up.

Owns the counts and their sum. Knows nothing about how a state is restored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["RestoreReport"]


@dataclass(frozen=True)
class RestoreReport:
    """Counts of calls of `restore`; reports add up, and subtract to what came in between."""

    restored: int = 0
    """States that were reached and verified."""
    retried: int = 0
    """Of all calls, those whose first attempt did not match: the replay was repeated, in a fresh
    simulator where there is such a thing."""
    skipped: int = 0
    """Calls that gave no verified state."""
    continued: int = 0
    """Of `restored`, those that went on from an earlier state of the same recording, where the
    simulator still stood, instead of starting anew."""
    replayed_steps: int = 0
    """Recorded actions that the simulator was given, attempts that failed included."""

    @property
    def tried(self) -> int:
        return self.restored + self.skipped

    def __add__(self, other: RestoreReport) -> RestoreReport:
        return self._combined(other, 1)

    def __sub__(self, other: RestoreReport) -> RestoreReport:
        return self._combined(other, -1)

    def _combined(self, other: RestoreReport, sign: int) -> RestoreReport:
        names = [f.name for f in fields(self)]
        return RestoreReport(*(getattr(self, n) + sign * getattr(other, n) for n in names))

    def to_dict(self) -> dict[str, int]:
        return {"tried": self.tried, **asdict(self)}
