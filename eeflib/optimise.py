"""The training loop: batches in a seeded order, loss over trained tokens, steps, checkpoints.

`eeflib.training` calls `optimise`; nothing here knows where samples come from. The order of the
data is a pure function of lengths, settings and seed, so that a resumed training sees what an
uninterrupted one would have seen. A checkpoint is complete or absent, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import IGNORE, Encoded, EncodedSet

__all__ = [
    "base_fingerprint",
    "choose_loss",
    "collate",
    "epoch_steps",
    "full_loss",
    "lean_loss",
    "learning_rate",
    "load_base",
    "optimise",
    "own_loss",
    "pad_id",
    "pick_device",
    "pick_dtype",
    "start_fingerprint",
    "step_batches",
    "trainable",
    "write_model",
]

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


_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write `folder/step-N` (N = progress["step"]) and remove older ones.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    tensors = {f"param.{n}": p.detach().cpu().contiguous() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors.update({f"{m}.{name}": state[m].cpu().contiguous() for m in _MOMENTS})
    target = folder / f"step-{progress['step']:08d}"
    fresh = folder / f"new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    with saving(fresh / "state.safetensors"):
        fresh.mkdir(parents=True)
        save_file(tensors, fresh / "state.safetensors")
        (fresh / "progress.json").write_text(json.dumps({"job": job, **progress}), "utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    for old in folder.glob("*-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Restore the newest checkpoint of this `job`; its progress, or None if there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            progress = json.loads((path / "progress.json").read_text("utf-8"))
            tensors = load_file(path / "state.safetensors")
        except (OSError, ValueError, SafetensorError):
            continue
        if progress.pop("job", None) != job or {f"param.{n}" for n in parameters} != {
            n for n in tensors if n.startswith("param.")
        }:
            continue
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"param.{name}"])
                optimizer.state[parameter] = {
                    # the fused AdamW keeps its step counter beside the parameter
                    "step": torch.tensor(float(progress["step"]), device=parameter.device),
                    **{m: tensors[f"{m}.{name}"].to(parameter.device) for m in _MOMENTS},
                }
        return progress
    return None


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
    """Train `model` in place; continues from a checkpoint of the same `job` in `work_dir`.

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


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one.

    Raises:
        PrerequisiteError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PrerequisiteError(
            f"TrainConfig.device = {name!r}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} NVIDIA GPUs; use device='auto', or install a CUDA build "
            "of torch"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> str:
    """`auto` is bfloat16 on a GPU that has it, else float32."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def load_base(name: str, config: TrainConfig, device: torch.device) -> tuple[Any, Any]:
    """(model, tokenizer) of a student name, folder or hub name, in the precision to train in.

    All weights are trained in float32 (an update is smaller than bfloat16 can add); under an
    adapter the base may be bfloat16.

    Raises:
        PrerequisiteError: 4 bit is asked for without a GPU or bitsandbytes.
    """
    from eeflib.policies.loading import load_student

    if not config.load_in_4bit:
        half = config.dtype == "bfloat16" and config.method == "lora"
        return load_student(name, device=device, dtype=torch.bfloat16 if half else torch.float32)
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise PrerequisiteError(
            "TrainConfig.load_in_4bit needs an NVIDIA GPU and bitsandbytes: pip install "
            "bitsandbytes, or set load_in_4bit=False"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        name,
        quantization_config=quantisation,
        dtype=torch.bfloat16,
        device_map={"": 0},
        trust_remote_code=False,
    )
    return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def base_fingerprint(model: Any) -> str:
    """`model_fingerprint` of the weights; empty for quantised ones, which cannot be compared."""
    from eeflib.policies.loading import model_fingerprint

    return "" if getattr(model, "is_quantized", False) else model_fingerprint(model)


def start_fingerprint(model: Any) -> str:
    """Identifies the adapter that training continues; empty for a bare model."""
    digest = hashlib.sha256()
    adapter = {n: p for n, p in model.named_parameters() if "lora_" in n}
    for name in sorted(adapter):
        digest.update(name.encode())
        digest.update(adapter[name].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16] if adapter else ""


def pad_id(tokenizer: Any) -> int:
    """Any id will do: padding is on the right, has no loss, and nothing attends to it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in known if i is not None)


