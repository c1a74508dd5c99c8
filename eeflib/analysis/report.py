"""A run as one HTML file that opens from disk or an e-mail attachment, without a network.

Import `write_report`, or `write_comparison` for two runs. Both read run folders only: nothing is
simulated or trained. What the page says, and which figure and table stand where, is in
`assets/report.html`, a jinja2 template; here is what it is filled with. Plotly draws a figure when
it is scrolled to, and below each is the table behind it, so that a browser without scripts shows
the findings too. Counts lead to their episodes in the viewer (`eeflib.analysis.viewer`).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eeflib.analysis import figures, style, tables, taxonomy, viewer
from eeflib.analysis.annotations import Key
from eeflib.analysis.collection import Collection, counted
from eeflib.analysis.compare import Comparison
from eeflib.analysis.findings import LAST, Findings, change_tag
from eeflib.analysis.markup import clean, inert, template
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.tables import number
from eeflib.analysis.taxonomy import KINDS, explained
from eeflib.files import write_atomic
from eeflib.stats import caution, mean_reward, per_seed, sample, win_rate

Row = Mapping[str, Any]
Lead = Mapping[str, str] | Callable[[Row, str], str]
"""Where a cell leads: values of the viewer's filters, `{column}` being the row's; or a function of
row and column."""


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
    found = Findings(run)
    cases = {n: Findings(x) for n, x in run.cases().items() if x.has("evaluations.jsonl")}
    skipped = found.branches["mismatch"]
    left_out: list[str] = []
    page = _page(
        Links(found.collection, found.tags),
        viewer.viewer_data(found.collection, tags=found.tags, budget=budget, notices=left_out),
        left_out=left_out,
        title="Exploring Expert Failures",
        about=_about(run),
        found=found,
        cases=cases,
        looks=style.method_looks(m for f in (found, *cases.values()) for m in f.methods),
        by=_grouping(found.trajectories),
        failed_by=_grouping(found.failures, ("policy", "level", "task_type")),
        bias=_bias(found),
        skipped=list(skipped[skipped != ""].value_counts().head(5).items()),
        reproduce=_reproduce(run),
    )
    write_atomic(path, page)
    return path


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write two runs against each other as one HTML file; return its path.

    In words what it comes to, then measures, tasks, actions, failures.

    Raises:
        DataError: the file cannot be written.
    """
    a, b = comparison.names
    title, about = "Two runs compared", [f"{b} against {a}"]
    nowhere = Links(Collection([]), {})
    write_atomic(Path(path), _page(nowhere, title=title, about=about, comparison=comparison))
    return Path(path)


# -- tables, figures, links -----------------------------------------------------------------------


WORDS = {
    "a_reward": "reward before", "any": "found in", "attempts": "rollouts a state",
    "b_reward": "reward after", "best": "best reward", "both": "solved by both", "change": "",
    "cost_usd": "dollars", "empty": "of them empty", "failed": "\u25bc failed",
    "from_s0": "from s\u2080", "gained": "\u25b2 gained", "k": "state k",
    "low": "95\u202f% interval", "lost": "\u25bc lost", "meaning": "", "n": "of", "name": "",
    "never": "by neither", "only_deeper": "\u25b2 only from a later state", "p_won": "share",
    "rate": "share", "restored": "states restored",
    "seconds": "seconds a seed", "skipped": "restores skipped", "solved": "\u25b2 solved",
    "starts": "rollouts from s\u2080",
    "steps": "simulated steps", "steps_per_found": "steps a task",
    "steps_per_gained": "steps a task gained", "student": "student actions", "t": "after actions",
    "task_id": "task", "teacher": "teacher actions", "total": "of", "usd_per_found":
    "dollars a task", "wins": "won",
}  # fmt: skip
"""Headings of columns that are not called what they hold."""


def table(
    links: Links,
    rows: pd.DataFrame,
    columns: str | Sequence[str],
    leads: Mapping[str, Lead] | None = None,
    limit: int = 60,
    **words: str,
) -> dict[str, Any]:
    """Columns of a frame as text: `head`, `rows` of (text, address, whether a number), `total`.

    Args:
        columns: names; `low` stands for the interval from `low` to `high`.
        leads: column -> where its cells lead.
        limit: rows at most; `total` counts all.
        words: column -> heading, where it is neither of `WORDS` nor its name.
    """
    names = columns.split() if isinstance(columns, str) else list(columns)

    def cell(row: Row, name: str) -> tuple[str, str, bool]:
        text = span(row["low"], row["high"]) if name == "low" else shown(name, row[name])
        href = links.cell(leads[name], row, name) if leads and name in leads else ""
        return text, href, name == "low" or not isinstance(row[name], str)

    records: list[Any] = rows.head(limit).to_dict("records")
    return {
        "head": [words.get(name, WORDS.get(name, name.replace("_", " "))) for name in names],
        "rows": [[cell(row, name) for name in names] for row in records],
        "total": len(rows),
    }


