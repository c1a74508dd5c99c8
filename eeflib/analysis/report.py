"""A run as one HTML file that opens from disk or an e-mail attachment, without a network.

Import `write_report`. It reads the run folder only: nothing is simulated or trained. The page also
holds what a reader can browse, as JSON for the scripts in `assets/report/`:

| key | holds |
|---|---|
| `texts` | every text once: a string, or a separator and the numbers of its lines |
| `kinds` | kind of failure -> [title, meaning] |
| `items` | the teacher's trajectories |
| `tries` | the student's rollouts from states of them, by item, then by k |
| `samples` | training sequences, each with a label and a trained flag per step |
| `notices` | what was left out or cut to keep the file small, in words |

All other keys name texts by number.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from eeflib.analysis import report_sections as sections
from eeflib.analysis import style
from eeflib.analysis.annotations import Annotation, Annotations, corrected
from eeflib.analysis.collection import BranchIndex, Collection, Item
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import LIMIT, clean, code, escape, table
from eeflib.analysis.page import Section, document, missing
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.taxonomy import KINDS
from eeflib.analysis.taxonomy_rules import action_kind
from eeflib.analysis.views.recovery import RecoveryData
from eeflib.files import write_atomic
from eeflib.records import Branch, Sample, Step, Trajectory
from eeflib.stats import win_rate

__all__ = ["browsable", "write_report"]

_SEPARATORS = (" [SEP] ", "\n")
_LONG = 160
"""Characters from which on a text is cut into its lines."""


class Texts:
    """Text -> number; 0 is the empty text."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Args:
        limit: characters of a text at most; longer ones are cut, and say so.
        """
        self.limit = limit
        self._raw: dict[str, int] = {"": 0}
        self._numbers: dict[str, int] = {"": 0}
        self.rows: list[Any] = [""]
        """Per number a string, or [separator, numbers of its parts]."""

    def __call__(self, text: str) -> int:
        """The number of a text, made readable and harmless as everywhere (`markup.clean`)."""
        number = self._raw.get(text)
        if number is None:
            number = self._raw[text] = self._whole(clean(text, self.limit))
        return number

    def _whole(self, text: str) -> int:
        if text in self._numbers:
            return self._numbers[text]
        for number, separator in enumerate(_SEPARATORS):
            if len(text) >= _LONG and separator in text:
                parts = [self._piece(part) for part in text.split(separator)]
                return self._add(text, [number, *parts])
        return self._add(text, text)

    def _piece(self, text: str) -> int:
        return self._numbers[text] if text in self._numbers else self._add(text, text)

    def _add(self, text: str, row: Any) -> int:
        self._numbers[text] = len(self.rows)
        self.rows.append(row)
        return self._numbers[text]


def inert_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup, for a script tag of type application/json."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def packed(text: str) -> dict[str, str]:
    """JSON text as an object of compressed text, which browsers can unpack by themselves."""
    return {"gzip": base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()}


BUDGET = 4_300_000
"""Bytes of the data at most; with figures and scripts the file stays below 5 MB."""

_SAMPLES = 600
"""Training sequences that can be browsed at most."""

# What is given up in turn until the data fits: (characters of a text, with rollouts).
_MEASURES = ((LIMIT, True), (1500, True), (1500, False), (400, False), (80, False))


def browsable(collection: Collection, focus: str = "", budget: int = BUDGET) -> str:
    """The data as JSON text for a script tag, as complete as the budget allows.

    Args:
        collection: the teacher's trajectories of a run.
        focus: method whose training sequences are shown.
        budget: bytes.
    """
    text = ""
    for limit, rollouts in _MEASURES:
        text = inert_json(_data(collection, focus, limit, rollouts))
        if len(text.encode()) <= budget:
            break
        text = inert_json(packed(text))
        if len(text) <= budget:
            break
    return text


def _data(collection: Collection, focus: str, limit: int, rollouts: bool) -> dict[str, Any]:
    texts, notices = Texts(limit), []
    if limit < LIMIT:
        notices.append(f"Texts are cut after {limit:,} characters to keep this file small.")
    run = collection.run
    notes = Annotations(run.path).by_key() if run else {}
    shown = RecoveryData(collection)
    items = [_item(item, texts, notes.get(item.key, ())) for item in collection]
    tries: list[dict[str, list[Any]]] = []
    if rollouts:
        tries = [_tries(item, shown.branches, texts) for item in collection]
    elif shown.cells:
        notices.append("The student's rollouts are left out: this run is too large for one file.")
    samples = _samples(collection, focus, texts) if rollouts else []
    if len(samples) == _SAMPLES:
        notices.append(f"Of the training sequences the first {_SAMPLES} are here.")
    used = {f.kind for x in collection if x.diagnosis for f in x.diagnosis.findings}
    return {
        "texts": texts.rows,
        "kinds": {k: [v.title, v.meaning] for k, v in KINDS.items() if k in used},
        "explored": {"method": texts(shown.method), "iteration": shown.iteration},
        "items": items,
        "tries": tries,
        "samples": samples,
        "focus": texts(focus),
        "notices": notices,
    }


def _item(item: Item, texts: Texts, notes: Sequence[Annotation]) -> dict[str, Any]:
    t = item.trajectory
    parts = corrected(item.segments, notes, t.length)
    found = item.diagnosis.findings if item.diagnosis else ()
    out: dict[str, Any] = {
        "id": texts(t.id),
        "task": texts(t.task_id),
        "goal": texts(t.instruction),
        "env": texts(t.env),
        "policy": texts(t.policy),
        "seed": item.key.seed,
        "level": texts(item.level),
        "outcome": item.outcome,
        "failure": item.failure,
        "reward": round(t.reward, 4),
        "needed": round(t.threshold, 4),
        "limit": t.truncated,
        "error": texts(t.error),
        "steps": _steps(t.steps, t.env, texts),
        "last": texts(t.final_observation),
        "segments": [[p.start, p.stop, p.label, texts(p.evidence)] for p in parts],
        "states": [[s.k, s.t, s.n, s.wins] for s in item.states if s.k >= 0],
        "why": [[f.kind, f.t, texts(f.text), texts(f.rule)] for f in found],
    }
    usage = item.usage
    if item.tokens:
        out["tokens"] = item.tokens
    if usage.cost_usd is not None:
        out["cost"] = round(usage.cost_usd, 6)
    if usage.seconds >= 0.05:
        out["seconds"] = round(usage.seconds, 2)
    if notes:
        out["notes"] = [
            [a.kind, texts(a.text), a.start, a.stop, texts(a.author), texts(a.day)] for a in notes
        ]
    return out


def _steps(steps: Iterable[Step], env: str, texts: Texts) -> list[list[Any]]:
    """Per step [saw, action, actor, kind, thought, reply, reason if not valid, score].

    What is usual at the end of a row is left out.
    """
    out = []
    for s in steps:
        usual = f"Thought: {s.thought}\nAction: {s.action}"
        plain = not s.reply or s.reply.split() in (s.action.split(), usual.split())
        row: list[Any] = [
            texts(s.observation),
            texts(s.action),
            texts(s.actor),
            texts(action_kind(s.action, env, s.valid)),
            texts(s.thought),
            0 if plain else texts(s.reply),
            None if s.valid else texts(s.reason or "no reason recorded"),
            None if s.score is None else round(s.score, 4),
        ]
        while row and row[-1] in (None, 0):
            row.pop()
        out.append(row)
    return out


def _tries(item: Item, branches: BranchIndex, texts: Texts) -> dict[str, list[Any]]:
    """State k -> its rollouts."""
    out = {}
    for k in dict.fromkeys(s.k for s in item.states):
        if found := branches.at(item, k):
            out[str(k)] = [_try(b, texts) for b in found]
    return out


def _try(b: Branch, texts: Texts) -> dict[str, Any]:
    r: Trajectory | None = b.rollout
    if r is None:
        return {"t": b.t, "why": texts(b.restore_mismatch or "no reason recorded")}
    return {
        "t": b.t if b.k else 0,
        "won": b.won,
        "reward": round(r.reward, 4),
        "policy": texts(r.policy),
        "error": texts(r.error),
        "steps": _steps(r.steps, r.env, texts),
        "last": texts(r.final_observation),
    }


def _samples(collection: Collection, focus: str, texts: Texts) -> list[dict[str, Any]]:
    """Sequences of the focus method's last iteration, the first ones in order."""
    run = collection.run
    if run is None or not focus:
        return []
    iterations = [p.iteration for _, p in run.files("samples.jsonl") if p.method == focus]
    last = max(iterations, default=-1)
    chosen = (
        (place.seed, s)
        for place, s in run.samples()
        if place.method == focus and place.iteration == last
    )
    at = {(x.key.seed, x.trajectory.id): i for i, x in enumerate(collection)}
    return [_sample(seed, s, at, texts) for seed, s in islice(chosen, _SAMPLES)]


