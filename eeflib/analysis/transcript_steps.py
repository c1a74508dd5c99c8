"""One step of a trajectory as HTML: a line that says what was done, and all that was said and seen.

Owns the markup of a step, also in its raw form, with what was searched for marked in it. Pure: a
record in, text out; everything from the record is escaped and cut to a readable length. Knows
nothing about the trajectory around the step.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from eeflib.analysis.actions import action_kind
from eeflib.analysis.annotations import Annotation
from eeflib.analysis.markup import LIMIT, clean, escape
from eeflib.analysis.textsearch import Query
from eeflib.records import Step

__all__ = ["Shown", "chip", "note_row", "render_step", "seen", "texts"]

_CLICK = re.compile(r"^\s*click\[(.*)\]\s*$", re.DOTALL)
_PRODUCT = re.compile(r"[A-Z0-9]{10}")
"""A product's number, which begins a new line in a list of results."""


@dataclass(frozen=True)
class Shown:
    """How a transcript is looked at."""

    open: frozenset[int] = frozenset()
    """Steps that are unfolded; the last observation has the number after the last step."""
    raw: bool = False
    """Texts as they were recorded, instead of made readable."""
    query: Query = field(default_factory=Query)
    """What is marked."""
    window: tuple[int, int] | None = None
    """Show these steps only: (first, after the last)."""
    here: int | None = None
    """The step to look at."""
    live: bool = False
    """Inside a widget, which does the folding: no `<details>`."""


def render_step(
    step: Step,
    t: int,
    env: str,
    shown: Shown,
    *,
    flags: Sequence[str] = (),
    notes: Sequence[Annotation] = (),
) -> str:
    """HTML of step `t`.

    Args:
        flags: ready HTML beside the action, see `chip`.
        notes: annotations about this step.
    """
    opened = t in shown.open
    chips = list(flags)
    if not step.valid:
        chips.insert(0, chip("\u2717 invalid"))
    if notes:
        chips.append(chip(f"\u270e {len(notes)}", "won"))
    if shown.query.usable and shown.query.in_step(step):
        chips.append(chip("match", "accent"))
    preview = f'<q dir="auto">{escape(step.thought, 160)}</q>' if step.thought else ""
    kind = escape(action_kind(step.action, env, step.valid))
    parts = [
        f'<span class="n">{t + 1}</span>',
        f'<span class="act">{_action(step, shown, 160)}</span>',
        *chips,
        preview,
        f'<span class="kind">{escape(step.actor)} &middot; {kind}</span>',
    ]
    line = " ".join(filter(None, parts))  # blanks show where a viewer drops style sheets only
    # a folded step of a widget has no body: it is made when it is unfolded
    body = "" if shown.live and not opened else _body(step, shown, notes)
    return fold(line, body, opened, shown, here=shown.here == t)


def fold(line: str, body: str, opened: bool, shown: Shown, *, here: bool = False) -> str:
    """A line and what it unfolds to, both ready HTML."""
    mark = " here" if here else ""
    if shown.live:
        return (
            f'<div class="step{" is-open" if opened else ""}{mark}"><div class="sum">{line}</div>'
            f"{body}</div>"
        )
    return (
        f'<details class="step{mark}"{" open" if opened else ""}><summary class="sum">{line}'
        f"</summary>{body}</details>"
    )


def chip(text: str, colour: str = "bad") -> str:
    """A small flag; `colour` is the name of a CSS variable, the text is escaped."""
    return f'<span class="chip" style="--c:var(--{colour})">{escape(text, 60)}</span>'


def note_row(note: Annotation, shown: Shown) -> str:
    """An annotation as a row of the step's or the trajectory's list."""
    said = f"<strong>{escape(note.text, 200)}</strong>" if note.kind != "note" else ""
    text = texts(note.text, shown) if note.kind == "note" else said
    who = f"<small>{escape(note.author, 60)}, {escape(note.day, 20)}</small>"
    return f'<dt>{note.kind}</dt><dd dir="auto" class="note">{text} {who}</dd>'


