"""What can be wrong with a failed episode: the kinds of failure and the evidence for one.

Owns the kinds, their order of precedence, `Finding` and `Case`. Knows nothing about how a kind is
recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from eeflib.records import Task, Trajectory

__all__ = ["KINDS", "Case", "Finding", "Kind", "Rule", "Says"]

Says = Literal["cause", "end", "nothing"]
"""What a kind tells: why it failed, only how it ended, or nothing."""


class Kind(NamedTuple):
    """A way to fail."""

    title: str
    meaning: str
    glyph: str
    says: Says = "cause"


KINDS: Mapping[str, Kind] = {
    "fault": Kind("Fault", "Provider or environment broke; the episode says nothing.", "\u26a0"),
    "wrong_focus": Kind(
        "Wrong focus", "Focused on something else than was asked, which ends the task.", "\u25ce"
    ),
    "wrong_product": Kind("Wrong product", "Bought a thing of another kind.", "\u2716"),
    "missed_attribute": Kind(
        "Missed attribute", "What was bought lacks a quality that was asked for.", "\u25d1"
    ),
    "wrong_option": Kind(
        "Wrong option", "Chose another value of an option that was asked for.", "\u21c4"
    ),
    "missing_option": Kind(
        "Missing option", "Did not choose an option that was asked for.", "\u25a1"
    ),
    "over_price": Kind("Over price", "What was bought costs more than allowed.", "$"),
    "invalid_actions": Kind(
        "Invalid actions", "A third of the actions or more were not understood.", "\u2298"
    ),
    "menu_mishap": Kind(
        "Menu mishap", "A question that asked for a number swallowed what came next.", "#"
    ),
    "loop": Kind("Loop", "Did the same over and over.", "\u21bb"),
    "no_progress": Kind("No progress", "Used its steps and hardly scored.", "\u2013"),
    "wandered": Kind("Wandered", "Used its steps looking at pages, and bought nothing.", "\u2934"),
    "stopped_early": Kind("Stopped early", "Gave up with steps left.", "\u25fc", "end"),
    "ran_out_of_steps": Kind(
        "Ran out of steps", "Was getting on when the limit ended it.", "\u25f7", "end"
    ),
    "never_bought": Kind("Never bought", "Ended without a purchase.", "\u2205", "end"),
    "bad_purchase": Kind(
        "Bad purchase", "Bought, and nothing recorded tells what was wrong.", "\u2048", "end"
    ),
    "wrong_end": Kind("Wrong end", "The environment ended it, not solved.", "\u2573", "end"),
    "unclear": Kind("Unclear", "No rule applies.", "?", "nothing"),
}
"""Name -> kind, in the order of precedence: of several, the first is the main one. A kind that is
only a side matter of an episode (`Finding.main` is False) comes after all that are not."""


class Finding(NamedTuple):
    """One kind of failure, and what shows it."""

    kind: str
    rule: str
    """Name of the rule that found it."""
    t: int
    """The step that shows it; the number of steps for the end."""
    text: str
    """What was seen or done, or the numbers behind it. Holds text of the record: escape it."""
    main: bool = True
    """False: it happened, but something else may have decided the episode."""


class Case(NamedTuple):
    """A failed episode and its task."""

    seed: int
    method: str
    """`teacher`, or the method whose student acted."""
    iteration: int
    trajectory: Trajectory
    task: Task | None = None


Rule = Callable[[Trajectory, Task | None], Iterable[Finding]]
"""A test for some kinds of failure; its docstring says what it goes by."""
