"""The page after an episode: the reward and where it comes from.

Owns that page. Knows nothing about how rewards are computed (`verdict`), nor about HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

from eeflib.analysis.markup import escape
from eeflib.shop.verdict import Verdict, judge
from eeflib.shop.visit import Visit

__all__ = ["ending"]

_ENDS = {
    "given up": ("You gave this task up", "Nothing was bought, so the reward is 0."),
    "out of steps": (
        "No steps left",
        "Nothing was bought within the limit, so the reward is 0. Agents fail this way, too.",
    ),
    "abandoned": ("The task was left", "Nothing was bought, so the reward is 0."),
}


def ending(visit: Visit, form: Callable[..., str]) -> str:
    """The page's contents; `form` makes a form of the visit's turn."""
    episode = visit.episode
    verdict = judge(episode)
    if verdict is None:
        title, text = _ENDS[episode.ended or "abandoned"]
        head = f'<div class="score bad"><b>0.00</b><h1>{title}</h1></div><p>{text}</p>'
        body = head + _target(visit, episode.task.goal["asin"], False)
    else:
        body = _score(verdict) + _parts(verdict) + _bought(visit, verdict)
    return f"{body}{_onward(visit, form)}{_path(visit)}"


def _score(verdict: Verdict) -> str:
    title, kind = ("Solved", "good") if verdict.solved else ("Not quite", "bad")
    return (
        f'<div class="score {kind}"><b>{verdict.reward:.2f}</b><h1>{title}</h1></div>'
        f"<p>{verdict.matched} of {len(verdict.parts)} wishes met.</p>"
    )


def _parts(verdict: Verdict) -> str:
    rows = "".join(
        f'<tr><td dir="auto"><small class="soft">{part.kind}</small>{escape(part.wanted, 200)}</td>'
        f'<td dir="auto">{escape(part.got, 200)}</td><td>{_mark(part.ok)}</td></tr>'
        for part in verdict.parts
    )
    ok = verdict.r_type == 1
    rows += (
        '<tr><td><small class="soft">Kind of product</small>the right kind</td>'
        f"<td>{escape(verdict.type_reason)}</td>"
        f'<td><span class="{"yes" if ok else "no"}">\u00d7 {verdict.r_type:g}</span></td></tr>'
    )
    n = len(verdict.parts)
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">Wanted</th>'
        '<th scope="col">Your purchase</th><th scope="col">Counts</th></tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="sum">Reward = kind of product \u00d7 wishes '
        f"met / wishes = {verdict.r_type:g} \u00d7 {verdict.matched} / {n} = "
        f"<b>{verdict.reward:.2f}</b></p>"
    )


def _mark(ok: bool) -> str:
    return '<span class="yes">\u2713 met</span>' if ok else '<span class="no">\u2715 missed</span>'


def _bought(visit: Visit, verdict: Verdict) -> str:
    product = visit.episode.env.catalogue.by_asin[verdict.asin]
    chosen = ", ".join(value for _, value in visit.episode.env.state.options)
    options = f" ({escape(chosen, 200)})" if chosen else ""
    return (
        f'<p>You bought <b dir="auto">{escape(product.title, 400)}</b>{options} '
        f'<span class="asin">{escape(product.asin)}</span>.</p>'
        + _target(visit, verdict.target, verdict.asin == verdict.target)
    )


def _target(visit: Visit, asin: str, same: bool) -> str:
    if same:
        return '<p class="soft">It is the very product that the task was made from.</p>'
    product = visit.episode.env.catalogue.by_asin[asin]
    return (
        f'<p class="soft">The task was made from <span dir="auto">{escape(product.title, 400)}'
        f'</span> <span class="asin">{escape(asin)}</span>; any product that meets the same '
        "wishes counts as much.</p>"
    )


def _onward(visit: Visit, form: Callable[..., str]) -> str:
    following = visit.following
    again = f'<button name="position" value="{visit.position}">Try it again</button>'
    if following is None:
        first = (
            f'<p class="notice">That was the last task: you solved {visit.solved} of '
            f"{len(visit.tasks)}.</p>"
        )
        return first + form(visit, "/open", f'<p class="bar">{again}</p>')
    first = f'<button class="main" name="position" value="{following}">Next task</button>'
    return form(visit, "/open", f'<p class="bar">{first}{again}</p>')


def _path(visit: Visit) -> str:
    steps = visit.episode.steps
    if not steps:
        return ""
    items = "".join(f"<li><code>{escape(step.action, 200)}</code></li>" for step in steps)
    word = "step" if len(steps) == 1 else "steps"
    return f"<details><summary>Your {len(steps)} {word}</summary><ol>{items}</ol></details>"
