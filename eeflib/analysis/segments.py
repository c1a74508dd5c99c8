"""A teacher trajectory cut into labelled segments, each with its evidence in words.

Import `segments`. The labels are those of `eeflib.states`, which also decide what is trained:
won from s_k and lost from s_{k+1} makes the actions between `harmful`, lost and then won makes them
`beneficial`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from eeflib.records import Label, Trajectory
from eeflib.states import StateOutcome, action_labels


@dataclass(frozen=True)
class Segment:
    """Actions start..stop-1 of a trajectory, which share one label."""

    start: int
    stop: int
    label: Label
    evidence: str = ""

    @property
    def length(self) -> int:
        return self.stop - self.start


def states_by_trajectory(states: pd.DataFrame) -> dict[tuple[int, str], list[StateOutcome]]:
    """(seed, trajectory id) -> its states in order of t, from `frames.states`.

    States that no branch ever reached (`untried`) have no place in the trajectory: left out.

    Args:
        states: rows of one method and iteration.
    """
    out: dict[tuple[int, str], list[StateOutcome]] = {}
    rows = states[states["t"] >= 0].sort_values(["t", "k"])
    columns = ["seed", "trajectory_id", "k", "t", "n", "wins"]
    for seed, name, k, t, n, wins in rows[columns].itertuples(index=False):
        out.setdefault((seed, name), []).append(StateOutcome(k, t, n, wins))
    return out


def state_text(state: StateOutcome) -> str:
    """`won 1/1 from s2`."""
    if not state.tried:
        return f"{state.name} could not be tried"
    return f"{'won' if state.won else 'lost'} {state.wins}/{state.n} from {state.name}"


def segments(trajectory: Trajectory, outcomes: Sequence[StateOutcome]) -> list[Segment]:
    """Segments covering all actions in order, cut where a tried state or another label begins.

    Args:
        outcomes: the trajectory's states, see `states_by_trajectory`.
    """
    tried = [o for o in outcomes if o.tried and o.t < trajectory.length]
    labels = action_labels(trajectory, outcomes)
    changes = (t for t in range(1, len(labels)) if labels[t] != labels[t - 1])
    cuts = sorted({0, *changes, *(o.t for o in tried), len(labels)})
    out = []
    for start, stop in itertools.pairwise(cuts):
        why = _evidence(trajectory, tried, labels[start], start, stop)
        out.append(Segment(start, stop, labels[start], why))
    return out


def _evidence(
    trajectory: Trajectory, tried: Sequence[StateOutcome], label: Label, start: int, stop: int
) -> str:
    before = [o for o in tried if o.t <= start]
    # What makes a segment beneficial is the next won state, perhaps some states further on.
    after = [o for o in tried if o.t >= stop and (o.won or label != "beneficial")]
    end = "the teacher solved it in the end" if trajectory.solved else "the teacher failed"
    left = state_text(before[-1]) if before else "no state tried before"
    return f"{left}, then {state_text(after[0]) if after else end}"
