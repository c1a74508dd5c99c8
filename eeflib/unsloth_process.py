"""The Unsloth backend: a training in a process of its own.

`train_unsloth` prepares a job folder and starts the worker; `python -m eeflib.unsloth_process JOB`
is the worker. Importing Unsloth patches transformers for the whole process and writes compiled code
into a folder; neither may happen to the caller.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eeflib.config import TrainConfig
from eeflib.errors import DataError, EefError, PrerequisiteError, ProviderError
from eeflib.masking import EncodedSet
from eeflib.training import TrainResult

__all__ = ["train_unsloth"]

log = logging.getLogger(__name__)

INSTALL = (
    'pip install "eeflib[train]" -c constraints.txt\n'
    "pip install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9 pillow triton"
)
_MARK = "\x1eeef "
"""Starts the worker's own lines: libraries print to the same stream."""
_ERRORS = {"DataError": DataError, "PrerequisiteError": PrerequisiteError}


def train_unsloth(
    base: Any, data: EncodedSet, config: TrainConfig, output: Path, *, progress: bool
) -> TrainResult:
    """As `eeflib.training.train` with `backend="unsloth"`.

    Raises:
        PrerequisiteError: Unsloth is not installed; the message holds the two commands.
        ProviderError: the worker died; the message ends with its last output.
    """
    if importlib.util.find_spec("unsloth") is None:
        raise PrerequisiteError(f"the unsloth backend needs Unsloth; install it with\n{INSTALL}")
    with tempfile.TemporaryDirectory(prefix="eef-unsloth-") as folder:
        job = Path(folder)
        data.save(job / "data.npz")
        request = {
            "base": _base_folder(base, job),
            "name": _base_name(base),
            "config": config.to_dict(),
            "output": str(output.resolve()),
        }
        (job / "job.json").write_text(json.dumps(request), "utf-8")
        answer = _start(job, progress)
    return TrainResult(**{**answer, "output_dir": output, "losses": tuple(answer["losses"])})


def _base_folder(base: Any, job: Path) -> str:
    """A folder or hub name that Unsloth can load."""
    if isinstance(base, (str, Path)):
        if Path(base).is_dir():
            return str(Path(base).resolve())
        if "/" in str(base):
            return str(base)
        from eeflib.policies.loading import load_student

        base = load_student(str(base))
    if hasattr(base[0], "peft_config"):
        raise DataError(
            "the unsloth backend starts from a base model; this one carries an adapter: give the "
            "base, or go on with backend='peft'"
        )
    from eeflib.optimise import saving

    folder = job / "base"
    with saving(folder):
        for part in base:
            part.save_pretrained(folder)
    return str(folder)


def _base_name(base: Any) -> str:
    return getattr(base[0].config, "name_or_path", "") if isinstance(base, tuple) else str(base)


def _start(job: Path, progress: bool) -> dict[str, Any]:
    """Run the worker, show its steps, return its result."""
    package = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")])),
        "UNSLOTH_COMPILE_LOCATION": str(job / "unsloth_compiled_cache"),
        "UNSLOTH_DISABLE_STATISTICS": "1",
    }
    command = [sys.executable, "-m", "eeflib.unsloth_process", str(job)]
    last: dict[str, Any] = {}
    with (
        open(job / "stderr.txt", "w", encoding="utf-8") as stderr,
        tqdm(desc="train (unsloth)", unit="step", disable=not progress) as bar,
        subprocess.Popen(
            command, cwd=job, env=environment, text=True, stdout=subprocess.PIPE, stderr=stderr
        ) as worker,
    ):
        assert worker.stdout is not None
        ended = False
        try:
            for line in worker.stdout:
                if not line.startswith(_MARK):
                    log.debug("unsloth: %s", line.rstrip())
                    continue
                last = json.loads(line[len(_MARK) :])
                if "step" in last:
                    bar.total = last["steps"]
                    bar.set_postfix(loss=f"{last['loss']:.3f}", refresh=False)
                    bar.update(last["step"] - bar.n)
            ended = True
        finally:
            if not ended:  # interrupted: do not leave a process on the GPU
                worker.kill()
    if "error" in last:
        raise _ERRORS.get(last["error"], EefError)(last["message"])
    if "result" not in last:
        tail = (job / "stderr.txt").read_text("utf-8", errors="replace").strip()[-1500:]
        raise ProviderError(
            f"the unsloth worker ended with exit code {worker.returncode} and no result; train "
            f"with backend='peft', or see its last output:\n{tail}"
        )
    return last["result"]


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(_MARK + json.dumps(message) + "\n")
    sys.stdout.flush()


def _work(job: Path) -> None:
    """The worker's end; Unsloth must be imported before transformers."""
    request = json.loads((job / "job.json").read_text("utf-8"))
    data = EncodedSet.load(job / "data.npz")
    config = TrainConfig.from_dict(request["config"])
    try:
        result = _train_here(request, data, config)
    except EefError as exc:
        _tell({"error": type(exc).__name__, "message": str(exc)})
        return
    answer = {**vars(result), "output_dir": ""}
    _tell({"result": answer})


def _train_here(request: dict[str, Any], data: EncodedSet, config: TrainConfig) -> TrainResult:
    import torch

    from eeflib import optimise
    from eeflib.training import finished, make_card, run

    device = optimise.pick_device(config.device)
    config = replace(config, dtype=optimise.pick_dtype(config.dtype, device))  # type: ignore[arg-type]
    from unsloth import FastLanguageModel  # isort: skip
    from transformers import AutoTokenizer

    full = config.method == "full"
    model, _ = FastLanguageModel.from_pretrained(
        request["base"],
        max_seq_length=max(e.length for e in data),
        dtype=torch.float32 if full else getattr(torch, config.dtype),
        load_in_4bit=config.load_in_4bit,
        full_finetuning=full,
        trust_remote_code=False,
    )
    # loaded again: Unsloth edits the tokenizer that it returns
    tokenizer = AutoTokenizer.from_pretrained(request["base"], trust_remote_code=False)
    card = make_card(request["name"], model, data, config, "unsloth")
    output = Path(request["output"])
    done = finished(output, card)
    if done is not None:
        return done
    if not full:
        model = FastLanguageModel.get_peft_model(
            model,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.target_modules),
            use_gradient_checkpointing="unsloth" if config.gradient_checkpointing else False,
            random_state=config.seed,
        )
    torch.manual_seed(config.seed)
    return run(
        model,
        tokenizer,
        data,
        config,
        output,
        card,
        optimise.own_loss,
        progress=False,
        on_step=lambda step, steps, loss: _tell({"step": step, "steps": steps, "loss": loss}),
    )


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
