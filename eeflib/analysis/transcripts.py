"""A trajectory as HTML: collapsible steps, a ribbon of segments, states and what was won there.

Owns the rendering, a pure record -> str for any environment, and its style sheet. All text from the
record is escaped and cut to a readable length (`eeflib.analysis.markup`). No script: opening and
closing is the browser's own `<details>`. Knows nothing about files or how labels came about.
"""

from __future__ import annotations

from collections.abc import Sequence

from eeflib.analysis.actions import action_kind
from eeflib.analysis.markup import code, escape, paragraphs
from eeflib.analysis.palette import LABELS
from eeflib.analysis.segments import Segment, from_labels, state_text
from eeflib.errors import DataError
from eeflib.outcomes import StateOutcome
from eeflib.records import Label, Step, Trajectory

__all__ = ["STYLE", "render_trajectory"]

STYLE = """
.eef-t{--paper:#fff;--ink:#1c2024;--soft:#5d656f;--rule:#dfe3e8;--wash:#f5f7f9;--bad:#b3261e;
 color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.eef-t *{box-sizing:border-box}
.eef-t code,.eef-t pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
 overflow-wrap:anywhere;white-space:pre-wrap;background:none;margin:0;color:inherit}
.eef-t .goal{margin:0 0 .6em;unicode-bidi:isolate;overflow-wrap:anywhere}
.eef-t .facts{color:var(--soft);font-size:.88em;margin:0 0 .8em}
.eef-t .ribbon{display:flex;gap:2px;margin:0 0 1em;font-size:.8em;line-height:26px}
.eef-t .ribbon span{background:color-mix(in srgb,var(--c) 22%,transparent);padding:0 .5em;
 border-bottom:3px solid var(--c);overflow:hidden;white-space:nowrap;text-overflow:ellipsis;
 min-width:26px;text-align:center}
.eef-t .seg{border-left:4px solid var(--c);padding:.1em 0 .1em .8em;margin:0 0 .35em}
.eef-t .seg>header{color:var(--c);font-size:.88em;font-weight:600;margin:.15em 0 .3em}
.eef-t .seg>header small{color:var(--soft);font-weight:400;font-size:1em}
.eef-t .state{display:flex;gap:.6em;align-items:center;color:var(--soft);font-size:.82em;
 margin:.55em 0}
.eef-t .state::after{content:"";flex:1;border-top:1px dashed var(--rule)}
.eef-t details{border-radius:6px;margin:.15em 0}
.eef-t details[open]{background:var(--wash)}
.eef-t summary{cursor:pointer;padding:.22em .5em;display:flex;gap:.7em;align-items:baseline}
.eef-t summary::-webkit-details-marker{display:none}
.eef-t summary::before{content:"\\25b8";color:var(--soft);flex:none}
.eef-t details[open]>summary::before{content:"\\25be"}
.eef-t summary:focus-visible{outline:2px solid currentColor;outline-offset:1px}
.eef-t .n{color:var(--soft);min-width:1.6em;font-size:.88em;text-align:right;
 font-variant-numeric:tabular-nums}
.eef-t q{display:block;color:var(--soft);font-size:.88em;quotes:none;unicode-bidi:isolate}
.eef-t details[open]>summary q{display:none}
.eef-t .invalid{margin-left:.6em}
.eef-t .kind{margin-left:auto;color:var(--soft);font-size:.82em;white-space:nowrap}
.eef-t .invalid{color:var(--bad);font-weight:600;font-size:.82em}
.eef-t dl{margin:0;padding:.2em .9em .7em 2.9em;display:grid;grid-template-columns:6.2em 1fr;
 gap:.35em .8em}
.eef-t dt{color:var(--soft);font-size:.85em}
.eef-t dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap;unicode-bidi:isolate;font-size:.92em}
.eef-t .sep{color:var(--soft);opacity:.6}
.eef-t .end{padding:.3em .5em;font-size:.92em}
@media (max-width:40em){.eef-t dl{grid-template-columns:1fr;padding-left:.9em}}
@media (prefers-color-scheme:dark){.eef-t{--paper:#14171b;--ink:#e6e9ed;--soft:#9aa4b0;
 --rule:#343b44;--wash:#1d2228;--bad:#ff8a80}}
"""
"""CSS of a transcript, scoped to its class, so that it can sit in a notebook or a page."""


def label_variables(dark: bool) -> str:
    """CSS variables `--l-LABEL` with the labels' colours."""
    return "".join(f"--l-{n}:{x.dark if dark else x.light};" for n, x in LABELS.items())


STYLE += (
    f".eef-t{{{label_variables(False)}}}\n"
    f"@media (prefers-color-scheme:dark){{.eef-t{{{label_variables(True)}}}}}\n"
)


