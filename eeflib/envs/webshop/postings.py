"""An inverted index as arrays: which documents hold a term, and how much that counts.

Import `analyze`, `Postings` and `PostingsBuilder` from here; ranking is in `search`. The arrays are
built from texts one by one, in bounded memory, and are the same in memory and on disk
(`index_writer`).

`analyze` makes terms as Lucene's English analyzer in the official WebShop index does: Unicode word
breaks (UAX #29, with Han and Hiragana characters single, emoji sequences and South-East Asian runs
whole), the possessive 's removed, lower case, 33 stop words, Porter's stemmer with its author's
published departures. Every pattern starts only where a run of joiners starts, so that a megabyte of
underscores costs linear, not quadratic time.

What a document adds to a query's score depends, for a given term, on two numbers only: how often
it holds the term and the one-byte code of its length. The pairs that occur are few (thousands), so
a posting is a document number (4 bytes) and the number of its pair (2 bytes), and pairs are
numbered in the order of what they add: a larger code never adds less.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import regex

__all__ = [
    "STOP_WORDS",
    "Postings",
    "PostingsBuilder",
    "analyze",
    "decode_length",
    "encode_length",
    "stem",
]

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

_ASCII_WORD = regex.compile(
    r"(?<!_)_*(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+"
    r"(?:_+(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[a-z]+(?:(?:_*|[.:'])[a-z]+)*)+)*_*"
)
"""The same rules where all text is lower-case ASCII: several times faster."""
_TOUCHED = frozenset("cdegilmnrstuy")
"""Last letters of the suffixes that Porter's rules look for; other words are their own stems."""
_K1, _B = np.float32(0.9), np.float32(0.4)
_FREE = 24
"""Lengths below this are coded exactly."""
CHUNK = 6_000_000
"""Terms that are collected before they are sorted and put away: about 300 MB at the peak."""
_CODES = 1 << 16
"""Pairs that two bytes can number."""
_PIECE = 60
"""Characters; longer pieces of a text are not remembered."""
_PIECES = 1_000_000
"""Pieces whose terms are remembered: stemming a word costs a hundred times a look-up (250 MB)."""
Arrays = Callable[[str, tuple[int, ...], type[np.generic]], np.ndarray]
"""(name, shape, type) -> an array to fill, in memory or in a file."""


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


def encode_length(length: int) -> int:
    """Lucene's one-byte code of a document length (0..255): 3 bits of mantissa above 24 + 16."""
    if length < _FREE:
        return length
    rest = length - _FREE
    shift = rest.bit_length() - 4
    if shift < 0:
        return _FREE + rest
    return _FREE + (((rest >> shift) & 7) | ((shift + 1) << 3))


def decode_length(code: int) -> int:
    """The smallest length that has this code: what the ranking takes the length to be."""
    if code < _FREE:
        return code
    mantissa, shift = (code - _FREE) & 7, ((code - _FREE) >> 3) - 1
    return _FREE + (mantissa if shift < 0 else (mantissa | 8) << shift)


