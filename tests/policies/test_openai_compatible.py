"""The OpenAI-compatible policy against a real HTTP server on the loopback interface."""

from __future__ import annotations

import email.utils
import json
import logging
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
import types

import numpy as np
import pytest

from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.policies.base import Conversation, Message, Policy, Reply
from eeflib.policies.keys import KEY_VARIABLES, resolve_key
from eeflib.policies.openai_compatible import ChatModel
from eeflib.policies.pricing import Price, estimate_cost, price_of
from eeflib.prompts import get_format, parse_reply
from eeflib.records import Step, Usage
from tests.loopback import Answer, ChatServer, Request, fails, in_turn, says

KEY = "sk-test-51f0c9d2e8a7b6"
MASKED = "sk-test-51f******a7b6"  # as some providers quote it


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in (*KEY_VARIABLES, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def teacher(server: ChatServer | str, **options) -> ChatModel:
    url = server if isinstance(server, str) else server.url
    options = {"model": "toy", "backoff": 0.001, "timeout": 5.0, "retries": 3} | options
    return ChatModel(base_url=url, **options)


def ask(text: str) -> Conversation:
    return Conversation((Message("system", "Be brief."), Message("user", text)))


def act(policy: Policy, *texts: str, seed: int = 0) -> list[Reply]:
    rngs = [np.random.default_rng([seed, i]) for i in range(len(texts))]
    return policy.act([ask(t) for t in texts], rng=rngs)


def one(policy: Policy, text: str = "hello") -> Reply:
    return act(policy, text)[0]


# --- the happy path ---------------------------------------------------------------------------


def test_a_conversation_is_sent_as_it_stands_and_its_reply_is_metered():
    form = get_format("react", "corridor")
    steps = [Step("room 0", "go east", "teacher", "Thought: on\nAction: go east", "on")]
    conversation = form.conversation("find the coin", steps, "A coin lies here.", key="e1")
    with ChatServer(in_turn(says("**Action:** take coin", tokens=(40, 12)))) as server:
        policy = teacher(server, price=Price(10.0, 20.0))
        assert isinstance(policy, Policy)
        (reply,) = policy.act([conversation], rng=[np.random.default_rng(0)])
        policy.forget(["e1"])
    assert parse_reply(reply.text).action == "take coin"
    sent = server.requests[0].body
    assert set(sent) == {"model", "messages", "temperature", "max_tokens"}
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent["messages"][2]["content"] == steps[0].reply
    assert (policy.usage.prompt_tokens, policy.usage.completion_tokens) == (40, 12)
    assert policy.usage.cost_usd == pytest.approx((40 * 10 + 12 * 20) / 1e6)


def test_requests_run_at_once_but_no_more_than_allowed():
    together = threading.Barrier(4)

    def respond(request: Request) -> Answer:
        together.wait(timeout=30)  # breaks, and fails the test, unless four are in flight
        return says(request.last)

    with ChatServer(respond) as server:
        assert teacher(server).act([], rng=[]) == []
        replies = act(teacher(server, concurrency=4), *map(str, range(12)))
        assert server.peak == 4
    assert [r.text for r in replies] == [str(i) for i in range(12)]


def test_sampling_options_are_sent_and_unset_ones_are_not():
    with ChatServer(in_turn(says("x"))) as server:
        one(teacher(server, temperature=None, max_tokens=None))
        one(teacher(server, top_p=0.9, stop=["\nObservation:"], extra_body={"top_k": 20}))
        one(teacher(server, system_role=False))
    bare, full, merged = (r.body for r in server.requests)
    assert set(bare) == {"model", "messages"}
    assert full["top_p"] == 0.9
    assert full["stop"] == ["\nObservation:"]
    assert full["top_k"] == 20
    assert merged["messages"] == [{"role": "user", "content": "Be brief.\n\nhello"}]


def test_seeds_differ_between_conversations_and_repeat_between_runs():
    with ChatServer(in_turn(says("x"))) as server:
        for _ in range(2):
            act(teacher(server, seed=7, concurrency=1), "a", "b", seed=3)
        act(teacher(server, seed=8, concurrency=1), "a", "b", seed=3)
    seeds = [r.body["seed"] for r in server.requests]
    assert seeds[:2] == seeds[2:4]
    assert len(set(seeds)) == 4


# --- failures that pass -----------------------------------------------------------------------


def test_retry_after_is_understood_in_its_three_forms():
    soon = email.utils.formatdate(time.time() - 5, usegmt=True)
    for headers in ({"retry-after-ms": "20"}, {"Retry-After": soon}, {"Retry-After": "soon"}):
        with ChatServer(in_turn(fails(429, headers=headers), says("done"))) as server:
            assert one(teacher(server)).text == "done"


def test_a_server_that_asks_for_an_hour_is_not_waited_for():
    with ChatServer(in_turn(fails(429, headers={"Retry-After": "3600"}))) as server:
        reply = one(teacher(server))
    assert "3600 s" in reply.error
    assert len(server.requests) == 1


def test_server_errors_are_retried_with_growing_pauses_then_reported():
    turns = in_turn(fails(500), Answer("<html>bad gateway</html>", 502), fails(503), says("done"))
    with ChatServer(turns) as server:
        reply = one(teacher(server))
    assert (reply.text, reply.error, len(server.requests)) == ("done", "", 4)
    with ChatServer(in_turn(fails(500))) as server:
        reply = one(teacher(server, retries=3, backoff=0.02))
    gaps = np.diff([r.at for r in server.requests])
    assert "HTTP 500" in reply.error
    assert "4 attempts" in reply.error
    assert [gap >= 0.02 * 2**i for i, gap in enumerate(gaps)] == [True] * 3


def test_one_failing_conversation_leaves_the_others_alone():
    def respond(request: Request) -> Answer:
        return fails(500, "overloaded") if request.last == "bad" else says(request.last)

    with ChatServer(respond) as server:
        policy = teacher(server, retries=1)
        replies = act(policy, "a", "bad", "c")
        assert [r.text for r in replies] == ["a", "", "c"]
        assert "overloaded" in replies[1].error
        assert [bool(r.error) for r in replies] == [False, True, False]
        assert one(policy, "again").text == "again"


def test_time_out_is_retried_then_reported():
    slow = says("late")
    slow.delay = 0.2
    with ChatServer(in_turn(slow, says("in time"))) as server:
        assert one(teacher(server, timeout=0.05)).text == "in time"
    with ChatServer(in_turn(slow)) as server:
        reply = one(teacher(server, timeout=0.05, retries=1))
        assert "0.05 s" in reply.error
        assert len(server.requests) == 2


def test_connection_refused_names_the_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reply = one(teacher(f"http://127.0.0.1:{port}/v1", retries=1))
    assert f"127.0.0.1:{port}" in reply.error
    assert "running" in reply.error


def test_an_interrupt_ends_the_pauses_and_the_policy_goes_on_working():
    main = threading.main_thread().ident
    arrived = threading.Barrier(2, action=lambda: interrupt.start())
    interrupt = threading.Timer(0.15, signal.pthread_kill, (main, signal.SIGINT))

    def respond(request: Request) -> Answer:
        if request.last == "up":
            return says("fine")
        arrived.wait(timeout=30)  # both will be pausing for half a minute when the signal comes
        return fails(500)

    with ChatServer(respond) as server:
        policy = teacher(server, backoff=30.0)
        with pytest.raises(KeyboardInterrupt):
            act(policy, "down", "down")
        started = time.monotonic()
        pausing = [t for t in threading.enumerate() if t.name.startswith("eef-requests")]
        assert pausing
        for thread in pausing:
            thread.join(timeout=30)
        assert time.monotonic() - started < 20  # not the half minute
        assert one(policy, "up").text == "fine"


# --- failures that stop the run ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (fails(401, "Incorrect API key"), "API key"),
        (fails(404, "The model `toy` does not exist"), "'toy'"),
        (fails(400, "wrong", code="model_not_found"), "'toy'"),
        (fails(400, "Server is pinned to 'other'; requested 'toy'."), "'toy'"),
        (fails(429, "You exceeded your quota", code="insufficient_quota"), "credit"),
        (fails(402, "pay first"), "credit"),
        (fails(403, "not in your country"), "may not use"),
        (fails(400, "it must be from 0 to 2", param="temperature"), "temperature=None"),
    ],
)
def test_hopeless_failures_raise_at_once_with_the_remedy(answer, remedy):
    with ChatServer(in_turn(answer)) as server:
        policy = teacher(server)
        with pytest.raises(ProviderError, match=remedy):
            one(policy)
        assert len(server.requests) == 1
        with pytest.raises(ProviderError, match=remedy):  # and no further request is made
            one(policy)
        assert len(server.requests) == 1


