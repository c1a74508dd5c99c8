"""A real vLLM in a process of its own: `make test-vllm`, where EEFLIB_VLLM_PYTHON names one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from eeflib.policies import server
from eeflib.policies.base import Conversation, Message
from eeflib.policies.engines import EnginePolicy
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.policies.loading import load_student, served

pytestmark = pytest.mark.skipif(
    not os.environ.get(server.PYTHON), reason=f"{server.PYTHON} names no interpreter with vLLM"
)
NAME = "smollm2"
ACTIONS = ("click[Next >]", "click[Back to Search]", "click[B0001]", "look")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter as training writes it, far enough from the base to change what is written."""
    import torch
    from peft import LoraConfig, get_peft_model

    model, _ = load_student(NAME, dtype=torch.float32)
    torch.manual_seed(0)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=layers))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def here(adapter):
    """(the tuned student by transformers, how it is asked)."""
    import torch

    model, tokenizer = load_student(NAME, adapter=adapter, dtype=torch.float32)
    policy = HuggingFacePolicy(model, tokenizer, name=NAME, greedy=True, max_new_tokens=12)
    return policy, policy.tokens


@pytest.fixture(scope="module")
def engine(adapter, here):
    yield server.serve(served(NAME)[0], here[1], adapter=adapter)
    server.release()


def asked(n: int, turns: int = 2) -> list[Conversation]:
    out = []
    for i in range(n):
        said = [Message("user", f"Instruction: find red shirt number {i} under ${20 + i}.00")]
        for t in range(turns):
            said.append(Message("assistant", f"Thought: page {t}\nAction: search[red shirt {i}]"))
            said.append(Message("user", f"Page {t} [SEP] B000{i} [SEP] red cotton shirt [SEP] $12"))
        out.append(Conversation(tuple(said), f"e{i}", ACTIONS))
    return out


def rngs(n: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def test_greedy_tokens_are_those_of_transformers(here, engine, adapter):
    policy, chat = here
    there = EnginePolicy(engine, chat, name=NAME, greedy=True, max_new_tokens=12)
    conversations = asked(6)
    mine = policy.act(conversations, rng=rngs(6))
    theirs = there.act(conversations, rng=rngs(6))
    assert [r.error for r in theirs] == [""] * 6
    assert [r.text for r in theirs] == [r.text for r in mine]
    assert [r.usage.prompt_tokens for r in theirs] == [r.usage.prompt_tokens for r in mine]
    np.testing.assert_allclose(
        [r.logprob for r in theirs], [r.logprob for r in mine], rtol=1e-3, atol=1e-3
    )
    base = server.serve(served(NAME)[0], chat)
    assert base.model == "student"  # the same process, without the adapter
    plain = EnginePolicy(base, chat, name=NAME, greedy=True, max_new_tokens=12)
    untuned = [r.logprob for r in plain.act(conversations, rng=rngs(6))]
    assert not np.allclose(untuned, [r.logprob for r in mine], atol=0.05)


def test_a_seed_decides_a_reply_and_the_log_probability_is_the_models(here, engine):
    chat = here[1]
    there = EnginePolicy(engine, chat, name=NAME, temperature=1.5, max_new_tokens=8)
    conversations = asked(3)
    once = there.act(conversations, rng=rngs(3, 1))
    assert [r.text for r in there.act(conversations, rng=rngs(3, 1))] == [r.text for r in once]
    assert [r.text for r in there.act(conversations, rng=rngs(3, 2))] != [r.text for r in once]
    assert all(r.logprob is not None and r.logprob < 0 for r in once)


@pytest.mark.parametrize("actions", [ACTIONS, (*ACTIONS, "search[<text>]")])
def test_a_choice_is_an_admissible_action(here, engine, actions):
    there = EnginePolicy(engine, here[1], name=NAME, mode="admissible", temperature=1.0)
    conversations = [Conversation(c.messages, c.key, actions) for c in asked(4)]
    for reply in there.act(conversations, rng=rngs(4)):
        assert reply.error == ""
        free = reply.text.startswith("search[") and reply.text.endswith("]")
        assert reply.text in actions or ("search[<text>]" in actions and free)


def test_prompts_that_share_their_start_are_encoded_once(here, engine):
    def hits() -> float:
        text = urllib.request.urlopen(engine.url.removesuffix("/v1") + "/metrics").read().decode()
        rows = [row for row in text.splitlines() if row.startswith("vllm:prefix_cache_hits_total")]
        return sum(float(row.split()[-1]) for row in rows)

    there = EnginePolicy(engine, here[1], name=NAME, greedy=True, max_new_tokens=1)
    long = asked(1, turns=12)
    there.act(long, rng=rngs(1))
    before = hits()
    there.act(long, rng=rngs(1))
    assert hits() - before >= 128  # a block


PROGRAM = """
import sys, time
from eeflib.policies import server
from eeflib.policies.chat import Chat
from eeflib.policies.loading import load_tokenizer, served
chat = Chat.of(load_tokenizer("tiny"))
server.serve(served("tiny")[0], chat)
print("ready", flush=True)
time.sleep({wait})
"""


def left(mark: str) -> list[str]:
    """Processes whose environment holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("killed", [True, False])
def test_no_process_stays_behind(killed):
    mark = f"EEF_TEST_MARK={os.getpid()}-{killed}"
    environment = os.environ | dict([mark.split("=")])
    wait = 600 if killed else 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait)], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert not killed or len(left(mark)) >= 3  # ours, the keeper, vLLM
    if killed:
        process.send_signal(signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + 60
    while left(mark) and time.monotonic() < patience:
        time.sleep(0.5)
    assert left(mark) == []
