"""Why a failed episode failed: offline rules, each with its evidence.

Import `diagnose` for one episode, `failures`, `counts` and `coverage` for tables of many, and
`action_kind`. An episode may have several kinds of failure; it is counted under the first. Rules
read what is on record (texts, clicks, rewards), so they also work on published trajectories; those
that hold anywhere are in `eeflib.analysis.rules`.

The parts of a WebShop reward follow the official code (goal.py of princeton-nlp/WebShop),

    R = r_type * (attributes matched + options matched + price ok) / (attributes + options + 1)

with r_type 1, 0.5, 0.1 or 0. Trajectories of our own WebShop hold these parts (`reward_info`, in
`extra`). In others, options and price are read off the pages, and R gives the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pandas as pd
from rapidfuzz.fuzz import token_set_ratio

from eeflib.analysis import rules
from eeflib.analysis.rules import KINDS, NOT_KNOWN, Finding, Usual, step_limit
from eeflib.records import Step, Task, Trajectory
from eeflib.stats import wilson

WEBSHOP_KINDS = (
    "search", "next page", "previous", "back to search", "sub page", "item", "option", "buy",
)  # fmt: skip
"""Kinds in the order of a shopping episode; other environments use the action's first word."""

OWN = "eeflib"
"""Format of trajectories that eeflib recorded; `extra` names that of imported ones."""
_WEBSHOP = re.compile(r"^\s*(search|click)\[(.*)\]", re.IGNORECASE | re.DOTALL)
_BUTTONS = {
    **{"next >": "next page", "< prev": "previous", "back to search": "back to search"},
    **dict.fromkeys(("description", "features", "reviews", "attributes"), "sub page"),
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


class Case(NamedTuple):
    """A failed episode and its task."""

    seed: int
    method: str
    """`teacher`, or the method whose student acted."""
    iteration: int
    trajectory: Trajectory
    task: Task | None = None
    usual: Usual = NOT_KNOWN
    """How long the episodes of its environment are; see `rules.usual`."""


def wrong_focus(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """A `focus on` was the last thing the simulator let happen."""
    last = trajectory.steps[-1].action if trajectory.steps else ""
    if trajectory.terminated and last.strip().lower().startswith("focus on"):
        text = f"{last}: {trajectory.final_observation.strip() or 'the task ended'}"
        yield Finding("wrong_focus", "focus ended it", len(trajectory.steps) - 1, text)


def menu_mishap(trajectory: Trajectory, task: Task | None) -> Iterator[Finding]:
    """Menus that got no number: each uses up an action. The main finding from three on."""
    asked = [s.observation.startswith("Ambiguous request") for s in trajectory.steps]
    given = [s.action.strip().isdecimal() for s in trajectory.steps]
    lost = [t for t, menu in enumerate(asked) if menu and not given[t]]
    if lost:
        text = f"{len(lost)} actions lost, first: {trajectory.steps[lost[0]].action}"
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
_COLOUR = re.compile(
    r"\b(beige|black|blue|bronze|brown|camel|charcoal|coral|cream|crimson|cyan|gold|gray|green|grey"
    r"|indigo|ivory|khaki|lavender|lilac|magenta|maroon|mint|navy|nude|olive|orange|peach|pink|plum"
    r"|purple|red|rose|rust|sand|silver|tan|taupe|teal|turquoise|violet|white|wine|yellow)\b"
)
_SIZE = re.compile(
    r"\b(x*-?small|medium|large|xs|s|m|l|xx?l|king|queen|twin|full|wide|narrow)\b"
    r"|\d ?(ounce|oz|inch|in|ft|feet|mm|cm|pack|count|pound|lb|quart|gallon|piece)|\bof \d|^\d+$"
)


class Purchase(NamedTuple):
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
    shown = steps[-1].observation
    marked = _MARK.sub("[SEP]", shown) if "[button]" in shown else shown
    page = [p.strip() for p in marked.split("[SEP]") if p.strip()]
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


def _kind(step: Step) -> str:
    return action_kind(step.action, "webshop", step.valid)


def _chosen(trajectory: Trajectory, opened: int) -> dict[str, str]:
    """Option -> value: from the page after the purchase, else the clicks since the item opened."""
    found = _CHOSEN.search(trajectory.final_observation[:_DONE_PAGE])
    if found:
        with suppress(ValueError):  # an object, by the pattern
            return {str(k): str(v) for k, v in json.loads(found[1]).items()}
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
    options = goal.get("goal_options") or ()
    wanted = [str(v) for v in (options.values() if isinstance(options, Mapping) else options)]
    attributes = [str(a) for a in goal.get("attributes") or ()]
    missed = [w for w in wanted if not any(_same(w, c) for c in bought.chosen)]
    limit = _limit(goal, trajectory.instruction)
    cheap = _cheap(bought, limit)
    found: list[Finding] = []

    def say(kind: str, rule: str, text: str) -> None:
        found.append(Finding(kind, rule, bought.t, text))

    if "attributes" in goal:
        own = bought.asin == str(goal.get("asin", "")).upper()
        n, chosen = len(attributes), len(wanted) - len(missed)
        factor, have, cheap = _recorded_parts(trajectory, n) or _solve(
            trajectory.reward, n + len(wanted) + 1, n, chosen, cheap, own
        )
        # What the goal's query and name both call the thing, the title of the purchase does not.
        things = _stems(str(goal.get("query", ""))) & _stems(str(goal.get("name", "")))
        if not own and things and bought.title and not things & _stems(bought.title):
            say("wrong_product", "title", f"{bought.title}, wanted: {goal['query']}")
        elif factor < 1:
            text = f"reward {trajectory.reward:.3f}, {factor:g} times what attributes, options and"
            say("wrong_product", "reward", f"{bought.title}: {text} price give")
        if have < n:
            lacks = [a for a in attributes if a.lower() not in bought.read] or attributes
            text = f"{have} of {n} attributes; not seen: {', '.join(lacks)}"
            what = bought.title or "bought"
            say("missed_attribute", "reward less options and price", f"{what}: {text}")
    if not found and not missed and cheap is not False:
        text = f"{bought.title or bought.asin}, reward {trajectory.reward:.3f}"
        say("bad_purchase", "bought, not solved", text)
    if cheap is False and limit is not None and bought.prices:
        low, high = bought.prices
        asked = f"{high:g}" if low == high else f"{low:g} to {high:g}"
        rule = "price on the page" if low > limit else "reward less options and attributes"
        say("over_price", rule, f"{asked} dollars, {limit:g} allowed")
    yield from found
    yield from _options(bought, missed, trajectory)


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


def _stems(text: str) -> set[str]:
    """Words without the ending of a plural."""
    words = (re.sub("ies$", "y", w) for w in re.findall(r"[a-z]+", text.lower()))
    return {re.sub("(?<=ss|sh|ch)es$|(?<=x)es$|(?<!s)s$", "", w) for w in words} - _NOT_A_THING


_Parts = tuple[float, int, bool | None]
"""Parts of the reward that give it together: product type's factor, attributes, price within the
limit (None: open)."""


def _recorded_parts(trajectory: Trajectory, attributes: int) -> _Parts | None:
    """The parts as the environment gave them; None where the record does not hold them."""
    info = trajectory.extra.get("reward_info")
    if not isinstance(info, Mapping):
        return None
    factor, share, cheap = info.get("r_type"), info.get("r_att"), info.get("r_price")
    if not (isinstance(factor, (int, float)) and isinstance(share, (int, float))):
        return None
    return factor, round(share * attributes), None if cheap is None else bool(cheap)


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
                return factor, round(have), price if cheap is None else cheap
    return 1.0 if own else 0.0, 0, cheap


def _options(bought: Purchase, missed: Sequence[str], trajectory: Trajectory) -> Iterator[Finding]:
    """An option is wrong where another value was chosen, missing where none was."""
    for value in missed:
        offered = value.lower() in {v for g in bought.offered for v in g}
        group = next((g for g in bought.offered[1:] if value.lower() in g), ())
        instead = next((c for c in bought.chosen if _stands_for(c, value, group, offered)), "")
        if instead:
            click, steps = f"[{instead.lower()}]", enumerate(trajectory.steps)
            clicks = [t for t, s in steps if s.action.lower().endswith(click)]
            t = clicks[-1] if clicks else bought.t
            yield Finding("wrong_option", "other value", t, f"{instead}, wanted: {value}")
        else:
            text = f"wanted: {value}{'' if offered else ' (not offered here)'}, not chosen"
            yield Finding("missing_option", "no value", bought.t, text)


def _stands_for(chosen: str, wanted: str, group: Sequence[str], offered: bool) -> bool:
    """Chosen from among the same values; where that cannot be known, both are colours or sizes.

    A page does not say where the next option begins, so a colour and no colour are kept apart.
    """
    colours = [_COLOUR.search(v.lower()) is not None for v in (chosen, wanted)]
    if offered and group:
        return chosen.lower() in group and colours[0] == colours[1]
    return all(colours) or all(_SIZE.search(v.lower()) for v in (chosen, wanted))


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
    elif not any(f.main for r in (rules.loop, rules.invalid_actions) for f in r(trajectory, task)):
        yield Finding("wandered", "steps used up", total, f"{total} actions: {looked}")


_SHOP: Sequence[rules.Rule] = (wrong_purchase, no_purchase)
_OURS: Mapping[str, Sequence[rules.Rule]] = {
    "webshop": _SHOP,
    "scienceworld": (rules.no_progress, rules.ending, wrong_focus, menu_mishap),
    "textworld": (rules.no_progress, rules.ending),
}
_FOREIGN: Mapping[str, Sequence[rules.Rule]] = {
    "webshop": _SHOP,
    "scienceworld": (wrong_focus, menu_mishap),
}


def _findings(trajectory: Trajectory, task: Task | None, usual: Usual) -> Iterator[Finding]:
    """What the rules find; ours hold only where ours recorded what an action did."""
    ours = trajectory.env in _OURS and trajectory.extra.get("format", OWN) == OWN
    own = _OURS[trajectory.env] if ours else _FOREIGN.get(trajectory.env, ())
    for rule in (*rules.ANY, *(() if ours else rules.FOREIGN), *own):
        yield from rule(trajectory, task)
    if not ours and trajectory.env != "webshop":
        yield from rules.unknown_ending(trajectory, task, usual)


_RANK = {name: i for i, name in enumerate(KINDS)}


class Diagnosis(NamedTuple):
    """What was found in one failed episode, the main one first."""

    findings: tuple[Finding, ...]

    @property
    def primary(self) -> str:
        """The kind it is counted as."""
        return self.findings[0].kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind found, once each."""
        return tuple(dict.fromkeys(f.kind for f in self.findings))


def diagnose(
    trajectory: Trajectory, task: Task | None = None, usual: Usual = NOT_KNOWN
) -> Diagnosis | None:
    """Why `trajectory` failed; None if it was solved, or if nobody knows.

    Args:
        task: what was asked, with its goal; without it a purchase can hardly be judged.
        usual: how long the episodes of its environment are; see `rules.usual`.
    """
    if trajectory.solved or not (trajectory.rated or trajectory.error):
        return None
    found = list(_findings(trajectory, task, usual))
    if any(f.main and f.kind != "wrong_end" for f in found):  # that is what the end was about
        found = [f for f in found if f.kind != "wrong_end"]
    found.sort(key=lambda f: (not f.main, _RANK[f.kind], f.t))
    if not found:
        last, total = rules.last_news(trajectory), len(trajectory.steps)
        text = f"reward {trajectory.reward:.3f} after {total} actions; the last that showed "
        text += f"something new: {trajectory.steps[last].action}" if last >= 0 else "anything: none"
        found = [Finding("no_cause_found", "none", total if last < 0 else last, text)]
    return Diagnosis(tuple(found))


def failures(cases: Iterable[Case]) -> pd.DataFrame:
    """One row per failed episode and kind of failure; columns: `frames.COLUMNS["failures"]`."""
    from eeflib.analysis.frames import COLUMNS  # which imports `action_kind`

    rows = []
    for seed, method, iteration, trajectory, task, usual in cases:
        diagnosis = diagnose(trajectory, task, usual)
        if diagnosis is None:
            continue
        extra = task.extra if task else {}
        about = [str(extra.get(name, "")) for name in ("level", "task_type")]
        about.append(trajectory.policy)
        named = [seed, trajectory.id, trajectory.task_id, method, iteration, trajectory.env, *about]
        kinds = set()
        for i, finding in enumerate(diagnosis.findings):
            if finding.kind not in kinds:  # two options missing are one kind of failure
                rows.append([*named, finding.kind, i == 0, finding.rule, finding.t, finding.text])
                kinds.add(finding.kind)
    columns = COLUMNS["failures"]
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: dtype for name, (dtype, _) in columns.items()})


def explained(kind: str) -> tuple[str, ...]:
    """What a main kind of failure tells, in words: `not solved` and one of three."""
    says = KINDS[kind].says if kind in KINDS else "nothing"
    words = {"cause": "a cause", "end": "only how it ended", "nothing": "no cause found"}
    return ("not solved", words[says])


class Coverage(NamedTuple):
    """How much the rules say about the failures of a run."""

    n: int
    """Failed episodes."""
    cause: int
    """Of them with a kind that names a cause."""
    end: int
    """Of them with one that only says how it ended."""

    @property
    def nothing(self) -> int:
        """Of them without either."""
        return self.n - self.cause - self.end

    @property
    def share(self) -> float:
        """cause / n; nan if n is 0."""
        return self.cause / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `share`."""
        return wilson(self.cause, self.n)


def coverage(failures: pd.DataFrame) -> Coverage:
    """How many failures got a kind that names a cause, or at least how they ended."""
    says = failures.loc[failures["primary"], "kind"].map({k: v.says for k, v in KINDS.items()})
    return Coverage(len(says), int((says == "cause").sum()), int((says == "end").sum()))


def counts(failures: pd.DataFrame, by: str = "level") -> pd.DataFrame:
    """Failures per kind and group: n as the main kind, any as a main or a further kind.

    Columns: group, kind, n, any, total (failures of the group), share (n / total); kinds in the
    order of `KINDS`, those that do not occur left out.
    """
    rows = failures.assign(group=failures[by], n=failures["primary"].astype("int64"), any=1)
    table = rows.groupby(["group", "kind"], as_index=False)[["n", "any"]].sum()
    total = table.groupby("group")["n"].transform("sum")
    table = table.assign(total=total, share=table["n"] / total)
    by_rank = table.assign(rank=table["kind"].map(_RANK)).sort_values(["group", "rank"])
    return by_rank.drop(columns="rank").reset_index(drop=True)