def test_replies_received_before_a_hopeless_failure_are_returned():
    def respond(request: Request) -> Answer:
        return fails(401) if request.last == "c" else says(request.last)

    with ChatServer(respond) as server:
        policy = teacher(server, concurrency=1)
        replies = act(policy, "a", "b", "c", "d")
        assert [r.text for r in replies] == ["a", "b", "", ""]
        assert all("API key" in r.error for r in replies[2:])
        assert "API key" in policy.stopped
        with pytest.raises(ProviderError, match="API key"):
            one(policy)
    assert len(server.requests) == 3


# --- replies that are none --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer('{"choices": [{"mess'), "not JSON"),
        (Answer(""), "not JSON"),
        (Answer("[" * 200_000), "not JSON"),
        (Answer([1, 2]), "no choices"),
        (Answer({"choices": []}), "no choices"),
        (Answer({"choices": [None]}), "no choices"),
        (Answer({"error": {"message": "upstream died", "code": 502}}), "upstream died"),
        (says(None), "no text"),
        (says("half", finish="error"), "broke"),
    ],
)
def test_unusable_replies_are_retried_then_reported(answer, reason):
    with ChatServer(in_turn(answer, says("good"))) as server:
        assert one(teacher(server)).text == "good"
    with ChatServer(in_turn(answer)) as server:
        reply = one(teacher(server, retries=1))
        assert reason in reply.error
        assert reply.text == ""
        assert len(server.requests) == 2


