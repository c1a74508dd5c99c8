"""Case a02: a student that thinks in tags, with a template that drops old thoughts from history.

The reasoning is on record, but neither in the next prompt nor in what is trained, and no template
makes the run end.
"""

from __future__ import annotations

import numpy as np
import pytest

import eeflib as eef
from eeflib.masking import describe_tokens, encode_sample
from eeflib.policies.base import Reply
from eeflib.policies.families import bare_tokenizer, known_families
from eeflib.prompts import get_format
from eeflib.records import Sample
from eeflib.rollout import Episode, run_episodes

WORDS = "Thought: search\nAction: search[shirt]"
REPLIES = {
    "think": f"<think>\nA search box. Action: none.\n</think>\n\n{WORDS}",
    "opened by the template": f"A search box. Action: none.\n</think>\n{WORDS}",
    "thinking": f"<thinking>A search box. Action: none.</thinking>{WORDS}",
    "mistral": f"[THINK]A search box. Action: none.[/THINK]{WORDS}",
    "seed": f"<seed:think>A search box. Action: none.</seed:think>\n{WORDS}",
}


class Thinks:
    """Says the same at every step, and keeps what it was asked."""

    name, wants_admissible = "thinks", False

    def __init__(self, words: str) -> None:
        self.words, self.asked = words, []

    def act(self, conversations, *, rng):
        self.asked += [m.content for c in conversations for m in c.messages]
        return [Reply(self.words) for _ in conversations]

    def forget(self, keys):
        pass


@pytest.mark.parametrize("kind", sorted(REPLIES))
def test_reasoning_is_recorded_and_neither_asked_with_nor_trained(kind):
    world = eef.webshop(seed=7, train=2, test=1)
    fmt, policy = get_format("react", "webshop"), Thinks(REPLIES[kind])
    episodes = [Episode(task, "student") for task in world.split("train")]
    tries = run_episodes(episodes, policy, world.make_env, fmt, actor="student", seed=0)
    for t in tries:
        assert t.length > 2
        assert not t.error
        for step in t.steps:
            assert step.extra["reasoning"] == "A search box. Action: none."
            assert (step.reply, step.action, step.thought) == (WORDS, "search[shirt]", "search")
    assert not any("A search box" in text for text in policy.asked)
    t = tries[0]
    sample = Sample(
        *("s", t.task_id, "webshop", t.instruction, "positive", t.steps),
        *((True,) * t.length, ("student",) * t.length),
    )
    tokenizer = bare_tokenizer(known_families()["Qwen3 (hybrid)"][1])
    encoded = encode_sample(sample, fmt, tokenizer)
    trained = "".join(text for text, _, on in describe_tokens(encoded) if on)
    assert trained == (WORDS + "<|im_end|>") * t.length


def test_reasoning_that_was_cut_off_is_an_invalid_step_and_goes_on():
    world = eef.webshop(seed=7, train=1, test=1)
    policy = Thinks("<think>what now")
    (found,) = run_episodes(
        [Episode(world.split("train")[0], "student")],
        policy,
        world.make_env,
        get_format("react", "webshop"),
        actor="student",
        seed=0,
    )
    assert np.all([not step.valid for step in found.steps])
    assert {step.reason for step in found.steps} == {"the reasoning was cut off before the action"}
    assert not found.error
