"""A run as one HTML file that opens from disk or an e-mail attachment, without a network.

Import `write_report`, or `write_comparison` for two runs. Both read run folders only: nothing is
simulated or trained. The words are those of `assets/report.html`, a jinja2 template; here is what
fills it. Figures are drawn by plotly when they are scrolled to, and below each is the table behind
it, so that a browser without scripts shows the findings too. Every count leads to its episodes in
the viewer (`eeflib.analysis.viewer`), which the page brings along.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eeflib.analysis import figures, style, tables, taxonomy, viewer
from eeflib.analysis.annotations import Key
from eeflib.analysis.collection import Collection
from eeflib.analysis.compare import Comparison
from eeflib.analysis.findings import LAST, Annotated, Findings, change_tag
from eeflib.analysis.markup import clean
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.tables import CHANGES, number
from eeflib.analysis.taxonomy_rules import KINDS
from eeflib.files import write_atomic
from eeflib.stats import PairedDifference, mean_reward, pooled, win_rate

__all__ = ["render_report", "write_comparison", "write_report"]

ROWS = 60
"""Rows of a table at most, but for the recovery map's, which are as many as its figure's."""
MAP_ROWS = 40

Row = dict[str, Any]
Link = Callable[[Row], str]


def write_report(
    run_dir: str | Path, out: str | Path | None = None, *, budget: int = viewer.BUDGET
) -> Path:
    """Write the report of the run in `run_dir`; return the file's path.

    An unfinished, partial or empty run gives a report that says what is missing.

    Args:
        run_dir: the run folder, which may be read-only if `out` is elsewhere.
        out: the file; `report.html` in the run folder by default.
        budget: bytes that what can be browsed may take; see `viewer.viewer_data`.

    Raises:
        DataError: there is no such folder, or the file cannot be written.
    """
    run = Run(run_dir)
    path = run.path / "report.html" if out is None else Path(out)
    write_atomic(path, render_report(run, budget))
    return path


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write two runs against each other as one HTML file; return its path.

    Raises:
        DataError: the file cannot be written.
    """
    write_atomic(Path(path), comparison_page(comparison))
    return Path(path)


def render_report(run: Run, budget: int = viewer.BUDGET) -> str:
    """The report's HTML; see `write_report`."""
    found = Findings(run)
    collection = Collection.of(run, who="all")
    links = Links(collection, found.tags)
    cases = {name: Findings(inner) for name, inner in run.cases().items()}
    looks = style.method_looks(m for f in (found, *cases.values()) for m in f.methods)
    skipped = found.branches["mismatch"]
    nowhere = Links(Collection([]), {})  # the episodes of a case are not in the viewer
    return _page(
        data=viewer.viewer_data(collection, focus=found.focus, tags=found.tags, budget=budget),
        title="Exploring Expert Failures",
        about=_about(run),
        found=found,
        results=results(found, looks, links),
        cases=[(name, results(inner, looks, nowhere)) for name, inner in cases.items()],
        charts=charts(found, looks, links),
        annotated=[_card(item, found, links) for item in found.annotated[:3]],
        gained=[_gained(found, other, links) for other in found.gained],
        bias=_bias(found),
        reach=tables.reachable(found.states),
        rules=taxonomy.coverage(found.failures),
        counted=_counted(found, links),
        noted=_noted(found),
        never=table(found.never, ["task_id", "seed", "level", "best"], {"task_id": links.task}),
        reproduce=_reproduce(run),
        limits=_limits(found),
        skipped=list(skipped[skipped != ""].value_counts().head(5).items()),
        link=links,
        nowhere=nowhere,
        LAST=LAST,
    )


def comparison_page(comparison: Comparison) -> str:
    """Two runs: what it comes to in words, then measures, tasks, actions, failures."""
    a, b = comparison.names
    changed = comparison.tasks[comparison.tasks["change"].isin(["gained", "lost"])]
    kinds = changed["a_kind"].where(changed["change"] == "gained", changed["b_kind"])
    changed = changed.assign(failure=kinds.map(_kind)).sort_values("change")
    errors = comparison.errors.assign(kind=comparison.errors["kind"].map(_kind))

    def differences(rows: pd.DataFrame, *names: str) -> Table:
        bounds = zip(rows["low"], rows["high"], strict=True)
        between = [" \u2013 ".join(shown("difference", x) for x in pair) for pair in bounds]
        rows = rows.assign(interval=between)
        columns = [names[0], "a", "b", "difference", "interval", names[1], "test"]
        return table(rows, columns, a=a, b=b)

    tasks = ["change", "task_id", "instruction", "a_reward", "b_reward", "failure"]
    drawn = {
        "measures": (figures.compared, differences(comparison.measures, "meaning", "p")),
        "tasks": (figures.gained_lost, table(changed, tasks)),
        "actions": (figures.action_mix, differences(comparison.actions, "kind", "q")),
        "failures": (figures.error_kinds, differences(errors, "kind", "q")),
    }
    return _page(
        title="Two runs compared",
        about=[f"{b} against {a}"],
        sentences=comparison.sentences,
        compared={name: chart(draw(comparison), rows) for name, (draw, rows) in drawn.items()},
    )


