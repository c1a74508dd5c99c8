"""Training on pairs (ETO) and on hints (NAT), with the real trl and the tiny student."""

from __future__ import annotations

import random
import sys

import pytest
import torch

import eeflib as eef
from eeflib.batches import lean_loss, padded
from eeflib.cli import app
from eeflib.errors import DataError, PrerequisiteError
from eeflib.interop.write import export
from eeflib.prompts import HINTS

WORLD = {"seed": 3, "train": 16, "test": 4}


@pytest.fixture(scope="module")
def played():
    """(teacher's trajectories, a student's rollouts of the same tasks): some solved, some not."""
    world = eef.webshop(**WORLD)
    tries = eef.collect(world, progress=False)
    found = eef.explore(world, tries, world.teacher, method="RFTx4", progress=False)
    return world, tries, found


def margin(student, data) -> float:
    """Mean over the pairs of log p(chosen) - log p(rejected), over trained tokens, in nats."""
    model, _ = student.loaded
    with torch.no_grad():
        said = [float(-lean_loss(model, padded([item]))) for item in data]
    return sum(said[::2]) / len(said[::2]) - sum(said[1::2]) / len(said[1::2])


@pytest.mark.parametrize("how", ["full", "lora"])
def test_the_chosen_way_becomes_likelier_than_the_rejected_one(played, how):
    _, tries, found = played
    base = eef.Student("tiny", method=how, batch_size=4, learning_rate=1.5e-2, warmup=0)
    pairs = eef.select(tries, found, "ETO", attempts=4).samples[:8]
    assert {s.kind for s in pairs} == {"chosen", "rejected"}
    data = eef.encode(pairs, base)
    assert data.paired
    assert len(data) % 2 == 0
    assert len(data) == 8
    before = margin(base, data)
    random.seed(7)
    drawn = random.getstate()
    weights = {n: p.clone() for n, p in base.model.named_parameters()}
    tuned = eef.train(base, data, steps=3, progress=False)
    assert tuned.result.losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: student = reference
    assert tuned.result.losses[-1] < 0.6
    assert margin(tuned, data) > before + 1
    again = eef.train(base, data, steps=3, progress=False)
    assert again.result.losses == tuned.result.losses
    assert random.getstate() == drawn
    # the base is what it was, and acts as it did
    assert margin(base, data) == pytest.approx(before, abs=1e-6)
    for name, value in base.model.named_parameters():
        assert torch.equal(value, weights[name])
    assert "forward" not in vars(base.model)


def test_the_reference_is_the_student_that_training_goes_on_from(played):
    _, tries, found = played
    base = eef.Student("tiny", method="lora", batch_size=4, learning_rate=3e-3)
    clone = eef.train(
        base, eef.encode(eef.select(tries, method="SFT"), base), steps=3, progress=False
    )
    data = eef.encode(eef.select(tries, found, "ETO", attempts=4), base)
    tuned = eef.train(clone, data, steps=2, progress=False)
    assert tuned.result.losses[0] == pytest.approx(0.6931, abs=1e-3)
    names = [p.name for p in tuned.folder.iterdir()]
    assert "ref" not in names  # trl's copy of the adapter is not kept
    assert tuned.policy(greedy=True).name


def test_a_pair_is_left_out_whole_and_is_no_set_of_examples(played):
    _, tries, found = played
    student = eef.Student("tiny")
    pairs = eef.select(tries, found, "ETO", attempts=4)
    whole = eef.encode(pairs, student)
    limit = min(
        max(a.length, b.length) for a, b in zip(whole.items[::2], whole.items[1::2], strict=True)
    )
    data = eef.encode(pairs, student, max_length=limit)
    assert 0 < len(data) < len(whole)
    assert len(data) % 2 == 0
    ids = [s.id for s in pairs]
    for better, worse in zip(data.items[::2], data.items[1::2], strict=True):
        assert ids.index(worse.sample_id) == ids.index(better.sample_id) + 1
    with pytest.raises(DataError, match="pairs"):
        data.to_dataset()
    for broken in (pairs.samples[1:], pairs.samples[:3]):
        with pytest.raises(DataError, match="stands alone"):
            eef.encode(broken, student)


def test_without_trl_the_command_is_named(played, monkeypatch):
    _, tries, found = played
    student = eef.Student("tiny")
    data = eef.encode(eef.select(tries, found, "ETO", attempts=4), student)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(PrerequisiteError, match=r'pip install "eeflib\[trl\]"'):
        eef.train(student, data, steps=1, progress=False)


def test_a_student_of_nat_is_told_that_its_try_is_a_good_one(played, tmp_path):
    world, tries, _ = played
    base = eef.Student("tiny")
    samples = eef.select(tries, method="NAT")
    data = eef.encode(samples, base)
    for sample, item in zip(samples, data, strict=True):
        assert HINTS[sample.source in {t.id for t in tries if t.solved}] in item.text
    tuned = eef.train(base, data, steps=1, progress=False, output=tmp_path / "nat")
    said = HINTS[True]
    for student in (tuned, eef.Student(str(tuned.folder))):
        first = student.format("webshop").messages("find a mug", (), "page")[-1].content
        assert first.startswith(f"Instruction: find a mug{said}\n")
    assert base.format("webshop").hint == ""
    plain = eef.train(
        base, eef.encode(eef.select(tries, method="SFT"), base), steps=1, progress=False
    )
    assert plain.format("webshop").hint == ""
    outcomes = eef.evaluate(world, tuned, progress=False)
    assert len(outcomes) == WORLD["test"]


def test_the_command_goes_on_from_the_clone_and_pairs_are_not_exported(tmp_path, capsys):
    place = tmp_path / "run"
    sizes = {"train": 16, "test": 2, "iterations": 1, "steps": 3}
    run = eef.open_run(place, preset="tiny", seeds=(3,), **sizes)
    for args in (["explore", str(place)], ["train", str(place), "--steps", "2"]):
        app([*args, "--method", "ETO"], standalone_mode=False)
    assert "loss 0.693 ->" in capsys.readouterr().out
    kinds = [s.kind for s in run.samples("ETO", 1)]
    assert kinds == ["chosen", "rejected"] * (len(kinds) // 2) != []
    with pytest.raises(DataError, match="would imitate both"):
        export(run, "trl", method="ETO")
    actions = eef.analysis.tables.training_actions(*(
        getattr(eef.frames.load(place), name) for name in ("steps", "trajectories", "samples")
    ))  # fmt: skip
    trained = sum(sum(s.trained) for s in run.samples("ETO", 1) if s.kind == "chosen")
    assert actions.loc[actions["source"] == "ETO", "count"].sum() == trained
