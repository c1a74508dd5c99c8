"""What a visitor sees: the shop's pages as HTML, from the same state that an agent acts on.

Owns the contents of each page. Knows nothing about HTTP. A page shows what the observation of an
agent holds and offers the same actions; the only script-free way to act is a form, so a button's
value is the number of its action. All text of products and tasks is escaped by `analysis.markup`.
"""

from __future__ import annotations

from collections.abc import Callable

from eeflib.analysis.markup import clean, escape
from eeflib.envs.webshop.catalogue import Product
from eeflib.envs.webshop.pages import PAGE_SIZE, SUB_PAGES
from eeflib.shop.ending import ending
from eeflib.shop.shell import document
from eeflib.shop.visit import LONGEST_QUERY, Visit

__all__ = ["form", "message", "visit_page", "welcome"]


def visit_page(visit: Visit) -> str:
    """The page of the visit's current state; its notice is shown and forgotten."""
    episode = visit.episode
    notice = visit.pop_notice()
    body = f'<p class="notice" role="status">{escape(notice)}</p>' if notice else ""
    state = episode.env.state
    if episode.over:
        body += ending(visit, form)
        title = "Result"
    elif state.page == "index":
        body += _index(visit)
        title = "Search"
    else:
        render, title = _PAGES[state.page]
        body += form(visit, "/act", render(visit))
    body += (
        "<details><summary>What an agent reads on this page</summary>"
        f"<pre>{escape(episode.observation)}</pre></details>"
    )
    return document(
        f"{title} \u00b7 task {visit.position + 1} \u00b7 WebShop",
        body,
        header=_header(visit),
        goal=_goal(visit),
        footer=_footer(visit),
    )


def welcome(n_tasks: int, steps: int, where: str, notice: str = "") -> str:
    """The page before the first task.

    Args:
        n_tasks: tasks there are.
        steps: the step limit of the first one.
        where: the file that records go to.
    """
    told = f'<p class="notice" role="status">{escape(notice)}</p>' if notice else ""
    body = (
        f"{told}<h1>Shop as an agent does</h1>"
        "<p>You are told what somebody wants. Find it in the store, choose its options, buy it. "
        "It is the same shop that agents are tested in: the same products, the same search, the "
        "same buttons, and the same reward at the end.</p>"
        '<div class="text"><ul>'
        f"<li>There are {n_tasks:,} task{'s' if n_tasks != 1 else ''}. You have {steps} steps for "
        "one: every search and every click is a step.</li>"
        "<li>The reward is between 0 and 1: which of the wanted attributes, options and price "
        "limit the purchase meets. 1 means solved.</li>"
        "<li>You buy once. The best match need not come first: look at later pages of results, and "
        "at what a product's own pages say.</li>"
        "</ul></div>"
        '<form method="post" action="/start"><p class="bar">'
        '<button class="main" autofocus>Start shopping</button></p></form>'
        f'<p class="small soft">Your actions and the time between them are written to '
        f"<code>{escape(where)}</code> on the computer that runs this page. Nothing else is kept, "
        "and nothing leaves it.</p>"
    )
    return document("WebShop", body)


def message(title: str, text: str) -> str:
    """A page that says what went wrong and leads back; plain text."""
    return document(
        title,
        f"<h1>{escape(title)}</h1><p>{escape(text, 500)}</p>"
        '<p class="bar"><a class="button main" href="/">Go on shopping</a></p>',
    )


def form(visit: Visit, action: str, inner: str, attributes: str = "") -> str:
    """A form of the current turn around ready HTML."""
    return (
        f'<form method="post" action="{action}"{attributes}>'
        f'<input type="hidden" name="csrf" value="{visit.csrf}">'
        f'<input type="hidden" name="turn" value="{visit.turn}">{inner}</form>'
    )


# -- around the page -------------------------------------------------------------------------------


def _header(visit: Visit) -> str:
    episode, level = visit.episode, visit.task.extra.get("level")
    used = len(episode.steps)
    tag = f'<span class="tag">{escape(level, 40)}</span>' if level else ""
    return (
        f"<p>Task <b>{visit.position + 1}</b> of {len(visit.tasks)}{tag}</p>"
        f"<p>Step <b>{used}</b> of {episode.limit}"
        f'<progress max="{episode.limit}" value="{used}" aria-label="Steps used"></progress></p>'
    )


def _goal(visit: Visit) -> str:
    return (
        '<section class="goal" aria-label="What is wanted"><div class="wide">'
        f'<p class="serif" dir="auto"><small>Your task</small>{escape(visit.task.instruction)}</p>'
        "</div></section>"
    )


def _footer(visit: Visit) -> str:
    tasks = f'<a href="/tasks">All tasks</a><span>{visit.solved} solved</span>'
    if visit.episode.over:
        return tasks
    return tasks + form(visit, "/give-up", '<button class="quiet">Give up this task</button>')


# -- the shop's pages ------------------------------------------------------------------------------


