"""Everything the report says, computed once from a run folder.

Import `Findings`. It chooses what is compared with what: the focus method, its baselines, and the
trajectories that are shown. `Findings.tags` says of single episodes what is counted of them, so
that every count can lead to its episodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from eeflib.analysis import frames, labels, style, tables
from eeflib.analysis.annotations import Key
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.segments import Segment, segments, states_by_trajectory
from eeflib.errors import DataError
from eeflib.records import Evaluation, Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import PairedDifference, last_iteration, paired_difference

__all__ = ["LAST", "Annotated", "Findings", "change_tag"]

LAST = "reported"
"""Tag of the students' episodes that the reported win rates count: those of the last iteration."""

_CHANGED = {
    "gained": "gained against",
    "lost": "lost against",
    "both": "solved, as by",
    "never": "not solved, as by",
}


def change_tag(change: str, other: str) -> str:
    """The tag of test episodes that stand so against another method's; see `tables.CHANGES`."""
    return f"{_CHANGED[change]} {other}"


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
    def main(self) -> PairedDifference | None:
        """The focus against the baseline, else against the first method it can be compared with."""
        return self.paired.get(self.baseline) or next(iter(self.paired.values()), None)

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that methods are evaluated on."""
        return sorted({o.seed for group in self.outcomes.values() for o in group})

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
                out[method] = paired_difference(*self.matched(self.focus, method))
            except DataError as exc:
                faults.append(f"{self.focus} against {method}: {exc}")
        return out, faults

    @cached_property
    def gained(self) -> dict[str, pd.DataFrame]:
        """What the focus gained and lost against cloning and against the baseline.

        Other method -> the focus's rows of `tables.newly_solved`.
        """
        sft = next((m for m in self.outcomes if style.family(m) == "sft"), "")
        out = {}
        for method in dict.fromkeys((sft, self.baseline)):
            if method in self.paired:  # else the tasks differ, and `faults` says so
                rows = tables.newly_solved(self.evaluations, method)
                out[method] = rows[rows["method"] == self.focus]
        return out

    def matched(self, a: str, b: str) -> tuple[list[Evaluation], list[Evaluation]]:
        """Outcomes of the methods `a` and `b` after the same number of iterations, per seed.

        An ablation may run fewer iterations, a killed run may have finished fewer: then the other
        is taken at that iteration. Methods that do not iterate (last iteration 0) are compared as
        they are.
        """
        last: dict[tuple[str, int], int] = {}
        for group in (self.outcomes[a], self.outcomes[b]):
            last.update({(o.method, o.seed): o.iteration for o in group})

        def pick(own: str, other: str) -> list[Evaluation]:
            out = []
            for o in self._test:
                if o.method == own:
                    limit = last.get((other, o.seed), 0)
                    final = last[own, o.seed]
                    out += [o] if o.iteration == (min(limit, final) if limit else final) else []
            return out

        return pick(a, b), pick(b, a)

    def iteration(self, method: str) -> int:
        """The highest iteration of `method` that is evaluated."""
        return max((o.iteration for o in self.outcomes.get(method, [])), default=0)

    @cached_property
    def tags(self) -> dict[Key, list[str]]:
        """What is counted of an episode in words: `gained against RFTx6`, `won from s3`, ..."""
        out: dict[Key, list[str]] = {}

        def mark(keys: Iterable[Key], tag: str) -> None:
            for key in keys:
                out.setdefault(key, []).append(tag)

        tested: dict[tuple[Any, ...], list[Key]] = {}
        episodes = _rows(self.frames.rollouts, "seed", "method", "iteration", "task_id")
        for place, name in zip(episodes, self.frames.rollouts["trajectory_id"], strict=True):
            tested.setdefault(place, []).append(Key(place[0], place[1], place[2], name))
        for o in (o for group in self.outcomes.values() for o in group):
            mark(tested.get((o.seed, o.method, o.iteration, o.task_id), ()), LAST)
        last: dict[tuple[str, str], dict[int, int]] = {}
        for rows in [self.changes, *(v for m, v in self.gained.items() if m != self.baseline)]:
            names = ("seed", "task_id", "method", "baseline", "change")
            for seed, task, method, base, change in _rows(rows, *names):
                if (method, base) not in last:
                    own = self.matched(method, base)[0]
                    last[method, base] = {o.seed: o.iteration for o in own}
                place = (seed, method, last[method, base].get(seed), task)
                mark(tested.get(place, ()), change_tag(change, base))

        taught: dict[tuple[int, str], list[Key]] = {}
        for seed, task, name in _rows(self.trajectories, "seed", "task_id", "trajectory_id"):
            taught.setdefault((seed, task), []).append(Key(seed, TEACHER, 0, name))
        won = self.states[~self.states["teacher_solved"] & (self.states["wins"] > 0)]
        for seed, name, k in _rows(won[won["k"] >= 0], "seed", "trajectory_id", "k"):
            mark([Key(seed, TEACHER, 0, name)], f"won from s{k}")
        for seed, name in _rows(self.no_return, "seed", "trajectory_id"):
            mark([Key(seed, TEACHER, 0, name)], "point of no return")
        for seed, task, where in _rows(self.first_won, "seed", "task_id", "where"):
            mark(taught[seed, task], f"first won from {where}")
        every = tables.discoveries(self.branches, self.trajectories)
        for seed, task, method, found in _rows(every, "seed", "task_id", "method", "found"):
            if found in ("s0", "state"):
                mark(taught.get((seed, task), ()), f"found by {method}")
            if method == self.focus:
                mark(taught.get((seed, task), ()), f"{method}: {found}")
        return out

    @cached_property
    def first_won(self) -> pd.DataFrame:
        """Tasks that the teacher failed: first won from `s0`, from a `later state`, from `none`.

        Columns: seed, task_id, where; the counts by level are `tables.reachable`'s.
        """
        failed = self.states[~self.states["teacher_solved"]]
        won = failed["wins"] > 0
        marked = failed.assign(s0=won & (failed["k"] == 0), deep=won & (failed["t"] > 0))
        tasks = marked.groupby(["seed", "task_id"], as_index=False)[["s0", "deep"]].any()
        where = tasks["deep"].map({True: "a later state", False: "none"}).mask(tasks["s0"], "s0")
        return tasks[["seed", "task_id"]].assign(where=where)

    @cached_property
    def no_return(self) -> pd.DataFrame:
        """Points of no return: where the student could last win a trajectory the teacher failed.

        Columns: seed, trajectory_id, task_id, level, length, k, t (the last state won), until (the
        teacher's actions by which it was lost: those of the next state tried, else all), action
        (the teacher's first after it).
        """
        tried = self.states[~self.states["teacher_solved"] & (self.states["n"] > 0)]
        keys = ["seed", "trajectory_id"]
        last = tried[tried["wins"] > 0].sort_values("t").drop_duplicates(keys, keep="last")
        later = tried.merge(last[[*keys, "t"]], on=keys, suffixes=("", "_last"))
        after = later[later["t"] > later["t_last"]].groupby(keys)["t"].min().rename("until")
        rows = last.merge(after.reset_index(), on=keys, how="left")
        rows["until"] = rows["until"].fillna(rows["length"]).astype("int64")
        steps = self.frames.steps[[*keys, "t", "action"]]
        rows = rows.merge(steps, on=[*keys, "t"], how="left").fillna({"action": ""})
        names = [*keys, "task_id", "level", "length", "k", "t", "until", "action"]
        return rows[names].sort_values(["t", *keys], ascending=[False, True, True])

    @cached_property
    def never(self) -> pd.DataFrame:
        """Tasks the teacher failed that no rollout of the explored iteration solved.

        Columns: seed, task_id, level, best (the best reward of any rollout of any method).
        """
        lost = self.first_won[self.first_won["where"] == "none"]
        level = self.states[["seed", "task_id", "level"]].drop_duplicates(["seed", "task_id"])
        best = self.branches.groupby(["seed", "task_id"])["reward"].max().rename("best")
        rows = lost.merge(level, on=["seed", "task_id"]).merge(
            best.reset_index(), on=["seed", "task_id"], how="left"
        )
        return rows[["seed", "task_id", "level", "best"]].fillna({"best": 0.0})

    @cached_property
    def counted(self) -> pd.DataFrame:
        """What was run, restored, skipped and trained on, over all seeds and iterations.

        Columns: method, starts (rollouts from s0), restored, skipped (expert states), faults, won
        (rollouts), samples, empty (samples that train nothing), teacher, student (actions that
        carry loss).
        """
        b, s = self.branches, self.samples
        deep, restored = b["k"] > 0, b["restored"].astype(bool)
        counts = {
            "starts": (b, restored & ~deep),
            "restored": (b, restored & deep),
            "skipped": (b, ~restored & deep),
            "faults": (b, b["fault"] != ""),
            "won": (b, b["won"]),
            "samples": (s, s["trained"] >= 0),
            "empty": (s, s["trained"] == 0),
            "teacher": (s, s["trained_teacher"]),
            "student": (s, s["trained"] - s["trained_teacher"]),
        }
        sums = {
            name: values.astype("int64").groupby(rows["method"]).sum()
            for name, (rows, values) in counts.items()
        }
        table = pd.DataFrame(sums).fillna(0).astype("int64")
        table = table.reindex(style.order(table.index))
        return table.rename_axis("method").reset_index()

    @cached_property
    def noted(self) -> pd.DataFrame:
        """Numbers that only the pipeline knows, such as samples dropped.

        Columns: method, count (what was counted), value (the sum over seeds and iterations).
        """
        totals: dict[tuple[str, str], float] = {}
        for place, noted in self.run.phases("select"):
            for key, value in noted.items():
                if isinstance(value, int):
                    totals[place.method, key] = totals.get((place.method, key), 0) + value
        known = {"method", "win_rate", "reward", "simulations", "seconds", "n", "sd_over_seeds"}
        for method, row in self.reported.items():
            for key, value in row.items():
                if key not in known and not math.isnan(tables.number(value)):
                    totals[method, key] = value
        rows = [(*names, value) for names, value in totals.items()]
        return pd.DataFrame(rows, columns=["method", "count", "value"])

    @cached_property
    def agreement(self) -> dict[str, labels.Agreement]:
        """Language model that was asked -> how far it and the rules name the same failures."""
        answered = labels.recorded(self.run.path / "failure_labels.jsonl")
        own = answered.drop_duplicates(["model", *labels.EPISODE], keep="last")
        return {str(m): labels.agreement(self.failures, x) for m, x in own.groupby("model")}

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


def _rows(frame: pd.DataFrame, *columns: str) -> Iterable[tuple[Any, ...]]:
    return frame[list(columns)].itertuples(index=False, name=None)


def _interest(item: Annotated) -> tuple[int, int, int, int, str]:
    harmful, beneficial = "harmful" in item.labels, "beneficial" in item.labels
    rank = 0 if harmful and beneficial else 1 if harmful else 2 if beneficial else 3
    known = sum(s.label != "unknown" for s in item.segments)
    return (rank, -min(known, 3), item.trajectory.length, item.seed, item.trajectory.id)
