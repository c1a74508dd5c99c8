"""The model that is tuned: a base, or what was trained from it, and how it is asked.

Import `Student` from here. Names, folders and adapters are resolved in `eeflib.policies.loading`,
replies are sampled in `eeflib.policies.huggingface`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from eeflib.config import Config, TrainConfig, make_config
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.policies.base import Policy
from eeflib.prompts import HINTS, PromptFormat, get_format
from eeflib.records import content_hash

if TYPE_CHECKING:
    from eeflib.policies.chat import Chat
    from eeflib.policies.engines import Engine


log = logging.getLogger(__name__)


class Student:
    """A model with the way it is prompted, sampled and trained. Weights are loaded when needed.

    Args:
        name: `tiny`, `smollm2`, a folder with a model or an adapter, or a hub name.
        adapter: a folder with what was trained from this model.
        chat_template_kwargs: as in transformers: arguments of the chat template, such as
            `{"enable_thinking": True}`; the setting `template_arguments`.
        settings: fields of `eeflib.config.Config` that differ from what suits this student, such as
            `prompt`, `mode`, `temperature`, `backend`, and those of `TrainConfig`, such as
            `learning_rate`, `load_in_4bit`.

    Raises:
        DataError: an unknown setting.
        PrerequisiteError: no folder `adapter`.
    """

    folder: Path | None
    """What was trained from the base; None: nothing."""
    _base: Student

    def __init__(
        self,
        name: str = "tiny",
        *,
        adapter: str | Path | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if chat_template_kwargs is not None:
            settings["template_arguments"] = dict(chat_template_kwargs)
        self._use(make_config(student=name, **settings))
        if adapter is not None:
            self.folder = Path(adapter).expanduser()
            if not self.folder.is_dir():
                raise PrerequisiteError(f"no folder at {adapter}: give the one that training wrote")
            self._base = Student.of(self.config)

    @classmethod
    def of(cls, config: Config) -> Self:
        """The student that `config` describes."""
        student = cls.__new__(cls)
        student._use(config)
        return student

    def _use(self, config: Config) -> None:
        if config.backend == "unsloth" and "transformers" not in sys.modules:
            from eeflib.policies.loading import import_unsloth

            import_unsloth()
        self.config = config
        self.folder = None
        self.origin = ""
        self._base = self

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

    @property
    def loaded(self) -> tuple[Any, Any]:
        """(model, tokenizer). The base is in memory once: adapters are put on it and taken off.

        A model got here earlier acts as the student that was asked for last.

        Raises:
            PrerequisiteError, DataError: see `eeflib.policies.loading.load_student`.
        """
        if self._separate:
            return self._own
        try:
            return self._put_on(), self._base._own[1]
        except EefError:
            self.unload()  # half an adapter may be on it
            raise

    @property
    def _separate(self) -> bool:
        """Has it weights of its own: all of them were trained, or the base has an adapter too?"""
        if self.folder is None:
            return False
        whole = not (self.folder / "adapter_config.json").exists()
        return whole or (Path(self.name) / "adapter_config.json").exists()

    def _put_on(self) -> Any:
        """The base as this student; a policy that holds this keeps the adapter's folder, too."""
        return self._base._shared.use(self.folder)

    @property
    def loaded_bytes(self) -> int:
        """Memory of the weights that are loaded."""
        own = self._base.__dict__.get("_own")
        return int(own[0].get_memory_footprint()) if own else 0

    def changed(self, folder: Path) -> None:
        """The adapter in `folder` was trained anew: what is on the base is not it any more."""
        shared = self._base.__dict__.get("_shared")
        if shared is not None and shared.folder == folder:
            shared.use(None)

    @cached_property
    def _shared(self) -> _Shared:
        return _Shared(self._own[0], self.name)

    @cached_property
    def _own(self) -> tuple[Any, Any]:
        import torch

        from eeflib.policies.hardware import hardware

        here = hardware(self)
        log.info("%s on %s", self.name, here)
        four = bool(here.training.load_in_4bit)
        return self._load(device=here.device, dtype=getattr(torch, here.dtype), load_in_4bit=four)

    def _load(self, **placement: Any) -> tuple[Any, Any]:
        from transformers.utils import logging as transformers_logging

        from eeflib.policies.loading import load_student

        transformers_logging.disable_progress_bar()  # a bar per loaded file hides ours
        return load_student(self.name, adapter=self.folder, **placement)

    @property
    def model(self) -> Any:
        return self.loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Without the model, where that is not in memory yet."""
        base = self._base
        return base._own[1] if "_own" in base.__dict__ else base._alone

    @cached_property
    def _alone(self) -> Any:
        from eeflib.policies.loading import load_tokenizer

        return load_tokenizer(self.name)

    def unload(self) -> None:
        """Free the memory of the weights; they are loaded again where they are needed."""
        import gc

        import torch

        for student in (self, self._base):
            student.__dict__.pop("_own", None)
            student.__dict__.pop("_shared", None)
        gc.collect()  # wrapped models hold themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
        from eeflib.policies.loading import load_config

        own = self._base.__dict__.get("_own")
        config = (own[0].config if own else load_config(self._base.name)).get_text_config()
        return self.training.max_length or getattr(config, "max_position_embeddings", None)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify a model: of the weight files, or of the base's weights."""
        if self.folder is None:
            from eeflib.policies.loading import model_fingerprint

            return model_fingerprint(self.model)
        return weights_hash(self.folder)

    @property
    def identity(self) -> str:
        """What its replies depend on: `fingerprint`, and arguments of the template, if any."""
        asked = self.config.template_arguments  # other prompts, with the same weights
        return self.fingerprint + (f" {content_hash(asked)}" if asked else "")

    @cached_property
    def hint(self) -> str:
        """What it is told after the instruction, as in its training (`eeflib.prompts.HINTS`)."""
        from eeflib.policies.loading import CARD

        card = (self.folder or Path(self.name).expanduser()) / CARD
        try:
            said = json.loads(card.read_text("utf-8"))["hint"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return said if said in HINTS.values() else ""

    def format(self, env: str) -> PromptFormat:
        """The prompt format that this student is played and trained with in environment `env`."""
        return get_format(self.config.prompt, env, self.hint)

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
        thoughts = config.mode == "admissible" and config.prompt == "react"
        if thoughts and config.engine not in ("auto", "transformers"):
            raise DataError(
                f"the engine {config.engine} cannot write a thought and then choose an action: set "
                "engine='transformers', prompt='act', or mode='generate'"
            )
        if config.engine not in ("auto", "transformers", "batch"):
            return EnginePolicy(self._server(), self.chat, **settings)
        if config.engine == "batch" and config.mode == "admissible":
            raise DataError(
                "the engine batch writes freely: set mode='generate', or engine='transformers'"
            )
        model = self.model
        if not self._separate:
            model = self._base._own[0]
            settings["prepare"] = self._put_on
        if config.engine == "batch":
            return EnginePolicy(BatchEngine(model), self.chat, **settings)
        return HuggingFacePolicy(model, self.chat, thoughts=thoughts, **settings)

    def _server(self) -> Engine:
        """vLLM, or the server that is configured, asked for this student."""
        from eeflib.policies.loading import served
        from eeflib.policies.server import ServerEngine, serve

        _ = self.fingerprint  # which reads the weights, and the hub where they are not here yet
        self.unload()  # their memory is the server's now
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

    def save(
        self,
        folder: str | Path,
        *,
        merged: bool = False,
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    ) -> Path:
        """Write it as safetensors with its tokenizer; `Student(folder)` and peft or transformers
        load that.

        Args:
            folder: created, or replaced if it holds a student that was saved or trained.
            merged: a whole model without adapter; merging takes the model's size in RAM.
            dtype: of a merged model.

        Returns:
            The folder, with what was tuned: an adapter, or a whole model.

        Raises:
            DataError: something else is in the folder, it cannot be written, or the disk is full.
        """
        from eeflib.policies.loading import CARD, NAMES, holds_training, replaced, write_card

        folder = Path(folder).absolute()
        if folder.exists() and not holds_training(folder):
            raise DataError(f"{folder} exists and holds no saved student; choose another folder")
        source = self.folder or (None if self.name in NAMES else Path(self.name).expanduser())
        model: Any = None
        tokenizer: Any = None
        if merged:
            import torch

            model, tokenizer = self._load(device="cpu", dtype=getattr(torch, dtype))
            if hasattr(model, "merge_and_unload"):
                model = model.merge_and_unload(safe_merge=True)
        elif source is None or not source.is_dir():
            source, (model, tokenizer) = None, self.loaded
        with replaced(folder, folder.with_name(f".{folder.name}.partial")) as final:
            if source is not None and model is None:
                shutil.copytree(source, final, dirs_exist_ok=True)
            else:
                model.save_pretrained(final)
                tokenizer.save_pretrained(final)
            if not (final / CARD).exists():
                card = {"schema": 1, "student": self.name, "merged": merged, "hint": self.hint}
                write_card(final, card)
        return folder

    def push_to_hub(self, name: str, *, merged: bool = False, private: bool = True) -> str:
        """Upload what `save` writes to the model repository `name` (owner/name); its address.

        Raises:
            PrerequisiteError: the hub cannot be reached, or refuses (log in with `hf auth login`).
        """
        from httpx import HTTPError
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory(prefix="eef-push-") as work:
            folder = self.save(Path(work, "model"), merged=merged)
            try:
                hub = HfApi()
                address = hub.create_repo(name, private=private, exist_ok=True)
                hub.upload_folder(repo_id=name, folder_path=folder)
            except (OSError, ValueError, HTTPError) as exc:
                raise PrerequisiteError(
                    f"{name} cannot be pushed: {exc}; log in with `hf auth login`, with a token "
                    "that may write"
                ) from exc
        return str(address)

    def save_gguf(self, folder: str | Path, quantization: str = "q8_0") -> None:
        """Write the merged model as GGUF into `folder`, by Unsloth's call of llama.cpp.

        Raises:
            PrerequisiteError: the student's backend is not `unsloth`; says what to run by hand.
        """
        if self.config.backend != "unsloth":
            raise PrerequisiteError(
                "GGUF is written by llama.cpp: save a whole model with student.save('merged', "
                "merged=True), get llama.cpp and its requirements.txt, and run `python llama.cpp/"
                f"convert_hf_to_gguf.py merged --outtype {quantization} --outfile student.gguf`; "
                "or use Unsloth, which does all that: Student(name, backend='unsloth')"
            )
        from unsloth import FastLanguageModel

        with tempfile.TemporaryDirectory(prefix="eef-gguf-") as work:
            merged = self.save(Path(work, "merged"), merged=True)
            model, tokenizer = FastLanguageModel.from_pretrained(
                str(merged), load_in_4bit=False, trust_remote_code=False
            )
            model.save_pretrained_gguf(str(folder), tokenizer, quantization_method=quantization)

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


class _Shared:
    """A base in memory and the adapter that is on it.

    peft puts an adapter into the layers of the model itself and takes it out again, so that the
    base acts as whichever student was asked for last.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._adapted: Any = None
        self.folder: Path | None = None

    def use(self, folder: Path | None) -> Any:
        """The base with the adapter in `folder`, or bare."""
        import torch

        from eeflib.policies.loading import adapted

        if folder != self.folder:
            with torch.inference_mode(False):  # training may go on from this adapter
                if self._adapted is not None:
                    self._adapted.unload()
                self._adapted, self.folder = None, None
                if folder is not None:
                    self._adapted = adapted(self._model, self._name, folder).eval()
                    self.folder = folder
        return self._model if self._adapted is None else self._adapted


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
