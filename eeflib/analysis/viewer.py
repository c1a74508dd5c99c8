"""The viewer: trajectories, transcripts, the recovery map, training data, loss masks, annotations.

Import `viewer_data`, `script` and `sheet` for a page; `eeflib.analysis.widget.Viewer` shows the
same ES module, `assets/viewer.js`, in a notebook. `transcript_html` needs no script.

What a reader can browse is one JSON object:

| key | holds |
|---|---|
| `texts` | every text once: a string, or a separator and the numbers of its lines |
| `kinds` | kind of failure -> [title, meaning] |
| `items` | trajectories, by position in the collection; null where one was left out |
| `tries` | the student's rollouts from states of them, by item, then by k |
| `samples` | training sequences, each with a label and a trained flag per step |
| `masks` | in a notebook: encoded training sequences; tokens are sent when asked for |
| `notices` | what was left out or cut to keep the data small, in words |

All other keys name texts by number.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from eeflib.analysis import style
from eeflib.analysis.annotations import Annotation, Annotations, Key, corrected
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import LIMIT, clean, escape
from eeflib.analysis.run import TEACHER
from eeflib.analysis.segments import Segment, state_text
from eeflib.analysis.taxonomy import KINDS, Diagnosis
from eeflib.analysis.taxonomy_rules import action_kind
from eeflib.errors import DataError
from eeflib.records import Branch, Sample, Step, Trajectory
from eeflib.states import StateOutcome

__all__ = ["BUDGET", "inert_json", "script", "sheet", "transcript_html", "viewer_data"]

BUDGET = 4_300_000
"""Bytes of a report's data at most."""

_SEPARATORS = (" [SEP] ", "\n")
_LONG = 160
"""Characters from which on a text is cut into its lines."""
_SAMPLES = 600
"""Training sequences that can be browsed at most."""

# What is given up in turn until the data fits: (students' episodes no tag names, characters of a
# text, rollouts).
_MEASURES: tuple[tuple[bool, int, bool], ...] = (
    (True, LIMIT, True),
    (False, LIMIT, True),
    (False, 1500, True),
    (False, 1500, False),
    (False, 400, False),
    (False, 80, False),
)


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
    focus: str = "",
    tags: Mapping[Key, Sequence[str]] | None = None,
    budget: int = BUDGET,
) -> str:
    """What can be browsed, as JSON text for a script tag, as complete as the budget allows.

    Args:
        collection: the trajectories; an item is named by its position among them.
        focus: method whose training sequences are shown.
        tags: words to find trajectories by, such as `gained`; a student's episode without any is
            the first to be left out.
        budget: bytes.
    """

    def data(*measure: Any) -> dict[str, Any]:
        return browsable(collection, focus, tags or {}, *measure)

    return fitting(data, budget, {}, pack=True)


def fitting(
    data: Callable[..., dict[str, Any]], budget: int, more: Mapping[str, Any], *, pack: bool = False
) -> str:
    """The JSON text of `data` and `more`, with as much given up as the budget asks for.

    Args:
        data: of (whether all students' episodes, characters of a text, whether rollouts).
        budget: bytes.
        pack: compress what is too large, before anything else is given up.
    """
    text = ""
    for measure in _MEASURES:
        text = inert_json({**data(*measure), **more})
        if len(text.encode()) <= budget:
            break
        if pack:
            text = inert_json(packed(text))
            if len(text) <= budget:
                break
    return text


