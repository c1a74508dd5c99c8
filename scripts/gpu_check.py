"""Do both training backends work on this machine's NVIDIA GPU, and do they agree?

    python scripts/gpu_check.py [--model PATH_OR_NAME] [--steps 30] [--cpu] [--out FILE]

Trains a LoRA adapter on the same generated episodes with peft and with Unsloth, in bfloat16 and,
where bitsandbytes is installed, on a 4-bit base. Checks that the first losses agree (a fresh
adapter changes nothing, so both must measure the base model) and that the losses fall; measures
tokens per second and peak memory. Without --model it builds a small random Llama, so nothing is
downloaded. The last line of stdout is one JSON object. Exit code: 0 all checks hold, 1 one does
not, 2 there is no GPU. `--cpu` runs the same, smaller, on the CPU.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import random
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eeflib.config import TrainConfig
from eeflib.errors import EefError
from eeflib.masking import EncodedSet, encode_samples
from eeflib.prompts import get_format
from eeflib.records import Label, Sample, Step
from eeflib.training import TrainResult, train

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
PACKAGES = ("torch", "transformers", "peft", "unsloth", "unsloth_zoo", "bitsandbytes", "triton")


def build_model(folder: Path, small: bool) -> str:
    """A random Llama with a byte-level tokenizer, written to `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["click[Buy Now] search[red shirt] page"],
        trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=SPECIAL[1], pad_token=SPECIAL[1], chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    width, layers = (64, 2) if small else (1024, 12)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=max(2, width // 64),
        num_key_value_heads=max(2, width // 128), max_position_embeddings=4096,
        initializer_range=0.2 if small else 0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def episodes(count: int, pages: int) -> list[Sample]:
    """Episodes whose first action is harmful context and whose second one is trained."""
    rng = random.Random(0)
    items = ["red shirt", "blue lamp", "green mug", "black sofa"]
    out = []
    for i in range(count):
        item = rng.choice(items)
        page = " ".join(f"{rng.choice(items)} ${rng.randint(5, 90)}" for _ in range(pages))
        steps = (
            Step("A search box.", "click[Buy Now]", "teacher"),
            Step(page, f"search[{item}]", "student"),
        )
        labels: tuple[Label, ...] = ("harmful", "student")
        out.append(
            Sample(
                f"e{i}", f"t{i}", "webshop", f"find a {item}", "s0", steps, (False, True), labels
            )
        )
    return out


def one_run(
    base: str, data: EncodedSet, config: TrainConfig, folder: Path, backend: Any
) -> dict[str, Any]:
    """Train once; an error is a row, so that the other runs still happen."""
    row: dict[str, Any] = {"backend": backend, "bits": 4 if config.load_in_4bit else 16}
    if config.device == "cpu":
        row["bits"] = 32
    try:
        result: TrainResult = train(base, data, config, folder, backend=backend)
    except EefError as exc:
        return {**row, "error": str(exc)}
    return {
        **row,
        "steps": result.steps,
        "first_loss": round(result.losses[0], 4),
        "last_loss": round(sum(result.losses[-3:]) / 3, 4),
        "tokens_per_second": round(result.tokens_per_second, 1),
        "peak_memory_gb": result.peak_memory_bytes and round(result.peak_memory_bytes / 1e9, 3),
        "seconds": round(result.seconds, 2),
    }


def judge(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """The checks, by name."""
    checks = {"all ran": all("error" not in r for r in runs)}
    good = [r for r in runs if "error" not in r]
    for row in good:
        checks[f"{row['backend']} {row['bits']} bit: loss falls"] = (
            row["last_loss"] < 0.9 * row["first_loss"]
        )
    for bits in sorted({r["bits"] for r in good}):
        first = [r["first_loss"] for r in good if r["bits"] == bits]
        if len(first) == 2:
            tolerance = 0.001 if bits == 32 else 0.03
            checks[f"{bits} bit: first losses agree"] = (
                abs(first[0] - first[1]) <= tolerance * first[0]
            )
    return checks


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or hub name; default: a random Llama built here")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps of each run")
    parser.add_argument("--cpu", action="store_true", help="the same, smaller, on the CPU")
    parser.add_argument("--out", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    import torch

    if not args.cpu and not torch.cuda.is_available():
        print(
            f"no NVIDIA GPU: torch {torch.__version__} sees none. Run this on a machine with one "
            "and a CUDA build of torch, or pass --cpu to test the script itself.",
            file=sys.stderr,
        )
        return 2
    config = TrainConfig(
        device="cpu" if args.cpu else "cuda", max_steps=args.steps, schedule="constant",
        learning_rate=2e-4 if args.model else 1e-2 if args.cpu else 1e-3,
        batch_size=4 if args.cpu else 8, warmup=0.0,
    )  # fmt: skip
    runs = []
    with tempfile.TemporaryDirectory(prefix="eef-gpu-check-") as name:
        folder = Path(name)
        base = args.model or build_model(folder / "base", args.cpu)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        samples = episodes(16, 4) if args.cpu else episodes(256, 60)
        data = encode_samples(samples, get_format("react", "webshop"), tokenizer)
        four_bit = not args.cpu and importlib.util.find_spec("bitsandbytes") is not None
        for backend in ("peft", "unsloth"):  # importing unsloth patches transformers
            for bits4 in (False, True) if four_bit else (False,):
                setting = TrainConfig.from_dict({**config.to_dict(), "load_in_4bit": bits4})
                out = folder / f"{backend}-{bits4}"
                runs.append(one_run(base, data, setting, out, backend))
                print(runs[-1], file=sys.stderr)
    checks = judge(runs)
    report = {
        "date": datetime.date.today().isoformat(),
        "device": "cpu" if args.cpu else torch.cuda.get_device_name(),
        "model": args.model or "random Llama built by the script",
        "tokens_per_sample": round(data.counts["tokens"] / len(data)),
        "versions": versions(),
        "four_bit": "measured" if four_bit else "not measured (bitsandbytes or GPU missing)",
        "runs": runs,
        "checks": checks,
        "ok": all(checks.values()),
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps(report))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
