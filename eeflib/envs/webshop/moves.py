"""What an action does to a state: the rules of the shop.

Owns the transitions, official (`strict`) and repaired. Knows nothing about rewards or episodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.pages import SUB_PAGES, Target
from eeflib.envs.webshop.search import TOP_K
from eeflib.envs.webshop.state import PAGE_NAMES, Session, WebShopState

__all__ = ["Move", "Ranker", "click", "hits", "search"]

Ranker = Callable[[Catalogue, WebShopState], tuple[int, ...]]
"""Product numbers of the results of `state.query`, best first."""

_OFFICIAL_ORDER = ("search_results", "item_page", "item_sub_page", "done")


class Move(NamedTuple):
    """Evaluation of an action, before the reward."""

    state: WebShopState
    valid: bool
    reason: str = ""
    """Why nothing happened; in strict, the exception that the official environment raises."""


def hits(catalogue: Catalogue, state: WebShopState, strict: bool = False) -> tuple[int, ...]:
    """Product numbers of the state's search, best first.

    In strict, the back-door queries work: `<c> category`, `<q> query`, and `<r>`, 50 random
    products (here drawn from the query and the page number, so that a state fixes its page).

    Raises:
        LookupError, TypeError, ValueError: strict only, where the official environment raises so.
    """
    query = state.query
    if not strict or not query.startswith("<"):
        return catalogue.index.search(query)
    first, *rest = query.split(" ")
    if first == "<r>":
        rng = random.Random(f"{query} {state.number}")
        return tuple(rng.sample(range(len(catalogue)), TOP_K))
    if first == "<a>":
        raise TypeError("'NoneType' object is not subscriptable")
    if first == "<c>":
        return catalogue.numbers_with("category", rest[0].strip())
    if first == "<q>":
        return catalogue.numbers_with("query", " ".join(rest).strip())
    return catalogue.index.search(query)


def search(
    catalogue: Catalogue, state: WebShopState, query: str, number: int, ranker: Ranker, strict: bool
) -> Move:
    """Results of `query` from any page; forgets the product and its options."""
    shown = WebShopState(
        "results", query, number, seen=state.seen, steps=state.steps, score=state.score
    )
    if strict:
        try:
            ranker(catalogue, shown)
        except (LookupError, TypeError, ValueError) as exc:
            session = Session(query, number, "", ())
            return Move(replace(state, session=session), False, type(exc).__name__)
    return Move(shown, True)


def _page_name(state: WebShopState, strict: bool) -> str:
    """The page's official name; in strict guessed from the address, which holds the query."""
    if not strict:
        return PAGE_NAMES[state.page]
    address = state.address()
    return next((name for name in _OFFICIAL_ORDER if name in address), "")


def _open(catalogue: Catalogue, state: WebShopState, live: Session, sub_page: str) -> Move:
    """Show the product of `live`, or one of its sub pages."""
    if live.asin not in catalogue.by_asin:
        return Move(replace(state, session=live), False, "KeyError")
    page = "sub" if sub_page else "item"
    shown = WebShopState(
        page, live.query, live.number, live.asin, live.options, sub_page,  # type: ignore[arg-type]
        state.seen, state.steps, state.score,
    )  # fmt: skip
    return Move(shown, True)


def click(
    catalogue: Catalogue,
    state: WebShopState,
    name: str,
    targets: Mapping[str, Target],
    ranker: Ranker,
    strict: bool,
) -> Move:
    """Click `name` (lower case), which is one of `targets`. Buy Now leads to the done page."""
    live, target = state.live, targets[name]
    if name == "buy now":
        if live.asin not in catalogue.by_asin:
            return Move(state, False, "KeyError")
        shown = WebShopState(
            "done", live.query, live.number, live.asin, live.options, "", state.seen, state.steps
        )
        return Move(shown, True)
    if name == "back to search":
        return Move(WebShopState(steps=state.steps, score=state.score), True)
    page = _page_name(state, strict)
    if name == "next >" and page == "search_results":
        return search(catalogue, state, live.query, live.number + 1, ranker, strict)
    if name == "< prev" and page == "search_results":
        return search(catalogue, state, live.query, live.number - 1, ranker, strict)
    if name == "< prev" and page == "item_page":
        return search(catalogue, state, live.query, live.number, ranker, strict)
    if name in SUB_PAGES and not (name == "< prev" and page == "item_sub_page"):
        return _open(catalogue, state, live, SUB_PAGES[name])
    if target.kind == "link":
        asin = name.upper() if strict else catalogue.by_lower_asin[name]
        state = replace(state, seen=tuple(sorted({*state.seen, asin})))
        live = live._replace(asin=asin)
    elif target.kind == "option":
        options = dict(live.options)
        options[target.group] = name
        live = live._replace(options=tuple(options.items()))
    return _open(catalogue, state, live, "")
