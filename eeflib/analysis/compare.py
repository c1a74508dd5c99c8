"""Two runs, or two policies of one run: what was gained, what was lost, what changed in behaviour.

Import `compare_runs`. Tasks are paired by content; where two sides share no task, means are
compared and a note says so.

    c = compare_runs("runs/rft", "runs/eef")
    print(c); figures.action_mix(c)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eeflib.analysis import taxonomy
from eeflib.analysis.findings import Findings
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.tables import changes
from eeflib.analysis.taxonomy import KINDS, WEBSHOP_KINDS, action_kind
from eeflib.errors import DataError
from eeflib.records import Evaluation
from eeflib.stats import last_iteration, paired, permutation

__all__ = [
    "Comparison",
    "Difference",
    "adjusted",
    "compare_runs",
    "paired_test",
    "unpaired_test",
]

_RESAMPLES = 2000


class Difference(NamedTuple):
    """The second side minus the first."""

    first: float
    """Mean of the first side."""
    second: float
    difference: float
    low: float
    """95 % interval of the difference; nan if there is nothing to compute it from."""
    high: float
    p: float
    """Two-sided; nan likewise."""
    n: int
    """Pairs, or episodes of both sides."""
    test: str


def paired_test(
    first: pd.Series[float], second: pd.Series[float], seeds: pd.Series[int], *, seed: int = 0
) -> Difference:
    """Two measures of the same tasks, row by row; `seeds` says which seed a row is of.

    Args:
        seed: of the resampling.
    """
    a, b = (np.asarray(x, dtype=float) for x in (first, second))
    if not len(a):
        return _nothing("paired")
    groups = [list(group) for _, group in pd.Series(b - a).groupby(np.asarray(seeds))]
    yes_no = set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}
    found = paired(groups, yes_no=yes_no, seed=seed)
    means = (float(a.mean()), float(b.mean()))
    return Difference(*means, found.mean, found.low, found.high, found.p, len(a), found.test)


def unpaired_test(
    first: pd.Series[float], second: pd.Series[float], *, seed: int = 0
) -> Difference:
    """Two measures of different tasks; `seed` of the resampling."""
    a, b = (np.asarray(x, dtype=float) for x in (first, second))
    if not len(a) or not len(b):
        return _nothing("not paired")
    rng = np.random.default_rng(seed)
    draws = [[x[rng.integers(0, len(x), len(x))].mean() for x in (a, b)] for _ in range(_RESAMPLES)]
    low, high = np.quantile([y - x for x, y in draws], [0.025, 0.975])
    means = (float(a.mean()), float(b.mean()))
    p = permutation((a, b), "independent", seed)
    total = len(a) + len(b)
    gap = means[1] - means[0]
    return Difference(*means, gap, float(low), float(high), p, total, "permutation")


def _nothing(test: str) -> Difference:
    nan = float("nan")
    return Difference(nan, nan, nan, nan, nan, nan, 0, test)


def adjusted(p: pd.Series[float]) -> pd.Series[float]:
    """p values of several measures at once, by Benjamini and Hochberg; nan stays."""
    from scipy import stats

    known = p.dropna()
    out = p.astype("float64").copy()
    if len(known):
        out.loc[known.index] = stats.false_discovery_control(known.to_numpy())
    return out


EPISODES = (
    "seed", "task_hash", "task_id", "level", "instruction", "trajectory_id", "solved", "reward",
    "length", "invalid", "kind",
)  # fmt: skip
"""Columns of `Side.episodes`: one row per task; `kind` is the main kind of failure, empty if it was
solved or the episode itself is not on record (then `trajectory_id` is empty too)."""


@dataclass
class Side:
    """What one policy of one run did."""

    name: str
    method: str
    episodes: pd.DataFrame
    """See `EPISODES`."""
    actions: pd.DataFrame
    """Share of each kind of action in each episode: index (seed, task_hash), a column a kind."""
    failures: pd.DataFrame
    """Whether a kind of failure was found: the same index, a column a kind."""
    notes: list[str] = field(default_factory=list)

    @property
    def recorded(self) -> bool:
        """Whether episodes are on record, not only their results."""
        return len(self.actions) > 0


def read_side(run: Run | str | Path, method: str | None = None) -> Side:
    """The teacher's trajectories, or a student's test episodes of its last iteration.

    Args:
        method: `teacher` or a method's name; None: the run's focus, else the teacher.

    Raises:
        DataError: no such folder, or nothing of this method in it (names what there is).
    """
    run = run if isinstance(run, Run) else Run(run)
    known = Findings(run)
    method = method or known.focus or TEACHER
    outcomes = _outcomes(run, known, method)
    keys = {(o.seed, o.task_id): o for o in reversed(outcomes)}  # of several attempts the first
    rows: dict[tuple[int, str], list[object]] = {}
    mixes, wrong, notes, double = {}, {}, [], 0
    for place, e in run.episodes("teacher" if method == TEACHER else "students"):
        o = keys.get((place.seed, e.task_id))
        if o is None or place.method != method or place.iteration != o.iteration:
            continue
        key = (o.seed, o.task_hash)
        if key in rows:  # several attempts at a task: the first counts
            double += 1
            continue
        diagnosis = taxonomy.diagnose(e, run.task(place.seed, e.task_id))
        kinds = Counter(action_kind(s.action, e.env, s.valid) for s in e.steps)
        mixes[key] = {k: n / len(e.steps) for k, n in kinds.items()}
        wrong[key] = dict.fromkeys(diagnosis.kinds if diagnosis else (), 1.0)
        rows[key] = _row(o, e.id, e.instruction, diagnosis.primary if diagnosis else "")
    if double:
        notes.append(f"{method}: {double} further attempts at the same tasks are left out.")
    if not mixes:
        file = "trajectories.jsonl" if method == TEACHER else "test_rollouts.jsonl"
        notes.append(
            f"{method}: only results are on record, no episodes ({file}), so its "
            "behaviour is unknown."
        )
    for o in outcomes:
        rows.setdefault((o.seed, o.task_hash), _row(o, "", "", ""))
    episodes = pd.DataFrame(list(rows.values()), columns=list(EPISODES))
    return Side(method, method, episodes, _wide(mixes), _wide(wrong), notes)


def _outcomes(run: Run, known: Findings, method: str) -> list[Evaluation]:
    if method == TEACHER:
        found = run.teacher_outcomes
    else:
        every = [o for o in run.outcomes if o.method == method]
        found = last_iteration([o for o in every if o.split == "test"] or every)
    if not found:
        raise DataError(
            f"{run.path} holds nothing of {method!r}; it has: "
            f"{', '.join(known.methods) or 'no trajectories and no evaluations'}"
        )
    return found


def _row(o: Evaluation, trajectory_id: str, instruction: str, kind: str) -> list[object]:
    about = [o.seed, o.task_hash, o.task_id, o.level, instruction, trajectory_id]
    return [*about, o.solved, o.reward, o.length, o.invalid, kind]


def _wide(rows: dict[tuple[int, str], dict[str, float]]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=["seed", "task_hash"])
    return pd.DataFrame(list(rows.values()), index=index if rows else None).fillna(0.0)


def pair(a: Side, b: Side) -> tuple[pd.DataFrame, bool]:
    """Rows of tasks both sides have, columns of either with `_a` and `_b`; False if there are none.

    Tasks are the same if their content hash is; within the same seed where seeds agree, else across
    seeds for hashes that each side has once.
    """
    left, right = a.episodes, b.episodes
    both = left.merge(right, on=["seed", "task_hash"], suffixes=("_a", "_b"))
    both = both.assign(seed_a=both["seed"], seed_b=both["seed"])
    if both.empty:
        left, right = (x[~x["task_hash"].duplicated(keep=False)] for x in (left, right))
        both = left.merge(right, on="task_hash", suffixes=("_a", "_b"))
        both = both.assign(seed=both["seed_a"] if len(both) else [])
    return both, len(both) > 0


_MEASURES = {
    "solved": "share of tasks solved",
    "reward": "reward",
    "length": "actions per episode",
    "invalid": "invalid actions per episode",
}
_COLUMNS = ["a", "b", "difference", "low", "high", "p", "n", "test"]


@dataclass(frozen=True)
class Comparison:
    """The second side against the first; differences are second minus first."""

    names: tuple[str, str]
    paired: bool
    tasks: pd.DataFrame
    """One row per task both have: seed, task_hash, task_id, level, instruction, a_solved, b_solved,
    a_reward, b_reward, a_length, b_length, a_kind, b_kind (main kind of failure), a_id, b_id
    (trajectories), change (`gained`, `lost`, `both`, `never`). Empty if not paired."""
    measures: pd.DataFrame
    """Rows: share solved, reward, actions, invalid actions. Columns: measure, meaning, a, b,
    difference, low, high, p, n, test."""
    actions: pd.DataFrame
    """Share of each kind of action in an episode; columns: kind, then as `measures`, and q (p
    adjusted for the number of kinds)."""
    errors: pd.DataFrame
    """Share of episodes in which a kind of failure was found; columns as `actions`."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and why."""

    def changed(self, change: str) -> pd.DataFrame:
        """The tasks `gained`, `lost`, solved by `both` or `never`."""
        return self.tasks[self.tasks["change"] == change]

    @property
    def sentences(self) -> list[str]:
        """The comparison in words, most important first."""
        a, b = self.names
        out = [_sentence(row, f"{b} against {a}") for row in self.measures.to_dict("records")]
        if self.paired:
            n = {c: len(self.changed(c)) for c in ("gained", "lost", "both", "never")}
            out.insert(
                1,
                f"{n['gained']} tasks gained, {n['lost']} lost, {n['both']} solved by both, "
                f"{n['never']} by neither.",
            )
        for table, what in ((self.actions, "actions of kind"), (self.errors, "failures of kind")):
            for row in table[table["q"] < 0.05].to_dict("records"):
                direction = "more" if row["difference"] > 0 else "fewer"
                out.append(
                    f"{direction} {what} \u201c{row['kind']}\u201d: {row['a']:.1%} to "
                    f"{row['b']:.1%} (q = {row['q']:.3f})."
                )
        return [*out, *self.notes]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def as_json(self) -> dict[str, Any]:
        """Names, notes, and each table as a list of rows; what is not a number there is null."""
        tables = {n: getattr(self, n) for n in ("measures", "actions", "errors", "tasks")}
        rows = {n: json.loads(t.to_json(orient="records")) for n, t in tables.items()}
        return {"names": self.names, "paired": self.paired, **rows, "notes": self.notes}


