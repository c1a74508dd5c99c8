"""`ScriptedShopper`: the offline teacher for WebShop, whose errors come from its own limits.

It shops as a careful but tiring person does: it types the words of the wish, reads titles, goes to
the next page if no title fits, chooses the options that the wish names, opens Features when the
wish asks for more than titles show, and buys. It reads the instruction and the pages, never the
goal or the reward.

The more words it has read in an episode, the likelier each decision goes wrong (a similar product,
a forgotten or wrong option, a stray click, a hasty purchase). So it solves the short tasks and
fails most long ones *after* the navigation they need: EEF learns from such failures. [ours]
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from eeflib.policies.base import Conversation, Reply

_ASIN = re.compile(r"^B[A-Z0-9]{9}$")
_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PRICE_LIMIT = re.compile(r",? and price lower than [\d.]+ dollars.*$")
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
    """How soon the shopper tires.

    Error probability of one decision = floor + ceiling * sigmoid((words read - middle) / width).
    """

    floor: float = 0.06
    ceiling: float = 0.93
    middle: float = 205.0
    """Words read at which half of the tiring has happened; a page of results has about 90."""
    width: float = 7.0
    patience: int = 3
    """Result pages looked at before settling for the best listing so far."""

    def error(self, words: int) -> float:
        z = np.clip((words - self.middle) / self.width, -50, 50)
        return float(min(1.0, self.floor + self.ceiling / (1 + np.exp(-z))))


@dataclass
class _Memory:
    words: int = 0
    page: int = 1
    asin: str = ""
    clicked: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    checked: bool = False
    title: str = ""
    shown: str = ""


class ScriptedShopper:
    """A `Policy` for WebShop's `text` observations.

    Args:
        skill: how soon it tires.
        option_words: words that name options (colours, sizes): left out of the search query, as
            shoppers do.
        option_names: what groups of options are called; shown like a value, but not to be clicked.
    """

    wants_admissible = False
    independent = True

    def __init__(
        self,
        skill: Skill | None = None,
        *,
        option_words: Collection[str] = (),
        option_names: Collection[str] = (),
        name: str = "scripted-shopper",
    ) -> None:
        self.skill = skill or Skill()
        self.option_words = frozenset(option_words)
        self.option_names = frozenset(option_names)
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
        wish = _PRICE_LIMIT.sub("", conversation.instruction.lower())
        shown = conversation.observation.replace(
            f"Instruction: [SEP] {conversation.instruction} [SEP] ", ""
        )
        if shown != memory.shown:  # a page that has not changed is not read again
            memory.words += len(shown.split()) + (0 if memory.shown else len(wish.split()))
            memory.shown = shown
        wrong = rng.random() < self.skill.error(memory.words)
        parts = shown.split(" [SEP] ")
        if any(_ASIN.match(p) for p in parts):
            thought, action = self._results(parts, wish, memory, wrong, rng)
        elif "Buy Now" in parts:
            thought, action = self._item(parts, wish, memory, wrong, rng)
        elif "< Prev" in parts:
            thought, action = self._sub_page(shown, wish, memory, wrong)
        elif parts[-1] == "Search" or len(parts) <= 2:
            thought, action = "Search for what the instruction says.", self._search(wish)
        else:  # an empty page of results
            thought, action = "Nothing here, search again.", "click[Back to Search]"
        return Reply(f"Thought: {thought}\nAction: {action}")

    def _content(self, wish: str) -> list[str]:
        words = [w for w in _WORD.findall(wish) if w not in _STOP]
        return [w for w in words if w not in self.option_words and not w.isdigit()]

    def _search(self, wish: str) -> str:
        return f"search[{' '.join(dict.fromkeys(self._content(wish)))}]"

    @staticmethod
    def _missing(title: str, wanted: set[str]) -> int:
        """Words of a title, less the brand, that the wish does not name."""
        return sum(w not in wanted for w in _WORD.findall(title.lower())[1:])

    def _results(
        self, parts: list[str], wish: str, memory: _Memory, wrong: bool, rng: np.random.Generator
    ) -> tuple[str, str]:
        memory.clicked.clear()
        memory.checked = False
        wanted = set(_WORD.findall(wish))
        listings = [(p, parts[i + 1]) for i, p in enumerate(parts[:-1]) if _ASIN.match(p)]
        ranked = sorted(
            listings, key=lambda x: (self._missing(x[1], wanted), x[0] in memory.rejected)
        )
        fitting = [
            a
            for a, title in ranked
            if not self._missing(title, wanted) and a not in memory.rejected
        ]
        if wrong:
            other = [(a, title) for a, title in ranked if self._missing(title, wanted)]
            # the last word says what a thing is: headphones are not taken for a charger
            kind = [x for x in other if x[1].lower().split()[-1] in wanted] or other
            similar = [a for a, _ in kind][:3]
            if similar:
                memory.asin = similar[int(rng.integers(len(similar)))]
                return "This one looks right.", f"click[{memory.asin}]"
        if fitting:
            memory.asin = fitting[0]
            return "The title says everything I need.", f"click[{memory.asin}]"
        if memory.page < self.skill.patience and "Next >" in parts:
            memory.page += 1
            return "No title on this page fits, look further.", "click[Next >]"
        memory.asin = ranked[0][0]
        return "Nothing fits fully, take the closest.", f"click[{memory.asin}]"

    def _item(
        self, parts: list[str], wish: str, memory: _Memory, wrong: bool, rng: np.random.Generator
    ) -> tuple[str, str]:
        price = next((i for i, p in enumerate(parts) if p.startswith("Price:")), len(parts))
        title = parts[price - 1]
        memory.title = title
        values = [v for v in parts[2 : price - 1] if v not in self.option_names]
        named = [v for v in values if _says(wish, v) and v not in memory.clicked]
        if wrong:
            kinds = ["buy", "stray"] + (["option"] if values else [])
            kind = kinds[int(rng.integers(len(kinds)))]
            others = [v for v in values if not _says(wish, v)]
            if kind == "option" and others:
                value = others[int(rng.integers(len(others)))]
                memory.clicked.update(named[:1])
                return f"Choose {value}.", f"click[{value}]"
            if kind == "stray" and "Description" not in memory.clicked:
                memory.clicked.add("Description")
                memory.checked = True
                return "See what it says.", "click[Description]"
            return "Good enough, buy it.", "click[Buy Now]"
        if memory.asin in memory.rejected:
            return "Not this one, back to the results.", "click[< Prev]"
        shown = {w for part in (title.lower(), *parts[2:price]) for w in _WORD.findall(part)}
        if not memory.checked and any(w not in shown for w in self._content(wish)):
            return "The title does not say everything, read the features.", "click[Features]"
        if named:
            memory.clicked.add(named[0])
            return f"The instruction asks for {named[0]}.", f"click[{named[0]}]"
        return "Everything is chosen.", "click[Buy Now]"

    def _sub_page(self, shown: str, wish: str, memory: _Memory, wrong: bool) -> tuple[str, str]:
        if not memory.checked:
            memory.checked = True
            known = set(_WORD.findall(f"{shown} {memory.title}".lower()))
            missing = [w for w in self._content(wish) if w not in known]
            if missing and "Description" not in memory.clicked and not wrong:
                memory.rejected.add(memory.asin)
        return "Back to the product.", "click[< Prev]"


def _says(wish: str, value: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(value.lower())}(?![\w-])", wish) is not None
