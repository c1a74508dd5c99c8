"""A trajectory as HTML: collapsible steps, a ribbon of segments, states and what was won there.

Import `render_trajectory`, or `Transcript` for its parts. Pure functions, a record -> str, for any
environment. All text from the record is escaped and cut to a readable length
(`eeflib.analysis.markup`). No script: opening and closing is done by the browser's own `<details>`,
or by a widget.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from eeflib.analysis.annotations import Annotation, corrected
from eeflib.analysis.markup import LIMIT, clean, escape
from eeflib.analysis.segments import Segment, from_labels
from eeflib.analysis.style import LABELS, asset, themed
from eeflib.analysis.taxonomy_rules import action_kind
from eeflib.analysis.textsearch import Query
from eeflib.errors import DataError
from eeflib.records import Label, Step, Trajectory
from eeflib.states import StateOutcome

if TYPE_CHECKING:
    from eeflib.analysis.taxonomy import Diagnosis
from functools import cache

__all__ = [
    "STYLE",
    "Shown",
    "Transcript",
    "chip",
    "css",
    "render_trajectory",
    "ribbon",
    "seen",
    "sheet",
]

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
    label = f"<strong>{escape(note.text, 200)}</strong>"
    text = texts(note.text, shown) if note.kind == "note" else label
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

    WebShop's ` [SEP] ` become dividers, the goal, which each of its pages repeats, is dimmed, and
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
        part = texts(piece, shown, len(piece) + 1)
        if target and piece.casefold() == target:
            part = f'<b class="clicked">{part}</b>'
        if i in (goal, goal + 1):
            part = f'<span class="again">{part}</span>'
        out += [_divider(pieces, i, goal), part]
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
    u, parts = step.usage, []
    if u.prompt_tokens or u.completion_tokens:
        parts.append(f"{u.prompt_tokens:,} tokens read, {u.completion_tokens:,} written")
    if u.cost_usd:
        parts.append(f"${u.cost_usd:.4f}")
    if u.seconds:
        parts.append(f"{u.seconds:.1f} s")
    return [("cost", " &middot; ".join(parts))] if parts else []


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


STYLE = themed(".eef-t") + asset("transcript.css")
"""CSS of a transcript, scoped to its class, so that it can sit in a notebook or a page."""


def render_trajectory(
    trajectory: Trajectory,
    *,
    segments: Sequence[Segment] | None = None,
    labels: Sequence[Label] | None = None,
    states: Sequence[StateOutcome] = (),
    diagnosis: Diagnosis | None = None,
    annotations: Sequence[Annotation] = (),
    shown: Shown | None = None,
    style: bool = True,
) -> str:
    """An HTML fragment showing `trajectory`; needs no script and loads nothing.

    Args:
        segments: labelled segments covering its actions, see `eeflib.analysis.segments`.
        labels: instead, one label per action, e.g. those of a sample.
        states: expert states to mark between the actions, with what was won from them.
        diagnosis: why it failed.
        annotations: what people wrote about it, in that order.
        shown: what is unfolded, searched for, raw.
        style: include `STYLE`; False if the page already has it.

    Raises:
        DataError: segments or labels do not fit the trajectory's length.
    """
    parts = list(segments) if segments is not None else from_labels(list(labels or ()))
    whole = Transcript(
        trajectory,
        tuple(parts),
        tuple(states),
        diagnosis,
        tuple(annotations),
        shown or Shown(),
    )
    return (f"<style>{STYLE}</style>" if style else "") + whole.html()


@dataclass(frozen=True)
class Transcript:
    """The parts of a transcript, each ready HTML: for a page in one, for a widget one by one."""

    trajectory: Trajectory
    segments: tuple[Segment, ...] = ()
    states: tuple[StateOutcome, ...] = ()
    diagnosis: Diagnosis | None = None
    annotations: tuple[Annotation, ...] = ()
    shown: Shown = field(default_factory=Shown)

    def __post_init__(self) -> None:
        length = self.trajectory.length
        covered = [t for s in self.segments for t in range(s.start, s.stop)]
        if covered and covered != list(range(length)):
            raise DataError(
                f"segments or labels do not cover the {length} actions of trajectory "
                f"{self.trajectory.id!r} once and in order; compute them from this trajectory"
            )

    @cached_property
    def parts(self) -> list[Segment]:
        """Segments with people's corrections."""
        return corrected(self.segments, self.annotations, self.trajectory.length)

    @cached_property
    def window(self) -> range:
        """Steps that are shown."""
        first, stop = self.shown.window or (0, self.trajectory.length)
        return range(max(0, first), min(stop, self.trajectory.length))

    def head(self) -> str:
        """Task, facts, why it failed, what people wrote about the whole, the ribbon."""
        t = self.trajectory
        invalid = sum(not s.valid for s in t.steps)
        facts = [
            escape(t.env, 40),
            f"policy {escape(t.policy, 80)}",
            f"{t.length} action{'' if t.length == 1 else 's'}",
            f"reward {t.reward:.2f}",
            "solved" if t.solved else "not solved",
        ]
        if invalid:
            facts.append(f"{invalid} invalid")
        if t.truncated:
            facts.append("stopped by a limit")
        whole = [a for a in self.annotations if a.start is None]
        rows = "".join(note_row(a, self.shown) for a in whole)
        return (
            f'<p class="goal" dir="auto"><strong>Task</strong> {escape(t.instruction)}</p>'
            f'<p class="facts">{" &middot; ".join(facts)}</p>'
            f"{self._why()}{f'<dl>{rows}</dl>' if rows else ''}"
            f"{ribbon(self.parts) if self.parts else ''}"
        )

    def before(self, t: int) -> str:
        """What stands before step `t`: the start of a segment, a state; often nothing."""
        out = [_state(state) for state in self._marks.get(t, ())]
        for part in self.parts:
            if part.start == t or (part.start < t < part.stop and t == self.window.start):
                why = f" <small>{escape(part.evidence)}</small>" if part.evidence else ""
                out.append(
                    f'<span class="seghead" style="--c:var(--l-{known(part.label)})">'
                    f"{LABELS[known(part.label)].glyph} {escape(part.label)}</span>{why}"
                )
        return f'<div class="mark">{" ".join(out)}</div>' if out else ""

    def step(self, t: int) -> str:
        """Step `t`; in a widget with the colour of its segment at its side."""
        html = render_step(
            self.trajectory.steps[t],
            t,
            self.trajectory.env,
            self.shown,
            flags=self._flags.get(t, ()),
            notes=self._notes(t),
        )
        label = self._label.get(t) if self.shown.live else None
        if label is None:
            return html
        return f'<div class="seg" style="--c:var(--l-{label})">{html}</div>'

    def end(self) -> str:
        """How it ended, and what was seen last."""
        t = self.trajectory
        if t.error:
            verdict = f"ended by a fault: {escape(t.error, 400)}"
        elif t.solved:
            verdict = "solved"
        else:
            verdict = f"not solved: reward {t.reward:.2f}, needed {t.threshold:.2f}"
        line = '<span class="n">s<sub>T</sub></span> what it saw last'
        body = f'<dl><dt>saw</dt><dd dir="auto">{seen(t.final_observation, self.shown)}</dd></dl>'
        flags = "".join(self._flags.get(t.length, ()))
        last = fold(line, body, t.length in self.shown.open, self.shown)
        if self.shown.live:  # one line less to unfold: it is always open
            last = f'<div class="step is-open">{body}</div>'
        return f'<div class="end"><strong>{verdict}</strong> {flags}</div>{last}'

    def html(self) -> str:
        """All of it, without the style sheet."""
        out = ['<article class="eef-t">', self.head()]
        if self.window.start:
            out.append(f'<div class="gone">\u2026 {self.window.start:,} steps before</div>')
        inside = False
        for t in self.window:
            starts = any(p.start == t for p in self.parts) or (self.parts and t == self.window[0])
            if starts:
                out.append("</section>" if inside else "")
                label = self._label[t]
                out.append(f'<section class="seg" style="--c:var(--l-{label})">')
                inside = True
            out += [self.before(t), self.step(t)]
        out.append("</section>" if inside else "")
        rest = self.trajectory.length - self.window.stop
        if rest > 0 and self.shown.window:
            out.append(f'<div class="gone">\u2026 {rest:,} steps after</div>')
        return "".join([*out, self.end(), "</article>"])

    @cached_property
    def _label(self) -> dict[int, str]:
        return {t: known(p.label) for p in self.parts for t in range(p.start, p.stop)}

    @cached_property
    def _marks(self) -> dict[int, list[StateOutcome]]:
        out: dict[int, list[StateOutcome]] = {}
        for state in self.states:
            out.setdefault(state.t, []).append(state)
        return out

    @cached_property
    def _notes(self) -> Callable[[int], list[Annotation]]:
        return notes_by_step(self.annotations, self.trajectory.length)

    @cached_property
    def _flags(self) -> dict[int, list[str]]:
        """Steps that show why it failed."""
        out: dict[int, list[str]] = {}
        for finding in self.diagnosis.findings if self.diagnosis else ():
            out.setdefault(finding.t, []).append(chip(f"\u2691 {title_of(finding.kind)}"))
        return out

    def _why(self) -> str:
        if self.diagnosis is None or not self.diagnosis.findings:
            return ""
        lines = []
        for f in self.diagnosis.findings:
            where = f"step {f.t + 1}" if f.t < self.trajectory.length else "the end"
            lines.append(
                f'<strong title="{escape(meaning_of(f.kind))}">{escape(title_of(f.kind), 40)}'
                f"</strong> {escape(f.text, 300)} "
                f"<small>({where}; rule: {escape(f.rule, 60)})</small>"
            )
        return f'<div class="why">{"<br>".join(lines)}</div>'


