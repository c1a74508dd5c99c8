"""Next-token logits that encode only what is new: a kept cache row per sequence.

Owns `CachedDecoder`: which sequence has which row, what of a prompt is already there, and who is
evicted. Knows nothing about text, chats or sampling, nor whether the cache applies to a model
(`eeflib.policies.cache_probe`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eeflib.policies.decoding import BaseDecoder, batches
from eeflib.policies.prefix_table import BLOCK, PrefixTable
from eeflib.policies.ragged_cache import RaggedCache

__all__ = ["CachedDecoder"]

log = logging.getLogger(__name__)

_ROOM = 32  # positions kept free behind a prompt, so that a short reply does not resize
_CPU_BYTES = 768 * 2**20
# Short chunks: computing idle rows in between is cheaper than gathering all the others' keys.
_IDLE_CHUNK, _IDLE_SHARE = 4, 1.6


class CachedDecoder(BaseDecoder):
    """Keeps the keys and values of every named sequence until it is forgotten or evicted.

    What a row holds is used as far as it is a prefix of the new prompt; from the first difference
    on it is encoded again. A new sequence copies what another row already holds of its start: the
    attempts at one task, and the branches of one trajectory, share most of their prompts.

    Rows 0..live-1 are in use: forgetting a row moves the last one into the gap, so that a batch of
    all live rows is read without copying.
    """

    def __init__(self, model: Any, *, cache_bytes: int | None = None) -> None:
        super().__init__(model)
        config = model.config.get_text_config()
        self._like = torch.empty(0, dtype=model.dtype, device=self.device)
        self._layers: int = config.num_hidden_layers
        self.cache_bytes = cache_bytes or _default_bytes(self.device)
        self._lazy = self.device.type == "cpu"  # memory is taken when first written to
        self._per_token = 0
        self._version = self._weights_version()
        self._reset()

    def _reset(self) -> None:
        self.cache = RaggedCache(self._layers)
        self._names: list[str] = []
        self._row: dict[str, int] = {}
        self._lengths = np.zeros(self.cache.rows, np.int64)
        self._used = np.zeros(self.cache.rows, np.int64)
        self._ids = np.zeros((self.cache.rows, self.cache.capacity), np.int64)
        self._clock = self._longest = 0
        self._prefixes = PrefixTable()
        self._prompts: dict[int, np.ndarray] = {}  # of the batch's rows
        self._donors: dict[int, tuple[int, int]] = {}  # prompt -> (row to copy from, tokens)
        self._batch: list[str] = []
        self._pending: list[np.ndarray] = []

    def _weights_version(self) -> int:
        # In-place updates (an optimiser's step, load_state_dict) raise a tensor's version.
        return sum(p._version for p in self.model.parameters() if not p.is_inference())

    @property
    def live(self) -> int:
        """Number of sequences held."""
        return len(self._names)

    def cached(self, key: str) -> int:
        """Number of tokens held for `key`."""
        return int(self._lengths[self._row[key]]) if key in self._row else 0

    def rows_for(self, length: int) -> int:
        return self._limit(length + _ROOM)

    def _limit(self, length: int) -> int:
        """Rows within the budget; on a CPU a row takes what it has held, elsewhere its capacity."""
        longest = max(length, self._longest if self._lazy else self.cache.capacity)
        return max(1, self.cache_bytes // (longest * max(1, self._per_token)))

    def begin(self, keys: Sequence[str], prompts: Sequence[np.ndarray]) -> None:
        self.end()  # of a batch that was interrupted
        version = self._weights_version()
        if version != self._version:
            log.debug("weights changed: dropping %d cached sequences", self.live)
            self.clear()
            self._version = version
        self._clock += 1
        seen: set[str] = set()
        self._batch = []
        for i, key in enumerate(keys):  # an empty or repeated key gets a row for this batch only
            self._batch.append(f"\0{i}" if not key or key in seen else key)
            seen.add(key)
        self._reserve(max(len(p) for p in prompts) + _ROOM)
        known = [name in self._row for name in self._batch]
        self._pending = [np.zeros(0, np.int64)] * len(keys)
        self._prompts, self._donors = {}, {}
        # Long new prompts first: what starts like one of them is then copied from it.
        for i in sorted(range(len(keys)), key=lambda i: (not known[i], -len(prompts[i]), i)):
            self._take_up(i, self._batch[i], prompts[i])

    def _take_up(self, i: int, name: str, prompt: np.ndarray) -> None:
        """Give prompt number i its row and find out what of it is there already."""
        most = len(prompt) - 1  # the last token is always encoded: its logits are asked for
        if name in self._row:
            row = self._row[name]
            same = min(most, _common(self._ids[row, : self._lengths[row]], prompt))
        else:
            row, same = self.live, 0
            self._row[name] = row
            self._names.append(name)
            donor = self._row.get(self._prefixes.find(prompt) or "", row)
            if donor != row:
                held = self._prompts.get(donor, self._ids[donor, : self._lengths[donor]])
                shared = min(most, _common(held, prompt))
                if shared >= BLOCK:
                    self._donors[i] = (donor, shared)
        self._lengths[row], self._used[row] = same, self._clock
        self._prefixes.add(name, prompt, same)
        self._prompts[row], self._pending[i] = prompt, prompt[same:]

    def _copy_prefix(self, i: int) -> None:
        """Take over what the donor's row holds by now."""
        donor, shared = self._donors.pop(i)
        row = self._row[self._batch[i]]
        shared = min(shared, int(self._lengths[donor]))
        self.cache.move(donor, row, shared)
        self._ids[row, :shared] = self._prompts[row][:shared]
        self._lengths[row] = shared
        self._pending[i] = self._prompts[row][shared:]

    def _reserve(self, capacity: int) -> None:
        """Make room for the batch's rows of `capacity` tokens, evicting the longest unused."""
        mine = set(self._batch)
        missing = len(mine - self._row.keys())
        surplus = self.live + missing - max(len(mine), self._limit(capacity))
        if surplus > 0:
            idle = [n for n in self._names if n not in mine]
            idle.sort(key=lambda n: int(self._used[self._row[n]]))
            self._drop(idle[:surplus])
        self._longest = max(self._longest, capacity)
        self._grow(self.live + missing, capacity)

    def _grow(self, rows: int, capacity: int) -> None:
        old_rows, old_capacity = self.cache.rows, self.cache.capacity
        rows = max(rows, old_rows)
        if capacity >= old_capacity:  # with room to spare, where the budget has it
            most = self.cache_bytes // (rows * max(1, self._per_token))
            ample = capacity * 8 if self._lazy else capacity * 5 // 4
            capacity = max(capacity, min(ample, most))
            capacity = -(-capacity // 64) * 64 + 1  # odd: rows do not share cache sets
        capacity = max(capacity, old_capacity)
        if (rows, capacity) == (old_rows, old_capacity):
            return
        longest = int(self._lengths[: self.live].max()) if self.live else 0
        self.cache.resize(rows, capacity, self.live, longest)
        ids = np.zeros((rows, capacity), np.int64)
        ids[: self.live, :longest] = self._ids[: self.live, :longest]
        self._ids = ids
        more = np.zeros(rows - old_rows, np.int64)
        self._lengths = np.concatenate([self._lengths, more])
        self._used = np.concatenate([self._used, more])

    def logits(self, which: Sequence[int], new: Sequence[Sequence[int]]) -> torch.Tensor:
        out: torch.Tensor | None = None
        left = list(range(len(which)))
        while left:  # donors before those that copy from them
            waiting = {self._row[self._batch[which[j]]] for j in left}
            ready: list[int] = []
            rest: list[int] = []
            for j in left:
                donor = self._donors.get(which[j])
                (rest if donor is not None and donor[0] in waiting else ready).append(j)
            left = rest
            for j in ready:
                if which[j] in self._donors:
                    self._copy_prefix(which[j])
            logits = self._encode([which[j] for j in ready], [new[j] for j in ready])
            if out is None and not left:
                return logits
            if out is None:
                out = logits.new_empty(len(which), logits.shape[1])
            out[torch.tensor(ready, device=out.device)] = logits
        if out is None:
            raise ValueError("no sequences given")
        return out

    def _encode(self, which: Sequence[int], new: Sequence[Sequence[int]]) -> torch.Tensor:
        nothing = np.zeros(0, np.int64)
        chunks: list[np.ndarray] = []
        for i, tokens in zip(which, new, strict=True):
            chunks.append(np.concatenate([self._pending[i], np.asarray(tokens, np.int64)]))
            self._pending[i] = nothing
        rows = np.array([self._row[self._batch[i]] for i in which], np.int64)
        counts = np.array([len(c) for c in chunks], np.int64)
        if not counts.all():
            raise ValueError("a sequence was given no new token")
        needed = int((self._lengths[rows] + counts).max())
        if needed >= self.cache.capacity:
            self._grow(self.cache.rows, needed)
        out: torch.Tensor | None = None
        for batch in batches(counts, self.budget):
            batch = batch[np.argsort(rows[batch])]
            mine, many = rows[batch], counts[batch]
            lines = np.arange(len(batch))
            wide, span = int(many.max()), int(mine[-1] - mine[0]) + 1
            if wide <= _IDLE_CHUNK and len(batch) < span <= _IDLE_SHARE * len(batch):
                lines = mine - mine[0]
                mine, many = np.arange(mine[0], mine[-1] + 1), np.zeros(span, np.int64)
                many[lines] = counts[batch]
            starts = self._lengths[mine]
            ids = np.zeros((len(mine), wide), np.int64)
            for line, j in zip(lines, batch, strict=True):
                ids[line, wide - many[line] :] = chunks[j]
                self._ids[mine[line], starts[line] : starts[line] + many[line]] = chunks[j]
            plan = self.cache.plan(mine, starts, many, self._like)
            logits = self._forward(
                ids,
                attention_mask=plan.mask,
                position_ids=plan.position_ids,
                past_key_values=self.cache,
                use_cache=True,
            )
            self._lengths[mine] += many
            if out is None:
                out = logits.new_empty(len(which), logits.shape[1])
            out[torch.from_numpy(batch).to(out.device)] = logits[torch.from_numpy(lines)]
        if out is None:
            raise ValueError("no sequences given")
        if not self._per_token:
            self._per_token = self.cache.bytes_per_token
        return out

    def end(self) -> None:
        names, self._batch, self._pending = self._batch, [], []
        self._prompts, self._donors = {}, {}
        self.forget([n for n in names if n.startswith("\0")])

    def forget(self, keys: Sequence[str]) -> None:
        self._drop(keys)
        if not self.live and not self._batch:
            self._reset()  # gives the memory back between waves of episodes

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            row = self._row.pop(key, None)
            if row is None:
                continue
            last = self.live - 1
            if row != last:
                with torch.inference_mode():
                    self.cache.move(last, row, int(self._lengths[last]))
                self._ids[row] = self._ids[last]
                self._lengths[row], self._used[row] = self._lengths[last], self._used[last]
                self._names[row] = self._names[last]
                self._row[self._names[row]] = row
            self._names.pop()
            self._prefixes.drop(key)

    def clear(self) -> None:
        self._reset()


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common prefix."""
    size = min(len(a), len(b))
    same = a[:size] == b[:size]
    return size if same.all() else int(np.argmin(same))


def _default_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.5)
    return _CPU_BYTES