def texts(text: str, shown: Shown, limit: int = LIMIT) -> str:
    """Escaped text with what is searched for marked."""
    plain = clean(text, limit)
    out, at = [], 0
    for start, stop in shown.query.spans(plain):
        out += [html.escape(plain[at:start]), "<mark>", html.escape(plain[start:stop]), "</mark>"]
        at = stop
    return "".join([*out, html.escape(plain[at:])])


def seen(text: str, shown: Shown, action: str = "") -> str:
    """An observation, and what `action` clicked underlined.

    WebShop's ` [SEP] ` become dividers, the goal that stands on each of its pages is dimmed, and
    every product of a list has a line of its own.
    """
    if shown.raw:
        return f"<pre>{texts(text, shown, 4 * LIMIT)}</pre>"
    match = _CLICK.match(action)
    target = match[1].strip().casefold() if match else None
    pieces = clean(text).split("[SEP]")
    if len(pieces) > 1:
        pieces = [piece.strip(" ") for piece in pieces]
    goal = pieces.index("Instruction:") if "Instruction:" in pieces[:-1] else -2
    out: list[str] = []
    for i, piece in enumerate(pieces):
        said = texts(piece, shown, len(piece) + 1)
        if target and piece.casefold() == target:
            said = f'<b class="clicked">{said}</b>'
        if i in (goal, goal + 1):
            said = f'<span class="again">{said}</span>'
        out += [_divider(pieces, i, goal), said]
    return "".join(out)


def _divider(pieces: Sequence[str], i: int, goal: int) -> str:
    """What stands between a piece and the one before."""
    if not i:
        return ""
    if i == goal + 1:
        return " "
    if i == goal + 2 or _PRODUCT.fullmatch(pieces[i]):
        return "\n"
    return '<span class="sep"> \u00b7 </span>'


def _action(step: Step, shown: Shown, limit: int) -> str:
    if not step.action:
        return "<em>no action</em>"
    return f'<code dir="auto">{texts(step.action, shown, limit)}</code>'


def _body(step: Step, shown: Shown, notes: Sequence[Annotation]) -> str:
    usual = f"Thought: {step.thought}\nAction: {step.action}"
    rows: list[tuple[str, str]] = [("saw", seen(step.observation, shown, step.action))]
    if step.thought and not shown.raw:
        rows.append(("thought", texts(step.thought, shown)))
    if shown.raw:
        rows.append(("reply", f"<pre>{texts(step.text, shown, 4 * LIMIT)}</pre>"))
    rows.append(("action", _action(step, shown, 400)))
    if not step.valid:
        rows.append(("not valid", escape(step.reason or "no reason recorded")))
    odd = step.reply and step.reply.split() not in (step.action.split(), usual.split())
    if odd and not shown.raw:
        rows.append(("raw reply", f'<code dir="auto">{texts(step.reply, shown, 2000)}</code>'))
    if step.score is not None:
        rows.append(("score", f"{step.score:.2f}"))
    rows += _cost(step)
    body = "".join(f'<dt>{name}</dt><dd dir="auto">{value}</dd>' for name, value in rows)
    return f"<dl>{body}{''.join(note_row(n, shown) for n in notes)}</dl>"


def _cost(step: Step) -> list[tuple[str, str]]:
    if step.usage is None:
        return []
    u, said = step.usage, []
    if u.prompt_tokens or u.completion_tokens:
        said.append(f"{u.prompt_tokens:,} tokens read, {u.completion_tokens:,} written")
    if u.cost_usd:
        said.append(f"${u.cost_usd:.4f}")
    if u.seconds:
        said.append(f"{u.seconds:.1f} s")
    return [("cost", " &middot; ".join(said))] if said else []


def notes_by_step(
    annotations: Sequence[Annotation], length: int
) -> Callable[[int], list[Annotation]]:
    """Annotations about single actions, by action; corrections of segments are shown elsewhere."""
    found: Mapping[int, list[Annotation]] = {t: [] for t in range(length)}
    for a in annotations:
        if a.start is not None and a.kind != "segment":
            for t in range(a.start, min(a.stop or a.start + 1, length)):
                found[t].append(a)
    return lambda t: found.get(t, [])