def ribbon(parts: Sequence[Segment], *, small: bool = False) -> str:
    """The segments as a strip, as wide as they are long.

    Small, for a table: without words; beneficial ones stand high, harmful ones low, unknown ones
    are thin, so that they differ without colour as well.
    """
    cells = ("" if small else " ").join(
        f'<span class="k-{known(p.label)}" style="--c:var(--l-{known(p.label)});'
        f'flex:{p.length} 1 0" title="{escape(_span(p))}: {escape(p.label)}'
        + (
            '"></span>'
            if small
            else f', {escape(p.evidence)}">{LABELS[known(p.label)].glyph} {escape(p.label)}</span>'
        )
        for p in parts
    )
    words = escape("; ".join(f"{_span(p)} {p.label}" for p in parts))
    name = "ribbon small" if small else "ribbon"
    return f'<div class="{name}" role="img" aria-label="{words}">{cells}</div>'


def known(label: str) -> str:
    """The label if there is a colour for it, else `unknown`."""
    return label if label in LABELS else "unknown"


def title_of(kind: str) -> str:
    """A kind of failure as people read it."""
    from eeflib.analysis.taxonomy import KINDS

    return KINDS[kind].title if kind in KINDS else kind


def meaning_of(kind: str) -> str:
    """What a kind of failure is; empty if it is none of ours."""
    from eeflib.analysis.taxonomy import KINDS

    return KINDS[kind].meaning if kind in KINDS else ""


def _span(part: Segment) -> str:
    if part.length == 1:
        return f"action {part.start + 1}"
    return f"actions {part.start + 1} to {part.stop}"


def _state(state: StateOutcome) -> str:
    if not state.tried:
        result = "could not be tried"
    else:
        result = f"student {'won' if state.won else 'lost'} {state.wins}/{state.n} from here"
    hint = "the student was put into this state of the trajectory and went on by itself"
    name = f"s<sub>{state.k}</sub>" if state.k >= 0 else state.name
    return f'<span class="state" title="{hint}">{name} {result}</span>'


@cache
def css() -> str:
    """The style sheet of all views, scoped to `.eef` and `.eef-t`."""
    return themed(".eef") + asset("views.css") + STYLE


def sheet(body: str) -> str:
    """A view as a fragment that brings its style sheet."""
    return f'<div class="eef"><style>{css()}</style>{body}</div>'
