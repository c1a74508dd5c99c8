"""Case a09: published trajectory sets, read as their authors meant them.

The table is the right reading of five small files in the shapes of published sets; two further
inputs are a roll-out whose example has a task of the same kind, and one without any example.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import eeflib as eef

DATA = Path(__file__).parents[1] / "data" / "interop"
WANTED = "i need a red cotton shirt in size large, and price lower than 30.00 dollars"


def test_eto_sft_begins_with_the_task_and_has_no_reward():
    (t,) = eef.read_trajectories(DATA / "eto_sft")
    assert t.actions == ("search[red cotton shirt large]", "click[B000000001]", "click[Buy Now]")
    assert t.instruction == WANTED
    assert t.steps[0].observation == f"Instruction: [SEP] {WANTED} [SEP] Search"
    assert t.steps[1].observation.startswith("[Back to Search]")
    assert not t.rated
    assert not t.solved


def test_eto_rollouts_leave_out_the_example_and_name_a_fault():
    done, broken = eef.read_trajectories(DATA / "eto_rollout")
    assert done.actions == ("search[red shirt]", "click[Buy Now]")
    assert (done.id, done.reward, done.rated, done.solved) == ("12", 0.5, True, False)
    assert "example" not in str([s.observation for s in done.steps])
    assert "JSONDecodeError" in broken.error
    assert not broken.rated
    assert broken.instruction == done.instruction == WANTED


def test_agenttraj_keeps_loss_flags_and_counts_what_has_no_conversation():
    found = eef.read_trajectories(DATA / "agenttraj")
    (t,) = found
    assert (t.id, t.env) == ("webshop_6", "webshop")
    assert [(s.thought, s.action) for s in t.steps] == [
        ("I search for it.", "search[red cotton shirt]"),
        ("It fits.", "click[B000000001]"),
    ]
    assert t.extra["trained_flags"] == [None, False, None, True, None, True]
    assert [s.extra["trained"] for s in t.steps] == [True, True]
    assert [n.count for reason, n in found.report.skipped.items() if "null" in reason] == [1]


def test_actions_of_a_page_log_are_inferred_and_say_so():
    (t,) = eef.read_trajectories(DATA / "human_webshop")
    assert t.actions == ("search[red shirt]", "click[B000000001]", "click[large]", "click[Buy Now]")
    assert all(s.extra["inferred"] and s.actor == "human" for s in t.steps)
    assert t.extra["actions"] == "inferred"
    assert (t.reward, t.solved, t.policy) == (1.0, True, "human")
    assert t.extra["reward_info"]["r_type"] == 1.0


def test_openai_messages():
    (t,) = eef.read_trajectories(DATA / "openai_messages/trajectories.jsonl")
    assert (t.length, t.reward, t.solved) == (2, 1.0, True)
    assert t.extra["system"] == "You shop."


def test_all_of_them_at_once():
    paths = [DATA / n for n in ("eto_sft", "eto_rollout", "agenttraj", "human_webshop")]
    found = eef.read_trajectories([*paths, DATA / "openai_messages/trajectories.jsonl"])
    assert (len(found), found.report.faults, found.report.unrated) == (6, 1, 3)


# -- further inputs -------------------------------------------------------------------------------


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


EXAMPLE = talk(
    "You are web shopping.",
    "OK",
    "Observation:\nWebShop [SEP] Instruction: [SEP] i need a blue hat [SEP] Search",
    "Thought: e\nAction: search[blue hat]",
    "Observation:\nInstruction: [SEP] i need a blue hat [SEP] Buy Now",
    "Thought: e\nAction: click[Buy Now]",
)
OWN = talk(
    "Observation:\nWebShop [SEP] Instruction: [SEP] i need a red shirt [SEP] Search",
    "Thought: t\nAction: search[red shirt]",
    "Observation:\nInstruction: [SEP] i need a red shirt [SEP] Buy Now",
    "Thought: t\nAction: click[Buy Now]",
)
META = {"steps": 2, "reward": 0.4, "finished": True, "success": True, "terminate_reason": "",
        "error": None}  # fmt: skip


@pytest.mark.parametrize(
    "turns",
    [
        EXAMPLE + OWN,  # every turn is an observation: the task is where another instruction begins
        EXAMPLE[:2] + OWN,  # no example at all: the same steps
        talk("You are web shopping. An example:\nAction: search[blue hat]\n---\n\nNow, it's your "
             f"turn and here is the task.\n{OWN[0]['value']}") + OWN[1:],
    ],
    ids=["an example of the same kind", "no example", "an example in the first turn's text"],
)  # fmt: skip
def test_a_rollout_begins_at_its_own_task(tmp_path, turns):
    path = tmp_path / "7.json"
    path.write_text(json.dumps({"meta": META, "conversations": turns}))
    (t,) = eef.read_trajectories(path)
    assert t.actions == ("search[red shirt]", "click[Buy Now]")
    assert t.instruction == "i need a red shirt"
    assert (t.reward, t.solved, t.terminated) == (0.4, False, True)


def test_a_longer_visit_with_going_back_and_other_options(tmp_path):
    goal = {"instruction_text": "i need a shirt", "asin": "B2"}
    item = {"keywords": "['shirt']", "page": "1", "asin": "B2", "options": {}}
    first = {"keywords": ["shirt"], "page": 1}
    pages = [
        ("index", {}),
        ("search_results", first),
        ("search_results", {**first, "page": 2}),
        ("search_results", first),
        ("item_page", {**item, "asin": "B1"}),
        ("search_results", first),
        ("item_page", item),
        ("item_sub_page", item),
        ("item_page", {**item, "options": {"size": "s"}}),
        ("item_page", {**item, "options": {"size": "l"}}),
        ("index", {}),
        ("search_results", {"keywords": ["red", "shirt"], "page": 1}),
        ("item_page", {**item, "keywords": "['red', 'shirt']"}),
        ("done", {"asin": "B2", "options": {}, "price": 5.0}),
    ]
    rows = [
        {"page": p, "url": f"x/{'Features' if 'sub' in p else p}", "goal": goal, "content": c}
        for p, c in pages
    ]
    rows[-1]["reward"] = 0.5
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    found = eef.read_trajectories(path)
    assert len(found) == 2
    assert found[0].actions == (
        "search[shirt]", "click[Next >]", "click[< Prev]", "click[B1]", "click[< Prev]",
        "click[B2]", "click[Features]", "click[< Prev]", "click[s]", "click[l]",
        "click[Back to Search]", "search[red shirt]", "click[B2]", "click[Buy Now]",
    )  # fmt: skip
    assert (found[0].reward, found[0].solved) == (0.5, False)
    assert found[1].task_id == found[0].task_id != found[1].id
