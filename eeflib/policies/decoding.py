"""Next-token logits for a batch of growing token sequences, encoding only what is new.

Import `Decoder` from here. It keeps the keys and values of every conversation in a row of its own,
[rows, heads, capacity, head_dim] a layer, so that a row holds exactly its tokens, from column 0. In
a forward pass rows of different lengths get chunks of different lengths: chunks are padded on the
left, what the padding writes goes to the last column, and the mask says who may see whom.

Whether a model's cache can be used so is tried once, on two sequences, against plain encoding. If
it cannot, every sequence is encoded whole for every token, and the log says so.
"""

from __future__ import annotations

import inspect
import logging
import mmap
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from eeflib.policies.hardware import lengths_vary

log = logging.getLogger(__name__)

_SHARED = 32
"""Tokens from which on a common start is copied instead of encoded again."""
_ROOM = 32
"""Columns kept free behind a prompt, so that a short reply does not resize the cache."""
_CPU_BYTES = 1536 * 2**20
# Short chunks: computing idle rows in between is cheaper than gathering all the others' keys.
_IDLE_CHUNK, _IDLE_SHARE = 4, 1.6
_GROUPED = "eeflib_grouped"
"""Name of `_attend_grouped` among transformers' kinds of attention."""


@dataclass(frozen=True)
class _Pass:
    """One forward pass over B rows with chunks of at most Q new tokens."""

    rows: torch.Tensor | slice
    """B row numbers; a slice where they are consecutive, so that nothing is copied."""
    targets: tuple[torch.Tensor, torch.Tensor]
    """[B, 1] rows and [B, Q] columns that are written to."""
    width: int
    """Columns in sight."""


class _Layer(CacheLayerMixin):
    """Keys and values of one layer."""

    is_sliding = False

    def __init__(self, owner: _Rows) -> None:
        super().__init__()
        self.owner = weakref.proxy(owner)  # no cycle: the memory goes with the cache, at once

    @property
    def stores(self) -> tuple[torch.Tensor, ...]:
        """Keys and values, [rows, heads, capacity, head_dim] each; nothing before first use."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = (
            _zeros((self.owner.rows, s.shape[1], self.owner.capacity, s.shape[3]), s)
            for s in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now, (rows, columns) = self.owner.now, self.owner.now.targets
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[rows, :, columns] = states.transpose(1, 2)
        keys, values = (store[:, :, : now.width][now.rows] for store in self.stores)
        return keys, values

    def resize(self, rows: int, capacity: int, live: int, longest: int) -> None:
        resized = []
        for old in self.stores:
            new = _zeros((rows, old.shape[1], capacity, old.shape[3]), old)
            new[:live, :, :longest] = old[:live, :, :longest]
            resized.append(new)
        if resized:
            self.keys, self.values = resized

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.now.width, 0

    def get_seq_length(self) -> int:
        return self.owner.now.width if self.owner.now else 0

    def get_max_length(self) -> int:
        return self.owner.capacity - 1


class _Rows(Cache):
    """Storage for `rows` sequences of fewer than `capacity` tokens."""

    now: _Pass | None = None

    def __init__(self, layers: int) -> None:
        self.rows, self.capacity = 1, 16
        self._ragged = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self._ragged))

    @property
    def bytes_per_token(self) -> int:
        """Memory of one column of one row over all layers; 0 before the first forward pass."""
        stores = [store for layer in self._ragged for store in layer.stores]
        return sum(s.shape[1] * s.shape[3] * s.element_size() for s in stores)

    def resize(self, rows: int, capacity: int, live: int, longest: int) -> None:
        """Change the size, keeping `longest` columns of `live` rows; a layer at a time."""
        for layer in self._ragged:
            layer.resize(rows, capacity, live, longest)
        self.rows, self.capacity = rows, capacity

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of row `source` over row `target`."""
        for layer in self._ragged:
            for store in layer.stores:
                store[target, :, :length] = store[source, :, :length]


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros, not empty: what lies beyond a row's end is multiplied by a weight of 0.

    On a CPU in anonymous mapped memory, which is taken page by page when first written to; numpy
    and torch would take all of it at once.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    raw = mmap.mmap(-1, int(np.prod(shape)) * like.element_size())
    return torch.frombuffer(raw, dtype=like.dtype).view(shape)


