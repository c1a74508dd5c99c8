"""The pages of the shop: their text, what can be clicked on them, and what a click does.

The environment imports `WebShopState` (where an episode stands, as one small value: copying it is
restoring it), `parse_action`, `View` (the page of a state, in two observation modes), `click`,
`search` and `clickables` from here. Both rule sets are here: the official one (`strict`) and the
repaired one. Nothing is ever parsed as HTML, so markup in a title is shown as it is.

`text`: the visible strings joined by ` [SEP] `. `text_rich`: one string a line, buttons as
`[button] x [button_]`, chosen options and opened products as `[clicked button]`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from eeflib.envs.webshop.catalogue import Catalogue, Product
from eeflib.envs.webshop.search import TOP_K
from eeflib.records import Task

__all__ = [
    "Move",
    "Node",
    "Ranker",
    "Session",
    "Target",
    "View",
    "WebShopState",
    "click",
    "clickables",
    "hits",
    "item_page",
    "parse_action",
    "search",
    "sub_page",
]

PAGE_SIZE = 10
"""Products a result page."""

SUB_PAGES = {"description": "Description", "features": "Features", "reviews": "Reviews",
             "attributes": "Attributes"}  # fmt: skip
"""What is clicked -> the sub page's name."""

_BLANK = " \t\n\f\r"

Page = Literal["index", "results", "item", "sub", "done"]

PAGE_NAMES = {
    "index": "",
    "results": "search_results",
    "item": "item_page",
    "sub": "item_sub_page",
    "done": "done",
}
"""Page -> its name in official addresses."""


class Session(NamedTuple):
    """What the shop remembers between pages."""

    query: str
    """The search text, lower-case."""
    number: int
    """Result page, from 1."""
    asin: str
    """The product opened last since the search; empty if none."""
    options: tuple[tuple[str, str], ...]
    """Chosen options, (name, value) in the order in which their groups were first chosen."""


@dataclass(frozen=True, slots=True)
class WebShopState:
    """The page that is shown and what leads on from it; hashable, comparable, immutable."""

    page: Page = "index"
    query: str = ""
    """The search text, lower-case; see `keywords`."""
    number: int = 0
    """Result page; 0 before a search."""
    asin: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """Chosen options, (name, value)."""
    sub_page: str = ""
    """`Description`, `Features`, `Reviews` or `Attributes` on a sub page."""
    seen: tuple[str, ...] = ()
    """Products opened since the search page was last left, sorted; `text_rich` marks them."""
    steps: int = 0
    """Actions taken so far, invalid ones too."""
    score: float = 0.0
    """Reward of the purchase; 0 before it."""
    session: Session | None = None
    """strict only: what the shop remembers where it differs from the page shown, which happens
    after an action on which the official environment raises half-way."""

    @property
    def done(self) -> bool:
        """The purchase is made."""
        return self.page == "done"

    @property
    def keywords(self) -> tuple[str, ...]:
        """The search text split at blanks, as the official environment keeps it."""
        return tuple(self.query.split(" ")) if self.page != "index" else ()

    @property
    def live(self) -> Session:
        """What the next action works on."""
        return self.session or Session(self.query, self.number, self.asin, self.options)

    def key(self, salt: str = "") -> str:
        """16 hex digits that identify the state but for the number of steps taken."""
        value = (
            salt, self.page, self.query, self.number, self.asin, self.options, self.sub_page,
            self.seen, self.score, self.session and tuple(self.session),
        )  # fmt: skip
        return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def address(self) -> str:
        """The official address of the page, from the first path part on."""
        where = f"/{PAGE_NAMES[self.page]}/{{session}}/"
        plus = self.query.replace(" ", "+")
        options = dict(self.options)
        if self.page == "index":
            return "/{session}"
        if self.page == "results":
            return f"{where}{plus}/{self.number}"
        if self.page == "item":
            return f"{where}{self.asin}/{plus}/{self.number}/{json.dumps(options)}"
        if self.page == "sub":
            return f"{where}{self.asin}/{plus}/{self.number}/{self.sub_page}/{options}"
        return f"{where}{self.asin}/{options}"


