"""Reading and copying exercises that the tiny student is pretrained on.

What a pretrained LLM brings along and 200 demonstrations cannot teach: finding which listing of a
list says all that an instruction asks for at a price below its limit (or that none does), copying
the words of a wish, picking a named option or saying that it is missing, noticing a property in a
text. Words and prices are the shop's, and names of its buttons stand around in no order; but there
is no page of it, no navigation, no buying, no action of WebShop, no reward. Answers are written
`answer[...]`.

`hints` supervise reading at the end of every listing (does it match fully, by half, not at all): a
target only pretraining has, which makes the reading circuit form in minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizer import MOST_DOLLARS

from eeflib.envs.webshop import shop as words
from eeflib.envs.webshop.shop import phrase

ALL_WORDS = tuple(dict.fromkeys(w for attribute in words.FORMS for w in attribute.split()))
ALL_NOUNS = tuple(t.noun for c in words.CATEGORIES for t in c.types)


@dataclass
class Document:
    """Turns of (user text, answer, hints): hints[i] = "yes" | "half" | "no" per listing."""

    turns: list[tuple[str, str, list[str]]]


def _pick(rng: np.random.Generator, items, n: int) -> list:
    return [items[i] for i in rng.choice(len(items), size=n, replace=False)]


def _asins(rng: np.random.Generator, n: int) -> list[str]:
    heads = rng.integers(len(words.ASIN_HEADS), size=n)
    tails = rng.integers(len(words.ASIN_TAILS), size=n)
    return [
        (words.ASIN_HEADS[h] + words.ASIN_TAILS[t]).upper()
        for h, t in zip(heads, tails, strict=True)
    ]


def _listing(rng, attrs: list[str], noun: str) -> str:
    brand = words.BRANDS[rng.integers(len(words.BRANDS))]
    title = [attrs[i] for i in rng.permutation(len(attrs))]
    return " ".join([brand, *title, noun]).title()


def _dollars(rng: np.random.Generator, low: float = 3, high: float = MOST_DOLLARS) -> int:
    """A price between two others, as often below their geometric middle as above it."""
    drawn = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    return int(np.clip(drawn, 1, MOST_DOLLARS))


def _price(rng: np.random.Generator, limit: int | None, *, fits: bool) -> int:
    """Dollars; below `limit` if it shall fit, at it or above if not."""
    if limit is None:
        return _dollars(rng)
    if fits:
        return min(_dollars(rng, max(1.0, 0.3 * limit), limit), limit - 1)
    return max(_dollars(rng, limit, 3 * limit), limit)


FURNITURE = (
    "WebShop", "Search", "Back to Search", "< Prev", "Next >", "Buy Now", "Description", "Features",
    "Reviews", "Attributes", "Page", "1", "2", "3", "Rating: N.A.", "results", "total", "find",
)  # fmt: skip
"""Words that may stand around an exercise, in no order: a page is more than what matters in it."""


def _dressed(rng: np.random.Generator, task: str, body: str) -> str:
    """An exercise among some words that do not matter; `task` names it, but not always."""
    around = [_pick(rng, FURNITURE, int(rng.integers(low, high))) for low, high in ((0, 5), (0, 5))]
    named = [task] * (rng.random() < 0.5) if task != "read" else [task]
    return " [SEP] ".join(x for x in (*named, *around[0], body, *around[1]) if x)


def _limit(rng: np.random.Generator) -> int:
    """A round price limit: a multiple of 5 below 60 dollars, of 10 above."""
    dollars = _dollars(rng, 5, 1000)
    step = 5 if dollars < 60 else 10
    return max(step, step * (dollars // step))


@dataclass
class Want:
    """What an instruction asks of a listing."""

    noun: str
    attributes: list[str]
    pool: list[str]
    """Attributes of this kind of thing."""
    limit: int | None
    """Price limit in dollars."""


def _row(rng: np.random.Generator, want: Want, full: float, dear: float):
    """(attributes, noun, dollars, mark) of a listing that fits, or misses one thing or more."""
    others = [a for a in want.pool if a not in want.attributes]
    if rng.random() < full:
        return list(want.attributes), want.noun, _price(rng, want.limit, fits=True), "yes"
    if want.limit is not None and rng.random() < dear:
        return list(want.attributes), want.noun, _price(rng, want.limit, fits=False), "half"
    dollars = _price(rng, want.limit, fits=rng.random() < 0.7)
    kind = rng.random()
    if kind < 0.6 and len(want.attributes) > 1:  # shares exactly one attribute
        shared = want.attributes[rng.integers(len(want.attributes))]
        return [shared, others[rng.integers(len(others))]], want.noun, dollars, "half"
    noun = ALL_NOUNS[rng.integers(len(ALL_NOUNS))]
    if kind < 0.8 or noun == want.noun:
        return _pick(rng, others, 2), want.noun, dollars, "no"
    # the right attributes on another kind of thing, or neither
    attributes = list(want.attributes) if rng.random() < 0.4 else _pick(rng, others, 2)
    return attributes, noun, dollars, "no"


def _find_turn(rng: np.random.Generator, want: Want, n_items: int, present: bool):
    """A list of things; the answer is the id of the first that fits, or none."""
    full = (0.12, 0.45)[rng.integers(2)] if present and rng.random() < 0.25 else 0.0
    dear = (0.1, 0.4)[rng.integers(2)]
    rows = [_row(rng, want, full, dear) for _ in range(n_items)]
    if present and not any(r[3] == "yes" for r in rows):
        rows[rng.integers(n_items)] = _row(rng, want, 1.0, dear)
    asins = _asins(rng, n_items)
    parts = []
    for (attributes, noun, dollars, _), asin in zip(rows, asins, strict=True):
        if len(attributes) < 2:
            attributes = [*attributes, want.pool[rng.integers(len(want.pool))]]
        parts.append(f"{asin} [SEP] {_listing(rng, attributes, noun)} [SEP] ${dollars}.0")
    text, marks = _dressed(rng, "find", " [SEP] ".join(parts)), [r[3] for r in rows]
    fitting = [a.lower() for a, mark in zip(asins, marks, strict=True) if mark == "yes"]
    return text, fitting[0] if fitting else "none", marks


def _choose_turns(rng, options: dict[str, str], groups: dict[str, list[str]], title: str):
    """Groups of values; the answers are the values asked for, then done; no if one is missing."""
    parts = []
    for name, values in groups.items():
        parts += [name, *values]
    parts += [title, f"Price: ${_dollars(rng)}.0"]
    text = _dressed(rng, "choose", " [SEP] ".join(parts))
    if any(value not in groups[name] for name, value in options.items()):
        return [(text, "no", [])]
    turns = [(text, value, []) for value in options.values() if rng.random() < 0.97]
    return [*turns, (text, "done", [])]


def make_document(rng: np.random.Generator, max_items: int = 10) -> Document:
    """One document: an instruction, then a few exercises on it."""
    category = words.CATEGORIES[rng.integers(len(words.CATEGORIES))]
    kind = category.types[rng.integers(len(category.types))]
    noun = kind.noun
    pool, shared = _pick(rng, kind.attributes, 8), list(category.shared)
    if rng.random() < 0.35:  # invented pairs of words: match by identity, not by familiarity
        pool, shared = ([" ".join(_pick(rng, ALL_WORDS, 2)) for _ in range(8)] for _ in range(2))
        noun = ALL_NOUNS[rng.integers(len(ALL_NOUNS))]
    wanted = _pick(rng, pool, 1 if rng.random() < 0.3 else 2)
    groups = {
        name: _pick(rng, values, int(rng.integers(2, min(4, len(values)) + 1)))
        for name, values in kind.options.items()
    }
    if rng.random() < 0.5:
        groups = dict(reversed(groups.items()))
    asked = [g for g in groups if rng.random() < 0.55]
    options = {g: groups[g][rng.integers(len(groups[g]))] for g in asked}
    if asked and rng.random() < 0.25:  # what is asked for is not to be had
        group = asked[rng.integers(len(asked))]
        groups[group] = [v for v in kind.options[group] if v != options[group]][:3]
    hidden = _pick(rng, shared, 2)
    with_hidden = rng.random() < 0.15
    named = [*wanted, hidden[0]] if with_hidden else wanted
    limit = _limit(rng) if rng.random() < 0.7 else None
    sentence = phrase(noun, named, options, None if limit is None else float(limit), rng)
    want = Want(noun, wanted, pool, limit)
    turns: list[tuple[str, str, list[str]]] = []
    if rng.random() < 0.6:
        order = sorted([noun, *named], key=sentence.index)
        turns.append((_dressed(rng, "words", ""), " ".join(order), []))
    if rng.random() < 0.25:
        some = " ".join(_pick(rng, ALL_WORDS, int(rng.integers(3, 9))))
        turns.append((f"repeat [SEP] {some}", some, []))
    lists = 1 + int(rng.integers(3)) if rng.random() < 0.6 else 1
    for number in range(1, lists + 1):
        n = int(rng.integers(min(2, max_items), max_items + 1))
        if max_items >= 10 and rng.random() < 0.5:
            n = 10
        # who looks for something reads on where nothing fitted: the last list at most has it
        turns.append(_find_turn(rng, want, n, number == lists and rng.random() < 0.8))
    if with_hidden:
        yes = rng.random() < 0.5
        it = hidden[0 if yes else 1]
        bullet = words.BULLETS[rng.integers(len(words.BULLETS))].format(it=it, It=it.capitalize())
        lines = [*_pick(rng, (*category.sentences, *words.FILLER), 3), bullet]
        text = _dressed(rng, "read", " [SEP] ".join(lines[i] for i in rng.permutation(4)))
        turns.append((text, "yes" if yes else "no", []))
    if rng.random() < 0.6:
        title = _listing(rng, wanted, noun)
        ordered = {g: options[g] for g in groups if g in options}
        turns += _choose_turns(rng, ordered, groups, title)
    first, *rest = turns
    return Document([(f"Instruction: {sentence}\n{first[0]}", first[1], first[2]), *rest])


def encode(doc: Document, tokenizer) -> tuple[list[int], list[int], list[int], list[int]]:
    """(input_ids, labels, hints, id_hints), aligned: what position i must predict or -100.

    Hints sit on every word of a listing's title (does the instruction say it? `and` or `or`) and on
    its last token, the price (does the listing match? `yes`, `half`, `no`); `id_hints`, on the
    price, name the listing's id. One mark for both would let words pass for matching listings.
    """
    ids: list[int] = []
    labels: list[int] = []
    hints: list[int] = []
    id_hints: list[int] = []
    t = tokenizer
    user, assistant, end, said_word, other_word, sep = t.convert_tokens_to_ids(
        ["<|user|>", "<|assistant|>", "<|end|>", "and", "or", "[sep]"]
    )
    vocab = t.get_vocab()
    dollar = {vocab[f"${n}"] for n in range(1, MOST_DOLLARS + 1)}
    heads = {vocab[h] for h in words.ASIN_HEADS}
    tails = {vocab[f"##{h}"] for h in words.ASIN_TAILS}
    instruction = set(t(doc.turns[0][0].split("\n")[0], add_special_tokens=False)["input_ids"])
    for text, answer, marks in doc.turns:
        body = t(text, add_special_tokens=False)["input_ids"]
        reply = t(f"answer[{answer}]", add_special_tokens=False)["input_ids"]
        hint = [-100] * len(body)
        id_hint = [-100] * len(body)
        if marks:
            start = next(i for i, x in enumerate(body) if x in heads)
            mark = iter(marks)
            head = body[start]
            for i in range(start, len(body)):
                if body[i] in heads:
                    head = body[i]
                if body[i] in dollar:
                    hint[i] = vocab[next(mark)]
                    id_hint[i] = head
                elif body[i] not in heads and body[i] not in tails and body[i] != sep:
                    hint[i] = said_word if body[i] in instruction else other_word
        ids += [user, *body, end, assistant, *reply, end]
        labels += [-100] * (len(body) + 2) + [*reply, end, -100]
        hints += [-100, *hint] + [-100] * (len(reply) + 3)
        id_hints += [-100, *id_hint] + [-100] * (len(reply) + 3)
    return ids, labels, hints, id_hints
