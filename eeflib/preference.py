"""Training on pairs by preference: trl's DPOTrainer on our tokens and loss masks.

Import `optimise_pairs` from here; `eeflib.training` calls it for an `EncodedSet` of pairs. The loss
is DPO's (arXiv 2305.18290): of the two sequences of a pair only the trained tokens count, so pages
and the teacher's steps are context here, too. ETO (arXiv 2403.02502) does the same with whole
trajectories. [ours] `RATE`.
"""

from __future__ import annotations

import copy
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from eeflib.batches import padded, plain_model
from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import IGNORE, EncodedSet
from eeflib.optimise import Progress, memory

BETA = 0.1
"""How far the student may go from where it starts: DPO's beta, and ETO's."""
RATE = 0.3
"""Of `TrainConfig.learning_rate`; chosen, among 0.1, 0.3 and 1, on development seed 100."""
PASSES = 3
"""Over the pairs, at most, as in ETO's code: more drive both ways of a pair away."""


def optimise_pairs(
    model: Any,
    tokenizer: Any,
    data: EncodedSet,
    config: TrainConfig,
    *,
    report: Callable[[dict[str, float], int], None] | None = None,
    progress: bool = False,
) -> Progress:
    """Train `model` in place on the pairs of `data`; the student it starts as is the reference.

    A step holds `config.batch_size` x `config.accumulation` pairs, and there are at most `PASSES`
    over all of them, whatever `config.epochs`. A killed training starts again.

    Args:
        config: with `dtype` resolved.
        report: called with the figures of each step and its number.

    Raises:
        PrerequisiteError: trl or datasets is not installed, or too old.
        DataError: a loss is not finite, or memory runs out.
    """
    try:
        from datasets import Dataset
        from transformers import PrinterCallback, TrainerCallback
        from trl import DPOConfig, DPOTrainer
    except ImportError as exc:
        raise PrerequisiteError(
            f'training on pairs needs trl >= 1.16 ({exc}): pip install "eeflib[trl]"'
        ) from exc

    class Pairs(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # it is tokenised already

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            bar.total = state.max_steps
            bar.update()
            if report is not None:
                report(logs, state.global_step - 1)

    def collate(rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """The chosen ones of all pairs, then the rejected ones."""
        batch = padded([data.items[2 * row["pair"] + side] for side in (0, 1) for row in rows])
        batch["completion_mask"] = (batch.pop("labels") != IGNORE).long()
        return batch

    pairs = len(data) // 2
    per_step = config.batch_size * config.accumulation
    most = PASSES * math.ceil(pairs / per_step)
    device = next(model.parameters()).device
    # on a CPU padding costs more than a larger batch saves
    at_once = 1 if device.type == "cpu" else min(config.batch_size, pairs)
    plain = plain_model(model)
    own_forward = "forward" in vars(plain)
    drawn = random.getstate(), np.random.get_state()  # trl seeds both; torch's is the caller's care
    with (
        tempfile.TemporaryDirectory(prefix="eef-pairs-") as folder,
        tqdm(desc="train on pairs", unit="step", disable=not progress) as bar,
        memory(config, device),
    ):
        settings = DPOConfig(
            folder,
            beta=BETA,
            max_length=None,
            learning_rate=RATE * config.learning_rate,
            lr_scheduler_type=config.schedule,
            warmup_steps=config.warmup,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            max_steps=min(config.max_steps or most, most),
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=min(pairs, math.ceil(per_step / at_once)),
            gradient_checkpointing=bool(config.gradient_checkpointing),
            fp16=config.dtype == "float16",
            bf16=config.dtype == "bfloat16",
            use_cpu=device.type == "cpu",
            seed=config.seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Pairs(
            model,
            None if hasattr(model, "peft_config") else copy.deepcopy(model),
            settings,
            collate,
            Dataset.from_dict({"pair": range(pairs)}),
            processing_class=tokenizer,
            callbacks=[Report()],
        )
        trainer.remove_callback(PrinterCallback)
        began = time.monotonic()
        try:
            trainer.train()
        finally:  # what trl has put on the model, which may be a base that others use
            if "ref" in getattr(model, "peft_config", ()):
                model.delete_adapter("ref")
            if not own_forward:
                vars(plain).pop("forward", None)
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    if not all(map(math.isfinite, losses)):
        raise DataError(
            f"the loss is not finite at step {[*map(math.isfinite, losses)].index(False) + 1} of "
            f"{len(losses)}: lower TrainConfig.learning_rate (now {config.learning_rate:g})"
        )
    seen = trainer.state.epoch  # passes over the pairs
    return Progress(
        losses,
        round(seen * sum(e.length for e in data)),
        round(seen * sum(e.trained_tokens for e in data)),
        time.monotonic() - began,
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