def shown(name: str, value: Any) -> str:
    """A value as a reader expects it in a column of that name; a dash for nan."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return "\u2013"
    if name in ("share", "rate", "p_won"):
        return percent(value)
    if name.removeprefix("a_").removeprefix("b_") in ("reward", "best"):
        return f"{value:.2f}"
    if name in ("a", "b", "difference", "p", "q"):
        return f"{value:.3f}".replace("-", "\u2212")
    if "usd" in name or "dollars" in name:
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
    text = f"{low * 100:.1f} \u2013 {high * 100:.1f}".replace("-", "\u2212")
    return "" if math.isnan(low + high) else text


def p_text(p: float) -> str:
    """`p = 0.04`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def kind_title(name: str) -> str:
    """The title of a kind of failure; what is none stays as it is."""
    return KINDS[name].title if name in KINDS else name


def chart(links: Links, figure: go.Figure, *args: Any, **words: Any) -> dict[str, Any]:
    """A figure for the page, and the table behind it, whose arguments are those of `table`.

    Its title and note are text of the page; `nothing` says why there is nothing to draw.
    """
    bare, meta = figures.bare(figure), figure.layout.meta or {}
    return {
        **{name: meta.get(name) or "" for name in ("title", "note", "nothing")},
        "json": inert(bare.to_json()),
        "height": bare.layout.height or 380,
        "numbers": table(links, *args, **words) if args else None,
    }


RANGES = ("steps", "reward", "shown")
"""Filters of the viewer that take the least and the most."""


class Links:
    """Addresses of lists of episodes in the viewer; empty where a list would be."""

    def __init__(self, collection: Collection, tags: Mapping[Key, Sequence[str]]) -> None:
        self.collection = collection
        self._at: dict[tuple[str, str], set[int]] = defaultdict(set)
        for i, x in enumerate(collection):
            facts = {"method": x.key.method, "seed": str(x.key.seed), "outcome": x.outcome}
            facts |= {"failure": x.failure, "level": x.level, "model": x.trajectory.policy}
            if x.key.method != TEACHER:
                facts["iteration"] = str(x.key.iteration)
            more = [("task", x.trajectory.task_id), ("task", x.shared)]
            more += [("tag", tag) for tag in tags.get(x.key, ())]
            more += [("counted", name) for name in counted(x)]
            if x.diagnosis:
                more += [("finding", kind) for kind in x.diagnosis.kinds]
                more += [("explained", name) for name in explained(x.failure)]
            for fact in (*facts.items(), *more):
                self._at[fact].add(i)

    def __call__(self, **wanted: Any) -> str:
        """The list of episodes with these values of method, seed, outcome, tag and so on.

        An empty value is no filter; `steps`, `reward` and `shown` take `from~to`.
        """
        asked = {name: str(value) for name, value in wanted.items() if value != ""}
        found = [self._at.get(fact, set()) for fact in asked.items() if fact[0] not in RANGES]
        # The viewer cuts texts of more than 200 characters.
        if not found or max(map(len, asked.values())) > 200 or not set.intersection(*found):
            return ""
        return f"#!t?{urlencode({name: clean(value) for name, value in asked.items()})}"

    def cell(self, lead: Lead, row: Row, name: str) -> str:
        """Where a cell leads; a count of none leads nowhere."""
        if name in row and row[name] == 0:
            return ""
        if callable(lead):
            return lead(row, name)

        def filled(value: str) -> str:  # not str.format: a method may be called anything
            return re.sub(r"\{(\w+)\}", lambda m: str(row.get(m[1], m[0])), value)

        return self(**{key: filled(value) for key, value in lead.items()})

    def task(self, row: Row, name: str = "") -> str:
        """The teacher's trajectories on a row's task."""
        return self(method=TEACHER, task=row["task_id"], seed=row["seed"])

    def state(self, row: Row, name: str) -> str:
        """The rollouts from the state `s3` (a column of that name), else from the row's k."""
        k = row["k"] if "k" in row else name[1:]
        at = self.collection.position(Key(row["seed"], TEACHER, 0, row["trajectory_id"]))
        return f"#!map/{at}/{k}" if at is not None and row.get(name, "") != "" else ""


