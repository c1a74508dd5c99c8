"""The pages of the shop as text, and what can be clicked on them.

Owns the contents of each page and its two renderings. Knows nothing about goals or transitions.
Text only: nothing is ever parsed as HTML, so markup in a title is shown as it is.

`text`: the visible strings joined by ` [SEP] `. `text_rich`: one string a line, buttons as
`[button] x [button_]`, chosen options and opened products as `[clicked button]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from eeflib.envs.webshop.catalogue import Product

__all__ = [
    "PAGE_SIZE", "SUB_PAGES", "Node", "Target", "clickables", "done_page", "index_page",
    "item_page", "results_page", "sub_page", "to_rich", "to_text",
]  # fmt: skip

PAGE_SIZE = 10
"""Products a result page."""

SUB_PAGES = {"description": "Description", "features": "Features", "reviews": "Reviews",
             "attributes": "Attributes"}  # fmt: skip
"""What is clicked -> the sub page's name."""

_BLANK = " \t\n\f\r"


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
