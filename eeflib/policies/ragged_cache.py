"""A key/value cache with one row per conversation, each row as long as it happens to be.

Owns the storage, `[rows, heads, capacity, head_dim]` per layer, and how a chunk of new tokens is
written into it and read back through transformers' Cache interface. Knows nothing about
conversations, tokens or sampling: `eeflib.policies.cached_decoding` decides which row holds what.

A forward pass is announced by `plan`: which rows take part, how much each holds, how many new
tokens each brings. New tokens are right-aligned in the chunk (padding on the left), so the last
position of every row is the last position of the batch. The model must be given the plan's
`position_ids` and its 4-D `mask`, which states exactly who attends to whom.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["Plan", "RaggedCache"]


@dataclass(frozen=True)
class Plan:
    """One forward pass over B rows with chunks of at most Q new tokens, K positions in sight."""

    rows: torch.Tensor | slice
    """[B] row numbers, or a slice where they are consecutive (then nothing is copied)."""
    position_ids: torch.Tensor
    """[B, Q] positions of the chunk; padding repeats the row's first new position."""
    mask: torch.Tensor
    """[B, 1, Q, K] additive: 0 where a token may look, the lowest float elsewhere."""
    targets: tuple[torch.Tensor, torch.Tensor]
    """[B] rows and [B, Q] positions written to; padding goes to the last position of the row."""
    width: int
    """K."""
    flat: dict[int, torch.Tensor] = field(default_factory=dict)
    """`targets` as positions in the flattened storage, by number of heads; filled on use."""


class _RaggedLayer(CacheLayerMixin):
    """One layer's storage. All layers share the plan that their cache holds."""

    is_sliding = False

    def __init__(self, owner: RaggedCache) -> None:
        super().__init__()
        self.owner = weakref.proxy(owner)  # no cycle: the memory goes with the cache, at once

    @property
    def stores(self) -> tuple[torch.Tensor, ...]:
        """Keys and values, each [rows, heads, capacity, head_dim]; nothing before first use."""
        if self.keys is None or self.values is None:
            return ()
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, capacity = self.owner.rows, self.owner.capacity
        self.keys, self.values = (
            _zeros((rows, states.shape[1], capacity, states.shape[3]), states)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan, seen = self.owner.current, []
        for number, states in enumerate((key_states, value_states)):
            store = self.stores[number]
            size = store.shape[3]
            index = self.owner.flat_targets(store.shape[1])
            store.view(-1, size).index_copy_(0, index, states.reshape(-1, size))
            window = store[:, :, : plan.width]
            if isinstance(plan.rows, slice):
                seen.append(window[plan.rows])
            else:
                out = self.owner.scratch(number, (len(plan.rows), *window.shape[1:]), store)
                seen.append(torch.index_select(window, 0, plan.rows, out=out))
        return seen[0], seen[1]

    def resize(self, rows: int, capacity: int, live: int, longest: int) -> None:
        resized = []
        for old in self.stores:
            new = _zeros((rows, old.shape[1], capacity, old.shape[3]), old)
            new[:live, :, :longest] = old[:live, :, :longest]
            resized.append(new)
        if resized:
            self.keys, self.values = resized

    def move(self, source: int, target: int, length: int) -> None:
        for store in self.stores:
            store[target, :, :length] = store[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.current.width, 0

    def get_seq_length(self) -> int:
        return 0 if self.owner.plan_in_use is None else self.owner.current.width

    def get_max_length(self) -> int:
        return self.owner.capacity - 1


class RaggedCache(Cache):
    """Storage for `rows` sequences of fewer than `capacity` tokens, in a model of `layers` layers.

    The last position of a row takes the padding and is never read.
    """

    def __init__(self, layers: int, rows: int = 1, capacity: int = 16) -> None:
        self.rows, self.capacity = rows, capacity
        self.plan_in_use: Plan | None = None
        self._ragged = [_RaggedLayer(self) for _ in range(layers)]
        self._scratch: dict[int, torch.Tensor] = {}
        super().__init__(layers=list(self._ragged))

    @property
    def current(self) -> Plan:
        """The plan of the forward pass under way."""
        if self.plan_in_use is None:
            raise RuntimeError("RaggedCache.plan must be called before each forward pass")
        return self.plan_in_use

    @property
    def bytes_per_token(self) -> int:
        """Memory of one position of one row over all layers; 0 before the first forward pass."""
        stores = [store for layer in self._ragged for store in layer.stores]
        return sum(s.shape[1] * s.shape[3] * s.element_size() for s in stores)

    def plan(
        self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, like: torch.Tensor
    ) -> Plan:
        """Announce the next forward pass.

        Args:
            rows: [B] row numbers, no duplicates.
            starts: [B] tokens each row holds and keeps.
            counts: [B] new tokens per row, the chunk is max(counts) wide. A row may bring none:
                it is computed for nothing, which is cheaper than copying all the others.
            like: a floating-point tensor whose device and dtype the mask takes.
        """
        device = like.device
        chunk, ends = int(counts.max()), starts + counts
        width = int(ends.max())
        if width >= self.capacity:
            raise ValueError(f"{width} positions do not fit a capacity of {self.capacity}")
        # Right-aligned: the last column of every row is its end.
        positions = np.arange(chunk)[None, :] + (ends - chunk)[:, None]
        real = positions >= starts[:, None]
        positions = np.maximum(positions, starts[:, None])
        where = torch.from_numpy(positions).to(device)
        hidden = torch.arange(width, device=device) > where[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=device)
        mask.masked_fill_(hidden, torch.finfo(like.dtype).min)
        numbers = torch.from_numpy(rows).to(device)
        written = torch.from_numpy(np.where(real, positions, self.capacity - 1)).to(device)
        first = int(rows[0])
        consecutive = bool((rows == np.arange(first, first + len(rows))).all())
        which = slice(first, first + len(rows)) if consecutive else numbers
        self.plan_in_use = Plan(which, where, mask, (numbers, written), width)
        return self.plan_in_use

    def flat_targets(self, heads: int) -> torch.Tensor:
        """[B * heads * Q] numbers of the written vectors in storage seen as [-1, head_dim]."""
        plan = self.current
        if heads not in plan.flat:
            rows, positions = plan.targets
            head = torch.arange(heads, device=rows.device)
            start = (rows[:, None] * heads + head) * self.capacity
            plan.flat[heads] = (start[:, :, None] + positions[:, None, :]).reshape(-1)
        return plan.flat[heads]

    def scratch(self, number: int, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Memory for a gathered copy, used by one layer after the other: fresh memory is slow."""
        size = int(np.prod(shape))
        held = self._scratch.get(number)
        if held is None or held.numel() < size:
            self._scratch[number] = held = like.new_empty(size * 5 // 4)
        return held[:size].view(shape)

    def resize(self, rows: int, capacity: int, live: int, longest: int) -> None:
        """Change the storage's size, keeping the first `longest` positions of `live` rows.

        Layer by layer, so that at most one layer exists twice.
        """
        if (rows, capacity) == (self.rows, self.capacity):
            return
        for layer in self._ragged:
            layer.resize(rows, capacity, live, longest)
        self.rows, self.capacity = rows, capacity

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` over row `target`."""
        for layer in self._ragged:
            layer.move(source, target, length)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._ragged[layer_idx].get_seq_length()


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros, not empty: what lies beyond a row's end is multiplied by a weight of 0.

    On a CPU in anonymous mapped memory, which is taken page by page when first written to; numpy
    and torch would take all of it at once.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    raw = mmap.mmap(-1, int(np.prod(shape)) * like.element_size())
    return torch.frombuffer(raw, dtype=like.dtype).view(shape)
