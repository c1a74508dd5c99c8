"""What a training reads: token sequences with labels and a reason per token.

Owns the values `Reason`, `Encoded`, `EncodedSet` and their file form (npz, no pickle). Knows
nothing about samples, templates or models; `eeflib.masking` makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eeflib.errors import DataError

__all__ = ["IGNORE", "Dropped", "Encoded", "EncodedSet", "Reason"]

IGNORE = -100
"""Label of a token without loss."""


class Reason(IntEnum):
    """Where a token came from."""

    TEMPLATE = 0
    SYSTEM = 1
    OBSERVATION = 2
    """A user turn: the instruction and what the environment showed."""
    CONTEXT_ACTION = 3
    """A reply that is only context."""
    TRAINED_ACTION = 4
    """A reply that carries loss: beneficial, or the student's own."""
    END_OF_ACTION = 5
    """The end-of-turn marker after a trained reply: the policy must emit it."""
    HARMFUL_ACTION = 6
    UNKNOWN_ACTION = 7


@dataclass(frozen=True, eq=False)
class Encoded:
    """One training sequence of n tokens; it ends with the last trained token."""

    sample_id: str
    text: str
    """The rendered chat the tokens were read from."""
    input_ids: np.ndarray
    """(n,) int32."""
    labels: np.ndarray
    """(n,) int32: the token's own id where it is trained, else -100. Not shifted."""
    reasons: np.ndarray
    """(n,) uint8, values of `Reason`."""
    steps: np.ndarray
    """(n,) int16: step of the sample the token belongs to, -1 for system text and template."""

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss (the first token has nothing to be predicted from)."""
        return int((self.labels[1:] != IGNORE).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Tokens per reason, by its lower-case name."""
        found = Counter(self.reasons.tolist())
        return {reason.name.lower(): found[reason.value] for reason in Reason}


@dataclass(frozen=True)
class Dropped:
    """A sample that is not trained on."""

    sample_id: str
    reason: str
    """`too long` or `nothing trained`."""
    length: int
    """Tokens up to its last trained one."""
    detail: str


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """What a training reads."""

    items: tuple[Encoded, ...]
    dropped: tuple[Dropped, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self.items)

    @cached_property
    def counts(self) -> dict[str, int]:
        """`samples`, `tokens`, `trained_tokens`, tokens per reason, `dropped: REASON`."""
        out = {
            "samples": len(self.items),
            "tokens": sum(e.length for e in self.items),
            "trained_tokens": sum(e.trained_tokens for e in self.items),
        }
        reasons: Counter[str] = Counter()
        for item in self.items:
            reasons.update(item.counts)
        out.update({r.name.lower(): reasons[r.name.lower()] for r in Reason})
        out.update({f"dropped: {k}": n for k, n in Counter(d.reason for d in self.dropped).items()})
        return out

    @property
    def hash(self) -> str:
        """First 16 hex digits of a SHA-256 over ids and labels in order: all that training sees."""
        out = hashlib.sha256()
        for item in self.items:
            out.update(np.int64(item.length).tobytes())
            out.update(np.ascontiguousarray(item.input_ids, np.int32).tobytes())
            out.update(np.ascontiguousarray(item.labels, np.int32).tobytes())
        return out.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write one npz file; `load` gives an equal set back."""
        notes = {
            "items": [[e.sample_id, e.text, e.length] for e in self.items],
            "dropped": [[d.sample_id, d.reason, d.length, d.detail] for d in self.dropped],
        }
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(e, name) for e in self.items] or [np.zeros(0, kind)])
            for name, kind in _ARRAYS.items()
        }
        with open(path, "wb") as file:
            np.savez(file, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> EncodedSet:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or not one of ours; names it.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                notes = json.loads(file["notes"].tobytes())
                arrays = {name: file[name] for name in _ARRAYS}
        except (OSError, KeyError, ValueError) as exc:
            raise DataError(
                f"{path} is not an encoded set ({exc}); encode the samples again"
            ) from exc
        items, at = [], 0
        for sample_id, text, n in notes["items"]:
            items.append(Encoded(sample_id, text, **{k: a[at : at + n] for k, a in arrays.items()}))
            at += n
        return cls(tuple(items), tuple(Dropped(*d) for d in notes["dropped"]))


_ARRAYS = {"input_ids": np.int32, "labels": np.int32, "reasons": np.uint8, "steps": np.int16}
