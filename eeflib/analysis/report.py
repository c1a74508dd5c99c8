"""A run as one HTML file that opens from disk or an e-mail attachment, without a network.

Owns the order of the sections, and those about the run itself: what was counted, how to reproduce
it, what it does not show. Knows nothing about simulation or training; reads the run folder only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eeflib.analysis import evidence, palette, results
from eeflib.analysis.collection import Collection
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import clean, code, escape, table
from eeflib.analysis.page import Ink, Section, document, inks, missing
from eeflib.analysis.report_data import BUDGET, browsable
from eeflib.analysis.run import TEACHER, Run
from eeflib.files import write_atomic
from eeflib.stats import win_rate

__all__ = ["render_report", "write_report"]


def write_report(
    run_dir: str | Path, out: str | Path | None = None, *, budget: int = BUDGET
) -> Path:
    """Write the report of the run in `run_dir`; return the file's path.

    An unfinished, partial or empty run gives a report that says what is missing.

    Args:
        run_dir: the run folder.
        out: the file; `report.html` in the run folder by default.
        budget: bytes that what can be browsed may take; see `report_data.browsable`.

    Raises:
        DataError: there is no such folder, or the file cannot be written.
    """
    run = Run(run_dir)
    path = run.path / "report.html" if out is None else Path(out)
    write_atomic(path, render_report(run, budget))
    return path


def render_report(run: Run, budget: int = BUDGET) -> str:
    """The report's HTML; see `write_report`."""
    found = Findings(run)
    collection = Collection.of(run)
    cases = {name: Findings(inner) for name, inner in run.cases().items()}
    looks = palette.method_looks(m for f in (found, *cases.values()) for m in f.methods)
    drawn = inks(looks)
    sections = [
        results.headline(found, drawn),
        results.paired(found, drawn),
        results.iterations(found, drawn),
        evidence.usual(found),
        evidence.failures(found),
        evidence.recovery(found),
        evidence.recovery_map(found),
        evidence.failure(found),
        results.gained(found),
        evidence.newly(found),
        evidence.simplicity(found),
        evidence.budget(found),
        *(case(name, inner, drawn) for name, inner in cases.items()),
        counted(found),
        reproduce(run),
        notes(found),
    ]
    return document(
        "Exploring Expert Failures",
        _about(run),
        results.lede(found),
        sections,
        looks,
        "Made by eeflib. The method is that of \u201cExploring Expert Failures Improves LLM Agent "
        "Tuning\u201d, arXiv 2504.13145. This page holds all its data and loads nothing.",
        browsable(collection, found.focus, budget),
    )


def _about(run: Run) -> str:
    config = run.manifest.get("config")
    config = config if isinstance(config, dict) else {}
    envs = sorted({t.env for group in run.trajectories.values() for t in group})
    env = run.summary.get("env") or config.get("env") or ", ".join(envs)
    out = [escape(env, 80)] if isinstance(env, str) and env else []
    for key in ("preset", "student"):
        if isinstance(config.get(key), str):
            out.append(f"{key} {escape(config[key], 80)}")
    if run.seeds:
        named = ", ".join(map(str, run.seeds[:12])) + (" \u2026" if len(run.seeds) > 12 else "")
        out.append(f"{len(run.seeds)} seed{'s' if len(run.seeds) > 1 else ''} ({named})")
    created = run.manifest.get("created")
    if isinstance(created, str):
        out.append(escape(created[:10]))
    return " &middot; ".join(out) or "An empty run folder"


def case(name: str, found: Findings, drawn: Mapping[str, Ink]) -> Section:
    """The methods of another case inside the run, such as a better teacher, in short."""
    run = found.run
    note = run.summary.get("note")
    title = f"Another case: {clean(name, 40).replace('-', ' ')}"
    body = f"<p>{escape(note, 400)}.</p>" if isinstance(note, str) and note else ""
    if run.teacher_outcomes:
        rate = win_rate(run.teacher_outcomes)
        body += (
            f"<p>The teacher solved {results.percent(rate.rate)} of its {rate.n} training tasks in "
            "this case.</p>"
        )
    body += results.headline(found, drawn).body + results.paired(found, drawn).body
    anchor = "case-" + "".join(c for c in name if c.isascii() and c.isalnum())
    return Section(anchor, title, clean(name, 24).replace("-", " "), body)


