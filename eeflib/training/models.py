"""From a base model to a trainable one, and from a trained one to files.

Owns adapters, precision and the contents of an output folder. Knows nothing about the data.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eeflib.errors import DataError, PrerequisiteError
from eeflib.training.config import TrainConfig

__all__ = [
    "base_fingerprint",
    "load_base",
    "pad_id",
    "pick_device",
    "pick_dtype",
    "start_fingerprint",
    "trainable",
    "write_model",
]


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
        name, quantization_config=quantisation, dtype=torch.bfloat16, device_map={"": 0}
    )
    return model, AutoTokenizer.from_pretrained(name)


def base_fingerprint(model: Any) -> str:
    """`model_fingerprint` of the weights; empty for quantised ones, which nobody can compare."""
    from eeflib.policies.loading import model_fingerprint

    return "" if getattr(model, "is_quantized", False) else model_fingerprint(model)


def start_fingerprint(model: Any) -> str:
    """Identifies the adapter that training goes on from; empty for a bare model."""
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


def write_model(model: Any, tokenizer: Any, folder: Path, card: dict[str, Any]) -> None:
    """Adapter or model, tokenizer and `eef_adapter.json` into an empty folder.

    Equal trainings write equal bytes: sets that libraries write in any order are sorted.
    """
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # one bar per saved file helps nobody
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
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "eef_adapter.json").write_text(text + "\n", "utf-8")


def _checkpointing(model: Any, config: TrainConfig) -> None:
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
