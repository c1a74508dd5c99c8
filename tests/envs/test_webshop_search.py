"""Words, stems and ranking, checked against definitions written down apart from the code."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer

from benchmarks.parts.bulk_products import bulk_instruction, bulk_rows
from eeflib.envs.webshop.search import (
    TOP_K,
    Index,
    IndexBuilder,
    analyze,
    coded_length,
    porter,
)

WORDS = "red blue green sofa lamp table shoe soft hard easy clean wood"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The women's running shoes", ["women", "run", "shoe"]),
        ("e.g. 3.5-inch, 1,200 x v2.0", ["e.g", "3.5", "inch", "1,200", "x", "v2.0"]),
        ("snake_case a:b don't", ["snake_cas", "a:b", "don't"]),
        ("日本 カタカナ ひら", ["日", "本", "カタカナ", "ひ", "ら"]),
        ("★★ Brand® ™", ["★", "★", "brand", "®", "™"]),
        ("👨‍👩‍👧 👍🏽 🇩🇪🇫🇷 1️⃣", ["👨‍👩‍👧", "👍🏽", "🇩🇪", "🇫🇷", "1️⃣"]),
        ("ภาษาไทย ab", ["ภาษาไทย", "ab"]),
        ("\u200dab ___ \x00", ["ab"]),
        ("if in into is it such", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


def test_a_token_of_more_than_255_characters_is_cut() -> None:
    assert [len(t) for t in analyze("x" * 600)] == [255, 255, 90]


@pytest.mark.parametrize(
    "text",
    ["_" * 10**6, "é" + "_" * 10**6, "[" * 10**6, "a." * 10**5, "\u200d" * 10**5, "\x00" * 10**6],
)
def test_a_megabyte_of_anything_takes_linear_time(text: str) -> None:
    start = time.process_time()
    analyze(text)
    assert time.process_time() - start < 10


def test_stems_are_those_of_the_later_stemmer() -> None:
    later = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)
    draw = random.Random(1)
    ends = "s es ed ing ly bly bli blies blied logy logi logies ably ably ational enci izer ousli"
    ends += " ization iveness iviti biliti icate ical ful ness ance er ible ement sion ous e y yy"
    words = {"assembly", "sustainably", "specced", "padded", "u22ed", "geology", "is", "as", "été"}
    for _ in range(6000):
        syllables = (draw.choice("bcdfghklmnprstvwxz") + draw.choice("aeiouy") for _ in range(3))
        start = "".join(list(syllables)[: draw.randrange(4)]) + draw.choice(["", *"bltcsg", "ll"])
        words.add(start + draw.choice(ends.split()) + draw.choice(["", "", "s", "ed", "ing", "ly"]))
    assert {w: porter(w) for w in words} == {w: later.stem(w, to_lowercase=False) for w in words}


def test_length_code() -> None:
    """Against Lucene's code of one byte: 3 bits of mantissa and an exponent above 24 + 16."""
    codes = [*range(24), *(24 + n for n in range(8))]
    codes += [24 + ((8 | m) << e) for e in range(28) for m in range(8)]
    for n in range(3000):
        assert coded_length(n) == max(c for c in codes if c <= n)


def _by_definition(ids: list[str], texts: list[str], query: str) -> list[tuple[str, float]]:
    docs = [Counter(analyze(t)) for t in texts]
    lengths = [sum(d.values()) for d in docs]
    filled = [n for n in lengths if n]
    average = sum(filled) / len(filled)
    out = []
    for name, doc, length in zip(ids, docs, lengths, strict=True):
        score = 0.0
        for term, times in Counter(analyze(query)).items():
            df = sum(term in d for d in docs)
            if doc[term]:
                idf = math.log(1 + (len(filled) - df + 0.5) / (df + 0.5))
                norm = 0.9 * (0.6 + 0.4 * coded_length(length) / average)
                score += times * idf * doc[term] / (doc[term] + norm)
        if score:
            out.append((name, score))
    return sorted(out, key=lambda pair: (-round(pair[1], 4), pair[0]))[:TOP_K]


def test_ranking_is_the_formula() -> None:
    rng = random.Random(5)
    words = WORDS.split()
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 60))) for _ in range(80)]
    ids = [f"B{rng.randrange(10**6):06d}" for _ in texts]
    index = Index.of(zip(ids, texts, strict=True))
    for _ in range(20):
        query = " ".join(rng.choices([*words, "unknown"], k=rng.randint(1, 5)))
        want = _by_definition(ids, texts, query)
        got = index.scored(query)
        assert len(got) == len(want)
        for (doc, score), (_, expected) in zip(got, want, strict=True):
            assert score == pytest.approx(expected, abs=1e-4), ids[doc]
        assert [i for i, _ in got] == list(index.search(query))


