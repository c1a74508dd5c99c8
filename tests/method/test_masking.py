"""The loss mask: which characters of an episode are trained, over many random episodes.

What must hold is said in characters (the replies of trained steps and the end-of-turn marker after
them), not with the code's own bookkeeping.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eeflib.errors import DataError
from eeflib.masking import (
    IGNORE,
    Reason,
    Unusable,
    describe_tokens,
    encode_sample,
    encode_samples,
)
from eeflib.prompts import get_format
from eeflib.records import Sample, Step

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny_models

MARKER = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "plain": "\n", "inst": " </s>"}
TRAINABLE = ("beneficial", "student", "context")


def episode(rng: random.Random, *, allow_harmful: bool = False, max_steps: int = 7) -> Sample:
    """A random episode; observations quote replies, so no text tells them apart."""
    acts = [
        "click[Buy Now]",
        "search[red shirt]",
        "click[Next >]",
        "look é🙂",
        "assistant",
        "B0001",
    ]
    steps, trained, labels = [], [], []
    for _ in range(rng.randint(1, max_steps)):
        action = rng.choice(acts)
        thought = rng.choice(["", "it fits", "Action: click[Buy Now]? no", "a\n\nb"])
        seen = rng.choice(["page\n", "[SEP] ", ""]) + rng.choice(acts) + rng.choice(["", "\n", " "])
        reply = f"Thought: {thought}\nAction: {action}" if rng.random() < 0.5 else ""
        steps.append(Step(seen, action, "teacher", reply=reply, thought=thought))
        labels.append(rng.choice(["beneficial", "harmful", "unknown", "student", "context"]))
        trained.append(rng.random() < 0.5 and (allow_harmful or labels[-1] in TRAINABLE))
    name = f"e{rng.random()}"
    return Sample(
        name, "t", "webshop", "buy a red shirt", "s0", tuple(steps), tuple(trained), tuple(labels)
    )


def expected_text(sample: Sample, fmt, template: str) -> str:
    return "".join(
        fmt.reply(step) + MARKER[template]
        for step, on in zip(sample.steps, sample.trained, strict=True)
        if on
    )


@pytest.fixture(scope="module", params=sorted(tiny_models.TEMPLATES))
def template(request):
    return request.param, tiny_models.tokenizer(request.param, pad_is_eos=True)


@pytest.mark.parametrize("style", ["act", "react"])
def test_exactly_the_replies_of_trained_steps_are_trained(template, style):
    name, tok = template
    fmt = get_format(style, "webshop")
    rng = random.Random(11)
    for _ in range(60):
        sample = episode(rng)
        if not any(sample.trained):
            with pytest.raises(Unusable, match="trains no token"):
                encode_sample(sample, fmt, tok)
            continue
        encoded = encode_sample(sample, fmt, tok)
        parts = describe_tokens(encoded)
        found = "".join(t for t, _, on in parts if on)
        due = expected_text(sample, fmt, name)
        if name in ("inst", "plain"):  # a blank before the reply may be part of its first token
            found, due = found.replace(" ", ""), due.replace(" ", "")
        assert found == due
        on = encoded.labels != IGNORE
        assert encoded.trained_tokens == on.sum() > 0
        assert (encoded.labels[on] == encoded.input_ids[on]).all()
        assert set(encoded.reasons[on].tolist()) <= {Reason.TRAINED_ACTION, Reason.END_OF_ACTION}
        assert on[-1], "the sequence ends with the last trained token"


def test_the_tokens_are_those_of_the_chat_as_the_policy_reads_it(template):
    _, tok = template
    fmt = get_format("react", "webshop")
    rng = random.Random(3)
    for _ in range(30):
        sample = episode(rng, max_steps=1)
        sample = replace(sample, trained=(True,), labels=("student",))
        encoded = encode_sample(sample, fmt, tok)
        chat = [
            {"role": m.role, "content": m.content}
            for m in fmt.messages(sample.instruction, sample.steps)
        ]
        ids = tok.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
        assert ids[: encoded.length] == encoded.input_ids.tolist()
        text = "".join(t for t, _, _ in describe_tokens(encoded))
        assert tok.apply_chat_template(chat, tokenize=False).startswith(text)


def test_reasons_tell_origin_apart_from_training():
    tok = tiny_models.tokenizer("chatml")
    fmt = get_format("react", "webshop")
    labels = ("harmful", "unknown", "context", "beneficial", "student")
    steps = tuple(Step(f"page {n}", f"click[{n}]", "teacher") for n in labels)
    sample = Sample(
        "a", "t", "webshop", "buy", "recovery", steps, (False,) * 3 + (True,) * 2, labels
    )
    encoded = encode_sample(sample, fmt, tok)
    parts = describe_tokens(encoded)

    def text(reason: Reason) -> str:
        return "".join(t for t, r, _ in parts if r == reason)

    assert text(Reason.SYSTEM) == fmt.system_text
    assert text(Reason.OBSERVATION) == "Instruction: buy\n" + "".join(f"page {n}" for n in labels)
    assert text(Reason.HARMFUL_ACTION) == "Action: click[harmful]"
    assert text(Reason.UNKNOWN_ACTION) == "Action: click[unknown]"
    assert text(Reason.CONTEXT_ACTION) == "Action: click[context]"
    assert text(Reason.TRAINED_ACTION) == "Action: click[beneficial]Action: click[student]"
    assert text(Reason.END_OF_ACTION) == "<|im_end|>" * 2
    for t in range(5):
        of_step = "".join(x for (x, _, _), s in zip(parts, encoded.steps, strict=True) if s == t)
        assert f"page {labels[t]}" in of_step
        assert f"click[{labels[t]}]" in of_step
    assert sum(encoded.counts.values()) == encoded.length


def test_an_end_of_turn_that_is_also_the_padding_token_is_trained_only_after_trained_replies():
    tok = tiny_models.tokenizer("chatml", pad_is_eos=True)
    assert tok.pad_token_id == tok.eos_token_id
    steps = tuple(Step("page", "click[a]", "teacher") for _ in range(4))
    sample = Sample(
        "a", "t", "webshop", "buy", "s0", steps, (True, False, True, False), ("context",) * 4
    )
    encoded = encode_sample(sample, get_format("act", "webshop"), tok)
    at = np.flatnonzero(encoded.input_ids == tok.eos_token_id)
    # user, reply, user, reply, user, reply: the fourth step is not needed
    assert (encoded.labels[at] != IGNORE).tolist() == [False, True, False, False, False, True]


def test_harmful_actions_are_refused_unless_the_ablation_asks_for_them():
    tok = tiny_models.tokenizer("chatml")
    fmt = get_format("act", "webshop")
    steps = (Step("page", "click[bad]", "teacher"), Step("page", "click[good]", "teacher"))
    sample = Sample("a", "t", "webshop", "buy", "all", steps, (True, True), ("harmful", "student"))
    for encode in (encode_sample, lambda s, *rest: encode_samples([s], *rest)):
        with pytest.raises(DataError, match="trains step 0, whose action is labelled harmful"):
            encode(sample, fmt, tok)
    encoded = encode_sample(sample, fmt, tok, allow_harmful=True)
    parts = describe_tokens(encoded)
    assert "".join(t for t, r, on in parts if on and r == Reason.HARMFUL_ACTION) == "click[bad]"


def test_too_long_samples_are_dropped_and_counted_never_cut():
    tok = tiny_models.tokenizer("chatml")
    fmt = get_format("act", "webshop")
    rng = random.Random(5)
    samples = [s for s in (episode(rng) for _ in range(40)) if any(s.trained)]
    lengths = {s.id: encode_sample(s, fmt, tok).length for s in samples}
    limit = sorted(lengths.values())[len(samples) // 2]
    done = encode_samples(samples, fmt, tok, max_length=limit)
    assert {e.sample_id for e in done} == {i for i, n in lengths.items() if n <= limit}
    assert {d.sample_id: d.length for d in done.dropped} == {
        i: n for i, n in lengths.items() if n > limit
    }
    assert {d.reason for d in done.dropped} == {"too long"}
    assert done.counts["dropped: too long"] == len(done.dropped)
    by_id = {s.id: s for s in samples}
    for encoded in done:  # what is kept is whole
        parts = describe_tokens(encoded)
        text = "".join(t for t, _, on in parts if on)
        assert text == expected_text(by_id[encoded.sample_id], fmt, "chatml")


def test_a_long_untrained_tail_does_not_make_a_sample_too_long():
    tok = tiny_models.tokenizer("chatml")
    steps = (Step("page", "click[a]", "student"), Step("word " * 500, "click[b]", "student"))
    sample = Sample("a", "t", "webshop", "buy", "s0", steps, (True, False), ("student",) * 2)
    encoded = encode_sample(sample, get_format("act", "webshop"), tok, max_length=60)
    assert "word" not in encoded.text


def test_a_blank_reply_is_never_trained():
    tok = tiny_models.tokenizer("chatml")
    fmt = get_format("act", "webshop")
    steps = (Step("page", "", "student", valid=False), Step("page", "click[b]", "student"))
    sample = Sample("a", "t", "webshop", "buy", "s0", steps, (True, True), ("student",) * 2)
    parts = describe_tokens(encode_sample(sample, fmt, tok))
    assert "".join(t for t, _, on in parts if on) == "click[b]<|im_end|>"
    done = encode_samples([replace(sample, steps=steps[:1] * 2)], fmt, tok)
    assert len(done) == 0
    assert done.counts["dropped: nothing trained"] == 1


def test_a_reply_glued_to_template_text_has_tokens_of_its_own():
    """Words are whole tokens here: nothing separates the template's word from the reply."""
    tok = tiny_models.tokenizer("chatml", words=True)
    tok.chat_template = (
        "{% for m in messages %}{{ m['role'] + m['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    sample = Sample(
        "a", "t", "webshop", "buy", "s0", (Step("x", "red", "student"),), (True,), ("student",)
    )
    encoded = encode_sample(sample, get_format("act", "webshop"), tok)
    assert [t for t, _, on in describe_tokens(encoded) if on] == ["red"]


def test_a_slow_tokenizer_is_refused_with_the_remedy():
    class Slow:
        is_fast = False
        chat_template = tiny_models.CHATML
        all_special_tokens = ("<|im_end|>",)

        def __len__(self):
            return 100

        def apply_chat_template(self, chat, **kwargs):
            return tiny_models.tokenizer().apply_chat_template(chat, **kwargs)

    sample = Sample(
        "a", "t", "webshop", "buy", "s0", (Step("x", "go", "student"),), (True,), ("student",)
    )
    with pytest.raises(DataError, match="use_fast=True"):
        encode_sample(sample, get_format("act", "webshop"), Slow())
