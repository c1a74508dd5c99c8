"""BM25 ranking, number for number the one of the official WebShop index (Lucene 8, k1 0.9, b 0.4).

Owns the inverted index and the ranking. Knows nothing about pages; a document is an id and a text.

Score of a document = sum over the query's terms of
`idf * tf / (tf + k1 * (1 - b + b * length / average length))`, `idf = ln(1 + (N - df + .5) /
(df + .5))`, where length is rounded down to what Lucene's one-byte length code can hold. Sums are
rounded to single precision before they are compared, as Lucene does; ties go to the smaller
document id.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

import numpy as np

from eeflib.envs.webshop.tokens import analyze

__all__ = ["TOP_K", "Index", "decode_length", "encode_length"]

TOP_K = 50
"""Results of one search at most."""

_K1, _B = np.float32(0.9), np.float32(0.4)
_FREE = 24
"""Lengths below this are coded exactly."""


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


class Index:
    """An immutable inverted index over `texts`; one is shared by any number of environments.

    Args:
        ids: N document ids; ties in the score are broken by them, ascending.
        texts: N texts, see `Product.document`.
        cache: how many distinct queries keep their result.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str], *, cache: int = 4096) -> None:
        lists: dict[str, tuple[list[int], list[int]]] = {}
        lengths = np.zeros(len(texts), dtype=np.int64)
        for doc, text in enumerate(texts):
            terms = analyze(text)
            lengths[doc] = len(terms)
            for term, count in Counter(terms).items():
                docs, counts = lists.setdefault(term, ([], []))
                docs.append(doc)
                counts.append(count)
        self.size = len(texts)
        filled = int((lengths > 0).sum())
        average = np.float32(lengths.sum() / filled) if filled else np.float32(1)
        table = np.array([decode_length(c) for c in range(256)], dtype=np.float32)
        one = np.float32(1)
        inverse = one / (_K1 * ((one - _B) + _B * table / average))
        norms = inverse[[encode_length(int(n)) for n in lengths]]
        rank = np.empty(self.size, dtype=np.int64)
        rank[np.array(sorted(range(self.size), key=lambda i: ids[i]), dtype=np.int64)] = np.arange(
            self.size
        )
        self._rank = rank
        self._postings: dict[str, tuple[np.ndarray, np.ndarray, np.float32]] = {}
        for term, (docs, counts) in lists.items():
            where = np.array(docs, dtype=np.int32)
            saturation = one + np.array(counts, dtype=np.float32) * norms[where]
            idf = np.float32(np.log(1 + (filled - len(docs) + 0.5) / (len(docs) + 0.5)))
            self._postings[term] = (where, saturation, idf)
        self._cache: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._cache_size = cache

    def search(self, query: str) -> tuple[int, ...]:
        """Numbers of the best documents, best first, `TOP_K` at most; without a hit, empty."""
        hit = self._cache.get(query)
        if hit is not None:
            return hit
        result = tuple(int(doc) for doc, _ in self.scored(query))
        self._cache[query] = result
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return result

    def scored(self, query: str) -> list[tuple[int, float]]:
        """`search` with its scores; not cached."""
        terms = [
            (self._postings[t], n)
            for t, n in Counter(analyze(query)).items()
            if t in self._postings
        ]
        if not terms:
            return []
        total = np.zeros(self.size, dtype=np.float64)
        for (docs, saturation, idf), count in terms:
            weight = np.float32(count) * idf
            total[docs] += weight - weight / saturation
        found = np.flatnonzero(total)
        scores = total[found].astype(np.float32)
        if len(found) > TOP_K:
            # Everything that ties with the last place stays in until the ids decide.
            floor = np.partition(scores, len(scores) - TOP_K)[len(scores) - TOP_K]
            keep = scores >= floor
            found, scores = found[keep], scores[keep]
        order = np.lexsort((self._rank[found], -scores))[:TOP_K]
        return [(int(found[i]), float(scores[i])) for i in order]
