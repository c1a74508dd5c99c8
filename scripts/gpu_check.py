"""What one GPU does with eeflib: a row for each stage of the loop, with a real LLM student.

    python scripts/gpu_check.py [--student smollm2] [--budget 540] [--out FOLDER]
    python scripts/gpu_check.py --cpu --student random      # a dry run of a minute, no weights

Stages: the hardware decision, whether the cache applies in the student's own precision, the
teacher, SFT, what the base and the clone win, a plain `generate` loop beside it, EEF and RFT with
as many rollouts, their training and tests, and last Unsloth and a 4-bit base, for importing Unsloth
patches transformers. Each row is on file (FOLDER/rows.jsonl) as soon as its stage has ended; a
stage that fails, or for which no time is left, is a row too. The last line of stdout is one JSON
object. Exit code: 0 all checks hold, 1 one does not, 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import eeflib as eef
from eeflib.config import Config, make_config
from eeflib.records import Trajectory
from eeflib.stats import wilson

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "unsloth", "unsloth_zoo", "trl"),
    *("bitsandbytes", "triton"),
)


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
        num_key_value_heads=max(2, width // 128), max_position_embeddings=16384,
        initializer_range=0.2 if small else 0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SIZES = (
    ("train", 200, 8),
    ("test", 150, 4),
    ("states", 5, 1),
    ("steps", 90, 2),
    ("batch", 128, 16),
    ("max-new", 64, 8),
    ("naive", 6, 1),
    ("unsloth", 20, 2),
)
"""Option, its value on a GPU and on a CPU: tasks, expert states, steps, episodes side by side,
tokens of a reply, episodes of the plain loop, steps with Unsloth (0: leave it out)."""


@dataclasses.dataclass
class Naive:
    """A policy that asks `generate` for one episode at a time and keeps nothing."""

    held: Any
    """The policy whose model and prompts it uses."""
    name: str = "naive"
    wants_admissible: bool = False

    def act(self, conversations: Sequence[Any], *, rng: Any) -> list[Any]:
        import torch

        from eeflib.policies.base import Reply

        out = []
        for prompt in self.held.tokens.prompts([c.messages for c in conversations]):
            ids = torch.tensor(prompt)[None].to(self.held.model.device)
            with torch.inference_mode():
                done = self.held.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=self.held.max_new_tokens,
                    eos_token_id=sorted(self.held.tokens.stop_ids),
                    pad_token_id=min(self.held.tokens.stop_ids),
                )
            new = done[0, ids.shape[1] :].tolist()
            out.append(Reply(self.held.tokens.decode(new)))
        return out

    def forget(self, keys: Sequence[str]) -> None:
        pass


class Check:
    """The stages, in order, within a budget of seconds."""

    def __init__(self, args: argparse.Namespace, folder: Path, config: Config) -> None:
        self.args, self.folder = args, folder
        self.began = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.checks: dict[str, bool] = {}
        self.run = eef.open_run(folder / "run", config, fresh=True)
        self.world = self.run.world()
        self.student = self.run.student()
        self.tuned: dict[str, Any] = {}
        self.won: dict[str, dict[str, bool]] = {}
        self.explored: dict[str, Any] = {}

    def stage(self, name: str, need: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """`work`'s row if at least `need` seconds are left; {} if it did not come to its end."""
        began = time.monotonic()
        left = self.args.budget - (began - self.began)
        if left < need:
            row: dict[str, Any] = {"skipped": f"{left:.0f} s left, {need:.0f} needed"}
        else:
            try:
                row = work()
            except Exception as exc:  # noqa: BLE001  # the next stage may still work
                where = traceback.format_exc(limit=-3)[-700:]
                row = {"error": f"{type(exc).__name__}: {exc}"[:600], "where": where}
        row = {"stage": name, "seconds": round(time.monotonic() - began, 1), **row}
        self.rows.append(row)
        with open(self.folder / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")
        print(json.dumps(row, default=str)[:600], file=sys.stderr, flush=True)
        return {} if "error" in row or "skipped" in row else row

    def all(self) -> None:
        if not self.stage("machine", 0, self.machine) or not self.stage("load", 5, self.load):
            return
        self.stage("cache", 5, self.cache)
        self.stage("teacher", 5, self.teacher)
        sft = self.stage("train SFT", 20, lambda: self.fit("SFT"))
        if not sft:
            return
        if sft["steps"] > 1:
            self.checks["the loss falls"] = sft["last_loss"] < sft["first_loss"]
        self.stage("test base", 20, lambda: self.play("base", self.student))
        got = self.stage("test SFT", 20, lambda: self.play("SFT", self.tuned["SFT"]))
        if got and not self.args.cpu:
            self.checks["the clone's actions are valid (over 80 %)"] = got["valid_actions"] > 0.8
        self.stage("naive generate", 20, self.naive)
        if self.stage("explore EEF", 40, lambda: self.explore("EEF")):
            report = self.explored["EEF"].report
            self.checks["every restore is verified"] = report.restorations == report.verified
            k = max(2, round(report.simulations / len(self.world.split("train"))))
            self.stage(f"explore RFTx{k}", 40, lambda: self.explore(f"RFTx{k}"))
        for name in list(self.explored):
            if self.stage(f"train {name}", 20, lambda name=name: self.fit(name)):  # type: ignore[misc]
                self.stage(f"test {name}", 20, lambda name=name: self.play(name, self.tuned[name]))  # type: ignore[misc]
        if len(pair := [n for n in self.won if n.startswith(("EEF", "RFT"))]) == 2:
            self.stage("EEF against RFTxk", 0, lambda: self.paired(*pair))
        self.others(sft)

    def others(self, sft: dict[str, Any]) -> None:
        """The other ways to train the clone, from the same samples: the first losses must agree."""
        ways = [("peft, 4 bit", "peft", True)] if _has("bitsandbytes") and not self.args.cpu else []
        if self.args.unsloth and _has("unsloth"):
            ways.insert(0, ("unsloth", "unsloth", False))
            ways += [("unsloth, 4 bit", "unsloth", True)] if len(ways) > 1 else []
        for name, backend, four in ways:
            given = {"backend": backend, "load_in_4bit": four, "steps": self.args.unsloth}
            row = self.stage(f"train SFT, {name}", 60, lambda given=given: self.fit("SFT", **given))  # type: ignore[misc]
            if row:
                gap = abs(row["first_loss"] - sft["first_loss"]) / sft["first_loss"]
                allowed = 0.15 if four else 0.03  # four bits round the base itself
                self.checks[f"first loss of {name} within {100 * allowed:.0f} %"] = gap < allowed

    def machine(self) -> dict[str, Any]:
        import torch

        row: dict[str, Any] = {"python": platform.python_version()}
        for name in PACKAGES:
            try:
                row[name] = version(name)
            except PackageNotFoundError:
                row[name] = None
        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            row |= {
                "gpu": found.name,
                "memory_gb": round(found.total_memory / 1e9, 1),
                "capability": f"{found.major}.{found.minor}",
            }
        return {**row, "hardware": str(eef.hardware(self.student))}

    def load(self) -> dict[str, Any]:
        model = self.student.model
        return {
            "student": self.student.name,
            "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
            "dtype": str(model.dtype),
            "device": str(model.device),
        }

    def cache(self) -> dict[str, Any]:
        """Does the engine keep keys and values of this model, in its own precision?"""
        kept = self.student.policy().decoder.cached  # type: ignore[attr-defined]
        self.checks["the cache applies in the student's precision"] = kept
        return {"cached": kept}

    def teacher(self) -> dict[str, Any]:
        self.tries = eef.collect(self.world, run=self.run, progress=False)
        won = sum(t.solved for t in self.tries)
        self.checks["the teacher solves some tasks and fails some"] = 0 < won < len(self.tries)
        return {"tasks": len(self.tries), "solved": won}

    def fit(self, name: str, **settings: Any) -> dict[str, Any]:
        found = [self.explored[name]] if name in self.explored else []
        samples = eef.select(self.tries, found, name if found else "SFT")
        data = eef.encode(samples, self.student)
        tuned = eef.train(self.student, data, progress=False, **settings)
        if not settings:
            self.tuned[name] = tuned
        r = tuned.result
        card = json.loads((tuned.folder / "eef_adapter.json").read_text("utf-8"))
        four = bool(card["config"]["load_in_4bit"])
        assert four == bool(settings.get("load_in_4bit", four)), "not the bits that were asked for"
        return {
            "four_bit": four,
            "samples": len(data),
            "dropped": len(data.dropped),
            "steps": r.steps,
            "first_loss": round(r.losses[0], 4),
            "last_loss": round(sum(r.losses[-3:]) / len(r.losses[-3:]), 4),
            "tokens": r.tokens,
            "trained_tokens": r.trained_tokens,
            "tokens_per_second": round(r.tokens_per_second, 1),
            "peak_gb": r.peak_memory_bytes and round(r.peak_memory_bytes / 1e9, 2),
        }

    def told(self, rollouts: Sequence[Trajectory], began: float) -> dict[str, Any]:
        """What rollouts gave, and how fast."""
        took = time.monotonic() - began
        steps = [s for r in rollouts for s in r.steps]
        new = sum(s.usage.completion_tokens for s in steps if s.usage)
        won = sum(r.solved for r in rollouts)
        low, high = wilson(won, max(1, len(rollouts)))
        return {
            "episodes": len(rollouts),
            "won": won,
            "interval": [round(low, 3), round(high, 3)],
            "reward": round(sum(r.reward for r in rollouts) / max(1, len(rollouts)), 3),
            "steps": len(steps),
            "valid_actions": round(sum(s.valid for s in steps) / max(1, len(steps)), 3),
            "faults": sum(bool(r.error) for r in rollouts),
            "new_tokens_per_second": round(new / took, 1),
            "episodes_per_second": round(len(rollouts) / took, 2),
        }

    def play(self, name: str, student: Any) -> dict[str, Any]:
        began = time.monotonic()
        found = eef.evaluate(self.world, student, name=name, run=self.run, progress=False)
        self.won[name] = {o.task_id: o.solved for o in found}
        here = next(self.run.folder.path.glob(f"{name}/iter-*"))
        folder = self.run.folder.sub(f"{name}/{here.name}")
        return self.told(folder.found("test_rollouts", Trajectory), began)

    def naive(self) -> dict[str, Any]:
        """The usual loop: an episode at a time, the whole prompt for each reply."""
        from eeflib.rollout import Episode, run_episodes

        policy = self.tuned["SFT"].policy(greedy=True)
        self.tuned["SFT"].loaded  # noqa: B018  # its adapter is on the base
        began = time.monotonic()
        out = run_episodes(
            [Episode(t, "SFT.test") for t in self.world.split("test")[: self.args.naive]],
            Naive(policy),
            self.world.make_env,
            self.student.format(self.world.env),
            actor="student",
            seed=self.run.seed,
            batch_size=1,
        )
        return self.told(out, began)

    def explore(self, name: str) -> dict[str, Any]:
        began = time.monotonic()
        found = eef.explore(
            self.world, self.tries, self.tuned["SFT"], method=name, run=self.run, progress=False
        )
        self.explored[name] = found
        solved = {t.task_id for t in self.tries if t.solved}
        newly = {b.task_id for b in found.branches if b.won} - solved
        told = self.told([b.rollout for b in found.branches if b.rollout], began)
        report = {"restores": found.report.restorations, "verified": found.report.verified}
        return {**told, **report, "newly_solved_tasks": len(newly)}

    def paired(self, a: str, b: str) -> dict[str, Any]:
        pairs = [(self.won[a][t], self.won[b][t]) for t in self.won[a]]
        return {
            f"only {a}": sum(x and not y for x, y in pairs),
            f"only {b}": sum(y and not x for x, y in pairs),
            "n": len(pairs),
        }


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="smollm2", help="a student's name, or random")
    parser.add_argument("--cpu", action="store_true", help="the same, smaller, on a CPU")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for all stages")
    parser.add_argument("--out", type=Path, help="folder for rows.jsonl and summary.json")
    parser.add_argument("--seed", type=int, default=9)
    for name, gpu, cpu in SIZES:
        parser.add_argument(f"--{name}", type=int, help=f"default {gpu}, with --cpu {cpu}")
    args = parser.parse_args()
    for name, gpu, cpu in SIZES:
        if getattr(args, name.replace("-", "_")) is None:
            setattr(args, name.replace("-", "_"), cpu if args.cpu else gpu)
    import torch

    if not args.cpu and not torch.cuda.is_available():
        print(
            f"no NVIDIA GPU: torch {torch.__version__} sees none. Run this on a machine with one "
            "and a CUDA build of torch, or pass --cpu to test the script itself.",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="eef-gpu-check-") as name:
        student = args.student
        if student == "random":
            student = build_model(Path(name) / "random", args.cpu)
        config = make_config(
            "tiny",
            student=student,
            train=args.train,
            test=args.test,
            M=args.states,
            steps=args.steps,
            lockstep=args.batch,
            max_new_tokens=args.max_new,
            seeds=(args.seed,),
            device="cpu" if args.cpu else "auto",
            learning_rate=1e-3,
            batch_size=8,
            accumulation=1,
            temperature=0.5,
        )
        folder = args.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.jsonl").unlink(missing_ok=True)
        check = Check(args, folder, config)
        check.all()
    failed = [row["stage"] for row in check.rows if "error" in row]
    check.checks["no stage failed"] = not failed
    report = {
        "date": datetime.date.today().isoformat(),
        "student": args.student,
        "checks": check.checks,
        "failed": failed,
        "skipped": [row["stage"] for row in check.rows if "skipped" in row],
        "seconds": round(time.monotonic() - check.began, 1),
        "ok": all(check.checks.values()),
        "rows": check.rows,
    }
    if args.out:
        text = json.dumps(report, indent=1, default=str)
        (args.out / "summary.json").write_text(text + "\n", "utf-8")
    print(json.dumps(report, default=str))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
