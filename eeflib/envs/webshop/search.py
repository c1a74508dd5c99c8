"""BM25 ranking, number for number the one of the official WebShop index (Lucene 8, k1 0.9, b 0.4).

Import `Index`, `IndexBuilder` and `analyze` from here. An index ranks documents (an id and a text)
and consists of a few numpy arrays, in memory or memory-mapped from `.npy` files.

Score of a document = sum over the query's terms of
`idf * tf / (tf + k1 * (1 - b + b * length / average length))`, `idf = ln(1 + (N - df + .5) /
(df + .5))`, where length is rounded down to what Lucene's one-byte length code can hold. Each
summand is computed in single precision, as `w - w / (1 + tf / norm)`, and the sum is rounded to
single precision before scores are compared, both as Lucene does; ties go to the smaller id.

`analyze` makes terms as Lucene's English analyzer in the official WebShop index does: Unicode word
breaks (UAX #29, with Han and Hiragana characters single, emoji sequences and South-East Asian runs
whole), the possessive 's removed, lower case, 33 stop words, Porter's stemmer with its author's
published departures. Every pattern starts only where a run of joiners starts, so that a megabyte of
underscores costs linear, not quadratic time.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import chain, count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import regex
import Stemmer
from tqdm.auto import tqdm

TOP_K = 50
"""Results of one search at most."""

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

_K1, _B = np.float32(0.9), np.float32(0.4)
_FREE = 24
"""Lengths below this are kept exactly."""
CHUNK = 6_000_000
"""Terms that are collected before they are sorted and put away: about 300 MB at the peak."""
_PIECES = 500_000
"""Pieces of texts whose terms are remembered: stemming a word costs a hundred times a look-up."""
_CACHED = 4_096
"""Distinct queries whose results are remembered."""
_SCORES = 8_000_000
"""Scores that are remembered for `Index.place`: of many queries of a small store, else of few."""
_LONG = 1_000
"""Characters; the results of longer queries are not remembered."""
_ARRAYS = ("starts", "docs", "denominators", "ranks")


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


_BLY = re.compile(r"[aeiou][^aeiouy]+bly$")
_LATER = re.compile(
    r"[^a-z0-9]|((?<!a)bl[iy]|log[iy])(s|es|eds?|ings?)?$|([^aeioulszbdfgmnprt])\3(ed|ing)s?$"
)
"""Words that Porter's later version, which Lucene has, may stem unlike that of his paper."""
_PAPER = Stemmer.Stemmer("porter", 0)
_ONE_AT_A_TIME = Lock()  # a stemmer holds the word that it works on


