"""Engines: the same tokens as the default's, servers over real HTTP, sampled tokens as history."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_vllm import left

from eeflib.config import Config
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import IGNORE, encode_sample
from eeflib.policies import keeper
from eeflib.policies.base import Conversation, Message
from eeflib.policies.chat import Chat
from eeflib.policies.engines import BatchEngine, EnginePolicy
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.policies.loading import load_student
from eeflib.policies.server import ServerEngine
from eeflib.policies.student import Student
from eeflib.prompts import get_format
from eeflib.records import Sample, Step, Trajectory
from eeflib.rollout import Episode, run_episodes
from eeflib.world import webshop
from tests.loopback import Answer, ChatServer, Request

sys.path.append(str(Path(__file__).parents[1] / "train"))
import tiny_models

MODEL, TOKENIZER = load_student("tiny")
CHAT = Chat.of(TOKENIZER)
SETTINGS = {"name": "tiny", "max_new_tokens": 10}
KEY = "sk-not-to-be-seen-12345"


def asked(n: int = 5) -> list[Conversation]:
    words = ["shirt", "lamp", "chair", "desk", "mug"]
    return [
        Conversation(
            (Message("user", f"find a red {words[i % 5]} under $3{i}"),), f"e{i}", ("look",)
        )
        for i in range(n)
    ]


def rngs(n: int = 5, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


GREEDY = HuggingFacePolicy(MODEL, TOKENIZER, greedy=True, **SETTINGS).act(asked(), rng=rngs())


# ---- generate_batch ---------------------------------------------------------------------------


def test_generate_batch_writes_the_default_engines_greedy_tokens():
    policy = EnginePolicy(BatchEngine(MODEL), TOKENIZER, greedy=True, **SETTINGS)
    found = policy.act(asked(), rng=rngs())
    assert [r.text for r in found] == [r.text for r in GREEDY]
    np.testing.assert_allclose([r.logprob for r in found], [r.logprob for r in GREEDY], rtol=1e-4)
    counts = [r.usage.completion_tokens for r in found]
    assert counts == [r.usage.completion_tokens for r in GREEDY]
    again = HuggingFacePolicy(MODEL, TOKENIZER, greedy=True, **SETTINGS).act(asked(), rng=rngs())
    assert [r.text for r in again] == [r.text for r in GREEDY]  # the model is as it was


def test_generate_batch_is_seeded_as_a_whole():
    policy = EnginePolicy(BatchEngine(MODEL), TOKENIZER, **SETTINGS)
    once = [r.text for r in policy.act(asked(), rng=rngs(seed=1))]
    assert [r.text for r in policy.act(asked(), rng=rngs(seed=1))] == once
    assert [r.text for r in policy.act(asked(), rng=rngs(seed=2))] != once


def test_an_engine_is_chosen_by_a_setting():
    with pytest.raises(DataError, match="unknown engine 'vlm'"):
        Config(engine="vlm")
    with pytest.raises(DataError, match="mode='generate'"):
        Student("tiny", engine="batch").policy()
    policy = Student("tiny", engine="batch", mode="generate", max_new_tokens=10).policy(greedy=True)
    found = policy.act(asked(), rng=rngs())
    assert [r.text for r in found] == [r.text for r in GREEDY]


# ---- a server ---------------------------------------------------------------------------------


def serves(model=MODEL, tokenizer=TOKENIZER, **instead):
    """A completion server around a real model; `instead` are answers by the end of a path."""

    def respond(request: Request) -> Answer:
        for end, answer in instead.items():
            if request.path.endswith(end):
                return answer(request) if callable(answer) else answer
        if request.path == "/v1/models":
            return Answer({"data": [{"id": "student", "max_model_len": 2048}]})
        if request.path == "/tokenize":
            text = request.body["prompt"]
            return Answer({"tokens": tokenizer(text, add_special_tokens=False)["input_ids"]})
        ids = request.body["prompt"]
        stops = request.body.get("stop_token_ids") or [10**6]
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=request.body["max_tokens"],
                eos_token_id=stops,
                pad_token_id=0,
            )[0, len(ids) :].tolist()
        choice = {"text": tokenizer.decode(out, skip_special_tokens=True), "token_ids": out}
        return Answer({"choices": [{**choice, "logprobs": {"token_logprobs": [-0.5] * len(out)}}]})

    return ChatServer(respond)


MISSING = Answer({"error": {"message": "no such route"}}, 404)


def through(server: ChatServer, **settings) -> EnginePolicy:
    engine = ServerEngine(server.url, CHAT, api_key=KEY)
    return EnginePolicy(engine, CHAT, **{"greedy": True, **SETTINGS, **settings})


@pytest.mark.parametrize("instead", [{}, {"tokenize": MISSING}])
def test_a_server_is_asked_with_token_ids_and_answers_with_them(instead):
    with serves(**instead) as server:
        found = through(server).act(asked(), rng=rngs())
    assert [r.text for r in found] == [r.text for r in GREEDY]
    counts = [r.usage.completion_tokens for r in found]
    assert counts == [r.usage.completion_tokens for r in GREEDY]
    assert [r.logprob for r in found] == [-0.5 * n for n in counts]
    bodies = [r.body for r in server.requests if r.path.endswith("completions")][-5:]
    prompts = CHAT.prompts([c.messages for c in asked()])
    assert sorted(b["prompt"] for b in bodies) == sorted(p.tolist() for p in prompts)
    assert len({b["seed"] for b in bodies}) == 5


@pytest.mark.parametrize("instead", [{}, {"tokenize": MISSING}])
def test_another_vocabulary_is_refused(instead):
    other = tiny_models.tokenizer()
    model = tiny_models.llama(len(TOKENIZER))
    with serves(model, other, **instead) as server, pytest.raises(DataError, match="vocabulary"):
        through(server)


def test_what_a_server_cannot_do_is_said_without_the_key():
    no_ids = Answer({"choices": [{"text": "look"}]})
    with serves(completions=no_ids) as server, pytest.raises(PrerequisiteError, match="token ids"):
        through(server).act(asked(), rng=rngs())
    refused = Answer({"error": {"message": f"wrong key {KEY}"}}, 401)
    with serves(models=refused) as server, pytest.raises(PrerequisiteError) as caught:
        through(server)
    assert KEY not in str(caught.value)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(PrerequisiteError, match="is the server running"):
            ServerEngine(nobody, CHAT)


def test_a_fault_of_one_reply_is_its_own():
    def respond(request: Request) -> Answer:
        long = len(request.body["prompt"]) > 40
        choice = {"text": "", "token_ids": [*CHAT.continuation("look around"), 2]}
        return too_long if long else Answer({"choices": [choice]})

    too_long = Answer({"error": {"message": "prompt too long"}}, 400)
    long = Conversation((Message("user", "red shirt " * 40),), "x", ("look around",))
    with serves(completions=respond) as server:
        policy = through(server, mode="admissible")
        good, bad = policy.act(
            [replace(asked(1)[0], admissible=("look around", "look")), long], rng=rngs(2)
        )
        assert (good.text, good.error) == ("look around", "")
        assert "prompt too long" in bad.error
        (other,) = policy.act(asked(1), rng=rngs(1))
        assert "none of the admissible actions" in other.error
    bodies = [r.body for r in server.requests if r.path.endswith("completions")]
    assert {"choice": ["look around", "look"]} in [b["structured_outputs"] for b in bodies]


def test_free_text_is_asked_for_by_a_pattern():
    ids = [*CHAT.continuation("search[red shirt]"), 2]
    with serves(completions=Answer({"choices": [{"token_ids": ids}]})) as server:
        policy = through(server, mode="admissible")
        asks = replace(asked(1)[0], admissible=("search[<text>]", "click[Next >]"))
        (found,) = policy.act([asks], rng=rngs(1))
    assert found.text == "search[red shirt]"
    body = server.requests[-1].body
    assert body["structured_outputs"]["regex"].endswith(r"\]|click\[Next >\]")


def test_a_tuned_student_is_not_taken_for_what_a_server_has(tmp_path):
    student = Student("tiny", mode="generate")
    student.model.save_pretrained(tmp_path)
    with serves() as server:
        tuned = Student("tiny", engine=server.url).tuned(tmp_path)
        with pytest.raises(DataError, match="another whole one"):
            tuned.policy()
        (tmp_path / "adapter_config.json").write_text('{"r": 4}')
        with pytest.raises(PrerequisiteError, match="enable-lora"):
            tuned.policy()


def test_what_the_keeper_started_ends_when_nobody_holds_it():
    mark = f"EEF_TEST_KEEPER={os.getpid()}"
    command = [sys.executable, "-I", keeper.__file__, "sh", "-c", "sleep 600 & sleep 600"]
    environment = os.environ | dict([mark.split("=")])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)

    patience = time.monotonic() + 30
    while len(left(mark)) < 4 and time.monotonic() < patience:
        time.sleep(0.05)
    assert len(left(mark)) == 4
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)
    patience = time.monotonic() + 10  # a killed process is gone a moment later
    while left(mark) and time.monotonic() < patience:
        time.sleep(0.05)
    assert left(mark) == []


# ---- sampled tokens as history ----------------------------------------------------------------


def test_what_was_sampled_is_what_is_asked_with_and_trained():
    tokenizer = tiny_models.tokenizer()
    model = tiny_models.llama(len(tokenizer))  # random: it samples what no tokenizer writes
    policy = HuggingFacePolicy(model, tokenizer, name="random", max_new_tokens=12)
    asked, sampled = [], []
    act = policy.act

    def listening(conversations, *, rng):
        replies = act(conversations, rng=rng)
        asked.extend(policy.tokens.prompts([c.messages for c in conversations]))
        sampled.extend(r.ids for r in replies)
        return replies

    policy.act = listening
    world, fmt = webshop(seed=7, train=1, test=0), get_format("react", "webshop")
    task = world.split("train")[0]
    task = replace(task, settings={**task.settings, "max_steps": 6})
    (played,) = run_episodes(
        [Episode(task, "s0")], policy, world.make_env, fmt, actor="student", seed=3
    )
    other = [ids for ids in sampled if ids]
    assert len(other) >= 3
    played = Trajectory.from_dict(played.to_dict())  # from a file, as training reads it
    steps = played.steps
    assert ["ids" in s.extra for s in steps] == [ids is not None for ids in sampled]
    sample = Sample(
        "s", task.id, "webshop", task.instruction, "all", steps, (True,) * 6, ("student",) * 6
    )
    encoded = encode_sample(sample, fmt, tokenizer)
    end = policy.tokens.closing_ids
    for t, ids in enumerate(sampled):
        kept = ids or policy.tokens.continuation(steps[t].text)
        mine = encoded.steps == t
        labels = encoded.labels[mine & (encoded.labels != IGNORE)]
        assert tuple(labels) == (*kept, *end)
    for prompt in asked:
        assert encoded.input_ids[: len(prompt)].tolist() == prompt.tolist()
    # with another tokenizer the text counts
    words = tiny_models.tokenizer(words=True)
    plain = [replace(s, extra={}) for s in steps]
    again = encode_sample(replace(sample, steps=tuple(plain)), fmt, words)
    assert encode_sample(sample, fmt, words).input_ids.tolist() == again.input_ids.tolist()


@pytest.mark.parametrize("ids", [[10**6], [-1], [0, 1], [], "text", [1.5], None])
def test_ids_on_file_that_do_not_spell_the_reply_are_passed_over(ids):
    chat = Chat.of(tiny_models.tokenizer())
    fmt = get_format("act", "webshop")
    step = Step("a page", "look", "student")
    noted = replace(step, extra={"ids": ids, "tokenizer": chat.fingerprint})
    a, b = (chat.prompts([fmt.messages("buy", [s], "next")])[0] for s in (step, noted))
    assert a.tolist() == b.tolist()


def test_a_control_token_in_a_reply_does_not_become_history():
    chat = Chat.of(tiny_models.tokenizer())
    end = chat.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert chat.sampled("look", [*chat.continuation("lo"), end, *chat.continuation("ok")]) is None
    spelt = [chat.continuation(c)[0] for c in "search"]
    assert chat.sampled("search", spelt) == tuple(spelt) != chat.continuation("search")
