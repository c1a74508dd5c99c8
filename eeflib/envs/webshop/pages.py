"""The pages of the shop: their text, and what can be clicked on them.

The environment imports from here: `WebShopState` (where an episode stands, as one small value),
`parse_action`, the pages as lists of nodes, `clickables`, `to_text` and `to_rich`. Nothing is ever
parsed as HTML, so markup in a title is shown as it is.

`text`: the visible strings joined by ` [SEP] `. `text_rich`: one string a line, buttons as
`[button] x [button_]`, chosen options and opened products as `[clicked button]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eeflib.envs.webshop.catalogue import Product

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


class Node(NamedTuple):
    """One visible string."""

    text: str
    kind: Literal["text", "button", "link", "option"] = "text"
    group: str = ""
    """Name of an option; id of a product."""


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
        nodes += (Node(p.asin, "link", p.asin), Node(p.title), Node(p.price_text))
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