@cache
def _later() -> Any:
    """Loaded with the first word that needs it: importing nltk takes seconds."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)


def porter(word: str) -> str:
    """The stem of a word in lower case, by Porter's later version.

    Mostly from a stemmer of the first version in C, which is forty times as fast and there at once.
    """
    if len(word) <= 2:
        return word
    if _BLY.search(word):  # the later one makes -ble of it, where a vowel and a consonant are left
        word = word[:-1] + "e"
    elif _LATER.search(word):
        return _later().stem(word, to_lowercase=False)
    with _ONE_AT_A_TIME:
        return _PAPER.stemWord(word)


@lru_cache(maxsize=200_000)
def stem(token: str) -> str:
    """The term of a token; empty for a stop word. Possessive first, then case, stop, stem."""
    if len(token) >= 2 and token[-1] in "sS" and token[-2] in "'\u2019\uff07":
        token = token[:-2]
    token = token.lower()
    return "" if token in STOP_WORDS else porter(token)


def analyze(text: str) -> list[str]:
    """The index terms of `text`, in order, repeats kept."""
    terms: list[str] = []
    for word in _WORD.findall(text.lower()):
        if len(word) <= MAX_TOKEN:
            pieces = [word]
        else:
            pieces = [word[i : i + MAX_TOKEN] for i in range(0, len(word), MAX_TOKEN)]
        terms.extend(term for term in map(stem, pieces) if term)
    return terms


def coded_length(length: int) -> int:
    """What the ranking takes a document length to be: Lucene keeps 24 + a number of four bits."""
    rest = max(length - _FREE, 0)
    shift = max(rest.bit_length() - 4, 0)
    return length if length < _FREE else _FREE + (rest >> shift << shift)


class Index:
    """An immutable inverted index over N documents, V terms and P postings.

    Any number of environments share one. `Index.of` makes one in memory; `save` writes its arrays
    to a folder, where `Index.open` maps them.

    Args:
        find: term -> its number, 0..V-1, or None.
        starts: V + 1 positions in `docs`, int64: term t has those from starts[t] to starts[t + 1].
        docs: P document numbers, int32, ascending within a term.
        denominators: P times 1 + occurrences / (k1 * (1 - b + b * length / average)), float32.
        ranks: N places of the documents' ids in their order, int32: what breaks ties.
        filled: documents that hold any term, the N of the formula.
    """

    def __init__(
        self,
        find: Callable[[str], int | None],
        *,
        starts: np.ndarray,
        docs: np.ndarray,
        denominators: np.ndarray,
        ranks: np.ndarray,
        filled: int,
    ) -> None:
        self.find, self.starts, self.docs = find, starts, docs
        self.denominators, self.ranks, self.filled = denominators, ranks, filled
        self._cache: dict[str, tuple[int, ...]] = {}
        self._known = lru_cache(_SCORES // max(1, len(self)))(self._scores)

    @classmethod
    def of(cls, documents: Iterable[tuple[str, str]]) -> Index:
        """The index of N documents (id, text), in memory."""
        builder = IndexBuilder()
        for id, text in documents:
            builder.add(id, text)
        return builder.finish()

    @classmethod
    def open(cls, folder: Path, find: Callable[[str], int | None], filled: int) -> Index:
        """The index whose arrays lie in `folder`; processes share them in the page cache.

        Raises:
            OSError, ValueError: an array is missing or damaged.
        """
        arrays = {
            # without the class memmap every slice costs three times as much
            name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
            for name in _ARRAYS
        }
        return cls(find, filled=filled, **arrays)

    def save(self, folder: Path) -> None:
        """Write the arrays to `folder`, for `open`; the terms are the caller's to keep."""
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    def __len__(self) -> int:
        return len(self.ranks)

    def search(self, query: str) -> tuple[int, ...]:
        """Numbers of the best documents, best first, `TOP_K` at most; without a hit, empty."""
        hit = self._cache.get(query)
        if hit is None:
            hit = tuple(self._best(self._scores(query)).tolist())
            if len(query) <= _LONG:  # longer ones would pile up in memory
                self._cache[query] = hit
            if len(self._cache) > _CACHED:
                self._cache.pop(next(iter(self._cache)), None)
        return hit

    def place(self, query: str, document: int) -> int | None:
        """Where `search` has this document, from 0; None if it has not. Without sorting."""
        scores = self._known(query)
        own = scores[document]
        tied = self.ranks[np.flatnonzero(scores == own)] < self.ranks[document]
        place = int(np.count_nonzero(scores > own)) + int(np.count_nonzero(tied))
        return place if own and place < TOP_K else None

    def scored(self, query: str) -> list[tuple[int, float]]:
        """`search` with its scores; not cached."""
        scores = self._scores(query)
        return [(int(i), float(scores[i])) for i in self._best(scores)]

    def _best(self, scores: np.ndarray) -> np.ndarray:
        """Numbers of the documents with the highest scores, highest first, `TOP_K` at most."""
        found = np.flatnonzero(scores)
        if len(found) > TOP_K:
            # Everything that ties with the last place stays in until the ids decide.
            own = scores[found]
            found = found[own >= np.partition(own, -TOP_K)[-TOP_K]]
        return found[np.lexsort((self.ranks[found], -scores[found]))[:TOP_K]]

    def _scores(self, query: str) -> np.ndarray:
        """The score of each document, float32, 0 without any of the terms."""
        total = np.zeros(len(self), dtype=np.float64)
        for term, times in Counter(analyze(query)).items():
            at = self.find(term)
            if at is None:
                continue
            start, end = int(self.starts[at]), int(self.starts[at + 1])
            df = end - start
            idf = np.float32(np.log(1 + (self.filled - df + 0.5) / (df + 0.5)))
            weight = np.float32(times) * idf
            values = weight - weight / self.denominators[start:end]
            # of one type on both sides, and no document twice: three times as fast as indexing
            np.add.at(total, self.docs[start:end], values.astype(np.float64))
        return total.astype(np.float32)


