"""The model that is tuned: a base, or what was trained from it, and how it is asked.

Import `Student` from here. Names, folders and adapters are resolved in `eeflib.policies.loading`,
replies are sampled in `eeflib.policies.huggingface`.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eeflib.config import Config, TrainConfig, make_config
from eeflib.errors import DataError
from eeflib.policies.base import Policy
from eeflib.prompts import PromptFormat, get_format

if TYPE_CHECKING:
    from eeflib.policies.chat import Chat
    from eeflib.policies.engines import Engine


class Student:
    """A model with the way it is prompted, sampled and trained. Weights are loaded when needed.

    Args:
        name: `tiny`, `smollm2`, a folder with a model or an adapter, or a hub name.
        settings: fields of `eeflib.config.Config` that differ from what suits this student, such as
            `prompt`, `mode`, `temperature`, `backend`, and those of `TrainConfig`, such as
            `learning_rate`, `load_in_4bit`.

    Raises:
        DataError: an unknown setting.
    """

    def __init__(self, name: str = "tiny", **settings: Any) -> None:
        self._use(make_config(student=name, **settings))

    @classmethod
    def of(cls, config: Config) -> Student:
        """The student that `config` describes."""
        student = cls.__new__(cls)
        student._use(config)
        return student

    def _use(self, config: Config) -> None:
        self.config = config
        self.folder: Path | None = None
        self.origin = ""
        self._base: Student = self

    def __repr__(self) -> str:
        trained = "not tuned" if self.folder is None else self.origin or f"tuned, {self.folder}"
        return f"<Student {self.name}, {trained}>"

    @property
    def name(self) -> str:
        return self.config.student

    @property
    def training(self) -> TrainConfig:
        """How it is trained, where `eeflib.train` is given no other settings."""
        return self.config.training

    @property
    def base(self) -> Student:
        """The student before any tuning."""
        return self._base

    def tuned(self, folder: Path, origin: str = "", keep: Any = None) -> Student:
        """What was trained from this student's base into `folder`.

        Args:
            origin: METHOD/iter-I of a run, where it comes from there.
            keep: an object that must live as long as the folder is needed.
        """
        other = Student.of(self.config)
        other.folder, other.origin, other._base, other._keep = folder, origin, self._base, keep
        return other

    _keep: Any = None
    result: Any = None
    """What training gave (`eeflib.training.TrainResult`), if this student was just tuned."""

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """(model, tokenizer).

        Raises:
            PrerequisiteError, DataError: see `eeflib.policies.loading.load_student`.
        """
        from transformers.utils import logging as transformers_logging

        from eeflib.policies.loading import load_student

        transformers_logging.disable_progress_bar()  # a bar per loaded file hides ours
        if self.folder is None:
            return load_student(self.name)
        if (self.folder / "adapter_config.json").exists():
            return load_student(self.name, adapter=self.folder)
        return load_student(str(self.folder))

    @property
    def model(self) -> Any:
        return self.loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self._base.loaded[1]

    @property
    def chat(self) -> Chat:
        """How this student's conversations are tokenised, at play and in training.

        Raises:
            DataError: its chat template cannot be trusted; says why.
        """
        from eeflib.policies.chat import Chat

        return Chat.of(self.tokenizer, **self.config.template_arguments)

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest sample that is trained on; None: any."""
        config = self._base.model.config.get_text_config()
        return self.training.max_length or getattr(config, "max_position_embeddings", None)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify a model: of the weight files, or of the base's weights."""
        if self.folder is None:
            from eeflib.policies.loading import model_fingerprint

            return model_fingerprint(self.model)
        return weights_hash(self.folder)

    def format(self, env: str) -> PromptFormat:
        """The prompt format that this student is played and trained with in environment `env`."""
        return get_format(self.config.prompt, env)

    def policy(self, *, greedy: bool = False) -> Policy:
        """This student as a policy: sampled at its temperature, or greedy as in evaluation.

        Raises:
            PrerequisiteError: the engine that is configured cannot be had here.
            DataError: it cannot do what is asked for, or serves another vocabulary.
        """
        from eeflib.policies.engines import BatchEngine, EnginePolicy
        from eeflib.policies.huggingface import HuggingFacePolicy

        config = self.config
        settings: dict[str, Any] = {
            "name": self.name,
            "temperature": config.temperature,
            "mode": config.mode,
            "greedy": greedy,
            "max_new_tokens": config.max_new_tokens,
            "max_batch": config.lockstep,
        }
        if config.engine in ("auto", "transformers"):
            return HuggingFacePolicy(self.model, self.chat, **settings)
        if config.engine == "batch":
            if config.mode == "admissible":
                raise DataError(
                    "the engine batch writes freely: set mode='generate', or engine='transformers'"
                )
            return EnginePolicy(BatchEngine(self.model), self.chat, **settings)
        return EnginePolicy(self._server(), self.chat, **settings)

    def _server(self) -> Engine:
        """vLLM, or the server that is configured, asked for this student."""
        from eeflib.policies.loading import served
        from eeflib.policies.server import ServerEngine, serve

        name, adapter = served(self.name, self.folder)
        if self.config.engine == "vllm":
            return serve(name, self.chat, adapter=adapter)
        if self.folder is not None and adapter is None:
            raise DataError(
                f"{self.config.engine} serves one model, and training wrote another whole one into "
                f"{self.folder}: use engine='vllm', or serve that folder as a student of its own"
            )
        engine = ServerEngine(self.config.engine, self.chat)
        if adapter is not None:
            engine.use(adapter)
        return engine

    def with_training(self, **settings: Any) -> TrainConfig:
        """`training` with some settings changed; `steps` is short for `max_steps`."""
        if "steps" in settings:
            settings["max_steps"] = settings.pop("steps")
        elif "epochs" in settings:
            settings.setdefault("max_steps", None)
        unknown = sorted(set(settings) - {f.name for f in fields(TrainConfig)})
        if unknown:
            names = ", ".join(f.name for f in fields(TrainConfig))
            raise DataError(f"unknown setting {', '.join(unknown)} of a training; it has {names}")
        return replace(self.training, **settings)


def weights_hash(folder: Path) -> str:
    """First 16 hex digits of a SHA-256 over the safetensors files in `folder`, one after another.

    Raises:
        DataError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no weights (*.safetensors); train it again")
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
