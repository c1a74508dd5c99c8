"""The shipped run: opened from the package alone, an ordinary run, the one that is described."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import eeflib as eef
from eeflib.errors import DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> eef.Run:
    return eef.example_run(tmp_path_factory.mktemp("runs") / "example")


def test_it_is_small_and_says_how_it_was_made():
    shipped = Path(eef.__file__).parent / "assets" / "example_run"
    assert sum(f.stat().st_size for f in shipped.iterdir()) < 4e6
    text = (shipped / "README.md").read_text("utf-8")
    assert "scripts/example_run.py" in text
    assert "development seeds" in text


def test_a_slice_of_it_is_made_again(run: eef.Run):
    """Same tasks and same trajectories of the teacher, whatever machine packed it."""
    world = run.world()
    assert [t.content_hash for t in run.tasks()] == [t.content_hash for t in world.tasks]
    again = eef.collect(world, progress=False)
    assert [t.actions for t in again] == [t.actions for t in run.trajectories()]
    samples = eef.select(run.trajectories(), [run.exploration("EEF", 1)], "EEF")
    assert [s.id for s in samples] == [s.id for s in run.samples("EEF", 1)]


def test_its_lesson_is_in_it(run: eef.Run):
    samples = run.samples("EEF", 1)
    recovery = [s for s in samples if s.kind == "recovery"]
    assert len(recovery) >= 0.15 * len(samples)
    masked = [
        s
        for s in samples
        if any(x == "harmful" and not on for x, on in zip(s.labels, s.trained, strict=True))
    ]
    assert masked
    table = eef.frames.load(run)
    assert set(run.config.seeds) == set(table.evaluations["seed"])


def test_some_failures_are_explored_often(run: eef.Run):
    """The first that were lost from s0 and won from a later state, by the very same clone."""
    found = eef.analysis.Collection.of(run.path / "closer")
    often = [found.branches.at(item, s.k) for item in found for s in item.states]
    assert len(found) == 8
    assert {len(branches) for branches in often} == {8}
    assert any(0 < sum(b.won for b in branches) < 8 for branches in often)
    once = {b.id: b for b in run.branches("EEF", 1)}
    assert {item.trajectory.id for item in found} <= {t.id for t in run.trajectories()}
    for item in found:
        assert not once[found.branches.at(item, 0)[0].id].won
        assert any(once[found.branches.at(item, s.k)[0].id].won for s in item.states)
    page = eef.write_report(run, run.path / "report.html").read_text("utf-8")
    assert "Another case" not in page


def test_its_models_play_and_those_left_out_say_so(run: eef.Run):
    world = run.world()
    base = run.student()
    tuned = run.student("EEF", 1, base=base)
    assert tuned.fingerprint != base.fingerprint
    for method, iteration in (("SFT", 0), ("RFT", 1)):
        with pytest.raises(DataError, match=f"is missing: run {method}"):
            run.student(method, iteration, base=base)
    few = replace(world, tasks=world.split("test")[:12])
    again = eef.evaluate(few, tuned, progress=False)
    on_file = {e.task_id: e.reward for e in run.evaluations("EEF")}
    # on another processor a near tie between two actions may fall the other way
    assert sum(e.reward == on_file[e.task_id] for e in again) >= 10


def test_it_is_a_copy_that_is_kept(run: eef.Run, tmp_path: Path):
    (run.path / "mine.txt").write_text("a note", "utf-8")
    assert eef.example_run(run.path).path == run.path
    assert (run.path / "mine.txt").read_text("utf-8") == "a note"
    page = eef.write_report(run, tmp_path / "report.html")
    assert page.stat().st_size > 1e5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.json").write_text(json.dumps({}), "utf-8")
    with pytest.raises(DataError, match="give example_run another path"):
        eef.example_run(tmp_path / "other")


class TestScienceWorld:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> eef.Run:
        return eef.example_run(tmp_path_factory.mktemp("runs") / "other", env="scienceworld")

    def test_it_is_small_and_says_how_it_was_made(self):
        shipped = Path(eef.__file__).parent / "assets" / "example_scienceworld"
        assert sum(f.stat().st_size for f in shipped.iterdir()) < 5e5
        text = (shipped / "README.md").read_text("utf-8")
        assert "scripts/scienceworld_run.py" in text
        assert "development seed" in text

    def test_a_slice_of_it_is_made_again(self, run: eef.Run):
        few = eef.scienceworld(run.seed, train=3, test=1, mix=run.config.mix)
        tasks = run.tasks()
        splits = {name: [t for t in tasks if t.split == name] for name in ("train", "test")}
        assert few.tasks == (*splits["train"][:3], splits["test"][0])
        again = eef.collect(few, progress=False)
        assert again == run.trajectories()[:3]
        samples = eef.select(run.trajectories(), run.exploration("EEF", 1), "EEF")
        assert list(samples) == run.samples("EEF", 1)

    def test_the_student_wins_from_the_teachers_states(self, run: eef.Run):
        explored = run.exploration("EEF", 1)
        assert explored.report.verified == explored.report.restorations > 0
        assert sum(b.won for b in explored.branches if b.k > 0) >= 20
        assert any(s.kind == "recovery" for s in run.samples("EEF", 1))

    def test_its_models_are_left_out_and_it_says_so(self, run: eef.Run):
        with pytest.raises(DataError, match="is missing: run EEF"):
            run.student("EEF", 1)

    def test_no_other_environment_has_one(self, tmp_path: Path):
        with pytest.raises(DataError, match="webshop or scienceworld"):
            eef.example_run(tmp_path / "none", env="textworld")
        assert not (tmp_path / "none").exists()
