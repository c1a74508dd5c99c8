"""Two runs, or two policies of one run: what was gained, what was lost, what changed in behaviour.

Import `compare_runs`. Tasks are paired by content; where two sides share no task, means are
compared and a note says so.

    c = compare_runs("runs/rft", "runs/eef")
    print(c); figures.action_mix(c)
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eeflib.analysis import taxonomy
from eeflib.analysis.findings import Findings
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.tables import changes
from eeflib.analysis.taxonomy import KINDS, WEBSHOP_KINDS, action_kind
from eeflib.errors import DataError
from eeflib.records import Trajectory
from eeflib.stats import paired, sample, unpaired

_SIDE = [
    "seed", "task_hash", "task_id", "level", "solved", "reward", "length", "invalid",
    "id", "instruction", "kind", "mix", "wrong",
]  # fmt: skip
"""What a side did, a row per task: `kind` is the main kind of failure, `mix` the share of each kind
of action, `wrong` has the kinds of failure found. `id` is empty if only the result is on record."""


def _side(run: Run, method: str, known: Findings) -> tuple[pd.DataFrame, list[str]]:
    """The teacher's trajectories, or a student's test episodes of its last iteration, and notes.

    Raises:
        DataError: nothing of this method is in the run (names what there is).
    """
    found = run.teacher_outcomes if method == TEACHER else known.outcomes.get(method)
    if not found:
        raise DataError(
            f"{run.path} holds nothing of {method!r}; it has: "
            f"{', '.join(known.methods) or 'no trajectories and no evaluations'}"
        )
    outcomes = {(o.seed, o.task_id): o for o in reversed(found)}  # of several attempts the first
    played: dict[tuple[int, str], list[Trajectory]] = defaultdict(list)
    for place, e in run.episodes("teacher" if method == TEACHER else "students"):
        o = outcomes.get((place.seed, e.task_id))
        if o is not None and place == (o.seed, method, o.iteration):
            played[o.seed, o.task_id].append(e)
    notes = []
    if double := sum(len(attempts) - 1 for attempts in played.values()):
        notes.append(f"{method}: {double} further attempts at the same tasks are left out.")
    if not played:
        file = "trajectories.jsonl" if method == TEACHER else "test_rollouts.jsonl"
        notes.append(
            f"{method}: only results are on record, no episodes ({file}), so its "
            "behaviour is unknown."
        )
    rows: dict[Any, list[Any]] = {}
    for key in dict.fromkeys([*played, *((o.seed, o.task_id) for o in found)]):
        o, attempts = outcomes[key], played.get(key)
        result = [getattr(o, name) for name in _SIDE[:8]]
        behaviour = _behaviour(run, attempts[0], o.seed) if attempts else ["", "", "", {}, {}]
        rows.setdefault((o.seed, o.task_hash), [*result, *behaviour])
    return pd.DataFrame(list(rows.values()), columns=_SIDE), notes


def _behaviour(run: Run, e: Trajectory, seed: int) -> list[Any]:
    """The rest of a row of `_SIDE`, for an episode that is on record."""
    diagnosis = taxonomy.diagnose(e, run.task(seed, e.task_id))
    main, wrong = (diagnosis.primary, diagnosis.kinds) if diagnosis else ("", ())
    kinds = Counter(action_kind(s.action, e.env, s.valid) for s in e.steps)
    mix = {k: n / len(e.steps) for k, n in kinds.items()}
    return [e.id, e.instruction, main, mix, dict.fromkeys(wrong, 1.0)]


def _pair(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Tasks both sides have, columns of either with `a_` and `b_` before their names.

    Tasks are the same if their content hash is; within the same seed where seeds agree, else across
    seeds for hashes that each side has once.
    """
    a, b = (
        x.rename(columns={c: f"{side}_{c}" for c in _SIDE[2:]}) for x, side in ((a, "a"), (b, "b"))
    )
    both = a.merge(b, on=["seed", "task_hash"])
    if both.empty:
        a, b = (x[~x["task_hash"].duplicated(keep=False)] for x in (a, b))
        both = a.merge(b.drop(columns="seed"), on="task_hash")
    both["instruction"] = both["a_instruction"].where(
        both["a_instruction"] != "", both["b_instruction"]
    )
    both["change"] = changes(both["a_solved"], both["b_solved"])
    return both.rename(columns={"a_task_id": "task_id", "a_level": "level"})