class Decoder:
    """A batch at a time: `begin` with the prompts, `logits` as often as needed, `end`.

    What is held under a key is used as far as it is a prefix of the new prompt. A new sequence
    copies what another one holds of its start: the attempts at one task, and the branches of one
    trajectory, share most of their prompts. Rows 0 to live - 1 are in use: forgetting one moves the
    last into the gap.

    Args:
        model: a transformers causal LM, possibly wrapped by peft.
        cached: keep keys and values, if that gives the logits of plain encoding.
        cache_bytes: memory for them; None: 1.5 GiB on a CPU, half of what is free on a GPU.
    """

    def __init__(self, model: Any, *, cached: bool = True, cache_bytes: int | None = None) -> None:
        self.model = model
        self.budget = _token_budget(model)
        self._lazy = self.device.type == "cpu"  # memory is taken when first written to
        self.cache_bytes = cache_bytes or _default_bytes(self.device)
        config = model.config.get_text_config()
        self._layers: int = config.num_hidden_layers
        self._window: int = getattr(config, "sliding_window", None) or 0
        plain = "sliding_attention" if self._window else "full_attention"
        self._kinds = set(getattr(config, "layer_types", None) or [plain])
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(inner.forward).parameters
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted
        heads = getattr(config, "num_attention_heads", None)  # a state space has none
        shares = getattr(config, "num_key_value_heads", None) not in (None, heads)
        self._grouped = self._lazy and shares and config._attn_implementation == "sdpa"
        self.cached = cached
        self.clear()
        if self.cached and (why := self._why_not(config) or self._probe(config)):
            self.cached = False
            log.warning(
                "no cache for %s: %s; every prompt is encoded whole for every token of a reply, "
                "which takes many times as long",
                type(model).__name__,
                why,
            )
        self.clear()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def clear(self) -> None:
        """Forget everything: the model's weights have changed."""
        self._cache = _Rows(self._layers)
        self._names: list[str] = []
        self._held: list[np.ndarray] = []  # per row, its tokens
        self._used: dict[str, int] = {}  # name -> number of the last batch
        self._clock = 0
        self._batch: list[str] = []
        self._pending: list[np.ndarray] = []
        self._version = self._weights_version()

    def _weights_version(self) -> int:
        # In-place updates (an optimiser's step, load_state_dict) raise a tensor's version.
        return sum(p._version for p in self.model.parameters() if not p.is_inference())

    @property
    def live(self) -> int:
        """Number of sequences held."""
        return len(self._names)

    def rows_for(self, length: int) -> int:
        """How many sequences of `length` tokens fit into the memory for keys and values."""
        return self._limit(length + _ROOM) if self.cached else 1_000_000

    def _limit(self, length: int) -> int:
        longest = max(length, *map(len, self._held), 0) if self._lazy else self._cache.capacity
        return max(1, self.cache_bytes // max(1, longest * self._cache.bytes_per_token))

    def begin(self, keys: Sequence[str], prompts: Sequence[np.ndarray]) -> None:
        """Take up B sequences. An empty or repeated key is not remembered after `end`."""
        self.end()  # of a batch that was interrupted
        if self._weights_version() != self._version:
            self.clear()
        for i, key in enumerate(keys):
            self._batch.append(f"\0{i}" if not key or key in self._batch else key)
        self._pending = prompts = [np.asarray(p, np.int64) for p in prompts]
        if not self.cached:
            return
        self._clock += 1
        self._used |= dict.fromkeys(self._batch, self._clock)
        known = set(self._names)
        self._reserve(max(map(len, prompts)) + _ROOM)
        row = self._rows()
        for i, name in enumerate(self._batch):
            if name in row:  # the last token is always encoded: its logits are asked for
                mine = self._held[row[name]]
                same = min(int(_common(mine[None], prompts[i])[0]), len(prompts[i]) - 1)
                self._held[row[name]] = mine[:same]
        new = [i for i, name in enumerate(self._batch) if name not in known]
        self._start([(prompts[i], self._batch[i]) for i in new])
        row = self._rows()
        self._pending = [
            p[len(self._held[row[name]]) :] for name, p in zip(self._batch, prompts, strict=True)
        ]

    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._names)}

    def _start(self, new: Sequence[tuple[np.ndarray, str]]) -> None:
        """Give new prompts rows and what others share with them.

        Longest first, so that one that shares half of its tokens or more with another new one finds
        them encoded.
        """
        order = sorted(new, key=lambda x: -len(x[0]))
        starts, held = _matrix([prompt for prompt, _ in order]), _matrix(self._held)
        leaders: dict[int, int] = {}  # number in order -> row
        waiting = []
        for i, (prompt, name) in enumerate(order):
            shared = _common(starts[list(leaders)], prompt)
            if leaders and shared.max() >= max(_SHARED, len(prompt) // 2):
                waiting.append((prompt, name))
            else:
                leaders[i] = self._take_up(prompt, name, held)
        if waiting:
            chunks = {row: order[i][0][len(self._held[row]) : -1] for i, row in leaders.items()}
            self._encode({row: chunk for row, chunk in chunks.items() if len(chunk)})
            held = _matrix(self._held)
            for prompt, name in waiting:
                self._take_up(prompt, name, held)

    def _take_up(self, prompt: np.ndarray, name: str, held: np.ndarray) -> int:
        """The row of a new prompt, with the longest start of it that one of `held` has."""
        row = len(self._names)
        self._names.append(name)
        self._held.append(prompt[:0])
        shared = _common(held, prompt)
        donor = int(shared.argmax()) if len(shared) else 0
        length = min(int(shared[donor]), len(prompt) - 1) if len(shared) else 0
        if length >= _SHARED:
            self._cache.copy(donor, row, length)
            self._held[row] = prompt[:length]
        return row

    def _reserve(self, capacity: int) -> None:
        """Make room for the batch's rows of `capacity` tokens, evicting the longest unused."""
        mine = set(self._batch)
        missing = len(mine.difference(self._names))
        surplus = self.live + missing - max(len(mine), self._limit(capacity))
        if surplus > 0:
            idle = sorted((n for n in self._names if n not in mine), key=self._used.__getitem__)
            self._drop(idle[:surplus])
        self._grow(self.live + missing, capacity)

    def _grow(self, rows: int, capacity: int) -> None:
        cache = self._cache
        rows = max(rows, cache.rows)
        if capacity >= cache.capacity:  # with columns to spare, where the memory has them
            most = self.cache_bytes // max(1, rows * cache.bytes_per_token)
            ample = capacity * 8 if self._lazy else capacity * 5 // 4
            capacity = max(capacity, min(ample, most))
            capacity = -(-capacity // 64) * 64 + 1  # odd: rows do not share cache sets
        capacity = max(capacity, cache.capacity)
        if (rows, capacity) != (cache.rows, cache.capacity):
            longest = max(map(len, self._held), default=0)
            cache.resize(rows, capacity, self.live, longest)

    def logits(
        self, which: Sequence[int], new: Sequence[Sequence[int] | np.ndarray]
    ) -> torch.Tensor:
        """Append `new[j]` to sequence `which[j]`; logits [len(which), vocabulary] after each.

        Only a sequence's first call may append nothing.
        """
        for i, tokens in zip(which, new, strict=True):
            self._pending[i] = np.concatenate([self._pending[i], np.asarray(tokens, np.int64)])
        if not which or not all(len(self._pending[i]) for i in which):
            raise ValueError("a sequence was given no new token")
        if not self.cached:
            return self._encode_whole([self._pending[i] for i in which])
        row = self._rows()
        rows = [row[self._batch[i]] for i in which]
        chunks = {r: self._pending[i] for r, i in zip(rows, which, strict=True)}
        needed = max(len(self._held[r]) + len(c) for r, c in chunks.items())
        if needed >= self._cache.capacity:
            self._grow(self._cache.rows, needed)
        found = self._encode(chunks)
        for i in which:
            self._pending[i] = self._pending[i][:0]
        return torch.stack([found[r] for r in rows])

    def _encode(self, chunks: dict[int, np.ndarray]) -> dict[int, torch.Tensor]:
        """Append new tokens to rows; row -> logits [vocabulary] after them."""
        nothing = np.zeros(0, np.int64)
        out: dict[int, torch.Tensor] = {}
        for part in _parts({row: len(chunk) for row, chunk in chunks.items()}, self.budget):
            rows = sorted(part)
            wide = max(len(chunks[r]) for r in part)
            span = rows[-1] + 1 - rows[0]
            if wide <= _IDLE_CHUNK and span <= _IDLE_SHARE * len(rows):
                rows = list(range(rows[0], rows[-1] + 1))
            news = [chunks[r] if r in part else nothing for r in rows]
            starts = np.array([len(self._held[r]) for r in rows])
            counts = np.array([len(c) for c in news])
            ids = np.zeros((len(rows), wide), np.int64)
            for line, (r, chunk) in enumerate(zip(rows, news, strict=True)):
                if len(chunk):
                    ids[line, wide - len(chunk) :] = chunk
                    self._held[r] = np.concatenate([self._held[r], chunk])
            # the last column of every row is its end; padding asks from the row's first new token
            positions = np.arange(wide)[None, :] + (starts + counts - wide)[:, None]
            real = positions >= starts[:, None]
            positions = np.maximum(positions, starts[:, None])
            written = np.where(real, positions, self._cache.capacity - 1)
            at = np.array(rows)[:, None]
            device = self.device
            self._cache.now = _Pass(
                slice(rows[0], rows[-1] + 1)
                if len(rows) == span
                else torch.tensor(rows, device=device),
                (torch.from_numpy(at).to(device), torch.from_numpy(written).to(device)),
                int((starts + counts).max()),
            )
            places = torch.from_numpy(positions).to(device)
            logits = self._call(
                ids,
                attention_mask=self._masks(places, self._cache.now.width),
                past_key_values=self._cache,
                use_cache=True,
                **self._places(places),
            )
            out |= {r: logits[line] for line, r in enumerate(rows) if r in part}
        return out

    def _masks(self, positions: torch.Tensor, width: int) -> Any:
        """What may be seen, [B, 1, Q, width], additive; by kind of layer if there are two.

        Args:
            positions: [B, Q] of the new tokens.
        """
        dtype = self.model.dtype
        seen = torch.arange(width, device=positions.device)
        asking = positions[:, None, :, None]
        masks = {}
        for kind in self._kinds:
            hidden = seen > asking
            if kind == "sliding_attention":
                hidden |= asking - seen >= self._window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
            masks[kind] = mask.masked_fill_(hidden, torch.finfo(dtype).min)
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _places(self, positions: torch.Tensor) -> dict[str, Any]:
        return {"position_ids": positions} if self._positions else {}

    def _call(self, ids: np.ndarray, **kwargs: Any) -> torch.Tensor:
        """Logits [B, vocabulary] at the last position of ids [B, Q]."""
        given = torch.from_numpy(ids).to(self.device)
        with lengths_vary(), self._attention(cached=bool(kwargs["use_cache"])):
            return self.model(input_ids=given, **kwargs, **self._keep).logits[:, -1].float()

    @contextmanager
    def _attention(self, *, cached: bool) -> Iterator[None]:
        """Inside, heads that share keys read them in place, where that pays."""
        config = self.model.config.get_text_config()
        before = config._attn_implementation
        if cached and self._grouped:
            AttentionInterface.register(_GROUPED, _attend_grouped)
            config._attn_implementation = _GROUPED
        try:
            yield
        finally:
            config._attn_implementation = before

    def _encode_whole(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        """Logits [n, vocabulary] after each of n sequences, without a cache."""
        found: dict[int, torch.Tensor] = {}
        for part in _parts({i: len(s) for i, s in enumerate(sequences)}, self.budget):
            longest = max(len(sequences[i]) for i in part)
            ids, mask = np.zeros((2, len(part), longest), np.int64)
            for line, i in enumerate(part):
                ids[line, longest - len(sequences[i]) :] = sequences[i]
                mask[line, longest - len(sequences[i]) :] = 1
            given = torch.from_numpy(mask).to(self.device)
            places = self._places((given.cumsum(1) - 1).clamp(min=0))
            logits = self._call(ids, attention_mask=given, use_cache=False, **places)
            found |= dict(zip(part, logits, strict=True))
        return torch.stack([found[i] for i in range(len(sequences))])

    def end(self) -> None:
        """The batch is answered."""
        names, self._batch, self._pending = self._batch, [], []
        self.forget([name for name in names if name.startswith("\0")])

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what is held for `keys`; unknown ones are ignored."""
        self._drop(keys)
        if not self._names and not self._batch:
            self.clear()  # gives the memory back between waves of episodes

    def _drop(self, keys: Sequence[str]) -> None:
        row = self._rows()
        for key in keys:
            at = row.pop(key, None)
            if at is None:
                continue
            last = len(self._names) - 1
            if at != last:
                with torch.inference_mode():
                    self._cache.copy(last, at, len(self._held[last]))
                self._names[at], self._held[at] = self._names[last], self._held[last]
                row[self._names[at]] = at
            del self._names[last], self._held[last], self._used[key]

    def _why_not(self, config: Any) -> str:
        """Why a cache cannot stand for tokens in this model, by its config; empty if it can."""
        if other := self._kinds - {"full_attention", "sliding_attention"}:
            return f"it has layers of kind {', '.join(sorted(other))}"
        rope = getattr(config, "rope_parameters", None) or {}
        kind = rope.get("rope_type", "default") if isinstance(rope, dict) else "default"
        if kind in ("dynamic", "longrope"):
            return f"its {kind} rotary positions depend on the sequence's length"
        return "it is an encoder-decoder" if getattr(config, "is_encoder_decoder", False) else ""

    @torch.inference_mode()
    def _probe(self, config: Any) -> str:
        """Two sequences fed in chunks: why the logits differ from plain encoding, or ""."""
        draw = np.random.default_rng(0)
        texts = [draw.integers(0, config.vocab_size, n) for n in (24, 13)]
        alone = torch.cat([self._encode_whole([t]) for t in texts])
        padded = self._encode_whole(texts)
        try:
            self.begin(["a", "b"], [texts[0][:4], texts[1][:7]])
            self.logits([0, 1], [[], []])
            got = self.logits([0, 1], [texts[0][4:], texts[1][7:]])
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as exc:
            return f"its forward pass rejects the cache: {exc}"
        # two plain encodings differ by rounding, the more so in half precision
        noise, spread = float((alone - padded).abs().max()), float(alone.std())
        error = float((alone - got).abs().max())
        if not error <= 4 * noise + 8 * torch.finfo(self.model.dtype).eps * spread:  # or NaN
            return f"its logits differ by {error:.3g} (rounding {noise:.3g}, spread {spread:.3g})"
        return ""


def _attend_grouped(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' "sdpa" with a mask, without its copy of the keys and values for every head.

    On a CPU the copy was nine tenths of the time: for a token of 16 conversations of 1,500 tokens a
    layer of SmolLM2 (9 heads on 3) took 108 ms with it, 10 without, with the same result.
    """
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True
    )
    return found.transpose(1, 2).contiguous(), None


def _parts(lengths: dict[int, int], budget: int) -> Iterator[list[int]]:
    """The keys by descending length, cut so that a part's padded size stays within `budget`."""
    order = sorted(lengths, key=lambda i: -lengths[i])
    while order:
        size = max(1, budget // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _token_budget(model: Any) -> int:
    """Tokens per forward pass, padding included.

    Measured on a CPU: a tiny model is quickest while its activations stay in the second-level
    cache; SmolLM2 while a pass holds few rows, padded to the longest (512 tokens: 1.7 s of CPU for
    a turn of 16 conversations each, 1,024: 1.9, 4,096: 2.6).
    """
    if next(model.parameters()).device.type != "cpu":
        return 16384
    return 1200 if sum(p.numel() for p in model.parameters()) < 5_000_000 else 512


def _default_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.5)
    return _CPU_BYTES


def _matrix(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """[n, longest] with -1 behind each sequence's end."""
    out = np.full((len(sequences), max(map(len, sequences), default=0)), -1)
    for line, tokens in enumerate(sequences):
        out[line, : len(tokens)] = tokens
    return out


def _common(rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[n] length of the prefix that each of [n, length] rows shares with `tokens`."""
    size = min(rows.shape[1], len(tokens))
    differs = np.ones((len(rows), size + 1), bool)
    differs[:, :size] = rows[:, :size] != tokens[:size]
    return differs.argmax(axis=1)
