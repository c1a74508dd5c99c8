"""What a model is loaded, trained and sampled on: one decision, made before anything is loaded.

Import `hardware` and `Hardware` from here. Loading and training ask it, so that they never
disagree; an engine samples what was loaded, with half of the memory that is then free for keys and
values. Every part can be set by hand: what is asked for is taken as it is.

- Numbers: float32 on a CPU; bfloat16 on a GPU of compute capability 8.0 (Ampere) or more; float16
  with loss scaling below that. `torch.cuda.is_bf16_supported()` is not asked: it says yes to a T4,
  which emulates bfloat16 many times slower.
- Memory: what fits into 90 % of what is free on the GPU, in the order of what it costs: smaller
  micro-batches (the step stays the same), then gradient checkpointing (a third more time), then a
  4-bit base. A CPU is left as it is configured.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from eeflib.config import TrainConfig
from eeflib.errors import EefError, PrerequisiteError

log = logging.getLogger(__name__)

_BFLOAT16 = (8, 0)
"""Compute capability from which bfloat16 is arithmetic of the GPU's own."""
_USABLE = 0.9
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_4BIT = 0.56
"""Bytes of a weight in NF4 with double quantisation, its scales included."""
_TRAINED_SHARE = 0.3
"""Of a sample's tokens at most that many carry loss and go through the vocabulary layer."""
_LONG = 2048
"""Tokens of the longest sample where that is not known yet."""
_CPU_SHARE, _GPU_SHARE = 0.6, 0.25
"""Of the speed of a matrix product that a model comes to: guesses."""


@contextmanager
def lengths_vary() -> Iterator[None]:
    """Attention by kernels that take any length; on a CPU nothing changes.

    On Hopper and datacentre Blackwell torch prefers cuDNN's, for which a plan is built at each new
    length: as a reply grows by a token, at every token. Measured on an H100 with torch 2.11: 115 to
    130 ms for a token of SmolLM2, however few or many the rows.
    """
    import torch

    cuda = torch.backends.cuda
    was = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(was)


@dataclass(frozen=True)
class Sizes:
    """What memory depends on, from a model's configuration alone."""

    parameters: int
    embeddings: int
    """Parameters of the embeddings and the vocabulary layer, which 4 bit leaves as they are."""
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """Of a transformers configuration; no weight is made."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        ends = {id(p): p for p in model.get_input_embeddings().parameters()}
        if (head := model.get_output_embeddings()) is not None:
            ends |= {id(p): p for p in head.parameters()}
        return cls(
            model.num_parameters(),
            sum(p.numel() for p in ends.values()),
            text.num_hidden_layers,
            text.hidden_size,
            getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            text.vocab_size,
        )

    def weights(self, dtype: str, load_in_4bit: bool = False) -> int:
        """Bytes of the weights."""
        each = _BYTES[dtype]
        if not load_in_4bit:
            return self.parameters * each
        return round((self.parameters - self.embeddings) * _4BIT + self.embeddings * each)

    def training(self, config: TrainConfig, longest: int) -> int:
        """Bytes that training takes beside the weights; about, the libraries' overhead apart.

        Adapters (or all weights) with gradients and AdamW's two moments in float32, what the
        backward pass keeps of each token, and the logits of trained tokens.
        """
        each, tokens = _BYTES[config.dtype], config.batch_size * longest
        wide = 9 * self.hidden + 3 * self.intermediate
        trained = self.parameters if config.method == "full" else config.rank * self.layers * wide
        layer = (14 * self.hidden + 4 * self.intermediate) * each
        kept = self.layers * layer
        if config.gradient_checkpointing:
            kept = self.layers * self.hidden * each + layer
        logits = _TRAINED_SHARE * self.vocabulary * (each + 8)
        return round(trained * 16 + tokens * (kept + logits))


@dataclass(frozen=True)
class Hardware:
    """A device and how it is used; `str()` is one line with an estimate of the memory."""

    device: str
    """`cpu`, `cuda:0`, `mps`."""
    name: str
    dtype: str
    """float32, float16 (with loss scaling) or bfloat16."""
    free: int
    """Bytes that were free on the GPU when it was asked; on a CPU 0: unknown."""
    training: TrainConfig
    """The settings of a training with nothing left open."""
    sizes: Sizes | None = None
    """Of the student; None if it cannot be looked up."""
    longest: int = _LONG
    """Tokens of the longest sample."""

    @property
    def weights(self) -> int:
        """Bytes of the student's weights."""
        four = bool(self.training.load_in_4bit)
        return self.sizes.weights(self.dtype, four) if self.sizes else 0

    @property
    def trains(self) -> int:
        """Bytes that training takes in all, about."""
        return self.weights + self.sizes.training(self.training, self.longest) if self.sizes else 0

    def __str__(self) -> str:
        t = self.training
        how = [self.dtype + (" with loss scaling" if self.dtype == "float16" else "")]
        how += ["base in 4 bit"] if t.load_in_4bit else []
        how += ["gradient checkpointing"] if t.gradient_checkpointing else []
        text = f"{self.name} ({self.device}): {', '.join(how)}, micro-batches of {t.batch_size}"
        if self.sizes:
            millions = self.sizes.parameters / 1e6
            size = f"{millions / 1e3:.1f} billion" if millions > 999 else f"{millions:.3g} million"
            text += (
                f"; {size} parameters: weights {_gb(self.weights)}, training about "
                f"{_gb(self.trains)}"
            )
        return text + (f" of {_gb(self.free)} free" if self.free else "")

    @property
    def fits(self) -> bool:
        """Whether training is expected to fit; True where nothing is known."""
        return not self.free or self.trains <= _USABLE * self.free


