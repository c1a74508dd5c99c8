"""The gate: what is asked at play is the beginning of what is trained, whatever the template."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from eeflib.errors import DataError
from eeflib.policies.base import Message
from eeflib.policies.chat import Chat
from eeflib.policies.families import bare_tokenizer, check_template, known_families

FAMILIES = known_families()
CHAT = (
    Message("system", "Buy what is asked."),
    Message("user", "click[Buy Now]"),  # the reply quoted by the observation before it
    Message("assistant", "click[Buy Now]"),
    Message("user", "assistant\n\u00fcn\u00ef"),
    Message("assistant", "assistant"),  # a content that is also template text
)
WRAP = (
    "{{%- set seen = namespace(all=[]) -%}}{{%- for m in messages -%}}"
    "{{%- set seen.all = seen.all + [{{'role': m.role, 'content': {content}}}] -%}}"
    "{{%- endfor -%}}{{%- set messages = seen.all -%}}"
)
BREAKS = {
    "alters a content": "m.content | upper",
    "does not show message": "m.content if m.role == 'user' or m.role == 'system' else ''",
    "exactly once": "m.content ~ m.content",
    "writes": "m.content ~ ' (' ~ loop.revindex ~ ')' if m.role == 'user' else m.content",
}


def check(chat: Chat, messages: tuple[Message, ...] = CHAT) -> None:
    """Every prompt is a prefix of the trained chat; each reply's end is in it and stops a reply."""
    trained = chat.encode(messages)
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        (asked,) = chat.prompts([messages[:i]])
        reply = np.flatnonzero((trained.message == i) & ~trained.closes)
        end = trained.ids[(trained.message == i) & trained.closes]
        assert trained.ids[: len(asked)].tolist() == asked.tolist()
        assert reply[0] == len(asked), "the reply starts where its prompt ends"
        assert trained.ids[reply].tolist() == list(chat.continuation(message.content))
        assert chat.decode(trained.ids[reply]) == message.content
        assert end.tolist() == list(chat.closing_ids)
        assert end[-1] in chat.stop_ids or chat.closing
    starts = [0, *trained.ends[:-1]]
    whole = "".join(trained.text[a:b] for a, b in zip(starts, trained.ends, strict=True))
    assert whole == trained.text


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_prompts_of_a_known_family_are_prefixes_of_what_is_trained(family):
    chat = Chat(bare_tokenizer(FAMILIES[family][1], family))
    check(chat)
    check(chat, CHAT[1:])
    assert len(chat.closing_ids) == 1
    assert chat.closing_ids[0] in chat.stop_ids


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_broken_template_is_refused_with_the_true_cause(family):
    cause = list(BREAKS)[sorted(FAMILIES).index(family) % len(BREAKS)]
    broken = WRAP.format(content=BREAKS[cause]) + FAMILIES[family][1]
    with pytest.raises(DataError, match=cause) as error:
        Chat(bare_tokenizer(broken, family))
    assert family in str(error.value)


def test_enough_families_are_known():
    assert len(FAMILIES) >= 14
    assert {"Llama 3.2", "Qwen3 (hybrid)", "Gemma 2", "gpt-oss", "SmolLM2"} <= FAMILIES.keys()


def test_reasoning_is_switched_off_and_kept_the_same_in_history():
    chat = Chat(bare_tokenizer(FAMILIES["Qwen3 (hybrid)"][1]))
    assert chat.opening.endswith("<think>\n\n</think>\n\n")
    assert chat.encode(CHAT).text.count("<think>\n\n</think>") == 2
    assert "enable_thinking=False" in chat.notes
    thinking = Chat(bare_tokenizer(FAMILIES["Qwen3 (hybrid)"][1]), enable_thinking=True)
    assert "<think>" not in thinking.opening
    check(thinking)
    distilled = Chat(bare_tokenizer(FAMILIES["DeepSeek-R1 distills"][1]))
    assert distilled.opening.endswith("<think>\n\n</think>\n\n")


def test_a_system_text_is_folded_where_there_is_no_such_role():
    chat = Chat(bare_tokenizer(FAMILIES["Gemma 2"][1]))
    assert "Buy what is asked.\n\nclick[Buy Now]" in chat.encode(CHAT).text
    assert "system text in the first user turn" in chat.notes
    last = Chat(bare_tokenizer(FAMILIES["Mistral 7B v0.3"][1]))  # the template moves it about
    assert last.encode(CHAT).text.startswith("<s>[INST] Buy what is asked.\n\nclick[Buy Now]")


def test_a_reply_of_gpt_oss_ends_as_inside_a_chat_and_both_ends_stop_it():
    tokenizer = bare_tokenizer(FAMILIES["gpt-oss"][1])
    chat = Chat(tokenizer)
    assert chat.closing == "<|end|>"
    stops = tokenizer.convert_ids_to_tokens(sorted(chat.stop_ids))
    assert {"<|end|>", "<|return|>"} <= set(stops)


