"""Text -> index terms, as Lucene's English analyzer makes them.

Owns tokens, stop words and stems. Knows nothing about ranking or products.

The chain is that of the official WebShop index: Unicode word breaks (UAX #29, with Han and Hiragana
characters single, emoji sequences and South-East Asian runs whole), the possessive 's removed,
lower case, 33 stop words, Porter's stemmer with its author's published departures (nltk's
MARTIN_EXTENSIONS mode).
"""

from __future__ import annotations

from functools import lru_cache

import regex
from nltk.stem.porter import PorterStemmer

__all__ = ["MAX_TOKEN", "STOP_WORDS", "analyze", "stem"]

STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
"""Lucene's default English stop words (33)."""

MAX_TOKEN = 255
"""Longer tokens are cut into pieces of this many characters."""


def _word_pattern() -> regex.Pattern[str]:
    """The word-break rules as one expression; names follow the properties of UAX #29."""
    ext = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*"
    plain = r"[[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]--[\uFE0E\uFE0F]]*"
    letter = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{ext}"
    hebrew = rf"\p{{WB=Hebrew_Letter}}{ext}"
    digit = rf"[\p{{WB=Numeric}}[\p{{Blk=Halfwidth_And_Fullwidth_Forms}}&&\p{{Nd}}]]{ext}"
    katakana = rf"\p{{WB=Katakana}}{ext}"
    joiner = rf"\p{{WB=ExtendNumLet}}{ext}"
    # The colon left MidLetter in later Unicode versions; the official index uses Unicode 9.
    mid_letter = rf"[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}:]{ext}"
    mid_digit = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{ext}"
    core = (
        rf"(?:{katakana}(?:(?:{joiner})*{katakana})*"
        rf"|(?:{hebrew}(?:'{ext}|\"{ext}{hebrew})"
        rf"|{digit}(?:(?:(?:{joiner})*|{mid_digit}){digit})*"
        rf"|{letter}(?:(?:(?:{joiner})*|{mid_letter}){letter})*)+)"
    )
    word = rf"(?:{joiner})*{core}(?:(?:{joiner})+{core})*(?:{joiner})*"
    modifier = rf"\p{{Emoji_Modifier}}{plain}"
    pictograph = (
        r"[\p{Extended_Pictographic}[\p{Emoji}--"
        r"[\p{WB=Regional_Indicator}\p{Emoji_Modifier}0-9#*©®™\u3030\u303D]]]"
    )
    element = (
        rf"(?:\p{{WB=ZWJ}}*\p{{Emoji_Modifier_Base}}{plain}{modifier}"
        rf"|\p{{WB=ZWJ}}*{pictograph}{plain}\uFE0F?|{modifier})"
    )
    flag = rf"\p{{WB=Regional_Indicator}}{ext}"
    emoji = (
        rf"{element}(?:[\U000E0020-\U000E007E]+\U000E007F|(?:\p{{WB=ZWJ}}{element})*)"
        rf"|[0-9#*]{plain}\uFE0F?\u20E3{plain}|{flag}{flag}"
    )
    asian = rf"(?:\p{{LB=SA}}{ext})+|[\p{{Script=Han}}\p{{Script=Hiragana}}]{ext}"
    return regex.compile(rf"{emoji}|{word}|{asian}", regex.V1)


_WORD = _word_pattern()
_ASCII_WORD = regex.compile(
    r"_*(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+"
    r"(?:_+(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+)*_*"
)
"""The same rules where all text is lower-case ASCII: several times faster."""

_STEMMER = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)


@lru_cache(maxsize=200_000)
def stem(token: str) -> str:
    """The term of a token; empty for a stop word. Possessive first, then case, stop, stem."""
    if len(token) >= 2 and token[-1] in "sS" and token[-2] in "'\u2019\uff07":
        token = token[:-2]
    token = token.lower()
    if token in STOP_WORDS:
        return ""
    return _STEMMER.stem(token, to_lowercase=False)


def analyze(text: str) -> list[str]:
    """The index terms of `text`, in order, repeats kept."""
    text = text.lower()
    words = (_ASCII_WORD if text.isascii() else _WORD).findall(text)
    terms = []
    for word in words:
        if len(word) <= MAX_TOKEN:
            pieces = [word]
        else:
            pieces = [word[i : i + MAX_TOKEN] for i in range(0, len(word), MAX_TOKEN)]
        terms.extend(term for term in map(stem, pieces) if term)
    return terms
