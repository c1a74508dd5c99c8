"""The demo with real parts, very small: files, table, interruptions of every kind, bad folders."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from made_runs import lasting, seed_whose_teacher_solves

from eeflib.config import PRESETS, REPORT_SEED, Config, make_config
from eeflib.demo import run_demo
from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Branch, Sample, Task, Trajectory
from eeflib.run import RunFolder
from eeflib.workers import Job, run_jobs

COUNTS = {"train": 8, "test": 6}
SIZES = {"iterations": 1, "M": 2, "k": 2}
SMALL = make_config("tiny", **COUNTS, **SIZES, steps=3)
METHODS = ("SFT", "RFT", "RFTx2", "EEF")
COMMAND = f"""
import os, signal
os.setpgid(0, 0)  # a terminal's Ctrl-C goes to all processes of the command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from eeflib import config
config.PRESETS["tiny"] = config.Config("tiny", **{COUNTS}, **{SIZES}, extras=True)
config._STEPS["tiny"] = 3
from eeflib.cli import main
main()
"""


def eef_demo(run: Path, *more: str, **how: Any) -> subprocess.Popen[str]:
    """The real command with smaller sizes, as a process group of its own."""
    seed = seed_whose_teacher_solves(True)
    args = ["demo", "--preset", "tiny", "--first-seed", str(seed), "--run", str(run), *more]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **how,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The command uninterrupted, with two workers: run folder, stdout, stderr."""
    path = tmp_path_factory.mktemp("demo") / "whole"
    process = eef_demo(path, "--processes", "2", "--json")
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return path, out, err


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def seed_folder(path: Path) -> Path:
    return path / f"seed-{seed_whose_teacher_solves(True)}"


def test_json_is_the_only_thing_on_stdout(whole):
    path, out, err = whole
    (line,) = out.splitlines()
    shown = json.loads(line)
    assert shown == json.loads((path / "summary.json").read_text())
    assert [m["method"] for m in shown["methods"]] == ["teacher", *METHODS]
    assert shown["seeds"] == [seed_whose_teacher_solves(True)]
    row = shown["methods"][0]
    assert {"win_rate", "interval", "reward", "simulations", "seconds"} <= row.keys()
    assert "EEF - RFTx2" in shown["paired"]
    # people read the same on stderr
    assert "95 % interval" in err
    assert "Next:" in err
    assert "Traceback" not in err


def test_the_run_folder_is_complete(whole):
    path = whole[0]
    home = seed_folder(path)
    config = json.loads((path / "manifest.json").read_text())["config"]
    assert config == config | COUNTS
    assert Config.from_dict(config).to_dict() == config  # enough to repeat the run
    assert (path / "report.html").stat().st_size > 10_000
    tasks = list(RunFolder(home).read("tasks", Task))
    assert len(tasks) == 14
    assert len(list(RunFolder(home).read("trajectories", Trajectory))) == 8
    for method in METHODS:
        last = home / method / f"iter-{0 if method == 'SFT' else 1}"
        assert list(RunFolder(last).read("samples", Sample))
        assert (last / "model" / "model.safetensors").exists()
        assert len(rows(home / method / "evaluations.jsonl")) == 6
    assert not list(path.rglob("*.partial"))


def wilson(wins: int, n: int) -> tuple[float, float]:
    z, p = 1.959964, wins / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def test_the_table_follows_from_the_files(whole):
    path, out, _ = whole
    for row in json.loads(out)["methods"]:
        home = seed_folder(path) / row["method"]
        found = rows(home / "evaluations.jsonl")
        wins = sum(o["reward"] >= o["threshold"] for o in found)
        assert row["n"] == len(found) == 6
        assert row["win_rate"] == pytest.approx(wins / 6, abs=1e-4)
        assert row["interval"] == pytest.approx(wilson(wins, 6), abs=1e-4)
        assert row["reward"] == pytest.approx(sum(o["reward"] for o in found) / 6, abs=1e-4)
        branches = [b for f in home.glob("iter-*/branches.jsonl") for b in rows(f)]
        assert row["simulations"] == sum(b.get("rollout") is not None for b in branches)
    simulations = {m["method"]: m["simulations"] for m in json.loads(out)["methods"]}
    assert simulations["RFT"] == 8
    assert simulations["RFTx2"] == 16
    assert simulations["EEF"] > 16
    trajectories = rows(seed_folder(path) / "trajectories.jsonl")
    taught = json.loads(out)["teacher_on_training_tasks"]
    assert taught["n"] == len(trajectories) == 8
    assert taught["solved"] == sum(t["reward"] >= 1 for t in trajectories) >= 2


