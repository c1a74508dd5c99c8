"""Next-token logits for a batch of growing token sequences.

Import the `Decoder` protocol and `PlainDecoder` from here. `PlainDecoder` encodes every sequence
whole at every step and works for any causal model. The faster decoder, and the choice between the
two, are in `eeflib.policies.cached_decoding`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["BaseDecoder", "Decoder", "PlainDecoder", "batches"]


class Decoder(Protocol):
    """A batch at a time: `begin` with the prompts, `logits` as often as needed, `end`."""

    def rows_for(self, length: int) -> int:
        """How many sequences of `length` tokens fit into one batch."""
        ...

    def begin(self, keys: Sequence[str], prompts: Sequence[np.ndarray]) -> None:
        """Take up B sequences. An empty key is never remembered."""
        ...

    def logits(self, which: Sequence[int], new: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append `new[j]` to sequence `which[j]`; logits [len(which), vocabulary] after each.

        Only a sequence's first call may append nothing.
        """
        ...

    def end(self) -> None: ...

    def forget(self, keys: Sequence[str]) -> None: ...

    def clear(self) -> None:
        """Forget everything: the model's weights have changed."""
        ...


def batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Indices by descending length, cut so that a batch's padded size stays within `budget`."""
    order = np.argsort(-lengths, kind="stable")
    at = 0
    while at < len(order):
        size = max(1, budget // int(lengths[order[at]]))
        yield np.sort(order[at : at + size])
        at += size


def _token_budget(model: Any) -> int:
    """Tokens per forward pass. Measured on a CPU: a tiny model is quickest while its activations
    stay in the second-level cache; a large one wants its weights read seldom."""
    if next(model.parameters()).device.type != "cpu":
        return 16384
    return 1200 if sum(p.numel() for p in model.parameters()) < 5_000_000 else 4096


class BaseDecoder:
    """What both decoders share: the model and how it is called."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.budget = _token_budget(model)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(inner.forward).parameters
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _forward(self, ids: np.ndarray, **kwargs: Any) -> torch.Tensor:
        """Logits [B, vocabulary] at the last position of ids [B, Q]."""
        given = torch.from_numpy(ids).to(self.device)
        return self.model(input_ids=given, **kwargs, **self._keep).logits[:, -1].float()


class PlainDecoder(BaseDecoder):
    """Encodes every sequence from its first token, at every step."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._ids: list[np.ndarray] = []

    def rows_for(self, length: int) -> int:
        return 1_000_000

    def begin(self, keys: Sequence[str], prompts: Sequence[np.ndarray]) -> None:
        self._ids = [np.asarray(p, np.int64) for p in prompts]

    def logits(self, which: Sequence[int], new: Sequence[Sequence[int]]) -> torch.Tensor:
        for i, tokens in zip(which, new, strict=True):
            if len(tokens):
                self._ids[i] = np.concatenate([self._ids[i], np.asarray(tokens, np.int64)])
        lengths = np.array([len(self._ids[i]) for i in which])
        out: torch.Tensor | None = None
        for batch in batches(lengths, self.budget):
            longest = int(lengths[batch].max())
            ids = np.zeros((len(batch), longest), np.int64)
            mask = np.zeros((len(batch), longest), np.int64)
            for row, j in enumerate(batch):
                ids[row, longest - lengths[j] :] = self._ids[which[j]]
                mask[row, longest - lengths[j] :] = 1
            kwargs: dict[str, Any] = {"use_cache": False}
            if not mask.all():
                kwargs["attention_mask"] = torch.from_numpy(mask).to(self.device)
                if self._positions:
                    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
                    kwargs["position_ids"] = torch.from_numpy(positions).to(self.device)
            logits = self._forward(ids, **kwargs)
            if out is None:
                out = logits.new_empty(len(which), logits.shape[1])
            out[torch.from_numpy(batch).to(out.device)] = logits
        if out is None:
            raise ValueError("no sequences given")
        return out

    def end(self) -> None:
        self._ids = []

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept between batches."""

    def clear(self) -> None:
        self._ids = []
