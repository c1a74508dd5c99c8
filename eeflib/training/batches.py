"""Which samples each optimiser step sees, and in which shape.

Owns the order of the data: a pure function of lengths, settings and seed, so that a resumed
training sees what an uninterrupted one would have seen. Knows nothing about models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from eeflib.encoded import IGNORE, Encoded

__all__ = ["collate", "epoch_steps", "step_batches", "total_steps"]

_WINDOW = 8
"""Steps whose samples are sorted by length together: little padding, yet shuffled."""


def total_steps(samples: int, per_step: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a training."""
    if max_steps is not None:
        return max_steps
    return max(1, math.ceil(epochs * math.ceil(samples / per_step) - 1e-9))


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


def step_batches(
    lengths: Sequence[int], batch_size: int, accumulation: int, seed: int, start: int, stop: int
) -> Iterator[list[np.ndarray]]:
    """For steps start..stop-1 their forward passes: arrays of at most `batch_size` indices."""
    per_step = batch_size * accumulation
    per_epoch = math.ceil(len(lengths) / per_step)
    epoch, steps = -1, []
    for number in range(start, stop):
        if number // per_epoch != epoch:
            epoch = number // per_epoch
            steps = epoch_steps(lengths, per_step, seed, epoch)
        chosen = steps[number % per_epoch]
        yield [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]


def collate(items: Sequence[Encoded], pad_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-padded (B, L) int64 ids, labels and attention mask; L is the longest of the batch."""
    shape = (len(items), max(e.length for e in items))
    ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, item in enumerate(items):
        ids[row, : item.length] = item.input_ids
        labels[row, : item.length] = item.labels
        mask[row, : item.length] = 1
    return ids, labels, mask