def browsable(
    collection: Collection,
    focus: str,
    tags: Mapping[Key, Sequence[str]],
    everybody: bool,
    limit: int,
    rollouts: bool,
) -> dict[str, Any]:
    """What can be browsed; see `viewer_data` and `fitting` for the arguments."""
    texts, notices = Texts(limit), []
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
    run = collection.run
    notes = Annotations(run.path).by_key() if run else {}
    explored = collection.branches
    status = _states(collection)
    tries: list[dict[str, list[Any]]] = []
    samples: list[dict[str, Any]] = []
    if rollouts:
        tries = [_tries(x, collection, texts) if x else {} for x in kept]
        samples = _samples(collection, focus, texts)
    elif status:
        notices.append("The student's rollouts are left out: this run is too large for one file.")
    if len(samples) == _SAMPLES:
        notices.append(f"Of the training sequences the first {_SAMPLES} are here.")
    used = {f.kind for x in kept if x and x.diagnosis for f in x.diagnosis.findings}
    return {
        "texts": texts.rows,
        "kinds": {k: [v.title, v.meaning] for k, v in KINDS.items() if k in used},
        "explored": {"method": texts(explored.method), "iteration": explored.iteration},
        "items": [
            x and _item(x, texts, status.get(x.key, ()), notes.get(x.key, ()), tags.get(x.key, ()))
            for x in kept
        ],
        "tries": tries,
        "samples": samples,
        "focus": texts(focus),
        "notices": notices,
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
    t, key, task = item.trajectory, item.key, item.task
    found = item.diagnosis.findings if item.diagnosis else ()
    out: dict[str, Any] = {
        "id": texts(t.id),
        "task": texts(t.task_id),
        "goal": texts(t.instruction),
        "env": texts(t.env),
        "policy": texts(t.policy),
        "method": texts(key.method),
        "iteration": key.iteration,
        "split": texts(task.split if task else ""),
        "seed": key.seed,
        "level": texts(item.level),
        "outcome": item.outcome,
        "failure": item.failure,
        "reward": round(t.reward, 4),
        "needed": round(t.threshold, 4),
        "limit": t.truncated,
        "error": texts(t.error),
        "steps": _steps(t.steps, t.env, texts),
        "last": texts(t.final_observation),
        "states": states,
        "why": [[f.kind, f.t, texts(f.text), texts(f.rule)] for f in found],
        **people_said(item, notes, texts),
    }
    if tags:
        out["tags"] = [texts(x) for x in tags]
    usage = item.usage
    if item.tokens:
        out["tokens"] = item.tokens
    if usage.cost_usd is not None:
        out["cost"] = round(usage.cost_usd, 6)
    if usage.seconds >= 0.05:
        out["seconds"] = round(usage.seconds, 2)
    return out


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
    return {
        "segments": [[p.start, p.stop, p.label, texts(p.evidence)] for p in parts],
        **({"notes": rows} if rows else {}),
    }


def _steps(steps: Iterable[Step], env: str, texts: Texts) -> list[list[Any]]:
    """Per step [saw, action, actor, kind, thought, reply, reason if not valid, score, cost].

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
            texts(_cost(s)),
        ]
        while row and row[-1] in (None, 0):
            row.pop()
        out.append(row)
    return out


def _cost(step: Step) -> str:
    if step.usage is None:
        return ""
    u, parts = step.usage, []
    if u.prompt_tokens or u.completion_tokens:
        parts.append(f"{u.prompt_tokens:,} tokens read, {u.completion_tokens:,} written")
    if u.cost_usd:
        parts.append(f"${u.cost_usd:.4f}")
    if u.seconds >= 0.05:
        parts.append(f"{u.seconds:.1f} s")
    return " \u00b7 ".join(parts)


def _tries(item: Item, collection: Collection, texts: Texts) -> dict[str, list[Any]]:
    """State k -> its rollouts."""
    ks = dict.fromkeys(s.k for s in item.states if s.k >= 0)
    found = {str(k): collection.branches.at(item, k) for k in ks}
    return {k: [_try(b, texts) for b in group] for k, group in found.items() if group}


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
    at = {
        (x.key.seed, x.trajectory.id): i
        for i, x in enumerate(collection)
        if x.key.method == TEACHER
    }
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


_SOFT = "opacity:.7;font-size:.9em"
_CODE = "font:13px ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere"


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
    marks = {s.t: f"<p style='{_SOFT}'>{escape(state_text(s))}</p>" for s in states}
    facts = (
        f"{escape(t.env, 40)} &middot; policy {escape(t.policy, 80)} &middot; {t.length:,} "
        f"action{'' if t.length == 1 else 's'} &middot; reward {t.reward:.2f}"
    )
    why = "".join(
        f"<br><b>{escape(KINDS[f.kind].title if f.kind in KINDS else f.kind, 40)}</b> "
        f"{escape(f.text, 300)}"
        for f in (diagnosis.findings if diagnosis else ())
    )
    out = [
        f'<div><p dir="auto"><b>Task</b> {escape(t.instruction, limit)}</p>'
        f'<p style="{_SOFT}">{facts}{why}</p>'
    ]
    for part in segments or [Segment(0, t.length, "unknown")]:
        if segments:
            look = style.LABELS.get(part.label, style.LABELS["unknown"])
            out.append(
                f'<div style="border-left:4px solid {look.light};padding-left:10px">'
                f"<p><b>{look.glyph} {escape(part.label, 20)}</b> "
                f'<span style="{_SOFT}">{escape(part.evidence, 300)}</span></p>'
            )
        for i in range(part.start, part.stop):
            out += [marks.pop(i, ""), _step_html(t.steps[i], i, t.env, limit)]
        out.append("</div>" if segments else "")
    if t.error:
        verdict = f"ended by a fault: {escape(t.error, 400)}"
    elif t.solved:
        verdict = "solved"
    else:
        verdict = f"not solved: reward {t.reward:.2f}, needed {t.threshold:.2f}"
    last = f'<p dir="auto" style="{_CODE}">{escape(t.final_observation, limit)}</p>'
    out += [*marks.values(), f"<p><b>{verdict}</b></p>"]
    return "".join([*out, f"<details><summary>what it saw last</summary>{last}</details></div>"])


def _step_html(step: Step, at: int, env: str, limit: int) -> str:
    kind = action_kind(step.action, env, step.valid)
    flag = "" if step.valid else " <b>\u2717 invalid</b>"
    rows = [("saw", step.observation), ("thought", step.thought), ("reply", step.reply)]
    if not step.valid:
        rows.append(("not valid", step.reason or "no reason recorded"))
    body = "".join(
        f'<p dir="auto" style="{_CODE}"><i>{name}</i> {escape(text, limit)}</p>'
        for name, text in rows
        if text
    )
    action = escape(step.action, 300) or "<i>no action</i>"
    return (
        f'<details style="margin:.15em 0"><summary>{at + 1}. <code dir="auto">{action}</code>'
        f'{flag} <span style="{_SOFT}">{escape(step.actor, 20)} &middot; {escape(kind, 30)}</span>'
        f"</summary>{body}</details>"
    )
