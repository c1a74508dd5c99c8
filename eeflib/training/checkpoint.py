"""Resumable checkpoints: complete or absent, whenever the process dies.

Owns the files of one training's work folder. A checkpoint is written beside its name and renamed;
the newest complete one counts. Knows nothing about models or data.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

__all__ = ["load_checkpoint", "save_checkpoint"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write `folder/step-N` (N = progress["step"]) and remove older ones."""
    tensors = {f"param.{n}": p.detach().cpu().contiguous() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors.update({f"{m}.{name}": state[m].cpu().contiguous() for m in _MOMENTS})
    target = folder / f"step-{progress['step']:08d}"
    fresh = folder / f"new-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(tensors, fresh / "state.safetensors")
    (fresh / "progress.json").write_text(json.dumps({"job": job, **progress}), "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    for old in folder.glob("*-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    job: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Restore the newest checkpoint of this `job`; its progress, or None if there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            progress = json.loads((path / "progress.json").read_text("utf-8"))
            tensors = load_file(path / "state.safetensors")
        except (OSError, ValueError, SafetensorError):
            continue
        if progress.pop("job", None) != job or {f"param.{n}" for n in parameters} != {
            n for n in tensors if n.startswith("param.")
        }:
            continue
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"param.{name}"])
                optimizer.state[parameter] = {
                    # the fused AdamW keeps its step counter beside the parameter
                    "step": torch.tensor(float(progress["step"]), device=parameter.device),
                    **{m: tensors[f"{m}.{name}"].to(parameter.device) for m in _MOMENTS},
                }
        return progress
    return None