def parse_action(action: str) -> tuple[str, str | None]:
    """Split `verb[argument]`; (action, None) if it is none.

    As officially: only the first line counts, the argument ends at its last `]`, the verb at the
    last `[` that leaves an argument; neither may be empty; nothing is stripped. Linear in the
    length of the action, whatever brackets it holds.
    """
    line = action.split("\n", 1)[0]
    close = line.rfind("]")
    start = line.rfind("[", 1, close - 1) if close > 2 else -1
    if start < 0:
        return action, None
    return line[:start], line[start + 1 : close]


Ranker = Callable[[Catalogue, WebShopState], tuple[int, ...]]
"""Product numbers of the results of `state.query`, best first."""
_OFFICIAL_ORDER = ("search_results", "item_page", "item_sub_page", "done")


class Node(NamedTuple):
    """One visible string."""

    text: str
    kind: Literal["text", "button", "link", "option"] = "text"
    group: str = ""
    """Option name, for an option."""


class Target(NamedTuple):
    """What a click hits."""

    kind: str
    group: str


_BACK, _PREV, _NEXT = (Node(t, "button") for t in ("Back to Search", "< Prev", "Next >"))
_BUY, _SEARCH = Node("Buy Now", "button"), Node("Search", "button")
_DESCRIPTION, _FEATURES, _REVIEWS, _ATTRIBUTES = (Node(t, "button") for t in SUB_PAGES.values())
_HEAD = Node("Instruction:")


def index_page(instruction: str) -> list[Node]:
    """The start page with the search box."""
    return [Node("WebShop"), Node("Instruction: "), Node(instruction), _SEARCH]


def results_page(
    instruction: str, products: Sequence[Product], number: int, total: int
) -> list[Node]:
    """One page of results; `Next >` is always offered, `< Prev` from page 2 on."""
    nodes = [_HEAD, Node(instruction), _BACK, Node(f"Page {number} (Total results: {total})")]
    if number > 1:
        nodes.append(_PREV)
    nodes.append(_NEXT)
    for p in products:
        nodes += (Node(p.asin, "link"), Node(p.title), Node(p.price_text))
    return nodes


def item_page(instruction: str, product: Product, show_attributes: bool = False) -> list[Node]:
    """A product with its options; `show_attributes` adds the Attributes button."""
    nodes = [_HEAD, Node(instruction), _BACK, _PREV]
    for name, values in product.options.items():
        nodes.append(Node(name))
        nodes += [Node(value, "option", name) for value in values]
    nodes += (Node(product.title), Node(f"Price: {product.price_text}"), Node("Rating: N.A."))
    nodes += (_DESCRIPTION, _FEATURES, _REVIEWS)
    if show_attributes:
        nodes.append(_ATTRIBUTES)
    nodes.append(_BUY)
    return nodes


def sub_page(instruction: str, product: Product, name: str) -> list[Node]:
    """Description, Features, Reviews (always empty) or Attributes of a product."""
    nodes = [_HEAD, Node(instruction), _BACK, _PREV]
    if name == "Description":
        nodes.append(Node(product.description))
    elif name == "Features":
        nodes += [Node(f" {bullet}") for bullet in product.bullets]
    elif name == "Attributes":
        nodes += [Node(f" {attribute}") for attribute in product.attributes]
        nodes += (Node(product.category), Node(product.query), Node(product.product_category))
    return nodes


def done_page(asin: str, options: dict[str, str], reward: float) -> list[Node]:
    """The page after the purchase. It shows the reward: never put it into a prompt."""
    chosen = json.dumps(options, sort_keys=True)
    for char, code in (("<", "003c"), (">", "003e"), ("&", "0026"), ("'", "0027")):
        chosen = chosen.replace(char, f"\\u{code}")
    lines = [
        "Thank you for shopping with us!", "Your code: ", "None",
        " (Paste it in your MTurk interface.)", "Purchased", "asin", asin, "options", chosen,
        "attrs", "None", "category", "None", "query", "None", "product category", "None",
        "Target", "asin", "options", "attrs", "price upper", "instuction text", "category",
        "product category", "query", "Goal ", "None", "Reward",
        "Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None",
    ]  # fmt: skip
    return [Node(line) for line in lines]