def test_a_withheld_reply_is_not_asked_for_again():
    for answer in (says("", finish="content_filter"), says(None, refusal="I cannot")):
        with ChatServer(in_turn(answer)) as server:
            assert "content filter" in one(teacher(server)).error
            assert len(server.requests) == 1


def test_a_cut_reply_never_yields_half_an_action():
    cut = says("Thought: look\nAction: search[red sho", finish="length")
    with ChatServer(in_turn(cut)) as server:
        reply = one(teacher(server, max_tokens=12))
    assert not reply.error
    assert parse_reply(reply.text).thought == "look"
    assert not parse_reply(reply.text).valid
    whole = says("Thought: a\nAction: search[b]\nThought: and th", finish="length")
    with ChatServer(in_turn(whole)) as server:
        assert parse_reply(one(teacher(server)).text).action == "search[b]"
    for first_line in ("Thought: I wond", "Action: click[Buy No"):
        with ChatServer(in_turn(says(first_line, finish="length"))) as server:
            reply = one(teacher(server))
        assert (reply.text, reply.error) == (first_line + "…", "")
    with ChatServer(in_turn(says(None, finish="length"))) as server:
        assert "max_tokens=12" in one(teacher(server, max_tokens=12)).error


def test_odd_but_usable_replies():
    parts = [{"type": "text", "text": "Action: "}, {"type": "text", "text": "wait"}]
    cases = {"Action: wait": says(parts), "": says(""), "a\ufffdb": says("a\ud800b")}
    for text, answer in cases.items():
        with ChatServer(in_turn(answer)) as server:
            reply = one(teacher(server), "obs \udcff")
        assert (reply.text, reply.error) == (text, "")
        reply.text.encode()