def test_the_extra_cases_follow_from_the_files(whole):
    path, out, err = whole
    shown = json.loads(out)
    home = seed_folder(path)

    def rate(file: Path) -> float:
        found = rows(file)
        return sum(o["reward"] >= 1 for o in found) / len(found)

    names = ["EEF", "EEF-no-mask"]
    expected = [rate(home / name / "evaluations.jsonl") for name in names]
    assert shown["masking"]["win_rates"] == pytest.approx(expected, abs=1e-4)
    assert (home / "EEF/iter-1/branches.jsonl").read_bytes() == (
        home / "EEF-no-mask/iter-1/branches.jsonl"
    ).read_bytes()
    better = shown["better_teacher"]
    away = path / "better-teacher" / home.name
    assert [m["method"] for m in better["methods"]] == ["teacher", "SFT", "RFTx2", "EEF"]
    for row in better["methods"]:
        file = away / row["method"] / "evaluations.jsonl"
        assert row["win_rate"] == pytest.approx(rate(file), abs=1e-4)
    solved = [t["reward"] >= 1 for t in rows(away / "trajectories.jsonl")]
    assert better["teacher_on_training_tasks"]["solved"] == sum(solved)
    assert sum(solved) > shown["teacher_on_training_tasks"]["solved"]
    assert (away / "tasks.jsonl").read_bytes() == (home / "tasks.jsonl").read_bytes()
    assert "Does masking matter?" in err
    assert "When does RFT catch up?" in err


def test_every_expert_state_was_restored(whole):
    folder = RunFolder(seed_folder(whole[0]) / "EEF/iter-1")
    branches = [b for b in folder.read("branches", Branch) if b.k > 0]
    assert branches
    assert all(b.restored and not b.restore_mismatch for b in branches)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.001)


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended while we look, or about to be
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def under_way(process: subprocess.Popen[str], file: Path) -> bool:
    return file.exists() and bool(workers_of(process))


