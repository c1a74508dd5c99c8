"""The viewer: trajectories, transcripts, the recovery map, training data, loss masks, annotations.

Import `viewer_data`, `script` and `sheet` for a page; `eeflib.analysis.widget.Viewer` shows the
same ES module, `assets/viewer.js`, in a notebook. `transcript_html` needs no script.

What a reader can browse is one JSON object, compressed:

| key | holds |
|---|---|
| `texts` | every text once |
| `kinds` | kind of failure -> [title, meaning, what it tells] |
| `explored` | whose rollouts are shown: method, iteration |
| `items` | trajectories, by position in the collection; null where one was left out |
| `tries` | the student's rollouts from states of them, by item, then by k |
| `focus` | the method whose training data is shown |
| `samples` | training sequences, each with a label and a trained flag per step |
| `masks` | in a notebook: encoded training sequences; tokens are sent when asked for |
| `notices` | what was left out or cut to keep the data small, in words |

All other keys name texts by number.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from markupsafe import Markup

from eeflib.analysis import style
from eeflib.analysis.annotations import Annotation, Annotations, Key, corrected
from eeflib.analysis.collection import Collection, Item, counted
from eeflib.analysis.markup import LIMIT, clean, template
from eeflib.analysis.run import TEACHER
from eeflib.analysis.segments import Segment, state_text
from eeflib.analysis.taxonomy import KINDS, Diagnosis, action_kind, explained
from eeflib.errors import DataError
from eeflib.records import Branch, Sample, Step, Trajectory
from eeflib.states import StateOutcome

BUDGET = 4_300_000
"""Bytes of the compressed data at most."""

_SAMPLES = 600
"""Training sequences that can be browsed at most."""

# What is given up in turn until the data fits: (students' episodes no tag names, characters of a
# text, rollouts).
_MEASURES: tuple[tuple[bool, int, bool], ...] = (
    (True, LIMIT, True),
    (False, LIMIT, True),
    (False, 1500, False),
    (False, 400, False),
    (False, 80, False),
)


class Texts(dict[str, int]):
    """Text -> its number, given when it is first asked for; 0 is the empty text."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]


@cache
def script() -> str:
    """The viewer as an ES module."""
    return style.asset("viewer.js")


@cache
def sheet() -> str:
    """The viewer's style sheet, scoped to `.eef`, with the colours of light and dark themes."""
    return style.themed(".eef") + style.asset("viewer.css")


def viewer_data(
    collection: Collection,
    *,
    tags: Mapping[Key, Sequence[str]] | None = None,
    budget: int = BUDGET,
    more: Mapping[str, Any] | None = None,
    notices: list[str] | None = None,
) -> bytes:
    """What can be browsed, as JSON, gzipped; as complete as the budget allows.

    Args:
        collection: the trajectories; an item is named by its position among them.
        tags: words to find trajectories by, such as `gained`; a student's episode without any is
            the first to be left out.
        budget: bytes.
        more: further keys.
        notices: gets what was left out or cut, in words.
    """
    out, data = b"", dict[str, Any]()
    for measure in _MEASURES:
        data = browsable(collection, tags or {}, *measure) | dict(more or {})
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        out = gzip.compress(text.encode(), 6, mtime=0)
        if len(out) <= budget:
            break
    if notices is not None:
        notices += data["notices"]
    return out