# --- tokens and money -------------------------------------------------------------------------


def test_tokens_of_every_attempt_are_counted_cached_ones_at_their_price():
    turns = in_turn(says(None, tokens=(10, 3)), says("ok", tokens=(10, 4)))
    with ChatServer(turns) as server:
        policy = teacher(server, price=Price(1.0, 1.0))
        usage = one(policy).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, 7)
    assert usage.cost_usd == pytest.approx(27e-6)
    assert usage.seconds > 0
    assert policy.usage == usage
    answer, cached = says("ok"), {"cached_tokens": 900}
    answer.body["usage"] = {"prompt_tokens": 1000, "prompt_tokens_details": cached}
    with ChatServer(in_turn(answer)) as server:
        reply = one(teacher(server, price=Price(10.0, 0.0, cached_prompt=1.0)))
    assert reply.usage.cost_usd == pytest.approx((100 * 10 + 900 * 1) / 1e6)


def test_without_a_price_dollars_are_unknown_and_a_cap_in_dollars_holds_in_tokens(caplog):
    with ChatServer(lambda r: says("ok", tokens=(400, 100))) as server:
        policy = teacher(server, max_tokens=100, max_cost_usd=0.02)  # 2,000 tokens at $10 a million
        assert "2000 tokens" in caplog.text
        usage = one(policy).usage
        assert usage is not None
        assert (usage.cost_usd, usage.prompt_tokens, policy.spent_usd) == (None, 400, None)
        replies = act(policy, *map(str, range(6)))
        assert "of 2000 tokens" in replies[-1].error
        assert 2 <= len(server.requests) <= 4
        with pytest.raises(PrerequisiteError, match="max_tokens"):
            teacher(server, price=Price(1, 1), max_cost_usd=1.0, max_tokens=None)


def test_strange_token_counts_do_no_harm():
    for usage in (
        "many",
        {"prompt_tokens": None, "completion_tokens": -5},
        {"prompt_tokens": 1e300},
    ):
        answer = says("ok")
        answer.body["usage"] = usage
        with ChatServer(in_turn(answer)) as server:
            reply = one(teacher(server, price=Price(1.0, 1.0)))
        assert reply.text == "ok"
        assert reply.usage is not None
        assert reply.usage.cost_usd is None
        assert reply.usage.prompt_tokens == 0


def dear_model(request: Request) -> Answer:
    """Charges as much as a request of this size can possibly cost."""
    size = sum(len(m["content"].encode()) for m in request.body["messages"])
    return says(request.last, tokens=(size, request.body["max_tokens"]))


@pytest.mark.parametrize("concurrency", [1, 6])
def test_the_cost_cap_is_never_exceeded_and_nothing_is_lost(concurrency):
    cap = 0.01
    with ChatServer(dear_model) as server:
        policy = teacher(
            server,
            price=Price(1.0, 10.0),
            max_tokens=100,
            max_cost_usd=cap,
            concurrency=concurrency,
        )
        replies = act(policy, *[f"question {i}" for i in range(20)])
        answered = [r for r in replies if not r.error]
        assert len(answered) == len(server.requests)
        assert 5 <= len(answered) < 10  # each costs a little over a tenth of the cap
        assert all(r.text == f"question {i}" for i, r in enumerate(replies) if not r.error)
        charged = sum(r.usage.cost_usd for r in answered if r.usage and r.usage.cost_usd)
        assert charged == pytest.approx(policy.spent_usd)
        assert charged <= cap
        assert "$0.0100" in replies[-1].error
        before = len(server.requests)
        with pytest.raises(ProviderError, match=r"cost cap: \$0\.00\d+ of \$0\.0100 spent"):
            one(policy)
        assert len(server.requests) == before


