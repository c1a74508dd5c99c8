"""Records: what is written is what is read, nothing is lost, damage is named."""

import dataclasses
import json

import numpy as np
import pytest

from eeflib.errors import DataError
from eeflib.records import (
    Branch,
    Sample,
    Step,
    Task,
    Trajectory,
    Usage,
    canonical_json,
    content_hash,
)

STEP = Step(
    observation='Zoë said "日本語 🛒"\n\t\\ \u2028 </script>',
    action="click[Buy Now]",
    actor="teacher",
    reply="Thought: …\nAction: click[Buy Now]",
    valid=False,
    reason="no such button",
    reward=0.25,
    score=0.5,
    usage=Usage(12, 3, 0.002, 1.5),
    extra={"admissible": ["a", "b"], "deep": {"x": [None, True, 1.5]}},
)
TRAJECTORY = Trajectory(
    "t1", "a", "webshop", "buy it", "gpt", (STEP, STEP), "done", 1.0, True, False, seed=7
)
RECORDS = [
    Usage(1, 2, None, 0.5, {"cached": 4}),
    Task(
        "a", "webshop", "buy it", {"price": 3.5}, 3, {"max_steps": 10}, "train", 1.0, {"level": 2}
    ),
    STEP,
    TRAJECTORY,
    Branch("b", "a", 1, 2, 0, "t1", TRAJECTORY, iteration=2, extra={"note": "x"}),
    Branch("b", "a", 1, 2, 0, "t1", None, "text differs"),
    Sample("s", "a", "webshop", "buy", "s0", (STEP,), (True,), ("beneficial",), 0, "b"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_json_round_trip(record):
    text = canonical_json(record.to_dict())
    again = type(record).from_dict(json.loads(text))
    assert again == record
    assert canonical_json(again.to_dict()) == text
    assert json.loads(text)["schema"] == 1


def test_unknown_keys_survive_at_every_level():
    data = RECORDS[4].to_dict()
    data["new_branch"] = 1
    data["rollout"]["new_trajectory"] = {"a": [1]}
    data["rollout"]["steps"][1]["new_step"] = "x"
    data["rollout"]["steps"][1]["usage"]["new_usage"] = 0.5
    branch = Branch.from_dict(data)
    assert branch.extra == {"note": "x", "new_branch": 1}
    assert branch.rollout.steps[1].usage.extra == {"new_usage": 0.5}
    assert branch.to_dict() == data

    sample = RECORDS[6].to_dict()
    sample["steps"][0]["new_step"] = 2
    assert Sample.from_dict(sample).to_dict() == sample


def test_notes_cannot_overwrite_fields():
    task = Task("a", "webshop", "buy", extra={"id": "other", "schema": 9, "extra": {"extra": 1}})
    data = task.to_dict()
    assert (data["id"], data["schema"]) == ("a", 1)
    assert Task.from_dict(data) == task


def test_missing_optional_keys_take_their_default_and_newer_schemas_are_read():
    task = Task.from_dict({"schema": 99, "id": "a", "env": "webshop", "instruction": "buy"})
    assert task == Task("a", "webshop", "buy")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("id",), 3, "$.id"),
        (("schema",), "one", "$.schema"),
        (("extra",), [1], "$.extra"),
        (("k",), "1", "$.k"),
        (("rollout",), "x", "$.rollout"),
        (("rollout", "reward"), "high", "$.rollout.reward"),
        (("rollout", "terminated"), 1, "$.rollout.terminated"),
        (("rollout", "steps"), None, "$.rollout.steps"),
        (("rollout", "steps", 1), "step", "$.rollout.steps[1]"),
        (("rollout", "steps", 1, "actor"), "dog", "$.rollout.steps[1].actor"),
        (("rollout", "steps", 1, "usage", "prompt_tokens"), 1.5, "steps[1].usage.prompt_tokens"),
    ],
)
def test_a_wrong_type_is_named_by_its_path(path, value, named):
    data = RECORDS[4].to_dict()
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(DataError, match="not a Branch record") as caught:
        Branch.from_dict(data)
    assert named in str(caught.value)