def test_ties_go_to_the_smaller_id_also_at_the_cut() -> None:
    ids = [f"B{i:03d}" for i in range(120)]
    random.Random(0).shuffle(ids)
    index = Index.of((name, "same words here") for name in ids)
    assert [ids[i] for i in index.search("words")] == sorted(ids)[:TOP_K]


def test_nothing_to_find() -> None:
    assert Index.of([]).search("x") == ()
    assert Index.of([("a", "")]).search("x") == ()
    assert Index.of([("a", "red")]).search("the of") == ()


def _corpus(seed: int, n: int = 3_000) -> tuple[list[str], list[str]]:
    """Texts with rare and frequent words, many ties, some texts empty."""
    rng = random.Random(seed)
    ids = [f"B{i}" for i in rng.sample(range(10**6), n)]
    words = [f"w{int(400 * rng.random() ** 3)}" for _ in range(n * 14)]
    sizes = [rng.choice((0, 1, 3, 9, 20)) for _ in range(n)]
    return ids, [" ".join(words[i * 14 : i * 14 + sizes[i]]) for i in range(n)]


@pytest.fixture(scope="module")
def shop() -> tuple[Index, list[str]]:
    """Products as long as real ones, every third of them three times (ties), and queries."""
    rows = list(bulk_rows(2_000, seed=6))
    texts = [" ".join([r["name"], r["full_description"], *r["small_description"]]) for r in rows]
    wishes = [bulk_instruction(row)["instruction"] for row in rows[::25]]
    texts += texts[::3] * 2
    ids = [f"B{i}" for i in random.Random(1).sample(range(10**6), len(texts))]
    rng = random.Random(2)
    words = " ".join(texts[:200]).lower().split()
    queries = [*wishes, *(" ".join(rng.choices(words, k=n)) for n in [1, 2, 4, 9, 25, 60] * 25)]
    queries += [" ".join(rng.choices(q.split(), k=3 * len(q.split()))) for q in wishes]  # repeated
    return Index.of(zip(ids, texts, strict=True)), queries


def test_the_best_are_found_without_sorting_all(shop: tuple[Index, list[str]]) -> None:
    """Long, short and repeating queries: the same products, scores and order of ties as sorting
    all scores gives."""
    index, queries = shop
    found = [index.scored(query) for query in queries]
    assert any(len({score for _, score in hits}) < len(hits) for hits in found)
    for query, hits in zip(queries, found, strict=True):
        scores = index._scores(query)
        pairs = sorted((-float(s), int(index.ranks[i]), i) for i, s in enumerate(scores) if s)
        assert hits == [(i, -s) for s, _, i in pairs[:TOP_K]]
        places = {i: place for place, (i, _) in enumerate(hits)}
        for i in [*places, *(i for *_, i in pairs[TOP_K : TOP_K + 3]), 0]:
            assert index.place(query, i) == places.get(i)


@pytest.mark.parametrize("in_files", [False, True])
def test_an_index_built_in_chunks_is_the_same(tmp_path: Path, in_files: bool) -> None:
    ids, texts = _corpus(1, 800)
    whole = Index.of(zip(ids, texts, strict=True))
    builder = IndexBuilder(tmp_path if in_files else None, chunk=500)
    for name, text in zip(ids, texts, strict=True):
        builder.add(name, text)
    built = builder.finish()
    built.save(tmp_path)
    for index in (built, Index.open(tmp_path, built.find, built.filled)):
        for name in ("starts", "docs", "denominators", "ranks"):
            assert np.array_equal(getattr(index, name), getattr(whole, name)), name
        assert index.scored("w1 w3 w200") == whole.scored("w1 w3 w200")


def test_pieces_of_texts_are_analysed_as_the_texts_are() -> None:
    """The builder takes texts apart at blanks; words that only blanks part must stay themselves."""
    rng = random.Random(3)
    letters = [
        *"ab1_.,'’: \t\n",
        "\u00a0",
        "\u202f",
        "é",
        "日",
        "ひ",
        "★",
        "\u200d",
        "\u0301",
        "🇩",
        "ß",
    ]
    for _ in range(1_500):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 24)))
        builder = IndexBuilder()
        builder.add("B", text)
        found = builder.finish()
        terms = Counter(analyze(text.lower()))
        assert len(found.docs) == len(terms) == len(builder.terms), repr(text)
        assert all(found.find(term) is not None for term in terms), repr(text)
