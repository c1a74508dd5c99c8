"""`ScriptedShopper`: the offline teacher for WebShop, whose errors come from its own limits.

It shops as a careful but tiring person does: it types the words of the wish, reads titles and
prices, goes to the next page if nothing fits, opens what fits, reads Features when the wish asks
for more than titles show, goes back and takes another when a wanted value or property is missing,
chooses the options that the wish names, and buys. It reads the instruction and the pages, never
the goal or the reward. Without errors it solves every task of the embedded store.

It errs in two ways [ours]:

- **Slips**, made at any time and mended as a rule: a search with too few words, a wrong listing
  that is opened and left again, a wrong value that is chosen again, a look at a page that does not
  matter. So every skill that a student needs to recover is somewhere in its trajectories.
- **Late errors**, the likelier the more words it has read in an episode: a similar product, a wrong
  value, the right product left, a purchase too early. After one it has lost patience and buys soon.

So it solves short tasks and fails most long ones, after steps that were wrong and steps that put
them right: EEF learns from such failures, and has something to mask in them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from eeflib.policies.base import Conversation, Reply

_T = TypeVar("_T")
_ASIN = re.compile(r"^B[A-Z0-9]{9}$")
_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PRICE_LIMIT = re.compile(r",? and price lower than ([\d.]+) dollars.*$")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a also am an and are be buy can described find for get help i in is looking me must my "
        "need new of on or order our out please ran shopping show sister so some that the to us "
        "want wants we which who with would you like it these this described as",
    )
)


@dataclass(frozen=True)
class Skill:
    """How soon the shopper tires, and which slips it makes: each number is a probability.

    Probability of a late error at one decision = floor + ceiling * sigmoid((words - middle) /
    width), where a mended slip counts as `mending` words.
    """

    floor: float = 0.03
    ceiling: float = 0.92
    middle: float = 330.0
    """Words read at which half of the tiring has happened; a page of results has about 90."""
    width: float = 30.0
    short_search: float = 0.30
    """The first search names the last two words of the wish only."""
    wrong_listing: float = 0.65
    """A page of results: one of the closest unfit listings is opened."""
    wrong_value: float = 0.40
    """A wanted option: another of its values is chosen."""
    stray: float = 0.20
    """A product: its Description is looked at, for nothing."""
    notices: float = 0.95
    """A wrong listing or value is noticed, and put right."""
    habit: float = 0.0
    """A wrong listing or value is the first one instead of any: mistakes that can be imitated."""
    mending: float = 60.0
    patience: int = 3
    """Result pages looked at before settling for the best listing so far."""

    def error(self, words: float) -> float:
        """Probability of a late error after so many words."""
        z = np.clip((words - self.middle) / self.width, -50, 50)
        return float(min(1.0, self.floor + self.ceiling / (1 + np.exp(-z))))


FLAWLESS = Skill(
    floor=0.0, ceiling=0.0, short_search=0.0, wrong_listing=0.0, wrong_value=0.0, stray=0.0
)
"""No errors and no slips: solves every task of the embedded store."""


@dataclass
class _Memory:
    words: float = 0.0
    shown: str = ""
    page: int = 1
    searched: bool = False
    short: bool = False
    """The results shown are those of too few words."""
    asin: str = ""
    title: str = ""
    rejected: set[str] = field(default_factory=set)
    slipped: set[str] = field(default_factory=set)
    """Pages of results and options at which a slip was made already: none is made twice."""
    wrong: bool = False
    """A wrong listing is open, and will be noticed."""
    wrong_value: str = ""
    """A value to be put right: the option's name."""
    chosen: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    """Sub pages of the open product."""
    hasty: bool = False