def counted(found: Findings) -> Section:
    """What was run, restored, skipped and trained on, counted from the records."""
    name = "What was counted"
    branches, samples = found.branches, found.samples
    methods = palette.order([*branches["method"], *samples["method"]])
    rows = []
    for method in methods:
        b, s = branches[branches["method"] == method], samples[samples["method"] == method]
        deep = b[b["k"] > 0]
        teacher = int(s["trained_teacher"].sum())
        counts = [
            int((b["restored"] & (b["k"] == 0)).sum()),
            int(deep["restored"].sum()),
            int((~deep["restored"]).sum()),
            int((b["fault"] != "").sum()),
            int(b["won"].sum()),
            len(s),
            int((s["trained"] == 0).sum()),
            teacher,
            int(s["trained"].sum()) - teacher,
        ]
        rows.append([escape(method or "(run)", 60), *(f"{n:,}" for n in counts)])
    head = (
        "Method",
        "rollouts from s\u2080",
        "states restored",
        "restores skipped",
        "faults",
        "rollouts won",
        "samples",
        "of them empty",
        "teacher actions",
        "student actions",
    )
    caption = (
        "Over all seeds and iterations. A state whose replayed observations differ from the "
        "recorded ones is skipped, never explored. An empty sample trains nothing. Actions: those "
        "that carry loss. Rollouts that two methods share stand in both rows."
    )
    body = (
        table(head, rows, numbers=range(1, 10), caption=caption)
        if rows
        else missing("Neither exploration nor training samples are recorded yet.")
    )
    reasons = branches.loc[branches["mismatch"] != "", "mismatch"].value_counts()
    if len(reasons):
        items = "".join(f"<li>{n} &times; {code(why)}</li>" for why, n in reasons.head(5).items())
        body += f"<h3>Why restores were skipped</h3><ul>{items}</ul>"
    body += _noted(found) + _never(found)
    problems = found.run.problems
    if problems:
        items = "".join(f"<li>{code(p)}</li>" for p in problems[:20])
        more = f"<li>and {len(problems) - 20} more</li>" if len(problems) > 20 else ""
        body += f"<h3>Unreadable: {len(problems)} lines left out</h3><ul>{items}{more}</ul>"
    elif found.methods:
        body += '<p class="note">Every line of every file could be read.</p>'
    return Section("counted", name, "Counts", body)


def _noted(found: Findings) -> str:
    """Numbers that only the pipeline knows: tokens trained, samples dropped as too long, ..."""
    totals: dict[tuple[str, str], float] = {}
    for place, noted in found.run.phases("select"):
        for key, value in noted.items():
            if isinstance(value, int):
                totals[place.method, key] = totals.get((place.method, key), 0) + value
    known = {"method", "win_rate", "reward", "simulations", "seconds", "n", "sd_over_seeds"}
    for method, row in found.reported.items():
        for key, value in row.items():
            if key not in known and isinstance(value, (int, float)) and not isinstance(value, bool):
                totals[method, key] = value
    if not totals:
        return ""
    dropped = {k: int(n) for k, n in totals.items() if "dropped" in k[1] and n}
    said = "; ".join(f"{escape(m, 60)}: {n:,} {escape(key, 60)}" for (m, key), n in dropped.items())
    rows = [[escape(m, 60), escape(key, 60), f"{value:,}"] for (m, key), value in totals.items()]
    return (
        f"<p>Samples dropped before training: {said or 'none'}.</p>"
        '<details class="more"><summary>Tokens, solutions and further counts</summary>'
        f"{table(('Method', 'count', 'value'), rows, numbers=(2,))}</details>"
    )


