"""Supervised fine-tuning on encoded samples: peft or Unsloth behind one call.

Import `train` from here. It makes the checks and sees that an output folder is complete or absent.
One loop (`eeflib.optimise`) serves the tiny student on a CPU and a real model on a GPU; the
backends differ in how the model is loaded and what computes the loss.

The loss is the mean over the trained tokens of an optimiser step, so a sample weighs as much as it
has trained tokens, however it was batched. Equal settings, data and base give equal bytes on a CPU
(with equal thread counts). A killed training continues from its last checkpoint when called again,
and a complete one is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eeflib.config import BACKENDS, TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import EncodedSet
from eeflib.policies.hardware import decide, sizes_of
from eeflib.policies.loading import (
    CARD,
    check_weights,
    comparable,
    holds_training,
    model_fingerprint,
)
from eeflib.records import content_hash

log = logging.getLogger(__name__)

LORA_SETTINGS = ("rank", "alpha", "dropout", "target_modules")
"""Settings that make no difference to a training of all weights."""


@dataclass(frozen=True)
class TrainResult:
    """What a training gave."""

    output_dir: Path
    """Adapter (lora) or whole model (full) as safetensors, tokenizer, `eef_adapter.json`."""
    losses: tuple[float, ...]
    """Per optimiser step, before it: mean negative log-likelihood (nats) per trained token."""
    tokens: int
    """Tokens processed, padding not counted."""
    trained_tokens: int
    """Tokens that carried loss, over all steps."""
    seconds: float
    """Wall-clock time of the loop, over all parts of an interrupted training."""
    peak_memory_bytes: int | None
    """Of the GPU; None on a CPU."""
    resumed_at: int = 0
    """Step this call went on from; 0 if it started afresh."""
    reused: bool = False
    """The very same training was already there, complete."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.losses)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else float("nan")


def train(
    base: str | Path | tuple[Any, Any],
    data: EncodedSet,
    config: TrainConfig,
    output_dir: str | Path,
    *,
    backend: Literal["peft", "unsloth"] = "peft",
    report_to: str | None = None,
    progress: bool = True,
) -> TrainResult:
    """Fine-tune `base` on `data` and write the result to `output_dir`.

    Args:
        base: (model, tokenizer), left unchanged; or a name, folder or hub name as
            `eeflib.policies.loading.load_student` takes it (less memory for a large model). One
            with an adapter goes on from there.
        data: from `eeflib.masking.encode_samples`.
        output_dir: created, or replaced if it holds an earlier training. Work in progress lives
            in a hidden folder beside it and is removed at the end.
        backend: `unsloth` loads the base by itself. Importing it patches transformers for the
            rest of the process; where you use both, import unsloth first.
        report_to: a tracker that accelerate knows, such as `trackio` or `wandb`: it gets the
            settings, and loss, gradient norm and learning rate of each step. No effect on results.
        progress: show a progress bar.

    Raises:
        DataError: nothing to train on, a sample over `config.max_length`, a folder that is not
            ours in the way, a loss that is not finite, a full disk, or a finished training whose
            weights were changed since.
        PrerequisiteError: unsloth, bitsandbytes, a tracker or a GPU is asked for and missing.
    """
    if backend not in BACKENDS:
        raise DataError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    _check(data, config)
    output = Path(output_dir)
    if output.exists() and not holds_training(output):
        raise DataError(f"{output} exists and holds no training; choose another output_dir")

    import torch

    from eeflib import optimise

    longest = max(e.length for e in data)
    held = 0
    if isinstance(base, tuple):
        config = replace(config, load_in_4bit=bool(getattr(base[0], "is_quantized", False)))
        held = base[0].get_memory_footprint()
    plan = decide(config, sizes_of(base), longest=longest, held=held)
    log.info("training on %s", plan)
    config, device = plan.training, torch.device(plan.device)
    if backend == "unsloth":
        model, tokenizer = optimise.load_unsloth(base, config, longest)
    else:
        model, tokenizer = optimise.load_base(base, plan)
    card = _card(base, model, data, config, backend)
    done = _finished(output, card)
    if done is not None:
        return done
    work = output.parent / f".{output.name}.partial"
    owned, unsloth = not isinstance(base, tuple), backend == "unsloth"
    with (
        _tracker(report_to, config, output.parent) as report,
        optimise.trainable(model, config, device, owned=owned, unsloth=unsloth) as ready,
    ):
        resumed_at = 0
        if data.paired:
            from eeflib.preference import optimise_pairs

            told: dict[str, Any] = {"report": report, "progress": progress}
            state = optimise_pairs(ready, tokenizer, data, config, **told)
        else:
            state, resumed_at = optimise.optimise(
                ready,
                data,
                config,
                job=card["job"],
                checkpoint=work / "checkpoint.safetensors",
                fused_loss=unsloth,
                report=report,
                progress=progress,
            )
        optimise.publish(ready, tokenizer, card, state, output, work)
    result = _finished(output, card)
    assert result is not None, output
    log.info("trained %s: %d steps, %.0f tokens/s", output, result.steps, result.tokens_per_second)
    return replace(result, resumed_at=resumed_at, reused=False)


