"""Next-token logits that encode only what is new: keys and values are kept per conversation.

Import `make_decoder` from here. It asks a model's config whether the cache applies, compares cached
with plain logits on two sequences, and falls back to `eeflib.policies.decoding.PlainDecoder` where
they differ.

`RaggedCache` stores `[rows, heads, capacity, head_dim]` per layer, each row as long as its
conversation. A forward pass is announced by `plan`: which rows take part, how much each holds, how
many new tokens each brings. New tokens are right-aligned in the chunk (padding on the left), so the
last position of every row is the last position of the batch. The model must be given the plan's
`position_ids` and its 4-D `mask`, which states exactly who attends to whom.
`CachedDecoder` decides which sequence has which row, what of a prompt is in it, and which row is
evicted.
"""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from eeflib.errors import DataError
from eeflib.policies.decoding import BaseDecoder, Decoder, PlainDecoder, batches

__all__ = ["CachedDecoder", "make_decoder"]

log = logging.getLogger(__name__)

_BLOCK = 32
"""Tokens per hash: shorter common prefixes are not found."""
_ENTRIES = 500_000
_ROOM = 32  # positions kept free behind a prompt, so that a short reply does not resize
_CPU_BYTES = 768 * 2**20
# Short chunks: computing idle rows in between is cheaper than gathering all the others' keys.
_IDLE_CHUNK, _IDLE_SHARE = 4, 1.6


class PrefixTable:
    """From hashes of token prefixes, block by block, to the name of a sequence that has them.

    It only proposes a sequence: the caller compares the tokens.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._chains: dict[str, list[int]] = {}

    def add(self, name: str, tokens: np.ndarray, same: int) -> None:
        """`name` now has `tokens`, the first `same` of which it had before."""
        if len(self._names) > _ENTRIES:
            self._names.clear()
            self._chains.clear()
        chain = self._chains.get(name, [])[: same // _BLOCK]
        for start in range(len(chain) * _BLOCK, len(tokens) - _BLOCK + 1, _BLOCK):
            chain.append(_extend(chain[-1] if chain else 0, tokens[start : start + _BLOCK]))
            self._names[chain[-1]] = name
        self._chains[name] = chain

    def find(self, tokens: np.ndarray) -> str | None:
        """The sequence added last among those sharing the most whole blocks with `tokens`."""
        link, found = 0, None
        for start in range(0, len(tokens) - _BLOCK + 1, _BLOCK):
            link = _extend(link, tokens[start : start + _BLOCK])
            if link not in self._names:
                break
            found = self._names[link]
        return found

    def drop(self, name: str) -> None:
        self._chains.pop(name, None)


def _extend(link: int, block: np.ndarray) -> int:
    return hash((link, block.tobytes()))


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

    def __init__(self, layers: int) -> None:
        self.rows, self.capacity = 1, 16
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
                if shared >= _BLOCK:
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


def _why_not_cached(model: Any) -> str:
    """Why a cache row cannot stand for its tokens in this model; empty if it can, by its config."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "it attends through a sliding window"
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default") if isinstance(rope, dict) else "default"
    if kind in ("dynamic", "longrope"):
        return f"its {kind} rotary positions depend on the sequence's length"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    return ""


def _probe(model: Any, cached: CachedDecoder) -> str:
    """Two ragged sequences, fed in chunks: why the result differs from whole encoding, or ""."""
    size = model.config.get_text_config().vocab_size
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, size, n) for n in (11, 6)]
    plain = PlainDecoder(model)
    plain.begin(["", ""], texts)
    want = plain.logits([0, 1], [[], []])
    try:
        cached.begin(["a", "b"], [texts[0][:4], texts[1][:5]])
        cached.logits([0, 1], [[], []])
        got = cached.logits([0, 1], [list(texts[0][4:]), list(texts[1][5:])])
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as exc:
        return f"its forward pass rejects the cache: {exc}"
    slack = 1e-3 if want.dtype == model.dtype else 0.1  # half precision is compared loosely
    error, spread = float((want - got).abs().max()), float(want.std())
    if not error <= slack * spread:  # also catches NaN
        return f"its logits differ by {error:.3g} (spread {spread:.3g})"
    return ""


@torch.inference_mode()
def make_decoder(
    model: Any, *, cached: bool | None = None, cache_bytes: int | None = None
) -> Decoder:
    """The decoder for a causal language model: cached where that gives the same logits.

    Args:
        model: a transformers causal LM, possibly wrapped by peft.
        cached: None tries; False never caches; True raises where the cache does not apply.
        cache_bytes: memory for keys and values; default 768 MiB on a CPU, half of what is free on
            a CUDA device.

    Raises:
        DataError: `cached=True` for a model that the cache does not apply to.
    """
    if cached is False:
        return PlainDecoder(model)
    why = _why_not_cached(model)
    if not why:
        decoder = CachedDecoder(model, cache_bytes=cache_bytes)
        why = _probe(model, decoder)
        if not why:
            decoder.clear()
            return decoder
    if cached:
        raise DataError(f"no cache for {type(model).__name__}: {why}; leave `cached` unset")
    log.warning("no cache for %s: %s; every prompt is encoded whole", type(model).__name__, why)
    return PlainDecoder(model)
