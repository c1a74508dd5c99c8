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
from made_runs import lasting

import eeflib as eef
from eeflib.config import Config, make_config
from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.pipeline import Progress
from eeflib.policies.base import Conversation, Policy, Reply
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper
from eeflib.records import Evaluation, Sample, Task, Trajectory
from eeflib.run import Run, RunFolder, open_run
from eeflib.world import World, make_world, webshop

SEED = 31
SMALL = {"train": 6, "test": 4, "iterations": 2, "M": 2, "k": 2, "lockstep": 6, "seeds": (SEED,)}
CONFIG = make_config("tiny", **SMALL, steps=2, learning_rate=2e-3, batch_size=4, warmup=0.03)
METHODS = ("SFT", "RFT", "EEF")


@cache
def world(teacher: str = "able") -> World:
    """Six tasks to train on and four to test, with a teacher that solves some, or none."""
    made = webshop(SEED, train=6, test=4)
    able = replace(FLAWLESS, ceiling=1, middle=220, width=1)  # errs when it has read two pages
    clumsy = replace(FLAWLESS, ceiling=1, middle=260, width=1, wrong_listing=1, notices=1)
    skill = {"able": able, "hopeless": replace(FLAWLESS, floor=1), "clumsy": clumsy}[teacher]
    return replace(made, teacher=ScriptedShopper(skill, options=OPTION_VALUES))


def opened(path: Path, **changes: Any) -> Run:
    return open_run(path, CONFIG.change(**changes))