def test_a_missing_field_and_a_non_object_are_named():
    data = TRAJECTORY.to_dict()
    del data["steps"][0]["action"]
    with pytest.raises(DataError, match=r"`action` - at `\$.steps\[0\]`"):
        Trajectory.from_dict(data)
    for value in (None, 3, "x", [1]):
        with pytest.raises(DataError, match="not an object"):
            Task.from_dict(value)


def test_numpy_values_are_written_as_plain_numbers():
    step = Step("o", "a", "student", reward=np.float32(0.5), score=np.float64(1), valid=np.bool_(1))
    task = Task("a", "e", "i", goal={"n": np.int64(3), "v": np.arange(2)}, seed=np.int32(5))
    assert Step.from_dict(json.loads(canonical_json(step.to_dict()))).reward == 0.5
    again = Task.from_dict(json.loads(canonical_json(task.to_dict())))
    assert (again.seed, again.goal) == (5, {"n": 3, "v": [0, 1]})
    assert again.content_hash == task.content_hash


def test_a_record_and_its_copy_from_a_file_are_written_alike():
    # an environment may say 0 or 1 where a float is meant; a resumed run has read it back
    step = Step("o", "a", "student", reward=1, score=0)
    again = Step.from_dict(json.loads(canonical_json(step.to_dict())))
    assert canonical_json(again.to_dict()) == canonical_json(step.to_dict())


@pytest.mark.parametrize("text", ["\ud83d", "a\udfffb", "\x00\x1f\x7f", "\ufeff"])
def test_any_text_can_be_written_as_utf8_and_hashed(text):
    task = Task("a", "webshop", text)
    raw = canonical_json(task.to_dict()).encode("utf-8")
    assert b"\n" not in raw
    assert Task.from_dict(json.loads(raw)) == task
    assert len(task.content_hash) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_by_path(value):
    trajectory = dataclasses.replace(TRAJECTORY, extra={"scores": [0.5, {"x": value}]})
    with pytest.raises(DataError, match=r"\$\.extra\.scores\[1\]\.x is "):
        trajectory.to_dict()


def test_measured_times_can_be_left_out():
    text = canonical_json(TRAJECTORY.to_dict(timing=False))
    assert "seconds" not in text
    assert "prompt_tokens" in text
    assert Trajectory.from_dict(json.loads(text)).usage == Usage(24, 6, 0.004, 0.0)


def test_hashes_are_by_content():
    assert content_hash({"b": 1, "a": [1, 2]}) == content_hash({"a": (1, 2), "b": 1})
    task = Task("a", "webshop", "buy", {"price": 1})
    assert task.content_hash == dataclasses.replace(task, id="z", split="test").content_hash
    for change in ({"instruction": "sell"}, {"goal": {"price": 2}}, {"seed": 1}, {"env": "x"}):
        assert dataclasses.replace(task, **change).content_hash != task.content_hash


def test_solved_needs_the_threshold_and_no_error():
    def with_(**changes):
        return dataclasses.replace(TRAJECTORY, **changes)

    assert with_(reward=1.0).solved
    assert not with_(reward=0.99).solved  # done is not solved
    assert with_(reward=0.5, threshold=0.5).solved
    assert not with_(error="provider: 500").solved
    assert TRAJECTORY.observation(2) == "done"
    assert not RECORDS[5].won


@pytest.mark.parametrize(
    ("trained", "labels"), [((), ("student",)), ((True,) * 2, ("student",) * 2)]
)
def test_a_sample_has_one_flag_and_one_label_per_step(trained, labels):
    with pytest.raises(DataError, match="one of each per step"):
        Sample("s", "a", "webshop", "buy", "s0", (STEP,), trained, labels)
