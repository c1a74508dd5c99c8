"""Text -> index terms, as Lucene's English analyzer makes them.

Owns tokens, stop words and stems. Knows nothing about ranking or products.

The chain is that of the official WebShop index: Unicode word breaks (UAX #29, with Han and Hiragana
characters single, emoji sequences and South-East Asian runs whole), the possessive 's removed,
lower case, 33 stop words, Porter's stemmer with its author's published departures.

Every pattern starts only where a run of joiners starts, so that a megabyte of underscores costs
linear, not quadratic time.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import regex

__all__ = ["MAX_TOKEN", "STOP_WORDS", "analyze", "stem"]

_STOP = """
    a an and are as at be but by for if in into is it no not of on or such that the their then
    there these they this to was will with
"""
STOP_WORDS = frozenset(_STOP.split())
"""Lucene's default English stop words (33)."""

MAX_TOKEN = 255
"""Longer tokens are cut into pieces of this many characters."""


_PICTOGRAPHS = """
    a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 2388 23cf 23e9-23f3 23f8-23fa 24c2
    25aa-25ab 25b6 25c0 25fb-25fe 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271d
    2721 2728 2733-2734 2744 2747 274c 274e 2753-2755 2757 2763-2767 2795-2797 27a1 27b0 27bf
    2934-2935 2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d 3297 3299 1f000-1f0ff 1f10d-1f10f 1f12f
    1f16c-1f171 1f17e-1f17f 1f18e 1f191-1f19a 1f1ad-1f1e5 1f201-1f20f 1f21a 1f22f 1f232-1f23a
    1f23c-1f23f 1f249-1f3fa 1f400-1f53d 1f546-1f64f 1f680-1f6ff 1f774-1f77f 1f7d5-1f7ff 1f80c-1f80f
    1f848-1f84f 1f85a-1f85f 1f888-1f88f 1f8ae-1f8ff 1f90c-1f93a 1f93c-1f945 1f947-1fffd
"""
"""Extended_Pictographic of emoji-data 11.0, which the official index uses; later versions differ
(they lost the star that shops like so much)."""


def _pictographs() -> str:
    ranges = (part.split("-") for part in _PICTOGRAPHS.split())
    return "[" + "".join("-".join(chr(int(end, 16)) for end in ends) for ends in ranges) + "]"


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
        rf"|(?:(?<=\p{{WB=Hebrew_Letter}})(?:'{ext}|\"{ext}{hebrew})"
        rf"|{digit}(?:(?:(?:{joiner})*|{mid_digit}){digit})*"
        rf"|{letter}(?:(?:(?:{joiner})*|{mid_letter}){letter})*)+)"
    )
    word = rf"(?:{joiner})*{core}(?:(?:{joiner})+{core})*(?:{joiner})*"
    modifier = rf"\p{{Emoji_Modifier}}{plain}"
    glue = r"(?:(?<!\p{WB=ZWJ})\p{WB=ZWJ}+)?"
    element = (
        rf"(?:{glue}\p{{Emoji_Modifier_Base}}{plain}{modifier}"
        rf"|{glue}{_pictographs()}{plain}\uFE0F?|{modifier})"
    )
    flag = rf"\p{{WB=Regional_Indicator}}{ext}"
    emoji = (
        rf"{element}(?:(?:(?<=\p{{WB=ZWJ}})|(?=\p{{WB=ZWJ}})){element})*"
        rf"|[0-9#*]{plain}\uFE0F?\u20E3{plain}|{flag}{flag}"
    )
    asian = rf"(?:\p{{LB=SA}}{ext})+|[\p{{Script=Han}}\p{{Script=Hiragana}}]{ext}"
    return regex.compile(rf"{emoji}|(?<!\p{{WB=ExtendNumLet}}){word}|{asian}", regex.V1)


_WORD = _word_pattern()
_ASCII_WORD = regex.compile(
    r"(?<!_)_*(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+"
    r"(?:_+(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+)*_*"
)
"""The same rules where all text is lower-case ASCII: several times faster."""


_TOUCHED = frozenset("cdegilmnrstuy")
"""Last letters of the suffixes that Porter's rules look for; other words are their own stems."""


@cache
def _porter() -> Any:
    """Loaded with the first word: importing nltk takes a second."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)


@lru_cache(maxsize=200_000)
def stem(token: str) -> str:
    """The term of a token; empty for a stop word. Possessive first, then case, stop, stem."""
    if len(token) >= 2 and token[-1] in "sS" and token[-2] in "'\u2019\uff07":
        token = token[:-2]
    token = token.lower()
    if token in STOP_WORDS:
        return ""
    if token[-1:] not in _TOUCHED:
        return token
    return _porter().stem(token, to_lowercase=False)


def analyze(text: str) -> list[str]:
    """The index terms of `text`, in order, repeats kept."""
    text = text.lower()
    words = (_ASCII_WORD if text.isascii() else _WORD).findall(text)
    terms: list[str] = []
    for word in words:
        if len(word) <= MAX_TOKEN:
            pieces = [word]
        else:
            pieces = [word[i : i + MAX_TOKEN] for i in range(0, len(word), MAX_TOKEN)]
        terms.extend(term for term in map(stem, pieces) if term)
    return terms