@contextlib.contextmanager
def trainable(
    model: Any, config: TrainConfig, device: torch.device, *, owned: bool
) -> Iterator[Any]:
    """A trainable model made from `model`.

    A model that the caller still needs (not `owned`) is left as it was found: full training works
    on a copy, LoRA puts an adapter on the model itself and takes it off again. An owned model may
    be changed, which saves memory. Adapter weights are drawn from torch's current generator. A
    model that carries an adapter goes on with it (LoRA; its rank stays) or has it merged (full).

    Args:
        config: with `dtype` resolved.

    Raises:
        DataError: no layer has one of the `target_modules` names.
    """
    from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

    if config.method == "full":
        own = model if owned else copy.deepcopy(model)
        if isinstance(own, PeftModel):
            own = own.merge_and_unload()
        own.to(device=device, dtype=torch.float32)
        own.requires_grad_(True)
        _checkpointing(own, config)
        yield own
        return
    home, was_training = model.device, model.training
    wanted = {n: p.requires_grad for n, p in model.named_parameters()}
    if getattr(model, "is_quantized", False):
        prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    else:
        model.to(device)
    if isinstance(model, PeftModel):
        with _continued(model):
            _checkpointing(model, config)
            yield model
        model.train(was_training).to(home)
        return
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, lora)
    except ValueError as exc:
        raise DataError(
            f"no adapter fits: {exc}; name layers of this model in TrainConfig.target_modules"
        ) from exc
    _checkpointing(model, config)
    try:
        yield adapted
    finally:
        if not owned:
            bare: Any = adapted.unload()
            if config.gradient_checkpointing:
                bare.gradient_checkpointing_disable()
            for name, parameter in bare.named_parameters():
                parameter.requires_grad_(wanted.get(name, False))
            bare.train(was_training).to(home)


@contextlib.contextmanager
def _continued(model: Any) -> Iterator[None]:
    """The adapter of `model` can be trained; afterwards its weights are as before."""
    adapter = {n: p for n, p in model.named_parameters() if "lora_" in n}
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in adapter.items()}
    for parameter in adapter.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in adapter.items():
                parameter.copy_(before[name][0])
                parameter.requires_grad_(before[name][1])
                parameter.grad = None


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """What goes wrong in writing `path`, a file or folder, as one `DataError` with the remedy."""
    try:
        yield
    except Exception as exc:
        # the Rust libraries have errors of their own, and tokenizers a bare Exception
        if not (isinstance(exc, (OSError, SafetensorError)) or "os error" in str(exc)):
            raise
        raise DataError(
            f"{path}: cannot be written ({exc}); make room or give write permission, then run the "
            "same command again: it goes on from the last checkpoint"
        ) from exc


def write_model(model: Any, tokenizer: Any, folder: Path, card: dict[str, Any]) -> None:
    """Adapter or model, tokenizer and `eef_adapter.json` into an empty folder.

    Equal trainings write equal bytes: sets that libraries write in any order are sorted. The card
    holds the hashes of the weights, which loading compares.
    """
    from transformers.utils import logging as transformers_logging

    from eeflib.policies.loading import file_hash

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar per saved file is no help
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    settings = folder / "adapter_config.json"
    if settings.exists():
        data = json.loads(settings.read_text("utf-8"))
        for key in ("target_modules", "modules_to_save"):
            if isinstance(data.get(key), list):
                data[key] = sorted(data[key])
        settings.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", "utf-8")
    weights = {p.name: file_hash(p) for p in sorted(folder.glob("*.safetensors"))}
    text = json.dumps({**card, "weights": weights}, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "eef_adapter.json").write_text(text + "\n", "utf-8")


def _checkpointing(model: Any, config: TrainConfig) -> None:
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