def browsable(
    collection: Collection,
    tags: Mapping[Key, Sequence[str]],
    everybody: bool,
    limit: int,
    rollouts: bool,
) -> dict[str, Any]:
    """What can be browsed, see `viewer_data`.

    Args:
        everybody: also students' episodes without a tag.
        limit: characters of a text.
        rollouts: also the student's rollouts and the training sequences.
    """
    texts, notices = Texts({"": 0}), []
    kept = [
        x if everybody or x.key.method == TEACHER or tags.get(x.key) else None for x in collection
    ]
    if None in kept:
        notices.append(
            f"{kept.count(None):,} episodes of students are left out to keep this small: those "
            "that nothing on the page points at."
        )
    if limit < LIMIT:
        notices.append(f"Texts are cut after {limit:,} characters to keep this small.")
    run, explored = collection.run, collection.branches
    notes = Annotations(run.path).by_key() if run else {}
    status = _states(collection)
    tries: list[dict[str, list[Any]]] = []
    focus, samples = "", list[dict[str, Any]]()
    if rollouts:
        tries = [_tries(x, collection, texts) if x else {} for x in kept]
        focus, samples = _samples(collection, texts)
    elif status:
        notices.append("The student's rollouts are left out: this run is too large for one file.")
    if len(samples) == _SAMPLES:
        notices.append(f"Of the training sequences the first {_SAMPLES} are here.")
    used = {f.kind for x in kept if x and x.diagnosis for f in x.diagnosis.findings}
    return {
        "kinds": {k: [v.title, v.meaning, explained(k)] for k, v in KINDS.items() if k in used},
        "explored": {"method": texts[explored.method], "iteration": explored.iteration},
        "items": [
            x and _item(x, texts, status.get(x.key, ()), notes.get(x.key, ()), tags.get(x.key, ()))
            for x in kept
        ],
        "tries": tries,
        "samples": samples,
        "focus": texts[focus],
        "notices": notices,
        "texts": [clean(text, limit) for text in texts],
    }


def _states(collection: Collection) -> dict[Key, list[list[Any]]]:
    """Teacher's trajectory -> its states [k, t, n, wins, status], also those never tried."""
    out: dict[Key, list[list[Any]]] = {}
    if collection.states is None:
        return out
    known = collection.states[collection.states["k"] >= 0]
    columns = ("seed", "trajectory_id", "k", "t", "n", "wins", "status")
    for seed, name, *state in known[list(columns)].itertuples(index=False):
        out.setdefault(Key(int(seed), TEACHER, 0, name), []).append(state)
    return out


def _item(
    item: Item,
    texts: Texts,
    states: Sequence[Any],
    notes: Sequence[Annotation],
    tags: Sequence[str],
) -> dict[str, Any]:
    t, key, task, usage = item.trajectory, item.key, item.task, item.usage
    named = {
        **{"id": t.id, "task": t.task_id, "goal": t.instruction, "env": t.env, "policy": t.policy},
        **{"method": key.method, "split": task.split if task else "", "level": item.level},
        **{"error": t.error, "last": t.final_observation, "same": item.shared or t.task_id},
    }
    found = item.diagnosis.findings if item.diagnosis else ()
    return {
        **{name: texts[text] for name, text in named.items()},
        "iteration": key.iteration,
        "seed": key.seed,
        "outcome": item.outcome,
        "failure": item.failure,
        "reward": round(t.reward, 4),
        "unrated": not t.rated,
        "counted": counted(item),
        "needed": round(t.threshold, 4),
        "limit": t.truncated,
        "steps": _steps(t.steps, t.env, texts),
        "states": states,
        "why": [[f.kind, f.t, texts[f.text], texts[f.rule]] for f in found],
        "tags": [texts[tag] for tag in tags],
        "tokens": item.tokens,
        "cost": None if usage.cost_usd is None else round(usage.cost_usd, 6),
        "seconds": round(usage.seconds, 1),
        **people_said(item, notes, texts.__getitem__),
    }


def people_said(
    item: Item, notes: Sequence[Annotation], texts: Callable[[str], Any]
) -> dict[str, Any]:
    """What people wrote about an item, and its segments with their corrections.

    Args:
        texts: what becomes of each text: its number, or the text itself made harmless.
    """
    parts = corrected(item.segments, notes, item.trajectory.length)
    rows = [
        [a.kind, texts(a.text), a.start, a.stop, texts(a.author), texts(a.day), a.id] for a in notes
    ]
    segments = [[p.start, p.stop, p.label, texts(p.evidence)] for p in parts]
    return {"segments": segments, "notes": rows or None}


