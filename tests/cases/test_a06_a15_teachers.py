"""Faults that people met with models over HTTP: refused options, pauses, markers, cut prompts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import eeflib as eef
from eeflib.errors import ProviderError
from eeflib.policies.base import Conversation, Message
from eeflib.policies.pacing import Gate, pause_asked
from eeflib.prompts import get_format, parse_reply
from eeflib.records import Step
from tests.loopback import Answer, ChatServer, Request, fails, in_turn, says

GOOD = "Thought: a\nAction: click[x]"


def model(server: ChatServer, **options) -> eef.ChatModel:
    return eef.ChatModel("m", **({"base_url": server.url, "backoff": 0.01} | options))


def answer(policy: eef.ChatModel, *texts: str):
    asked = [Conversation((Message("system", "s"), Message("user", t)), f"k{t}") for t in texts]
    return policy.act(asked, rng=[np.random.default_rng(i) for i in range(len(texts))])


def world_of(steps: int) -> eef.World:
    """One training task that ends after so many steps."""
    made = eef.webshop(1, train=1, test=1)
    (task,) = made.split("train")
    task = replace(task, settings={**task.settings, "max_steps": steps})
    return replace(made, tasks=(task,))


# --- a06: options that a model refuses ---------------------------------------------------------


def picky(shape: str):
    """Refuses max_tokens, temperature, stop, top_k and seed, in one of the shapes of servers."""

    def respond(request: Request) -> Answer:
        for name in ("max_tokens", "temperature", "stop", "top_k", "seed"):
            if name not in request.body:
                continue
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            text = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
            if shape == "openai":
                return fails(400, text, param=name, code="unsupported_parameter")
            if shape == "no param":
                return fails(400, text, code=400)
            if shape == "list":
                return Answer([{"error": {"code": 400, "message": text}}], 400)
            detail = f"body.{name}: Extra inputs are not permitted"
            return Answer({"detail": detail}, 422)
        return says(GOOD)

    return respond


@pytest.mark.parametrize("shape", ["openai", "no param", "list", "pydantic"])
def test_what_a_model_refuses_is_left_out_once_and_said_once(shape, caplog):
    with ChatServer(picky(shape)) as server:
        policy = model(server, stop=["\nObs"], seed=1, extra_body={"top_k": 5}, retries=0)
        assert [r.text for r in answer(policy, "1")] == [GOOD]
        assert len(server.requests) == 6
        assert [r.text for r in answer(policy, "2", "3")] == [GOOD, GOOD]
        assert len(server.requests) == 8
    assert sum("left out from now on" in r.message for r in caplog.records) == 5
    assert policy.config()["temperature"] == 0.0, "the settings are what was asked for"


def test_requests_that_are_refused_together_are_all_sent_again(caplog):
    gate = threading.Barrier(6)

    def respond(request: Request) -> Answer:
        if "max_tokens" in request.body:
            with contextlib.suppress(threading.BrokenBarrierError):
                gate.wait(30)  # all six are in flight before the first is refused
        return picky("openai")(request)

    with ChatServer(respond) as server:
        policy = model(server, stop=["\nObs"], retries=0)
        replies = answer(policy, *map(str, range(6)))
        assert [(r.text, r.error) for r in replies] == [(GOOD, "")] * 6
        assert all("max_completion_tokens" in r.body for r in server.requests[-6:])
    assert sum("left out from now on" in r.message for r in caplog.records) == 3


def test_a_model_without_any_limit_ends_a_run_that_has_a_cap():
    def respond(request: Request) -> Answer:
        for name in ("max_tokens", "max_completion_tokens"):
            if name in request.body:
                return fails(400, f"unknown field {name}", param=name)
        return says(GOOD)

    with ChatServer(respond) as server:
        assert answer(model(server), "1")[0].text == GOOD
        with pytest.raises(ProviderError, match="max_requests"):
            answer(model(server, max_total_tokens=10_000), "1")


def test_stop_none_is_taken():
    with ChatServer(in_turn(says(GOOD))) as server:
        assert answer(model(server, stop=None, temperature=None), "1")[0].text == GOOD
        assert not {"stop", "temperature"} & set(server.requests[0].body)


def test_a_refusal_that_names_no_option_is_an_error_of_one_conversation():
    for text in ("This model's maximum context length is 4096 tokens", "unsupported content type"):
        with ChatServer(in_turn(fails(400, text), says(GOOD))) as server:
            policy = model(server)
            assert text in answer(policy, "1")[0].error
            assert answer(policy, "2")[0].text == GOOD


# --- a07: any model, any endpoint --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url", "priced"),
    [
        ("gpt-4o-mini", None, True),
        ("gpt-4o-2024-08-06", None, True),
        ("gpt-5-mini", None, True),
        ("qwen2.5:7b", "http://127.0.0.1:9/v1", False),
        ("a-name-of-tomorrow", None, False),
        ("llama-3.3-70b-versatile", "https://api.groq.example/openai/v1", False),
        ("gpt-4o", "https://me.azure.example/openai/deployments/x?api-version=2025-01-01", False),
    ],
)
def test_any_model_can_be_a_teacher_and_a_cap_holds_in_some_unit(name, url, priced):
    made = eef.ChatModel(name, base_url=url, api_key="sk-xxxxxxxxxxxx", max_cost_usd=0.1)
    assert (made.meter.price is not None) == priced
    assert made.meter.max_cost_usd == 0.1 if priced else made.meter.max_total_tokens == 10_000


def test_the_query_of_an_address_goes_with_every_request():
    with ChatServer(in_turn(says(GOOD))) as server:
        answer(model(server, base_url=f"{server.url}/?api-version=2025-01-01&x=1"), "1")
    assert server.requests[0].path == "/v1/chat/completions?api-version=2025-01-01&x=1"


# --- a08: pauses, wherever a server says them --------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, "", 7),
        ({"retry-after-ms": "250"}, "", 0.25),
        ({}, '[{"error": {"details": [{"retryDelay": "45.8s"}]}}]', 45.8),
        ({}, "Rate limit reached. Please try again in 1m2.5s.", 62.5),
        ({}, "Please try again in 350ms", 0.35),
        ({}, "Please retry in 12.125s.", 12.125),
        ({}, '{"message": "slow down", "retry_after": 3.5}', 3.5),
        ({}, "too many requests, wait 20 seconds", 20),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, "", 360),
        (
            {
                "x-ratelimit-reset-requests": "90ms",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "90000",
            },
            "",
            0.09,
        ),
        ({"x-ratelimit-reset": "NOW+3000"}, "", 3000),
        ({"retry-after": "soon"}, "a quota was exceeded", None),
    ],
)
def test_a_pause_is_found_wherever_it_stands(headers, body, seconds):
    headers = {k: str(time.time() + 3000) if v == "NOW+3000" else v for k, v in headers.items()}
    found = pause_asked(headers, body)
    assert found == (None if seconds is None else pytest.approx(seconds, rel=0.02))


def test_refusals_are_waited_out_and_are_no_failed_attempts():
    until = time.monotonic() + 0.6
    # longer than it refuses: a first refusal that comes at once must not bring a second round
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.8s"}

    def respond(_: Request) -> Answer:
        if time.monotonic() < until:
            error = {"code": 429, "message": "quota exceeded", "details": [delay]}
            return Answer([{"error": error}], 429)
        return says(GOOD)

    with ChatServer(respond) as server:
        policy = model(server, concurrency=8, retries=0)
        replies = answer(policy, *map(str, range(24)))
    assert [r.text for r in replies] == [GOOD] * 24
    early = [r for r in server.requests if r.at < until]
    assert len(early) <= 10, "nobody asks again before the time that was said"


def test_who_has_not_asked_yet_waits_for_the_pause_of_another():
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    first = threading.Lock()

    def respond(_: Request) -> Answer:
        if first.acquire(blocking=False):
            return Answer([{"error": {"code": 429, "message": "quota", "details": [delay]}}], 429)
        time.sleep(0.1)
        return says(GOOD)

    with ChatServer(respond) as server:
        replies = answer(model(server, concurrency=8, retries=0), *map(str, range(24)))
    assert [r.text for r in replies] == [GOOD] * 24
    asked = sorted(r.at for r in server.requests)
    # those in flight, and at worst one more of each before the refusal is read
    assert sum(at < asked[0] + 1.4 for at in asked) <= 15


def test_a_gate_settles_below_what_is_refused_and_recovers():
    gate = Gate(16)
    entered = [gate.enter(()) for _ in range(16)]
    for at in entered:
        gate.leave(at, refused=True)
    assert gate.limit == 8, "halved once for all that were in flight"
    for _ in range(200):
        gate.leave(gate.enter(()), answered=True)
    assert gate.limit == 16


# --- a10: markers in the reply -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Thought: a\nAction: click[b0001]</s>", "click[b0001]"),
        ("Thought: a\nAction: click[b0001]<|im_end|>", "click[b0001]"),
        ("Thought: a\nAction: click[b0001]<end_of_turn>", "click[b0001]"),
        (
            "Thought: a\nAction: click[b0001]<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "Observation: bought",
            "click[b0001]",
        ),
        (
            "Thought:\nA bar.\n\nAction:\nclick[back to search] [/INST] Observation:\nWebShop",
            "click[back to search]",
        ),
        ("<s>Thought: a\nAction: click[b0001]", "click[b0001]"),
        ("Thought: a\nAction: click[b0001]<｜end▁of▁sentence｜>", "click[b0001]"),
        ("Thought: a\nAction: search[x-large [us] shirt]", "search[x-large [us] shirt]"),
        ("Thought: a\nAction: put <red> box in <blue> box", "put <red> box in <blue> box"),
    ],
)
def test_markers_never_reach_an_action_nor_the_next_prompt(text, action):
    assert parse_reply(text).action == action
    with ChatServer(in_turn(says(text), says("Thought: b\nAction: click[Buy Now]"))) as server:
        (one,) = eef.collect(world_of(2), model(server), progress=False)
    assert one.steps[0].action == action
    sent = server.requests[1].body["messages"][-2]["content"]
    assert sent.startswith("Thought:")
    assert not any(m in sent for m in ("</s>", "<s>", "<|", "[/INST]", "<end_of", "｜"))


# --- a14: the answer in a field of its own -----------------------------------------------------


@pytest.mark.parametrize("content", ["", None, "  \n"])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_reply_that_stands_in_the_reasoning_field_is_used(content, field):
    with ChatServer(in_turn(says(content, **{field: GOOD}))) as server:
        reply = answer(model(server), "1")[0]
    assert (reply.text, reply.error, len(server.requests)) == (GOOD, "", 1)


def test_megabytes_of_markers_are_read_in_one_go():
    assert parse_reply("</s>" * 500_000 + "Thought: a\nAction: look</s>").action == "look"


def test_reasoning_is_recorded_and_never_asked_with():
    said = in_turn(
        says(GOOD, reasoning_content="the shop sells shirts"),
        says(f"<think>it is red</think>{GOOD}", reasoning="so red"),
        says(f"[THINK]third[/THINK]\n{GOOD}"),
    )
    with ChatServer(said) as server:
        (one,) = eef.collect(world_of(3), model(server), progress=False)
    kept = [s.extra.get("reasoning") for s in one.steps[:3]]
    assert kept == ["the shop sells shirts", "so red\n\nit is red", "third"]
    assert {s.action for s in one.steps[:3]} == {"click[x]"}
    assert "shirts" not in str(server.requests[-1].body["messages"])
    assert "it is red" not in str(server.requests[-1].body["messages"])


# --- a15: a prompt that a server cuts ----------------------------------------------------------


def ask_on(policy: eef.ChatModel, turns: int) -> list[str]:
    fmt, steps, errors = get_format("react", "webshop"), [], []
    page = "Back to Search [SEP] " + "B000000001 [SEP] a red cotton shirt [SEP] $19.99 [SEP] " * 40
    for _ in range(turns):
        conversation = fmt.conversation("find a red shirt", steps, page, key="k")
        (reply,) = policy.act([conversation], rng=[np.random.default_rng(0)])
        errors.append(reply.error)
        steps.append(Step(page, "click[Next >]", "teacher", reply=GOOD))
    return errors


@pytest.mark.parametrize("context", [2048, 4096])
def test_a_server_that_cuts_the_prompt_is_noticed_and_the_remedy_named(context):
    def respond(request: Request) -> Answer:
        size = sum(len(m["content"]) for m in request.body["messages"]) // 4
        return says(GOOD, tokens=(min(context, size), 9))

    with ChatServer(respond) as server:
        errors = ask_on(model(server), 10)
    first = next(i for i, e in enumerate(errors) if e)
    assert (first + 1) * 560 > context > (first - 1) * 560
    assert "OLLAMA_CONTEXT_LENGTH" in errors[first]
    assert str(context) in errors[first]


def test_a_server_with_room_or_one_that_counts_oddly_is_not_accused(caplog):
    caplog.set_level(logging.WARNING)
    counts = iter(range(10_000))
    for tokens in (lambda n: n // 4, lambda n: 20, lambda n: 0, lambda n: next(counts) + 1000):
        with ChatServer(
            lambda r, tokens=tokens: says(
                GOOD, tokens=(tokens(sum(len(m["content"]) for m in r.body["messages"])), 9)
            )
        ) as server:
            assert not any(ask_on(model(server), 10))
