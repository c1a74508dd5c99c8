"""Everything the report says, computed once from a run folder.

Import `Findings`. It chooses what is compared with what: the focus method, its baselines, and the
trajectories that are shown. `Findings.tags` says of single episodes what is counted of them, so
that every count can lead to its episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from eeflib.analysis import frames, labels, style, tables
from eeflib.analysis.annotations import Key
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.run import TEACHER
from eeflib.errors import DataError
from eeflib.records import Branch, Evaluation
from eeflib.states import StateOutcome
from eeflib.stats import PairedDifference, last_iteration, paired_difference

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


class Rescue(NamedTuple):
    """A failure of the teacher, and the student who won from a state of it."""

    item: Item
    state: StateOutcome
    branch: Branch


class Findings(frames.Frames):
    """The frames of one run, and what is compared in them, each computed when first asked for."""

    @cached_property
    def collection(self) -> Collection:
        """Every episode that can be read one by one."""
        return Collection.of(self.run, who="all")

    @cached_property
    def outcomes(self) -> dict[str, list[Evaluation]]:
        """The last iteration of each method, by method, on test tasks (any, if there are none)."""
        out: dict[str, list[Evaluation]] = {}
        every = self.run.outcomes
        for o in last_iteration([o for o in every if o.split == "test"] or every):
            out.setdefault(o.method, []).append(o)
        return {m: out[m] for m in style.order(out)}

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
        return tables.other_m(tables.pick_iteration(self.branches), self.trajectories)

    @cached_property
    def states(self) -> pd.DataFrame:
        """Of the method and iteration that `tables.pick_iteration` names, and of no other."""
        first = tables.pick_iteration(self.branches)
        return frames.states(first, self.trajectories, self.steps)

    @cached_property
    def actions(self) -> pd.DataFrame:
        """Shares of kinds of action: the teacher's, trained on, and in tasks gained."""
        counts = tables.training_actions(self.steps, self.trajectories, self.samples)
        learned = tables.learned_actions(
            self.rollouts, self.rollout_steps, self.changes, self.focus
        )
        return tables.action_shares(pd.concat([counts, learned], ignore_index=True))

    @cached_property
    def reported(self) -> dict[str, Mapping[str, Any]]:
        """What `summary.json` says of each method: simulations and seconds stand nowhere else."""
        rows = self.run.summary.get("methods")
        rows = rows if isinstance(rows, list) else []
        named = [r for r in rows if isinstance(r, dict) and isinstance(r.get("method"), str)]
        return {r["method"]: r for r in named}

    @cached_property
    def teachers(self) -> pd.DataFrame:
        """`tables.teachers` of the recorded trajectories."""
        return tables.teachers(self.trajectories)

    @cached_property
    def by_model(self) -> pd.DataFrame:
        """`tables.by_model` of the recorded trajectories; empty where one model made them all."""
        rows = tables.by_model(self.trajectories)
        return rows if len(self.teachers) > 1 else rows.head(0)

    @cached_property
    def methods(self) -> list[str]:
        """Every method with results, in reading order, the teacher first."""
        return style.order([*self.outcomes, *([TEACHER] if self.run.teacher_outcomes else [])])

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
            try:
                if method != self.focus:
                    out[method] = paired_difference(*self.matched(self.focus, method))
            except DataError as exc:
                faults.append(f"{self.focus} against {method}: {exc}")
        return out, faults

    @cached_property
    def gained(self) -> dict[str, pd.DataFrame]:
        """What the focus gained and lost against each method it is compared with.

        Other method -> the focus's rows of `tables.newly_solved`.
        """
        rows = {m: tables.newly_solved(self.evaluations, m) for m in self.paired}
        return {m: part[part["method"] == self.focus] for m, part in rows.items()}

    def matched(self, a: str, b: str) -> tuple[list[Evaluation], list[Evaluation]]:
        """Outcomes of the methods `a` and `b` after the same iterations: see `tables.last`."""
        frame = tables.only_test(self.evaluations)
        own, other = (frame[frame["method"] == method] for method in (a, b))
        pairs = (tables.last(own, other), tables.last(other, own))
        mine, theirs = ([self.run.outcomes[i] for i in rows.index] for rows in pairs)
        return mine, theirs

    def iteration(self, method: str) -> int:
        """The highest iteration of `method` that is evaluated."""
        return max((o.iteration for o in self.outcomes.get(method, [])), default=0)

    @cached_property
    def tags(self) -> dict[Key, list[str]]:
        """What is counted of an episode in words: `gained against RFTx6`, `won from s3`, ..."""
        out: dict[Key, list[str]] = defaultdict(list)
        tested: dict[tuple[Any, ...], list[Key]] = defaultdict(list)
        taught: dict[tuple[Any, ...], list[Key]] = defaultdict(list)

        def mark(keys: Iterable[Key], tag: str) -> None:
            for key in keys:
                out[key].append(tag)

        names = ("seed", "method", "iteration", "task_id", "trajectory_id")
        for seed, method, i, task, name in _rows(self.rollouts, *names):
            tested[seed, method, i, task].append(Key(seed, method, i, name))
        for seed, task, name in _rows(self.trajectories, "seed", "task_id", "trajectory_id"):
            taught[seed, task].append(Key(seed, TEACHER, 0, name))
        self._tag_models(mark)
        for seed, name, k in _rows(self.states[self.states["n"] > 0], "seed", "trajectory_id", "k"):
            mark([Key(seed, TEACHER, 0, name)], f"tried from s{k}")
        for o in (o for group in self.outcomes.values() for o in group):
            mark(tested[o.seed, o.method, o.iteration, o.task_id], LAST)
        changes = pd.concat([self.changes, *self.gained.values()]).drop_duplicates()
        for pair, rows in changes.groupby(["method", "baseline"], sort=False):
            method, base = map(str, pair)
            at = {o.seed: o.iteration for o in self.matched(method, base)[0]}
            for seed, task, change in _rows(rows, "seed", "task_id", "change"):
                mark(tested[seed, method, at.get(seed), task], change_tag(change, base))
        won = self.states[~self.states["teacher_solved"] & (self.states["wins"] > 0)]
        for seed, name, k in _rows(won[won["k"] >= 0], "seed", "trajectory_id", "k"):
            mark([Key(seed, TEACHER, 0, name)], f"won from s{k}")
        for seed, name in _rows(self.no_return, "seed", "trajectory_id"):
            mark([Key(seed, TEACHER, 0, name)], "point of no return")
        for seed, task, where in _rows(self.first_won, "seed", "task_id", "where"):
            mark(taught[seed, task], "failed and explored")
            mark(taught[seed, task], f"first won from {where}")
        every = tables.discoveries(self.branches, self.trajectories)
        for seed, task, method, found in _rows(every, "seed", "task_id", "method", "found"):
            mark(taught[seed, task], f"explored by {method}")
            if found in ("s0", "state"):
                mark(taught[seed, task], f"found by {method}")
            if method == self.focus:
                mark(taught[seed, task], f"{method}: {found}")
        return dict(out)

    def _tag_models(self, mark: Callable[[Iterable[Key], str], None]) -> None:
        """Who solved what, of several models; a teacher's task type, where these are compared."""
        rows, shared = self.trajectories, tables.shared_tasks(self.trajectories)
        solvers = {(s, t): who for s, t, who in _rows(self.by_model, "seed", "task_id", "solvers")}
        several, known = len(self.teachers) > 1, set[tuple[int, str]]()
        for policy, of in rows.groupby("policy", sort=False):
            before = set(known)
            judged = set(tables.fair(of).index)
            names = ("seed", "trajectory_id", "task_id", "task_type", "solved")
            for at, (seed, name, task, kind, solved) in zip(
                of.index, _rows(of, *names), strict=True
            ):
                key, task = Key(seed, TEACHER, 0, name), shared.get((seed, task), task)
                if kind:
                    mark([key], f"task type {kind}")
                if several and (seed, task) in solvers and at in judged:
                    mark([key], f"task solved by {solvers[seed, task]}")
                if several and solved and at in judged:
                    again = (seed, task) in before
                    mark([key], f"{'solved before' if again else 'newly solved by'} {policy}")
                    known.add((seed, task))

    @cached_property
    def first_won(self) -> pd.DataFrame:
        """From where each task that the teacher failed was first won; see `tables.first_won`."""
        return tables.first_won(self.states)

    @cached_property
    def never(self) -> pd.DataFrame:
        """Tasks the teacher failed that no rollout of the explored iteration solved.

        Columns: seed, task_id, level, best (the best reward of any rollout of any method).
        """
        lost = self.first_won[self.first_won["where"] == "none"].drop(columns="where")
        best = self.branches.groupby(["seed", "task_id"])["reward"].max().rename("best")
        return lost.merge(best.reset_index(), how="left").fillna({"best": 0.0})

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
        steps = self.steps[[*keys, "t", "action"]]
        rows = rows.merge(steps, on=[*keys, "t"], how="left").fillna({"action": ""})
        names = [*keys, "task_id", "level", "length", "k", "t", "until", "action"]
        return rows[names].sort_values(["t", *keys], ascending=[False, True, True])

    @cached_property
    def counted(self) -> pd.DataFrame:
        """What was run, restored, skipped and trained on, over all seeds and iterations.

        Columns: method, starts (rollouts from s0), restored, skipped (expert states), faults, won
        (rollouts), samples, empty (samples that train nothing), teacher, student (actions that
        carry loss).
        """
        b, s = self.branches, self.samples
        deep, restored = b["k"] > 0, b["restored"].astype(bool)
        explored = {"starts": restored & ~deep, "restored": restored & deep}
        explored |= {"skipped": ~restored & deep, "faults": b["fault"] != "", "won": b["won"]}
        taught = {"samples": s["trained"] >= 0, "empty": s["trained"] == 0}
        taught |= {"teacher": s["trained_teacher"], "student": s["trained"] - s["trained_teacher"]}
        sums = [
            pd.DataFrame(counts).astype("int64").groupby(rows["method"]).sum()
            for rows, counts in ((b, explored), (s, taught))
        ]
        table = pd.concat(sums, axis=1).fillna(0).astype("int64")
        return table.loc[style.order(table.index)].rename_axis("method").reset_index()

    @cached_property
    def noted(self) -> pd.DataFrame:
        """Numbers that only the pipeline knows, such as samples dropped.

        Columns: method, count (what was counted), value (the sum over seeds and iterations).
        """
        rows = [
            [place.method, count, value]
            for place, noted in self.run.phases("select")
            for count, value in noted.items()
            if isinstance(value, int)
        ]
        names = ["method", "count", "value"]
        return (
            pd.DataFrame(rows, columns=names).groupby(names[:2], sort=False, as_index=False).sum()
        )

    @cached_property
    def agreement(self) -> dict[str, labels.Agreement]:
        """Language model that was asked -> how far it and the rules name the same failures."""
        answered = labels.recorded(self.run.path / "failure_labels.jsonl")
        own = answered.drop_duplicates(["model", *labels.EPISODE], keep="last")
        return {str(m): labels.agreement(self.failures, x) for m, x in own.groupby("model")}

    @cached_property
    def annotated(self) -> list[Item]:
        """Failed teacher trajectories that show most, best first.

        Both beneficial and harmful segments come before harmful only, before beneficial only,
        before none; then more labelled segments, then the shorter trajectory. Where nothing was
        explored, the plain transcripts of failures are still worth a look.
        """
        taught = [x for x in self.collection if x.key.method == TEACHER]
        failed = [x for x in taught if x.outcome in ("failed", "fault") and x.trajectory.length]
        return sorted([x for x in failed if x.states] or failed, key=_interest)

    @cached_property
    def rescues(self) -> list[Rescue]:
        """Failures that the student won from the middle, and from no later state; clearest first.

        The state is the last one won. Those come first that were lost from s0, then those where
        the teacher had acted twice at least, then the shorter ones.
        """
        out = []
        for item in self.annotated:
            tried = [s for s in item.states if s.tried]
            last = max((i for i, s in enumerate(tried) if s.won), default=-1)
            if last < 0 or tried[last].k < 1 or last + 1 == len(tried):
                continue
            rollouts = self.collection.branches.at(item, tried[last].k)
            won = [b for b in rollouts if b.won and b.rollout and b.rollout.steps]
            out += [Rescue(item, tried[last], b) for b in won[:1]]
        return sorted(out, key=_clearness)


def _rows(frame: pd.DataFrame, *columns: str) -> Iterable[tuple[Any, ...]]:
    return frame[list(columns)].itertuples(index=False, name=None)


def _interest(item: Item) -> tuple[int, int, int, Key]:
    labelled = [s.label for s in item.segments if s.label != "unknown"]
    harmful, beneficial = "harmful" in labelled, "beneficial" in labelled
    rank = 0 if harmful and beneficial else 1 if harmful else 2 if beneficial else 3
    return rank, -min(len(labelled), 3), item.trajectory.length, item.key


def _clearness(rescue: Rescue) -> tuple[bool, bool, int, Key]:
    item, state, branch = rescue
    from_s0 = any(s.won for s in item.states if s.t == 0)
    length = item.trajectory.length + (branch.rollout.length if branch.rollout else 0)
    return from_s0, state.t < 2, length, item.key
