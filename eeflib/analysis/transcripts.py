"""A trajectory as HTML: collapsible steps, a ribbon of segments, states and what was won there.

Owns the order of a transcript's parts, and its style sheet; a single step is
`eeflib.analysis.transcript_steps`'s. Pure, a record -> str for any environment. All text from the
record is escaped and cut to a readable length (`eeflib.analysis.markup`). No script: opening and
closing is the browser's own `<details>`, or that of a widget. Knows nothing about files or how
labels came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from eeflib.analysis import style as sheets
from eeflib.analysis.annotations import Annotation, corrected
from eeflib.analysis.markup import escape
from eeflib.analysis.palette import LABELS
from eeflib.analysis.segments import Segment, from_labels
from eeflib.analysis.transcript_steps import (
    Shown,
    chip,
    fold,
    note_row,
    notes_by_step,
    render_step,
    seen,
)
from eeflib.errors import DataError
from eeflib.records import Label, Trajectory
from eeflib.states import StateOutcome

if TYPE_CHECKING:
    from eeflib.analysis.taxonomy import Diagnosis

__all__ = ["STYLE", "Shown", "Transcript", "render_trajectory", "ribbon"]

STYLE = sheets.themed(".eef-t") + sheets.asset("transcript.css")
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
        annotations: what people said about it, in the order said.
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
        """Task, facts, why it failed, what people said of the whole, the ribbon."""
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
        said = [a for a in self.annotations if a.start is None]
        rows = "".join(note_row(a, self.shown) for a in said)
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
        said = []
        for f in self.diagnosis.findings:
            where = f"step {f.t + 1}" if f.t < self.trajectory.length else "the end"
            said.append(
                f'<strong title="{escape(meaning_of(f.kind))}">{escape(title_of(f.kind), 40)}'
                f"</strong> {escape(f.text, 300)} "
                f"<small>({where}; rule: {escape(f.rule, 60)})</small>"
            )
        return f'<div class="why">{"<br>".join(said)}</div>'


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
        said = "could not be tried"
    else:
        said = f"student {'won' if state.won else 'lost'} {state.wins}/{state.n} from here"
    hint = "the student was put into this state of the trajectory and went on by itself"
    name = f"s<sub>{state.k}</sub>" if state.k >= 0 else state.name
    return f'<span class="state" title="{hint}">{name} {said}</span>'