# -- what the template cannot compute -------------------------------------------------------------


def method_row(found: Findings, method: str) -> Row:
    """A method's results on the test tasks; the teacher's own without any: on what it recorded."""
    own = method not in found.outcomes
    outcomes = found.run.teacher_outcomes if own else found.outcomes[method]
    said = found.reported.get(method, {})
    return {
        "name": method,
        "own": own,
        "n": [rate.n for rate in per_seed(outcomes).values()],
        "rate": win_rate(outcomes),
        "reward": mean_reward(outcomes),
        "after": early(found, method),
        **{name: number(said.get(name)) for name in ("simulations", "steps", "seconds")},
    }


def early(found: Findings, method: str) -> int:
    """Iterations after which the focus and `method` are compared; 0: both after all of theirs."""
    last = found.iteration(method)
    return last if 0 < last < found.iteration(found.focus) else 0


def paired_rows(found: Findings) -> pd.DataFrame:
    """The focus against each other method."""
    rows = []
    for method, p in found.paired.items():
        after = early(found, method)
        name = f"{p.a} \u2212 {p.b}" + (f" ({after} it.)" if after else "")
        gap = f"{points(p.mean)} points"
        rows.append([name, p.a, p.b, gap, p.low, p.high, p.p, p.n, p.gained, p.lost])
    names = "name method other difference low high p seeds gained lost"
    return pd.DataFrame(rows, columns=names.split())


def _grouping(rows: pd.DataFrame, names: Sequence[str] = ("level", "task_type", "policy")) -> str:
    """The first of the columns that tells groups apart; `level` where none does."""
    return next((name for name in names if rows[name].nunique() > 1), "level")


GROUPED = {"level": "level", "task_type": "tag", "policy": "model"}
"""Column that tells groups apart -> the viewer's filter by it."""


def group_lead(by: str, **more: str) -> dict[str, str]:
    """Where the count of a group leads: the teacher's episodes of it."""
    value = "task type {group}" if by == "task_type" else "{group}"
    return {"method": TEACHER, GROUPED[by]: value, **more}


def model_columns(found: Findings) -> tuple[pd.DataFrame, dict[str, Lead]]:
    """(a row per task that all models tried, their best rewards side by side; where each leads)."""
    rows = found.by_model
    sign = rows["solved"].map({True: "\u2713 ", False: "\u2717 "})
    cells = rows.assign(cell=sign + rows["reward"].map("{:.2f}".format))
    wide = cells.pivot(index=["seed", "task_id", "solvers"], columns="policy", values="cell")
    models = [str(p) for p in found.teachers["policy"]]
    leads: dict[str, Lead] = {
        p: {"method": TEACHER, "model": p, "task": "{task_id}", "seed": "{seed}"} for p in models
    }
    return wide[models].rename_axis(columns=None).reset_index(), leads


def _bias(found: Findings) -> Row | None:
    """The kind of action most over-represented in the teacher's failures, with its shares."""
    shares = found.actions.pivot(index="kind", columns="source", values="share")
    if not {"teacher successes", "teacher failures"} <= set(shares.columns):
        return None
    gap = shares["teacher failures"] - shares["teacher successes"]
    gap = gap.drop(["invalid", "other kinds"], errors="ignore")
    if gap.empty:
        return None
    kind = str(gap.idxmax())
    return {"kind": kind, "gap": gap[kind], "shares": shares.loc[kind].to_dict()}