def _button(
    visit: Visit, name: str, label: str, kind: str = "", pressed: bool | None = None
) -> str:
    """A button that does `click[name]`; a name that cannot be clicked is shown as such.

    Args:
        label: ready HTML.
        pressed: for an option, whether it is chosen.
    """
    action = f"click[{name}]"
    if action not in visit.episode.actions:
        return f'<span class="off" title="agents cannot click this">{label}</span>'
    number = visit.episode.actions.index(action)
    mark = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    style = f' class="{kind}"' if kind else ""
    return f'<button name="do" value="{number}"{style}{mark}>{label}</button>'


def _offered(visit: Visit, *names: str) -> str:
    """Those of the shop's own buttons that the page has."""
    return "".join(
        _button(visit, name.lower(), _LABELS.get(name, escape(name)))
        for name in names
        if f"click[{name.lower()}]" in visit.episode.actions
    )


_LABELS = {
    "< Prev": '<span aria-hidden="true">\u2039 </span>Prev',
    "Next >": 'Next<span aria-hidden="true"> \u203a</span>',
}


def _index(visit: Visit) -> str:
    box = (
        '<label for="query" class="soft">What do you search for?</label>'
        '<div class="search"><input id="query" name="query" type="search" autocomplete="off" '
        f'spellcheck="false" maxlength="{LONGEST_QUERY}" required autofocus>'
        '<button class="main">Search</button></div>'
    )
    return f"<h1>Search the store</h1>{form(visit, '/search', box, ' role=search')}"


def _results(visit: Visit) -> str:
    env = visit.episode.env
    state, found = env.state, env.hits()
    shown = found[(state.number - 1) * PAGE_SIZE : state.number * PAGE_SIZE]
    cards = "".join(_card(visit, env.catalogue.products[i]) for i in shown)
    nothing = "Nothing was found." if not found else "There are no more results."
    count = f"{len(found)} result{'s' if len(found) != 1 else ''}"
    return (
        f"<h1>{count} for \u201c<bdi>{escape(state.query, 120)}</bdi>\u201d</h1>"
        f'<p class="soft">Page {state.number}</p>'
        f'<div class="bar">{_offered(visit, "Back to Search", "< Prev", "Next >")}</div>'
        + (f'<ul class="cards">{cards}</ul>' if cards else f"<p>{nothing}</p>")
    )


def _card(visit: Visit, product: Product) -> str:
    title = _button(visit, product.asin.lower(), escape(product.title, 400) or "(no title)")
    seen = "opened before" if product.asin in visit.episode.env.state.seen else "rating n/a"
    return (
        f'<li class="card"><span class="asin">{escape(product.asin)}</span>'
        f'<h2 dir="auto">{title}</h2><p><span class="price">{_price(product)}</span>'
        f'<span class="small soft">{seen}</span></p></li>'
    )


def _price(product: Product) -> str:
    """As agents read it, but with cents."""
    return escape(" to ".join(f"${price:,.2f}" for price in product.prices))


def _item(visit: Visit) -> str:
    env = visit.episode.env
    product, chosen = env.catalogue.by_asin[env.state.asin], dict(env.state.options)
    groups = "".join(
        f'<fieldset><legend dir="auto">{escape(name, 200).capitalize()}</legend>'
        f'<div class="pills">'
        + "".join(_button(visit, v, escape(v, 200), pressed=chosen.get(name) == v) for v in values)
        + "</div></fieldset>"
        for name, values in product.options.items()
    )
    options = groups or '<p class="soft">This product has no options.</p>'
    pages = _offered(visit, *SUB_PAGES.values())
    return (
        f'<div class="bar">{_offered(visit, "Back to Search", "< Prev")}</div>'
        f'<div class="item"><div><span class="asin">{escape(product.asin)}</span>'
        f'<h1 dir="auto">{escape(product.title, 1000) or "(no title)"}</h1>'
        f'<p class="price">{_price(product)}</p><p class="soft">Rating: n/a</p>'
        f'<div class="about"><h2>About this product</h2><div class="pills plain">{pages}</div>'
        f'</div></div><div class="panel">{options}'
        f"{_button(visit, 'buy now', 'Buy Now', 'main')}</div></div>"
    )


def _sub(visit: Visit) -> str:
    env = visit.episode.env
    state, product = env.state, env.catalogue.by_asin[env.state.asin]
    return (
        f'<div class="bar">{_offered(visit, "Back to Search", "< Prev")}</div>'
        f'<p class="soft" dir="auto">{escape(product.title, 400)}</p>'
        f"<h1>{escape(state.sub_page)}</h1>"
        f'<div class="text" dir="auto">{_text_of(product, state.sub_page)}</div>'
    )


def _text_of(product: Product, name: str) -> str:
    if name == "Description":
        text = clean(product.description).strip()
        return f"<p>{escape(text)}</p>" if text else "<p>There is no description.</p>"
    if name == "Reviews":
        return "<p>There are no reviews.</p>"
    lines = list(product.bullets)
    if name == "Attributes":
        lines = [*product.attributes, product.category, product.query, product.product_category]
    items = "".join(f"<li>{escape(line.strip())}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>Nothing is listed.</p>"


_PAGES: dict[str, tuple[Callable[[Visit], str], str]] = {
    "results": (_results, "Results"),
    "item": (_item, "Product"),
    "sub": (_sub, "About the product"),
}
