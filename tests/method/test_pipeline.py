"""The pipeline with real parts, very small: order of steps, files, crashes, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.masking import encode_samples
from eeflib.methods import get_method
from eeflib.pipeline import Pipeline, Progress
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.policies.scripted import ScriptedShopper, Skill
from eeflib.recipe import Recipe
from eeflib.records import Branch, Evaluation, Sample, Task, Trajectory
from eeflib.store import RunFolder
from eeflib.world import World, webshop_world

SEED = 31
TRAIN = TrainConfig(
    method="full", learning_rate=2e-3, max_steps=2, batch_size=4, dtype="float32", device="cpu"
)
RECIPE = Recipe("tiny", "act", "admissible", TRAIN, batch_size=4)
SFT = get_method("SFT")
RFT = replace(get_method("RFT"), iterations=2)
EEF = replace(get_method("EEF"), iterations=2, M=2)


@cache
def world(teacher: str = "able") -> World:
    """Six tasks to train on and four to test, with a teacher that solves some, or none."""
    made = webshop_world(SEED, {"train": 6, "test": 4})
    default = made.teacher
    assert isinstance(default, ScriptedShopper)
    able = Skill(floor=0, ceiling=1, middle=190, width=1)  # errs from the second page on
    skill = {"able": able, "hopeless": Skill(floor=1, ceiling=0)}[teacher]
    shopper = ScriptedShopper(
        skill, option_words=default.option_words, option_names=default.option_names
    )
    return replace(made, teacher=shopper)


def pipeline(path: Path, progress: Progress | None = None, **changes: Any) -> Pipeline:
    recipe = replace(RECIPE, **changes)
    return Pipeline(world(), recipe, RunFolder(path), SEED, progress=progress)


def run_all(path: Path, progress: Progress | None = None) -> dict[str, list[Evaluation]]:
    p = pipeline(path, progress)
    return {m.name: p.run(m) for m in (SFT, RFT, EEF)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT, RFT and EEF that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    run_all(path)
    return path


def lasting(path: Path) -> dict[str, bytes]:
    """Everything a run leaves, less measured times and locks."""
    return {
        str(f.relative_to(path)): f.read_bytes()
        for f in sorted(path.rglob("*"))
        if f.is_file()
        and f.name not in ("timings.jsonl", "timing.json")
        and not f.name.startswith(".lock")
    }


def read(path: Path, name: str, kind: Any) -> list[Any]:
    return list(RunFolder(path).read(name, kind))


def test_it_leaves_the_files_that_it_promises(whole):
    tasks = read(whole, "tasks", Task)
    assert [t.split for t in tasks] == ["train"] * 6 + ["test"] * 4
    trajectories = read(whole, "trajectories", Trajectory)
    assert [t.task_id for t in trajectories] == [t.id for t in tasks if t.split == "train"]
    assert any(t.solved for t in trajectories)
    assert not all(t.solved for t in trajectories)
    for name, iterations in (("SFT", [0]), ("RFT", [1, 2]), ("EEF", [1, 2])):
        outcomes = read(whole / name, "evaluations", Evaluation)
        tested = [t.id for t in tasks if t.split == "test"]
        assert [(o.iteration, o.task_id) for o in outcomes] == [
            (i, t) for i in iterations for t in tested
        ]
        for i in iterations:
            folder = whole / name / f"iter-{i}"
            assert (folder / "model" / "model.safetensors").stat().st_size > 100_000
            assert read(folder, "samples", Sample)
            assert (folder / "branches.jsonl").exists() is (i > 0)
            assert not list(folder.glob(".*partial"))


def test_no_test_task_is_explored_or_trained_on(whole):
    tested = {t.id for t in read(whole, "tasks", Task) if t.split == "test"}
    for file in whole.rglob("*.jsonl"):
        if file.name in ("branches.jsonl", "samples.jsonl", "trajectories.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            assert rows
            assert not {row["task_id"] for row in rows} & tested, file


def test_every_iteration_explores_with_the_student_of_the_one_before(tmp_path, whole):
    asked: list[tuple[str, bool]] = []

    class Watched(Pipeline):
        def policy(self, model: Path, *, greedy: bool) -> Policy:
            asked.append((str(model.relative_to(tmp_path)), greedy))
            return super().policy(model, greedy=greedy)

    p = Watched(world(), RECIPE, RunFolder(tmp_path), SEED)
    p.run(SFT)
    p.run(EEF)
    explored = [(m, g) for m, g in asked if not g]
    assert explored == [("SFT/iter-0/model", False), ("EEF/iter-1/model", False)]
    tested = [(m, g) for m, g in asked if g]
    assert [m for m, _ in tested] == [
        "SFT/iter-0/model", "EEF/iter-1/model", "EEF/iter-2/model",
    ]  # fmt: skip


def test_every_iteration_trains_the_base_anew(whole):
    cards = [json.loads(f.read_text()) for f in whole.rglob("eef_adapter.json")]
    assert len(cards) == 5
    assert len({c["start"] for c in cards}) == 1


def test_simulations_are_the_branches_on_file(whole):
    p = pipeline(whole)
    for method in (RFT, EEF):
        on_file = [
            b for i in (1, 2) for b in read(whole / method.name / f"iter-{i}", "branches", Branch)
        ]
        assert all(b.restored for b in on_file)
        assert p.simulations(method) == len(on_file)
    states = sum(b.k > 0 for b in read(whole / "EEF/iter-1", "branches", Branch))
    assert states > 6
    assert p.simulations(EEF) == 2 * (6 + states)
    assert p.simulations(RFT) == 12


def test_samples_hold_what_the_students_prompt_could_hold(whole):
    """No prompt before the purchase holds the reward; every sample trains something."""
    for file in whole.rglob("samples.jsonl"):
        for sample in read(file.parent, "samples", Sample):
            assert any(sample.trained)
            for step in sample.steps:
                assert "Your score" not in step.observation


def test_the_same_seed_gives_the_same_bytes(tmp_path, whole):
    run_all(tmp_path)
    ours, theirs = lasting(tmp_path), lasting(whole)
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if ours[k] != theirs[k]] == []


class Crash(Exception):
    """Stands for a process that dies here."""


def crashing(after: int) -> Progress:
    left = after

    def progress(step: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash(step)

    return progress


def test_a_crash_after_any_report_of_progress_changes_nothing(tmp_path, whole):
    where = []
    for _ in range(80):
        try:
            run_all(tmp_path, crashing(after=1))
            break
        except Crash as crash:
            where.append(str(crash))
    assert len(set(where)) == 15, where  # collect; train and evaluate five times; explore four
    ours, theirs = lasting(tmp_path), lasting(whole)
    assert [k for k in theirs if ours.get(k) != theirs[k]] == []
    assert ours.keys() == theirs.keys()


def test_a_kill_between_writing_and_marking_as_done_changes_nothing(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    markers = list((tmp_path / "copy").rglob("phases/*.json"))
    assert len(markers) > 15
    for marker in markers:
        marker.unlink()
    run_all(tmp_path / "copy")
    assert lasting(tmp_path / "copy") == lasting(whole)


class Refused:
    """The teacher, until its provider refuses to go on."""

    name, wants_admissible, independent = "refused", False, True

    def __init__(self, teacher: Policy, calls: int) -> None:
        self.teacher, self.calls = teacher, calls
        self.name, self.forget = teacher.name, teacher.forget

    def act(self, conversations: Sequence[Conversation], *, rng: Any) -> list[Reply]:
        self.calls -= 1
        if self.calls < 0:
            raise ProviderError("no credit left")
        return self.teacher.act(conversations, rng=rng)


def test_a_collection_goes_on_after_the_provider_refused(tmp_path):
    undisturbed = pipeline(tmp_path / "a").collect()
    p = pipeline(tmp_path / "b")
    p.world = replace(world(), teacher=Refused(world().teacher, 4))
    with pytest.raises(ProviderError, match="no credit left"):
        p.collect()
    cut = [t for t in read(tmp_path / "b", "trajectories", Trajectory) if t.error]
    assert cut
    p.world = replace(world(), teacher=Refused(world().teacher, 100))
    assert p.collect() == undisturbed
    on_file = read(tmp_path / "b", "trajectories", Trajectory)
    assert sorted(on_file, key=lambda t: t.id) == sorted(undisturbed, key=lambda t: t.id)
    assert read(tmp_path / "b", "failed_attempts", Trajectory) == cut


def test_a_finished_run_is_only_read(whole):
    before = {f: f.stat().st_mtime_ns for f in whole.rglob("*") if f.is_file()}
    steps: list[str] = []
    again = run_all(whole, lambda step, done, total: steps.append(step))
    assert not [s for s in steps if "explore" in s or "evaluate" in s or "collect" in s]
    changed = [f.name for f, t in before.items() if f.stat().st_mtime_ns != t]
    # the phase file of the selection is written again, with the same content
    assert set(changed) <= {"select.json", ".lock", ".lock.owner"}
    assert again["EEF"] == read(whole / "EEF", "evaluations", Evaluation)


def test_branches_of_another_method_are_taken_over_and_still_count(tmp_path, whole):
    p = pipeline(tmp_path)
    p.run(SFT)
    one = replace(EEF, iterations=1)
    p.run(one)
    watched: list[str] = []
    q = pipeline(tmp_path, lambda step, done, total: watched.append(f"{step} {done}/{total}"))
    bare = replace(one, name="EEF-no-mask", mask=False)
    q.run(bare, share=[(one, q.folder.sub("EEF"))])
    explored = [w for w in watched if "explore" in w]
    n = q.simulations(bare)
    assert explored == [f"EEF-no-mask iteration 1: explore {n}/{n}"]  # nothing was left to run
    names = [Path("EEF/iter-1/branches.jsonl"), Path("EEF-no-mask/iter-1/branches.jsonl")]
    ours, theirs = ((tmp_path / name).read_bytes() for name in names)
    assert ours == theirs
    assert theirs == (whole / names[0]).read_bytes()


class ScriptedStudent(Pipeline):
    """The pipeline around a student that wins now and then, whatever it was trained on."""

    def policy(self, model: Path, *, greedy: bool) -> Policy:
        default = self.world.teacher
        assert isinstance(default, ScriptedShopper)
        return ScriptedShopper(
            Skill(floor=0.35, ceiling=0),
            option_words=default.option_words,
            option_names=default.option_names,
        )


def test_what_the_student_finds_is_trained_on_and_harmful_actions_are_not(tmp_path):
    recipe = replace(RECIPE, prompt="react", train=replace(TRAIN, max_steps=1))
    p = ScriptedStudent(world(), recipe, RunFolder(tmp_path), SEED)
    p.run(SFT)
    p.run(RFT)
    p.run(EEF)
    whole = replace(EEF, name="EEF-no-mask", mask=False)
    p.run(whole, share=[(EEF, p.folder.sub("EEF"))])
    solved = {t.task_id for t in p.collect() if t.solved}
    won = {
        b.task_id for i in (1, 2) for b in read(tmp_path / f"EEF/iter-{i}", "branches", Branch)
        if b.won
    }  # fmt: skip
    assert won - solved, "the student found nothing new: the test proves nothing"
    masked = read(tmp_path / "EEF/iter-2", "samples", Sample)
    assert {s.task_id for s in masked} == solved | won
    for s in masked:
        flags = list(zip(s.steps, s.labels, s.trained, strict=True))
        assert not [label for _, label, on in flags if on and label in ("harmful", "unknown")]
    assert any(step.actor == "teacher" and not on for s in masked for step, on in
               zip(s.steps, s.trained, strict=True))  # fmt: skip
    assert any(not s.trained[0] for s in masked)
    bare = read(tmp_path / "EEF-no-mask/iter-2", "samples", Sample)
    assert all(on for s in bare for step, on in zip(s.steps, s.trained, strict=True) if step.valid)
    assert any("harmful" in s.labels for s in bare)
    assert not any(step.actor == "teacher" for s in read(tmp_path / "RFT/iter-1", "samples", Sample)
                   if s.task_id not in solved for step in s.steps)  # fmt: skip


def test_exploring_before_cloning_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"SFT.iter-0.model is missing: run SFT with this seed"):
        pipeline(tmp_path).run(RFT)


def test_a_teacher_that_never_succeeds_is_named_as_the_reason(tmp_path):
    p = Pipeline(world("hopeless"), RECIPE, RunFolder(tmp_path), SEED)
    assert not any(t.solved for t in p.collect())
    with pytest.raises(
        PrerequisiteError,
        match=r"SFT has nothing to train on: 6 tasks, 6 teacher .* 0 solved .* better teacher",
    ):
        p.run(SFT)
    assert not (tmp_path / "SFT/iter-0/model").exists()
    # everything the teacher did can be cloned all the same
    p.run(get_method("SFT-all"))
    assert len(read(tmp_path / "SFT-all", "evaluations", Evaluation)) == 4


def test_a_folder_with_other_tasks_is_refused(tmp_path, whole):
    pipeline(tmp_path).collect()
    other = Pipeline(
        webshop_world(SEED + 1, {"train": 6, "test": 4}), RECIPE, RunFolder(tmp_path), SEED
    )
    before = lasting(tmp_path)
    with pytest.raises(DataError, match=r"tasks\.jsonl holds other tasks .* new --run DIR"):
        other.run(SFT)
    assert lasting(tmp_path) == before


def test_samples_that_are_too_long_are_dropped_and_counted(tmp_path, whole):
    lengths = json.loads((whole / "SFT/iter-0/phases/select.json").read_text())["summary"]
    assert lengths["samples"] >= 2
    p = pipeline(tmp_path / "some")
    p.collect()
    found = SFT.samples(p.world.split("train"), p.collect()).samples
    longest = max(e.length for e in encode_samples(found, p.fmt, p.student.base[1]))
    p = pipeline(tmp_path / "some", max_length=longest - 1)
    p.run(SFT)
    summary = json.loads((tmp_path / "some/SFT/iter-0/phases/select.json").read_text())["summary"]
    assert summary["samples"] < lengths["samples"]
    assert sum(v for k, v in summary.items() if k.startswith("dropped")) == (
        lengths["samples"] - summary["samples"]
    )
    with pytest.raises(DataError, match=r"nothing to train on: .*dropped.*raise max_length"):
        pipeline(tmp_path / "none", max_length=50).run(SFT)


def test_samples_longer_than_the_model_reads_are_dropped_without_being_told(tmp_path):
    p = pipeline(tmp_path)
    p.student.base[0].config.max_position_embeddings = 50
    with pytest.raises(DataError, match=r"nothing to train on: .*dropped.*raise max_length"):
        p.run(SFT)


@pytest.mark.parametrize("how", ["full", "lora"])
def test_going_on_from_the_previous_student_starts_where_that_one_ended(tmp_path, how):
    p = pipeline(tmp_path, train=replace(TRAIN, method=how, max_steps=4))
    first_loss = {}
    for start in ("base", "previous"):
        method = replace(SFT, name=f"SFT-{start}")  # the same data again: only the start differs
        p.run(SFT)
        again = replace(RFT, name=method.name, start_from=start, iterations=1)
        p.run(again)
        log = json.loads((tmp_path / method.name / "iter-1/model/training_log.json").read_text())
        first_loss[start] = log["losses"][0]
    trained = json.loads((tmp_path / "SFT/iter-0/model/training_log.json").read_text())["losses"]
    assert trained[-1] < trained[0]
    assert first_loss["previous"] < first_loss["base"]


def test_a_student_that_writes_freely_runs_through_the_same_steps(tmp_path):
    p = pipeline(tmp_path, mode="generate", max_new_tokens=12)
    p.run(SFT)
    outcomes = p.run(replace(RFT, iterations=1))
    assert len(outcomes) == 4
    assert not any(o.error for o in outcomes)
    assert all(o.length >= 1 for o in outcomes)


def test_seconds_are_those_of_the_steps(whole):
    p = pipeline(whole)
    for method in (SFT, RFT, EEF):
        rows = [
            json.loads(line)
            for f in (whole / method.name).rglob("timings.jsonl")
            for line in f.read_text().splitlines()
        ]
        timed = [r["seconds"] for r in rows if "name" in r]
        assert p.seconds(method) == pytest.approx(sum(timed))
        assert p.seconds(method) > 0