def _kind(name: str) -> str:
    return KINDS[name].title if name in KINDS else name


# -- pieces of a page -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What stands in a table's cell, with where it leads."""

    text: str
    href: str = ""
    number: bool = False


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    total: int
    """Rows there are; `rows` may hold fewer."""


WORDS = {
    "a_reward": "reward before", "any": "found in", "b_reward": "reward after",
    "best": "best reward", "both": "solved by both", "change": "", "cost_usd": "dollars",
    "empty": "of them empty", "failed": "\u25bc failed", "found": "tasks found",
    "from_s0": "from s\u2080", "gained": "\u25b2 gained", "k": "state k", "low": "95\u202f% interval",
    "lost": "\u25bc lost", "meaning": "", "n": "of", "never": "by neither",
    "only_deeper": "\u25b2 only from a later state", "p_won": "share", "rate": "share",
    "restored": "states restored", "seconds": "seconds a seed", "skipped": "restores skipped",
    "solved": "\u25b2 solved", "starts": "rollouts from s\u2080", "steps": "simulated steps",
    "student": "student actions", "t": "after actions", "task_id": "task",
    "teacher": "teacher actions", "total": "of", "wins": "won",
}  # fmt: skip
"""Headings of columns that are not called what they hold."""


def table(
    rows: pd.DataFrame,
    columns: Sequence[str],
    links: Mapping[str, Link] | None = None,
    limit: int = ROWS,
    **words: str,
) -> Table:
    """Columns of a frame as text.

    Args:
        columns: names; `low` stands for the interval from `low` to `high`.
        links: column -> where a row's cell leads; an empty address makes no link.
        words: column -> heading, where it is neither of `WORDS` nor its name.
    """
    links, out = links or {}, []
    for row in rows.head(limit).to_dict("records"):
        cells = []
        for name in columns:
            text = span(row["low"], row["high"]) if name == "low" else shown(name, row[name])
            href = links[name](row) if name in links else ""
            cells.append(Cell(text, href, name == "low" or not isinstance(row[name], str)))
        out.append(cells)
    head = [words.get(c, WORDS.get(c, c.replace("_", " "))) for c in columns]
    return Table(head, out, len(rows))


_SHARES = frozenset({"share", "rate", "p_won"})
_TWO = frozenset({"reward", "best", "a_reward", "b_reward"})
_THREE = frozenset({"a", "b", "difference", "p", "q"})


