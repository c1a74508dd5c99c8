"""Everything the report says, computed once from a run folder.

Import `Findings`. It chooses what is compared with what: the focus method, its baselines, and the
trajectories that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from eeflib.analysis import frames, style, tables
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.segments import Segment, segments, states_by_trajectory
from eeflib.errors import DataError
from eeflib.records import Evaluation, Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import (
    GainedLost,
    PairedDifference,
    gained_lost,
    last_iteration,
    paired_difference,
)

__all__ = ["Annotated", "Findings"]


@dataclass(frozen=True)
class Annotated:
    """A teacher trajectory with what exploration says about it."""

    seed: int
    level: str
    trajectory: Trajectory
    segments: list[Segment]
    states: list[StateOutcome]

    @property
    def labels(self) -> set[str]:
        return {s.label for s in self.segments}


@dataclass
class Findings:
    """Frames and comparisons of one run, each computed when first asked for."""

    run: Run
    """Or the folder of one."""

    def __post_init__(self) -> None:
        if not isinstance(self.run, Run):
            self.run = Run(self.run)

    @cached_property
    def outcomes(self) -> dict[str, list[Evaluation]]:
        """The last iteration of each method, by method, on test tasks (any, if there are none)."""
        out: dict[str, list[Evaluation]] = {}
        for o in last_iteration(self._test):
            out.setdefault(o.method, []).append(o)
        return {m: out[m] for m in style.order(out)}

    @cached_property
    def _test(self) -> list[Evaluation]:
        return [o for o in self.run.outcomes if o.split == "test"] or self.run.outcomes

    @cached_property
    def frames(self) -> frames.Frames:
        """Every frame of the run."""
        return frames.load(self.run)

    @property
    def evaluations(self) -> pd.DataFrame:
        return self.frames.evaluations

    @property
    def trajectories(self) -> pd.DataFrame:
        return self.frames.trajectories

    @property
    def branches(self) -> pd.DataFrame:
        return self.frames.branches

    @property
    def samples(self) -> pd.DataFrame:
        return self.frames.samples

    @property
    def failures(self) -> pd.DataFrame:
        """Why the teacher's failures failed, see `eeflib.analysis.taxonomy`."""
        return self.frames.failures

    @cached_property
    def changes(self) -> pd.DataFrame:
        """Test tasks gained and lost by every method, against the baseline."""
        return tables.newly_solved(self.evaluations, self.baseline)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each method spent, and what that brought."""
        return tables.budget(self.trajectories, self.branches, self.changes, self.reported)

    @cached_property
    def discoveries(self) -> pd.DataFrame:
        """Training tasks of the focus, and what first solved them."""
        own = self.branches[self.branches["method"] == self.focus]
        return tables.discoveries(own, self.trajectories)

    @cached_property
    def other_m(self) -> pd.DataFrame:
        """What another M would have cost and found."""
        first = tables.pick_iteration(self.branches)
        return tables.other_m(first, self.trajectories)

    @cached_property
    def states(self) -> pd.DataFrame:
        """Of the method and iteration that `tables.pick_iteration` names."""
        first = tables.pick_iteration(self.branches)
        return frames.states(first, self.trajectories, self.frames.steps)

    @cached_property
    def actions(self) -> pd.DataFrame:
        """Shares of kinds of action: the teacher's, trained on, and in tasks gained."""
        f = self.frames
        counts = tables.training_actions(f.steps, f.trajectories, f.samples)
        learned = tables.learned_actions(f.rollouts, f.rollout_steps, self.changes, self.focus)
        return tables.action_shares(pd.concat([counts, learned], ignore_index=True))

    @cached_property
    def reported(self) -> dict[str, Mapping[str, Any]]:
        """What `summary.json` says of each method."""
        rows = self.run.summary.get("methods")
        rows = rows if isinstance(rows, list) else []
        named = [r for r in rows if isinstance(r, dict) and isinstance(r.get("method"), str)]
        return {r["method"]: r for r in named}

    @cached_property
    def methods(self) -> list[str]:
        """Every method the run knows of, in reading order, the teacher first."""
        names = [*self.outcomes, *self.reported]
        if self.run.teacher_outcomes:
            names.append(TEACHER)
        return style.order(names)

    @cached_property
    def focus(self) -> str:
        """The method the report is about: EEF, else the last one that is not a baseline."""
        names = list(self.outcomes)
        exact = [m for m in names if style.family(m) == "eef"]
        return (exact or names[-1:] or [""])[0]

    @cached_property
    def baseline(self) -> str:
        """What the focus is first of all compared with: RFTxk, else RFT, else SFT."""
        for family in ("rftx", "rft", "sft"):
            for m in self.outcomes:
                if m != self.focus and style.family(m) == family:
                    return m
        return next((m for m in self.outcomes if m != self.focus), "")

    @property
    def paired(self) -> dict[str, PairedDifference]:
        """The focus against each other method."""
        return self._comparisons[0]

    @property
    def faults(self) -> list[str]:
        """Comparisons that could not be made, and why."""
        return self._comparisons[1]

    @cached_property
    def _comparisons(self) -> tuple[dict[str, PairedDifference], list[str]]:
        out, faults = {}, []
        for method in self.outcomes:
            if method == self.focus:
                continue
            try:
                out[method] = paired_difference(*self.matched(method))
            except DataError as exc:
                faults.append(f"{self.focus} against {method}: {exc}")
        return out, faults

    @cached_property
    def gained(self) -> dict[str, GainedLost]:
        """What the focus gained and lost against cloning and against the baseline."""
        sft = next((m for m in self.outcomes if style.family(m) == "sft"), "")
        out = {}
        for method in dict.fromkeys(m for m in (sft, self.baseline) if m and m != self.focus):
            if method in self.paired:  # else the tasks differ, and `faults` says so
                own, other = self.matched(method)
                out[method] = gained_lost(other, own)
        return out

    def matched(self, method: str) -> tuple[list[Evaluation], list[Evaluation]]:
        """Outcomes of the focus and of `method` after the same number of iterations, per seed.

        An ablation may run fewer iterations, a killed run may have finished fewer: then the focus
        is taken at that iteration. Methods that do not iterate (last iteration 0) are compared as
        they are.
        """
        last: dict[tuple[str, int], int] = {}
        for group in (self.outcomes[self.focus], self.outcomes[method]):
            last.update({(o.method, o.seed): o.iteration for o in group})

        def pick(own: str, other: str) -> list[Evaluation]:
            out = []
            for o in self._test:
                if o.method == own:
                    limit = last.get((other, o.seed), 0)
                    final = last[own, o.seed]
                    out += [o] if o.iteration == (min(limit, final) if limit else final) else []
            return out

        return pick(self.focus, method), pick(method, self.focus)

    def iteration(self, method: str) -> int:
        """The highest iteration of `method` that is evaluated."""
        return max((o.iteration for o in self.outcomes.get(method, [])), default=0)

    @cached_property
    def annotated(self) -> list[Annotated]:
        """Failed teacher trajectories that show most, best first.

        Both beneficial and harmful segments come before harmful only, before beneficial only,
        before none; then more labelled segments, then the shorter trajectory.
        """
        known = {(s, t.id): t for s, group in self.run.trajectories.items() for t in group}
        failed = self.states[~self.states["teacher_solved"]]
        levels = failed.set_index(["seed", "trajectory_id"])["level"].to_dict()
        found = [
            Annotated(key[0], str(levels[key]), t, segments(t, states), states)
            for key, states in states_by_trajectory(failed).items()
            if (t := known.get(key)) is not None and t.length
        ]
        if not found:  # nothing explored: the plain transcripts of failures are still worth a look
            found = [
                Annotated(s, "", t, [], [])
                for (s, _), t in known.items()
                if not t.solved and t.length
            ]
        return sorted(found, key=_interest)


def _interest(item: Annotated) -> tuple[int, int, int, int, str]:
    harmful, beneficial = "harmful" in item.labels, "beneficial" in item.labels
    rank = 0 if harmful and beneficial else 1 if harmful else 2 if beneficial else 3
    known = sum(s.label != "unknown" for s in item.segments)
    return (rank, -min(known, 3), item.trajectory.length, item.seed, item.trajectory.id)
