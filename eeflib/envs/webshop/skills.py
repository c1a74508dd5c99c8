"""Which skills a trajectory of the embedded store shows, counted by its actions.

A level (`tasks.LEVELS`) is what a task is meant to take; a skill is what somebody did. A task of
the level `back` that a lucky first pick wins shows no skill.
"""

from __future__ import annotations

from collections.abc import Iterable

from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.records import Step

SKILLS = {
    "paging": "turned to a further page of results",
    "leaving": "left an opened product and opened another one of the same results",
    "rechoosing": "chose another value of an option that was chosen before",
    "sub page": "read a sub page (Features, Description) of some product before buying one",
    "new search": "searched again with other words",
}
"""Skill -> what somebody did who shows it."""

_SUB_PAGES = frozenset({"description", "features", "reviews", "attributes"})


def skills_shown(steps: Iterable[Step]) -> frozenset[str]:
    """The `SKILLS` that the valid actions of `steps` show; the empty set for none.

    Args:
        steps: from the beginning of an episode, a teacher's and a student's alike.
    """
    shown: set[str] = set()
    query, opened, read, chosen = "", "", False, set[str]()
    for step in steps:
        if not step.valid:
            continue
        verb, _, rest = step.action.lower().partition("[")
        target = rest.removesuffix("]").strip()
        if verb == "search":
            shown |= {"new search"} if query not in ("", target) else set()
            query, opened = target, ""
        elif target == "next >":
            shown.add("paging")
            opened = ""
        elif target in _SUB_PAGES:
            read = True
        elif target == "buy now":
            shown |= {"sub page"} if read else set()
        elif _is_product(target):
            shown |= {"leaving"} if opened not in ("", target) else set()
            opened, chosen = target, set()
        else:
            groups = {name for name, values in OPTION_VALUES.items() if target in values}
            before = {v for v in chosen if any(v in OPTION_VALUES[name] for name in groups)}
            shown |= {"rechoosing"} if before - {target} else set()
            chosen.add(target)
    return frozenset(shown)


def _is_product(target: str) -> bool:
    return len(target) == 10 and target.startswith("b0") and target.isalnum()
