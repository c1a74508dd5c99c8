"""Kinds of action, kinds of failure, and the rules that recognise a failure in one episode.

Import `action_kind` and `KINDS`; to diagnose an episode use `eeflib.analysis.taxonomy`, which says
which rules apply in which environment. A rule is a function, trajectory and task -> findings. It
reads what is on record (texts, clicks, rewards), so it also works on published trajectories.

The parts of a WebShop reward follow the official code (goal.py of princeton-nlp/WebShop),

    R = r_type * (attributes matched + options matched + price ok) / (attributes + options + 1)

with r_type 1, 0.5, 0.1 or 0. Trajectories of our own WebShop hold these parts (`reward_info`, in
`extra`). In others, options and price are read off the pages, and R gives the rest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rapidfuzz.fuzz import token_set_ratio

from eeflib.records import Task, Trajectory

__all__ = [
    "KINDS",
    "WEBSHOP_KINDS",
    "Case",
    "Finding",
    "Kind",
    "Rule",
    "action_kind",
    "ending",
    "fault",
    "invalid_actions",
    "loop",
    "menu_mishap",
    "no_progress",
    "no_purchase",
    "wrong_focus",
    "wrong_purchase",
]

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
        "Menu mishap", "A question that asked for a number took what came next as its answer.", "#"
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
only a minor finding of an episode (`Finding.main` is False) comes after all that are not."""


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


HARDLY = 0.1
"""A best score up to this is no progress. [ours]"""
LONGEST_ROUND = 6
"""Actions in the longest round that counts as a loop. [ours]"""


def step_limit(task: Task | None) -> int | None:
    """Most actions the task allows, where it says so."""
    limit = task.settings.get("max_steps") if task else None
    return limit if isinstance(limit, int) and limit > 0 else None


def best_score(trajectory: Trajectory) -> float:
    """The highest score or reward on the way; an end that takes all away does not count."""
    scores = [s.reward if s.score is None else s.score for s in trajectory.steps]
    return max([*scores, trajectory.reward])