@pytest.fixture(scope="module")
def battered(whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was ended three times, each time in another way, and continued to its end."""
    path = tmp_path_factory.mktemp("demo") / "battered"
    home = seed_folder(path)
    for file, end in (
        ("SFT/iter-0/samples.jsonl", kill_a_worker),
        ("EEF/iter-1/branches.jsonl", kill_all_at_once),
        ("RFTx2/iter-1/phases/explore.json", press_ctrl_c),
    ):
        process = eef_demo(path, "--processes", "1")
        wait_for(partial(under_way, process, home / file), process)
        end(process, path)
        assert not (path / "summary.json").exists(), "the end came too late to prove anything"
    process = eef_demo(path, "--processes", "1")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return path


def kill_all_at_once(process: subprocess.Popen[str], path: Path) -> None:
    """SIGKILL, as a power cut does; workers must not go on without their parent."""
    workers = workers_of(process)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert gone(workers, 10), "a worker outlives its killed parent"
    files = {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}
    time.sleep(0.3)
    assert files == {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def kill_a_worker(process: subprocess.Popen[str], path: Path) -> None:
    """As the kernel does when memory runs out."""
    workers = workers_of(process)
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "a worker process was killed" in err.splitlines()[-1]
    assert "run the same command again" in err.splitlines()[-1]


def press_ctrl_c(process: subprocess.Popen[str], path: Path) -> None:
    workers = workers_of(process)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "eef: interrupted; the same command goes on where it was"
    assert gone(workers, 10)


@pytest.mark.slow
def test_however_often_it_is_ended_it_ends_with_the_same_files(whole, battered):
    ours, theirs = lasting(battered), lasting(whole[0])
    assert ours.keys() == theirs.keys()
    assert [k for k in theirs if ours[k] != theirs[k]] == []
    assert {f.rsplit("/", 1)[-1] for f in theirs} >= {
        "tasks.jsonl", "trajectories.jsonl", "branches.jsonl", "samples.jsonl",
        "evaluations.jsonl", "model.safetensors",
    }  # fmt: skip


@pytest.mark.slow
def test_the_table_of_an_interrupted_run_is_the_same_but_for_seconds(whole, battered):
    def table(path: Path) -> Any:
        shown = json.loads((path / "summary.json").read_text())
        for row in (*shown["methods"], *shown["better_teacher"]["methods"]):
            assert row.pop("seconds") >= 0
        return shown

    assert table(battered) == table(whole[0])


def test_a_folder_in_use_or_of_another_configuration_is_refused(whole, capsys, monkeypatch):
    path = whole[0]
    before = lasting(path)
    config = json.loads((path / "manifest.json").read_text())["config"]
    config = Config.from_dict(config)
    with pytest.raises(DataError, match=r"another configuration \(training.max_steps: 3 -> 4\)"):
        run_demo(config.change(steps=4), path, progress=False)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path\n"
         "from eeflib.files import RunLock\nlock = RunLock(Path(sys.argv[1]))\nlock.acquire()\n"
         "print('ready', flush=True); sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(
            DataError, match=f"is being written by process {holder.pid} .*--run DIR"
        ):
            run_demo(config, path, progress=False)
    finally:
        holder.kill()
        holder.communicate()
    assert lasting(path) == before


def test_a_finished_demo_starts_no_worker_again_unless_a_file_changed(whole, tmp_path, monkeypatch):
    path = shutil.copytree(whole[0], tmp_path / "copy")
    config = Config.from_dict(json.loads((path / "manifest.json").read_text())["config"])
    started: list[Job] = []
    monkeypatch.setattr("eeflib.demo.run_jobs", lambda jobs, *_, **__: started.extend(jobs))
    shown = run_demo(config, path, progress=False)
    assert shown == json.loads(whole[1])
    assert not started
    file = seed_folder(path) / "EEF/iter-1/branches.jsonl"
    file.write_bytes(file.read_bytes()[:-50])
    with contextlib.suppress(DataError):
        run_demo(config, path, progress=False)
    assert [job.name for job in started if job.name.endswith("/EEF")]


def test_a_teacher_that_solves_nothing_ends_the_demo_with_the_remedy(tmp_path):
    seed = seed_whose_teacher_solves(False)
    config = SMALL.change(train=1, test=1, seeds=(seed,))
    with pytest.raises(PrerequisiteError) as caught:
        run_demo(config, tmp_path, processes=1, progress=False)
    message = str(caught.value)
    assert f"seed {seed}: SFT has nothing to train on" in message
    assert "another --first-seed" in message
    assert "\n" not in message
    assert len(rows(tmp_path / f"seed-{seed}/trajectories.jsonl")) == 1  # the evidence stays


def test_a_student_that_does_not_exist_leaves_no_run_behind(tmp_path):
    config = make_config("tiny", student=str(tmp_path / "nothing"), seeds=(41,))
    with pytest.raises(PrerequisiteError, match="no folder at"):
        run_demo(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_config_is_json_and_reports_on_seeds_apart_from_development():
    config = make_config("laptop")
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.seeds == tuple(REPORT_SEED + i for i in range(len(PRESETS["laptop"].seeds)))
    assert config.counts == {"train": 120, "test": 100}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "mars"}, "unknown environment 'mars'; choose one of webshop"),
        ({"preset": "huge"}, "unknown preset 'huge'; choose one of tiny"),
        ({"iteratons": 3}, "unknown setting iteratons; did you mean iterations?"),
        ({"train": "many"}, r"train is 'many': Expected `int`, got `str`"),
        ({"train": 0}, r"train is 0: Expected `int` >= 1"),
        ({"temperature": 0.0}, r"temperature is 0\.0: Expected `float` > 0"),
        ({"prompt": "poem"}, "prompt"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0: Expected `float` >= 0"),
        *(({"seeds": seeds}, "seeds are ") for seeds in ((), (-1,), (3, 3))),
        ({"schedule": "stairs"}, "unknown schedule 'stairs'; choose one of cosine"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    with pytest.raises(DataError, match=message):
        make_config(**settings)


def test_a_setting_of_the_training_is_set_like_any_other():
    config = make_config("tiny", learning_rate=5e-4, steps=7, M=2)
    assert (config.training.learning_rate, config.training.max_steps, config.M) == (5e-4, 7, 2)
    real = make_config("tiny", student="smollm2")
    assert (real.prompt, real.mode, real.training.method) == ("react", "generate", "lora")


def say(text: str, progress: Callable[..., None]) -> str:
    progress("say", 1, 1)
    return f"{text} in {os.getpid()}"


def fail(progress: Callable[..., None]) -> None:
    raise DataError("line 3 of the file is damaged; fix it")


def test_a_job_waits_for_those_it_needs_and_its_error_is_the_runs(tmp_path):
    heard: list[tuple[str, str, int, int]] = []
    jobs = [
        Job("b", say, ("b",), needs=("a",)),
        Job("a", say, ("a",)),
    ]
    results = run_jobs(jobs, tmp_path, processes=1, on_event=heard.append)
    assert results["a"].startswith("a in ")
    assert str(os.getpid()) not in results["a"]
    assert [name for name, *_ in heard] == ["a", "b"]
    bad = [Job("fails", fail), Job("never", say, ("x",), needs=("fails",))]
    with pytest.raises(DataError, match="line 3 of the file is damaged; fix it"):
        run_jobs(bad, tmp_path, processes=1, on_event=heard.append)
    assert [name for name, *_ in heard] == ["a", "b"]


@pytest.mark.slow
def test_scienceworld_from_the_simulator_to_a_trained_student(tmp_path):
    seed = 42  # its noisy teacher solves some: there is something to clone
    sizes = {"train": 4, "explored": 2, "test": 1, "iterations": 1, "M": 1, "k": 2, "steps": 1}
    methods = ("SFT", "EEF")
    config = make_config("tiny", "scienceworld", **sizes, methods=methods, seeds=(seed,))
    shown = run_demo(config, tmp_path, processes=1, progress=False)
    home = tmp_path / f"seed-{seed}"
    tasks = list(RunFolder(home).read("tasks", Task))
    assert len({t.extra["task_type"] for t in tasks if t.split == "train"}) >= 4
    trajectories = list(RunFolder(home).read("trajectories", Trajectory))
    assert any(t.solved for t in trajectories)
    assert not any(t.error for t in trajectories)
    branches = list(RunFolder(home / "EEF/iter-1").read("branches", Branch))
    states = [b for b in branches if b.k > 0]
    assert len({b.task_id for b in states}) == 2
    assert [b.id for b in states if not b.restored] == []
    faults = [b.rollout.error for b in branches if b.rollout and b.rollout.error]
    assert not [e for e in faults if "the model reads 2048" not in e]  # a long wander may end so
    assert list(RunFolder(home / "EEF/iter-1").read("samples", Sample))
    log = json.loads((home / "EEF/iter-1/model/training_log.json").read_text())
    assert len(log["losses"]) == 1
    assert log["trained_tokens"] > 0
    assert {m["method"]: m["n"] for m in shown["methods"]} == {"teacher": 1, "SFT": 1, "EEF": 1}
    assert shown["methods"][-1]["simulations"] == len(branches)
