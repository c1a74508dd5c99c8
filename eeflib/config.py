"""Settings: what decides the results of a training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eeflib.errors import DataError

__all__ = [
    "BACKENDS",
    "LLAMA_LINEAR",
    "TrainConfig",
    "TrainResult",
]

BACKENDS = ("peft", "unsloth")
LLAMA_LINEAR = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip
"""The linear layers of Llama-like models."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("lora", "full"),
    "schedule": ("cosine", "linear", "constant"),
    "dtype": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class TrainConfig:
    """What, together with the data and the base model, determines the weights."""

    method: Literal["lora", "full"] = "lora"
    """Train an adapter, or all weights."""
    rank: int = 16
    """LoRA: rank of the update."""
    alpha: float = 32.0
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float = 0.0
    """LoRA: dropout before the update."""
    target_modules: tuple[str, ...] = LLAMA_LINEAR
    """LoRA: names of the layers that get one."""
    learning_rate: float = 2e-4
    """Peak, of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 after the warm-up."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """Of matrices; never of norms and biases."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 for no limit."""
    epochs: float = 3.0
    """Passes over the data, if `max_steps` is None."""
    max_steps: int | None = None
    """Optimiser steps."""
    batch_size: int = 8
    """Samples in one forward pass."""
    accumulation: int = 1
    """Forward passes per optimiser step."""
    max_length: int | None = None
    """Most tokens per sample. Longer ones are dropped when samples are encoded, never cut here."""
    seed: int = 0
    """Of data order, adapter initialisation and dropout."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic; `auto`: bfloat16 on a GPU that has it, else float32."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    load_in_4bit: bool = False
    """Quantise the base model (LoRA on a GPU with bitsandbytes; the base is given by name)."""
    checkpoint_seconds: float = 120.0
    """A resumable checkpoint is written when this much time has passed. No effect on results."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise DataError(
                    f"TrainConfig.{name} = {getattr(self, name)!r}; choose one of "
                    f"{', '.join(choices)}"
                )
        least = {
            "rank": 1, "batch_size": 1, "accumulation": 1, "learning_rate": 0, "warmup": 0,
            "max_grad_norm": 0, "weight_decay": 0, "checkpoint_seconds": 0,
        }  # fmt: skip
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise DataError(
                    f"TrainConfig.{name} = {getattr(self, name)!r} must be at least {low}"
                )
        if (self.max_steps is None and not self.epochs > 0) or (
            self.max_steps is not None and self.max_steps < 1
        ):
            raise DataError(
                f"TrainConfig trains nothing: epochs = {self.epochs}, max_steps = "
                f"{self.max_steps}; set one of them above 0"
            )
        if self.load_in_4bit and self.method == "full":
            raise DataError(
                "TrainConfig.load_in_4bit needs method = 'lora': 4-bit weights are fixed"
            )
        object.__setattr__(self, "target_modules", tuple(self.target_modules))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**dataclasses.asdict(self), "target_modules": list(self.target_modules)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """Read `to_dict`'s output; keys of other versions are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in names})


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
