"""Does the kept cache apply to a model? Asked of its config, then found out by trial.

Owns `make_decoder`. Knows nothing about text or sampling.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from eeflib.errors import DataError
from eeflib.policies.cached_decoding import CachedDecoder
from eeflib.policies.decoding import Decoder, PlainDecoder

__all__ = ["make_decoder"]

log = logging.getLogger(__name__)


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