def _steps(steps: Iterable[Step], env: str, texts: Texts) -> list[list[Any]]:
    """Per step [saw, action, actor, kind, thought, reply, reason if not valid, score].

    What is usual at the end of a row is left out.
    """
    out = []
    for s in steps:
        usual = f"Thought: {s.thought}\nAction: {s.action}"
        plain = not s.reply or s.reply.split() in (s.action.split(), usual.split())
        row: list[Any] = [
            texts[s.observation],
            texts[s.action],
            texts[s.actor],
            texts[action_kind(s.action, env, s.valid)],
            texts[s.thought],
            0 if plain else texts[s.reply],
            None if s.valid else texts[s.reason or "no reason recorded"],
            None if s.score is None else round(s.score, 4),
        ]
        while row and row[-1] in (None, 0):
            row.pop()
        out.append(row)
    return out


def _tries(item: Item, collection: Collection, texts: Texts) -> dict[str, list[Any]]:
    """State k -> its rollouts."""
    ks = dict.fromkeys(s.k for s in item.states if s.k >= 0)
    found = {str(k): collection.branches.at(item, k) for k in ks}
    return {k: [_try(b, texts) for b in group] for k, group in found.items() if group}


def _try(b: Branch, texts: Texts) -> dict[str, Any]:
    r: Trajectory | None = b.rollout
    if r is None:
        return {"t": b.t, "why": texts[b.restore_mismatch or "no reason recorded"]}
    return {
        "t": b.t if b.k else 0,
        "won": b.won,
        "reward": round(r.reward, 4),
        "policy": texts[r.policy],
        "error": texts[r.error],
        "steps": _steps(r.steps, r.env, texts),
        "last": texts[r.final_observation],
    }


def _samples(collection: Collection, texts: Texts) -> tuple[str, list[dict[str, Any]]]:
    """A method, EEF if it is there, and the first training sequences of its last iteration."""
    run = collection.run
    places = [place for _, place in run.files("samples.jsonl")] if run else []
    methods = style.order(place.method for place in places)
    if run is None or not methods:
        return "", []
    focus = next((m for m in methods if style.family(m) == "eef"), methods[-1])
    last = max(place.iteration for place in places if place.method == focus)
    chosen = (
        (place.seed, s)
        for place, s in run.samples()
        if place.method == focus and place.iteration == last
    )
    return focus, [_sample(s, seed, collection, texts) for seed, s in islice(chosen, _SAMPLES)]


def _sample(s: Sample, seed: int, collection: Collection, texts: Texts) -> dict[str, Any]:
    return {
        "id": texts[s.id],
        "task": texts[s.task_id],
        "goal": texts[s.instruction],
        "seed": seed,
        "kind": clean(s.kind, 20),
        "source": texts[s.source],
        "labels": list(s.labels),
        "trained": [int(x) for x in s.trained],
        "steps": _steps(s.steps, s.env, texts),
    }


def transcript_html(
    trajectory: Trajectory,
    *,
    segments: Sequence[Segment] = (),
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
    limit: int = LIMIT,
) -> str:
    """A transcript that needs neither script nor style sheet, and so survives anywhere.

    Args:
        segments: labelled segments covering its actions, see `eeflib.analysis.segments`; or none.
        states: expert states to mark between the actions, with what was won from them.
        diagnosis: why it failed.
        limit: characters of one text at most.

    Raises:
        DataError: the segments do not cover the trajectory's actions once and in order.
    """
    t = trajectory
    covered = [i for s in segments for i in range(s.start, s.stop)]
    if covered and covered != list(range(t.length)):
        raise DataError(
            f"segments do not cover the {t.length} actions of trajectory {t.id!r} once and in "
            "order; compute them from this trajectory"
        )
    return Markup(
        template("transcript.html").render(
            t=t,
            labelled=bool(segments),
            parts=segments or [Segment(0, t.length, "unknown")],
            states=states,
            findings=diagnosis.findings if diagnosis else (),
            limit=limit,
            kinds=KINDS,
            looks=style.LABELS,
            state_text=state_text,
            action_kind=action_kind,
        )
    )