def shown(name: str, value: Any) -> str:
    """A value as a reader expects it in a column of that name; a dash for nan."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return "\u2013"
    if name in _SHARES:
        return percent(value)
    if name in _TWO:
        return f"{value:.2f}"
    if name in _THREE:
        return f"{value:.3f}".replace("-", "\u2212")
    if "usd" in name:
        return f"{value:,.2f}" if value >= 0.01 or not value else f"{value:.4f}"
    return f"{value:,.1f}".removesuffix(".0").replace("-", "\u2212")


def percent(share: float) -> str:
    """`64.4 %`; a dash for nan."""
    return "\u2013" if math.isnan(share) else f"{share * 100:.1f}\u202f%"


def points(difference: float) -> str:
    """`+8.2`, percentage points."""
    return f"{difference * 100:+.1f}".replace("-", "\u2212")


def span(low: float, high: float) -> str:
    """`50.0 - 70.0`, per cent; empty for nan."""
    if math.isnan(low + high):
        return ""
    return f"{low * 100:.1f} \u2013 {high * 100:.1f}".replace("-", "\u2212")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@dataclass(frozen=True)
class Chart:
    """A figure for the page, whose title and note are text of the page."""

    title: str
    note: str
    nothing: str
    """Why there is nothing to draw; else empty."""
    json: Markup
    height: float
    numbers: Table | None = None


def chart(figure: go.Figure, numbers: Table | None = None) -> Chart:
    meta = figure.layout.meta or {}
    bare = figures.bare(figure)
    text = json.dumps(json.loads(bare.to_json()), separators=(",", ":"))
    title, note, why = (str(meta.get(name, "")) for name in ("title", "note", "nothing"))
    return Chart(title, note, why, _inert(text), bare.layout.height or 380, numbers)


def _inert(text: str) -> Markup:
    """JSON text that no HTML parser takes for markup, for a script tag of type application/json."""
    return Markup(text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}))


class Links:
    """Addresses of lists of episodes in the viewer; empty where a list would be."""

    def __init__(self, collection: Collection, tags: Mapping[Key, Sequence[str]]) -> None:
        self.collection = collection
        self._at: dict[tuple[str, str], set[int]] = {}
        for i, x in enumerate(collection):
            facts = {
                "method": x.key.method,
                "seed": x.key.seed,
                "outcome": x.outcome,
                "failure": x.failure,
                "level": x.level,
                "task": x.trajectory.task_id,
            }
            for name, value in [*facts.items(), *(("tag", t) for t in tags.get(x.key, ()))]:
                self._at.setdefault((name, str(value)), set()).add(i)

    def __call__(self, **wanted: Any) -> str:
        """The list of episodes with these values of method, seed, outcome, tag and so on."""
        found = [self._at.get((name, str(value)), set()) for name, value in wanted.items()]
        long = any(len(str(value)) > 200 for value in wanted.values())  # such texts are cut there
        if long or not set.intersection(*found):
            return ""
        return f"#!t?{urlencode({name: clean(value) for name, value in wanted.items()})}"

    def teacher(self, **wanted: Any) -> str:
        """Of the teacher's own trajectories."""
        return self(method=TEACHER, **wanted)

    def task(self, row: Row) -> str:
        """The teacher's trajectories on a row's task."""
        return self.teacher(task=row["task_id"], seed=row["seed"])

    def state(self, row: Row, k: int) -> str:
        """The rollouts from state `k` of a row's trajectory."""
        at = self.collection.position(Key(row["seed"], TEACHER, 0, row["trajectory_id"]))
        return f"#!map/{at}/{k}" if at is not None and row.get(f"s{k}", "?") else ""


# -- results: of the run, and of the cases in it --------------------------------------------------


@dataclass
class Results:
    """The methods side by side, and the focus against each other one."""

    found: Findings
    rows: list[Row]
    main: PairedDifference | None
    paired: Chart
    changes: dict[str, int]
    """gained, lost: of the focus against `main`."""
    early: bool
    """Some are compared before the last iteration."""
    left_out: list[int]
    sizes: list[int]
    """Numbers of tasks a seed."""
    seeds: list[int]
    absent: list[str] = field(default_factory=list)
    """Methods of which only the summary is known."""


def results(found: Findings, looks: Mapping[str, style.Look], links: Links) -> Results:
    every = [o for group in found.outcomes.values() for o in group]
    sizes = {r.n for group in found.outcomes.values() for r in pooled(group).per_seed.values()}
    main = found.paired.get(found.baseline) or next(iter(found.paired.values()), None)
    rows = [
        {
            "name": f"{p.a} \u2212 {p.b}"
            + (f" ({found.iteration(method)} it.)" if _early(found, method) else ""),
            "difference": f"{points(p.mean)} points",
            "low": p.low,
            "high": p.high,
            "p": p.p,
            "seeds": p.n,
            "gained": sum(w.gained for w in p.within),
            "lost": sum(w.lost for w in p.within),
            "other": method,
        }
        for method, p in found.paired.items()
    ]
    columns = ["name", "difference", "low", "p", "seeds", "gained", "lost"]

    def changed(change: str) -> Link:
        return lambda r: links(method=found.focus, tag=change_tag(change, r["other"]))

    numbers = table(
        pd.DataFrame(rows, columns=[*columns, "high", "other"]),
        columns,
        {c: changed(c) for c in ("gained", "lost")},
        name="",
    )
    return Results(
        found,
        [_method(found, m, looks[m], links) for m in found.methods],
        main,
        chart(figures.paired(found.paired), numbers),
        {c: sum(getattr(w, c) for w in main.within) for c in ("gained", "lost")} if main else {},
        any(_early(found, m) for m in found.paired),
        sorted({s for p in found.paired.values() for s in p.unpaired}),
        sorted(sizes),
        sorted({o.seed for o in every}),
        [m for m in found.methods if m not in found.outcomes and m != TEACHER],
    )


