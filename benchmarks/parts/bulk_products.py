"""Products by the million, to measure with: a stream of rows in bounded memory.

Not for experiments: nobody could shop here sensibly (for that there is
`eeflib.envs.webshop.shop`), but an index over these rows has the size and the shape of one
over the official products. Those have 262.9 words on average and a vocabulary of 224,041 words that
occur more than ten times (WebShop, section 3); here words follow Zipf's law with an exponent of
1.2, a third of them within the topic of the product, and lengths are log-normal.

A row depends on the seed and its number alone, so that a longer stream starts with a shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from eeflib.errors import DataError

__all__ = ["ATTRIBUTES", "bulk_attributes", "bulk_instruction", "bulk_rows"]

_BLOCK = 500
_WORDS, _TOPICS, _TOPIC_WORDS = 400_000, 300, 200
_SPACE = 36**8
"""Distinct product ids: B0 and eight digits of base 36."""
_STEP = 1_234_567_890_121
"""Shares no factor with `_SPACE`, so that multiples of it visit every id."""
_ASIN_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_COMMON = """
    the and to for with a of your is in you it this are or on from be can our that as not will size
    like i need want would price find looking look buy pair lower dollars am
    very have when use please color made if any up high quality we all by more material easy package
    comfortable product design which soft home water so used has perfect light pack other free after
    time at women great men set suitable 1 2 3 out long than no one style gift make into may also
    new keep black do different before cotton inch but their wear them set feel provide only clean
    good natural like white skin need black over what just no non without most
"""
_SOUNDS = """
    b bl br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh sl st t tr v w z
    a e i o u ai ea oo ou
    l m n r s t x nd rt ck ss
"""
_ONSETS, _VOWELS, _ENDS = (line.split() for line in _SOUNDS.strip().splitlines())

_SHELVES = """
    fashion|Clothing & Shoes|slippers,sandals,jacket,raincoat|small,medium,large,x-large
    beauty|Beauty & Care|moisturizer,sunscreen,shampoo,conditioner|3 ounce,6 ounce,12 ounce
    electronics|Electronics|headphones,speaker,charger,battery|basic,standard,plus,pro
    kitchen|Home & Kitchen|frying pan,kettle,knife set,mug|1 quart,2 quart,4 quart,8 quart
    furniture|Furniture|sofa,bookcase,desk,nightstand|24 inch,36 inch,48 inch,60 inch
    bedding|Bedding|duvet,pillow,blanket,mattress|twin,full,queen,king
    grocery|Grocery & Snacks|granola,herbal tea,trail mix,crackers|pack of 1,pack of 3,pack of 6
    toys|Toys & Games|puzzle,dollhouse,board game,kite|mini,regular,deluxe
    sports|Sports & Outdoors|yoga mat,tent,water bottle,backpack|10 l,20 l,40 l
    garden|Patio & Garden|planter,hose,lantern,parasol|4 ft,6 ft,8 ft
    office|Office Supplies|notebook,stapler,pen set,file box|a4,a5,a6,letter
    pets|Pet Supplies|dog bed,cat tree,leash,bird feeder|puppy,small breed,large breed
"""


class _Shelf(NamedTuple):
    """A department."""

    name: str
    root: str
    """First part of the category path."""
    nouns: list[str]
    sizes: list[str]


def _shelf(line: str) -> _Shelf:
    name, root, nouns, sizes = line.strip().split("|")
    return _Shelf(name, root, nouns.split(","), sizes.split(","))


_DEPARTMENTS = tuple(map(_shelf, _SHELVES.strip().splitlines()))
_LOOKS = """
    black white grey navy teal olive coral ivory amber lilac rust mint
    easy light soft water long heavy quick natural eco double hand anti
    clean weight touch proof lasting duty release wood friendly layer made slip stick care