def render_trajectory(
    trajectory: Trajectory,
    *,
    segments: Sequence[Segment] | None = None,
    labels: Sequence[Label] | None = None,
    states: Sequence[StateOutcome] = (),
    style: bool = True,
) -> str:
    """An HTML fragment showing `trajectory`; needs no script and loads nothing.

    Args:
        segments: labelled segments covering its actions, see `eeflib.analysis.segments`.
        labels: instead, one label per action, e.g. those of a sample.
        states: expert states to mark between the actions, with what was won from them.
        style: include `STYLE`; False if the page already has it.

    Raises:
        DataError: segments or labels do not fit the trajectory's length.
    """
    parts = list(segments) if segments is not None else from_labels(list(labels or ()))
    if parts and [t for s in parts for t in range(s.start, s.stop)] != list(
        range(trajectory.length)
    ):
        raise DataError(
            f"segments or labels do not cover the {trajectory.length} actions of trajectory "
            f"{trajectory.id!r} once and in order; compute them from this trajectory"
        )
    marks = {o.t: o for o in states}
    out = [f"<style>{STYLE}</style>"] if style else []
    out += ['<article class="eef-t">', _head(trajectory)]
    if parts:
        out.append(_ribbon(parts))
        for part in parts:
            look = LABELS[_known(part.label)]
            if part.start in marks:
                out.append(_state(marks[part.start]))
            out.append(
                f'<section class="seg" style="--c:var(--l-{_known(part.label)})"><header>'
                f"{look.glyph} {escape(part.label)}"
                f"{f' <small>{escape(part.evidence)}</small>' if part.evidence else ''}</header>"
            )
            for t in range(part.start, part.stop):
                if t in marks and t != part.start:
                    out.append(_state(marks[t]))
                out.append(_step(trajectory.steps[t], t, trajectory.env))
            out.append("</section>")
    else:
        for t, step in enumerate(trajectory.steps):
            out += [_state(marks[t])] if t in marks else []
            out.append(_step(step, t, trajectory.env))
    out += [_end(trajectory), "</article>"]
    return "".join(out)


def _head(trajectory: Trajectory) -> str:
    invalid = sum(not s.valid for s in trajectory.steps)
    facts = [
        escape(trajectory.env),
        f"policy {escape(trajectory.policy, 80)}",
        f"{trajectory.length} actions",
        f"reward {trajectory.reward:.2f}",
        "solved" if trajectory.solved else "not solved",
    ]
    if invalid:
        facts.append(f"{invalid} invalid")
    if trajectory.truncated:
        facts.append("stopped by a limit")
    return (
        f'<p class="goal" dir="auto"><strong>Task</strong> {escape(trajectory.instruction)}</p>'
        f'<p class="facts">{" &middot; ".join(facts)}</p>'
    )


def _ribbon(parts: Sequence[Segment]) -> str:
    cells = "".join(
        f'<span style="--c:var(--l-{_known(p.label)});flex:{p.length} 1 0" '
        f'title="{escape(_span(p))}: {escape(p.evidence)}">'
        f"{LABELS[_known(p.label)].glyph} {escape(p.label)}</span>"
        for p in parts
    )
    return f'<div class="ribbon" role="img" aria-label="{escape(_spoken(parts))}">{cells}</div>'


def _known(label: str) -> str:
    return label if label in LABELS else "unknown"


def _span(part: Segment) -> str:
    if part.length == 1:
        return f"action {part.start + 1}"
    return f"actions {part.start + 1} to {part.stop}"


def _spoken(parts: Sequence[Segment]) -> str:
    return "; ".join(f"{_span(p)} {p.label}" for p in parts)


def _state(state: StateOutcome) -> str:
    return (
        f'<div class="state"><span>s<sub>{state.k}</sub> \u2014 student put here: '
        f"{escape(state_text(state))}</span></div>"
    )


def _step(step: Step, t: int, env: str) -> str:
    mark = '<span class="invalid">\u2717 invalid</span>' if not step.valid else ""
    action = code(step.action) if step.action else "<em>no action</em>"
    usual = f"Thought: {step.thought}\nAction: {step.action}"
    rows = [("saw", paragraphs(step.observation))]
    if step.thought:
        rows.append(("thought", escape(step.thought)))
    rows.append(("action", action))
    if not step.valid:
        rows.append(("not valid", escape(step.reason or "no reason recorded")))
    if step.reply and step.reply.split() not in (step.action.split(), usual.split()):
        rows.append(("raw reply", code(step.reply, 2000)))
    if step.score is not None:
        rows.append(("score", f"{step.score:.2f}"))
    body = "".join(f'<dt>{name}</dt><dd dir="auto">{value}</dd>' for name, value in rows)
    preview = f'<q dir="auto">{escape(step.thought, 160)}</q>' if step.thought else ""
    kind = escape(action_kind(step.action, env, step.valid))
    return (
        f'<details><summary><span class="n">{t + 1}</span><span>{action}{mark}{preview}</span>'
        f'<span class="kind">{escape(step.actor)} &middot; {kind}</span></summary>'
        f"<dl>{body}</dl></details>"
    )


def _end(trajectory: Trajectory) -> str:
    if trajectory.error:
        verdict = f"ended by a fault: {escape(trajectory.error, 400)}"
    elif trajectory.solved:
        verdict = "solved"
    else:
        verdict = f"not solved: reward {trajectory.reward:.2f}, needed {trajectory.threshold:.2f}"
    final = paragraphs(trajectory.final_observation)
    return (
        f'<div class="end"><strong>{verdict}</strong></div><details><summary>'
        f'<span class="n">s<sub>T</sub></span>what it saw last</summary><dl><dt>saw</dt>'
        f'<dd dir="auto">{final}</dd></dl></details>'
    )
