"""Porter's stemmer, with the departures that its author published later (bli -> ble, logi -> log).

Owns the five steps of M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, as
Lucene has them: words of one or two letters stay, letters outside a-z count as consonants. Knows
nothing about texts. It equals nltk's MARTIN_EXTENSIONS mode (a test compares them) and is here
because importing nltk takes more than a second.
"""

from __future__ import annotations

__all__ = ["porter_stem"]

_TABLE_2 = """
    ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e ousli>ous
    ization>ize ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive
    biliti>ble logi>log
"""
_TABLE_3 = "icate>ic ative> alize>al iciti>ic ical>ic ful> ness>"
_TABLE_4 = """
    al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize
"""


def _rules(table: str) -> tuple[tuple[str, str], ...]:
    pairs = (rule.partition(">") for rule in table.split())
    return tuple((old, new) for old, _, new in pairs)


_STEP_2, _STEP_3, _STEP_4 = _rules(_TABLE_2), _rules(_TABLE_3), tuple(_TABLE_4.split())


def _shape(word: str) -> str:
    """`c` or `v` per letter; y is a vowel after a consonant."""
    out, last = [], "v"
    for letter in word:
        last = "v" if letter in "aeiou" or (letter == "y" and last == "c") else "c"
        out.append(last)
    return "".join(out)


def _measure(shape: str) -> int:
    """How often a consonant follows a vowel."""
    return shape.count("vc")


def _doubled(word: str, shape: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and shape[-1] == "c"


def _short_end(word: str, shape: str) -> bool:
    """Ends consonant, vowel, consonant other than w, x, y."""
    return shape[-3:] == "cvc" and word[-1] not in "wxy"


def _plural_and_past(word: str) -> str:
    """Step 1."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    shape = _shape(word)
    if word.endswith("eed"):
        if _measure(shape[:-3]) > 0:
            word = word[:-1]
    else:
        cut = 2 if word.endswith("ed") else 3 if word.endswith("ing") else 0
        if cut and "v" in shape[:-cut]:
            word, shape = word[:-cut], shape[:-cut]
            if word.endswith(("at", "bl", "iz")):
                word += "e"
            elif _doubled(word, shape):
                word = word if word[-1] in "lsz" else word[:-1]
            elif _measure(shape) == 1 and _short_end(word, shape):
                word += "e"
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    return word


def _replaced(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Steps 2 and 3: the first suffix that fits is replaced if a measure is left before it."""
    for suffix, new in rules:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            return stem + new if _measure(_shape(stem)) > 0 else word
    return word


def _stripped(word: str) -> str:
    """Step 4."""
    for suffix in _STEP_4:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            if suffix == "ion" and not stem.endswith(("s", "t")):
                continue
            return stem if _measure(_shape(stem)) > 1 else word
    return word


def porter_stem(word: str) -> str:
    """The stem of a lower-case word."""
    if len(word) <= 2:
        return word
    word = _plural_and_past(word)
    word = _stripped(_replaced(_replaced(word, _STEP_2), _STEP_3))
    if word.endswith("e"):
        shape = _shape(word[:-1])
        measure = _measure(shape)
        if measure > 1 or (measure == 1 and not _short_end(word[:-1], shape)):
            word = word[:-1]
    if word.endswith("ll") and _measure(_shape(word)) > 1:
        word = word[:-1]
    return word