def test_cheap_replies_use_the_cap_up_although_the_worst_case_would_not_fit():
    # The worst case of eight requests at once is far above the cap, what they cost is not.
    with ChatServer(lambda r: says(r.last, tokens=(10, 1))) as server:
        policy = teacher(server, price=Price(1.0, 10.0), max_tokens=500, max_cost_usd=0.006)
        replies = act(policy, *map(str, range(16)))
    assert [r.text for r in replies] == [str(i) for i in range(16)]


def test_replies_that_do_not_say_their_cost_count_with_the_worst_case():
    with ChatServer(in_turn(says("x", tokens=None))) as server:
        policy = teacher(server, price=Price(1.0, 10.0), max_tokens=100, max_cost_usd=1.0)
        assert one(policy).usage == Usage(0, 0, None, policy.usage.seconds)
    assert policy.spent_usd is not None
    assert policy.spent_usd > 100 * 10 / 1e6


def test_estimate_counts_the_history_sent_again_and_again():
    price = Price(2.0, 8.0)
    got = estimate_cost(
        10, price=price, steps=3, head_tokens=100, observation_tokens=50, reply_tokens=20
    )
    per_episode = (100 + 50) + (100 + 2 * 50 + 20) + (100 + 3 * 50 + 2 * 20)
    assert got.prompt_tokens == 10 * per_episode
    assert got.completion_tokens == 10 * 3 * 20
    assert got.cost_usd == pytest.approx((10 * per_episode * 2 + 600 * 8) / 1e6)
    assert estimate_cost(10).cost_usd is None


def test_prices_are_those_of_the_endpoint_and_unknown_ones_stay_unknown():
    mini = ChatModel("gpt-4o-mini", api_key=KEY).meter.price
    assert mini == Price(0.15, 0.6, 0.075)
    assert price_of("gpt-4o-mini-2024-07-18") == mini
    assert price_of("gpt-4o-mini", "http://127.0.0.1:8000/v1") is None
    assert price_of("of-mine") is None


def test_where_the_key_comes_from(monkeypatch):
    with pytest.raises(PrerequisiteError, match="OPENAI_API_KEY"):
        ChatModel("m")
    assert resolve_key(base_url="http://localhost:8000/v1") is None
    monkeypatch.setenv("OPENAI_API_KEY", "from-openai-variable")
    assert revealed() == "from-openai-variable"
    monkeypatch.setenv("EEFLIB_API_KEY", " from-eeflib-variable\n")
    assert revealed() == "from-eeflib-variable"
    assert revealed("given") == "given"
    with ChatServer(in_turn(says("x"))) as server:
        one(teacher(server))
        monkeypatch.delenv("EEFLIB_API_KEY")
        monkeypatch.delenv("OPENAI_API_KEY")
        one(teacher(server))
    sent, none = (r.headers["authorization"] for r in server.requests)
    assert sent == "Bearer from-eeflib-variable"
    assert none == "Bearer EMPTY"


def revealed(*args, **options) -> str:
    key = resolve_key(*args, **options)
    assert key is not None
    return key.reveal()


