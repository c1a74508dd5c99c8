"""BM25 ranking, number for number the one of the official WebShop index (Lucene 8, k1 0.9, b 0.4).

Import `Index` from here. It ranks documents (an id and a text) over an inverted index from
`postings`, in memory or on disk.

Score of a document = sum over the query's terms of
`idf * tf / (tf + k1 * (1 - b + b * length / average length))`, `idf = ln(1 + (N - df + .5) /
(df + .5))`, where length is rounded down to what Lucene's one-byte length code can hold. Sums are
rounded to single precision before they are compared, as Lucene does; ties go to the smaller
document id.

Over many documents most of them cannot be among the best 50: frequent terms add little. Terms are
added up from the rarest on, until few documents can still reach the score of the 50th best with
all that is left; after that, only those are looked up (`_Contest`). The result is exactly that of
adding up everything: the documents left at the end are scored again, term by term in the order of
the query.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eeflib.envs.webshop.postings import (
    Postings,
    PostingsBuilder,
    analyze,
    decode_length,
    encode_length,
    id_ranks,
)

__all__ = ["TOP_K", "Index", "decode_length", "encode_length"]

TOP_K = 50
"""Results of one search at most."""

_FEW = 125_000
"""Up to so many documents, adding up everything is quicker."""
_MANY = 64
"""For more terms than this too."""
_SLACK = 1e-5
"""Of a score: more than rounding can change it."""
_HOPE = 0.6
"""Of the best score there could be: what the 50th best document is hoped to have."""
_AGAIN = 0.5
"""The floor is determined again when what is left has shrunk to so much of what it was."""
_COSTLY = 10
"""Looking for the floor costs as much as adding up one posting for so many documents."""
_LOOK_UP = 20
"""Adding up so many postings costs as much as looking one document up."""
_LANES = 4_096
"""The documents are dealt out to so many lanes, and the best of each lane are compared."""
_TRIED = 200
"""Lanes whose best document's whole score is looked up for a floor."""
_LONG = 1_000
"""Characters; of a longer query only a hash is remembered."""


class Index:
    """An immutable inverted index; one is shared by any number of environments.

    Args:
        ids: N document ids; ties in the score are broken by them, ascending.
        texts: N texts, see `Product.document`.
        cache: how many distinct queries keep their result.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str], *, cache: int = 4096) -> None:
        builder = PostingsBuilder()
        for text in texts:
            builder.add(text)
        self._open(builder.finish(id_ranks(ids)), cache)

    @classmethod
    def over(cls, postings: Postings, *, cache: int = 4096) -> Index:
        """An index over arrays that exist."""
        index = cls.__new__(cls)
        index._open(postings, cache)
        return index

    def _open(self, postings: Postings, cache: int) -> None:
        self.postings = postings
        self.size = postings.size
        self._cache: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._cache_size = cache

    def search(self, query: str) -> tuple[int, ...]:
        """Numbers of the best documents, best first, `TOP_K` at most; without a hit, empty."""
        known = query
        if len(query) > _LONG:
            known = hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()
        hit = self._cache.get(known)
        if hit is not None:
            return hit
        result = tuple(int(doc) for doc, _ in self.scored(query))
        self._cache[known] = result
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return result

    def scored(self, query: str) -> list[tuple[int, float]]:
        """`search` with its scores; not cached."""
        lists = self._lists(query)
        if not lists:
            return []
        if self.size <= _FEW or len(lists) > _MANY:
            found, total = self.all_scores(lists)
        else:
            found, total = _Contest(self.size, lists).best()
        scores = total.astype(np.float32)
        if len(found) > TOP_K:
            # Everything that ties with the last place stays in until the ids decide.
            floor = np.partition(scores, len(scores) - TOP_K)[len(scores) - TOP_K]
            keep = scores >= floor
            found, scores = found[keep], scores[keep]
        order = np.lexsort((self.postings.ranks[found], -scores))[:TOP_K]
        return [(int(found[i]), float(scores[i])) for i in order]

    def all_scores(self, lists: Sequence[_List]) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of all documents with any of the terms, their scores in double precision)."""
        total = np.zeros(self.size, dtype=np.float64)
        for one in lists:
            np.add.at(total, one.docs, one.values(one.codes).astype(np.float64))
        found = np.flatnonzero(total != 0)
        return found, total[found]

    def _lists(self, query: str) -> list[_List]:
        """The terms of the query that occur, in the order of their first occurrence in it."""
        p, lists = self.postings, []
        for term, count in Counter(analyze(query)).items():
            at = p.find(term)
            if at is None:
                continue
            start, end = int(p.starts[at]), int(p.starts[at + 1])
            df = end - start
            idf = np.float32(np.log(1 + (p.filled - df + 0.5) / (df + 0.5)))
            weight = np.float32(count) * idf
            peak = p.peaks[at]
            most = float(weight - weight / p.saturations[peak])
            lists.append(_List(p.docs[start:end], p.codes[start:end], weight, p.saturations, most))
        return lists


