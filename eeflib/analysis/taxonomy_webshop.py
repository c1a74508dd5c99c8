"""Rules for WebShop: what was wrong with a purchase, or why there was none.

Owns how the parts of the reward are worked out from what is on record (goal, pages, clicks and
reward), and the rules over them. Knows nothing about the simulator: published trajectories have
the same pages. Sources: the official reward (goal.py of princeton-nlp/WebShop),

    R = r_type * (attributes matched + options matched + price ok) / (attributes + options + 1)

with r_type 1, 0.5, 0.1 or 0. Trajectories of our own WebShop hold these parts (`reward_info`, in
`extra`); in others options and price can be read off the pages, so R tells the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rapidfuzz.fuzz import token_set_ratio

from eeflib.analysis.actions import action_kind
from eeflib.analysis.taxonomy_common import invalid_actions, loop, step_limit
from eeflib.analysis.taxonomy_kinds import Finding
from eeflib.records import Task, Trajectory

__all__ = ["Purchase", "no_purchase", "purchase", "wrong_purchase"]

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


# -- the rules --------------------------------------------------------------------------------


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
        guess = _told(trajectory, len(attributes)) or _solve(
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
    said = _LIMIT.search(instruction)
    return float(said[1]) if said else None


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


def _told(trajectory: Trajectory, attributes: int) -> _Parts | None:
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
    """An option is wrong where a value stands in its place, missing where none does."""
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
    """Chosen from among the same values; where that cannot be told, both are colours or sizes.

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
