"""Which known sequence starts like this one?

Owns a table from block-wise hashes of token prefixes to the name of a sequence that has them.
Knows nothing about caches. It only proposes: whoever asks compares the tokens.
"""

from __future__ import annotations

import numpy as np

__all__ = ["BLOCK", "PrefixTable"]

BLOCK = 32
"""Tokens per hash: shorter common prefixes are not found."""
_ENTRIES = 500_000


class PrefixTable:
    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._chains: dict[str, list[int]] = {}

    def add(self, name: str, tokens: np.ndarray, same: int) -> None:
        """`name` now has `tokens`, the first `same` of which it had before."""
        if len(self._names) > _ENTRIES:
            self._names.clear()
            self._chains.clear()
        chain = self._chains.get(name, [])[: same // BLOCK]
        for start in range(len(chain) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            chain.append(_extend(chain[-1] if chain else 0, tokens[start : start + BLOCK]))
            self._names[chain[-1]] = name
        self._chains[name] = chain

    def find(self, tokens: np.ndarray) -> str | None:
        """The sequence added last among those sharing the most whole blocks with `tokens`."""
        link, found = 0, None
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            link = _extend(link, tokens[start : start + BLOCK])
            if link not in self._names:
                break
            found = self._names[link]
        return found

    def drop(self, name: str) -> None:
        self._chains.pop(name, None)


def _extend(link: int, block: np.ndarray) -> int:
    return hash((link, block.tobytes()))
