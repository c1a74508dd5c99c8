"""Every setting of a run in one value, and the presets.

Import `Config`, `make_config` and `TrainConfig` from here. A preset is a `Config`; the manifest of
a run holds its JSON, which is enough to repeat the run. `eeflib.pipeline` carries it out.

Development seeds are below 1000: sizes and settings were chosen on them. Reported results come
from seeds that start at `REPORT_SEED` and were not looked at while developing. Reporting seeds are
used once: 1000 to 1007 were, with the tasks of the first edition, and 2000 to 2002, with a world in
which paging was all that had to be learned.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

import msgspec

from eeflib.errors import DataError
from eeflib.records import plain

REPORT_SEED = 2010
"""First of the seeds that results are reported on."""

DEVELOPMENT_SEED = 20
"""First seed of a notebook's run; of its 24 `tiny` tasks the teacher solves 7, elsewhere 1 to 6."""

Env = Literal["webshop", "scienceworld", "textworld"]
Backend = Literal["peft", "unsloth"]
BACKENDS = get_args(Backend)
ENGINES = ("auto", "transformers", "batch", "vllm")

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeast1 = Annotated[int, msgspec.Meta(ge=1)]
AtLeast2 = Annotated[int, msgspec.Meta(ge=2)]


class _Settings:
    """What both kinds of settings have: a check of each field against its type, and JSON."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            choices = get_args(kind) if get_origin(kind) is Literal else ()
            if choices and value not in choices:
                raise DataError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
            try:
                object.__setattr__(self, name, msgspec.convert(value, kind))
            except msgspec.ValidationError as exc:
                raise DataError(f"{name} is {value!r}: {exc}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; equal settings give equal JSON, whole numbers in float fields too."""
        out: dict[str, Any] = plain(self)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, such as `config` in a run's manifest.

        Raises:
            DataError: an unknown setting, or a value of the wrong type; names it.
        """
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(data) - names):
            raise DataError(_unknown(unknown, names))
        return cls(**data)


@dataclass(frozen=True)
class TrainConfig(_Settings):
    """What, together with the data and the base model, determines the weights."""

    method: Literal["lora", "full"] = "lora"
    """Train an adapter, or all weights."""
    rank: AtLeast1 = 16
    """LoRA: rank of the update."""
    alpha: float = 32.0
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float = 0.0
    """LoRA: dropout before the update."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """LoRA: names of the layers that get one; `all-linear`: all but the vocabulary layer."""
    learning_rate: NotNegative = 2e-4
    """Peak, of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 after the warm-up."""
    warmup: NotNegative = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: NotNegative = 0.0
    """Of matrices; never of norms and biases."""
    max_grad_norm: NotNegative = 1.0
    """Gradients are scaled down to this norm; 0 for no limit."""
    epochs: float = 3.0
    """Passes over the data, if `max_steps` is None."""
    max_steps: AtLeast1 | None = None
    """Optimiser steps."""
    batch_size: AtLeast1 = 8
    """Samples in one forward pass."""
    accumulation: AtLeast1 = 1
    """Forward passes per optimiser step."""
    packing: bool = False
    """Lay the samples of a forward pass end to end instead of padding them: the same loss."""
    max_length: int | None = None
    """Most tokens per sample. Longer ones are dropped when samples are encoded, never cut here."""
    seed: int = 0
    """Of data order, adapter initialisation and dropout."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of the arithmetic; `auto`: see `eeflib.policies.hardware`."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    gradient_checkpointing: bool | None = None
    """Less memory for about a third more time; None: where it is needed on a GPU."""
    load_in_4bit: bool | None = None
    """Quantise the base model (LoRA on a GPU with bitsandbytes); None: where it is needed."""
    checkpoint_seconds: NotNegative = 120.0
    """A resumable checkpoint is written when this much time has passed. No effect on results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None and not self.epochs > 0:
            raise DataError(
                f"TrainConfig trains nothing: epochs = {self.epochs}, max_steps = "
                f"{self.max_steps}; set one of them above 0"
            )
        if self.load_in_4bit and self.method == "full":
            raise DataError(
                "TrainConfig.load_in_4bit needs method = 'lora': 4-bit weights are fixed"
            )


@dataclass(frozen=True)
class Config(_Settings):
    """What decides the records of a run: world, student, methods, sizes, training, seeds."""

    preset: str = "laptop"
    """Name of the preset that the settings come from."""
    env: Env = "webshop"
    train: AtLeast1 = 120
    """Training tasks of each seed."""
    validation: Count = 0
    """Validation tasks of each seed."""
    test: Count = 150
    """Unseen test tasks of each seed."""
    mix: str | dict[str, float] = "default"
    """What tasks are drawn: WebShop: the levels, see `eeflib.envs.webshop.tasks.make_tasks`;
    ScienceWorld: the task types, see `eeflib.world.scienceworld`."""
    teacher_middle: float | None = None
    """WebShop: words read at which the scripted teacher starts to tire; None: its default."""
    student: str = "tiny"
    """`tiny`, `smollm2`, a folder or a hub name."""
    prompt: Literal["act", "react"] = "act"
    """The student's prompt format; the teacher's is `react`."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """For the student's chat template, such as `{"enable_thinking": True}`; where nothing is said
    reasoning is off."""
    mode: Literal["admissible", "generate"] = "admissible"
    """The student chooses among the admissible actions, or writes its reply freely."""
    temperature: Positive = 1.0
    """Of the student's exploration; it is evaluated greedily."""
    max_new_tokens: AtLeast1 = 96
    """Most tokens of a free reply."""
    engine: str = "auto"
    """What samples the student: `transformers`, with a cache per episode (`auto`: the same);
    `batch` (its continuous batching, free replies only); `vllm`, in a process of its own; or the
    URL of a server that takes token ids, such as `http://127.0.0.1:8000/v1`."""
    lockstep: AtLeast1 = 128
    """Episodes that are played side by side."""
    methods: tuple[str, ...] = ("SFT", "RFT", "RFTxk", "EEF")
    """Names of `eeflib.methods.METHODS`; RFTxk stands for RFTx6 where k is 6."""
    iterations: AtLeast1 = 2
    """Rounds of explore, select, train of every exploring method."""
    M: Count = 5
    """Expert states for each teacher trajectory."""
    k: AtLeast2 = 6
    """Rollouts for each task of the strong RFT baseline, RFTxk."""
    explored: AtLeast1 | None = None
    """Explore the first so many training tasks only; None: all."""
    extras: bool = True
    """Also the masking ablation, and on the WebShop the better teacher."""
    backend: Backend = "peft"
    training: TrainConfig = field(default_factory=TrainConfig)
    seeds: tuple[int, ...] = (REPORT_SEED,)

    def __post_init__(self) -> None:
        if isinstance(self.training, Mapping):
            object.__setattr__(self, "training", TrainConfig.from_dict(self.training))
        super().__post_init__()
        if "@" in self.engine:
            raise DataError(
                "Config.engine holds a user name or password; give the address without it, and the "
                "key in the environment (docs/models.md)"
            )
        if self.engine not in ENGINES and not self.engine.startswith(("http://", "https://")):
            raise DataError(
                f"unknown engine {self.engine!r}; choose one of {', '.join(ENGINES)}, or the URL "
                "of a server"
            )
        if not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds):
            raise DataError(f"seeds are {[*self.seeds]}; give one or more, different, none below 0")

    @property
    def counts(self) -> dict[str, int]:
        """Tasks for each split that has any."""
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: n for split, n in sizes.items() if n}

    def change(self, **settings: Any) -> Config:
        """A copy with other settings; names of `TrainConfig` change the training.

        `steps` is short for the training's `max_steps`.

        Raises:
            DataError: an unknown setting, or an impossible value.
        """
        if "steps" in settings:
            settings["max_steps"] = settings.pop("steps")
        own = {f.name for f in fields(self)}
        inner = {f.name for f in fields(TrainConfig)}
        if unknown := sorted(set(settings) - own - inner):
            raise DataError(_unknown(unknown, own | inner | {"steps"}))
        training = settings.pop("training", self.training)
        if not isinstance(training, TrainConfig):
            training = TrainConfig.from_dict(training)
        changed = {k: settings.pop(k) for k in inner - own if k in settings}
        return replace(self, training=replace(training, **changed), **settings)


