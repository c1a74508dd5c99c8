"""Words, stems and ranking, checked against definitions written down apart from the code."""

from __future__ import annotations

import math
import random
import time
from collections import Counter

import pytest

from eeflib.envs.webshop.search import TOP_K, Index, decode_length, encode_length
from eeflib.envs.webshop.tokens import _ASCII_WORD, _WORD, analyze

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


def test_the_fast_ascii_words_are_the_unicode_words() -> None:
    rng = random.Random(1)
    for _ in range(8_000):
        text = "".join(rng.choice("ab1_.,;:'\" -#*%sz9") for _ in range(rng.randint(1, 14)))
        assert _ASCII_WORD.findall(text) == _WORD.findall(text), text


@pytest.mark.parametrize(
    "text",
    ["_" * 10**6, "é" + "_" * 10**6, "[" * 10**6, "a." * 10**5, "\u200d" * 10**5, "\x00" * 10**6],
)
def test_a_megabyte_of_anything_takes_linear_time(text: str) -> None:
    start = time.process_time()
    analyze(text)
    assert time.process_time() - start < 10


def test_length_code() -> None:
    exact = [n for n in range(3000) if decode_length(encode_length(n)) == n]
    assert exact[:44] == [*range(40), 40, 42, 44, 46]
    assert all(0 <= n - decode_length(encode_length(n)) <= n / 8 for n in range(3000))
    assert [encode_length(n) for n in range(3000)] == sorted(encode_length(n) for n in range(3000))


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
                norm = 0.9 * (0.6 + 0.4 * decode_length(encode_length(length)) / average)
                score += times * idf * doc[term] / (doc[term] + norm)
        if score:
            out.append((name, score))
    return sorted(out, key=lambda pair: (-round(pair[1], 4), pair[0]))[:TOP_K]


def test_ranking_is_the_formula() -> None:
    rng = random.Random(5)
    words = WORDS.split()
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 60))) for _ in range(80)]
    ids = [f"B{rng.randrange(10**6):06d}" for _ in texts]
    index = Index(ids, texts)
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
    index = Index(ids, ["same words here"] * 120)
    assert [ids[i] for i in index.search("words")] == sorted(ids)[:TOP_K]


def test_nothing_to_find() -> None:
    assert Index([], []).search("x") == ()
    assert Index(["a"], [""]).search("x") == ()
    assert Index(["a"], ["red"]).search("the of") == ()
