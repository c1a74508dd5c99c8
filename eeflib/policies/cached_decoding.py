"""Next-token logits that encode only what is new: a kept cache row per sequence.

Owns `CachedDecoder` and `make_decoder`, which finds out by trial whether the cache applies to a
model. Knows nothing about text, chats or sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eeflib.errors import DataError
from eeflib.policies.decoding import BaseDecoder, Decoder, PlainDecoder, batches
from eeflib.policies.ragged_cache import RaggedCache

__all__ = ["CachedDecoder", "make_decoder"]

log = logging.getLogger(__name__)

_ROOM = 32  # positions kept free behind a prompt, so that a short reply does not resize
_CPU_BYTES = 768 * 2**20
# Short chunks: computing idle rows in between is cheaper than gathering all the others' keys.
_IDLE_CHUNK, _IDLE_SHARE = 4, 1.6


class CachedDecoder(BaseDecoder):
    """Keeps the keys and values of every named sequence until it is forgotten or evicted.

    What a row holds is used as far as it is a prefix of the new prompt; from the first difference
    on it is encoded again. Rows 0..live-1 are in use: forgetting a row moves the last one into the
    gap, so that a batch of all live rows is read without copying.
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
        self._pending = []
        for name, prompt in zip(self._batch, prompts, strict=True):
            if name not in self._row:
                self._row[name] = self.live
                self._names.append(name)
                self._lengths[self._row[name]] = 0
            row = self._row[name]
            self._used[row] = self._clock
            shared = int(min(self._lengths[row], len(prompt)))
            same = self._ids[row, :shared] == prompt[:shared]
            keep = shared if same.all() else int(np.argmin(same))
            self._lengths[row] = min(keep, len(prompt) - 1)
            self._pending.append(prompt[self._lengths[row] :])

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

    def clear(self) -> None:
        self._reset()


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