def run_all(path: Path, progress: Progress | bool = False) -> dict[str, list[Evaluation]]:
    run, student = opened(path), eef.Student.of(CONFIG)
    return {
        name: eef.run_method(run, name, world=world(), student=student, progress=progress)
        for name in METHODS
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT, RFT and EEF that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    run_all(path)
    return path


def read(path: Path, name: str, kind: Any) -> list[Any]:
    return list(RunFolder(path).read(name, kind))


def test_it_leaves_the_files_that_it_promises(whole):
    whole = whole / f"seed-{SEED}"
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
    whole = whole / f"seed-{SEED}"
    tested = {t.id for t in read(whole, "tasks", Task) if t.split == "test"}
    for file in whole.rglob("*.jsonl"):
        if file.name in ("branches.jsonl", "samples.jsonl", "trajectories.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            assert rows
            assert not {row["task_id"] for row in rows} & tested, file


def test_every_iteration_explores_with_the_student_of_the_one_before(tmp_path, monkeypatch):
    asked: list[tuple[str, bool]] = []
    policy = eef.Student.policy

    def watched(self: eef.Student, *, greedy: bool = False) -> Policy:
        asked.append((self.origin, greedy))
        return policy(self, greedy=greedy)

    monkeypatch.setattr(eef.Student, "policy", watched)
    run, student = opened(tmp_path), eef.Student.of(CONFIG)
    for name in ("SFT", "EEF"):
        eef.run_method(run, name, world=world(), student=student, progress=False)
    assert asked == [
        ("SFT/iter-0", True),
        ("SFT/iter-0", False),
        ("EEF/iter-1", True),
        ("EEF/iter-1", False),
        ("EEF/iter-2", True),
    ]


def test_every_iteration_trains_the_base_anew(whole):
    cards = [json.loads(f.read_text()) for f in whole.rglob("eef_adapter.json")]
    assert len(cards) == 5
    assert len({c["start"] for c in cards}) == 1


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
    undisturbed = eef.collect(world(), run=opened(tmp_path / "a"), progress=False)
    run, home = opened(tmp_path / "b"), tmp_path / "b" / f"seed-{SEED}"
    with pytest.raises(ProviderError, match="no credit left"):
        eef.collect(world(), Refused(world().teacher, 4), run=run, progress=False)
    cut = [t for t in read(home, "trajectories", Trajectory) if t.error]
    assert cut
    teacher = Refused(world().teacher, 100)
    assert eef.collect(world(), teacher, run=run, progress=False) == undisturbed
    on_file = read(home, "trajectories", Trajectory)
    assert sorted(on_file, key=lambda t: t.id) == sorted(undisturbed, key=lambda t: t.id)
    assert read(home, "failed_attempts", Trajectory) == cut


def test_a_finished_run_is_only_read(whole):
    before = {f: f.stat().st_mtime_ns for f in whole.rglob("*") if f.is_file()}
    steps: list[str] = []
    again = run_all(whole, lambda step, done, total: steps.append(step))
    assert not [s for s in steps if "explore" in s or "evaluate" in s or "collect" in s]
    changed = [f.name for f, t in before.items() if f.stat().st_mtime_ns != t]
    # the phase files of the training are written again, with the same content
    assert set(changed) <= {
        "select.json", "train.json", "timings.jsonl", ".lock", ".lock.owner",
    }  # fmt: skip
    assert again["EEF"] == read(whole / f"seed-{SEED}/EEF", "evaluations", Evaluation)


def test_rollouts_of_another_method_are_taken_over_and_still_count(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    watched: list[str] = []
    bare = replace(opened(whole).method("EEF-no-mask"), iterations=1)
    eef.run_method(
        opened(tmp_path / "copy"), bare, world=world(), share=["EEF"],
        progress=lambda step, done, total: watched.append(step),
    )  # fmt: skip
    home = tmp_path / "copy" / f"seed-{SEED}"
    ours, theirs = (home / name / "iter-1/branches.jsonl" for name in ("EEF-no-mask", "EEF"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not [step for step in watched if "explore" in step], "nothing was left to run"


def test_rollouts_of_another_student_are_not_taken_over(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    run = opened(tmp_path / "copy")
    tries = eef.collect(world(), run=run, progress=False)
    played: list[int] = []
    eef.explore(
        world(), tries, run.student(), method="EEF-no-mask", run=run, share=["EEF"],
        progress=lambda step, done, total: played.append(done),
    )  # fmt: skip
    assert played[0] == 0


def test_the_same_step_with_other_arguments_never_returns_the_old_records(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    run, home = opened(tmp_path / "copy"), tmp_path / "copy" / f"seed-{SEED}"
    tries = eef.collect(world(), run=run, progress=False)
    before = lasting(home)
    student = run.student("SFT")
    first = eef.explore(world(), tries, student, run=run, progress=False)
    assert first.origin == "EEF/iter-1"
    fewer = eef.explore(world(), tries, student, run=run, M=1, progress=False)
    other = eef.explore(world(), tries, run.student(), run=run, progress=False)
    places = {x.origin for x in (first, fewer, other)}
    assert len(places) == 3
    assert len(fewer) < len(first)
    assert {b.k for b in fewer} == {0, 1}
    # asked again each finds its own
    again = eef.explore(world(), tries, student, run=run, M=1, progress=False)
    assert again.origin == fewer.origin
    records = [[b.to_dict(timing=False) for b in x] for x in (again, fewer)]
    assert records[0] == records[1]
    samples = eef.select(tries, fewer, run=run)
    assert samples.origin == fewer.origin
    tuned = eef.train(run.student(), eef.encode(samples, student), run=run, progress=False)
    result = eef.evaluate(world(), tuned, run=run, progress=False)
    assert {o.method for o in result} == {fewer.origin.split("/")[0]}
    after = lasting(home)
    assert {k: after[k] for k in before} == before


def test_everything_works_without_a_run_and_gives_the_same_records(whole):
    w, student = world(), eef.Student.of(CONFIG)
    tries = eef.collect(w, progress=False)
    run = opened(whole)
    assert tries == run.trajectories()
    cloned = eef.train(
        student, eef.encode(eef.select(tries, method="SFT"), student), progress=False
    )
    assert cloned.fingerprint == run.student("SFT").fingerprint
    found = eef.explore(w, tries, cloned, M=2, progress=False)
    on_file = run.branches("EEF", 1)
    assert [b.id for b in found] == [b.id for b in on_file]
    samples = eef.select(tries, found)
    data = eef.encode(samples, student)
    tuned = eef.train(cloned.base, data, progress=False)
    assert tuned.result.steps == 2
    result = eef.evaluate(w, tuned, progress=False)
    assert len(result) == 4
    assert eef.win_rate(result).n == 4
    folder = tuned.folder
    del tuned, result
    import gc

    gc.collect()
    assert not folder.exists()  # a model without a run goes with the student


def test_what_the_student_finds_is_trained_on_and_harmful_actions_are_not():
    lucky = ScriptedShopper(replace(FLAWLESS, floor=0.35), options=OPTION_VALUES)
    home = world("clumsy")  # opens a wrong listing first, leaves it, and tires later on
    tries = eef.collect(home, progress=False)
    found = [eef.explore(home, tries, lucky, M=5, iteration=i, progress=False) for i in (1, 2)]
    solved = {t.task_id for t in tries if t.solved}
    won = {b.task_id for x in found for b in x if b.won}
    assert won - solved, "the student found nothing new: the test proves nothing"
    masked = eef.select(tries, found, "EEF")
    assert {s.task_id for s in masked} == solved | won
    for s in masked:
        flags = list(zip(s.steps, s.labels, s.trained, strict=True))
        assert not [label for _, label, on in flags if on and label in ("harmful", "unknown")]
    assert any(step.actor == "teacher" and not on for s in masked for step, on in
               zip(s.steps, s.trained, strict=True))  # fmt: skip
    assert any(not s.trained[0] for s in masked)
    bare = eef.select(tries, found, "EEF-no-mask")
    assert all(on for s in bare for step, on in zip(s.steps, s.trained, strict=True) if step.valid)
    assert any("harmful" in s.labels for s in bare)
    everything = eef.select(tries, found, "EEF-positives")  # neither chosen nor masked
    assert {s.task_id for s in everything} == solved | won
    assert len(everything) > len(masked)
    assert all(
        on for s in everything for step, on in zip(s.steps, s.trained, strict=True) if step.valid
    )
    assert len(eef.encode(everything, eef.Student())) == len(everything)
    with pytest.raises(DataError, match="labelled harmful"):
        eef.encode(bare.samples, eef.Student())
    assert len(eef.encode(bare, eef.Student())) == len(bare)


def test_exploring_before_cloning_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"SFT.iter-0.model is missing: run SFT with seed {SEED}"):
        eef.run_method(opened(tmp_path), "RFT", world=world(), progress=False)


def test_a_teacher_that_never_succeeds_is_named_as_the_reason(tmp_path):
    run, hopeless = opened(tmp_path), world("hopeless")
    assert not any(t.solved for t in eef.collect(hopeless, run=run, progress=False))
    with pytest.raises(
        PrerequisiteError,
        match=r"SFT has nothing to train on: 6 tasks, 6 teacher .* 0 solved .* better teacher",
    ):
        eef.run_method(run, "SFT", world=hopeless, progress=False)
    assert not (tmp_path / f"seed-{SEED}/SFT/iter-0/model").exists()
    # everything the teacher did can be cloned all the same
    assert len(eef.run_method(run, "SFT-all", world=hopeless, progress=False)) == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: webshop(SEED + 1, train=6, test=4), f"seed is {SEED + 1}, .* it is {SEED}"),
        (lambda: webshop(SEED, train=7, test=4), "train is 7, .* it is 6"),
        (lambda: webshop(SEED, train=6, test=4, mix={"easy": 1.0}), "holds other tasks"),
    ],
)
def test_another_world_is_refused_and_the_setting_is_named(tmp_path, other, message):
    run = opened(tmp_path)
    eef.collect(world(), run=run, progress=False)
    before = lasting(tmp_path)
    with pytest.raises(DataError, match=message):
        eef.collect(other(), run=run, progress=False)
    assert lasting(tmp_path) == before


def test_the_tasks_that_the_teacher_played_are_found_again_and_not_made_again(tmp_path):
    run, made = opened(tmp_path), world()
    eef.collect(made, run=run, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eeflib.envs.webshop.tasks.make_tasks", pytest.fail)
        found = open_run(tmp_path).world()
    assert found.tasks == made.tasks
    assert eef.evaluate(found, found.teacher, name="teacher", run=run, progress=False)
    of_another_store = webshop(SEED + 1, train=6, test=4).tasks
    assert make_world(CONFIG, SEED, of_another_store).tasks == made.tasks
    # a file that was changed decides nothing
    file = tmp_path / f"seed-{SEED}/tasks.jsonl"
    file.write_text(file.read_text("utf-8").replace('"max_steps":20', '"max_steps":99'), "utf-8")
    assert open_run(tmp_path).tasks() != list(made.tasks)
    assert open_run(tmp_path).world().tasks == made.tasks
    with pytest.raises(DataError, match=r"tasks\.jsonl holds other tasks"):
        eef.collect(made, run=open_run(tmp_path), progress=False)


def test_another_teacher_s_trajectories_stand_beside_the_first_s(tmp_path):
    run = opened(tmp_path)
    first = eef.collect(world(), run=run, progress=False)
    other = Refused(world().teacher, 100)
    other.name = "some/body"
    second = eef.collect(world(), other, run=run, progress=False)
    assert not {t.id for t in first} & {t.id for t in second}
    assert [t.id for t in run.trajectories()] == [t.id for t in [*first, *second]]
    assert eef.collect(world(), run=run, progress=False) == first, "done, and not touched"


def test_a_run_goes_on_with_its_own_settings_and_its_manifest_repeats_it(tmp_path):
    run = opened(tmp_path / "a")
    assert open_run(tmp_path / "a").config == run.config == CONFIG
    again = Config.from_dict(json.loads((tmp_path / "a/manifest.json").read_text())["config"])
    assert open_run(tmp_path / "b", again).world().tasks == run.world().tasks
    with pytest.raises(DataError, match=r"another configuration \(M: 2 -> 3\)"):
        open_run(tmp_path / "a", CONFIG.change(M=3))
    with pytest.raises(DataError, match="did you mean iterations"):
        open_run(tmp_path / "c", preset="tiny", iteration=3)
    with pytest.raises(DataError, match="not a run folder"):
        open_run(tmp_path / "nothing")
    assert not (tmp_path / "c").exists()


def test_relative_folders_lie_where_runs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_RUNS", str(tmp_path / "kept"))
    assert open_run("runs/first", preset="tiny").path == tmp_path / "kept" / "first"
    assert open_run(tmp_path / "here", preset="tiny").path == tmp_path / "here"


def test_a_cut_model_or_lost_records_are_noticed(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    run, home = opened(tmp_path / "copy"), tmp_path / "copy" / f"seed-{SEED}"
    branches = home / "EEF/iter-1/branches.jsonl"
    branches.write_bytes(b"".join(branches.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(DataError, match=r"branches\.jsonl.*delete"):
        eef.run_method(run, "EEF", world=world(), progress=False)
    model = home / "RFT/iter-1/model/model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        eef.run_method(run, "RFT", world=world(), progress=False)


def test_samples_that_are_too_long_are_dropped_and_counted(tmp_path):
    tries, student = eef.collect(world(), progress=False), eef.Student.of(CONFIG)
    found = eef.select(tries, method="SFT")
    longest = max(e.length for e in eef.encode(found, student))
    data = eef.encode(found, student, max_length=longest - 1)
    assert 0 < len(data) < len(found)
    assert sum(v for k, v in data.counts.items() if k.startswith("dropped")) == (
        len(found) - len(data)
    )
    with pytest.raises(DataError, match=r"nothing to train on: .*dropped.*raise max_length"):
        eef.train(student, eef.encode(found, student, max_length=50), progress=False)
    # without being told: what the model has positions for
    student.model.config.max_position_embeddings = 50
    assert not len(eef.encode(found, student))


@pytest.mark.parametrize("how", ["full", "lora"])
def test_going_on_from_the_previous_student_starts_where_that_one_ended(how):
    tries, student = eef.collect(world(), progress=False), eef.Student.of(CONFIG)
    data = eef.encode(eef.select(tries, method="SFT"), student)
    settings = {"method": how, "steps": 4, "progress": False}
    first = eef.train(student, data, **settings)
    again = eef.train(first, data, **settings)
    anew = eef.train(student, data, **settings)
    assert first.result.losses[-1] < first.result.losses[0]
    assert again.result.losses[0] < anew.result.losses[0]


def test_a_student_that_writes_freely_runs_through_the_same_steps(tmp_path):
    run = opened(tmp_path, mode="generate", max_new_tokens=12, iterations=1)
    eef.run_method(run, "SFT", world=world(), progress=False)
    outcomes = eef.run_method(run, "RFT", world=world(), progress=False)
    assert len(outcomes) == 4
    assert not any(o.error for o in outcomes)
    assert all(o.length >= 1 for o in outcomes)


def test_a_setting_that_does_not_exist_is_named():
    tries, student = eef.collect(world(), progress=False), eef.Student.of(CONFIG)
    with pytest.raises(DataError, match="unknown setting learning_speed"):
        eef.train(student, None, learning_speed=1.0)
    with pytest.raises(DataError, match="'Q'"):
        eef.select(tries, method="EEF", Q=1)
    with pytest.raises(DataError, match="unknown method 'EFF'"):
        eef.select(tries, method="EFF")
    with pytest.raises(DataError, match="no validation tasks"):
        eef.evaluate(world(), student, split="validation")


def test_only_the_first_tasks_are_explored_where_the_settings_say_so(tmp_path):
    run, few = opened(tmp_path / "few", explored=2), world()
    first = {t.id for t in few.split("train")[:2]}
    tries = eef.collect(few, run=run, progress=False)
    for name in ("EEF", "RFTxk"):
        found = eef.explore(few, tries, few.teacher, method=name, run=run, progress=False)
        assert {b.task_id for b in found} == first
    # the teacher's successes are trained on, wherever they are
    trained = {s.task_id for s in eef.select(tries, found, "RFT").samples}
    assert trained >= {t.task_id for t in tries if t.solved}
    assert trained - first