def test_a_template_that_prints_the_date_writes_the_same_tomorrow(monkeypatch):
    from transformers.utils import chat_template_utils

    template = FAMILIES["SmolLM3"][1]
    today = Chat(bare_tokenizer(template)).prompts([CHAT[:2]])[0]
    assert "the date is 01 Jan 2025" in Chat(bare_tokenizer(template)).notes

    class Later(chat_template_utils.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 7, 19)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    stock = bare_tokenizer(template).apply_chat_template([{"role": "user", "content": "x"}])
    assert "19 July 2031" in bare_tokenizer(template).decode(stock["input_ids"])
    assert Chat(bare_tokenizer(template)).prompts([CHAT[:2]])[0].tolist() == today.tolist()


@pytest.mark.parametrize("family", ["Qwen2.5", "Llama 3.2", "Qwen3 (hybrid)", "Mistral Small"])
def test_text_of_a_page_never_becomes_a_control_token(family):
    tokenizer = bare_tokenizer(FAMILIES[family][1])
    chat, draw = Chat(tokenizer), random.Random(4)
    marks = [t.content for t in tokenizer.added_tokens_decoder.values()]
    control = set(tokenizer.added_tokens_decoder)
    plain = chat.encode((Message("user", "page"), Message("assistant", "look")))
    due = sum(int(i) in control for i in plain.ids)
    for _ in range(40):
        words = draw.choices([*marks, "x", " ", "<|", "|>", "<", "\n"], k=8)
        page = "a" + "".join(words) + "b"
        found = chat.encode((Message("user", page), Message("assistant", page)))
        assert sum(int(i) in control for i in found.ids) == due, page
        assert page in chat.tokenizer.decode(found.ids)
        check(chat, (Message("user", page), Message("assistant", "go")))


def test_what_cannot_be_written_is_refused_by_name():
    bare = bare_tokenizer(FAMILIES["Qwen2.5"][1], "mine")
    bare.chat_template = None
    with pytest.raises(DataError, match="mine has no usable chat template"):
        Chat(bare)
    other = "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ ';' }}{% endfor %}"
    ask = "{% if add_generation_prompt %}{{ 'bot:' }}{% endif %}"
    with pytest.raises(DataError, match="opens a reply with"):
        Chat(bare_tokenizer(other + ask))
    endless = (
        "{% for m in messages %}{{ 'to: ' + m.content if m.role != 'assistant' else "
        "'say: ' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'say: ' }}{% endif %}"
    )
    with pytest.raises(DataError, match="could not learn to stop"):
        Chat(bare_tokenizer(endless))
    chat = Chat(bare_tokenizer(FAMILIES["Qwen2.5"][1]))
    for messages in ((), CHAT[:2], CHAT[2:], (CHAT[1], CHAT[1], CHAT[2])):
        with pytest.raises(DataError, match="in turn"):
            chat.encode(messages)


def test_a_template_that_was_changed_is_looked_at_again():
    tokenizer = bare_tokenizer(FAMILIES["Qwen2.5"][1])
    first = Chat.of(tokenizer)
    assert Chat.of(tokenizer) is first
    tokenizer.chat_template = FAMILIES["Phi-4"][1]
    assert Chat.of(tokenizer).encode(CHAT).text != first.encode(CHAT).text


def test_tokens_are_those_of_the_whole_text_where_nothing_is_hostile():
    """With a real vocabulary, as other servers of the model tokenise it."""
    from eeflib.policies.loading import load_student

    _, tokenizer = load_student("tiny", device="cpu")
    chat = Chat(tokenizer)
    found = chat.encode(CHAT[1:])
    assert found.ids.tolist() == tokenizer(found.text, add_special_tokens=False)["input_ids"]
    asked = chat.prompts([CHAT[1:4]])[0]
    assert found.ids[: len(asked)].tolist() == asked.tolist()


def test_the_table_of_families_in_the_docs_is_what_the_gate_says():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text("utf-8").split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    said = {row[0]: row[2].rstrip(" |") for row in rows[1:]}
    found = {f: check_template(bare_tokenizer(FAMILIES[f][1]), f)["verdict"] for f in FAMILIES}
    assert said == found


def test_tokens_of_blanks_are_plain_text_and_added_tokens_are_noticed():
    """Gemma's line feeds are added tokens: a page keeps the tokens that the model knows."""
    from tokenizers import AddedToken

    tokenizer = bare_tokenizer(FAMILIES["Gemma 2"][1])
    before = Chat.of(tokenizer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("\n", "\n\n")])
    chat = Chat.of(tokenizer)
    assert chat is not before
    found = chat.encode((Message("user", "one\n\ntwo"), Message("assistant", "go")))
    assert found.ids.tolist() == tokenizer(found.text, add_special_tokens=False)["input_ids"]
    check(chat)


def test_reasoning_that_history_opens_too_is_closed():
    open_always = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|assistant|><think>\n' + m.content + '<|end|>' }}"
        "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    )
    chat = Chat(bare_tokenizer(open_always))
    assert chat.opening == "<|end|><|assistant|><think>\n\n</think>\n\n"
    assert chat.notes == ("the reasoning that <think> opens is closed at once",)
    check(chat)