# `np.add.at` and `take` are two to three times as fast here as indexing with an array: the types on
# both sides are the same, and no document occurs twice.


class _List(NamedTuple):
    """The postings of one term of a query."""

    docs: np.ndarray
    codes: np.ndarray
    weight: np.float32
    """Occurrences in the query times idf."""
    saturations: np.ndarray
    most: float
    """No document gets more from this term."""

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What postings with these codes add to a score, float32."""
        if len(codes) > len(self.saturations):
            return (self.weight - self.weight / self.saturations).take(codes)
        return self.weight - self.weight / self.saturations.take(codes)

    def look_up(self, docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of the ascending `docs` hold the term, what it adds to them)."""
        # of one type, or numpy would convert the whole list
        at = np.searchsorted(self.docs, docs.astype(self.docs.dtype, copy=False))
        at[at == len(self.docs)] = 0
        held = self.docs.take(at) == docs
        return held, self.values(self.codes[at[held]])


class _Contest:
    """Finds the documents that may be among the best `TOP_K`, and their exact scores."""

    def __init__(self, size: int, lists: Sequence[_List]) -> None:
        self.lists, self.size = lists, size
        self.rising = sorted(lists, key=lambda one: len(one.docs))
        """Rarest first."""
        self.left = [0.0]
        """left[i]: at most so much from the terms rising[i:] together."""
        for one in reversed(self.rising):
            self.left.insert(0, self.left[0] + one.most)
        self.sums = np.zeros(-(-size // _LANES) * _LANES, dtype=np.float32)
        """Scores so far; only good for comparing."""

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(ascending numbers of documents that include all of the best, their exact scores)."""
        floor, hopeful = 0.0, _HOPE * self.left[0]
        for at, one in enumerate(self.rising):
            # Looking for the floor is work too: only where it spares more and may be enough.
            if len(one.docs) * _COSTLY > self.size and self.left[at] < hopeful:
                floor = max(floor, self._floor())
                hopeful = _AGAIN * self.left[at]
            docs = self._reaching(floor, at)
            if docs is not None and len(docs) * _LOOK_UP < len(one.docs):
                return self._exact(self._winnow(docs, floor, at))
            np.add.at(self.sums, one.docs, one.values(one.codes))
        floor = max(floor, self._floor())
        docs = self._reaching(floor, len(self.rising))
        return self._exact(np.flatnonzero(self.sums) if docs is None else docs)

    def _floor(self) -> float:
        """A score that `TOP_K` documents have at least, found among the best so far; 0 if none."""
        # One pass over all documents finds `_TRIED` of the best; a partition takes ten times that.
        tops = self.sums.reshape(-1, _LANES).max(axis=0)
        least = np.partition(tops, _LANES - _TRIED)[_LANES - _TRIED]
        docs = np.flatnonzero(self.sums >= least if least else self.sums)[: 2 * _TRIED]
        if len(docs) < TOP_K:
            return 0.0
        scores = self._exact(docs)[1]
        return float(np.partition(scores, len(scores) - TOP_K)[len(scores) - TOP_K])

    def _reaching(self, floor: float, done: int) -> np.ndarray | None:
        """Documents that can still reach `floor` after so many terms; None if any can."""
        least = floor * (1 - _SLACK) - self.left[done]
        return np.flatnonzero(self.sums >= least) if least > 0 else None

    def _winnow(self, docs: np.ndarray, floor: float, done: int) -> np.ndarray:
        """Those of the documents that reach `floor` with the terms that are left."""
        least, sums = floor * (1 - _SLACK), self.sums.take(docs)
        for i in range(done, len(self.rising)):
            held, values = self.rising[i].look_up(docs)
            sums[held] += values
            keep = sums >= least - self.left[i + 1]
            docs, sums = docs[keep], sums[keep]
        return docs

    def _exact(self, docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(len(docs), dtype=np.float64)
        for one in self.lists:
            held, values = one.look_up(docs)
            total[held] += values
        return docs, total