def _sample(seed: int, s: Sample, at: dict[tuple[int, str], int], texts: Texts) -> dict[str, Any]:
    return {
        "id": texts(s.id),
        "task": texts(s.task_id),
        "goal": texts(s.instruction),
        "seed": seed,
        "kind": clean(s.kind, 20),
        "start": s.start,
        "source": texts(s.source),
        "item": at.get((seed, s.source), -1),
        "labels": list(s.labels),
        "trained": [int(x) for x in s.trained],
        "steps": _steps(s.steps, s.env, texts),
    }


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
    looks = style.method_looks(m for f in (found, *cases.values()) for m in f.methods)
    parts = [
        sections.headline(found, looks),
        sections.paired(found, looks),
        sections.iterations(found, looks),
        sections.teacher(found),
        sections.failures(found),
        sections.recovery(found),
        sections.recovery_map(found),
        sections.failure(found),
        sections.gained(found),
        sections.newly_solved(found),
        sections.simplicity(found),
        sections.budget(found),
        *(case(name, inner, looks) for name, inner in cases.items()),
        counted(found),
        reproduce(run),
        notes(found),
    ]
    return document(
        "Exploring Expert Failures",
        _about(run),
        sections.summary(found),
        parts,
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


def case(name: str, found: Findings, looks: Mapping[str, style.Look]) -> Section:
    """The methods of another case inside the run, such as a better teacher, in short."""
    run = found.run
    note = run.summary.get("note")
    title = f"Another case: {clean(name, 40).replace('-', ' ')}"
    body = f"<p>{escape(note, 400)}.</p>" if isinstance(note, str) and note else ""
    if run.teacher_outcomes:
        rate = win_rate(run.teacher_outcomes)
        body += (
            f"<p>The teacher solved {sections.percent(rate.rate)} of its {rate.n} training tasks "
            "in this case.</p>"
        )
    body += sections.headline(found, looks).body + sections.paired(found, looks).body
    anchor = "case-" + "".join(c for c in name if c.isascii() and c.isalnum())
    return Section(anchor, title, clean(name, 24).replace("-", " "), body)


def counted(found: Findings) -> Section:
    """What was run, restored, skipped and trained on, counted from the records."""
    name = "What was counted"
    branches, samples = found.branches, found.samples
    methods = style.order([*branches["method"], *samples["method"]])
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
        "that carry loss. Rollouts that two methods share are counted in both rows."
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
    lost = "; ".join(f"{escape(m, 60)}: {n:,} {escape(key, 60)}" for (m, key), n in dropped.items())
    rows = [[escape(m, 60), escape(key, 60), f"{value:,}"] for (m, key), value in totals.items()]
    return (
        f"<p>Samples dropped before training: {lost or 'none'}.</p>"
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