def _never(found: Findings) -> str:
    """Training tasks no rollout of the explored iteration solved, with how far they got."""
    states = found.states[~found.states["teacher_solved"]]
    if states.empty:
        return ""
    won = states.groupby(["seed", "task_id", "level"])["wins"].sum()
    never = won[won == 0].index
    if not len(never):
        return "<p>Every task the teacher failed was solved from at least one state.</p>"
    best = found.branches.groupby(["seed", "task_id"])["reward"].max()
    rows = [
        [escape(task, 80), str(seed), escape(level, 40), f"{best.get((seed, task), 0.0):.2f}"]
        for seed, task, level in never[:60]
    ]
    more = f"The first 60 of {len(never)}." if len(never) > 60 else ""
    head = ("task", "seed", "level", "best reward of any rollout, all methods")
    return (
        f'<details class="more"><summary>{len(never)} tasks the teacher failed were won from no '
        f"state</summary>{table(head, rows, numbers=(1, 3), caption=more)}</details>"
    )


def reproduce(run: Run) -> Section:
    """Configuration, seeds, versions, state of the code."""
    name = "How to reproduce this"
    manifest = run.manifest
    if not manifest:
        text = "There is no readable <code>manifest.json</code>: what made this run is not known."
        return Section("reproduce", name, "Reproduce", missing(text))
    git = manifest.get("git")
    played = [t for group in run.trajectories.values() for t in group]
    facts: dict[str, Any] = {
        "command": manifest.get("command"),
        "seeds": run.seeds,
        "config hash": manifest.get("config_hash"),
        "code": _code_state(git) if isinstance(git, dict) else None,
        "python": manifest.get("python"),
        "platform": manifest.get("platform"),
        "CPUs": manifest.get("cpus"),
        "title nouns": ", ".join(sorted({str(t.extra.get("nouns") or "") for t in played} - {""})),
    }
    rows = [[key, code(value, 400)] for key, value in facts.items() if value not in (None, "", [])]
    versions = manifest.get("versions")
    if isinstance(versions, Mapping):
        listed = ", ".join(f"{k} {v}" for k, v in versions.items())
        rows.append(["versions", code(listed, 2000)])
    body = table(("What", "Value"), rows)
    config = manifest.get("config")
    if config:
        text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
        body += f"<h3>Configuration</h3><pre>{escape(text, 20000)}</pre>"
    body += (
        '<p class="note">The same configuration, seeds and versions give the same tasks, rollouts '
        "and samples; measured seconds differ.</p>"
    )
    return Section("reproduce", name, "Reproduce", body)


def _code_state(git: Mapping[str, Any]) -> str:
    return f"{git.get('commit', 'unknown')}{' with local changes' if git.get('changed') else ''}"


def notes(found: Findings) -> Section:
    """What the numbers do not show."""
    out = []
    seeds = {o.seed for group in found.outcomes.values() for o in group}
    if len(seeds) == 1:
        out.append(
            "<strong>One seed.</strong> Training is random: another seed may order the methods "
            "differently. Run several before concluding anything."
        )
    elif 1 < len(seeds) < 5:
        out.append(
            f"<strong>{len(seeds)} seeds</strong> are few for a test over seeds: its interval is "
            "wide, and its p-value depends on every single seed."
        )
    out.append(
        "Intervals of win rates treat evaluations as independent. Tasks of one seed share one "
        "trained student, so look at the seed sd and at the paired difference before believing a "
        "gap."
    )
    if len(found.paired) > 1:
        out.append("The p-values are not corrected for comparing with several methods at once.")
    if TEACHER in found.methods and TEACHER not in found.outcomes:
        out.append("The teacher is scored on training tasks: it is context, not a competitor.")
    tried = found.states[found.states["n"] > 0]
    if len(tried) and int(tried["n"].median()) == 1:
        out.append(
            "Most states were tried once. One lost rollout is weak evidence that the actions "
            "before it were harmful, one won rollout that they helped."
        )
    if len(tried):
        out.append(
            "An expert state is not easier than the start: many lie after the teacher's mistake. "
            "What counts is the union, the tasks solved from at least one of their states."
        )
    played = [t for group in found.run.trajectories.values() for t in group if t.steps]
    if played and all(step.actor == "human" for t in played for step in t.steps):
        out.append(
            "A person played these episodes: what this page calls the teacher is the player."
        )
    if not found.outcomes:
        out.append("No student has been evaluated in this run yet.")
    body = f"<ul>{''.join(f'<li>{x}</li>' for x in out)}</ul>"
    return Section("notes", "What these numbers do not show", "Limits", body)
