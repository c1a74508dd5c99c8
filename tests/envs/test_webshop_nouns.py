"""The nouns of titles: spaCy's are the official ones, and what is used without it is said."""

from __future__ import annotations

import logging
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from eeflib.envs.webshop import Product, WebShopEnv, best_nouns
from eeflib.envs.webshop import spacy_nouns as load_spacy
from eeflib.envs.webshop.reward import Nouns, nouns_name, purchase_reward, word_nouns
from eeflib.errors import PrerequisiteError
from tests.parity import Vectors

VECTORS = Vectors(Path(__file__).parents[1] / "data" / "webshop_parity")
PAGE = Path(__file__).parents[2] / "docs" / "webshop.md"
TITLES = {title: tuple(nouns) for title, nouns in VECTORS.load("title_nouns")["titles"].items()}


@cache
def spacy_nouns() -> Nouns:
    return load_spacy()


@pytest.fixture
def fresh():
    """The choice of this process is made anew, before and after."""
    best_nouns.cache_clear()
    yield
    best_nouns.cache_clear()


def test_every_recorded_reward_follows_from_spacys_own_nouns():
    for case in VECTORS.load("reward_cases")["cases"]:
        product = VECTORS.product(case["asin"])
        got = purchase_reward(product, case["goal"], case["price"], case["options"], spacy_nouns())
        assert (got.value, got.info) == (case["reward"], case["info"]), case["id"]


def test_the_name_says_tagger_model_and_version():
    assert re.fullmatch(r"spacy:en_core_web_sm\w*-3\.\d+\.\d+", nouns_name(spacy_nouns()))
    assert nouns_name(word_nouns) == "word_nouns"


def test_a_strict_shop_uses_spacy_and_the_embedded_one_never_does(fresh, caplog):
    with caplog.at_level(logging.INFO, logger="eeflib"):
        strict = WebShopEnv(VECTORS.catalogue, strict=True)
        assert nouns_name(strict.nouns) == nouns_name(spacy_nouns())
    assert nouns_name(spacy_nouns()) in caplog.text
    assert WebShopEnv(VECTORS.catalogue).nouns is word_nouns


def test_without_spacy_words_are_used_and_a_warning_says_what_to_install(
    fresh, caplog, monkeypatch
):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'eeflib\[webshop-spacy\]'"):
        load_spacy()
    assert WebShopEnv(VECTORS.catalogue, strict=True).nouns is word_nouns
    (record,) = [r for r in caplog.records if r.name == "eeflib.envs.webshop.reward"]
    assert record.levelname == "WARNING"
    assert "eeflib[webshop-spacy]" in record.getMessage()


def test_an_unknown_model_is_named_with_the_remedy():
    with pytest.raises(PrerequisiteError, match="en_core_web_huge: pip install"):
        load_spacy("en_core_web_huge")


def test_a_model_that_does_not_load_is_no_crash(fresh, tmp_path, monkeypatch, caplog):
    (tmp_path / "en_core_web_sm").mkdir()
    (tmp_path / "en_core_web_sm" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PrerequisiteError, match=r"en_core_web_sm .*does not load"):
        load_spacy()
    assert best_nouns() is word_nouns
    assert "does not load" in caplog.text


def test_the_documented_figures_are_measured():
    table = dict(re.findall(r"^\| ([^|]+?) \| (\d+ of \d+) \|", PAGE.read_text("utf-8"), re.M))
    cases = VECTORS.load("reward_cases")["cases"]
    products = list(VECTORS.catalogue)[:100]
    pairs = [(a, b) for a in products for b in products if a is not b]
    same_nouns = sum(word_nouns(title) == nouns for title, nouns in TITLES.items())

    def kind(bought: Product, wanted: Product, nouns: Nouns) -> float:
        goal = {"attributes": [], "goal_options": [], "price_upper": 0, "name": wanted.title,
                "query": wanted.query, "product_category": wanted.product_category}  # fmt: skip
        return purchase_reward(bought, goal, 0, {}, nouns).info["r_type"]

    rewards = 0
    for c in cases:
        product = VECTORS.product(c["asin"])
        got = purchase_reward(product, c["goal"], c["price"], c["options"], word_nouns)
        rewards += got.value == c["reward"]
    official = TITLES.__getitem__
    pairs_same = sum(kind(a, b, word_nouns) == kind(a, b, official) for a, b in pairs)
    assert table["words: same nouns of a title"] == f"{same_nouns} of {len(TITLES)}"
    assert table["words: same reward in the recorded purchases"] == f"{rewards} of {len(cases)}"
    assert table["words: same `r_type` for two products"] == f"{pairs_same} of {len(pairs)}"
    assert table["spaCy: same nouns of a title"] == f"{len(TITLES)} of {len(TITLES)}"
    assert table["spaCy: same reward in the recorded purchases"] == f"{len(cases)} of {len(cases)}"