def clickables(nodes: Sequence[Node]) -> dict[str, Target]:
    """What can be clicked -> what it is: buttons, then products, then options, in page order.

    Buttons and products in lower case. A later entry replaces an earlier one of the same text in
    its place, as in the official environment: an option called `buy now` hides the button.
    """
    out: dict[str, Target] = {}
    for wanted in ("button", "link", "option"):
        for text, kind, group in nodes:
            if kind == wanted:
                out[text if kind == "option" else text.lower()] = Target(kind, group)
    return out


def _visible(text: str) -> str:
    """A string as an HTML reader sees it: of blanks only, one newline or one blank is left."""
    if text.strip(_BLANK):
        return text
    return "\n" if "\n" in text else text[:1] and " "


def to_text(nodes: Sequence[Node]) -> str:
    """The observation of mode `text`."""
    texts = (_visible(node[0]) for node in nodes)
    return " [SEP] ".join(t.strip() for t in texts if t and t != "\n")


def to_rich(
    nodes: Sequence[Node], chosen: Callable[[Node], bool], opened: Callable[[str], bool]
) -> str:
    """The observation of mode `text_rich`.

    Args:
        chosen: whether an option node counts as clicked.
        opened: whether a product has been opened before.
    """
    head, body = "", []
    for node in nodes:
        text = _visible(node.text)
        if not text or text == "\n":
            continue
        if node.kind == "button":
            text = f"[button] {text} [button_]"
        elif node.kind == "option":
            if chosen(node):
                head = f"You have clicked {text}.\n{head}"
                text = f"  [clicked button] {text} [clicked button_]"
            else:
                text = f"  [button] {text} [button_]"
        elif node.kind == "link":
            mark = "clicked button" if opened(text) else "button"
            text = f"\n[{mark}] {text} [{mark}_]"
        body.append(f"{text}\n")
    return head + "".join(body)


class Move(NamedTuple):
    """Outcome of an action, before the reward."""

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


@dataclass(frozen=True)
class View:
    """Shows states; arguments as those of `WebShopEnv`."""

    catalogue: Catalogue
    ranker: Ranker
    mode: Literal["text", "text_rich"]
    strict: bool
    show_attributes: bool

    @property
    def name(self) -> str:
        """Equal for views that show the same states in the same way."""
        return f"{self.mode} {self.strict} {self.show_attributes}"

    def nodes(self, task: Task, state: WebShopState) -> list[Node]:
        """The page of `state`."""
        # Officially the goal's own text, blanks around it and all; prompts know the task's.
        instruction = task.goal.get("instruction_text") if self.strict else None
        instruction = instruction or task.instruction
        catalogue = self.catalogue
        if state.page == "index":
            return index_page(instruction)
        if state.page == "results":
            found = self.ranker(catalogue, state)
            size = PAGE_SIZE
            window = found[(state.number - 1) * size : state.number * size]
            products = [catalogue.products[i] for i in window]
            return results_page(instruction, products, state.number, len(found))
        if state.page == "done":
            return done_page(state.asin, dict(state.options), state.score)
        product = catalogue.by_asin[state.asin]
        if state.page == "sub":
            return sub_page(instruction, product, state.sub_page)
        return item_page(instruction, product, self.show_attributes)

    def text(self, nodes: Sequence[Node], state: WebShopState) -> str:
        """The observation."""
        return to_text(nodes) if self.mode == "text" else self.rich(nodes, state)

    def rich(self, nodes: Sequence[Node], state: WebShopState) -> str:
        """The observation in mode `text_rich`."""
        chosen = dict(state.options)
        address = state.address() if self.strict else ""

        def is_chosen(node: Node) -> bool:
            # Officially a value is marked where the address holds it in quotes.
            return (
                f'"{node.text}"' in address if self.strict else chosen.get(node.group) == node.text
            )

        return to_rich(nodes, is_chosen, state.seen.__contains__)
