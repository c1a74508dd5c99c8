"""The tiny student: a Llama of about 0.3 million parameters that reads but cannot shop yet.

It is a stand-in for a pretrained LLM that a laptop CPU trains in seconds: it goes through the same
transformers and peft code as a real model, with its own tokenizer (whole words of the embedded
tasks, single characters for anything else).

`scripts/tiny/pretrain.py` made it, on synthetic reading and copying exercises only: no WebShop
action, no navigation, no reward. `eeflib/data/tiny/pretraining.json` has its scores on fresh
exercises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eeflib import data
from eeflib.errors import PrerequisiteError

__all__ = ["load_tiny", "tiny_path"]


def tiny_path() -> Path:
    """The shipped model folder: config, safetensors weights (bfloat16), tokenizer."""
    return data.path("tiny")


def load_tiny(path: Path | str | None = None) -> tuple[Any, Any]:
    """(model in float32, tokenizer).

    Args:
        path: another folder of the same kind (a pretraining of your own).

    Raises:
        PrerequisiteError: transformers is not installed, or the folder is missing.
    """
    try:
        import torch
        from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
    except ImportError as exc:
        raise PrerequisiteError(
            f"{exc.name} is missing: pip install 'eeflib[train]' to use the tiny student"
        ) from None
    folder = Path(path) if path is not None else tiny_path()
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    return model, tokenizer
