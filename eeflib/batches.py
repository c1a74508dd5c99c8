"""What goes through a model at once in training: which samples, in one tensor, and their loss.

A forward pass holds its samples in one of two ways. Padded: a row each, filled up on the right.
Packed: one row with all of them end to end, where positions start anew with each sample and no
sample attends to another. Both give the same loss.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from eeflib.masking import IGNORE, Encoded

log = logging.getLogger(__name__)

_WINDOW = 8
"""Steps whose samples are sorted by length together: little padding, yet shuffled."""

Batch = dict[str, Any]
"""Arguments of a model's forward pass, and `labels`."""


def epoch_steps(lengths: Sequence[int], per_step: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's steps in order: indices of the samples of each, longest first.

    Every sample occurs once. Samples of similar length share a step, as far as `_WINDOW` steps of
    a random order allow.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    size = np.asarray(lengths)
    steps = []
    for at in range(0, len(order), per_step * _WINDOW):
        window = order[at : at + per_step * _WINDOW]
        window = window[np.argsort(-size[window], kind="stable")]
        steps += [window[i : i + per_step] for i in range(0, len(window), per_step)]
    return [steps[i] for i in rng.permutation(len(steps))]


def steps_between(
    lengths: Sequence[int], per_step: int, seed: int, start: int, stop: int
) -> Iterator[np.ndarray]:
    """For steps start..stop-1 the indices of their samples, at most `per_step`, longest first."""
    per_epoch = -(-len(lengths) // per_step)
    epoch, steps = -1, []
    for number in range(start, stop):
        if number // per_epoch != epoch:
            epoch = number // per_epoch
            steps = epoch_steps(lengths, per_step, seed, epoch)
        yield steps[number % per_epoch]


def padded(items: Sequence[Encoded]) -> Batch:
    """(B, L) int64 `input_ids`, `labels` and `attention_mask`; L is the longest of the batch.

    Padding is on the right, has no loss, and nothing attends to it: any id will do.
    """
    shape = (len(items), max(e.length for e in items))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    for row, item in enumerate(items):
        ids[row, : item.length] = item.input_ids
        labels[row, : item.length] = item.labels
        mask[row, : item.length] = 1
    arrays = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def packed(items: Sequence[Encoded]) -> Batch:
    """(1, N) int64 `input_ids`, `labels`, `position_ids`; `sample_lengths`, whose sum is N.

    The first token of a sample has no loss: nothing before it is its own.
    """
    ids = np.concatenate([e.input_ids for e in items]).astype(np.int64)
    labels = np.concatenate([np.r_[IGNORE, e.labels[1:]] for e in items]).astype(np.int64)
    positions = np.concatenate([np.arange(e.length) for e in items])
    arrays = {"input_ids": ids, "labels": labels, "position_ids": positions}
    batch: Batch = {name: torch.from_numpy(array)[None] for name, array in arrays.items()}
    return {**batch, "sample_lengths": [e.length for e in items]}


def placed(batch: Batch, device: torch.device) -> Batch:
    """`batch` with its tensors on `device`."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def lean_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Sum over the trained tokens of a batch, in nats; only they go through the vocabulary layer.
    Padding is on the right, so a causal model needs no mask."""
    plain = plain_model(model)
    hidden, labels = _hidden(plain, batch), batch["labels"]
    wanted = labels[:, 1:] != IGNORE
    logits = plain.get_output_embeddings()(hidden[:, :-1][wanted])
    return cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum")


def own_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The same by the model's own loss (a mean): right for every architecture; Unsloth fuses it
    with the vocabulary layer."""
    loss = model(**batch, use_cache=False).loss
    return loss.float() * (batch["labels"][:, 1:] != IGNORE).sum()


def choose_loss(model: Any, ids: torch.Tensor) -> Any:
    """`lean_loss` if it gives the model's own logits on `ids` (1, n), else `own_loss`.

    Architectures that scale or cap their logits after the vocabulary layer fail the comparison.
    """
    plain = plain_model(model)
    head = plain.get_output_embeddings()
    capped = getattr(plain.config.get_text_config(), "final_logit_softcapping", None)
    if head is None or capped or plain.base_model is plain:
        return own_loss
    model.eval()
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits.float()
        lean = head(plain.base_model(input_ids=ids, use_cache=False)[0]).float()
    tolerance = _tolerance(head.weight)
    same = own.shape == lean.shape and torch.allclose(own, lean, rtol=tolerance, atol=tolerance)
    return lean_loss if same else own_loss


@contextlib.contextmanager
def packing(model: Any, items: Sequence[Encoded]) -> Iterator[Callable[..., Batch]]:
    """`packed` while the model attends within samples only, or `padded` where it cannot.

    transformers' own way to keep packed samples apart needs flash attention; its mask for other
    kernels costs time and memory that grow with the square of the row. Here a kernel that needs
    no mask sees one sample after another. Whether that is exact is tried on two of `items`: a
    sample must come out beside another as it does alone. What fails (attention of another form,
    recurrent layers) is padded, and the log says so once.
    """
    plain = plain_model(model)
    before = getattr(plain.config, "_attn_implementation", None)
    pair = [min(items, key=lambda e: e.length), max(items, key=lambda e: e.length)]
    plain.eval()
    with torch.no_grad():
        alone = _hidden(plain, placed(padded(pair[1:]), plain.device))[0]
    try:
        if before == "sdpa":
            AttentionInterface.register(_APART, _attend_apart)
            plain.set_attn_implementation(_APART)
        exact = (before == "sdpa" or "flash" in str(before)) and _packs(plain, pair, alone)
        if not exact:
            log.warning("%s cannot pack samples exactly: they are padded", type(plain).__name__)
        yield packed if exact else padded
    finally:
        if before == "sdpa":
            plain.set_attn_implementation(before)


_APART = "eeflib_packed"
"""Name of `_attend_apart` among transformers' kinds of attention."""


def _attend_apart(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    sample_lengths: Sequence[int] = (),
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa attention of each sample of a row on its own."""
    lengths = list(sample_lengths) or [query.shape[2]]
    found = []
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        band = None
        if sliding_window and q.shape[2] > sliding_window:
            at = torch.arange(q.shape[2], device=q.device)
            back = at[:, None] - at
            band = ((back >= 0) & (back < sliding_window))[None, None]
        found.append(sdpa_attention_forward(module, q, k, v, band, **options)[0])
    return torch.cat(found, dim=1), None


def _packs(plain: Any, pair: Sequence[Encoded], alone: torch.Tensor) -> bool:
    """Whether the second of `pair` has the states `alone` (n, d) beside the first, too."""
    with torch.no_grad():
        try:
            row = _hidden(plain, placed(packed(pair), plain.device))[0]
        except (TypeError, ValueError):  # it takes no positions
            return False
    off = row[pair[0].length :].float() - alone.float()
    return bool(off.norm() < _tolerance(alone) * alone.float().norm())


def _hidden(plain: Any, batch: Batch) -> torch.Tensor:
    """(B, L, d) states that the vocabulary layer reads."""
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "attention_mask")}
    states: torch.Tensor = plain.base_model(**inputs, use_cache=False)[0]
    return states


def _tolerance(tensor: torch.Tensor) -> float:
    return 1e-2 if tensor.dtype in (torch.bfloat16, torch.float16) else 1e-4


def plain_model(model: Any) -> Any:
    """The transformers model inside a peft wrapper; its layers hold the adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
