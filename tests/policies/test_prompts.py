"""Prompts and the reply parser: what a conversation shows, and what a reply is taken to mean."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest

from eeflib import prompts
from eeflib.errors import DataError
from eeflib.prompts import FORMATS, get_format, parse_reply
from eeflib.records import Step, Task, Trajectory

CASES = Path(__file__).parents[1] / "data" / "webshop_parity" / "wrapper_cases.json.gz"


def episode() -> tuple[Task, Trajectory]:
    """Three steps of a shopping episode; what must stay hidden is found nowhere else."""
    task = Task(
        "t1", "webshop", "buy red shoes", goal={"asin": "GOAL-ASIN", "options": ["GOAL-OPTION"]}
    )
    steps = tuple(
        Step(
            f"page {t}",
            f"click[item {t}]",
            "teacher",
            thought=f"reason {t}",
            reward=0.625,
            score=0.375,
            state_key="KEY-OF-STATE",
            reason="SECRET-REASON",
            extra={"admissible": ["HIDDEN-ACTION"]},
        )
        for t in range(3)
    )
    final = "Your score (min 0.0, max 1.0) [SEP] 0.625"
    return task, Trajectory(
        "r1", task.id, "webshop", task.instruction, "p", steps, final, 0.625, True, False
    )


# --- what a conversation shows ----------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_conversation_holds_instruction_and_history_and_nothing_else(name):
    task, run = episode()
    form = get_format(name, "webshop")
    for t in range(run.length):
        conversation = form.conversation(task.instruction, run.steps[:t], run.observation(t))
        text = "\n".join(m.content for m in conversation.messages)
        assert task.instruction in text
        for past in range(t):
            assert f"page {past}" in text
            assert f"click[item {past}]" in text
        assert conversation.messages[-1].role == "user"
        assert f"page {t}" in conversation.messages[-1].content
        for later in range(t + 1, run.length):
            assert f"page {later}" not in text
        assert f"click[item {t}]" not in text
        secrets = ("GOAL-", "0.625", "0.375", "KEY-OF", "SECRET", "HIDDEN", "score")
        assert not [word for word in secrets if word in text]


@pytest.mark.parametrize("name", FORMATS)
def test_turns_alternate_and_replies_are_where_reply_index_says(name):
    task, run = episode()
    form = get_format(name, "webshop")
    messages = form.messages(task.instruction, run.steps)
    turns = [m.role for m in messages if m.role != "system"]
    assert turns == ["user", "assistant"] * run.length
    for t, step in enumerate(run.steps):
        message = messages[form.reply_index(t)]
        assert message.role == "assistant"
        assert message.content == form.reply(step)
    assert [m.content.count(task.instruction) for m in messages if m.role == "user"] == [1, 0, 0]


def test_only_the_instruction_in_front_is_dropped_for_the_small_student():
    page = "Instruction: [SEP] buy red shoes [SEP] Back to Search [SEP] Page 1"
    assert get_format("act", "webshop").observation(page, "buy red shoes") == (
        "Back to Search [SEP] Page 1"
    )
    assert get_format("react", "webshop").observation(page, "buy red shoes") == page


def test_unknown_format_is_refused_with_the_choices():
    with pytest.raises(DataError, match="react, act"):
        get_format("chatty", "webshop")
    assert "text environment" in get_format("react", "made-up").system_text


def test_the_hash_follows_text_and_rendering(monkeypatch):
    def hashes() -> list[str]:
        return [get_format(f, e).hash for f in FORMATS for e in ("webshop", "scienceworld")]

    before = hashes()
    assert before == hashes()
    assert len(set(before)) == 4
    texts = prompts._TASK_TEXT | {"webshop": prompts._TASK_TEXT["webshop"] + " Be quick."}
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "_TASK_TEXT", texts)
        assert [a == b for a, b in zip(before, hashes(), strict=True)] == [False, True, True, True]
    with monkeypatch.context() as patch:
        patch.setattr(prompts.PromptFormat, "observation", lambda self, text, _: text + "!")
        assert not set(before) & set(hashes())
    assert hashes() == before


# --- what a reply is taken to mean ------------------------------------------------------------

REPLIES = [
    # plain, and layouts models really use
    ("Thought: I need shoes.\nAction: search[red shoes]", "I need shoes.", "search[red shoes]"),
    ("thought: a\naction: click[b]", "a", "click[b]"),
    ("THOUGHT: a\nACTION: click[b]", "a", "click[b]"),
    ("Thought:a\nAction:click[b]", "a", "click[b]"),
    ("  Thought: a\n\n   Action:   click[b]  \n", "a", "click[b]"),
    ("Thought: a\r\nAction: click[b]\r\n", "a", "click[b]"),
    ("Thought: a\rAction: click[b]\r", "a", "click[b]"),
    ("Action: click[b]", "", "click[b]"),
    ("I should look first.\nAction: look around", "I should look first.", "look around"),
    ("Thought: one\ntwo\n\nthree\nAction: wait1", "one\ntwo\n\nthree", "wait1"),
    ("Thought: a Action: search[x]", "a", "search[x]"),
    ("Thought: a\nAction:\nclick[b]", "a", "click[b]"),
    ("Thought: a\nAction:\n\n  click[b]\nclick[c]", "a", "click[b]"),
    ("Thought 3: a\nAction 3: click[b]", "a", "click[b]"),
    # Markdown
    ("**Thought:** a\n**Action:** click[b]", "a", "click[b]"),
    ("**Thought**: a\n**Action**: click[b]", "a", "click[b]"),
    ("*Thought: a*\n**Action: click[b]**", "a*", "click[b]"),
    ("### Thought: a\n### Action: click[b]", "a", "click[b]"),
    ("- Thought: a\n- Action: click[b]", "a", "click[b]"),
    ("> Thought: a\n> Action: click[b]", "a", "click[b]"),
    ("Thought: a\nAction: `click[b]`", "a", "click[b]"),
    ("Thought: a\nAction: **`click[b]`**", "a", "click[b]"),
    ("Thought: a\nAction: ```click[b]```", "a", "click[b]"),
    ("Thought: a\nAction:\n```\nclick[b]\n```", "a", "click[b]"),
    ("Thought: a\nAction: ```text\nclick[b]\n```", "a", "click[b]"),
    ("```\nThought: a\nAction: click[b]\n```", "a", "click[b]"),
    ("Thought: a\nAction: “click[b]”", "a", "click[b]"),
    ("Thought: a\nAction: 'click[b]'", "a", "click[b]"),
    # several actions, and invented turns: the first action only
    ("Thought: a\nAction: click[b]\nAction: click[c]", "a", "click[b]"),
    ("Thought: a\nAction: click[b]\nObservation: bought!\nAction: click[c]", "a", "click[b]"),
    ("Thought: a\nAction: click[b]\n\nThought: and then\nAction: click[c]", "a", "click[b]"),
    (
        "Thought: the\nlast Action: was odd\nAction: click[b]",
        "the\nlast Action: was odd",
        "click[b]",
    ),
    # what belongs to the action stays
    ("Action: search[boots [wide], size 9]", "", "search[boots [wide], size 9]"),
    ('Action: click[36" x 24"]', "", 'click[36" x 24"]'),
    ("Action: click[< Prev]", "", "click[< Prev]"),
    ("Action: click[#4 natural]", "", "click[#4 natural]"),
    ("Action: click[a: b]", "", "click[a: b]"),
    ('Action: "a" or "b"', "", '"a" or "b"'),
    ("Action: search[café 日本 🎁]", "", "search[café 日本 🎁]"),
    ("Action: click[a\u2028b\x85c]", "", "click[a\u2028b\x85c]"),
    ("Action: 0", "", "0"),
    ("\ufeffThought：a\nAction：click[b]", "a", "click[b]"),
    ("\u00a0Thought: a\n\u00a0Action: click[b]", "a", "click[b]"),
    # reasoning models
    ("<think>Action: no</think>\nThought: a\nAction: click[b]", "a", "click[b]"),
    ("perhaps Action: no</think>Action: click[b]", "perhaps Action: no", "click[b]"),
]


@pytest.mark.parametrize(("text", "thought", "action"), REPLIES)
def test_replies_with_an_action(text, thought, action):
    parsed = parse_reply(text)
    assert (parsed.thought, parsed.action, parsed.valid, parsed.reason) == (
        thought,
        action,
        True,
        "",
    )


@pytest.mark.parametrize(
    ("text", "thought", "reason"),
    [
        ("", "", "empty reply"),
        (" \n\t\r\n ", "", "empty reply"),
        ("Thought: I wonder.", "I wonder.", "no line starts"),
        ("I cannot help with that.", "I cannot help with that.", "no line starts"),
        ("search[red shoes]", "search[red shoes]", "no line starts"),
        ("My reaction: nice", "My reaction: nice", "no line starts"),
        ("Actions: many", "Actions: many", "no line starts"),
        ("Thought: a\nAction:", "a", "is empty"),
        ("Thought: a\nAction: ``", "a", "is empty"),
        ("Thought: a\nAction: **", "a", "is empty"),
        ("Thought: a\nAction:\n```\n```", "a", "is empty"),
        ("Thought: a\nAction:\nObservation: bought!", "a", "is empty"),
        ("Thought: a\nAction:\nThought: b", "a", "is empty"),
        ("<think>first Action: click[b], then", "first Action: click[b], then", "cut off"),
    ],
)
def test_replies_without_an_action_say_why(text, thought, reason):
    parsed = parse_reply(text)
    assert not parsed.valid
    assert parsed.action == ""
    assert parsed.thought == thought
    assert reason in parsed.reason


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("click[b]", "click[b]"),
        ("\n\n  click[b] \nclick[c]", "click[b]"),
        ("```\nclick[b]\n```", "click[b]"),
        ("<think>hm</think>click[b]", "click[b]"),
        ("go to kitchen\r\n", "go to kitchen"),
        ("```\n```", ""),
        ("  ", ""),
    ],
)
def test_without_thoughts_the_first_line_is_the_action(text, action):
    parsed = parse_reply(text, thoughts=False)
    assert parsed.action == action
    assert parsed.valid == bool(action)


@pytest.mark.parametrize(
    "unit",
    ["x ", " ", "\n", "*", "`", "[", "Action", "Action: ", "action 1", "Thought: ", "```\n", ">-"],
)
def test_a_reply_of_100_kb_is_read_at_once(unit):
    filler = unit * (100_000 // len(unit))
    started = time.perf_counter()
    for text in (filler, "Action" + filler, "Thought: " + filler + "\nAction: click[b]"):
        parsed = parse_reply(text)
        assert parsed.valid or parsed.reason
    assert time.perf_counter() - started < 1.0


# --- rendering and parsing fit together -------------------------------------------------------

WORDS = [
    "red", "Buy Now", "< Prev", '36" x 24"', "[wide]", "a|b", "$1.50", "café", "日本", "🎁",
    "Action", "Thought:", "x*2", "`tick`", "#4", "it's", "-", "1.", "</b>", "\\n", "go to",
    "Observation: z",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(40))
def test_rendered_turns_parse_back_to_the_recorded_actions(name, seed):
    rng = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(1, most))))

    steps = []
    for _ in range(int(rng.integers(1, 8))):
        verb = str(rng.choice(["search", "click"]))
        thought = "\n".join(text(6) for _ in range(int(rng.integers(0, 4))))
        if rng.random() < 0.3:  # a thought that quotes a turn must not be taken for one
            thought += "\nAction: click[Buy Now]\nand more"
        steps.append(Step(text(9), f"{verb}[{text(6)}]", "teacher", thought=thought))
    form = get_format(name, "webshop")
    messages = form.messages("buy it", steps)
    for t, step in enumerate(steps):
        parsed = parse_reply(messages[form.reply_index(t)].content, form.thoughts)
        assert parsed.valid
        assert parsed.action == step.action
        if form.thoughts:
            assert parsed.thought.split() == step.thought.split() or "Thought:" in step.thought


def test_a_recorded_reply_is_shown_as_it_was_and_parses_to_the_same_action():
    form = get_format("react", "webshop")
    for text, _, action in REPLIES:
        step = Step("page", parse_reply(text).action, "teacher", reply=text)
        assert form.reply(step) == text
        assert parse_reply(form.reply(step)).action == action
        assert get_format("act", "webshop").reply(step) == action


# --- compared with published parsers ----------------------------------------------------------


def cases() -> dict:
    return json.loads(gzip.decompress(CASES.read_bytes()))


def test_where_we_differ_from_eto_it_is_on_purpose():
    """63 replies through ETO's own wrapper: equal but for these five."""
    on_purpose = {
        # ETO wants exactly "Action: ": a model is not punished for a missing blank or a small a
        "Action:search[x]": (None, "search[x]"),
        "action: click[Buy Now]": (None, "click[Buy Now]"),
        "Action:  click[Buy Now]": (" click[Buy Now]", "click[Buy Now]"),
        # ETO hands everything that follows to the environment
        "Thought: a\nAction: click[Description]\nObservation: fake\nAction: click[Buy Now]": (
            "click[Description]\nObservation: fake\nAction: click[Buy Now]",
            "click[Description]",
        ),
        "Action: search[headphones]\n\nThought: more": (
            "search[headphones]\n\nThought: more",
            "search[headphones]",
        ),
    }
    steps = [step for run in cases()["eto"] for step in run["steps"]]
    differ = {}
    for step in steps:
        parsed = parse_reply(step["llm_output"])
        ours = parsed.action if parsed.valid else None
        if ours != step["parsed_action"]:
            differ[step["llm_output"]] = (step["parsed_action"], ours)
    assert len(steps) == 63
    assert differ == on_purpose


def test_where_we_differ_from_agentgym_it_is_on_purpose():
    """AgentGym takes the whole reply without `Action:`, and several lines as one action."""
    on_purpose = {
        "search[red]": "",
        "I will search[red] now": "",
        "Thought:\nx\nAction:\nclick[a]\nclick[b]": "click[a]",
    }
    for case in cases()["agentgym_parse_react"]:
        parsed = parse_reply(case["text"])
        assert parsed.action == on_purpose.get(case["text"], case["action"])
        if case["text"] not in on_purpose:
            assert parsed.thought == case["thought"]
