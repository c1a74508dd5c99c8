"""`eef demo --env textworld`, very small: from the simulator to a table, on two games."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from eeflib.config import PRESETS, make_config
from eeflib.records import Branch, Sample, Task, Trajectory
from eeflib.run import RunFolder
from eeflib.world import TEXTWORLD_PARAMS, textworld

SEED = 41
SIZES = {"train": 8, "test": 2, "M": 1, "max_steps": 1, "methods": ("SFT", "EEF")}
COMMAND = f"""
from eeflib import config
config._TEXTWORLD["tiny"] = {SIZES}
from eeflib.cli import main
main()
"""


def jvms() -> set[int]:
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any("textworld-express.jar" in part for part in process.info["cmdline"] or ()):
            found.add(process.pid)
    return found


@pytest.mark.slow
def test_from_the_simulator_to_a_table_on_two_games(tmp_path: Path) -> None:
    before = jvms()
    args = ["demo", "--env", "textworld", "--preset", "tiny", "--first-seed", str(SEED), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *args, "--processes", "1", "--run", str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = {m["method"]: m["n"] for m in report["methods"]}
    assert counts == {"teacher": 2, "SFT": 2, "EEF": 2}
    assert 0 < report["teacher_on_training_tasks"]["solved"] < 8

    home = tmp_path / "run" / f"seed-{SEED}"
    tasks = {t.id: t for t in RunFolder(home).read("tasks", Task)}
    trajectories = list(RunFolder(home).read("trajectories", Trajectory))
    assert {tasks[t.task_id].goal["game"] for t in trajectories} == {"twc", "cookingworld"}
    assert not any(t.error for t in trajectories)
    branches = list(RunFolder(home / "EEF/iter-1").read("branches", Branch))
    states = [b for b in branches if b.k > 0]
    assert {tasks[b.task_id].goal["game"] for b in states} == {"twc", "cookingworld"}
    assert [b.restore_mismatch for b in states if not b.restored] == []
    assert report["methods"][-1]["simulations"] == len(branches)
    assert list(RunFolder(home / "EEF/iter-1").read("samples", Sample))
    assert (home / "EEF/iter-1/model/model.safetensors").exists()
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000

    deadline = time.monotonic() + 8.0
    while jvms() - before:
        assert time.monotonic() < deadline, "a java process outlives the command"
        time.sleep(0.2)


def test_the_world_is_a_function_of_its_seed_with_every_game_in_every_split() -> None:
    world, again, other = (textworld(seed, train=6, test=3) for seed in (1, 1, 2))
    assert world.tasks == again.tasks != other.tasks
    assert [len(world.split(s)) for s in ("train", "test")] == [6, 3]
    for split in ("train", "test"):
        assert {t.goal["game"] for t in world.split(split)} == set(TEXTWORLD_PARAMS)
    assert not {t.content_hash for t in world.split("train")} & {
        t.content_hash for t in world.split("test")
    }
    plans = [w.teacher.plan(world.tasks[0].id, "a") for w in (world, again)]  # type: ignore[attr-defined]
    assert plans[0] == plans[1]
    # its environments share one JVM, so that a model can answer for many at once
    gc.collect()  # those of other tests, which nobody closed, hold the same one
    a, b = world.make_env(), world.make_env()
    for env in (a, b):
        env.reset(world.tasks[0])
    jvm = a.simulator  # type: ignore[attr-defined]
    assert b.simulator is jvm  # type: ignore[attr-defined]
    a.close()
    assert jvm.alive
    b.close()
    assert not jvm.alive


def test_every_preset_has_sizes_for_it() -> None:
    for name in PRESETS:
        config = make_config(name, "textworld")
        assert config.train <= make_config(name).train
        assert not config.extras
