"""Collecting with a paid model: kills, interrupts, faults, caps, several teachers."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import eeflib as eef
from eeflib.analysis import tables
from eeflib.errors import ProviderError
from eeflib.notebook import three_rules
from eeflib.policies.base import Conversation, Message
from eeflib.policies.pricing import Price, expected_usage
from tests.loopback import Answer, ChatServer, Request, fails, says

PRICE = Price(1000.0, 1000.0)
ROOT = Path(__file__).parents[2]

COLLECT = """
import sys
import eeflib as eef
from eeflib.policies.pricing import Price
folder, url, tasks, cap = sys.argv[1:5]
run = eef.open_run(folder, preset="tiny", train=int(tasks), seeds=(3,))
model = eef.ChatModel("m", base_url=url, backoff=0.01, concurrency=8, max_tokens=64,
                      price=Price(1000.0, 1000.0), max_cost_usd=float(cap))
tries = eef.collect(run.world(), model, run=run, progress=False)
print(sum(not t.error for t in tries), model.spent_usd)
"""


class Shop:
    """A model that buys by three rules, with faults; it counts what it has been paid for."""

    def __init__(self, faults: float = 0.0, delay: float = 0.0) -> None:
        self.faults, self.delay = faults, delay
        self.draw, self.lock = random.Random(5), threading.Lock()
        self.paid: list[Request] = []
        self.dollars = 0.0

    def __call__(self, request: Request) -> Answer:
        with self.lock:
            bad = self.draw.random() < self.faults
            kind = self.draw.randrange(4)
        if bad:
            if kind == 3:
                return Answer('{"choices": [{"mess', delay=self.delay)
            pause = {"retry-after": "0.02"} if kind == 1 else {}
            return fails((500, 429, 503)[kind], headers=pause)
        messages = request.body["messages"]
        text = three_rules(messages)
        tokens = sum(len(m["content"]) for m in messages) // 4, len(text) // 4
        with self.lock:
            self.paid.append(request)
            self.dollars += PRICE.cost(*tokens)
        answer = says(text, tokens=tokens)
        answer.delay = self.delay
        return answer


def ledger(run: eef.Run) -> list[dict]:
    return [json.loads(line) for line in run.folder.file("ledger").read_text().splitlines()]


def opened(folder: Path, tasks: int) -> eef.Run:
    return eef.open_run(folder, preset="tiny", train=tasks, seeds=(3,))


def model(server: ChatServer, **options) -> eef.ChatModel:
    given = {"base_url": server.url, "backoff": 0.01, "price": PRICE, "max_tokens": 64}
    return eef.ChatModel("m", **(given | options))


@pytest.mark.slow
def test_killed_three_times_by_a_failing_server_nothing_is_lost_or_paid_twice(tmp_path):
    shop, tasks = Shop(faults=0.3, delay=0.05), 36
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", COLLECT, str(tmp_path / "run")]
    kills = 0
    with ChatServer(shop) as server:
        while True:
            before = len(shop.paid)
            process = subprocess.Popen(
                [*command, server.url, str(tasks), "1000"], env=environment, stdout=subprocess.PIPE
            )
            if kills == 3:
                out, _ = process.communicate(timeout=300)
                break
            while len(shop.paid) < before + 25 and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
        assert process.returncode == 0
    run = opened(tmp_path / "run", tasks)
    tries = run.trajectories()
    assert len(tries) == len({t.id for t in tries}) == tasks
    assert not any(t.error for t in tries)
    asked = collections.Counter(str(r.body["messages"]) for r in shop.paid)
    twice = sum(n - 1 for n in asked.values())
    answered = [r for r in ledger(run) if r.get("reply")]
    assert twice == len(shop.paid) - len(answered), "what was in flight when a process died"
    assert twice <= kills * 8
    on_record = sum(t.usage.cost_usd for t in tries)
    assert on_record == pytest.approx(sum(r["usage"]["cost_usd"] for r in answered))
    assert float(out.split()[1]) >= shop.dollars - 1e-9, "the cap counts what may have been paid"


def test_a_cap_holds_over_processes_and_a_higher_one_goes_on_without_paying_again(tmp_path):
    shop = Shop()
    with ChatServer(shop) as server:
        for _ in range(3):
            run = opened(tmp_path, 10)
            with pytest.raises(ProviderError, match="cost cap"):
                eef.collect(run.world(), model(server, max_cost_usd=6.0), run=run, progress=False)
            assert shop.dollars <= 6.0
        paid = len(shop.paid)
        assert paid > 5
        run = opened(tmp_path, 10)
        rich = model(server, max_cost_usd=1000.0)
        tries = eef.collect(run.world(), rich, run=run, progress=False)
        assert not any(t.error for t in tries)
        assert len(shop.paid) == sum(t.length for t in tries), "each step was paid for once"
        assert rich.spent_usd == pytest.approx(shop.dollars)
    assert len(run.folder.found("failed_attempts", eef.Trajectory)) > 0


def test_an_interrupt_keeps_what_ended_and_the_replies_of_what_did_not(tmp_path):
    shop = Shop(delay=0.02)
    with ChatServer(shop) as server:
        run = opened(tmp_path, 20)

        def stop(step: str, done: int, total: int) -> None:
            if done >= 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            eef.collect(run.world(), model(server), run=run, progress=stop)
        kept = {t.id for t in run.trajectories()}
        assert 5 <= len(kept) < 20
        time.sleep(0.3)  # what was in flight comes back
        paid = len(shop.paid)
        time.sleep(0.2)
        assert len(shop.paid) == paid, "nothing more is asked"
        tries = eef.collect(run.world(), model(server), run=run, progress=False)
        assert len(tries) == len({t.id for t in tries} | kept) == 20
        assert len(shop.paid) - sum(t.length for t in tries) <= 8


def test_a_lost_reply_costs_one_step_and_not_the_episode(tmp_path):
    """Every first attempt at a third step fails for good; the second time it works."""
    shop, seen = Shop(), set()

    def respond(request: Request) -> Answer:
        messages = request.body["messages"]
        key = str(messages)
        if len(messages) == 6 and key not in seen:
            seen.add(key)
            return fails(500)
        return shop(request)

    with ChatServer(respond) as server:
        run = opened(tmp_path, 6)
        for where in (run, None):
            seen.clear()
            shop.paid.clear()
            lost = model(server, retries=0)
            tries = eef.collect(opened(tmp_path, 6).world(), lost, run=where, progress=False)
            assert not any(t.error for t in tries)
            assert len(seen) >= 3
            assert len(shop.paid) == sum(t.length for t in tries)


def test_a_collection_that_was_lost_is_made_again_from_the_ledger(tmp_path):
    shop = Shop()
    with ChatServer(shop) as server:
        run = opened(tmp_path, 4)
        first = eef.collect(run.world(), model(server), run=run, limit=3, progress=False)
        paid = len(shop.paid)
        run.folder.file("trajectories").unlink()
        again = eef.collect(run.world(), model(server), run=run, limit=3, progress=False)
        assert len(shop.paid) == paid
    assert [t.to_dict() for t in again] == [t.to_dict() for t in first]


def test_a_few_episodes_say_what_the_rest_will_cost(tmp_path):
    with ChatServer(Shop()) as server:
        run = opened(tmp_path, 10)
        first = eef.collect(run.world(), model(server), run=run, limit=3, progress=False)
        assert len(first) == 3
        expected = expected_usage(first, 10)
        tries = eef.collect(run.world(), model(server), run=run, progress=False)
        real = sum(t.usage.cost_usd for t in tries)
        assert len(tries) == 10
        assert 0.3 < expected.cost_usd / real < 3
    assert expected_usage([], 10).cost_usd is None


def test_a_run_may_have_several_teachers_that_are_never_pooled(tmp_path):
    with ChatServer(Shop()) as server:
        run = opened(tmp_path, 6)
        world = run.world()
        script = eef.collect(world, run=run, progress=False)
        cheap = eef.collect(world, model(server, name="cheap/1"), run=run, progress=False)
        assert [t.id for t in eef.collect(world, run=run, progress=False)] == [t.id for t in script]
        both = run.trajectories()
        assert len({t.id for t in both}) == 12
        assert {t.policy for t in cheap} == {"cheap/1"}
        shown = eef.frames.load(run).trajectories
        assert shown.groupby("policy").size().tolist() == [6, 6]
        assert all("teacher-cheap-1" in t.id for t in cheap)
    found = tables.teachers(shown)
    assert found["policy"].tolist() == [script[0].policy, "cheap/1"]
    assert found["episodes"].tolist() == [6, 6]
    won = {t.task_id for t in script if t.solved}
    more = {t.task_id for t in cheap if t.solved} - won
    assert found["newly solved"].tolist() == [len(won), len(more)]
    assert found["dollars"].isna().tolist() == [True, False]


def test_a_huge_reply_is_neither_read_nor_kept(tmp_path):
    huge = says("Action: wait " + "x" * 5_000_000)
    with ChatServer(lambda _: huge) as server:
        run = opened(tmp_path, 1)
        (one,) = eef.collect(run.world(), model(server), run=run, progress=False)
    assert "set max_tokens" in one.error
    assert run.folder.file("ledger").stat().st_size < 10_000


def test_a_server_that_drips_is_given_up_on_in_the_end():
    """Each byte is a sign of life; ten times the time-out is enough of them."""

    def drip(listener: socket.socket) -> None:
        with listener.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        slow = eef.ChatModel("m", base_url=url, timeout=0.2, retries=0)
        asked = Conversation((Message("user", "hello"),), "k")
        began = time.monotonic()
        (reply,) = slow.act([asked], rng=[np.random.default_rng(0)])
    assert "too slowly" in reply.error
    assert 1.9 < time.monotonic() - began < 30


def test_a_teacher_keeps_its_name_although_nothing_of_it_was_finished(tmp_path):
    shop = Shop()
    with ChatServer(shop) as server:
        run = opened(tmp_path, 3)
        first = model(server, max_requests=2, concurrency=1)
        with pytest.raises(ProviderError, match="max_requests"):
            eef.collect(run.world(), first, run=run, progress=False)
        run.folder.file("trajectories").unlink()  # as an interrupt leaves it
        eef.collect(run.world(), model(server, name="other"), run=run, progress=False)
        shop.paid.clear()
        again = model(server)
        tries = eef.collect(run.world(), again, run=run, progress=False)
        assert len(shop.paid) == sum(t.length for t in tries) - 2


def test_the_command_says_what_it_will_cost_goes_on_and_tells_teachers_apart(eef, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer(Shop()) as server:
        paid = ["--model", "m", "--base-url", server.url, "--price", "1000,1000"]
        code, out, _ = eef("collect", "r", "--preset", "tiny", *paid)
        assert code == 0
        assert "all 24 episodes: about" in out
        assert "(by the first 3)" in out
        count = len(server.requests)
        code, out, _ = eef("collect", "r", *paid, "--json")
        assert (code, len(server.requests)) == (0, count), "on file: nothing is asked"
        assert eef("collect", "r")[0] == 0
        code, out, err = eef("collect", "r", "--model", "x", *paid[2:], "--max-requests", "2")
        assert code == 1
        assert "max_requests" in err.strip().splitlines()[-1]
    teachers = json.loads(eef("collect", "r", "--json")[1].splitlines()[-1])["teachers"]
    assert [t["policy"] for t in teachers] == ["m", "scripted-shopper", "x"]
    assert teachers[0]["dollars"] > 0
    assert teachers[1]["dollars"] is None
    assert eef("collect", "q", "--model", "m", "--price", "1")[0] == 1
