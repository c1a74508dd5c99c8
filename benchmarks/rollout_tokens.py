"""Roll-out speed of a tiny student: tokens and decisions per CPU second, with and without a cache.

    python benchmarks/rollout_tokens.py [--json] [--batch 256] [--threads 1]

CPU seconds, not wall-clock: the figures hold on a machine that does other things as well.
Conversations as in WebShop: a page of about 150 tokens a turn, a choice among a dozen admissible
actions. Random weights: the speed does not depend on what the model knows. "Naive" encodes every
prompt whole at every step; both sides answer the same kind of conversations in this very run.
A token counts once, when it enters a conversation, however often it is encoded.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eeflib.policies.base import Conversation, Message
from eeflib.policies.huggingface import HuggingFacePolicy

GOALS = {"cached_tokens_per_second": 10_000, "cached_over_naive": 2.0}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def words() -> list[str]:
    syllables = ["ka", "lo", "mi", "ret", "sun", "dor", "vel", "pax", "tri", "bo"]
    return [a + b + c for a in syllables for b in syllables for c in syllables]


def tokenizer(size: int = 2000) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = [f"click[{w}] {w}" for w in words()]
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet),
    )
    out = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=specials[0], eos_token=specials[1],
        extra_special_tokens=specials[2:],
    )  # fmt: skip
    out.chat_template = TEMPLATE
    return out


def llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rollouts(policy: HuggingFacePolicy, episodes: int, turns: int, seed: int) -> tuple[int, float]:
    """(tokens that entered the conversations, CPU seconds)."""
    draw = np.random.default_rng(seed)
    vocabulary = words()
    histories: list[list[Message]] = [[] for _ in range(episodes)]
    generators = [np.random.default_rng([seed, i]) for i in range(episodes)]
    keys = [f"{seed}-{i}" for i in range(episodes)]
    started, lengths = time.process_time(), [0] * episodes
    for turn in range(turns):
        asked = []
        for key, history in zip(keys, histories, strict=True):
            page = " [SEP] ".join(draw.choice(vocabulary, int(draw.integers(14, 28))))
            actions = [f"click[{w}]" for w in draw.choice(vocabulary, 12)]
            actions += ["search[<text>]"] if turn == 0 else ["click[back to search]"]
            history.append(Message("user", page))
            asked.append(Conversation(tuple(history), key, tuple(actions)))
        replies = policy.act(asked, rng=generators)
        for i, (history, reply) in enumerate(zip(histories, replies, strict=True)):
            history.append(Message("assistant", reply.text))
            lengths[i] = reply.usage.prompt_tokens + reply.usage.completion_tokens
    policy.forget(keys)
    return sum(lengths), time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line of stdout is one object")
    parser.add_argument("--batch", type=int, default=256, help="episodes at once, cached")
    parser.add_argument("--naive-batch", type=int, default=32, help="episodes at once, naive")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tok = tokenizer()
    model = llama(len(tok))
    speeds, decisions, turn_tokens = {}, {}, 0.0
    for name, cached, batch in (
        ("cached", True, args.batch), ("naive", False, args.naive_batch),
    ):  # fmt: skip
        policy = HuggingFacePolicy(model, tok, name=name, mode="admissible", cached=cached)
        rollouts(policy, 4, 2, seed=1)
        tokens, seconds = rollouts(policy, batch, args.turns, seed=2)
        speeds[name], decisions[name] = tokens / seconds, batch * args.turns / seconds
        turn_tokens = tokens / (batch * args.turns)
        print(
            f"{name}: {tokens} tokens, {seconds:.1f} CPU s, {speeds[name]:,.0f} tokens/s, "
            f"{decisions[name]:,.0f} decisions/s, {turn_tokens:.0f} tokens a turn"
        )
    values = {
        "cached_tokens_per_second": (speeds["cached"], "tokens/CPU s"),
        "cached_over_naive": (speeds["cached"] / speeds["naive"], "x"),
    }
    rows = {
        name: {
            "value": round(value, 2), "goal": GOALS[name], "unit": unit,
            "holds": bool(value >= GOALS[name]),
        }
        for name, (value, unit) in values.items()
    }  # fmt: skip
    if args.json:
        print(json.dumps(rows))
    else:
        for name, row in rows.items():
            print(f"{name}: {row['value']} {row['unit']} (goal {row['goal']})")


if __name__ == "__main__":
    main()