class IndexBuilder:
    """Takes texts one by one; `finish` gives the index.

    Memory: the distinct terms, one number a document and `chunk` terms; in the end the index.

    Args:
        folder: for sorted chunks (12 bytes a posting), until all is merged; None: they stay in
            memory.
        chunk: terms that are sorted at a time.
    """

    def __init__(self, folder: Path | None = None, *, chunk: int = CHUNK) -> None:
        self.terms: defaultdict[str, int] = defaultdict(count().__next__)
        """Term -> its number in the index."""
        self._folder, self._chunk = folder, chunk
        self._ids: list[str] = []
        self._waiting, self._lengths = array("i"), array("i")
        self._first = 0  # document that the waiting terms start with
        self._runs: list[tuple[np.ndarray, np.ndarray] | Path] = []
        self._pieces = lru_cache(_PIECES)(self._analyze)

    @property
    def _document_lengths(self) -> np.ndarray:
        return np.frombuffer(self._lengths, np.int32)

    def add(self, id: str, text: str) -> None:
        """Take the next document."""
        self._ids.append(id)
        before = len(self._waiting)
        # No term holds a blank, so texts are taken apart at them: pieces repeat, texts do not.
        pieces = map(self._pieces, text.lower().split(" "))
        self._waiting.extend(chain.from_iterable(pieces))
        self._lengths.append(len(self._waiting) - before)
        if len(self._waiting) >= self._chunk:
            self._put_away()

    def _analyze(self, piece: str) -> tuple[int, ...]:
        return tuple(map(self.terms.__getitem__, analyze(piece)))

    def finish(self, *, progress: bool = False) -> Index:
        """Merge the chunks into the arrays of an index; `progress` shows a bar."""
        self._put_away()
        size = len(self.terms)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._found())])
        docs = np.empty(starts[-1], np.int32)
        denominators = np.empty(starts[-1], np.float32)
        norms = self._norms()
        free = starts[:-1].copy()  # next position of each term
        for i in tqdm(range(len(self._runs)), desc="search index", disable=not progress):
            keys, times = self._load(i)
            terms, own = keys >> 32, (keys & 0xFFFFFFFF).astype(np.int32)
            counts = np.bincount(terms, minlength=size)
            where = np.arange(len(keys)) + (free - np.cumsum(counts) + counts)[terms]
            docs[where] = own
            denominators[where] = np.float32(1) + times.astype(np.float32) * norms[own]
            free += counts
        find = dict(self.terms).get
        ranks = np.empty(len(self._ids), np.int32)
        by_id = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        ranks[np.array(by_id, np.int64)] = np.arange(len(by_id))
        return Index(
            find, starts=starts, docs=docs, denominators=denominators, ranks=ranks,
            filled=int(np.count_nonzero(self._document_lengths)),
        )  # fmt: skip

    def _found(self) -> np.ndarray:
        """How many documents hold each term."""
        counts = np.zeros(len(self.terms), np.int64)
        for i in range(len(self._runs)):
            counts += np.bincount(self._load(i)[0] >> 32, minlength=len(counts))
        return counts

    def _put_away(self) -> None:
        """Sort the waiting terms: (term << 32 | document), ascending, and how often each occurs."""
        lengths = self._document_lengths[self._first :]
        owners = np.repeat(np.arange(self._first, self._first + len(lengths)), lengths)
        keys = (np.frombuffer(self._waiting, np.int32).astype(np.int64) << 32) | owners
        keys.sort()
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        run = keys[first], np.diff(first, append=len(keys)).astype(np.int32)
        if self._folder is None:
            self._runs.append(run)
        else:
            path = self._folder / f"chunk{len(self._runs)}.npz"
            np.savez(path, *run)
            self._runs.append(path)
        self._waiting = array("i")
        self._first = len(self._lengths)

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        run = self._runs[number]
        if isinstance(run, tuple):
            return run
        with np.load(run) as file:
            return file["arr_0"], file["arr_1"]

    def _norms(self) -> np.ndarray:
        """Per document 1 / (k1 * (1 - b + b * length / average length)), float32."""
        lengths, one = self._document_lengths, np.float32(1)
        filled = np.count_nonzero(lengths)
        average = np.float32(lengths.sum(dtype=np.int64) / filled) if filled else one
        coded = range(int(lengths.max(initial=0)) + 1)
        kept = np.array([coded_length(n) for n in coded], np.float32)[lengths]
        return one / (_K1 * ((one - _B) + _B * kept / average))
