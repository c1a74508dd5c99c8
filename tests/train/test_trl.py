"""What is encoded here trains in trl as it does here."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
from test_train import FULL, encoded

from eeflib.batches import steps_between
from eeflib.errors import PrerequisiteError
from eeflib.masking import IGNORE, EncodedSet
from eeflib.policies.loading import load_student
from eeflib.training import train

CONFIG = replace(FULL, learning_rate=1e-3, warmup=0.0, max_steps=6, batch_size=3, accumulation=2)


def losses_of_trl(model, tokenizer, data: EncodedSet, folder, config) -> list[float]:
    """Per step, on the batches that our loop takes, with the same optimiser."""
    from trl import SFTConfig, SFTTrainer

    lengths = [e.length for e in data]
    per_step = config.batch_size * config.accumulation
    plan = steps_between(lengths, per_step, config.seed, 0, config.max_steps)
    order = np.concatenate([*plan])
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(folder),
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            max_grad_norm=config.max_grad_norm,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=data.to_dataset().select(order),
        processing_class=tokenizer,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_trl_has_the_losses_of_our_loop_step_by_step(tmp_path):
    model, tokenizer = load_student("tiny", device="cpu")
    data = encoded(tokenizer)
    ours = train((model, tokenizer), data, CONFIG, tmp_path / "ours", progress=False)
    theirs = losses_of_trl(model, tokenizer, data, tmp_path / "trl", CONFIG)
    assert theirs == pytest.approx(ours.losses, rel=1e-5)
    assert theirs[-1] < 0.9 * theirs[0]


def test_a_row_of_the_dataset_is_a_sample():
    data = encoded(tiny_models.tokenizer("chatml"))
    rows = data.to_dataset()
    assert len(rows) == len(data)
    for row, item in itertools.islice(zip(rows, data, strict=True), 5):
        assert row["input_ids"] == item.input_ids.tolist()
        assert row["labels"] == item.labels.tolist()
        assert row["attention_mask"] == [1] * item.length
        assert row["sample_id"] == item.sample_id
        assert sum(label != IGNORE for label in row["labels"]) == item.trained_tokens


def test_a_missing_datasets_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PrerequisiteError, match="pip install datasets"):
        EncodedSet(()).to_dataset()