def compare_runs(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    method_a: str | None = None,
    method_b: str | None = None,
    names: tuple[str, str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Policy `method_b` of run `b` against `method_a` of run `a`; the runs may be the same one.

    Args:
        method_a, method_b: `teacher` or a method; None: the run's focus (EEF, if it is there), else
            the teacher.
        names: of the two sides; by default the methods, with the folders' names where those differ.
        seed: of the resampling.

    Raises:
        DataError: no such folder, or nothing of that method in it.
    """
    sides = [read_side(a, method_a), read_side(b, method_b)]
    if names is None:
        folders = [(x.path if isinstance(x, Run) else Path(x)).resolve().name for x in (a, b)]
        methods = [s.method for s in sides]
        names = (methods[0], methods[1])
        if folders[0] != folders[1]:
            names = (f"{folders[0]}: {methods[0]}", f"{folders[1]}: {methods[1]}")
    sides[0].name, sides[1].name = names
    return compare_sides(sides[0], sides[1], seed=seed)


def compare_sides(a: Side, b: Side, *, seed: int = 0) -> Comparison:
    """As `compare_runs`, for sides already read."""
    both, paired = pair(a, b)
    notes = [*a.notes, *b.notes]
    alone = [len(s.episodes) - len(both) for s in (a, b)]
    if not paired:
        notes.append(
            "The two have no task in common (by content): means over different tasks are "
            "compared, and nothing is gained or lost."
        )
    elif any(alone):
        notes.append(
            f"{len(both)} tasks are compared; {alone[0]} only {a.name} has and {alone[1]} only "
            f"{b.name} has are left out."
        )

    def test(x: pd.Series[Any], y: pd.Series[Any], rows: pd.DataFrame) -> Difference:
        if paired:
            return paired_test(x, y, rows["seed"], seed=seed)
        return unpaired_test(x, y, seed=seed)

    measures = []
    for name, meaning in _MEASURES.items():
        x, y = (
            (both[f"{name}_{side}"] if paired else own.episodes[name]).astype("float64")
            for side, own in (("a", a), ("b", b))
        )
        measures.append([name, meaning, *test(x, y, both)])
    recorded = both
    if paired:
        recorded = both[(both["trajectory_id_a"] != "") & (both["trajectory_id_b"] != "")]

    def kinds(x: pd.DataFrame, y: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
        rows = []
        if a.recorded and b.recorded:
            if paired:
                x, y = _aligned(x, recorded, "seed_a"), _aligned(y, recorded, "seed_b")
            for kind in _ordered({*x.columns, *y.columns}, order):
                first, second = (t[kind] if kind in t else pd.Series(0.0, t.index) for t in (x, y))
                rows.append([kind, *test(first, second, recorded)])
        table = pd.DataFrame(rows, columns=["kind", *_COLUMNS])
        return table.assign(q=adjusted(table["p"]))

    return Comparison(
        (a.name, b.name),
        paired,
        _tasks(both if paired else both.iloc[:0]),
        pd.DataFrame(measures, columns=["measure", "meaning", *_COLUMNS]),
        kinds(a.actions, b.actions, WEBSHOP_KINDS),
        kinds(a.failures, b.failures, tuple(KINDS)),
        tuple(notes),
    )


def _aligned(table: pd.DataFrame, both: pd.DataFrame, seed: str) -> pd.DataFrame:
    """The rows of `table` in the order of the pairs."""
    keys = list(zip(both[seed], both["task_hash"], strict=True))
    return table.loc[keys].reset_index(drop=True)


def _ordered(kinds: Iterable[str], order: Sequence[str]) -> list[str]:
    names = set(kinds)
    return [k for k in order if k in names] + sorted(names.difference(order))


def _tasks(both: pd.DataFrame) -> pd.DataFrame:
    names = ["seed", "task_hash", "task_id", "level", "instruction"]
    names += [f"{s}_{c}" for c in ("solved", "reward", "length", "kind", "id") for s in "ab"]
    if both.empty:
        return pd.DataFrame(columns=[*names, "change"])
    sides = {f"trajectory_id_{s}": f"{s}_id" for s in "ab"}
    sides |= {f"{c}_{s}": f"{s}_{c}" for c in ("solved", "reward", "length", "kind") for s in "ab"}
    text = both["instruction_a"].where(both["instruction_a"] != "", both["instruction_b"])
    out = both.rename(columns={"task_id_a": "task_id", "level_a": "level", **sides})
    change = changes(both["solved_a"], both["solved_b"])
    return out.assign(instruction=text, change=change)[[*names, "change"]]


def _sentence(row: dict[Any, Any], who: str) -> str:
    share = row["measure"] == "solved"
    show = (lambda x: f"{100 * x:.1f}") if share else (lambda x: f"{x:.2f}")
    unit = " %" if share else ""
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    return (
        f"{who}, {row['meaning']}: {show(row['a'])}{unit} to {show(row['b'])}{unit}, difference "
        f"{show(row['difference'])} [{show(row['low'])}, {show(row['high'])}], {p} "
        f"({row['test']}, n = {row['n']})."
    )