def test_notebooks_look_at_colab_secrets_then_environment_then_ask(monkeypatch):
    class SecretNotFoundError(Exception):
        pass

    def get(name: str) -> str:
        if name not in secrets:
            raise SecretNotFoundError(name)
        return secrets[name]

    secrets = {"OPENAI_API_KEY": "colab-secret"}
    colab = types.ModuleType("google.colab")
    colab.userdata = types.SimpleNamespace(get=get, SecretNotFoundError=SecretNotFoundError)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "typed-in-key"

    monkeypatch.setattr("getpass.getpass", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert revealed() == "from-the-environment"  # only an interactive caller asks Colab
    assert revealed(interactive=True) == "colab-secret"
    secrets.clear()
    assert revealed(interactive=True) == "from-the-environment"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert asked == []
    assert revealed(interactive=True) == "typed-in-key"
    assert len(asked) == 1
    assert resolve_key(base_url="http://127.0.0.1:1/v1", interactive=True) is None

    def nobody(_: str) -> str:
        raise EOFError

    for unanswered in (nobody, lambda _: "  "):
        monkeypatch.setattr("getpass.getpass", unanswered)
        with pytest.raises(PrerequisiteError, match="EEFLIB_API_KEY"):
            resolve_key(interactive=True)


def test_an_unusable_key_is_refused_without_being_shown():
    for bad in ("sk-secret\nX-Header: 1", "sk-secrét-key", "“sk-secret”", "   "):
        with pytest.raises(PrerequisiteError) as caught:
            resolve_key(bad)
        assert "secr" not in str(caught.value)
        assert caught.value.__context__ is None


def test_the_key_is_in_nothing_that_is_produced(caplog):
    """Searches replies, errors, tracebacks with locals, logs at DEBUG, reprs and attributes."""
    caplog.set_level(logging.DEBUG)

    def respond(request: Request) -> Answer:
        header = request.headers["authorization"]
        assert header == f"Bearer {KEY}"
        return {
            "echo": says(f"your header was {header}"),
            "bad": fails(400, f"cannot use {header}, {MASKED}"),
            "broken": Answer(f"<html>{'x' * 224} {header} {header}</html>", 500),
            "json": Answer(f"{header} is not JSON"),
            "in200": Answer({"error": f"cannot use {header}"}),
            "401": fails(401, f"Incorrect API key provided: {KEY} ({MASKED})"),
        }[request.last]

    produced: list[str] = []
    texts = ("echo", "bad", "broken", "json", "in200")
    with ChatServer(respond) as server:
        for batch in (texts, ("401",)):
            policy = teacher(server, api_key=KEY, retries=1)
            if batch == texts:
                replies = act(policy, *batch)
                assert len(replies) == len(batch)
                produced += [json.dumps([r.text, r.error, repr(r)]) for r in replies]
            else:
                with pytest.raises(ProviderError) as caught:
                    act(policy, *batch)
                assert caught.value.__cause__ is None
                assert caught.value.__context__ is None
                produced += tracebacks(caught.value)
            produced += [repr(policy), str(policy), policy.stopped]
            produced += [f"{policy._key} {policy._key!r} {vars(policy)}"]
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(policy._key)
    produced += [record.getMessage() for record in caplog.records] + [caplog.text]
    everything = "\n".join(produced)
    assert "your header was Bearer [key]" in everything
    assert "API key was refused" in everything
    assert len(caplog.records) > 10
    assert KEY not in everything
    assert KEY[:16] not in everything  # nor cut off at the end of a shortened text
    assert MASKED not in everything


def tracebacks(error: BaseException) -> list[str]:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [str(error), repr(error), "".join(shown.format())]


def test_credentials_in_the_url_are_not_shown():
    policy = ChatModel("m", base_url="http://user:pa55word@127.0.0.1:9/v1?token=t0ken")
    policy.retries = 0
    shown = repr(policy) + one(policy).error
    assert "http://127.0.0.1:9/v1" in shown
    assert "pa55word" not in shown
    assert "t0ken" not in shown


# --- options that cannot be right -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"model": " "}, "model"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "http://host:notaport/v1"}, "base_url"),
        ({"concurrency": 0}, "concurrency"),
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"extra_body": {"n": 5}}, "extra_body"),
        ({"price": Price(1, 1), "max_cost_usd": 0.0}, "max_cost_usd"),
        ({"max_requests": -1}, "max_requests"),
        ({"max_total_tokens": 0}, "max_total_tokens"),
    ],
)
def test_impossible_options_are_refused_by_name(options, word):
    good = {"model": "m", "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(DataError, match=word):
        ChatModel(**(good | options))
    for prices in ((1.0, -1.0), (float("nan"), 1.0)):
        with pytest.raises(DataError, match="Price"):
            Price(*prices)
