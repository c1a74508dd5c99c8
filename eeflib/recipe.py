"""The student of a run: how it is prompted, asked and trained, and its models as policies.

Owns `Recipe`, and loading the base and what was tuned from it. Knows nothing about tasks,
environments or the order in which things are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eeflib.config import TrainConfig
from eeflib.policies.base import Policy

__all__ = ["Recipe", "Student"]


@dataclass(frozen=True)
class Recipe:
    """How the student is prompted, asked and trained."""

    student: str = "tiny"
    """Name or path, see `eeflib.policies.loading.load_student`."""
    prompt: str = "act"
    """The student's prompt format; the teacher's is `react`."""
    mode: Literal["generate", "admissible"] = "admissible"
    train: TrainConfig = field(default_factory=TrainConfig)
    backend: Literal["peft", "unsloth"] = "peft"
    max_length: int | None = None
    """Longer samples are dropped, and counted; None: longer than the model has positions for."""
    temperature: float = 1.0
    """Of exploration; evaluation is greedy."""
    batch_size: int = 128
    """Episodes in lockstep."""
    max_new_tokens: int = 96
    """Of a free reply (`mode="generate"`)."""


class Student:
    """A recipe's model: the base, loaded once, and those tuned from it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """(model, tokenizer) before any tuning.

        Raises:
            PrerequisiteError: see `eeflib.policies.loading.load_student`.
        """
        return _load(self.recipe.student)

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest sample that is trained on; None: any."""
        config = self.base[0].config.get_text_config()
        return self.recipe.max_length or getattr(config, "max_position_embeddings", None)

    def tuned(self, model: Path) -> tuple[Any, Any]:
        """(model, tokenizer) of what was trained into the folder `model`."""
        if (model / "adapter_config.json").exists():
            return _load(self.recipe.student, adapter=model)
        return _load(str(model))

    def policy(self, model: Path, *, greedy: bool) -> Policy:
        """The student saved in `model`, as a policy."""
        from eeflib.policies.huggingface import HuggingFacePolicy

        tuned, tokenizer = self.tuned(model)
        return HuggingFacePolicy(
            tuned,
            tokenizer,
            name=self.recipe.student,
            temperature=self.recipe.temperature,
            mode=self.recipe.mode,
            greedy=greedy,
            max_new_tokens=self.recipe.max_new_tokens,
            max_batch=self.recipe.batch_size,
        )


def _load(name: str, adapter: Path | None = None) -> tuple[Any, Any]:
    from transformers.utils import logging as transformers_logging

    from eeflib.policies.loading import load_student

    transformers_logging.disable_progress_bar()  # a bar per loaded file hides ours
    return load_student(name, adapter=adapter)