@contextmanager
def _tracker(name: str | None, config: TrainConfig, folder: Path) -> Iterator[Any]:
    """The `log` of accelerate's tracker `name`; one that writes files does so in `folder`."""
    if name is None:
        yield None
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    PartialState()  # accelerate logs through it
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise DataError(f"unknown tracker {name!r} in report_to; choose one of {known}")
    if not filter_trackers([name], str(folder)):
        raise PrerequisiteError(f"report_to={name!r} needs its package: pip install {name}")
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
    tracker = kind("eeflib", **place)
    tracker.start()
    tracker.store_init_configuration(config.to_dict())
    try:
        yield tracker.log
    finally:
        tracker.finish()


def _card(
    base: Any, model: Any, data: EncodedSet, config: TrainConfig, backend: str
) -> dict[str, Any]:
    """The content of `eef_adapter.json`; `job` identifies the training."""
    fingerprint = model_fingerprint(model) if comparable(model) else ""
    name = getattr(base[0].config, "name_or_path", "") if isinstance(base, tuple) else str(base)
    digest = hashlib.sha256()
    adapter = sorted((n, p) for n, p in model.named_parameters() if "lora_" in n)
    for key, parameter in adapter:
        digest.update(key.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    card = {
        "schema": 1,
        "base": name,
        "base_fingerprint": fingerprint,
        # the adapter that the training goes on from
        "start": digest.hexdigest()[:16] if adapter else "",
        "method": config.method,
        "backend": backend,
        "config": config.to_dict(),
        "data": data.hash,
        "samples": len(data),
        # absent where they say nothing, so that earlier trainings keep their name
        **({"loss": "preference"} if data.paired else {}),
        **({"hint": data.hint} if data.hint else {}),
    }
    # how a step is cut up by memory, and when it is saved, are no part of it
    step = config.batch_size * config.accumulation
    same = {"batch_size": step, "accumulation": 1, "gradient_checkpointing": None}
    settings = {**config.to_dict(), **same, "checkpoint_seconds": None}
    for name in ("packing", *(LORA_SETTINGS if config.method == "full" else ())):
        settings.pop(name)
    noted = {**card, "config": settings, "packing": config.packing or None}
    if fingerprint:  # the weights identify the base, in whichever folder they are
        noted["base"] = None
    return {**card, "job": content_hash(noted)}


def _finished(output: Path, card: dict[str, Any]) -> TrainResult | None:
    """The result in `output` if it is of this very training, else None.

    Raises:
        DataError: it is, but its weights were changed or cut since.
    """
    try:
        found, noted, times = (
            json.loads((output / name).read_text("utf-8"))
            for name in (CARD, "training_log.json", "timing.json")
        )
        if found["job"] != card["job"]:
            return None
        noted["losses"] = tuple(noted["losses"])
        result = TrainResult(output, **noted, **times, reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    check_weights(output)
    return result


def _check(data: EncodedSet, config: TrainConfig) -> None:
    if not len(data):
        why = "; ".join(f"{k}: {n}" for k, n in data.counts.items() if k.startswith("dropped"))
        raise DataError(
            "nothing to train on: the set holds no sample"
            + (f" ({why}; raise max_length)" if why else " (no solved trajectory, no positives)")
            + "; collect more or easier tasks, use a better teacher, or more roll-outs per state"
        )
    for item in data:
        if config.max_length is not None and item.length > config.max_length:
            raise DataError(
                f"sample {item.sample_id!r} has {item.length} tokens, more than "
                f"TrainConfig.max_length = {config.max_length}; pass the same max_length to "
                "encode_samples, which drops and counts it"
            )
