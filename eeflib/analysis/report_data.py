"""What the report lets a reader browse, as plain JSON values: trajectories, rollouts, samples.

Owns the shape of that data, which the scripts in `assets/report/` read, and how it is kept small.
Knows nothing about the page around it.

| key | holds |
|---|---|
| `texts` | every text once, see `eeflib.analysis.report_texts`; other keys name texts by number |
| `kinds` | kind of failure -> [title, meaning] |
| `items` | the teacher's trajectories |
| `tries` | the student's rollouts from states of them, by item, then by k |
| `samples` | training sequences, each with a label and a trained flag per step |
| `said` | what was left out or cut to keep the file small, in words |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from eeflib.analysis.actions import action_kind
from eeflib.analysis.annotations import Annotation, Annotations, corrected
from eeflib.analysis.branchfile import BranchIndex
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import LIMIT, clean
from eeflib.analysis.report_texts import Texts, inert_json, packed
from eeflib.analysis.taxonomy import KINDS
from eeflib.analysis.views.recovery import RecoveryData
from eeflib.records import Branch, Sample, Step, Trajectory

__all__ = ["BUDGET", "browsable"]

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
    texts, said = Texts(limit), []
    if limit < LIMIT:
        said.append(f"Texts are cut after {limit:,} characters to keep this file small.")
    run = collection.run
    notes = Annotations(run.path).by_key() if run else {}
    shown = RecoveryData(collection)
    items = [_item(item, texts, notes.get(item.key, ())) for item in collection]
    tries: list[dict[str, list[Any]]] = []
    if rollouts:
        tries = [_tries(item, shown.branches, texts) for item in collection]
    elif shown.cells:
        said.append("The student's rollouts are left out: this run is too large for one file.")
    samples = _samples(collection, focus, texts) if rollouts else []
    if len(samples) == _SAMPLES:
        said.append(f"Of the training sequences the first {_SAMPLES} are here.")
    used = {f.kind for x in collection if x.diagnosis for f in x.diagnosis.findings}
    return {
        "texts": texts.rows,
        "kinds": {k: [v.title, v.meaning] for k, v in KINDS.items() if k in used},
        "explored": {"method": texts(shown.method), "iteration": shown.iteration},
        "items": items,
        "tries": tries,
        "samples": samples,
        "focus": texts(focus),
        "said": said,
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