@dataclass(frozen=True)
class Postings:
    """An inverted index over N documents and V terms with P postings."""

    find: Callable[[str], int | None]
    """Term -> its number, 0..V-1."""
    filled: int
    """Documents that hold any term; the N of the ranking's formula."""
    starts: np.ndarray
    """V + 1 positions in `docs`: term t has those from starts[t] to starts[t + 1]."""
    docs: np.ndarray
    """P document numbers, int32, ascending within a term."""
    codes: np.ndarray
    """P numbers of pairs (occurrences, length code), uint16 (uint32 if there are many)."""
    saturations: np.ndarray
    """Per pair 1 + occurrences / (k1 * (1 - b + b * length / average)), float32, ascending."""
    peaks: np.ndarray
    """V largest codes of a term."""
    ranks: np.ndarray
    """N places of the documents' ids in their order: what breaks ties, int32."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.ranks)


def in_memory(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """`Arrays` for an index that is not kept."""
    return np.empty(shape, dtype)


def dictionary(terms: list[str]) -> Callable[[str], int | None]:
    """Finds terms, in memory."""
    return {term: number for number, term in enumerate(terms)}.get


@dataclass(frozen=True)
class _Run:
    """Sorted postings of a part of the documents: terms, their numbers of postings, postings."""

    terms: np.ndarray
    counts: np.ndarray
    docs: np.ndarray
    times: np.ndarray
    """How often a document holds the term."""


class _Pieces(dict[str, tuple[int, ...]]):
    """Piece of a text -> its terms; forgets everything when it is full (one that forgets piece by
    piece is half as fast)."""

    def __init__(self, analyze: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._analyze = analyze

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(piece) > _PIECE:
            return self._analyze(piece)
        if len(self) >= _PIECES:
            self.clear()
        found = self[piece] = self._analyze(piece)
        return found


class PostingsBuilder:
    """Takes texts one by one; `finish` gives the index.

    Memory: the distinct terms, one number a document, and `chunk` terms. The rest lies in `spill`.

    Args:
        spill: a folder for what does not fit (8 bytes a posting); None: all stays in memory.
        chunk: terms in one sorted run.
    """

    def __init__(self, spill: Path | None = None, *, chunk: int = CHUNK) -> None:
        self._spill, self._chunk = spill, chunk
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._terms, self._lengths = array("i"), array("i")
        self._first = 0  # document that the terms collected start with
        self._runs: list[_Run | int] = []
        self._found: list[np.ndarray] = []  # postings per term, per run
        self._pairs = np.empty(0, np.int64)
        self._codes = np.empty(0, np.uint8)
        self._pieces = _Pieces(self._analyze)

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> None:
        """Take the next document."""
        before = len(self._terms)
        # No term holds a blank, so texts are taken apart at them: pieces repeat, texts do not.
        pieces = map(self._pieces.__getitem__, text.lower().split(" "))
        self._terms.extend(chain.from_iterable(pieces))
        self._lengths.append(len(self._terms) - before)
        if len(self._terms) >= self._chunk:
            self._put_away()

    def _analyze(self, piece: str) -> tuple[int, ...]:
        return tuple(map(self._numbers.__getitem__, analyze(piece)))

    def finish(
        self,
        ranks: np.ndarray,
        arrays: Arrays = in_memory,
        keep: Callable[[list[str]], Callable[[str], int | None]] = dictionary,
    ) -> Postings:
        """Merge what was put away into the arrays of an index.

        Args:
            ranks: see `Postings.ranks`.
            arrays: makes the arrays that are filled.
            keep: takes the terms in the order of their numbers in the index, that of their UTF-8
                bytes; gives `Postings.find`.
        """
        if len(self._terms) or not self._runs:
            self._put_away()
        terms = sorted(self._numbers, key=_bytes)
        place = np.empty(len(terms), np.int64)  # number given while reading -> number in the index
        for new, term in enumerate(terms):
            place[self._numbers[term]] = new
        find = keep(terms)
        saturations, code_of = self._saturations()
        starts = arrays("starts", (len(terms) + 1,), np.int64)
        found = np.zeros(len(terms), np.int64)
        for run in self._load():
            found[place[run.terms]] += run.counts
        starts[0] = 0
        np.cumsum(found, out=starts[1:])
        docs = arrays("docs", (int(starts[-1]),), np.int32)
        small = np.uint16 if len(saturations) <= _CODES else np.uint32
        codes = arrays("codes", (int(starts[-1]),), small)
        free = np.array(starts[:-1])  # next position of each term
        for run in self._load():
            at = place[run.terms]
            before = np.cumsum(run.counts) - run.counts
            where = np.arange(len(run.docs)) + np.repeat(free[at] - before, run.counts)
            docs[where] = run.docs
            pairs = _pair(run.times, self._codes[run.docs])
            codes[where] = code_of[np.searchsorted(self._pairs, pairs)]
            free[at] += run.counts
        peaks = arrays("peaks", (len(terms),), small)
        if len(terms):
            peaks[:] = np.maximum.reduceat(codes, starts[:-1])
        table = arrays("saturations", (len(saturations),), np.float32)
        table[:] = saturations
        own = arrays("ranks", (len(ranks),), np.int32)
        own[:] = ranks
        filled = int(np.count_nonzero(np.frombuffer(self._lengths, np.int32)))
        return Postings(find, filled, starts, docs, codes, table, peaks, own)

    def _put_away(self) -> None:
        """Sort the terms collected into a run."""
        lengths = np.frombuffer(self._lengths, np.int32)[self._first :].astype(np.int64)
        table = np.array([encode_length(n) for n in range(int(lengths.max(initial=0)) + 1)])
        self._codes = np.concatenate([self._codes, table[lengths].astype(np.uint8)])
        docs = np.repeat(np.arange(self._first, self._first + len(lengths)), lengths)
        keys = np.frombuffer(self._terms, np.int32).astype(np.int64) << 32
        keys |= docs
        keys.sort()
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        times = np.diff(first, append=len(keys)).astype(np.int32)
        keys = keys[first]
        numbers, own = (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)
        at = np.flatnonzero(np.diff(numbers, prepend=-1))
        run = _Run(numbers[at], np.diff(at, append=len(numbers)), own, times)
        self._pairs = np.union1d(self._pairs, _pair(times, self._codes[own]))
        if self._spill is None:
            self._runs.append(run)
        else:
            np.savez(self._spill / f"run{len(self._runs)}.npz", **vars(run))
            self._runs.append(len(self._runs))
        self._terms = array("i")
        self._first = len(self._lengths)

    def _load(self) -> Iterator[_Run]:
        for run in self._runs:
            if isinstance(run, _Run):
                yield run
            else:
                assert self._spill is not None
                with np.load(self._spill / f"run{run}.npz") as file:
                    yield _Run(**{name: file[name] for name in file.files})

    def _saturations(self) -> tuple[np.ndarray, np.ndarray]:
        """(what pairs add, ascending; position among the sorted pairs -> code)."""
        lengths = np.frombuffer(self._lengths, np.int32)
        filled = int(np.count_nonzero(lengths))
        average = np.float32(lengths.sum(dtype=np.int64) / filled) if filled else np.float32(1)
        one = np.float32(1)
        decoded = np.array([decode_length(c) for c in range(256)], dtype=np.float32)
        inverse = one / (_K1 * ((one - _B) + _B * decoded / average))
        found = one + (self._pairs >> 8).astype(np.float32) * inverse[self._pairs & 0xFF]
        order = np.argsort(found, kind="stable")
        code_of = np.empty(len(order), np.int64)
        code_of[order] = np.arange(len(order))
        return found[order], code_of


def _pair(times: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return times.astype(np.int64) << 8 | codes


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def id_ranks(ids: Sequence[str]) -> np.ndarray:
    """Document number -> place of its id in the order of ids."""
    ranks = np.empty(len(ids), dtype=np.int32)
    ranks[np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)] = np.arange(
        len(ids)
    )
    return ranks