def _early(found: Findings, method: str) -> bool:
    return 0 < found.iteration(method) < found.iteration(found.focus)


def _method(found: Findings, method: str, look: style.Look, links: Links) -> Row:
    """A row of the table of methods, from the records, else from `summary.json`."""
    reported = found.reported.get(method, {})
    own = method == TEACHER and method not in found.outcomes
    outcomes = found.run.teacher_outcomes if own else found.outcomes.get(method)
    if outcomes:
        got = pooled(outcomes)
        rate, low, high, sd = got.rate.rate, got.rate.low, got.rate.high, got.sd
        reward = mean_reward(outcomes).value
    else:
        rate, reward = number(reported.get("win_rate")), number(reported.get("reward"))
        bounds = reported.get("interval")
        pair = bounds if isinstance(bounds, list) and len(bounds) == 2 else [None, None]
        low, high, sd = number(pair[0]), number(pair[1]), math.nan
    which = {} if own else {"tag": LAST}
    return {
        "name": method,
        "own": own,
        "look": look,
        "after": found.iteration(method) if _early(found, method) else 0,
        "rate": rate,
        "low": low,
        "high": high,
        "known": not math.isnan(low + high),
        "sd": sd,
        "reward": reward,
        "simulations": number(reported.get("simulations")),
        "seconds": number(reported.get("seconds")),
        "solved": links(method=method, outcome="solved", **which),
        "all": links(method=method, **which),
    }


# -- figures with the numbers behind them ---------------------------------------------------------


def charts(found: Findings, looks: Mapping[str, style.Look], links: Links) -> dict[str, Any]:
    """Every figure of the report with its numbers, by name; and tables that have no figure."""
    out: dict[str, Any] = {}

    def add(
        name: str,
        figure: go.Figure,
        rows: pd.DataFrame,
        columns: str | Sequence[str],
        *args: Any,
        **words: str,
    ) -> None:
        names = columns.split() if isinstance(columns, str) else columns
        out[name] = chart(figure, table(rows, names, *args, **words))

    def teacher(**wanted: str) -> Link:
        """The teacher's episodes; a value that names a column of the row stands for what is there."""
        return lambda r: links.teacher(**{k: r.get(v, v) for k, v in wanted.items()})

    _results(found, looks, links, add)
    frame, failures = found.trajectories, found.failures
    by = "level" if frame["level"].any() or not frame["task_type"].any() else "task_type"
    here = {"level": "group"} if by == "level" else {}
    add(
        "outcomes",
        figures.outcome_by_type(frame, by),
        tables.by_group(frame, by),
        "group wins n rate low reward length",
        {"n": teacher(**here), "wins": teacher(outcome="solved", **here)} if here else {},
        group=by.replace("_", " "),
        wins="solved",
        length="actions",
    )
    for name, draw, count in (
        ("lengths", figures.lengths, tables.length_bins),
        ("rewards", figures.rewards, tables.reward_bins),
    ):
        bins = count(frame).rename(columns={"low": "from", "high": "to"})
        add(name, draw(frame), bins, "from to solved failed")
    many = failures["level"].nunique() > 1
    by = "level" if many or not failures["task_type"].any() else "task_type"
    kinds = taxonomy.counts(failures.assign(all="all"), "all").sort_values("n", ascending=False)
    add(
        "failures",
        figures.failure_kinds(failures, by),
        kinds.assign(title=kinds["kind"].map(_kind)),
        "title n total share any",
        {"n": teacher(failure="kind")},
        title="kind",
        n="main kind of",
    )
    soon = tables.steps_to_failure(failures)
    add(
        "soon",
        figures.steps_to_failure(failures),
        soon.assign(kind=soon["kind"].map(_kind)),
        "kind t n total share low",
        t="actions",
        n="show by then",
    )
    for model, agreed in found.agreement.items():
        rows = agreed.table.rename(index=_kind, columns=_kind).rename_axis("rules").reset_index()
        figure = figures.failure_agreement(agreed, "rules", model)
        add(f"labels {model}", figure, rows, list(rows.columns))
    _exploration(found, links, add)
    out["new"] = table(
        found.discoveries[found.discoveries["found"].isin(["s0", "state"])].sort_values(
            ["k", "seed", "task_id"], ascending=[False, True, True]
        ),
        ["task_id", "seed", "level", "k", "t", "iteration"],
        {"task_id": links.task},
    )
    out["no_return"] = table(
        found.no_return,
        ["task_id", "seed", "level", "t", "until", "length", "action"],
        {"task_id": links.task, "t": lambda r: links.state(r, r["k"])},
        t="last won after action",
        until="lost by action",
        length="of",
        action="the teacher's next action",
    )
    return out


