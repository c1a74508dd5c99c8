"""The noisy teacher: what it keeps of a gold path, and that an episode is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format, parse_reply
from eeflib.records import Step

GOLD = {"a": [f"do {i}" for i in range(20)], "b": ["open box", "0", "take key", "1", "leave"]}
ADMISSIBLE = ("wave", "sit", "say[<text>]", "jump")
CLEAN: Mapping[str, float] = {"drop": 0.0, "insert": 0.0, "stop_early": 0.0}


def ask(
    teacher: NoisyGoldTeacher, task_id: str, key: str, played: Sequence[str], fmt: str = "act"
) -> Conversation:
    steps = [Step("seen", action, "teacher") for action in played]
    return get_format(fmt, "toy").conversation(
        "win", steps, "seen", key=key, admissible=ADMISSIBLE, task_id=task_id
    )


def answer(teacher: NoisyGoldTeacher, asked: Sequence[Conversation]) -> list[Reply]:
    return teacher.act(asked, rng=[np.random.default_rng(i) for i in range(len(asked))])


def episode(teacher: NoisyGoldTeacher, task_id: str, key: str = "") -> list[str]:
    """All actions up to the one after which the teacher stops."""
    played: list[str] = []
    while True:
        reply = answer(teacher, [ask(teacher, task_id, key, played)])[0]
        played.append(reply.text)
        if reply.stop:
            return played


def test_without_noise_it_plays_the_gold_path_then_gives_up() -> None:
    teacher = NoisyGoldTeacher(GOLD, **CLEAN)
    assert isinstance(teacher, Policy)
    assert teacher.wants_admissible
    assert episode(teacher, "a") == GOLD["a"]
    assert episode(teacher, "b") == GOLD["b"]
    beyond = answer(teacher, [ask(teacher, "b", "", GOLD["b"])])[0]
    assert beyond.text == "look around"
    assert beyond.stop


def test_an_episode_is_the_same_alone_in_a_batch_and_again() -> None:
    kwargs: dict[str, Any] = {"drop": 0.2, "insert": 0.4, "stop_early": 0.3, "seed": 5}
    keys = [f"e{i}" for i in range(8)]
    alone = [episode(NoisyGoldTeacher(GOLD, **kwargs), "a", k) for k in keys]
    teacher = NoisyGoldTeacher(GOLD, **kwargs)
    together: dict[str, list[str]] = {k: [] for k in keys}
    running = list(reversed(keys))
    while running:
        replies = answer(teacher, [ask(teacher, "a", k, together[k]) for k in running])
        for k, reply in zip(running, replies, strict=True):
            together[k].append(reply.text)
        running = [k for k, reply in zip(running, replies, strict=True) if not reply.stop]
        teacher.forget(keys)
    assert [together[k] for k in keys] == alone
    assert len({tuple(e) for e in alone}) == len(keys), "episodes differ from each other"
    other = NoisyGoldTeacher(GOLD, **{**kwargs, "seed": 6})
    assert [episode(other, "a", k) for k in keys] != alone


def test_drops_come_at_the_given_rate_and_keep_the_order() -> None:
    teacher = NoisyGoldTeacher(GOLD, **{**CLEAN, "drop": 0.1})
    kept = [episode(teacher, "a", str(i)) for i in range(200)]
    assert 0.08 < 1 - sum(map(len, kept)) / (200 * 20) < 0.12
    assert all(k == [a for a in GOLD["a"] if a in k] for k in kept)


def test_inserts_are_admissible_actions_not_patterns() -> None:
    teacher = NoisyGoldTeacher(GOLD, **{**CLEAN, "insert": 0.1})
    played = [episode(teacher, "a", str(i)) for i in range(200)]
    inserted = [a for p in played for a in p if a not in GOLD["a"]]
    assert 0.08 < len(inserted) / (200 * 20) < 0.12
    assert set(inserted) == {"wave", "sit", "jump"}
    assert all([a for a in p if a in GOLD["a"]] == GOLD["a"] for p in played)


def test_a_menu_answer_stays_with_its_question() -> None:
    teacher = NoisyGoldTeacher(GOLD, drop=0.4, insert=0.4, stop_early=0.0)
    seen = set()
    for i in range(100):
        played = episode(teacher, "b", str(i))
        for question, reply in (("open box", "0"), ("take key", "1")):
            assert (question in played) == (reply in played)
            if question in played:
                assert played[played.index(question) + 1] == reply
            seen.add((question, question in played))
    assert len(seen) == 4


def test_early_stops_come_at_the_given_rate_after_some_of_the_path() -> None:
    teacher = NoisyGoldTeacher(GOLD, **{**CLEAN, "stop_early": 0.5})
    lengths = np.array([len(episode(teacher, "a", str(i))) for i in range(200)])
    assert lengths.min() >= 6
    assert 0.4 < (lengths < 20).mean() < 0.6
    assert len(set(lengths.tolist())) > 8


def test_even_a_path_that_is_dropped_whole_has_an_action() -> None:
    assert episode(NoisyGoldTeacher(GOLD, **{**CLEAN, "drop": 1.0}), "b") == ["look around"]


@pytest.mark.parametrize("name", ["act", "react"])
def test_replies_parse_in_either_prompt_format(name: str) -> None:
    teacher = NoisyGoldTeacher(GOLD, **CLEAN)
    reply = answer(teacher, [ask(teacher, "a", "", [], name)])[0]
    parsed = parse_reply(reply.text, get_format(name, "toy").thoughts)
    assert parsed.valid
    assert parsed.action == "do 0"


def test_bad_input_is_a_data_error() -> None:
    with pytest.raises(DataError, match="'c'"):
        episode(NoisyGoldTeacher(GOLD), "c")
    with pytest.raises(DataError, match="drop"):
        NoisyGoldTeacher(GOLD, drop=1.5)
    with pytest.raises(DataError, match="'e'"):
        NoisyGoldTeacher({"e": []})
