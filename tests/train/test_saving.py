"""A student is saved as an adapter or merged, and pushed; what is saved answers the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import LORA, encoded, files, files_of_at_most

import eeflib as eef
from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Sample, Step

IDS = torch.arange(5, 60)[None]


def logits(student: eef.Student) -> torch.Tensor:
    with torch.no_grad():
        return student.model(input_ids=IDS).logits.float()


@pytest.fixture(scope="module")
def base() -> eef.Student:
    config = replace(LORA, device="cpu", dtype="float32", max_steps=8)
    return eef.Student("tiny", training=config)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> eef.Student:
    folder = tmp_path_factory.mktemp("trained") / "out"
    return eef.train(base, encoded(base.tokenizer), output=folder, progress=False)


def test_merged_weights_answer_as_the_adapter_does(base, tuned, tmp_path):
    wanted = logits(tuned)
    assert not torch.allclose(wanted, logits(base), atol=0.1)
    exact = eef.Student(str(tuned.save(tmp_path / "exact", merged=True, dtype="float32")))
    torch.testing.assert_close(logits(exact), wanted, rtol=1e-4, atol=1e-4)
    assert not list((tmp_path / "exact").glob("adapter*"))
    half = tuned.save(tmp_path / "half", merged=True)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    off = (logits(eef.Student(str(half))) - wanted).norm() / wanted.norm()
    assert off < 0.02
    assert eef.Student(str(half)).tokenizer.get_vocab() == tuned.tokenizer.get_vocab()
    torch.testing.assert_close(logits(tuned), wanted, rtol=0, atol=0)  # it is as it was


def test_an_adapter_is_saved_as_it_was_trained_and_can_be_trained_on(tuned, tmp_path):
    folder = tuned.save(tmp_path / "adapter")
    assert files(folder) == files(tuned.folder)
    again = eef.Student(str(folder), training=tuned.training)
    torch.testing.assert_close(logits(again), logits(tuned), rtol=0, atol=0)
    assert files(again.save(tmp_path / "copy")) == files(folder)
    merged = eef.Student(str(again.save(tmp_path / "merged", merged=True, dtype="float32")))
    torch.testing.assert_close(logits(merged), logits(tuned), rtol=1e-4, atol=1e-4)
    more = eef.train(again, encoded(again.tokenizer), progress=False)
    assert more.result.losses[0] < tuned.result.losses[0]


@pytest.mark.parametrize("merged", [False, True])
def test_an_untuned_student_is_saved_whole(base, tmp_path, merged):
    folder = base.save(tmp_path / "base", merged=merged, dtype="float32")
    torch.testing.assert_close(logits(eef.Student(str(folder))), logits(base), rtol=0, atol=0)
    first = files(folder)
    assert files(base.save(folder, merged=merged, dtype="float32")) == first


def test_nothing_foreign_is_replaced_and_a_full_disk_is_one_error(tuned, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(DataError, match="holds no saved student"):
        tuned.save(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(DataError, match=r"choose another folder|cannot be written"):
            tuned.save(tmp_path / place)
    for merged in (False, True):
        kept = files(tuned.save(tmp_path / "out", merged=merged))
        with (
            files_of_at_most(20_000),
            pytest.raises(DataError, match=r"out: cannot be written .*make room"),
        ):
            tuned.save(tmp_path / "out", merged=merged)
        assert files(tmp_path / "out") == kept
        assert not list(tmp_path.glob(".*/*"))


def test_push_to_hub_uploads_what_is_saved_or_says_what_is_missing(tuned, monkeypatch):
    from huggingface_hub import HfApi, errors

    def refuse(self, *args, **kwargs):
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(PrerequisiteError, match="hf auth login"):
        tuned.push_to_hub("me/agent")
    sent: dict = {}

    def create(self, name, *, private, exist_ok):
        sent["private"] = private
        return f"https://hub/{name}"

    def upload(self, *, repo_id, folder_path):
        sent[repo_id] = files(Path(folder_path))

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert tuned.push_to_hub("me/agent") == "https://hub/me/agent"
    assert sent["private"]
    assert sent["me/agent"] == files(tuned.folder)


def test_gguf_without_unsloth_names_the_converter(tuned, tmp_path):
    with pytest.raises(PrerequisiteError, match=r"convert_hf_to_gguf\.py merged --outtype q8_0"):
        tuned.save_gguf(tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_an_adapter_that_changes_nothing_is_named(base, tuned, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    logits(eef.Student(str(tuned.save(tmp_path / "trained"))))
    assert "changes nothing" not in caplog.text
    empty = tuned.save(tmp_path / "empty")
    path = empty / "adapter_model.safetensors"
    weights = {k: w * ("lora_B" not in k) for k, w in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    (empty / "eef_adapter.json").unlink()
    torch.testing.assert_close(logits(eef.Student(str(empty))), logits(base), rtol=0, atol=0)
    assert "changes nothing: all its B matrices are 0" in caplog.text


def test_a_base_is_in_memory_once_and_each_student_answers_as_itself():
    """Two adapters of one base: asked in turn, also after training went on from one of them."""
    student = eef.Student("tiny", mode="generate", max_new_tokens=4, rank=2)
    fmt = student.format("webshop")
    asked = [fmt.conversation("buy", (), "page", key="one")]

    def logprob(who):
        (reply,) = policies[who].act(asked, rng=[np.random.default_rng(0)])
        return round(reply.logprob, 4)  # what is held from before is summed in another order

    steps = (Step("page", "click[buy now]", "teacher"),)
    sample = Sample("s", "t", "webshop", "buy", "positive", steps, (True,), ("beneficial",))
    data = eef.encode([sample], student)
    settings = {"method": "lora", "learning_rate": 0.02, "progress": False}
    settings |= {"schedule": "constant", "warmup": 0.0}
    first = eef.train(student, data, steps=4, **settings)
    second = eef.train(student, data, steps=9, **settings)
    students = {"base": student, "first": first, "second": second}
    policies = {name: s.policy(greedy=True) for name, s in students.items()}
    alone = {name: logprob(name) for name in policies}
    assert len(set(alone.values())) == 3
    assert [logprob(who) for who in ("second", "base", "first", "base", "second")] == [
        alone[who] for who in ("second", "base", "first", "base", "second")
    ]
    bases = {id(p) for s in students.values() for n, p in s.model.named_parameters() if "norm" in n}
    assert len(bases) == len([n for n, _ in student.model.named_parameters() if "norm" in n])
    further = eef.train(first, data, steps=2, **settings)
    assert further.result.losses[0] == pytest.approx(second.result.losses[4], rel=1e-5)
    assert {logprob("base"), logprob("first")} == {alone["base"], alone["first"]}


def test_an_adapter_trained_in_float16_is_put_on_its_base_in_other_numbers(tmp_path):
    """As a T4 trains it; float16 loses small values, so that the base's hash would be another."""
    student = eef.Student("tiny", training=replace(LORA, dtype="float16", device="cpu"))
    tuned = eef.train(student, encoded(student.tokenizer), output=tmp_path / "a", progress=False)
    assert eef.Student("tiny").tuned(tuned.folder).model.dtype == torch.float32
    whole = tuned.save(tmp_path / "whole", merged=True, dtype="float16")
    assert eef.Student(str(whole)).model is not None


