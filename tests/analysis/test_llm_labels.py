"""Failure kinds by a model behind a real HTTP server on the loopback interface."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest
from labelled import labelled

from eeflib.analysis import labels, taxonomy
from eeflib.errors import DataError, ProviderError
from eeflib.policies.keys import KEY_VARIABLES
from eeflib.policies.openai_compatible import ChatModel

sys.path.append(str(Path(__file__).parents[1] / "policies"))
from tests.loopback import Answer, ChatServer, Request, fails, says

ROWS = labelled("held_out")[:24]
CASES = [r.case for r in ROWS]
RULES = taxonomy.failures(CASES)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in (*KEY_VARIABLES, "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def reader(request: Request) -> Answer:
    """Tells purchases from the rest, as a small model might."""
    bought = "did: click[Buy Now]" in request.last or "did: click[buy now]" in request.last
    kind = "missed_attribute" if bought else "stopped_early"
    return says(f"Kind: {kind}\nWhy: see the last step.")


def policy(server: ChatServer, **options) -> ChatModel:
    options = {"model": "toy", "backoff": 0.001, "timeout": 5.0, "retries": 1} | options
    return ChatModel(base_url=server.url, **options)


def test_labels_come_from_the_server_once_and_are_compared_with_the_rules(tmp_path):
    cache = tmp_path / "failure_labels.jsonl"
    with ChatServer(reader) as server:
        first = labels.label_failures(CASES, policy(server), cache)
        assert len(server.requests) == len(CASES)
        again = labels.label_failures(CASES, policy(server), cache)
        assert len(server.requests) == len(CASES)  # nothing is asked twice
        other = labels.label_failures(CASES[:2], policy(server, temperature=0.7), cache)
        assert len(server.requests) == len(CASES) + 2  # other sampling, another answer
    pd.testing.assert_frame_equal(first, again)
    assert len(other) == 2
    assert first["trajectory_id"].to_list() == [c.trajectory.id for c in CASES]
    assert set(first["reason"]) == {"see the last step."}
    got = labels.agreement(RULES, first)
    expected = [
        a == b for a, b in zip(RULES.loc[RULES["primary"], "kind"], first["kind"], strict=True)
    ]
    assert (got.n, got.same, got.left_out) == (len(CASES), sum(expected), 0)
    assert 0 < got.kappa < got.share < 1
    assert got.interval[0] < got.share < got.interval[1]
    assert got.table.to_numpy().sum() == len(CASES)
    assert f"{got.same} of {got.n} with the same kind" in str(got)


def test_the_question_holds_goal_steps_and_the_kinds_of_this_environment_only(tmp_path):
    with ChatServer(reader) as server:
        labels.label_failures(CASES, policy(server), tmp_path / "labels.jsonl")
    asked = {r.last for r in server.requests}
    for case in CASES:
        mine = [q for q in asked if case.trajectory.instruction in q and "Kinds:" in q]
        assert mine
        for q in mine:
            assert ("over_price" in q.split("Task:")[0]) == (case.trajectory.env == "webshop")
            assert ("wrong_focus" in q.split("Task:")[0]) == (case.trajectory.env == "scienceworld")
            assert len(q) < 20_000
    shop = next(q for q in asked if '"price_upper"' in q)
    assert "did: search[" in shop


def test_what_was_answered_is_kept_when_the_provider_stops(tmp_path):
    cache = tmp_path / "labels.jsonl"
    left = [5]

    def five_then_no_credit(request: Request) -> Answer:
        left[0] -= 1
        return reader(request) if left[0] >= 0 else fails(401, "key refused")

    with ChatServer(five_then_no_credit) as server:
        asked = policy(server, concurrency=1)
        with pytest.raises(ProviderError, match="key refused"):
            labels.label_failures(CASES, asked, cache, batch_size=2)
    assert len(cache.read_text("utf-8").splitlines()) == 5
    with ChatServer(reader) as server:
        table = labels.label_failures(CASES, policy(server), cache)
        assert len(server.requests) == len(CASES) - 5
    assert (table["kind"] != "").all()


def test_failed_requests_and_odd_answers_have_no_kind_and_say_why(tmp_path):
    answers = iter([says("I would rather not."), says("**Kind:** Over price.\n"), fails(400, "no")])
    with ChatServer(lambda _: next(answers)) as server:
        asked = policy(server, concurrency=1, retries=0)
        table = labels.label_failures(CASES[:3], asked, tmp_path / "l.jsonl", batch_size=1)
    assert table["kind"].to_list() == ["", "over_price", ""]
    assert "names no kind" in table["error"].iloc[0]
    assert table["error"].iloc[1] == ""
    assert "no" in table["error"].iloc[2]
    got = labels.agreement(RULES[RULES["trajectory_id"].isin(table["trajectory_id"])], table)
    assert (got.n, got.left_out) == (1, 2)
    assert len((tmp_path / "l.jsonl").read_text("utf-8").splitlines()) == 2


def test_a_damaged_cache_line_is_asked_again(tmp_path):
    cache = tmp_path / "labels.jsonl"
    with ChatServer(reader) as server:
        labels.label_failures(CASES[:3], policy(server), cache)
        lines = cache.read_text("utf-8").splitlines()
        cache.write_text("\n".join([lines[0], lines[1][:40], lines[2], ""]), "utf-8")
        labels.label_failures(CASES[:3], policy(server), cache)
        assert len(server.requests) == 4


def test_agreement_is_cohens(tmp_path):
    def table(kinds: str) -> pd.DataFrame:
        names = {"a": "loop", "b": "over_price"}
        rows = [[0, "m", 0, f"e{i}", names[k]] for i, k in enumerate(kinds)]
        return pd.DataFrame(rows, columns=["seed", "method", "iteration", "trajectory_id", "kind"])

    # Cohen (1960): 20 of 50 yes/yes, 15 no/no, 5 and 10 apart: kappa 0.4
    first, second = table("a" * 25 + "b" * 25), table("a" * 20 + "b" * 5 + "a" * 10 + "b" * 15)
    got = labels.agreement(first, second)
    assert (got.n, got.same, got.kappa) == (50, 35, pytest.approx(0.4))
    assert got.table.loc["loop", "over_price"] == 5
    assert labels.agreement(first, first).kappa == 1
    none = labels.agreement(first, second.iloc[:0])
    assert (none.n, none.left_out) == (0, 50)
    assert math.isnan(none.share)
    assert str(none) == "none labelled by both, 50 by one only"


def test_an_unwritable_cache_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with ChatServer(reader) as server, pytest.raises(DataError, match="cannot be"):
        labels.label_failures(CASES[:1], policy(server), tmp_path / "file" / "labels.jsonl")