def hardware(student: Any = None, *, device: str | None = None) -> Hardware:
    """What `student` will run on, and how; nothing is loaded.

    Args:
        student: an `eeflib.Student`, or None for the machine alone.
        device: a torch device; None: as the student's training is configured.

    Raises:
        PrerequisiteError: a GPU is asked for and there is none.
    """
    if student is None:
        return decide(TrainConfig(), None, device=device)
    sizes = sizes_of(student.name)
    return decide(student.training, sizes, device=device, held=student.loaded_bytes)


def decide(
    config: TrainConfig,
    sizes: Sizes | None,
    *,
    longest: int | None = None,
    device: str | None = None,
    held: int = 0,
) -> Hardware:
    """`hardware` for the settings of a training and a model of `sizes`: the first way that fits.

    Args:
        held: bytes of its weights, where they are on the GPU already.
    """
    import torch

    place = _place(device or config.device)
    name, free, dtype = "CPU", 0, "float32"
    if place.type == "cuda":
        name = torch.cuda.get_device_name(place)
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        free = torch.cuda.mem_get_info(place)[0] + unused + held
        able = torch.cuda.get_device_capability(place) >= _BFLOAT16
        dtype = "bfloat16" if able else "float16"
    elif place.type != "cpu":
        name = place.type
    dtype = dtype if config.dtype == "auto" else config.dtype
    plain = replace(
        config,
        dtype=dtype,  # type: ignore[arg-type]
        load_in_4bit=bool(config.load_in_4bit),
        gradient_checkpointing=bool(config.gradient_checkpointing),
    )
    found = Hardware(str(place), name, dtype, free, plain, sizes, longest or _LONG)
    if not sizes or found.fits:
        return found
    four = config.load_in_4bit is None and config.method == "lora" and _quantises()
    for quantised in (plain.load_in_4bit, True) if four else (plain.load_in_4bit,):
        for again in dict.fromkeys((plain.gradient_checkpointing, True)):
            if again and config.gradient_checkpointing is False:
                continue
            step = config.batch_size * config.accumulation
            # divisors of the step only: it stays what it is
            for size in [n for n in range(config.batch_size, 0, -1) if step % n == 0]:
                smaller = replace(
                    plain,
                    load_in_4bit=quantised,
                    gradient_checkpointing=again,
                    batch_size=size,
                    accumulation=step // size,
                )
                found = replace(found, training=smaller)
                if found.fits:
                    return found
    log.warning("%s: training may not fit; free memory, or choose a smaller student", found)
    return found


def hours(plan: Hardware, played: int, trained: int) -> float | None:
    """About how long it takes to play and to train that many tokens; None without `sizes`.

    A guess, from the speed of one matrix product and the share of it that models come to: two
    operations a parameter and token to play, four to train an adapter, six to train all.
    """
    import torch

    if plan.sizes is None:
        return None
    size, times, gpu = 1024, 4, plan.device != "cpu"
    a = torch.ones(size, size, device=plan.device, dtype=getattr(torch, plan.dtype))
    for count in (1, times):  # the first one warms up
        started = time.perf_counter()
        for _ in range(count):
            b = a @ a
        float(b[0, 0])  # waits for a GPU
    speed = times * 2 * size**3 / (time.perf_counter() - started)
    each = 6 if plan.training.method == "full" else 4
    work = plan.sizes.parameters * (2 * played + each * trained)
    return work / (speed * (_GPU_SHARE if gpu else _CPU_SHARE)) / 3600


def _place(name: str) -> Any:
    import torch

    auto = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(auto if name == "auto" else name)
    found = torch.cuda.device_count()
    if place.type == "cuda" and (place.index or 0) >= found:
        raise PrerequisiteError(
            f"device = {name!r}, but torch {torch.__version__} sees {found} NVIDIA GPUs; use "
            "device='auto', or install a CUDA build of torch"
        )
    return place


def _quantises() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


_SIZES: dict[str, Sizes] = {}


def sizes_of(student: Any) -> Sizes | None:
    """Of a student by name, or of (model, tokenizer); None if it cannot be told."""
    from eeflib.policies.loading import load_config

    try:
        known = isinstance(student, tuple)
        config = student[0].config if known else load_config(str(student))
        asked = config.to_json_string()
        if asked not in _SIZES:  # each loading of a student asks
            _SIZES[asked] = Sizes.of(config)
        return _SIZES[asked]
    except (EefError, ValueError, AttributeError, TypeError) as exc:
        log.debug("no estimate for %s: %s", student, exc)  # which is never worth a stop
        return None


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