"""
_COLORS, _QUALITIES, _OF = (line.split() for line in _LOOKS.strip().splitlines())

ATTRIBUTES = tuple(f"{a} {b}" for a in _QUALITIES for b in _OF)
"""What products are described by, two words each."""


@cache
def _words() -> tuple[str, ...]:
    """The vocabulary, most frequent first: common words, then invented ones and numbers."""
    rng = np.random.default_rng(20_260_101)
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    units = ("", "", "mm", "cm", "oz", ".5", "w")
    found = dict.fromkeys(_COMMON.split())
    while len(found) < _WORDS:
        n = _WORDS
        parts = rng.choice((1, 2, 3, 4), size=n, p=(0.1, 0.45, 0.35, 0.1)).tolist()
        drawn = rng.integers(len(syllables), size=(n, 4)).tolist()
        ends = rng.integers(len(_ENDS), size=n).tolist()
        numbers = np.where(rng.random(n) < 0.06, rng.integers(1, 5_000, size=n), 0).tolist()
        for i in range(n):
            if numbers[i]:
                word = f"{numbers[i]}{units[ends[i] % len(units)]}"
            else:
                word = "".join([syllables[j] for j in drawn[i][: parts[i]]]) + _ENDS[ends[i]]
            found[word] = None
    return tuple(found)[:_WORDS]


def _zipf(n: int, power: float, offset: float) -> np.ndarray:
    """Cumulative probabilities of n ranks."""
    weights = (np.arange(n) + offset) ** -power
    return np.cumsum(weights / weights.sum())


class _Tables(NamedTuple):
    cumulative: np.ndarray
    topic_cumulative: np.ndarray
    topics: np.ndarray
    """(topic, rank) -> word number."""


@cache
def _tables() -> _Tables:
    rng = np.random.default_rng(7)
    topics = rng.integers(150, 40_000, size=(_TOPICS, _TOPIC_WORDS))
    return _Tables(_zipf(_WORDS, 1.2, 2.7), _zipf(_TOPIC_WORDS, 0.9, 1.0), topics)


def _asin(number: int, seed: int) -> str:
    rest = ((number + 1 + seed * 97) * _STEP) % _SPACE
    digits = []
    for _ in range(8):
        rest, digit = divmod(rest, 36)
        digits.append(_ASIN_DIGITS[digit])
    return "B0" + "".join(digits)


class _Text:
    """The words of one block, handed out piece by piece."""

    def __init__(self, rng: np.random.Generator, topics: np.ndarray, lengths: np.ndarray) -> None:
        tables, words, total = _tables(), _words(), int(lengths.sum())
        numbers = np.searchsorted(tables.cumulative, rng.random(total))
        own = np.flatnonzero(rng.random(total) < 0.35)
        ranks = np.searchsorted(tables.topic_cumulative, rng.random(len(own)))
        numbers[own] = tables.topics[np.repeat(topics, lengths)[own], ranks]
        np.minimum(numbers, _WORDS - 1, out=numbers)
        self._words = [words[i] for i in numbers.tolist()]
        self._at = 0

    def take(self, n: int) -> str:
        self._at += n
        return " ".join(self._words[self._at - n : self._at])


def _block(number: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([seed, 3, number])
    topics = rng.integers(_TOPICS, size=_BLOCK)
    title = np.clip(rng.lognormal(2.6, 0.4, _BLOCK), 3, 40).astype(np.int64)
    description = np.clip(rng.lognormal(4.55, 0.95, _BLOCK), 4, 1500).astype(np.int64)
    description[rng.random(_BLOCK) < 0.1] = 0
    bullet = np.clip(rng.lognormal(2.9, 0.55, (_BLOCK, 5)), 3, 120).astype(np.int64)
    option = rng.integers(1, 4, (_BLOCK, 6))
    lengths = title + description + bullet.sum(1) + option.sum(1)
    text = _Text(rng, topics, lengths)
    small = random.Random(int(rng.integers(2**63)))
    for i in range(_BLOCK):
        kind, department = divmod(int(topics[i]), len(_DEPARTMENTS))
        category = _DEPARTMENTS[department]
        noun = category.nouns[kind % len(category.nouns)]
        words = _tables().topics[topics[i]]
        query = f"{_words()[words[0]]} {_words()[words[1]]} {noun}"
        at = number * _BLOCK + i
        asin = _asin(at, seed)
        first, *more = bulk_attributes(asin)["attributes"]
        model = f" {asin[4:6]}{at % 9973}" if small.random() < 0.5 else ""
        name = f"{text.take(int(title[i]))}{model} {first} {noun}".title()
        body = text.take(int(description[i]))
        bullets = [text.take(int(n)).capitalize() for n in bullet[i]]
        bullets[1] = f"{', '.join([*more, bullets[1]])}".capitalize()
        styles = [text.take(int(n)) for n in option[i]]
        options: dict[str, list[dict[str, Any]]] = {}
        if small.random() < 0.6:
            colors = [*small.sample(_COLORS, small.randint(1, 5)), *styles[: small.randint(0, 6)]]
            options["Color"] = [{"value": v, "image": None} for v in colors]
        if small.random() < 0.5:
            sizes = small.sample(category.sizes, small.randint(1, len(category.sizes)))
            options["Size"] = [{"value": v, "image": None} for v in sizes]
        low = round(small.lognormvariate(3.2, 0.9), 2)
        price = small.choices(
            ("", f"${low}", f"${low} - ${round(low * small.uniform(1.05, 3), 2)}"), (8, 77, 15)
        )[0]
        yield {
            "asin": asin,
            "name": name,
            "category": category.name,
            "query": query,
            "product_category": " › ".join(
                (category.root, noun.title(), _words()[words[2]].title())
            ),
            "full_description": body,
            "small_description": bullets,
            "pricing": price,
            "customization_options": options,
            "images": [f"https://images.example.test/{at:07d}.jpg"],
        }


def bulk_rows(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """n rows of the official products file, one after the other.

    Memory: the vocabulary (60 MB) and 500 rows. Two calls with the same arguments give equal rows.

    Raises:
        DataError: n is negative.
    """
    if n < 0:
        raise DataError(f"a catalogue of {n} products is asked for; give 0 or more")
    for number in range(-(-n // _BLOCK)):
        left = n - number * _BLOCK
        for i, row in enumerate(_block(number, seed)):
            if i == left:
                return
            yield row


def bulk_attributes(asin: str) -> dict[str, Any]:
    """A product's entry of the attributes file; made from its id, so that nothing is stored."""
    rng = random.Random(asin)
    return {"attributes": rng.sample(ATTRIBUTES, rng.randint(1, 4))}


def bulk_instruction(row: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """A human instruction for a row, of the official schema: 15 to 25 words, as people write them.

    Holds no price limit; `build_goals` adds one.
    """
    rng = random.Random(f"{seed} {row['asin']}")
    wanted = bulk_attributes(row["asin"])["attributes"][:2]
    options = [
        rng.choice(values)["value"]
        for values in row["customization_options"].values()
        if rng.random() < 0.7
    ]
    words = row["name"].lower().split()
    named = " ".join(words[-4:])
    start = rng.choice(
        ("i am looking for a", "i need a", "find me a", "i would like to buy a", "i want a")
    )
    wish = f"{start} {named} that is {' and '.join(wanted)}"
    if options:
        wish += f", and i would like it in {', '.join(options)}"
    return {
        "asin": row["asin"],
        "instruction": f"{wish}.",
        "instruction_attributes": wanted,
        "instruction_options": options,
    }