Add = Callable[..., None]


def _results(found: Findings, looks: Mapping[str, style.Look], links: Links, add: Add) -> None:
    """Figures about the methods: what they reached, taught and cost."""
    focus, base = found.focus, found.baseline

    def change(name: str) -> Link:
        return lambda r: links(method=r["method"], tag=change_tag(name, base))

    def last(r: Row) -> str:
        if r["iteration"] != found.iteration(r["method"]):
            return ""
        return links(method=r["method"], tag=LAST, outcome="solved")

    def share(r: Row) -> str:
        source = r["source"]
        if source in ("teacher successes", "teacher failures"):
            return links.teacher(outcome="solved" if source.endswith("successes") else "failed")
        if source.startswith(f"{focus}, tasks"):
            change = "gained" if source.endswith("gained") else "both"
            return links(method=focus, tag=change_tag(change, base))
        return "#!s" if source == focus and len(found.samples) else ""

    def solved(r: Row) -> str:
        tag = (
            {"outcome": "solved"} if r["method"] == TEACHER else {"tag": f"found by {r['method']}"}
        )
        return links.teacher(**tag)

    add(
        "iterations",
        figures.win_rates(found.evaluations, looks),
        tables.courses(tables.win_rates(found.evaluations)),
        "method iteration wins n rate low reward",
        {"wins": last},
        wins="solved",
        rate="win rate",
    )
    add(
        "newly",
        figures.newly_solved(found.changes),
        _wide(found.changes, "method", "change", CHANGES),
        "method gained lost both never",
        {c: change(c) for c in CHANGES},
        method=f"against {base}",
    )
    explored = ("teacher", "s0", "state", "never")
    add(
        "discovered",
        figures.discovered(found.discoveries),
        _wide(found.discoveries, "method", "found", explored),
        "method teacher s0 state never",
        {c: lambda r, c=c: links.teacher(tag=f"{focus}: {c}") for c in explored},
        teacher="solved by the teacher",
        s0="from s\u2080",
        state="\u25b2 only from a later state",
        never="never",
    )
    shares = found.actions
    kinds = list(dict.fromkeys(shares["kind"]))
    mix = _wide(shares, "source", "kind", kinds, shares["count"])
    add(
        "bias",
        figures.simplicity_bias(shares, focus),
        mix,
        list(mix.columns),
        dict.fromkeys(kinds, share),
    )
    add(
        "budget",
        figures.budget(found.costs, base),
        found.costs,
        "method rollouts steps tokens cost_usd seconds found steps_per_found usd_per_found "
        "gained lost steps_per_gained",
        {"found": solved, "gained": change("gained"), "lost": change("lost")},
        steps_per_found="steps a task",
        usd_per_found="dollars a task",
        steps_per_gained="steps a task gained",
    )
    m = found.other_m
    plan = [
        f"{n} (as run)" if run else str(n) for n, run in zip(m["M"], m["recorded"], strict=True)
    ]
    add(
        "other_m",
        figures.other_m(m),
        m.assign(M=plan),
        "M attempts rollouts steps found share cost_usd",
        attempts="rollouts a state",
        found="tasks solved",
    )


def _exploration(found: Findings, links: Links, add: Add) -> None:
    """Figures about the states that the student was put into."""
    states = found.states

    def won(r: Row) -> str:
        level = {} if r["group"] == "all" else {"level": r["group"]}
        return links.teacher(tag=f"won from s{r['k']}", **level) if r["wins"] else ""

    def first(where: str) -> Link:
        return lambda r: links.teacher(level=r["level"], tag=f"first won from {where}")

    add(
        "recovery",
        figures.recovery_curve(states),
        tables.recovery_curve(states).rename(columns={"p": "p_won"}),
        "group k states wins n p_won low",
        {"wins": won},
        group="level",
        wins="rollouts won",
    )
    add(
        "first",
        figures.first_solved(states),
        tables.reachable(states),
        "level tasks from_s0 only_deeper never",
        {"from_s0": first("s0"), "only_deeper": first("a later state"), "never": first("none")},
        never="from none",
    )
    recovery = tables.recovery_map(states, MAP_ROWS)
    ks = [c for c in recovery.columns if c[0] == "s" and c[1:].isdecimal()]
    add(
        "map",
        figures.recovery_map(states, MAP_ROWS),
        recovery,
        ["task_id", "seed", "level", "length", *ks],
        {"task_id": links.task, **{c: lambda r, k=int(c[1:]): links.state(r, k) for c in ks}},
        MAP_ROWS,
        length="actions",
    )


