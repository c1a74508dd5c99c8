"""Pretrain the tiny student on reading exercises: eeflib/data/tiny (safetensors, bfloat16).

    OMP_NUM_THREADS=1 python scripts/tiny/pretrain.py --out eeflib/data/tiny

One CPU core. Deterministic for a given seed and number of steps. `--init` continues from a folder.

The shipped weights came out of three such runs, each continuing the one before, while the exercises
were being made: `eeflib/data/tiny/pretraining.json` says which. One run of the script as it is now,
from scratch, has not been tried; expect about an hour.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from exercises import encode, make_document
from tokenizer import build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from eeflib.envs.webshop import shop as words


def build_model(vocab_size: int, pad: int, end: int, args) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        head_dim=args.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
        initializer_range=0.06,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    # Attention starts out as "look at the same word": keys equal queries in the first layers, and
    # a slow rotary base keeps that true over hundreds of tokens. Without it one core needs hours.
    for layer in model.model.layers[: args.matching_layers]:
        q, k = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
        q.data.normal_(0.0, args.matching_std)
        k.data.copy_(q.data)
    return model


def batch_of(rng, tokenizer, size, max_items):
    """`size` documents of similar length out of 2 x size, as padded tensors."""
    docs = [encode(make_document(rng, max_items), tokenizer) for _ in range(2 * size)]
    docs.sort(key=lambda d: len(d[0]))
    at = int(rng.integers(2)) * size
    docs = docs[at : at + size]
    width = len(docs[-1][0])
    out = np.full((4, size, width), -100)
    out[0] = 0
    for i, rows in enumerate(docs):
        for j, row in enumerate(rows):
            out[j, i, : len(row)] = row
    return [torch.from_numpy(x).long() for x in out]


def losses(model, ids, labels, hints, id_hints, marks, heads, none, args):
    """(answers, reading hints, id hints): mean cross-entropies.

    Hints are read off after layer `args.hint_layer`, so that what was read is there for the layers
    above to answer with. A hint competes only with its own kind of token (`marks` or `heads`), so
    the two kinds can share a position.
    """
    out = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
    hidden, early = out.last_hidden_state, model.model.norm(out.hidden_states[args.hint_layer])
    at = labels >= 0
    token_losses = F.cross_entropy(model.lm_head(hidden[at]), labels[at], reduction="none")
    # which listing, or none: one token an answer, but the one that is hard to learn
    weight = 1.0 + args.listing_weight * torch.isin(labels[at], heads) + 3.0 * (labels[at] == none)
    answer = (weight * token_losses).sum() / weight.sum()
    out = [answer]
    for target, kind in ((hints, marks), (id_hints, heads)):
        at = target >= 0
        if not at.any():
            out.append(answer.detach() * 0)
            continue
        logits = early[at] @ model.lm_head.weight[kind].T
        out.append(F.cross_entropy(logits, torch.searchsorted(kind, target[at])))
    return out


@torch.no_grad()
def look_for_match(model, tokenizer, docs=48, sharpness=20.0) -> None:
    """Point the last layer's first head from an answer's begin to the listing that matches.

    Once reading works (hints near 0), a price's state says `yes` and which listing it belongs to.
    Gradients alone are slow to look there: on a page of ten the head sees one listing in four
    hundred tokens, and settles for the words that follow it. So the head is set: its query for an
    answer's begin, its key for a matching price, both in the slow rotary dimensions, where position
    does not matter; its value and output copy ids. Training goes on from there.
    """
    rng = np.random.default_rng(99)
    yes, answer = tokenizer.convert_tokens_to_ids(["yes", "answer["])
    heads = tokenizer.convert_tokens_to_ids(list(words.ASIN_HEADS))
    layer = model.model.layers[-1]
    states: dict[str, list[torch.Tensor]] = {"begin": [], "match": [], "other": []}
    for _ in range(docs):
        ids, _, hints, id_hints = encode(make_document(rng, 10), tokenizer)
        found = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        x = layer.input_layernorm(found.hidden_states[-2][0])
        begins = torch.tensor(ids) == answer
        matches = (torch.tensor(hints) == yes) & (torch.tensor(id_hints) >= 0)
        states["begin"].append(x[begins])
        states["match"].append(x[matches])
        states["other"].append(x[~begins & ~matches])
    begin, match, other = (torch.cat(states[k]) for k in ("begin", "match", "other"))
    # directions that tell them apart, whitened: answers 1 for the one kind and about 0 for others
    cov = torch.cov(other.T) + 0.05 * other.var(0).mean() * torch.eye(other.shape[1])

    def detector(kind: torch.Tensor) -> torch.Tensor:
        offset = kind.mean(0) - other.mean(0)
        w = torch.linalg.solve(cov, offset)
        return w / (w @ offset)

    dim = model.config.head_dim
    attention = layer.self_attn
    for weights, kind in ((attention.q_proj.weight, begin), (attention.k_proj.weight, match)):
        rows = torch.zeros(dim, weights.shape[1])
        slow = torch.arange(dim // 2 - 4, dim // 2)
        for at in (slow, slow + dim // 2):  # both halves of a rotary pair
            rows[at] = detector(kind) * (sharpness * dim**0.5 / 8) ** 0.5
        weights.data[:dim] = rows
    table = model.lm_head.weight[heads]
    basis = torch.linalg.svd(table - table.mean(0), full_matrices=False).Vh[:dim]
    attention.v_proj.weight.data[:dim] = basis
    attention.o_proj.weight.data[:, :dim] = 4.0 * basis.T


@torch.no_grad()
def evaluate(model, tokenizer, seed=12345, docs=192) -> dict[str, float]:
    """Share of answers wholly right (teacher-forced argmax), by kind of exercise, pages of 10."""
    rng = np.random.default_rng(seed)
    right: dict[str, list[bool]] = {}
    t = tokenizer
    for _ in range(docs):
        doc = make_document(rng, 10)
        ids, labels, *_ = encode(doc, t)
        x = torch.tensor([ids])
        pred = model(input_ids=x).logits[0].argmax(-1).numpy()
        lab = np.array(labels)
        ok = (pred == lab) | (lab < 0)
        answers = iter(np.flatnonzero(np.array(ids) == t.convert_tokens_to_ids("<|assistant|>")))
        for text, answer, marks in doc.turns:
            at = next(answers)
            n = 0
            while lab[at + n] >= 0:
                n += 1
            if marks:
                kind = "none" if answer == "none" else "find"
            elif answer in ("yes", "no"):
                kind = "read"
            elif answer == "done":
                kind = "done"
            else:
                words = ("WebShop", "words", "repeat")
                kind = "words" if text.split("\n")[-1].startswith(words) else "choose"
            right.setdefault(kind, []).append(bool(ok[at : at + n].all()))
    return {k: round(float(np.mean(v)), 3) for k, v in sorted(right.items())}


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--init", type=Path)
    p.add_argument("--steps", type=int, default=3600)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--hidden", type=int, default=64)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--heads", type=int, default=2)
    p.add_argument("--head-dim", type=int, default=32)
    p.add_argument("--rope-theta", type=float, default=1e6)
    p.add_argument("--matching-layers", type=int, default=2)
    p.add_argument("--matching-std", type=float, default=0.1)
    p.add_argument("--hint-weight", type=float, default=0.5)
    p.add_argument("--hint-layer", type=int, default=3, help="of --layers, counted from 1")
    p.add_argument("--listing-weight", type=float, default=3.0, help="more than other answers'")
    p.add_argument("--look-step", type=int, default=2000, help="when to `look_for_match`")
    p.add_argument("--curriculum", type=float, default=0.35, help="share of steps on short pages")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    tokenizer = build_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    if args.init:
        model = LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build_model(len(tokenizer), tokenizer.pad_token_id, end, args)
    print(f"{sum(x.numel() for x in model.parameters()):,} parameters")
    vocab = tokenizer.get_vocab()
    marks = torch.tensor(sorted(vocab[m] for m in ("yes", "half", "no", "and", "or")))
    heads = torch.tensor(sorted(vocab[h] for h in words.ASIN_HEADS))
    decay = [q for q in model.parameters() if q.ndim > 1]
    rest = [q for q in model.parameters() if q.ndim <= 1]
    opt = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    started, log = time.time(), []
    for step in range(args.steps):
        if step == args.look_step:
            look_for_match(model, tokenizer)
        warm = min(1.0, (step + 1) / 100)
        tail = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in opt.param_groups:
            group["lr"] = args.lr * warm * (0.05 + 0.95 * tail)
        progress = step / max(1.0, args.curriculum * args.steps)
        max_items = min(10, 3 + int(8 * max(0.0, progress - 0.35) / 0.65))
        batch = batch_of(rng, tokenizer, args.batch, max_items)
        answer_loss, hint_loss, id_loss = losses(model, *batch, marks, heads, vocab["none"], args)
        loss = answer_loss + args.hint_weight * (hint_loss + id_loss)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        log.append((answer_loss.item(), hint_loss.item(), id_loss.item()))
        if (step + 1) % 50 == 0:
            a, h, i = np.mean(log[-50:], axis=0)
            took = time.time() - started
            line = f"{step + 1:5d} answers {a:.3f} hints {h:.3f} ids {i:.3f} items<={max_items}"
            print(f"{line} {took:.0f}s", flush=True)
        if (step + 1) % 300 == 0 or step + 1 == args.steps:
            print("      ", evaluate(model, tokenizer), flush=True)
            save(model, tokenizer, args.out)
    scores = evaluate(model, tokenizer, seed=777, docs=600)
    card = {
        "exercises": scores,
        "steps": args.steps,
        "seed": args.seed,
        "minutes_one_core": round((time.time() - started) / 60, 1),
    }
    (args.out / "pretraining.json").write_text(json.dumps(card, indent=1) + "\n")
    print(card)


def save(model, tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
