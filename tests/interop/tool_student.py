"""A very small student that calls tools: a random Qwen2, tuned on the teacher's solved episodes.

Not a test file. Everything is built here, nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import get_json_schema

from eeflib.envs.webshop.pages import parse_action
from eeflib.records import Trajectory

Messages = list[dict[str, Any]]
ARGUMENT = {"search": "keywords", "click": "value"}
TEMPLATE = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"


def transcript(trajectory: Trajectory, prompt: Messages) -> Messages:
    """An episode as trl plays it: tool calls, and the shop's pages as their results."""
    *before, last = prompt
    pages = [step.observation for step in trajectory.steps] + [trajectory.final_observation]
    messages = [*before, {**last, "content": last["content"] + pages[0]}]
    for step, page in zip(trajectory.steps, pages[1:], strict=True):
        name, value = parse_action(step.action)
        call = {"name": name, "arguments": {ARGUMENT[name]: value}}
        calls = [{"type": "function", "function": call}]
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        messages.append({"role": "tool", "name": name, "content": page})
    return [*messages, {"role": "assistant", "content": "Done."}]


def make_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE of `texts`, with the template of Qwen2.5, which takes tools."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE.read_text("utf-8"),
    )


def encode(tokenizer: Any, messages: Messages, tools: list[Callable[..., str]]) -> torch.Tensor:
    """Ids and labels, 2 x 1 x length; only the assistant's turns are trained."""

    def length(upto: int, asks: bool) -> int:
        return len(render(messages[:upto], add_generation_prompt=asks))

    def render(some: Messages, **options: bool) -> list[int]:
        return tokenizer.apply_chat_template(some, tools=tools, return_dict=False, **options)

    ids = render(messages)
    labels = [-100] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = length(i, True), length(i + 1, False) - 1  # a line feed follows the end
            labels[start:end] = ids[start:end]
    return torch.tensor([[ids], [labels]])


def save_tool_student(
    folder: Path, chats: list[Messages], tools: list[Callable[..., str]], steps: int, seed: int
) -> None:
    """Tune a student on `chats` until it knows them by heart, but for a slip now and then."""
    texts = [json.dumps(get_json_schema(tool)) for tool in tools]
    texts += [m["content"] + json.dumps(m.get("tool_calls", "")) for chat in chats for m in chat]
    tokenizer = make_tokenizer(texts)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.06,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # splits words as Qwen2's does
    rows = [encode(tokenizer, chat, tools) for chat in chats]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        ids, labels = rows[step % len(rows)]
        trained = torch.nonzero(labels[0] != -100)[:, 0]
        scores = model(input_ids=ids, logits_to_keep=trained - 1).logits[0]
        torch.nn.functional.cross_entropy(scores, labels[0, trained]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