def _wide(
    rows: pd.DataFrame,
    index: str,
    columns: str,
    order: Sequence[str],
    values: pd.Series[int] | None = None,
) -> pd.DataFrame:
    """Counts of `columns` side by side, a row per value of `index` in the order they occur."""
    values = pd.Series(1, rows.index) if values is None else values
    sums = values.groupby([rows[index], rows[columns]], sort=False).sum().unstack(fill_value=0)
    sums = sums.reindex(index=list(dict.fromkeys(rows[index])), columns=list(order), fill_value=0)
    return sums.rename_axis(index=index, columns=None).reset_index()


def _gained(found: Findings, other: str, links: Links) -> tuple[str, Row, Table]:
    """The other method, how many tasks were gained or lost against it, and the same by level."""
    rows = _wide(found.gained[other], "level", "change", CHANGES)
    rows = rows.set_index("level").reindex(style.level_order(rows["level"])).reset_index()

    def lead(change: str) -> Link:
        return lambda r: links(method=found.focus, tag=change_tag(change, other), level=r["level"])

    counts = {
        c: (int(rows[c].sum()), links(method=found.focus, tag=change_tag(c, other)))
        for c in CHANGES
    }
    return other, counts, table(rows, ["level", *CHANGES], {c: lead(c) for c in CHANGES})


def _card(item: Annotated, found: Findings, links: Links) -> Row:
    """A failure for close reading: its ribbon, its recovery curve, its transcript."""
    t = item.trajectory
    at = links.collection.position(Key(item.seed, TEACHER, 0, t.id))
    known = None if at is None else links.collection[at]
    why = known.diagnosis if known else None
    curve = tables.trajectory_curve(found.states, t.id, item.seed).rename(columns={"p": "p_won"})
    columns = ["k", "t", "wins", "n", "p_won", "low"]
    return {
        "item": item,
        "href": "" if at is None else f"#!t/{at}",
        "ribbon": chart(figures.segment_ribbon(t, item.segments, item.states, why)),
        "curve": chart(
            figures.trajectory_curve(found.states, t.id, item.seed),
            table(
                curve,
                columns,
                {"wins": lambda r: links.state({"seed": item.seed, "trajectory_id": t.id}, r["k"])},
            ),
        )
        if len(curve)
        else None,
        "text": Markup(
            viewer.transcript_html(
                t, segments=item.segments, states=item.states, diagnosis=why, limit=1500
            )
        ),
    }


def _bias(found: Findings) -> Row | None:
    """The kind of action most over-represented in the teacher's failures, with its shares."""
    wide = found.actions.pivot(index="kind", columns="source", values="share")
    if not {"teacher successes", "teacher failures"} <= set(wide.columns):
        return None
    gap = wide["teacher failures"] - wide["teacher successes"]
    gap = gap.drop(["invalid", "other kinds"], errors="ignore")
    if gap.empty:
        return None
    kind = gap.idxmax()
    return {"kind": kind, "gap": gap[kind], "shares": dict(wide.loc[kind])}


def _counted(found: Findings, links: Links) -> Table:
    def lead(r: Row) -> str:
        return "#!s" if r["method"] == found.focus and r["samples"] else ""

    rows = found.counted.assign(method=found.counted["method"].replace("", "(run)"))
    return table(
        rows,
        list(rows.columns),
        {"won": lambda r: links.teacher(tag=f"found by {r['method']}"), "samples": lead},
    )


def _noted(found: Findings) -> tuple[list[str], Table]:
    """Samples dropped, in words; and every further count."""
    rows = [(method, key, value) for (method, key), value in found.noted.items()]
    dropped = [f"{m}: {int(n):,} {key}" for m, key, n in rows if "dropped" in key and n]
    names = ["method", "count", "value"]
    return dropped, table(pd.DataFrame(rows, columns=names), names, limit=1000)


