"""Training speed of a tiny student: real tokens per second, ours against a plain loop.

    python benchmarks/train_tokens.py [--json] [--samples 96] [--rounds 3] [--threads 1]

A 4-layer Llama with d = 64 and 2,000 words, random weights, all of them trained, episodes of 200
to 900 tokens of which 6 % carry loss. Ours: batches of like length, no attention mask, only trained
positions through the vocabulary layer, fused AdamW. Plain: batches as they come, padded and masked,
all logits, the model's own loss. Both train on the same samples in turn in this very run; padding
does not count. Seconds are processor seconds, because the machine may do other work.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eeflib.batches import padded
from eeflib.config import TrainConfig
from eeflib.masking import IGNORE, Encoded, EncodedSet
from eeflib.optimise import optimise

GOALS = {"tokens_per_second": (8_000.0, "tokens/s"), "over_plain": (1.5, "x")}
BATCH = 16


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=64, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def episodes(count: int) -> EncodedSet:
    rng = np.random.default_rng(0)
    items = []
    for i in range(count):
        ids = rng.integers(0, 2000, rng.integers(200, 900)).astype(np.int32)
        labels = np.where(rng.random(len(ids)) < 0.06, ids, IGNORE).astype(np.int32)
        labels[-1] = ids[-1]
        zeros = np.zeros(len(ids))
        items.append(
            Encoded(
                str(i),
                "",
                ids,
                labels,
                zeros.astype(np.uint8),
                zeros.astype(np.int16),
                zeros.astype(np.int32),
            )
        )
    return EncodedSet(tuple(items))


def ours(model: LlamaForCausalLM, data: EncodedSet, seed: int) -> None:
    config = TrainConfig(
        method="full", batch_size=BATCH, epochs=1, learning_rate=1e-3, dtype="float32", seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        optimise(
            model,
            data,
            config,
            job="benchmark",
            checkpoint=Path(folder) / "checkpoint.safetensors",
        )


def plain(model: LlamaForCausalLM, data: EncodedSet, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    order = np.random.default_rng(seed).permutation(len(data))
    for at in range(0, len(order), BATCH):
        batch = [data.items[i] for i in order[at : at + BATCH]]
        optimizer.zero_grad()
        model(**padded(batch), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=96, help="episodes in the set")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each loop, in turn")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    base, data = llama(), episodes(args.samples)
    tokens = data.counts["tokens"]
    loops = {"ours": ours, "plain": plain}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    few = EncodedSet(data.items[:BATCH])
    for loop in loops.values():  # first calls load kernels
        loop(copy.deepcopy(base), few, 0)
    for number in range(args.rounds):
        for name, loop in loops.items():
            model = copy.deepcopy(base).train()
            start = time.process_time()
            loop(model, data, number)
            speeds[name].append(tokens / (time.process_time() - start) * args.threads)
    best = {name: max(found) for name, found in speeds.items()}
    values = {"tokens_per_second": best["ours"], "over_plain": best["ours"] / best["plain"]}
    rows = {
        name: {
            "value": round(value, 2),
            "goal": GOALS[name][0],
            "unit": GOALS[name][1],
            "holds": value >= GOALS[name][0],
        }
        for name, value in values.items()
    }
    rows["plain_tokens_per_second"] = {
        "value": round(best["plain"], 2), "goal": None, "unit": "tokens/s", "holds": True,
    }  # fmt: skip
    for name, row in rows.items():
        goal = "for comparison" if row["goal"] is None else f"goal: at least {row['goal']}"
        print(f"{name}: {row['value']} {row['unit']} ({goal})")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
