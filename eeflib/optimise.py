"""The training loop, and models made ready for it: loading, adapters, loss, steps, checkpoints.

`eeflib.training` calls these; nothing here knows where samples come from. The order of the data is
a pure function of lengths, settings and seed, so that a resumed training sees what an uninterrupted
one would have seen. A checkpoint is complete or absent, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm

from eeflib.batches import choose_loss, own_loss, packing, padded, placed, steps_between
from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import Encoded, EncodedSet
from eeflib.policies.hardware import Hardware, lengths_vary
from eeflib.policies.loading import (
    import_unsloth,
    load_student,
    replaced,
    saving,
    write_card,
)

log = logging.getLogger(__name__)

LOGS = {
    "training_log.json": ("losses", "tokens", "trained_tokens"),
    "timing.json": ("seconds", "peak_memory_bytes"),
}
"""What of `Progress` is in which file of a trained folder."""

INSTALL = (
    'pip install "eeflib[train]" -c constraints.txt\n'
    "pip install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9 pillow triton"
)


_SCALE = 2.0**16
"""Of the loss in float16, at first."""


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of step 0 <= step < steps: a linear rise over the warm-up, then the schedule's fall."""
    warmup = min(round(config.warmup * steps), steps - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (1 - done if config.schedule == "linear" else 1.0)


@dataclass
class Progress:
    """How far a training is."""

    losses: list[float] = field(default_factory=list)
    """Mean loss of each step so far."""
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


@lengths_vary()
def optimise(
    model: Any,
    data: EncodedSet,
    config: TrainConfig,
    *,
    job: str,
    checkpoint: Path,
    fused_loss: bool = False,
    report: Callable[[dict[str, float], int], None] | None = None,
    progress: bool = False,
) -> tuple[Progress, int]:
    """Train `model` in place: what came of it, and the step it went on from.

    Where memory runs out, the samples of a forward pass are halved once, and the steps stay the
    same. Every checkpoint is one from which a finite loss was seen.

    Args:
        config: with `dtype` resolved.
        job: identifies the training; the file `checkpoint` is gone on from if it is of this job.
        fused_loss: take the model's own loss, see `own_loss`.
        report: called with the figures of each step and its number.
        progress: show a progress bar.

    Raises:
        DataError: the loss is not finite, memory runs out again, or the disk is full.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    device = next(iter(parameters.values())).device
    first = torch.from_numpy(data.items[0].input_ids[None, :64].astype(np.int64)).to(device)
    loss_of = own_loss if fused_loss else choose_loss(model, first)
    groups = [
        {
            "params": [p for p in parameters.values() if (p.ndim >= 2) == matrix],
            "weight_decay": config.weight_decay if matrix else 0.0,
        }
        for matrix in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    lengths = [e.length for e in data]
    per_step = config.batch_size * config.accumulation
    steps = config.max_steps or max(
        1, math.ceil(config.epochs * math.ceil(len(lengths) / per_step) - 1e-9)
    )
    now = load_checkpoint(checkpoint, job, parameters, optimizer)
    start = kept = len(now.losses)
    before = now.seconds
    half = config.dtype != "float32"  # weights may be float32 (full) or the base's 16 bits (LoRA)
    # in float16 small gradients vanish and large ones are infinite: then the step is taken again
    scale = _SCALE if config.dtype == "float16" else 1.0
    at_once = config.batch_size
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = saved_at = time.monotonic()
    plan = steps_between(lengths, per_step, config.seed, start, steps)
    bar = tqdm(plan, "train", steps, unit="step", initial=start, disable=not progress)
    kind = packing(model, data.items) if config.packing else contextlib.nullcontext(padded)
    with memory(config, device), kind as collate:
        model.train()

        def gradient(step: int, samples: Sequence[Encoded], trained: int) -> float:
            """The loss; its gradient is in the parameters."""
            torch.manual_seed(config.seed * 1_000_003 + step)  # dropout; the caller forked the RNG
            total = torch.zeros((), device=device)
            optimizer.zero_grad(set_to_none=True)
            for at in range(0, len(samples), at_once):
                batch = placed(collate(samples[at : at + at_once]), device)
                with torch.autocast(device.type, getattr(torch, config.dtype), enabled=half):
                    loss = loss_of(model, batch) / trained
                (loss * scale).backward()
                total += loss.detach()
            if scale != 1.0:
                for parameter in parameters.values():
                    if parameter.grad is not None:
                        parameter.grad /= scale
            return float(total)

        for step, chosen in enumerate(bar, start):
            samples = [data.items[i] for i in chosen]
            trained = sum(e.trained_tokens for e in samples)
            while True:
                try:
                    loss = gradient(step, samples, trained)
                    break
                except torch.OutOfMemoryError:
                    if at_once < config.batch_size or at_once == 1:
                        raise
                torch.cuda.empty_cache()  # not above, where the error still holds the failed pass
                at_once = (at_once + 1) // 2
                log.warning("out of memory at step %d: %d samples at once now", step + 1, at_once)
            norm = clip_grad_norm_(parameters.values(), config.max_grad_norm or math.inf)
            while scale > 1.0 and math.isfinite(loss) and not math.isfinite(norm):
                scale /= 4
                loss = gradient(step, samples, trained)
                norm = clip_grad_norm_(parameters.values(), config.max_grad_norm or math.inf)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                good = f"; the weights after step {kept} are kept in {checkpoint}" if kept else ""
                raise DataError(
                    f"the loss is {loss} and the gradient's norm {norm:g} at step {step + 1} of "
                    f"{steps}: lower TrainConfig.learning_rate (now {config.learning_rate:g}) or "
                    f"use float32{good}"
                )
            if step > start and time.monotonic() - saved_at >= config.checkpoint_seconds:
                save_checkpoint(checkpoint, job, parameters, optimizer, now)
                saved_at, kept = time.monotonic(), step
            rate = learning_rate(config, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            now.losses.append(loss)
            if report is not None:
                report({"loss": loss, "norm": float(norm), "learning_rate": rate}, step)
            now.tokens += sum(e.length for e in samples)
            now.trained_tokens += trained
            now.seconds = before + time.monotonic() - began
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    if device.type == "cuda":
        now.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
    return now, start


@contextlib.contextmanager
def memory(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Memory that runs out within is a DataError that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise DataError(
            f"out of memory on {device}: lower TrainConfig.batch_size (now {config.batch_size}; "
            "raise accumulation by as much, and the steps stay the same) or max_length, set "
            "gradient_checkpointing=True or load_in_4bit=True, or end what else uses the GPU"
        ) from exc


_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    now: Progress,
) -> None:
    """Replace the file `path` by the present state.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    tensors = {f"param.{n}": p.detach() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{m}.{name}": optimizer.state[parameter][m] for m in _MOMENTS}
    fresh = path.with_suffix(".new")
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            fresh,
            metadata={"job": job, "progress": json.dumps(vars(now))},
        )
        os.replace(fresh, path)


def load_checkpoint(
    path: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore the checkpoint at `path` if it is of this `job`; how far it is."""
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata()
            if notes["job"] != job:
                return Progress()
            now = Progress(**json.loads(notes["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return Progress()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"param.{name}"])
            optimizer.state[parameter] = {
                # the fused AdamW keeps its step counter beside the parameter
                "step": torch.tensor(float(len(now.losses)), device=parameter.device),
                **{m: tensors[f"{m}.{name}"].to(parameter.device) for m in _MOMENTS},
            }
    return now


def load_base(base: Any, plan: Hardware) -> tuple[Any, Any]:
    """(model, tokenizer) of a student name, folder or hub name, in the precision to train in.

    All weights are trained in float32 (an update is smaller than 16 bits can add); under an adapter
    the base may have 16.

    Raises:
        PrerequisiteError: 4 bit is asked for without a GPU or bitsandbytes.
    """
    if isinstance(base, tuple):
        return base
    config = plan.training
    return load_student(
        base,
        device=plan.device,
        dtype=torch.float32 if config.method == "full" else getattr(torch, plan.dtype),
        load_in_4bit=bool(config.load_in_4bit),
    )


def load_unsloth(base: Any, config: TrainConfig, longest: int) -> tuple[Any, Any]:
    """(model, tokenizer) as Unsloth loads them, for sequences of up to `longest` tokens.

    A base in memory and the shipped students are written to a folder first.

    Raises:
        PrerequisiteError: Unsloth is not installed; the message holds the two commands.
        DataError: the base carries an adapter.
    """
    if not import_unsloth():
        raise PrerequisiteError(f"the unsloth backend needs Unsloth; install it with\n{INSTALL}")
    from transformers import AutoTokenizer
    from unsloth import FastLanguageModel

    if base in ("tiny", "smollm2"):
        base = load_student(base)
    if isinstance(base, tuple) and hasattr(base[0], "peft_config"):
        raise DataError(
            "the unsloth backend starts from a base model; this one carries an adapter: give "
            "the base, or go on with backend='peft'"
        )
    full = config.method == "full"
    with tempfile.TemporaryDirectory(prefix="eef-base-") as folder:
        if isinstance(base, tuple):
            with saving(Path(folder)):
                for part in base:
                    part.save_pretrained(folder)
            base = folder
        model, _ = FastLanguageModel.from_pretrained(
            str(base),
            max_seq_length=longest,
            dtype=torch.float32 if full else getattr(torch, config.dtype),
            load_in_4bit=config.load_in_4bit,
            full_finetuning=full,
            trust_remote_code=False,
        )
        # loaded again: Unsloth edits the tokenizer that it returns
        return model, AutoTokenizer.from_pretrained(str(base), trust_remote_code=False)


@contextlib.contextmanager
def trainable(
    model: Any, config: TrainConfig, device: torch.device, *, owned: bool, unsloth: bool = False
) -> Iterator[Any]:
    """A trainable model made from `model`; global randomness is seeded within, and put back.

    `model` is left as it was found: LoRA puts an adapter on it and takes it off again, full
    training works on a copy, unless it is `owned`: nobody else needs it. A model that carries an
    adapter goes on with it (LoRA; its rank stays) or has it merged (full).

    Raises:
        DataError: no layer has one of the `target_modules` names.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        if unsloth:
            yield _unsloth_adapter(model, config)
        elif config.method == "full":
            yield _whole(model if owned else copy.deepcopy(model), config, device)
        else:
            with _adapted(model, config, device) as adapted:
                yield adapted


def _checkpointing(model: Any, config: TrainConfig) -> None:
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _unsloth_adapter(model: Any, config: TrainConfig) -> Any:
    from unsloth import FastLanguageModel

    if config.method == "full":
        return model
    return FastLanguageModel.get_peft_model(
        model,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(config),
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
        random_state=config.seed,
    )


def _targets(config: TrainConfig) -> str | list[str]:
    """As peft and Unsloth take it."""
    names = config.target_modules
    return names if isinstance(names, str) else list(names)


def _whole(model: Any, config: TrainConfig, device: torch.device) -> Any:
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.to(device=device, dtype=torch.float32)
    model.requires_grad_(True)
    _checkpointing(model, config)
    return model


@contextlib.contextmanager
def _adapted(model: Any, config: TrainConfig, device: torch.device) -> Iterator[Any]:
    from peft import LoraConfig, get_peft_model

    home, was_training = model.device, model.training
    adapter = [p for n, p in model.named_parameters() if "lora_" in n]
    before = [p.detach().clone() for p in adapter]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    if not getattr(model, "is_quantized", False):  # which lies on the GPU already
        model.to(device)
    if adapter:
        ready = model
        for parameter in adapter:
            parameter.requires_grad_(True)
    else:
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_targets(config),
            task_type="CAUSAL_LM",
        )
        try:
            ready = get_peft_model(model, lora)
        except ValueError as exc:
            raise DataError(
                f"no adapter fits: {exc}; name layers of this model in TrainConfig.target_modules"
            ) from exc
    _checkpointing(model, config)
    try:
        yield ready
    finally:
        bare: Any = ready if adapter else ready.unload()
        if config.gradient_checkpointing:
            bare.gradient_checkpointing_disable()
        with torch.no_grad():
            for parameter, value in zip(adapter, before, strict=True):
                parameter.copy_(value)
        for parameter, trained in wanted:
            parameter.requires_grad_(trained).grad = None
        bare.train(was_training)
        if not getattr(bare, "is_quantized", False):
            bare.to(home)


def publish(
    model: Any, tokenizer: Any, card: dict[str, Any], state: Progress, output: Path, work: Path
) -> None:
    """Put the complete folder in its place: adapter or model, tokenizer, card and log.

    Equal trainings write equal bytes: sets that libraries write in any order are sorted. The card
    holds the hashes of the weights, which loading compares. `work`, beside it, is removed.
    """
    with replaced(output, work) as final:
        model.save_pretrained(final)
        tokenizer.save_pretrained(final)
        (final / "README.md").unlink(missing_ok=True)  # peft's empty model card
        settings = final / "adapter_config.json"
        if settings.exists():
            data = json.loads(settings.read_text("utf-8"))
            for key in ("target_modules", "modules_to_save"):
                if isinstance(data.get(key), list):
                    data[key] = sorted(data[key])
            # Unsloth was given a copy of the base, in a folder that is gone
            data["base_model_name_or_path"] = card["base"] or None
            settings.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", "utf-8")
        write_card(final, card)
        # timing.json is the one file that differs between equal trainings
        for name, keys in LOGS.items():
            text = json.dumps({key: getattr(state, key) for key in keys})
            (final / name).write_text(text + "\n", "utf-8")