def _test(x: pd.Series[Any], y: pd.Series[Any], seeds: Sequence[Any], together: bool) -> list[Any]:
    """Means of two measures and how they differ, see `_COLUMNS`.

    Args:
        seeds: of the rows of either.
        together: a row of one is of the same task as that row of the other.
    """
    sides = [v.astype("float64").groupby(s) for v, s in zip((x, y), seeds, strict=True)]
    if together:
        apart = y.astype("float64") - x.astype("float64")
        groups = [group.tolist() for _, group in apart.groupby(seeds[0])]
        found = paired(groups, yes_no={*x, *y} <= {0.0, 1.0})
    else:
        found = unpaired(*([group.tolist() for _, group in side] for side in sides))
    said = [sample(side.ngroups, len(v)) for v, side in zip((x, y), sides, strict=True)]
    n = said[0] if together else " against ".join(said)
    # of seeds, each of which weighs the same
    means = [float(side.mean().mean()) for side in sides]
    return [*means, found.mean, found.low, found.high, found.p, n, found.test]


def _kinds(
    column: str, order: Sequence[str], sides: Sequence[pd.DataFrame], together: bool
) -> pd.DataFrame:
    """How kinds of action or failure differ; q is p by Benjamini and Hochberg, nan stays."""
    from scipy.stats import false_discovery_control

    first, second = (pd.DataFrame(x[column].tolist(), x.index).fillna(0.0) for x in sides)
    names = {*first.columns, *second.columns}
    seeds, rows = [side["seed"] for side in sides], []
    for kind in [*(k for k in order if k in names), *sorted(names.difference(order))]:
        x, y = (t[kind] if kind in t else pd.Series(0.0, t.index) for t in (first, second))
        rows.append([kind, *_test(x, y, seeds, together)])
    table = pd.DataFrame(rows, columns=["kind", *_COLUMNS]).assign(q=float("nan"))
    known = table["p"].dropna()
    if len(known):
        table.loc[known.index, "q"] = false_discovery_control(known)
    return table


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
    difference, low, high, p, n (in words: seeds and tasks), test."""
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
) -> Comparison:
    """Policy `method_b` of run `b` against `method_a` of run `a`; the runs may be the same one.

    Args:
        method_a, method_b: `teacher` or a method; None: the run's focus (EEF, if it is there), else
            the teacher.

    Raises:
        DataError: no such folder, or nothing of that method in it.
    """
    found = [Findings(x) for x in (a, b)]
    runs = [f.run for f in found]
    methods = [m or f.focus or TEACHER for m, f in zip((method_a, method_b), found, strict=True)]
    (first, notes), (second, more) = map(_side, runs, methods, found)
    notes += more
    names = (methods[0], methods[1])
    folders = [run.path.resolve().name for run in runs]
    if folders[0] != folders[1]:
        names = (f"{folders[0]}: {methods[0]}", f"{folders[1]}: {methods[1]}")
    both = _pair(first, second)
    alone = [len(side) - len(both) for side in (first, second)]
    if both.empty:
        notes.append(
            "The two have no task in common (by content): means over different tasks are "
            "compared, and nothing is gained or lost."
        )
    elif any(alone):
        notes.append(
            f"{len(both)} tasks are compared; {alone[0]} only {names[0]} has and {alone[1]} only "
            f"{names[1]} has are left out."
        )
    together = len(both) > 0
    sides = [first, second]
    if together:
        sides = [both.rename(columns={f"{x}_{c}": c for c in _SIDE}) for x in "ab"]
    seeds = [side["seed"] for side in sides]
    measures = [
        [name, meaning, *_test(sides[0][name], sides[1][name], seeds, together)]
        for name, meaning in _MEASURES.items()
    ]
    played = [side["id"] != "" for side in sides]
    if together:
        played = [played[0] & played[1]] * 2
    recorded = [side[some] for side, some in zip(sides, played, strict=True)]
    if not all(len(side) for side in recorded):
        recorded = [side.iloc[:0] for side in sides]
    columns = ["seed", "task_hash", "task_id", "level", "instruction"]
    columns += [f"{s}_{c}" for c in ("solved", "reward", "length", "kind", "id") for s in "ab"]
    return Comparison(
        names,
        together,
        both[[*columns, "change"]],
        pd.DataFrame(measures, columns=["measure", "meaning", *_COLUMNS]),
        _kinds("mix", WEBSHOP_KINDS, recorded, together),
        _kinds("wrong", tuple(KINDS), recorded, together),
        tuple(notes),
    )


def _sentence(row: dict[Any, Any], who: str) -> str:
    share = row["measure"] == "solved"
    show = (lambda x: f"{100 * x:.1f}") if share else (lambda x: f"{x:.2f}")
    unit = " %" if share else ""
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    return (
        f"{who}, {row['meaning']}: {show(row['a'])}{unit} to {show(row['b'])}{unit}, difference "
        f"{show(row['difference'])} [{show(row['low'])}, {show(row['high'])}], {p} "
        f"({row['test']}; {row['n']})."
    )
