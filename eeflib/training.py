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

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from eeflib.config import BACKENDS, TrainConfig
from eeflib.errors import DataError
from eeflib.masking import EncodedSet
from eeflib.policies.loading import check_weights
from eeflib.records import content_hash

__all__ = ["TrainResult", "train"]

log = logging.getLogger(__name__)

CARD = "eef_adapter.json"
"""The file that describes a trained folder: `base`, `base_fingerprint`, `method`, `backend`,
`config`, and the hashes of its `weights`."""


@dataclass(frozen=True)
class TrainResult:
    """What a training gave."""

    output_dir: Path
    """Adapter (lora) or whole model (full) as safetensors, tokenizer, `eef_adapter.json`."""
    method: str
    backend: str
    steps: int
    """Optimiser steps."""
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
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else float("nan")


def train(
    base: str | Path | tuple[Any, Any],
    data: EncodedSet,
    config: TrainConfig,
    output_dir: str | Path,
    *,
    backend: Literal["peft", "unsloth"] = "peft",
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
        backend: `unsloth` runs in a process of its own, because importing it patches transformers.
        progress: show a progress bar.

    Raises:
        DataError: nothing to train on, a sample over `config.max_length`, a folder that is not
            ours in the way, a loss that is not finite, a full disk, or a finished training whose
            weights were changed since.
        PrerequisiteError: unsloth, bitsandbytes or a GPU is asked for and missing.
    """
    if backend not in BACKENDS:
        raise DataError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    _check(data, config)
    output = Path(output_dir)
    _check_output(output)
    if backend == "unsloth":
        from eeflib.unsloth_process import train_unsloth

        result = train_unsloth(base, data, config, output, progress=progress)
    else:
        result = _train_peft(base, data, config, output, progress)
    log.info("trained %s: %d steps, %.0f tokens/s", output, result.steps, result.tokens_per_second)
    return result


def _train_peft(
    base: Any, data: EncodedSet, config: TrainConfig, output: Path, progress: bool
) -> TrainResult:
    import torch

    from eeflib import optimise

    device = optimise.pick_device(config.device)
    config = replace(config, dtype=optimise.pick_dtype(config.dtype, device))  # type: ignore[arg-type]
    owned = not isinstance(base, tuple)
    model, tokenizer = (
        base if isinstance(base, tuple) else optimise.load_base(str(base), config, device)
    )
    card = make_card(base, model, data, config, "peft")
    done = finished(output, card)
    if done is not None:
        return done
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed)
        with optimise.trainable(model, config, device, owned=owned) as ready:
            sample = torch.from_numpy(data.items[0].input_ids[None, :64].astype("int64"))
            loss_function = optimise.choose_loss(ready, sample.to(device))
            return run(
                ready, tokenizer, data, config, output, card, loss_function, progress=progress
            )


def run(
    model: Any,
    tokenizer: Any,
    data: EncodedSet,
    config: TrainConfig,
    output: Path,
    card: dict[str, Any],
    loss_function: Any,
    *,
    progress: bool = True,
    on_step: Any = None,
) -> TrainResult:
    """Optimise a trainable `model` and publish it: what both backends end in."""
    import torch

    from eeflib import optimise

    device = next(p for p in model.parameters() if p.requires_grad).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    work = _work_dir(output)
    with tqdm(desc="train", unit="step", disable=not progress) as bar:

        def report(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(step - bar.n)
            if on_step is not None:
                on_step(step, steps, loss)

        state = optimise.optimise(
            model,
            data,
            config,
            loss_function=loss_function,
            pad_id=optimise.pad_id(tokenizer),
            job=card["job"],
            work_dir=work,
            on_step=report,
        )
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    log_text = {
        "losses": state.losses,
        "tokens": state.tokens,
        "trained_tokens": state.trained_tokens,
    }
    times = {"seconds": state.seconds, "peak_memory_bytes": peak}
    with optimise.saving(output):
        final.mkdir(parents=True)
        optimise.write_model(model, tokenizer, final, card)
        (final / "training_log.json").write_text(json.dumps(log_text) + "\n", "utf-8")
        # the one file that differs between equal trainings
        (final / "timing.json").write_text(json.dumps(times) + "\n", "utf-8")
        _publish(final, output, work)
    result = finished(output, card)
    assert result is not None, output
    return replace(result, resumed_at=state.resumed_at, reused=False)


def make_card(
    base: Any, model: Any, data: EncodedSet, config: TrainConfig, backend: str
) -> dict[str, Any]:
    """The content of `eef_adapter.json`; `job` identifies the training."""
    from eeflib.optimise import base_fingerprint, start_fingerprint

    fingerprint = base_fingerprint(model)
    name = getattr(base[0].config, "name_or_path", "") if isinstance(base, tuple) else str(base)
    card = {
        "schema": 1,
        "base": name,
        "base_fingerprint": fingerprint,
        "start": start_fingerprint(model),
        "method": config.method,
        "backend": backend,
        "config": config.to_dict(),
        "data": data.hash,
        "samples": len(data),
    }
    noted = {**card, "config": {**config.to_dict(), "checkpoint_seconds": None}}
    if fingerprint:  # the weights identify the base, in whichever folder they are
        noted["base"] = None
    return {**card, "job": content_hash(noted)}


def finished(output: Path, card: dict[str, Any]) -> TrainResult | None:
    """The result in `output` if it is of this very training, else None.

    Raises:
        DataError: it is, but its weights were changed or cut since.
    """
    try:
        found = json.loads((output / CARD).read_text("utf-8"))
        log_file = json.loads((output / "training_log.json").read_text("utf-8"))
        times = json.loads((output / "timing.json").read_text("utf-8"))
        if found["job"] != card["job"]:
            return None
        result = TrainResult(
            output_dir=output,
            method=found["method"],
            backend=found["backend"],
            steps=len(log_file["losses"]),
            losses=tuple(log_file["losses"]),
            tokens=log_file["tokens"],
            trained_tokens=log_file["trained_tokens"],
            reused=True,
            **times,
        )
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
        if item.trained_tokens == 0:
            raise DataError(f"sample {item.sample_id!r} trains no token; encode the samples again")
        if config.max_length is not None and item.length > config.max_length:
            raise DataError(
                f"sample {item.sample_id!r} has {item.length} tokens, more than "
                f"TrainConfig.max_length = {config.max_length}; pass the same max_length to "
                "encode_samples, which drops and counts it"
            )


def _check_output(output: Path) -> None:
    """Only a folder that is empty or holds a training may be replaced."""
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / CARD).exists()):
        raise DataError(f"{output} exists and holds no training; choose another output_dir")


def _work_dir(output: Path) -> Path:
    return output.parent / f".{output.name}.partial"


def _publish(final: Path, output: Path, work: Path) -> None:
    """Put the complete folder in its place, then clear up."""
    if output.exists():
        old = work / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
    final.rename(output)
    shutil.rmtree(work, ignore_errors=True)
