"""The list of all tasks and how they went, page by page.

Owns that page. Knows nothing about HTTP.
"""

from __future__ import annotations

from eeflib.analysis.markup import escape
from eeflib.shop.pages import form
from eeflib.shop.shell import document
from eeflib.shop.visit import Visit

__all__ = ["PER_PAGE", "task_list"]

PER_PAGE = 200
"""Official data have 12,087 tasks: 7 MB, were they all on one page."""


def task_list(visit: Visit, number: int | None = None) -> str:
    """The tasks of this visit.

    Args:
        number: which page of the list, from 1; None, or one that there is not: that of the current
            task.
    """
    pages = -(-len(visit.tasks) // PER_PAGE)
    if number is None or not 1 <= number <= pages:
        number = visit.position // PER_PAGE + 1
    places = range(len(visit.tasks))[(number - 1) * PER_PAGE : number * PER_PAGE]
    rows = "".join(_row(visit, i) for i in places)
    tried = len(visit.results)
    table = (
        '<div class="scroll"><table class="tasks"><thead><tr><th scope="col">Task</th>'
        '<th scope="col">Level</th><th scope="col">What is wanted</th><th scope="col">Reward</th>'
        f'<th scope="col"></th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    onward = _onward(number, pages, places, len(visit.tasks)) if pages > 1 else ""
    body = (
        f"<h1>Tasks</h1><p>You solved <b>{visit.solved}</b> of the <b>{tried}</b> you tried. "
        "Starting another task gives up the one under way.</p>"
        f"{onward}{form(visit, '/open', table)}{onward}"
    )
    return document("Tasks \u00b7 WebShop", body)


def _onward(number: int, pages: int, places: range, total: int) -> str:
    links = [
        f'<a class="button" href="/tasks?page={to}">{name}</a>'
        for name, to in (("Earlier tasks", number - 1), ("Later tasks", number + 1))
        if 1 <= to <= pages
    ]
    where = f"Tasks {places[0] + 1:,} to {places[-1] + 1:,} of {total:,}"
    return f'<p class="bar">{"".join(links)}<span class="soft">{where}</span></p>'


def _row(visit: Visit, i: int) -> str:
    task, result = visit.tasks[i], "\u2013"
    if i in visit.results:
        reward = visit.results[i]
        solved = reward is not None and reward >= task.threshold - 1e-9
        result = "nothing bought" if reward is None else f"{reward:.2f}"
        result = f'<span class="{"yes" if solved else "no"}">{result}</span>'
    if i == visit.position and not visit.episode.over:
        result, play = "under way", '<a class="button" href="/">Go on</a>'
    else:
        word = "Again" if i in visit.results else "Play"
        play = (
            f'<button name="position" value="{i}" aria-label="{word}: task {i + 1}">{word}</button>'
        )
    level = escape(task.extra.get("level", ""), 40)
    return (
        f'<tr><td class="n">{i + 1}</td><td>{level}</td>'
        f'<td dir="auto">{escape(task.instruction, 300)}</td>'
        f'<td class="n">{result}</td><td class="act">{play}</td></tr>'
    )
