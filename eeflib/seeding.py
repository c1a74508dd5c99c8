"""Random streams that depend on names only, never on batching, order or process.

Owns the rule seed + names -> generator. Knows nothing about what is drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np

from eeflib.records import canonical_json

__all__ = ["episode_rng"]


def episode_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """A generator for (seed, *parts): the same on every machine, unrelated for other parts.

    The number 1 and the text "1" are different parts, and ("ab", "c") differs from ("a", "bc").
    """
    digest = hashlib.sha256(canonical_json([seed, *parts]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4").tolist())