# -- what is said of the run as a whole -----------------------------------------------------------


def _about(run: Run) -> list[str]:
    config = run.manifest.get("config")
    config = config if isinstance(config, dict) else {}
    envs = sorted({t.env for group in run.trajectories.values() for t in group})
    env = run.summary.get("env") or config.get("env") or ", ".join(envs)
    out = [clean(env, 80)] if isinstance(env, str) and env else []
    for key in ("preset", "student"):
        if isinstance(config.get(key), str):
            out.append(f"{key} {clean(config[key], 80)}")
    if run.seeds:
        named = ", ".join(map(str, run.seeds[:12])) + (" \u2026" if len(run.seeds) > 12 else "")
        out.append(f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''} ({named})")
    created = run.manifest.get("created")
    return [*out, created[:10]] if isinstance(created, str) else out


def _reproduce(run: Run) -> tuple[list[tuple[str, str]], str] | None:
    """Facts, and the configuration as JSON; None: no manifest can be read."""
    manifest = run.manifest
    if not manifest:
        return None
    git, versions, config = (manifest.get(name) for name in ("git", "versions", "config"))
    played = _played(run)
    facts = {name: manifest.get(name) for name in ("command", "seeds", "python", "platform")}
    facts |= {
        "seeds": run.seeds,
        "config hash": manifest.get("config_hash"),
        "CPUs": manifest.get("cpus"),
        "title nouns": ", ".join(sorted({str(t.extra.get("nouns") or "") for t in played} - {""})),
    }
    if isinstance(git, Mapping):
        local = " with local changes" if git.get("changed") else ""
        facts["code"] = f"{git.get('commit', 'unknown')}{local}"
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    rows = [(name, clean(value, 2000)) for name, value in facts.items()
            if value not in (None, "", [])]  # fmt: skip
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str) if config else ""
    return rows, clean(text, 20_000)


def _played(run: Run) -> list[Any]:
    return [t for group in run.trajectories.values() for t in group]


def _limits(found: Findings) -> Row:
    """Which of the limits that the template knows hold for this run."""
    tried = found.states[found.states["n"] > 0]
    played = [t for t in _played(found.run) if t.steps]
    return {
        "seeds": len({o.seed for group in found.outcomes.values() for o in group}),
        "several": len(found.paired) > 1,
        "own_tasks": TEACHER in found.methods and TEACHER not in found.outcomes,
        "tried": len(tried) > 0,
        "once": len(tried) > 0 and int(tried["n"].median()) == 1,
        "human": bool(played) and all(s.actor == "human" for t in played for s in t.steps),
    }


# -- the page -------------------------------------------------------------------------------------


def _finalize(value: Any) -> Any:
    """All that a template shows: readable and, by jinja2, escaped; markup of ours as it is."""
    return value if isinstance(value, (Markup, int)) else clean(value)


@cache
def _template() -> jinja2.Template:
    env = jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"percent": percent, "points": points, "p_text": p_text, "cut": clean}
    env.globals |= {"span": span, "win_rate": win_rate, "shown": shown, "TEACHER": TEACHER}
    return env.from_string(style.asset("report.html"))


def _page(*, data: str = "", **content: Any) -> str:
    """The whole document.

    Its policy lets only its own scripts run, known by their hashes, whatever text it holds, and
    lets it load nothing from anywhere.

    Args:
        data: what can be browsed, from `viewer.viewer_data`; empty: nothing can.
        content: what the template names.
    """
    drawing, plotly = style.asset("report.js"), _plotly()
    browsing = f"{viewer.script()}\nstartReport();" if data else ""
    scripts = [x for x in (drawing, browsing, plotly[0]) if x]
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(x.encode()).digest())}'" for x in scripts)
    sheet = style.themed(":root") + (viewer.sheet() if data else "") + style.asset("report.css")
    return _template().render(
        **content,
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: "
        "blob:; font-src data:; base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        drawing=Markup(drawing),
        browsing=Markup(browsing),
        plotly=Markup(plotly[1]),
        twins=_inert(json.dumps({"twins": style.twins(), "config": figures.CONFIG})),
        data=Markup(data),
    )


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js as it runs, and as the page holds it: compressed, unpacked for the first figure."""
    code = get_plotlyjs()
    return code, _base64(gzip.compress(code.encode(), 9, mtime=0))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
