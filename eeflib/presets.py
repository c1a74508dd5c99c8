"""Sizes of a run by name: how many tasks, rollouts and training steps.

Owns `Preset` and the four presets; whatever a notebook or the command line does not set comes from
here. Knows nothing about how a run is carried out.

Development seeds are below 1000: sizes and settings were chosen on them. Reported results come
from seeds that start at `REPORT_SEED` and were not looked at while developing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from eeflib.config import TrainConfig
from eeflib.errors import DataError
from eeflib.recipe import Recipe

__all__ = ["PRESETS", "REPORT_SEED", "Preset", "get_preset", "recipe_for"]

REPORT_SEED = 1000
"""First of the seeds that results are reported on."""


@dataclass(frozen=True)
class Preset:
    name: str
    counts: dict[str, int]
    """Tasks per split, of one seed."""
    seeds: int
    iterations: int
    """Of every exploring method."""
    M: int
    """Expert states per teacher trajectory."""
    k: int
    """Rollouts a task of the strong RFT baseline, RFTxk."""
    steps: int
    """Optimiser steps of each training of the tiny student."""
    methods: tuple[str, ...] = ("SFT", "RFT", "RFTxk", "EEF")
    extras: bool = True
    """Also the masking ablation and the better teacher ("when RFT catches up")."""
    env: dict[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset("tiny", {"train": 24, "test": 24}, 1, 1, 3, 3, 40, extras=False),
        Preset("laptop", {"train": 120, "test": 150}, 3, 2, 5, 6, 120),
        Preset("colab", {"train": 200, "test": 200}, 3, 3, 5, 6, 160),
        Preset("paper", {"train": 300, "test": 300}, 5, 3, 5, 6, 200),
    )
}


_TEXTWORLD: dict[str, dict[str, Any]] = {
    "tiny": {"counts": {"train": 12, "test": 12}, "M": 3, "k": 3, "steps": 20},
    "laptop": {"counts": {"train": 60, "test": 60}, "iterations": 1, "M": 3, "k": 4, "steps": 120},
    "colab": {"counts": {"train": 100, "test": 100}, "iterations": 2, "steps": 200},
    "paper": {"counts": {"train": 200, "test": 200}, "steps": 240},
}
"""What differs from a preset where the environment is TextWorldExpress.

At these sizes the tiny student is at the floor: decoded greedily, as in evaluation, it goes round
in two actions (57 of 60 test episodes at 120 steps, 16 at 240) and wins next to nothing. Equal win
rates of the methods then say nothing about them; a larger student is needed to compare.
"""


def get_preset(name: str, env: str = "webshop") -> Preset:
    """The preset `name`, adapted to `env`: ScienceWorld's episodes are far more costly, and the
    tiny student spells most of TextWorldExpress's words out, so that its sequences are long.

    Raises:
        DataError: no such preset.
    """
    if name not in PRESETS:
        raise DataError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if env == "textworld":
        return replace(preset, **_TEXTWORLD[name], seeds=min(preset.seeds, 3), extras=False)
    if env == "scienceworld":
        share = {"tiny": 10, "laptop": 30}.get(name, 60)
        return replace(
            preset,
            counts={"train": share, "test": share},
            seeds=1,
            M=min(preset.M, 3),
            extras=False,
        )
    return preset


def recipe_for(student: str, preset: Preset) -> Recipe:
    """How `student` is prompted and trained.

    The tiny student answers with bare actions, chosen among the admissible ones, and is trained
    whole; any other model writes Thought and Action and gets a LoRA adapter.
    """
    if student == "tiny":
        train = TrainConfig(
            method="full",
            learning_rate=1e-3,  # twice that forgets how to read in some runs
            warmup=0.2,
            weight_decay=0.01,
            max_steps=preset.steps,
            batch_size=8,
            dtype="float32",
            device="cpu",
        )
        return Recipe(student, "act", "admissible", train)
    train = TrainConfig(method="lora", learning_rate=2e-4, epochs=3.0, batch_size=4, accumulation=4)
    return Recipe(student, "react", "generate", train, max_length=4096, batch_size=16)
