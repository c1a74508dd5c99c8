"""What kind of action an action is: search, next page, option, buy, ...

Owns the mapping from action text to kind. Knows nothing about environments' internals: it reads the
text only, so it also works on recorded and published trajectories.
"""

from __future__ import annotations

import re

__all__ = ["WEBSHOP_KINDS", "action_kind"]

WEBSHOP_KINDS = (
    "search",
    "next page",
    "previous",
    "back to search",
    "sub page",
    "item",
    "option",
    "buy",
)
"""Kinds in the order of a shopping episode; other environments use the action's first word."""

_WEBSHOP = re.compile(r"^\s*(search|click)\[(.*)\]", re.IGNORECASE | re.DOTALL)
_BUTTONS = {
    "next >": "next page",
    "< prev": "previous",
    "back to search": "back to search",
    "description": "sub page",
    "features": "sub page",
    "reviews": "sub page",
    "attributes": "sub page",
    "buy now": "buy",
}
# Amazon's ids: ten letters and digits, `B0...` for products, digits for books.
_ITEM = re.compile(r"^(?=.*\d)[a-z0-9]{10}$")


def action_kind(action: str, env: str = "webshop", valid: bool = True) -> str:
    """The kind of `action`; `invalid` if it was not understood, `other` if it is empty."""
    if not valid:
        return "invalid"
    if env == "webshop":
        match = _WEBSHOP.match(action)
        if match is None:
            return "invalid"
        if match.group(1).lower() == "search":
            return "search"
        target = match.group(2).strip().lower()
        return _BUTTONS.get(target, "item" if _ITEM.match(target) else "option")
    words = action.split()
    return words[0].lower()[:24] if words else "other"