def fault(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The record names a fault."""
    if trajectory.error:
        yield Finding("fault", "error on record", len(trajectory.steps), trajectory.error)


def invalid_actions(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Three actions and a third of all were not understood; the main finding where it is half."""
    bad = [t for t, s in enumerate(trajectory.steps) if not s.valid]
    total = len(trajectory.steps)
    if len(bad) >= 3 and 3 * len(bad) >= total:
        step = trajectory.steps[bad[0]]
        what = step.action or "no action at all"
        text = f"{len(bad)} of {total} actions not understood, first: {what} ({step.reason})"
        yield Finding("invalid_actions", "a third invalid", bad[0], text, 2 * len(bad) >= total)


def loop(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The same in the same place, three times running or round by round; main where half is that.

    Waiting is no loop: some tasks need it.
    """
    moves = [(s.observation, s.action) for s in trajectory.steps]
    counts = Counter(m for m in moves if not m[1].startswith("wait"))
    repeated = sum(n for n in counts.values() if n >= 3)
    main = 2 * repeated >= len(moves)
    for size in range(1, LONGEST_ROUND + 1):
        rounds, start = _rounds(moves, size)
        if rounds >= 3:
            actions = ", ".join(a or "(none)" for _, a in moves[start : start + size])
            yield Finding("loop", "same round", start, f"{rounds} times running: {actions}", main)
            return
    if main and repeated >= 6:
        (_, action), n = counts.most_common(1)[0]
        start = next(t for t, s in enumerate(trajectory.steps) if s.action == action)
        text = f"{repeated} of {len(moves)} steps repeat others, most of all {action} ({n} times)"
        yield Finding("loop", "half repeated", start, text)


def _rounds(moves: Sequence[tuple[str, str]], size: int) -> tuple[int, int]:
    """How often a round of `size` actions is walked without pause, and where that begins.

    The first round may be entered from elsewhere: only from the second on the observations count.
    """
    best, begin, run = 1, 0, 0
    for t in range(size, len(moves)):
        (here, action), (there, before) = moves[t], moves[t - size]
        if action != before or action.startswith("wait"):
            run = 0
        elif here == there or run < size:
            run += 1
        else:
            run = 1
        if run // size + 1 > best:
            best, begin = run // size + 1, t - run + 1 - size
    return best, begin


def no_progress(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """The best score stays at a tenth; the main finding only where all steps were used."""
    best = best_score(trajectory)
    if best <= HARDLY and trajectory.steps:
        used = any(f.kind == "ran_out_of_steps" for f in ending(trajectory, task))
        text = f"best score {best:.2f} in {len(trajectory.steps)} actions"
        yield Finding("no_progress", "score", len(trajectory.steps), text, used)


def ending(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Given up, cut by the limit, or ended by the environment."""
    total, limit = len(trajectory.steps), step_limit(task)
    last = trajectory.steps[-1].action if total else "no action at all"
    if trajectory.terminated:
        text = f"reward {trajectory.reward:.2f} of {trajectory.threshold:g} after: {last}"
        yield Finding("wrong_end", "ended, not solved", total, text)
    elif (limit is not None and total >= limit) or (limit is None and trajectory.truncated):
        text = f"{total} actions, score {best_score(trajectory):.2f}, last: {last}"
        yield Finding("ran_out_of_steps", "limit", total, text)
    else:
        left = f", {limit - total} steps left" if limit is not None else ""
        text = f"ends after {total} actions{left}, last: {last}"
        yield Finding("stopped_early", "not ended by anything", total, text)


_MENU = "Ambiguous request"
"""How the simulator begins when it asks for a number; the next input that is none is lost."""


def wrong_focus(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """A `focus on` was the last thing the simulator let happen."""
    if not trajectory.terminated or not trajectory.steps:
        return
    last = trajectory.steps[-1]
    if last.action.strip().lower().startswith("focus on"):
        end = trajectory.final_observation.strip() or "the task ended"
        text = f"{last.action}: {end}"
        yield Finding("wrong_focus", "focus ended it", len(trajectory.steps) - 1, text)


def menu_mishap(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Menus that got no number: each uses up an action. The main finding from three on."""
    steps = trajectory.steps
    lost = [
        t
        for t, s in enumerate(steps)
        if s.observation.startswith(_MENU) and not s.action.strip().isdecimal()
    ]
    if lost:
        text = f"{len(lost)} actions lost, first: {steps[lost[0]].action}"
        yield Finding("menu_mishap", "menu without a number", lost[0], text, len(lost) >= 3)


_MATCH = 85
"""A token set ratio above this is a match, as in the official reward."""
_TYPES = (1.0, 0.5, 0.1)
_PRICE = re.compile(r"\$?\s*([\d,]+(?:\.\d+)?)")
_NOT_A_THING = frozenset({"s", "and", "for", "men", "women", "kid", "girl", "boy", "baby", "set"})
_LIMIT = re.compile(r"price lower than (\d+(?:\.\d+)?) dollars")
_MARK = re.compile(r"\[(?:clicked )?button_?\]|\n")
_CHOSEN = re.compile(r"\[SEP\] options \[SEP\] (\{.*?\}) \[SEP\]")
_DONE_PAGE = 20_000
"""Characters of the page after the purchase that are searched: however long, it takes no time."""
_COLOURS = frozenset(
    re.findall(
        r"\w+",
        "beige black blue bronze brown camel charcoal coral cream crimson cyan gold gray green grey"
        " indigo ivory khaki lavender lilac magenta maroon mint navy nude olive orange peach pink"
        " plum purple red rose rust sand silver tan taupe teal turquoise violet white wine yellow",
    )
)
_SIZE = re.compile(
    r"\b(x*-?small|medium|large|xs|s|m|l|xx?l|king|queen|twin|full|wide|narrow)\b"
    r"|\d ?(ounce|oz|inch|in|ft|feet|mm|cm|pack|count|pound|lb|quart|gallon|piece)|\bof \d|^\d+$"
)


@dataclass(frozen=True)
class Purchase:
    """What was bought, as far as the record tells."""

    t: int
    """The step that bought it."""
    title: str
    prices: tuple[float, float] | None
    """Lowest and highest that the page leaves possible: some products show a range."""
    chosen: tuple[str, ...]
    """Values of options."""
    offered: tuple[tuple[str, ...], ...]
    """Values that exclude one another, group by group, as far as the page tells."""
    asin: str
    read: str
    """Everything that was read about the product, lower case."""


def purchase(trajectory: Trajectory) -> Purchase | None:
    """The purchase that ended the episode; None if there was none."""
    steps = trajectory.steps
    if not steps or _kind(steps[-1]) != "buy":
        return None
    page = _parts(steps[-1].observation)
    at = next((i for i, part in enumerate(page) if part.startswith("Price:")), 0)
    found = [float(p.replace(",", "")) for p in _PRICE.findall(page[at])] if at else []
    opened = max((t for t, s in enumerate(steps) if _kind(s) == "item"), default=0)
    seen = " ".join(s.observation.partition("Back to Search")[2] for s in steps[opened + 1 :])
    chosen = _chosen(trajectory, opened)
    return Purchase(
        t=len(steps) - 1,
        title=page[at - 1] if at else "",
        prices=(min(found), max(found)) if found else None,
        chosen=tuple(chosen.values()),
        offered=_groups(page[:at], tuple(chosen)),
        asin=steps[opened].action.partition("[")[2].rstrip("] ").upper(),
        read=seen.lower(),
    )


def _kind(step: Any) -> str:
    return action_kind(step.action, "webshop", step.valid)


def _parts(page: str) -> list[str]:
    """The strings of a page, in either observation mode."""
    text = _MARK.sub("[SEP]", page) if "[button]" in page else page
    return [p.strip() for p in text.split("[SEP]") if p.strip()]


def _chosen(trajectory: Trajectory, opened: int) -> dict[str, str]:
    """Option -> value: from the page after the purchase, else the clicks since the item opened."""
    found = _CHOSEN.search(trajectory.final_observation[:_DONE_PAGE])
    if found:
        try:
            options = json.loads(found[1])
        except ValueError:
            options = None
        if isinstance(options, dict):
            return {str(k): str(v) for k, v in options.items()}
    out: dict[str, str] = {}
    for step in trajectory.steps[opened + 1 :]:
        kind = _kind(step)
        if kind in ("search", "back to search"):
            out = {}
        elif kind == "option":
            value = step.action.partition("[")[2].rstrip("] ").lower()
            out[value] = value
    return out


def _groups(page: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The page's values cut where the name of an option that was chosen stands."""
    groups: list[list[str]] = [[]]
    for part in page:
        if part.lower() in names:
            groups.append([])
        groups[-1].append(part.lower())
    return tuple(tuple(g) for g in groups)


def wrong_purchase(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Product type and attributes by the reward's arithmetic, options and price by the pages."""
    bought = purchase(trajectory)
    if bought is None:
        return
    goal = task.goal if task else {}
    wanted = _wanted_options(goal)
    attributes = [str(a) for a in goal.get("attributes") or ()]
    missed = [w for w in wanted if not any(_same(w, c) for c in bought.chosen)]
    limit = _limit(goal, trajectory.instruction)
    cheap = _cheap(bought, limit)
    found: list[Finding] = []
    if "attributes" in goal:
        own = bought.asin == str(goal.get("asin", "")).upper()
        parts = len(attributes) + len(wanted) + 1
        options = len(wanted) - len(missed)
        guess = _recorded_parts(trajectory, len(attributes)) or _solve(
            trajectory.reward, parts, len(attributes), options, cheap, own
        )
        factor, have, cheap = guess.factor, guess.attributes, guess.cheap
        if not own:
            found += _type(bought, goal)
        if factor < 1 and not found:
            text = f"reward {trajectory.reward:.3f}, {factor:g} times what attributes, options and"
            found.append(
                Finding("wrong_product", "reward", bought.t, f"{bought.title}: {text} price give")
            )
        if have < len(attributes):
            lacks = [a for a in attributes if a.lower() not in bought.read] or attributes
            text = f"{have} of {len(attributes)} attributes; not seen: {', '.join(lacks)}"
            rule = "reward less options and price"
            found.append(
                Finding("missed_attribute", rule, bought.t, f"{bought.title or 'bought'}: {text}")
            )
    yield from found
    yield from _options(bought, missed, trajectory)
    if cheap is False and limit is not None and bought.prices:
        low, high = bought.prices
        asked = f"{high:g}" if low == high else f"{low:g} to {high:g}"
        rule = "price on the page" if low > limit else "reward less options and attributes"
        yield Finding("over_price", rule, bought.t, f"{asked} dollars, {limit:g} allowed")
    if not found and not missed and cheap is not False:
        text = f"{bought.title or bought.asin}, reward {trajectory.reward:.3f}"
        yield Finding("bad_purchase", "bought, not solved", bought.t, text)


def _wanted_options(goal: Mapping[str, Any]) -> list[str]:
    options = goal.get("goal_options") or ()
    values = options.values() if isinstance(options, Mapping) else options
    return [str(v) for v in values]


def _same(a: str, b: str) -> bool:
    return token_set_ratio(a.lower(), b.lower()) > _MATCH


def _limit(goal: Mapping[str, Any], instruction: str) -> float | None:
    value = goal.get("price_upper")
    if isinstance(value, (int, float)) and value > 0:
        return float(value)
    stated = _LIMIT.search(instruction)
    return float(stated[1]) if stated else None


def _cheap(bought: Purchase, limit: float | None) -> bool | None:
    """Whether the price is within the limit; None where the page leaves it open."""
    if limit is None or bought.prices is None or bought.prices[0] <= limit < bought.prices[1]:
        return None
    return bought.prices[1] <= limit


def _type(bought: Purchase, goal: Mapping[str, Any]) -> Iterator[Finding]:
    """What the goal's query and title both call the thing, the title of the purchase does not."""
    things = _stems(str(goal.get("query", ""))) & _stems(str(goal.get("name", "")))
    if things and bought.title and not things & _stems(bought.title):
        text = f"{bought.title}, wanted: {goal['query']}"
        yield Finding("wrong_product", "title", bought.t, text)


def _stems(text: str) -> set[str]:
    return {_stem(w) for w in re.findall(r"[a-z]+", text.lower())} - _NOT_A_THING


def _stem(word: str) -> str:
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word if word.endswith("ss") else word.removesuffix("s")


class _Parts(NamedTuple):
    """Parts of the reward that give it together."""

    factor: float
    attributes: int
    cheap: bool | None


def _recorded_parts(trajectory: Trajectory, attributes: int) -> _Parts | None:
    """The parts as the environment gave them; None where the record does not hold them."""
    info = trajectory.extra.get("reward_info")
    if not isinstance(info, Mapping):
        return None
    factor, share, cheap = info.get("r_type"), info.get("r_att"), info.get("r_price")
    if not (isinstance(factor, (int, float)) and isinstance(share, (int, float))):
        return None
    return _Parts(factor, round(share * attributes), None if cheap is None else bool(cheap))


def _solve(
    reward: float, parts: int, attributes: int, options: int, cheap: bool | None, own: bool
) -> _Parts:
    """Product type's factor, attributes matched and price that give this reward.

    Where several do: the largest factor (the official reward is rarely below 1 there), then a
    price within the limit. The goal's own product has factor 1.
    """
    for factor in _TYPES[:1] if own else _TYPES:
        for price in (True, False) if cheap is None else (cheap,):
            have = reward * parts / factor - options - price
            if abs(have - round(have)) < 0.02 and 0 <= round(have) <= attributes:
                return _Parts(factor, round(have), price if cheap is None else cheap)
    return _Parts(1.0 if own else 0.0, 0, cheap)


def _options(bought: Purchase, missed: Sequence[str], trajectory: Trajectory) -> Iterator[Finding]:
    """An option is wrong where another value was chosen, missing where none was."""
    for value in missed:
        offered = value.lower() in {v for g in bought.offered for v in g}
        group = next((g for g in bought.offered[1:] if value.lower() in g), ())
        instead = next((c for c in bought.chosen if _stands_for(c, value, group, offered)), "")
        if instead:
            t = _clicked(trajectory, instead, bought.t)
            yield Finding("wrong_option", "other value", t, f"{instead}, wanted: {value}")
        else:
            text = f"wanted: {value}{'' if offered else ' (not offered here)'}, not chosen"
            yield Finding("missing_option", "no value", bought.t, text)


def _stands_for(chosen: str, wanted: str, group: Sequence[str], offered: bool) -> bool:
    """Chosen from among the same values; where that cannot be known, both are colours or sizes.

    A page does not say where the next option begins, so a colour and no colour are kept apart.
    """
    colours = [bool(_COLOURS & set(re.findall(r"\w+", v.lower()))) for v in (chosen, wanted)]
    if offered and group:
        return chosen.lower() in group and colours[0] == colours[1]
    return all(colours) or all(_SIZE.search(v.lower()) for v in (chosen, wanted))


def _clicked(trajectory: Trajectory, value: str, default: int) -> int:
    target = f"[{value.lower()}]"
    hits = [t for t, s in enumerate(trajectory.steps) if s.action.lower().endswith(target)]
    return hits[-1] if hits else default


def no_purchase(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Never bought, and why: gave up with a quarter of its steps left, or wandered about."""
    if purchase(trajectory) is not None:
        return
    total, limit = len(trajectory.steps), step_limit(task)
    pages = [_kind(s) for s in trajectory.steps]
    looked = f"{pages.count('search')} searches, {pages.count('item')} products opened"
    yield Finding("never_bought", "no purchase", total, f"{total} actions: {looked}", False)
    if limit is not None and 4 * (limit - total) >= limit:
        text = f"ends after {total} of {limit} actions: {looked}"
        yield Finding("stopped_early", "a quarter left", total, text)
    elif limit is None and not trajectory.truncated:
        yield Finding("stopped_early", "not ended by anything", total, f"{total} actions: {looked}")
    elif not any(f.main for r in (loop, invalid_actions) for f in r(trajectory, task)):
        yield Finding("wandered", "steps used up", total, f"{total} actions: {looked}")
