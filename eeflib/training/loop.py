"""The optimisation loop: one for the tiny student on a CPU and for a real model on a GPU.

Owns AdamW, schedule, accumulation, clipping and resuming. Knows nothing about how the model was
loaded or what becomes of it. A plain loop rather than transformers' Trainer, because the tiny
student is trained dozens of times per run: no workers, no callbacks, batches from memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eeflib.encoded import EncodedSet
from eeflib.errors import DataError
from eeflib.training.batches import collate, step_batches, total_steps
from eeflib.training.checkpoint import load_checkpoint, save_checkpoint
from eeflib.training.config import TrainConfig
from eeflib.training.loss import LossFunction

__all__ = ["Progress", "learning_rate", "optimise"]


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    resumed_at: int = 0


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of step 0 <= step < steps: a linear rise over the warm-up, then the schedule's fall."""
    warmup = min(round(config.warmup * steps), steps - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (1 - done if config.schedule == "linear" else 1.0)


def optimise(
    model: Any,
    data: EncodedSet,
    config: TrainConfig,
    *,
    loss_function: LossFunction,
    pad_id: int,
    job: str,
    work_dir: Path,
    on_step: Callable[[int, int, float], None],
) -> Progress:
    """Train `model` in place; goes on from a checkpoint of the same `job` in `work_dir`.

    Args:
        config: with `dtype` resolved to float32 or bfloat16.
        on_step: called after each step with (steps done, steps in all, loss).

    Raises:
        DataError: the loss is not finite.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = _adamw(parameters, config)
    lengths = [e.length for e in data]
    steps = total_steps(
        len(lengths), config.batch_size * config.accumulation, config.epochs, config.max_steps
    )
    saved = load_checkpoint(work_dir, job, parameters, optimizer)
    now = Progress(**saved, resumed_at=saved["step"]) if saved else Progress()
    model.train()
    began = saved_at = time.monotonic()
    before = now.seconds
    plan = step_batches(
        lengths, config.batch_size, config.accumulation, config.seed, now.step, steps
    )
    for batches in plan:
        torch.manual_seed(config.seed * 1_000_003 + now.step)  # dropout; the caller forked the RNG
        rate = learning_rate(config, now.step, steps)
        loss, tokens, trained = _step(
            model, data, batches, parameters, optimizer, rate, config, loss_function, pad_id
        )
        if not math.isfinite(loss):
            raise DataError(
                f"the loss is {loss} at step {now.step + 1} of {steps}; lower "
                f"TrainConfig.learning_rate (now {config.learning_rate:g}) or use float32"
            )
        now.step += 1
        now.losses.append(loss)
        now.tokens += tokens
        now.trained_tokens += trained
        now.seconds = before + time.monotonic() - began
        on_step(now.step, steps, loss)
        if now.step < steps and time.monotonic() - saved_at >= config.checkpoint_seconds:
            state = {k: v for k, v in vars(now).items() if k != "resumed_at"}
            save_checkpoint(work_dir, job, parameters, optimizer, state)
            saved_at = time.monotonic()
    return now


def _step(
    model: Any,
    data: EncodedSet,
    batches: list[Any],
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: TrainConfig,
    loss_function: LossFunction,
    pad_id: int,
) -> tuple[float, int, int]:
    """One optimiser step: (mean loss per trained token, tokens, trained tokens)."""
    chosen = [[data.items[i] for i in batch] for batch in batches]
    trained = sum(e.trained_tokens for batch in chosen for e in batch)
    device = next(iter(parameters.values())).device
    cast = config.dtype == "bfloat16"  # weights may be float32 (full) or bfloat16 (adapter's base)
    total = torch.zeros((), device=device)
    optimizer.zero_grad(set_to_none=True)
    for batch in chosen:
        ids, labels, mask = (torch.from_numpy(a).to(device) for a in collate(batch, pad_id))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cast):
            loss = loss_function(model, ids, labels, mask) / trained
        loss.backward()
        total += loss.detach()
    if config.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(total), sum(e.length for batch in chosen for e in batch), trained


def _adamw(parameters: dict[str, torch.nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, fused=True
    )
