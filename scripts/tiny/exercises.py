"""Reading and copying exercises that the tiny student is pretrained on.

What a pretrained LLM brings along and 200 demonstrations cannot teach: finding which listing of a
page says all that an instruction asks for (or that none does), copying the words of a wish, picking
a named option, noticing a property in a text. The pages look like the shop's; there is no shop: no
rewards, no navigation, no buying, no action of WebShop. Answers are written `answer[...]`.

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


def _price(rng: np.random.Generator) -> str:
    return f"${round(float(np.exp(rng.uniform(np.log(3), np.log(MOST_DOLLARS)))))}.0"


def _find_turn(rng, noun, wanted, pool, n_items, present: bool, page: int, with_next: bool):
    """A page of listings; the answer is the id of the one with all wanted attributes."""
    others = [a for a in pool if a not in wanted]
    rows = []
    for _ in range(n_items):
        kind = rng.random()
        if kind < 0.6:  # shares exactly one attribute
            attrs = [wanted[rng.integers(len(wanted))], others[rng.integers(len(others))]]
            rows.append((attrs, noun, "half"))
        elif kind < 0.8:
            rows.append((_pick(rng, others, 2), noun, "no"))
        else:  # right attributes, wrong kind of thing: or neither
            other_noun = ALL_NOUNS[rng.integers(len(ALL_NOUNS))]
            attrs = list(wanted) if rng.random() < 0.4 else _pick(rng, others, 2)
            full = other_noun == noun and attrs == wanted
            rows.append((attrs, other_noun, "yes" if full else "no"))
    if any(r[2] == "yes" for r in rows):
        rows = [r if r[2] != "yes" else (_pick(rng, others, 2), noun, "no") for r in rows]
    target = None
    if present:
        target = int(rng.integers(n_items))
        rows[target] = (list(wanted), noun, "yes")
    asins = _asins(rng, n_items)
    parts = []
    for (attrs, what, _), asin in zip(rows, asins, strict=True):
        parts.append(f"{asin} [SEP] {_listing(rng, attrs, what)} [SEP] {_price(rng)}")
    head = ["Back to Search", f"Page {page} (Total results: 50)"] if with_next else ["find"]
    if with_next and page > 1:
        head.append("< Prev")
    if with_next:
        head.append("Next >")
    text = " [SEP] ".join([*head, *parts])
    answer = "none" if target is None else asins[target].lower()
    return text, answer, [r[2] for r in rows]


def _choose_turns(
    rng, options: dict[str, str], groups: dict[str, list[str]], title: str, shop: bool
):
    parts = ["Back to Search", "< Prev"] if shop else ["choose"]
    for name, values in groups.items():
        parts += [name, *values]
    parts += [title, f"Price: {_price(rng)}"]
    if shop:
        parts += ["Rating: N.A.", "Description", "Features", "Reviews", "Buy Now"]
    text = " [SEP] ".join(parts)
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
    wanted = _pick(rng, pool, 2)
    groups = {
        name: _pick(rng, values, int(rng.integers(2, min(4, len(values)) + 1)))
        for name, values in kind.options.items()
    }
    if rng.random() < 0.5:
        groups = dict(reversed(groups.items()))
    asked = [g for g in groups if rng.random() < 0.55]
    options = {g: groups[g][rng.integers(len(groups[g]))] for g in asked}
    hidden = _pick(rng, shared, 2)
    with_hidden = rng.random() < 0.15
    named = [*wanted, hidden[0]] if with_hidden else wanted
    price = float(rng.integers(1, 40) * 10) if rng.random() < 0.7 else None
    sentence = phrase(noun, named, options, price, rng)
    turns: list[tuple[str, str, list[str]]] = []
    if rng.random() < 0.6:
        order = sorted([noun, *named], key=sentence.index)
        turns.append(
            ("WebShop [SEP] Search" if rng.random() < 0.5 else "words", " ".join(order), [])
        )
    if rng.random() < 0.25:
        some = " ".join(_pick(rng, ALL_WORDS, int(rng.integers(3, 9))))
        turns.append((f"repeat [SEP] {some}", some, []))
    pages = 1 + int(rng.integers(3)) if rng.random() < 0.6 else 1
    for page in range(1, pages + 1):
        n = int(rng.integers(min(2, max_items), max_items + 1))
        if max_items >= 10 and rng.random() < 0.5:
            n = 10
        # a shopper reads on only where nothing fitted: at most the last page has the listing
        present = page == pages and rng.random() < 0.8
        turns.append(_find_turn(rng, noun, wanted, pool, n, present, page, rng.random() < 0.6))
    if with_hidden:
        yes = rng.random() < 0.5
        it = hidden[0 if yes else 1]
        bullet = words.BULLETS[rng.integers(len(words.BULLETS))].format(it=it, It=it.capitalize())
        lines = [*_pick(rng, (*category.sentences, *words.FILLER), 3), bullet]
        text = " [SEP] ".join(["read", *[lines[i] for i in rng.permutation(4)]])
        turns.append((text, "yes" if yes else "no", []))
    if rng.random() < 0.6:
        title = _listing(rng, wanted, noun)
        ordered = {g: options[g] for g in groups if g in options}
        turns += _choose_turns(rng, ordered, groups, title, rng.random() < 0.7)
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
