"""An episode's state as one small value, and what an action says.

Import `WebShopState` (its fingerprint and address) and `parse_action` from here.
Copying a state is restoring it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = [
    "PAGE_NAMES",
    "Page",
    "Session",
    "WebShopState",
    "parse_action",
]

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
