"""GRPO beside EEF on the shipped run's development seeds: same clone, as many rollouts.

    python scripts/grpo_beside.py --work DIR [--seed 100] [--learning-rate 5e-5]

For each seed the clone is trained as the shipped run's settings say (it ships no such weights);
then trl's GRPOTrainer trains it with about as many rollouts as the run's EEF took, on the same
training tasks. Its student and the clone play the test tasks; the other methods' outcomes are those
of the shipped run. A seed that is done is not done again. About four minutes a seed on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import eeflib as eef

GROUP, TASKS = 8, 2
"""Rollouts of a task, tasks in a step."""


def play(seed: int, rate: float, work: Path) -> dict[str, Any]:
    """A row for `seed`: wins on the test tasks, and what it took."""
    from trl import GRPOConfig, GRPOTrainer

    shipped = eef.example_run(work / "shipped").at(seed)
    world, base = shipped.world(), shipped.student()
    successes = eef.encode(eef.select(shipped.trajectories(), method="SFT"), base)
    started = time.time()
    clone = eef.train(base, successes, output=work / f"clone-{seed}", progress=False)
    outcomes = {"SFT": eef.evaluate(world, clone, progress=False)}
    rollouts = len(shipped.branches("EEF"))
    settings = GRPOConfig(
        output_dir=str(work / f"grpo-{seed}-{rate}"), max_steps=round(rollouts / GROUP / TASKS),
        learning_rate=rate, seed=seed, bf16=False, per_device_train_batch_size=GROUP * TASKS,
        num_generations=GROUP, use_cpu=not torch.cuda.is_available(), report_to="none",
        save_strategy="no", logging_steps=1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=clone.model, processing_class=clone.tokenizer, args=settings,
        train_dataset=eef.interop.trl_dataset(world, ids=True),
        rollout_func=eef.interop.trl_rollouts(world, clone), reward_funcs=eef.interop.trl_reward,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(settings.output_dir)
    how = {"prompt": clone.config.prompt, "mode": clone.config.mode}
    tuned = eef.Student(settings.output_dir, **how)
    outcomes["GRPO"] = eef.evaluate(world, tuned, progress=False)
    for name in ("RFTx6", "EEF"):
        outcomes[name] = [replace(e, method=name) for e in shipped.evaluations(name)]
    log = [row for row in trainer.state.log_history if "reward" in row]
    return {
        "seed": seed,
        "won": {name: eef.win_rate(found).wins for name, found in outcomes.items()},
        "n": len(outcomes["GRPO"]),
        "rollouts": {"EEF": rollouts, "GRPO": len(log) * GROUP * TASKS},
        "learning_rate": rate,
        "groups_that_taught_nothing": sum(r["frac_reward_zero_std"] for r in log) / len(log),
        "seconds": round(time.time() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--seed", type=int, action="append", help="100, 101 or 102; all if not given"
    )
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    options = parser.parse_args()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for seed in options.seed or (100, 101, 102):
        done = options.work / f"seed-{seed}-{options.learning_rate}.json"
        if not done.exists():
            options.work.mkdir(parents=True, exist_ok=True)
            row = play(seed, options.learning_rate, options.work)
            done.write_text(json.dumps(row) + "\n", "utf-8")
        print(done.read_text("utf-8").strip())


if __name__ == "__main__":
    main()