def _unknown(found: list[str], names: set[str]) -> str:
    close = difflib.get_close_matches(found[0], sorted(names), 1)
    hint = f"; did you mean {close[0]}?" if close else f"; settings are {', '.join(sorted(names))}"
    return f"unknown setting {', '.join(found)}{hint}"


_REPORTED = tuple(range(REPORT_SEED, REPORT_SEED + 6))

PRESETS: dict[str, Config] = {
    c.preset: c
    for c in (
        Config("tiny", train=24, test=24, iterations=1, M=3, k=3, extras=False),
        Config("laptop", test=100, iterations=1, seeds=_REPORTED),
        Config("colab", student="Qwen/Qwen2.5-1.5B-Instruct", train=60, test=60, iterations=1),
        Config(
            "paper",
            student="meta-llama/Meta-Llama-3-8B-Instruct",
            train=300,
            test=300,
            mix="large",
            iterations=3,
        ),
    )
}
"""Sizes by name, on the WebShop; `make_config` adapts them. `tiny` and `laptop` are for the tiny
student, `colab` and `paper` for a real model on one GPU."""

_STEPS = {"tiny": 20, "laptop": 120, "colab": 160, "paper": 200}
"""Optimiser steps of each training of the tiny student."""

_TEXTWORLD: dict[str, dict[str, Any]] = {
    "tiny": {"train": 12, "test": 12, "M": 3, "k": 3, "max_steps": 20},
    "laptop": {"train": 60, "test": 60, "iterations": 1, "M": 3, "k": 4, "max_steps": 120},
    "colab": {},
    "paper": {"train": 200, "test": 200},
}
"""What differs from a preset where the environment is TextWorldExpress.

At these sizes the tiny student is at the floor: decoded greedily, as in evaluation, it goes round
in two actions (57 of 60 test episodes at 120 steps, 16 at 240) and wins next to nothing. Equal win
rates of the methods then say nothing about them; a larger student is needed to compare.
"""