class ScriptedShopper:
    """A `Policy` for WebShop's `text` observations.

    Args:
        skill: how soon it tires, and how it slips.
        options: name -> values of the groups of options that the store knows: shoppers leave their
            words out of a search, and notice when a product lacks the value they want.
    """

    wants_admissible = False
    independent = True

    def __init__(
        self,
        skill: Skill | None = None,
        *,
        options: Mapping[str, Collection[str]] | None = None,
        name: str = "scripted-shopper",
    ) -> None:
        self.skill = skill or Skill()
        self.options = {name: tuple(values) for name, values in (options or {}).items()}
        texts = (t for name, values in self.options.items() for t in (name, *values))
        self._option_words = {word for text in texts for word in text.split()}
        self.name = name
        self._memory: dict[str, _Memory] = {}

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        return [self._reply(c, g) for c, g in zip(conversations, rng, strict=True)]

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._memory.pop(key, None)

    def _reply(self, conversation: Conversation, rng: np.random.Generator) -> Reply:
        memory = self._memory.setdefault(conversation.key, _Memory())
        instruction = conversation.instruction.lower()
        limit = _PRICE_LIMIT.search(instruction)
        shown = conversation.observation.replace(
            f"Instruction: [SEP] {conversation.instruction} [SEP] ", ""
        )
        wish = _Wish(_PRICE_LIMIT.sub("", instruction), float(limit[1]) if limit else None)
        if shown != memory.shown:  # a page that has not changed is not read again
            memory.words += len(shown.split()) + (0 if memory.shown else len(wish.text.split()))
            memory.shown = shown
        tired = rng.random() < self.skill.error(memory.words)
        parts = shown.split(" [SEP] ")
        if any(_ASIN.match(p) for p in parts):
            thought, action = self._results(parts, wish, memory, tired, rng)
        elif "Buy Now" in parts:
            thought, action = self._item(parts, wish, memory, tired, rng)
        elif "< Prev" in parts and memory.asin:
            thought, action = self._sub_page(shown, wish, memory)
        elif parts[-1] == "Search" or len(parts) <= 2:
            thought, action = self._search(wish, memory, rng)
        else:  # an empty page of results
            thought, action = "Nothing here, search again.", "click[Back to Search]"
        return Reply(f"Thought: {thought}\nAction: {action}")

    def _content(self, wish: _Wish) -> list[str]:
        """The words that a title or a Features page may say."""
        words = dict.fromkeys(w for w in _WORD.findall(wish.text) if w not in _STOP)
        return [w for w in words if w not in self._option_words and not w.isdigit()]

    def _search(self, wish: _Wish, memory: _Memory, rng: np.random.Generator) -> tuple[str, str]:
        words = self._content(wish)
        first, memory.searched, memory.page = not memory.searched, True, 1
        memory.short = first and len(words) > 2 and rng.random() < self.skill.short_search
        if memory.short:
            return "A few words will do.", f"search[{' '.join(words[-2:])}]"
        return "Search for what the instruction says.", f"search[{' '.join(words)}]"

    def _unfit(self, listing: _Listing, wish: _Wish) -> int:
        """0 if the listing may be the one; else the more the further it is from it."""
        wanted = set(_WORD.findall(wish.text))
        title = set(_WORD.findall(listing.title.lower())[1:])  # without the brand
        unasked = len(title - wanted)
        if set(self._content(wish)) <= title:
            unasked = 0
        dear = wish.limit is not None and listing.price > wish.limit
        return unasked + dear

    def _results(
        self,
        parts: list[str],
        wish: _Wish,
        memory: _Memory,
        tired: bool,
        rng: np.random.Generator,
    ) -> tuple[str, str]:
        memory.read.clear()
        memory.chosen.clear()
        memory.wrong, memory.wrong_value = False, ""
        listings = [x for x in _listings(parts) if x.asin not in memory.rejected]
        ranked = sorted(listings, key=lambda x: self._unfit(x, wish))
        fitting = [x for x in ranked if not self._unfit(x, wish)]
        # the last word says what a thing is: headphones are not taken for a charger
        unfit = [x for x in ranked if self._unfit(x, wish)]
        similar = [x for x in unfit if x.title.lower().split()[-1] in wish.text] or unfit
        page = f"page {memory.page}{' of few words' * memory.short}"
        slips = page not in memory.slipped and rng.random() < self.skill.wrong_listing
        if similar and (tired or slips) and not memory.hasty:
            memory.slipped.add(page)
            memory.asin = self._any(similar[:3], rng).asin
            memory.hasty = tired
            memory.wrong = not tired and rng.random() < self.skill.notices
            return "This one looks right.", f"click[{memory.asin}]"
        if fitting:
            memory.asin = fitting[0].asin
            return "The title and the price are what I need.", f"click[{memory.asin}]"
        if memory.short:
            memory.words += self.skill.mending
            return "Too few words, search for all of them.", "click[Back to Search]"
        if memory.page < self.skill.patience and "Next >" in parts:
            memory.page += 1
            return "Nothing on this page fits, look further.", "click[Next >]"
        memory.asin = (ranked or _listings(parts))[0].asin
        memory.hasty = True
        return "Nothing fits fully, take the closest.", f"click[{memory.asin}]"

    def _any(self, choices: Sequence[_T], rng: np.random.Generator) -> _T:
        first = rng.random() < self.skill.habit
        return choices[0 if first else int(rng.integers(len(choices)))]

    def _item(
        self,
        parts: list[str],
        wish: _Wish,
        memory: _Memory,
        tired: bool,
        rng: np.random.Generator,
    ) -> tuple[str, str]:
        at = next((i for i, p in enumerate(parts) if p.startswith("Price:")), len(parts))
        memory.title = parts[at - 1]
        groups = self._groups(parts[2 : at - 1])
        wanted = {name: v for name, values in groups.items() for v in values if wish.says(v)}
        left = {name: v for name, v in wanted.items() if memory.chosen.get(name) != v}
        if memory.wrong:
            memory.words += self.skill.mending
            if "Description" not in memory.read and rng.random() < 0.5:
                memory.read.add("Description")
                return "Is this what I want? See what it says.", "click[Description]"
            return self._leave("This is not what I want, back to the results.", memory)
        if memory.hasty:
            return "Good enough, buy it.", "click[Buy Now]"
        if tired:
            memory.hasty = True
            return self._late_error(groups, left, memory, rng)
        if memory.asin in memory.rejected or self._missing_value(groups, wish):
            return self._leave("What I want is missing here, back to the results.", memory)
        if memory.wrong_value:
            name, memory.wrong_value = memory.wrong_value, ""
            memory.words += self.skill.mending
            memory.chosen[name] = wanted[name]
            return f"That was wrong: {wanted[name]} it is.", f"click[{wanted[name]}]"
        said = set(_WORD.findall(memory.title.lower()))
        if "Features" not in memory.read and not {*self._content(wish)} <= said:
            memory.read.add("Features")
            return "The title does not say everything, read the features.", "click[Features]"
        if "Description" not in memory.read and rng.random() < self.skill.stray:
            memory.read.add("Description")
            return "See what it says.", "click[Description]"
        for name, value in left.items():
            others = [v for v in groups[name] if v != value]
            slips = name not in memory.slipped and rng.random() < self.skill.wrong_value
            if others and slips:
                memory.slipped.add(name)
                noticed = rng.random() < self.skill.notices
                memory.wrong_value = name if noticed else ""
                value = self._any(others, rng)
                memory.chosen[name] = value if noticed else left[name]
                return f"Choose {value}.", f"click[{value}]"
            memory.chosen[name] = value
            return f"The instruction asks for {value}.", f"click[{value}]"
        return "Everything is chosen.", "click[Buy Now]"

    @staticmethod
    def _leave(thought: str, memory: _Memory) -> tuple[str, str]:
        memory.rejected.add(memory.asin)
        return thought, "click[< Prev]"

    def _late_error(
        self,
        groups: Mapping[str, Sequence[str]],
        left: Mapping[str, str],
        memory: _Memory,
        rng: np.random.Generator,
    ) -> tuple[str, str]:
        kinds = ["buy", "leave"] + ["value"] * bool(left)
        kind = kinds[int(rng.integers(len(kinds)))]
        name = next(iter(left), "")
        others = [v for v in groups.get(name, ()) if v != left.get(name)]
        if kind == "value" and others:
            value = self._any(others, rng)
            return f"Choose {value}.", f"click[{value}]"
        if kind == "leave":
            return self._leave("There may be a better one.", memory)
        return "Good enough, buy it.", "click[Buy Now]"

    def _groups(self, parts: Sequence[str]) -> dict[str, list[str]]:
        """The options that a product's page shows: name -> values."""
        groups: dict[str, list[str]] = {}
        for part in parts:
            if part in self.options:
                groups[part] = []
            elif groups:
                groups[next(reversed(groups))].append(part)
        return groups

    def _missing_value(self, groups: Mapping[str, Sequence[str]], wish: _Wish) -> bool:
        """Whether the wish says a value of a group that the product does not come in."""
        shown = {v for values in groups.values() for v in values}
        return any(
            not any(map(wish.says, values))
            and any(v not in shown and wish.says(v) for v in self.options[name])
            for name, values in groups.items()
        )

    def _sub_page(self, shown: str, wish: _Wish, memory: _Memory) -> tuple[str, str]:
        known = set(_WORD.findall(f"{shown} {memory.title}".lower()))
        wanted = [w for w in self._content(wish) if w not in known]
        if "Features" in memory.read and "Description" not in memory.read and wanted:
            memory.rejected.add(memory.asin)
        return "Back to the product.", "click[< Prev]"


@dataclass(frozen=True)
class _Wish:
    """An instruction without its price limit, in lower case, and that limit in dollars."""

    text: str
    limit: float | None

    def says(self, value: str) -> bool:
        return re.search(rf"(?<![\w-]){re.escape(value.lower())}(?![\w-])", self.text) is not None


@dataclass(frozen=True)
class _Listing:
    asin: str
    title: str
    price: float
    """Dollars, the lower end of a range."""


def _listings(parts: Sequence[str]) -> list[_Listing]:
    found = []
    for i, part in enumerate(parts[:-1]):
        if _ASIN.match(part):
            price = re.search(r"\$([\d.,]+)", parts[i + 2]) if i + 2 < len(parts) else None
            dollars = float(price[1].replace(",", "")) if price else 0.0
            found.append(_Listing(part, parts[i + 1], dollars))
    return found
