"""Where is each message in the rendered chat? Real tokenizers, four kinds of template."""

from __future__ import annotations

import itertools
import random

import pytest
import tiny_models

from eeflib.errors import DataError
from eeflib.policies.base import Message
from eeflib.policies.chat import render_chat

CHAT = (
    Message("system", "Buy what is asked."),
    Message("user", "click[Buy Now]"),  # the reply quoted by the observation before it
    Message("assistant", "click[Buy Now]"),
    Message("user", "click[Buy Now]"),
    Message("assistant", "assistant"),  # a content that is also template text
)
MARKER = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "plain": "\n", "inst": " </s>"}


@pytest.fixture(scope="module", params=sorted(tiny_models.TEMPLATES))
def template(request):
    return request.param, tiny_models.tokenizer(request.param)


def test_every_content_is_found_at_its_own_place(template):
    _, tok = template
    chat = render_chat(tok, CHAT)
    as_dicts = [{"role": m.role, "content": m.content} for m in CHAT]
    assert chat.text == tok.apply_chat_template(as_dicts, tokenize=False)
    assert [chat.text[a:b] for a, b in chat.spans] == [m.content for m in CHAT]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(chat.spans))


def test_ends_cover_the_end_of_turn_marker_and_nothing_more(template):
    name, tok = template
    chat = render_chat(tok, CHAT)
    for i in (2, 4):
        assert chat.text[chat.spans[i][1] : chat.ends[i]] == MARKER[name]


def test_the_prompt_of_a_reply_is_a_prefix_of_the_chat_that_holds_it(template):
    """What is trained is what the policy is asked: the span starts where its prompt ends."""
    _, tok = template
    chat = render_chat(tok, CHAT)
    for i in (2, 4):
        prompt = render_chat(tok, CHAT[:i], add_generation_prompt=True)
        assert chat.text.startswith(prompt.text)
        gap = chat.text[len(prompt.text) : chat.spans[i][0]]
        assert gap.strip() == ""  # [INST] leaves a space to the reply


def test_random_contents_with_blanks_and_repeats_are_located(template):
    name, tok = template
    rng = random.Random(7)
    parts = ["a", " ", "\n", "user", "assistant: ", "é🙂", "[INST]", "", "\t \t", "a a"]
    for _ in range(60):
        turns = [
            Message(role, "x" + "".join(rng.choices(parts, k=rng.randint(0, 5))))
            for role in ["user", "assistant"] * rng.randint(1, 5)
        ]
        chat = render_chat(tok, turns)
        for message, (start, end) in zip(turns, chat.spans, strict=True):
            trims = name == "llama3" or name == "inst"
            expected = message.content.strip() if trims else message.content
            assert chat.text[start:end] == expected


def test_a_system_text_added_by_the_template_is_nobodys_content():
    tok = tiny_models.tokenizer("chatml")
    default = "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    tok.chat_template = default + tiny_models.CHATML
    chat = render_chat(tok, CHAT[1:3])
    assert chat.text.startswith("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n")
    assert [chat.text[a:b] for a, b in chat.spans] == ["click[Buy Now]"] * 2


def test_a_changed_template_is_not_answered_from_the_cache():
    tok = tiny_models.tokenizer("chatml")
    first = render_chat(tok, CHAT)
    tok.chat_template = tiny_models.PLAIN
    assert render_chat(tok, CHAT).text != first.text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }};{% endfor %}", "alters the content"),
        ("{% for m in messages %}{{ m['content'][:5] }};{% endfor %}", "does not show message 0"),
        ("{{ messages[-1]['content'] }}", "does not show message 0"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        (
            "{% for m in messages %}{{ m['content'].split('[')[0] }};{% endfor %}",
            "alters the content",
        ),
        (None, "chat template"),
    ],
)
def test_a_template_that_cannot_be_trusted_is_a_data_error(template, words):
    tok = tiny_models.tokenizer("chatml")
    tok.chat_template = template
    with pytest.raises(DataError, match=words):
        render_chat(tok, CHAT)
    with pytest.raises(DataError, match="empty chat"):
        render_chat(tok, [])