def shares_lead(found: Findings, links: Links) -> Lead:
    """Where a share of actions leads: to the episodes, or the training data, of its source."""
    gained, both = (change_tag(change, found.baseline) for change in ("gained", "both"))
    leads = {
        "teacher successes": links(method=TEACHER, outcome="solved"),
        "teacher failures": links(method=TEACHER, outcome="failed"),
        f"{found.focus}, tasks gained": links(method=found.focus, tag=gained),
        f"{found.focus}, tasks {found.baseline} solves too": links(method=found.focus, tag=both),
        found.focus: "#!s",
    }
    return lambda row, _: leads.get(row["source"], "")


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of a comparison, its interval as text in the unit of the difference."""
    bounds = zip(rows["low"], rows["high"], strict=True)
    text = [" \u2013 ".join(shown("difference", x) for x in pair) for pair in bounds]
    return rows.assign(interval=text)


def changed_tasks(comparison: Comparison) -> pd.DataFrame:
    """Tasks gained, then lost, with the kind of failure of the side that did not solve them."""
    rows = comparison.tasks[comparison.tasks["change"].isin(["gained", "lost"])]
    failure = rows["a_kind"].where(rows["change"] == "gained", rows["b_kind"]).map(kind_title)
    return rows.assign(failure=failure).sort_values("change", kind="stable")


def _about(run: Run) -> list[str]:
    config = run.manifest.get("config")
    config = config if isinstance(config, dict) else {}
    envs = sorted({t.env for group in run.trajectories.values() for t in group})
    out = [run.summary.get("env") or config.get("env") or ", ".join(envs)]
    out += [f"{key} {config[key]}" for key in ("preset", "student") if config.get(key)]
    if run.seeds:
        named = ", ".join(map(str, run.seeds[:12])) + (" \u2026" if len(run.seeds) > 12 else "")
        out.append(f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''} ({named})")
    return [clean(x, 80) for x in (*out, str(run.manifest.get("created", ""))[:10]) if x]


def _reproduce(run: Run) -> tuple[dict[str, str], str] | None:
    """Facts, and the configuration as JSON; None: no manifest can be read."""
    manifest = run.manifest
    if not manifest:
        return None
    git, versions, config = (manifest.get(name) for name in ("git", "versions", "config"))
    nouns = {str(t.extra.get("nouns") or "") for group in run.trajectories.values() for t in group}
    facts = {
        "command": manifest.get("command"),
        "seeds": run.seeds,
        "config hash": manifest.get("config_hash"),
        **{name: manifest.get(name) for name in ("python", "platform")},
        "CPUs": manifest.get("cpus"),
        "title nouns": ", ".join(sorted(nouns - {""})),
    }
    if isinstance(git, Mapping):
        changed = " with local changes" if git.get("changed") else ""
        facts["code"] = f"{git.get('commit', 'unknown')}{changed}"
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    known = {k: clean(v, 2000) for k, v in facts.items() if v not in (None, "", [])}
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str) if config else ""
    return known, text


# -- the page -------------------------------------------------------------------------------------


def _page(links: Links, data: bytes = b"", **content: Any) -> str:
    """The whole document.

    Its policy lets only its own scripts run, known by their hashes, whatever text it holds, and
    lets it load nothing from anywhere.

    Args:
        data: what can be browsed, from `viewer.viewer_data`; empty: nothing can.
        content: what the template names.
    """
    drawing, (plotly, packed) = style.asset("report.js"), _plotly()
    browsing = f"{viewer.script()}\nstartReport();" if data else ""
    scripts = [x for x in (drawing, browsing, plotly) if x]
    hashes = [f"'sha256-{_base64(hashlib.sha256(x.encode()).digest())}'" for x in scripts]
    sheet = style.themed(":root") + (viewer.sheet() if data else "") + style.asset("report.css")
    words = (percent, points, p_text, span, shown, kind_title, change_tag, sample, caution)
    rows = (method_row, paired_rows, differences, changed_tasks, win_rate)
    computed = (*words, *rows, shares_lead, group_lead, model_columns, viewer.transcript_html)
    text = template("report.html").render(
        **{f.__name__: f for f in computed},
        **{"figures": figures, "tables": tables, "taxonomy": taxonomy},
        **{"LAST": LAST, "TEACHER": TEACHER, "CHANGES": tables.CHANGES},
        **content,
        link=links,
        nowhere=Links(Collection([]), {}),
        table=partial(table, links),
        chart=partial(chart, links),
        policy=f"default-src 'none'; script-src {' '.join(hashes)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; "
        "form-action 'none'",
        sheet=Markup(sheet),
        drawing=Markup(drawing),
        browsing=Markup(browsing),
        plotly=packed,
        look=inert(json.dumps({"twins": style.twins(), "config": figures.CONFIG})),
        data=_base64(data),
    )
    return f"{text.strip()}\n"


@cache
def _plotly() -> tuple[str, Markup]:
    """plotly.js as it runs, and as a page holds it: compressed, unpacked for the first figure."""
    code = get_plotlyjs()
    return code, _base64(gzip.compress(code.encode(), 6, mtime=0))


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode())