def test_training_goes_on_into_the_same_folder_and_is_played_as_it_was_left(base, tmp_path):
    data, where = encoded(base.tokenizer), tmp_path / "out"
    first = eef.train(base, data, output=where, progress=False)
    assert first.model is not None  # its adapter is on the base
    second = eef.train(first, data, output=where, progress=False)
    again = eef.Student("tiny").tuned(where)
    torch.testing.assert_close(logits(second), logits(again))


def test_a_policy_outlives_its_student(base):
    data = encoded(base.tokenizer)
    fmt = base.format("webshop")
    asked = [fmt.conversation("buy", (), "page", key="x", admissible=("search[a]", "click[b]"))]
    policy = eef.train(base, data, progress=False).policy(greedy=True)
    eef.train(base, data, steps=1, progress=False).policy()
    assert policy.act(asked, rng=[np.random.default_rng(0)])[0].text in ("search[a]", "click[b]")


def test_other_numbers_are_loaded_where_a_training_asks_for_them():
    half = eef.Student("tiny", training=replace(LORA, dtype="bfloat16", device="cpu"))
    assert half.model.dtype == torch.bfloat16
    tuned = eef.train(half, encoded(half.tokenizer), dtype="float32", steps=2, progress=False)
    card = json.loads((tuned.folder / "eef_adapter.json").read_text())
    assert card["config"]["dtype"] == "float32"
    plain = eef.Student("tiny", training=replace(LORA, dtype="float32", device="cpu"))
    same = eef.train(plain, encoded(plain.tokenizer), steps=2, progress=False)
    assert tuned.result.losses == same.result.losses