_SMOLLM2: dict[str, dict[str, Any]] = {
    "tiny": {"train": 10, "test": 6, "max_steps": 12},
    "laptop": {"train": 100, "explored": 40, "test": 60, "iterations": 1, "M": 3, "k": 4},
}
"""What differs from a preset where the student is SmolLM2, which a CPU can still train: `laptop`
should take two cores about three hours (estimated, not run to its end yet). At temperature 1 half
of its actions are invalid."""


def make_config(
    preset: str = "laptop", env: str = "webshop", student: str | None = None, **settings: Any
) -> Config:
    """The settings of `preset`, adapted to environment and student, then changed by `settings`.

    The tiny student answers with bare actions, chosen among the admissible ones, and is trained
    whole; any other model writes Thought and Action and gets a LoRA adapter. ScienceWorld's
    episodes are far more costly, and the tiny student spells most of TextWorldExpress's words out,
    so that its sequences are long: their runs are smaller.

    Args:
        student: None: the preset's.
        settings: fields of `Config` or `TrainConfig`.

    Raises:
        DataError: no such preset, environment or setting.
    """
    if preset not in PRESETS:
        raise DataError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if env not in get_args(Env):
        raise DataError(f"unknown environment {env!r}; choose one of {', '.join(get_args(Env))}")
    base = PRESETS[preset]
    student = student or base.student
    if student == "tiny":
        training = TrainConfig(
            method="full",
            learning_rate=1e-3,  # twice that forgets how to read in some runs
            warmup=0.2,
            weight_decay=0.01,
            max_steps=_STEPS[preset],
            batch_size=8,
            dtype="float32",
            device="cpu",
        )
        base = replace(base, student=student, training=training)
    else:
        training = TrainConfig(
            learning_rate=2e-4, epochs=3.0, batch_size=4, accumulation=4, max_length=4096
        )
        base = replace(
            base,
            student=student,
            prompt="react",
            mode="generate",
            lockstep=16,
            seeds=base.seeds[:1],
            extras=False,
            training=training,
        )
    if student == "smollm2":
        base = base.change(
            methods=("SFT", "RFTxk", "EEF"),
            temperature=0.5,
            rank=4,
            alpha=8.0,
            learning_rate=1e-3,
            batch_size=1,
            **_SMOLLM2.get(preset, {}),
        )
    if env == "textworld":
        base = base.change(env=env, seeds=base.seeds[:3], extras=False, **_TEXTWORLD[preset])
    if env == "scienceworld":
        n = {"tiny": 10, "laptop": 30}.get(preset, 60)
        base = base.change(
            env=env, train=n, test=n, seeds=base.seeds[:1], M=min(base.M, 3), extras=False
        )
    return base.change(**settings)
