"""Why a failed episode failed: offline rules, each with its evidence.

Import `diagnose` for one episode, `failures`, `counts` and `coverage` for tables of many. An episode
may have several kinds of failure; it is counted under the first.

| environment | rules |
|---|---|
| webshop | fault; wrong purchase (product, attribute, option, price); no purchase (gave up, wandered); loop; invalid actions |
| scienceworld | fault; wrong focus; menu mishap; loop; invalid actions; no progress; how it ended |
| others | fault; loop; invalid actions; no progress; how it ended |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from eeflib.analysis import taxonomy_rules as rules
from eeflib.analysis.frames import COLUMNS
from eeflib.analysis.taxonomy_rules import KINDS, Case, Finding, Rule
from eeflib.records import Task, Trajectory, solved
from eeflib.stats import wilson

__all__ = ["KINDS", "Case", "Diagnosis", "counts", "coverage", "diagnose", "failures", "primaries"]

_ANY: Sequence[Rule] = (rules.fault, rules.invalid_actions, rules.loop)
_RULES: Mapping[str, Sequence[Rule]] = {
    "webshop": (*_ANY, rules.wrong_purchase, rules.no_purchase),
    "scienceworld": (
        *_ANY,
        rules.wrong_focus,
        rules.menu_mishap,
        rules.no_progress,
        rules.ending,
    ),
}
_OTHERS: Sequence[Rule] = (*_ANY, rules.no_progress, rules.ending)
_RANK = {name: i for i, name in enumerate(KINDS)}


class Diagnosis(NamedTuple):
    """What was found in one failed episode, the main one first."""

    findings: tuple[Finding, ...]

    @property
    def primary(self) -> str:
        """The kind it is counted as."""
        return self.findings[0].kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind found, once each."""
        return tuple(dict.fromkeys(f.kind for f in self.findings))


def diagnose(trajectory: Trajectory, task: Task | None = None) -> Diagnosis | None:
    """Why `trajectory` failed; None if it was solved.

    Args:
        task: what was asked, with its goal; without it a purchase can hardly be judged.
    """
    if solved(trajectory.reward, trajectory.threshold, trajectory.error):
        return None
    found = [f for rule in _RULES.get(trajectory.env, _OTHERS) for f in rule(trajectory, task)]
    if any(f.main and f.kind != "wrong_end" for f in found):  # that is what the end was about
        found = [f for f in found if f.kind != "wrong_end"]
    found.sort(key=lambda f: (not f.main, _RANK[f.kind], f.t))
    if not found:
        text = f"reward {trajectory.reward:.3f} after {len(trajectory.steps)} actions"
        found = [Finding("unclear", "none", len(trajectory.steps), text)]
    return Diagnosis(tuple(found))


def failures(cases: Iterable[Case]) -> pd.DataFrame:
    """One row per failed episode and kind of failure; columns: `COLUMNS["failures"]`."""
    rows = []
    for seed, method, iteration, trajectory, task in cases:
        diagnosis = diagnose(trajectory, task)
        if diagnosis is None:
            continue
        extra = task.extra if task else {}
        about = [str(extra.get(name, "")) for name in ("level", "task_type")]
        named = [seed, trajectory.id, trajectory.task_id, method, iteration, trajectory.env, *about]
        kinds = set()
        for i, finding in enumerate(diagnosis.findings):
            if finding.kind not in kinds:  # two options missing are one kind of failure
                rows.append([*named, finding.kind, i == 0, finding.rule, finding.t, finding.text])
                kinds.add(finding.kind)
    columns = COLUMNS["failures"]
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: dtype for name, (dtype, _) in columns.items()})


def primaries(failures: pd.DataFrame) -> pd.Series[str]:
    """The main kind of each failed episode, by seed, method, iteration and trajectory_id."""
    rows = failures[failures["primary"]] if "primary" in failures else failures
    return rows.set_index(["seed", "method", "iteration", "trajectory_id"])["kind"]


class Coverage(NamedTuple):
    """How much the rules say about the failures of a run."""

    n: int
    """Failed episodes."""
    cause: int
    """Of them with a kind that names a cause."""
    end: int
    """Of them with one that only says how it ended."""

    @property
    def share(self) -> float:
        """cause / n; nan if n is 0."""
        return self.cause / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `share`."""
        return wilson(self.cause, self.n)


def coverage(failures: pd.DataFrame) -> Coverage:
    """How many failures got a kind that names a cause, or at least how they ended."""
    says = failures.loc[failures["primary"], "kind"].map({k: v.says for k, v in KINDS.items()})
    return Coverage(len(says), int((says == "cause").sum()), int((says == "end").sum()))


def counts(failures: pd.DataFrame, by: str = "level") -> pd.DataFrame:
    """Failures per kind and group: n as the main kind, any as a main or a further kind.

    Columns: group, kind, n, any, total (failures of the group), share (n / total); kinds in the
    order of `KINDS`, those that do not occur left out.
    """
    names = ["group", "kind", "n", "any", "total", "share"]
    rows = []
    for group, part in failures.groupby(by):
        total = int(part["primary"].sum())
        main = part.loc[part["primary"], "kind"].value_counts()
        either = part["kind"].value_counts()
        for kind in KINDS:
            if kind in either.index:
                n = int(main.get(kind, 0))
                rows.append([group, kind, n, int(either[kind]), total, n / total])
    return pd.DataFrame(rows, columns=names)
