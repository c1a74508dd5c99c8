"""Summed negative log-likelihood of the trained tokens of a batch: three ways to the same number.

Owns the lean path: only the hidden states before trained tokens go through the vocabulary layer
(an episode trains a few per cent of its tokens). Knows nothing about data or optimisers.

The lean path needs no attention mask: padding stands on the right and attention is causal, so no
real token sees it, and torch's faster mask-free kernel applies. It is used only after its logits
were compared with the model's own.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from eeflib.encoded import IGNORE

__all__ = ["LossFunction", "choose_loss", "full_loss", "lean_loss", "own_loss"]

log = logging.getLogger(__name__)


class LossFunction(Protocol):
    def __call__(
        self, model: Any, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the trained tokens of a (B, L) batch, in nats; float32 scalar."""
        ...


def lean_loss(
    model: Any, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    hidden = _hidden(model, ids)
    wanted = labels[:, 1:] != IGNORE
    logits = _plain(model).get_output_embeddings()(hidden[:, :-1][wanted])
    return cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum")


def full_loss(
    model: Any, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """By the model's own logits: right for every architecture."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    wanted = labels[:, 1:] != IGNORE
    return cross_entropy(logits[:, :-1][wanted].float(), labels[:, 1:][wanted], reduction="sum")


def own_loss(
    model: Any, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """By the model's own loss (a mean): Unsloth fuses it with the vocabulary layer."""
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    return loss.float() * (labels[:, 1:] != IGNORE).sum()


def choose_loss(model: Any, ids: torch.Tensor) -> LossFunction:
    """`lean_loss` if it gives the model's own logits on `ids` (1, n), else `full_loss`.

    Architectures that scale or cap their logits after the vocabulary layer fail the comparison.
    """
    plain = _plain(model)
    head = plain.get_output_embeddings()
    capped = getattr(plain.config.get_text_config(), "final_logit_softcapping", None)
    if head is None or capped or plain.base_model is plain:
        return full_loss
    was_training = model.training
    model.eval()
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits.float()
        lean = head(_hidden(model, ids)).float()
    model.train(was_training)
    tolerance = 1e-2 if head.weight.dtype in (torch.bfloat16, torch.float16) else 1e-4
    if own.shape == lean.shape and torch.allclose(own, lean, rtol=tolerance, atol=tolerance):
        return lean_loss
    log.warning("%s post-processes its logits; training takes the slower full path", type(plain))
    return full_loss


def _hidden(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return _plain(model).base_model(input_ids=ids, use_cache=False)[0]


def _plain(model: Any) -> Any:
    """The transformers model inside a peft wrapper; its layers hold the adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
